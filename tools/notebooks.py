"""Make notebooks/: each recipe as a Jupyter notebook, its function unfolded into cells.

    python tools/notebooks.py    # or make notebooks

A notebook has the recipe's question, a cell that installs mi_probe where it is not there, the recipe's imports, each option as an
assignment, the body of `run`, cut where a paragraph begins with a comment, and the figures. The statements are the recipe's own.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import io
import re
import symtable
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
RECIPES, NOTEBOOKS = ROOT / "recipes", ROOT / "notebooks"

INSTALL = """\
# Installs mi_probe where it is not there yet: from a wheel (mi_probe-*.whl) beside this notebook, or else by name.
# In Colab a CPU runtime is enough (Runtime, Change runtime type, CPU). If it asks for a restart: yes, then go on below.
from importlib.util import find_spec
from pathlib import Path

if find_spec("mi_probe") is None:
    wheel = next((str(path) for path in Path().glob("mi_probe-*.whl")), "mi-probe")
    %pip install -q {wheel}"""

IMPORTS = """\
# For the notebook itself: the time, by which it knows its figures, and what shows them. A bar of tqdm need not be a widget.
import time
import warnings

from IPython.display import Image, display

warnings.filterwarnings("ignore", message="IProgress not found")"""

BEGAN = """\
# Figures that are made from here on are shown at the end.
began = time.time()"""

FIGURES = """\
for file in sorted(out.glob("*.png")):
    if file.stat().st_mtime >= began:
        print(file)
        display(Image(filename=str(file)))"""

OURS = {"Image", "began", "display", "time", "warnings"}
STOP = 'raise SystemExit("There is nothing more to do.")'


class CannotUnfoldError(Exception):
    """A recipe is written in a way that has no equal as cells; the message says what to change."""


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and whether papermill and its like find the options in it."""

    kind: Literal["markdown", "code"]
    text: str
    parameters: bool = False

    def percent(self) -> str:
        """The cell in jupytext's percent format."""
        if self.kind == "markdown":
            return "# %% [markdown]\n" + "\n".join(f"# {line}".rstrip() for line in self.text.splitlines())
        return ('# %% tags=["parameters"]\n' if self.parameters else "# %%\n") + self.text


def cells(recipe: Path) -> list[Cell]:
    """A recipe as cells.

    Raises
    ------
    CannotUnfoldError
        A return in the middle with work in it, or a name that `run` and the file both give to something.
    """
    source = _without_returns(recipe.read_text(encoding="utf-8"), recipe.name)
    tree = ast.parse(source)
    function = _run(tree, recipe.name)
    _require_names_of_its_own(source, recipe.name)
    imports, helpers = _beside(tree, function, source)
    made = [
        Cell("markdown", _heading(recipe.stem, ast.get_docstring(tree) or "")),
        Cell("code", INSTALL),
        Cell("code", f"{imports}\n\n{IMPORTS}"),
    ]
    if helpers:
        made += [Cell("markdown", "## What the steps below use"), Cell("code", helpers)]
    made += _options(recipe, function, source)
    made.append(Cell("markdown", f"## Step by step\n\n{_plain(_summary(ast.get_docstring(function) or ''))}"))
    made += _steps(function, source)
    made += [Cell("markdown", "## The figures\n\nThey are in the folder `out`, with the tables."), Cell("code", FIGURES)]
    return made


def percent(recipe: Path) -> str:
    """A recipe's notebook in jupytext's percent format."""
    return "\n\n".join(cell.percent() for cell in cells(recipe)) + "\n"


def notebook(recipe: Path) -> str:
    """A recipe's notebook as the text of its .ipynb file: no outputs, and the same on every machine."""
    import jupytext
    import nbformat

    made = jupytext.reads(percent(recipe), fmt="py:percent")
    expected = [cell.text for cell in cells(recipe)]
    if [cell.source for cell in made.cells] != expected:
        raise CannotUnfoldError(
            f"{recipe.name}: a line reads as a mark of the percent format, such as one that begins with '# %'."
        )
    for k, cell in enumerate(made.cells):
        cell.id = f"cell-{k}"
    made.nbformat, made.nbformat_minor = 4, 5
    made.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return str(nbformat.writes(made)).rstrip("\n") + "\n"


# -- parts of a recipe ------------------------------------------------------------------------------------------------


def _run(tree: ast.Module, name: str) -> ast.FunctionDef:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "run":
            return node
    raise CannotUnfoldError(f"{name} has no function run(...).")


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What is in a function, without what is in functions and classes inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield child
            yield from _own(child)


def _without_returns(source: str, name: str) -> str:
    """The source with the last `return x` of `run` as `x`, which a notebook shows, and those before it as a stop."""
    function = _run(ast.parse(source), name)
    returns = sorted((node for node in _own(function) if isinstance(node, ast.Return)), key=lambda node: node.lineno)
    lines = source.splitlines(keepends=True)
    for node in reversed(returns):
        value = node.value
        nothing = value is None or (isinstance(value, ast.Constant) and value.value is None)
        if node is function.body[-1]:
            new = "" if nothing else (ast.get_source_segment(source, node) or "").removeprefix("return").lstrip()
        elif nothing or isinstance(value, ast.Name | ast.Constant):
            new = STOP
        else:
            raise CannotUnfoldError(
                f"{name}, line {node.lineno}: a return before the last must be of a name; give the value one."
            )
        first, last = lines[node.lineno - 1].encode(), lines[(node.end_lineno or 0) - 1].encode()
        lines[node.lineno - 1 : node.end_lineno] = [
            (first[: node.col_offset] + new.encode() + last[node.end_col_offset :]).decode()
        ]
    return "".join(lines)


def _require_names_of_its_own(source: str, name: str) -> None:
    """In cells, the names of `run` and those of the file are the same names: none may stand for two things."""
    table = symtable.symtable(source, name, "exec")
    inside = next(t for t in table.get_children() if isinstance(t, symtable.Function) and t.get_name() == "run")
    own = {symbol.get_name(): symbol.is_imported() for symbol in inside.get_symbols() if symbol.is_local()}
    beside = {symbol.get_name(): symbol.is_imported() for symbol in table.get_symbols() if symbol.is_assigned()}
    twice = {n for n in own if n in beside and not (own[n] and beside[n])}  # imported in both: the same thing
    twice |= OURS & {*own, *(n for n in beside if not beside[n])}
    if twice:
        raise CannotUnfoldError(
            f"{name}: {', '.join(sorted(twice))} stands for one thing in run(...) and for another in the file, or in a cell "
            "of the notebook's own; call one of them something else."
        )


def _beside(tree: ast.Module, function: ast.FunctionDef, source: str) -> tuple[str, str]:
    """The imports, and all else that is in the file beside `run`, each with the comments above it."""
    lines = source.splitlines()
    imports: list[str] = []
    helpers: list[str] = []
    end = tree.body[0].end_lineno or 0 if ast.get_docstring(tree) else 0
    for node in tree.body[bool(end) :]:
        text = "\n".join(lines[end : node.end_lineno])
        end = node.end_lineno or 0
        if node is not function:
            to_import = isinstance(node, ast.Import | ast.ImportFrom)
            to_import |= isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            (imports if to_import else helpers).append(text)
    return "\n".join(imports).strip("\n"), "\n".join(helpers).strip("\n")


def _steps(function: ast.FunctionDef, source: str) -> list[Cell]:
    """The body of `run`: a comment after an empty line is a cell of words, the statements after it one of code."""
    lines = source.splitlines()
    statements = function.body[ast.get_docstring(function) is not None :]
    start = (function.body[0].end_lineno if statements is not function.body else function.body[0].lineno - 1) or 0
    indent = statements[0].col_offset
    inside = {row for node in statements for row in range(node.lineno, (node.end_lineno or 0) + 1)}
    comments, strings = _comments_and_strings(source)
    made: list[Cell] = []
    words: list[str] = []
    code: list[str] = []
    stop = function.end_lineno or 0
    for row in range(start + 1, stop + 1):
        text = lines[row - 1]
        if comments.get(row) == indent and row not in inside:
            after_nothing = row == start + 1 or not lines[row - 2].strip()
            goes_on = bool(words) and not code and not after_nothing
            if after_nothing or goes_on:
                if not goes_on:
                    made += _step(words, code)
                    words, code = [], []
                words.append(text.strip().lstrip("#").strip())
                continue
        if text.strip() or code:
            code.append(text if row in strings else text[indent:])
    return made + _step(words, code)


def _step(words: list[str], code: list[str]) -> list[Cell]:
    made = []
    if words:
        first, *rest = re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(words), maxsplit=1)
        text = f"### {_plain(first.rstrip('.'))}" if len(first) <= 100 else _plain(first)
        made.append(Cell("markdown", "\n\n".join([text, *map(_plain, rest)])))
    if text := "\n".join(code).strip("\n"):
        made.append(Cell("code", text))
    return made


def _comments_and_strings(source: str) -> tuple[dict[int, int], set[int]]:
    """Where the comments are that have a line of their own (row: column), and the rows that begin inside a string."""
    comments: dict[int, int] = {}
    inside: set[int] = set()
    opened: list[int] = []  # rows of the f-strings that are open, which have tokens of their own from Python 3.12 on
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "COMMENT" and not token.line[: token.start[1]].strip():
            comments[token.start[0]] = token.start[1]
        elif kind == "STRING":
            inside |= set(range(token.start[0] + 1, token.end[0] + 1))
        elif kind == "FSTRING_START":
            opened.append(token.start[0])
        elif kind == "FSTRING_END":
            inside |= set(range(opened.pop() + 1, token.end[0] + 1))
    return comments, inside


# -- words ------------------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Words that Markdown shows as they are."""
    return re.sub(r"([*<$])", r"\\\1", text)


def _summary(docstring: str) -> str:
    return docstring.split("\n\n", 1)[0].replace("\n", " ")


def _heading(name: str, docstring: str) -> str:
    """A recipe's header as Markdown: its title, then each part under its name, commands as they are typed."""
    title, _, rest = docstring.partition("\n")
    made = [f"# {_plain(title)}"]
    for part in re.split(r"\n\s*\n|\n(?=[A-Z]\w+\s{2})", rest.strip("\n")):
        label = re.match(r"([A-Z]\w+)\s{2,}", part)
        body = part[label.end() :] if label else part
        if label and label[1] == "Command":
            commands = "\n".join(line.strip() for line in body.strip().splitlines())
            made.append(f"**Command.** These are the steps of the recipe `{name}`. In a terminal:\n\n```bash\n{commands}\n```")
        else:
            text = _plain(" ".join(body.split()))
            made.append(f"**{label[1]}.** {text}" if label else text)
    return "\n\n".join(made)


# -- options ----------------------------------------------------------------------------------------------------------


def _options(recipe: Path, function: ast.FunctionDef, source: str) -> list[Cell]:
    """Each option of `run` as an assignment below what its docstring says; a group of options in its own cell."""
    run = _loaded(recipe)
    defaults = {p.name: p.default for p in inspect.signature(run).parameters.values()}
    written = {a.arg: d for a, d in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True) if d is not None}
    if missing := sorted(set(defaults) - set(written)):
        raise CannotUnfoldError(f"{recipe.name}: {', '.join(missing)} of run(...) must be keyword-only, with a default.")
    hints = typing.get_type_hints(run)
    about = _parameters(run)
    plain: list[str] = []
    made: list[Cell] = []
    for name, default in defaults.items():
        if not dataclasses.is_dataclass(default):
            plain += [*_comment(about.get(name, ""), hints[name]), f"{name} = {ast.get_source_segment(source, written[name])}"]
            continue
        kind = type(default)
        fields, types_ = _parameters(kind), typing.get_type_hints(kind)
        call = written[name]
        if not isinstance(call, ast.Call):
            raise CannotUnfoldError(f"{recipe.name}: write the default of {name} as a call, {type(default).__name__}(...).")
        text = [f"# {_summary(inspect.getdoc(kind) or '')}", f"{name} = {ast.unparse(call.func)}("]
        for field in dataclasses.fields(default):
            text += [f"    {line}" for line in _comment(fields.get(field.name, ""), types_[field.name])]
            text.append(f"    {field.name}={_value(getattr(default, field.name))},")
        made.append(Cell("code", "\n".join([*text, ")"])))
    words = "## What can be changed\n\nChange a line, then run this cell and all below it again."
    return [Cell("markdown", words), Cell("code", "\n".join(plain), parameters=True), *made, Cell("code", BEGAN)]


def _loaded(recipe: Path) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(f"unfolded_{recipe.stem}", recipe)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run: Callable[..., Any] = module.run
    return run


def _parameters(thing: Any) -> dict[str, str]:
    """What a NumPy docstring says about each parameter."""
    found = re.findall(r"^(\w+) : .*\n((?:    .*(?:\n|$))+)", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _comment(text: str, hint: Any) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(filter(None, [text, _kind(hint)])), 110, break_on_hyphens=False)]


def _kind(hint: Any) -> str:
    """What may be written, where the default does not show it."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    names = []
    words = [value for part in parts if typing.get_origin(part) is Literal for value in typing.get_args(part)]
    for part in parts:
        if part is not type(None) and typing.get_origin(part) is not Literal:
            names.append(part.__name__ if isinstance(part, type) and not typing.get_args(part) else str(part))
    if words and names:
        return f"({' | '.join([*names, *map(_value, words)])})"
    if words:
        return f"One of {', '.join(map(_value, words))}."
    return f"({' | '.join(names)})" if len(parts) > 1 else ""


def _value(value: Any) -> str:
    """A default as it is typed."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return f"Path({_value(str(value))})" if isinstance(value, Path) else repr(value)


def main() -> None:
    """Write all notebooks; one without a recipe goes."""
    NOTEBOOKS.mkdir(exist_ok=True)
    made = {recipe.stem: notebook(recipe) for recipe in sorted(RECIPES.glob("*.py")) if not recipe.stem.startswith("_")}
    for name, text in made.items():
        (NOTEBOOKS / f"{name}.ipynb").write_text(text, encoding="utf-8")
        print(f"notebooks/{name}.ipynb: {len(cells(RECIPES / f'{name}.py'))} cells")
    for path in NOTEBOOKS.glob("*.ipynb"):
        if path.stem not in made:
            path.unlink()
            print(f"notebooks/{path.name}: removed, there is no such recipe")


if __name__ == "__main__":
    try:
        main()
    except CannotUnfoldError as error:
        sys.exit(f"error: {error}")
