"""Recipes as notebooks: the same statements in cells, made anew whenever the recipe changes, and they run."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mi_probe import rooms

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/notebooks.py, which makes them."""
    spec = importlib.util.spec_from_file_location("notebooks_tool", ROOT / "tools" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """Runs all cells in an empty folder, without the user's own settings of Jupyter; the first error of a cell is raised."""
    from nbclient import NotebookClient

    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(notebook: Any) -> Path:
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(empty)}}).execute()
        return empty

    return run


@pytest.mark.parametrize("name", rooms.names("recipes"))
def test_every_notebook_runs_in_an_empty_folder_and_shows_its_figures(
    name: str, tiny_folder: Path, execute: Callable[[Any], Path]
) -> None:
    import nbformat

    notebook = nbformat.read(rooms.find("notebooks", name), as_version=4)
    options = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    assert options.source.count('model = "coffee-gpt2"') == 1
    options.source = options.source.replace('model = "coffee-gpt2"', f"model = {str(tiny_folder)!r}")
    folder = execute(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "nats" in "".join(output.text for output in outputs if output.output_type == "stream")
    shown = [output for output in notebook.cells[-1].outputs if "image/png" in output.get("data", {})]
    assert len(shown) == len(list(folder.glob("*/*.png"))) > 0
