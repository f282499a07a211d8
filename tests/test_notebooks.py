"""Recipes as notebooks: the same statements in cells, made anew whenever the recipe changes, and they run."""

from __future__ import annotations

import ast
import codeop
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mi_probe import cli, rooms

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
    name: str, roomy_folder: Path, execute: Callable[[Any], Path]
) -> None:
    import nbformat

    notebook = nbformat.read(rooms.find("notebooks", name), as_version=4)
    options = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    assert options.source.count('model = "coffee-gpt2"') == 1
    options.source = options.source.replace('model = "coffee-gpt2"', f"model = {str(roomy_folder)!r}")
    folder = execute(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "nats" in "".join(output.text for output in outputs if output.output_type == "stream")
    shown = [output for output in notebook.cells[-1].outputs if "image/png" in output.get("data", {})]
    assert len(shown) == len(list(folder.glob("*/*.png"))) > 0


def test_every_notebook_is_what_its_recipe_makes_now(tool: ModuleType) -> None:
    assert rooms.names("notebooks") == rooms.names("recipes"), "run `make notebooks`"
    for name in rooms.names("recipes"):
        kept = rooms.read_text(rooms.find("notebooks", name))
        assert kept == tool.notebook(rooms.find("recipes", name)), f"{name}.ipynb is stale: run `make notebooks`"


def test_make_notebooks_writes_those_of_all_recipes_and_removes_what_is_left(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RECIPES", "NOTEBOOKS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(tool, name, tmp_path / name)
    (tmp_path / "RECIPES" / "all_of_it.py").write_text(ALL_OF_IT)
    (tmp_path / "NOTEBOOKS" / "left.ipynb").write_text("{}")
    tool.main()
    (made,) = (tmp_path / "NOTEBOOKS").iterdir()
    assert made.name == "all_of_it.ipynb"
    assert made.read_text() == tool.notebook(tmp_path / "RECIPES" / "all_of_it.py")


def test_a_notebook_names_no_machine_and_holds_no_output(tool: ModuleType) -> None:
    import nbformat

    for name in rooms.names("notebooks"):
        text = tool.notebook(rooms.find("recipes", name))
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata == {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        assert [cell.id for cell in notebook.cells] == [f"cell-{k}" for k in range(len(notebook.cells))]
        assert not any(cell.outputs or cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
        assert "://" not in "".join(cell.source for cell in notebook.cells)  # no host that may change or not answer


# -- a recipe and its cells do the same -------------------------------------------------------------------------------

ALL_OF_IT = '''"""Does a cell hold what the function holds?

Question    Is it so,
            for all that a recipe may be written with?
Command     mi-probe run all_of_it
Cost        None.
Expect      2 * 3 words.

Files in the folder: none,
at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mi_probe

if TYPE_CHECKING:
    import pandas as pd

# A constant, and what it is for.
WORDS = ("one", "two")


def joined(words: tuple[str, ...], table: pd.DataFrame | None = None) -> str:
    """With commas."""

    # Not a cell: this is not `run`.
    def inner() -> str:
        return ", ".join(words)

    return inner()


def run(
    *,
    model: str = "coffee-gpt2",
    texts: mi_probe.options.Texts = mi_probe.options.Texts(seed=3),
    mode: Literal["a", "b"] = "a",
    bins: int | Literal["auto"] = "auto",
    layers: list[int] | None = None,
    out: Path = Path("mi_probe_out"),
) -> list[str]:
    """What it does.

    Parameters
    ----------
    model : str
        A model.
    layers : list
        Some layers,
        or none.
    """
    # Words, é and more. And a second sentence,
    # on two lines.
    said = [joined(WORDS), mode, str(texts.seed)]  # not a cell
    text = """
    as it is,

    # not a comment
  and less indented"""
    said.append(text)

    # Branches.
    from pathlib import Path  # the same in both places

    if layers is None:
        # Not a cell: inside.

        # Nor this.
        said.append("é none"); said.append(f"""{
            model}
    é""")
    if not said:
        return None
    for word in said:
        if word == "never":
            return said

    def later() -> str:
        # Not a cell: in a function.
        return word

    # Called, below a comment without statements.

    # And at last.
    said.append(later())
    # Not a cell: no empty line before it.
    print(*said, sep="|")
    return (
        said
        + ["end"]
    )


LAST = 3
'''


def without_returns(body: list[ast.stmt]) -> str:
    """The tree of a body without its docstring, the last return as its value, the others as what a notebook has for them."""

    class Stops(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
            return node

        def visit_Return(self, node: ast.Return) -> ast.stmt:
            return ast.parse('raise SystemExit("There is nothing more to do.")').body[0]

    body = body[1:]
    if isinstance(body[-1], ast.Return):
        body = body[:-1] + ([ast.Expr(body[-1].value)] if body[-1].value is not None else [])
    return ast.dump(Stops().visit(ast.Module(body, [])))


def of(recipe: Path) -> ast.FunctionDef:
    return next(n for n in ast.parse(recipe.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == "run")


@pytest.fixture
def all_of_it(tmp_path: Path) -> Path:
    recipe = tmp_path / "all_of_it.py"
    recipe.write_text(ALL_OF_IT, encoding="utf-8")
    return recipe


@pytest.mark.parametrize("name", [*rooms.names("recipes"), "all_of_it"])
def test_the_cells_hold_the_statements_of_the_recipe_and_no_others(tool: ModuleType, all_of_it: Path, name: str) -> None:
    recipe = all_of_it if name == "all_of_it" else rooms.find("recipes", name)
    cells = tool.cells(recipe)
    begin = next(k for k, cell in enumerate(cells) if cell.text.startswith("## Step by step"))
    steps = [cell.text for cell in cells[begin:-2] if cell.kind == "code"]
    assert len(steps) > 1
    assert ast.dump(ast.parse("\n".join(steps))) == without_returns(of(recipe).body)
    beside = "\n".join(ast.unparse(ast.parse(cell.text)) for cell in cells[2:begin] if cell.kind == "code")
    for node in ast.parse(recipe.read_text()).body[1:]:
        if not (isinstance(node, ast.FunctionDef) and node.name == "run"):
            assert ast.unparse(node) in beside


@pytest.mark.parametrize("name", [*rooms.names("recipes"), "all_of_it"])
def test_every_option_is_assigned_its_default_and_says_what_the_docstring_says(
    tool: ModuleType, all_of_it: Path, name: str
) -> None:
    recipe = all_of_it if name == "all_of_it" else rooms.find("recipes", name)
    cells = tool.cells(recipe)
    begin, end = (next(k for k, c in enumerate(cells) if c.text.startswith(f"## {w}")) for w in ("What can", "Step by step"))
    names: dict[str, Any] = {}
    for cell in [*cells[2:begin], *cells[begin:end]]:
        if cell.kind == "code":
            exec(cell.text, names)
    for parameter in inspect.signature(cli._function(recipe)).parameters.values():
        assert names[parameter.name] == parameter.default
        assert type(names[parameter.name]) is type(parameter.default)
    assert [cell.parameters for cell in cells].count(True) == 1
    if name == "all_of_it":
        options = next(cell.text for cell in cells if cell.parameters)
        assert '# A model.\nmodel = "coffee-gpt2"\n# One of "a", "b".\nmode = "a"\n' in options
        assert '# (int | "auto")\nbins = "auto"\n' in options
        assert "# Some layers, or none. (list[int])\nlayers = None\n" in options
        assert "    # For that order, and for the sample that edges are fitted on.\n    seed=3,\n" in names_of_texts(cells)


def names_of_texts(cells: list[Any]) -> str:
    return next(str(cell.text) for cell in cells if "texts = mi_probe.options.Texts(" in cell.text)


def test_cells_begin_at_comments_after_an_empty_line_and_do_what_the_function_does(
    tool: ModuleType, all_of_it: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = tool.cells(all_of_it)
    words = [cell.text for cell in cells if cell.kind == "markdown"]
    assert words == [
        "# Does a cell hold what the function holds?\n\n"
        "**Question.** Is it so, for all that a recipe may be written with?\n\n"
        "**Command.** These are the steps of the recipe `all_of_it`. In a terminal:\n\n```bash\nmi-probe run all_of_it\n```\n\n"
        "**Cost.** None.\n\n**Expect.** 2 \\* 3 words.\n\nFiles in the folder: none, at all.",
        "## What the steps below use",
        "## What can be changed\n\nChange a line, then run this cell and all below it again.",
        "## Step by step\n\nWhat it does.",
        "### Words, é and more\n\nAnd a second sentence, on two lines.",
        "### Branches",
        "### Called, below a comment without statements",
        "### And at last",
        "## The figures\n\nThey are in the folder `out`, with the tables.",
    ]
    expected = cli._function(all_of_it)()
    printed = capsys.readouterr().out
    assert printed.count("|") == 6
    names: dict[str, Any] = {}
    compiled = codeop.Compile()  # as IPython does: an import from __future__ holds for all cells after it
    code = [cell.text for cell in cells if cell.kind == "code"]
    for text in code[1:-1]:  # all but the installation and the figures
        exec(compiled(text, "cell", "exec"), names)
    assert capsys.readouterr().out == printed
    assert code[-2].endswith('(\n    said\n    + ["end"]\n)')
    assert names["said"] + ["end"] == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("            return said\n", "            return said + [word]\n", "all_of_it.py, line 81: a return before the last"),
        ("for word in said", "for WORDS in said", "all_of_it.py: WORDS stands for"),
        ("said", "display", "all_of_it.py: display stands for"),
        ("joined", "began", "all_of_it.py: began stands for"),
        ("    *,\n    model: str", "    model: str", "layers, mode, model, out, texts of run.* must be keyword-only"),
        ("= mi_probe.options.Texts(seed=3)", "= TEXTS", "write the default of texts as a call, Texts"),
        ("# Nor this.", "# %% Nor this.", "a mark of the percent format"),
        ("def run(", "def ran(", "has no function run"),
    ],
)
def test_a_recipe_that_has_no_equal_as_cells_is_refused_with_what_to_change(
    tool: ModuleType, tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = ALL_OF_IT.replace("WORDS = (", "TEXTS = mi_probe.options.Texts(seed=4)\nWORDS = (")
    assert old in text
    recipe = tmp_path / "all_of_it.py"
    recipe.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(tool.CannotUnfoldError, match=message):
        tool.notebook(recipe)


# -- cells of its own -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wheel", [None, "mi_probe-0.1.0-py3-none-any.whl"])
def test_the_first_cell_installs_a_wheel_beside_the_notebook_or_by_name_only_where_it_is_missing(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: str | None
) -> None:
    from IPython.core.inputtransformer2 import TransformerManager

    class Shell:
        def run_line_magic(self, name: str, line: str) -> None:
            ran.append((name, line.format(**names)))

    ran: list[tuple[str, str]] = []
    names: dict[str, Any] = {"get_ipython": Shell}
    code = TransformerManager().transform_cell(tool.INSTALL)
    monkeypatch.chdir(tmp_path)
    if wheel:
        (tmp_path / wheel).touch()
    exec(code, names)
    assert ran == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(code, names)
    assert ran == [("pip", f"install -q {wheel or 'mi-probe'}")]


def test_figures_of_an_earlier_run_are_not_shown_as_if_they_were_new(tool: ModuleType, tmp_path: Path) -> None:
    shown: list[str] = []
    for name, age in (("old.png", 1000), ("b.png", 3000), ("a.png", 3000), ("table.csv", 3000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (age, age))
    names = {"out": tmp_path, "began": 2000.0, "Image": lambda filename: filename, "display": shown.append}
    exec(tool.FIGURES, names)
    assert shown == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
