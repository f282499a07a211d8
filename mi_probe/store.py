"""Files: safetensors with a JSON header that says what the file is. No pickle, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.errors import StoreError

__all__ = ["read", "write"]

_KEY = "mi_probe"

Arrays = dict[str, NDArray[Any]]


def _digest(header: dict[str, Any], arrays: Arrays) -> str:
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write(path: str | os.PathLike[str], schema: str, header: dict[str, Any], arrays: Arrays) -> None:
    """Write arrays and a header, through a temporary file beside the target that is renamed at the end.

    Parameters
    ----------
    path : path
    schema : str
        Kind and version, such as ``"result/1"``.
    header : dict
        Anything JSON can hold.
    arrays : dict of name -> array

    Raises
    ------
    StoreError
        The file cannot be written; what was there before is kept.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    from mi_probe import __version__

    path = Path(path)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    full = json.loads(json.dumps({"schema": schema, "writer": __version__, **header}))  # as it will be read
    full["digest"] = _digest(full, arrays)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        try:
            unfinished.open("xb").close()  # fails in Python's own words where nothing can be written
            mode = unfinished.stat().st_mode
            save_file(arrays, unfinished, metadata={_KEY: json.dumps(full)})  # from the arrays to disk: no copy in memory
            unfinished.chmod(mode)  # safetensors' own are for the owner alone
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}.") from error


def read(path: str | os.PathLike[str], kind: str, version: int) -> tuple[dict[str, Any], Arrays]:
    """Read a file written by `write`, after checking that it is whole and of this kind and version.

    Parameters
    ----------
    path : path
    kind : str
        ``"result"`` or ``"state"``.
    version : int
        The newest version that the caller understands; it reads the older ones too.

    Returns
    -------
    header : dict
    arrays : dict of name -> array

    Raises
    ------
    StoreError
        Missing, cut off, altered, not of mi_probe, of another kind, or of a newer version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise StoreError(f"there is no file {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        header = json.loads(metadata[_KEY]) if _KEY in metadata else None
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"{path} is cut off, altered, or not a file of mi_probe ({error}).") from error
    if not isinstance(header, dict) or not isinstance(header.get("schema"), str):
        raise StoreError(f"{path} holds tensors, but was not written by mi_probe.")
    found, _, number = header["schema"].partition("/")
    if found != kind:
        raise StoreError(f"{path} holds a {found} of mi_probe; a {kind} was asked for.")
    if number not in [str(v) for v in range(1, version + 1)]:
        raise StoreError(
            f"{path} has schema {header['schema']}, written by mi_probe {header.get('writer')}; this one reads {kind}/{version}."
        )
    digest = header.pop("digest", None)
    if digest != _digest(header, arrays):
        raise StoreError(f"{path} was altered after it was written: its digest does not fit its content.")
    return header, arrays
