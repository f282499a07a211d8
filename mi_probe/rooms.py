"""Finds probes/, recipes/ and notebooks/, in a checkout and in an installed wheel. The only place that knows where they are."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Literal

from mi_probe.errors import RoomError, nearest

__all__ = ["Room", "about", "find", "names", "read_text", "room"]

Room = Literal["probes", "recipes", "notebooks"]

_SUFFIX: dict[Room, str] = {"probes": ".toml", "recipes": ".py", "notebooks": ".ipynb"}


def room(name: Room) -> Path:
    """The folder of ready-made probes, of recipes, or of recipes as notebooks.

    Raises
    ------
    RoomError
        The installation lacks it.
    """
    package = Path(__file__).resolve().parent
    packaged, checkout = package / f"_{name}", package.parent / name
    for folder in (packaged, checkout):
        if folder.is_dir():
            return folder
    raise RoomError(f"mi_probe was installed without its {name} folder (looked in {packaged} and {checkout}).")


def names(which: Room) -> list[str]:
    """Names in a room, sorted: the stems of its files.

    Examples
    --------
    >>> "dimension_pairs" in names("recipes")
    True
    """
    return sorted(p.stem for p in room(which).glob(f"*{_SUFFIX[which]}") if not p.stem.startswith("_"))


def find(which: Room, name: str) -> Path:
    """A file by name in a room, or by path if it is written as one.

    Raises
    ------
    RoomError
        Nothing of that name; the message names the nearest.
    """
    suffix = _SUFFIX[which]
    if name.endswith(suffix) or "/" in name or "\\" in name:
        path = Path(name)
        if path.is_file():
            return path
        raise RoomError(f"there is no file {name}; `mi-probe ls` lists the {which} that come with mi_probe.")
    if name in names(which):
        return room(which) / f"{name}{suffix}"
    kind = which.removesuffix("s")
    raise RoomError(
        f"there is no {kind} '{name}'{nearest(name, names(which))}; `mi-probe ls` lists all; "
        f"a {kind} file of your own ends in {suffix}."
    )


def read_text(path: Path) -> str:
    """The text of a file of a room."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RoomError(f"{path} is not UTF-8 text: {error}") from error


def about(path: Path) -> str:
    """The one line that says what a probe or a recipe is for.

    A recipe says it in the first line of its docstring, a probe under its key ``about``.
    """
    text = read_text(path)
    if path.suffix == ".toml":
        return str(tomllib.loads(text).get("about", ""))
    return (ast.get_docstring(ast.parse(text)) or "").split("\n", 1)[0]
