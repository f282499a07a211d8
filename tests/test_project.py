"""The project as others get it: imports, wheel, README."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import mi_probe
from mi_probe.corrections import CORRECTIONS

from .conftest import make_tiny_gpt2
from .versions.behaviours import BEHAVIOURS

ROOT = Path(__file__).resolve().parents[1]

# What each room may import of the others: one way only.
DIRECTIONS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "memory": set(),
    "tokenkeys": {"errors"},
    "extras": {"tokenkeys"},
    "rooms": {"errors"},
    "units": {"errors"},
    "kernels": set(),
    "binning": {"errors", "kernels"},
    "ondevice": {"binning", "errors", "kernels"},
    "chance": {"errors", "kernels"},
    "corrections": {"kernels"},
    "shares": set(),
    "counts": {"binning", "errors", "kernels", "ondevice", "shares"},
    "estimators": {"chance", "corrections", "counts", "errors", "kernels"},
    "continuous": {"errors", "kernels"},
    "copula": {"counts", "kernels"},
    "significance": {"counts", "errors", "kernels"},
    "permutation": {"errors", "kernels", "significance"},
    "serial": {"counts", "errors", "extras", "kernels", "significance"},
    "shards": {"corrections", "counts", "estimators"},
    "gaussian": {"binning", "errors"},
    "subset": {"binning", "errors"},
    "pairtable": {"errors", "units"},
    "neighbours": {"binning", "errors", "kernels", "pairtable"},
    "places": {"binning"},
    "lags": {"binning", "kernels", "places", "serial"},
    "tokencounts": {"binning", "errors", "kernels", "places", "tokenkeys"},
    "keyed": {"chance", "estimators", "tokencounts", "tokenkeys", "units"},
    "pointcounts": {"binning", "counts", "errors", "extras", "gaussian", "lags", "ondevice", "places", "shares", "tokencounts"},
    "independence": {"errors", "permutation", "pointcounts", "serial", "significance"},
    "spread": {"units"},
    "coverage": {"errors"},
    "store": {"errors"},
    "pointresult": {"binning", "corrections", "errors", "estimators", "pairtable", "significance", "spread"},
    "result": {"binning", "counts", "errors", "estimators", "pointresult", "significance", "store", "units"},
    "estimation": {
        *("binning", "continuous", "copula", "corrections", "counts", "errors", "estimators", "extras", "gaussian"),
        *("independence", "places", "pointcounts", "pointresult", "shards", "subset"),
    },
    "simulated": {"errors", "estimation"},
    "linearity": {"errors", "pointresult", "significance"},
    "comparison": {"errors", "result", "significance"},
    "tokenpairs": {"binning", "corrections", "errors", "estimation", "pointresult", "subset"},
    "probe": {"binning", "errors", "extras", "rooms", "subset", "tokenkeys"},
    "ledger": {"errors"},
    "tokens": {"errors", "places", "probe"},
    "stream": {"binning", "errors", "places", "pointcounts", "probe", "subset", "tokencounts"},
    "footprint": {
        "subset",
        "binning",
        "errors",
        "estimation",
        "extras",
        "independence",
        "keyed",
        "lags",
        "memory",
        "ondevice",
        "pointcounts",
        "probe",
        "shares",
        "stream",
        "tokencounts",
    },
    "given": {"binning", "errors", "probe"},
    "state": {
        *("binning", "counts", "coverage", "errors", "estimation", "estimators", "footprint", "independence", "ledger", "places"),
        "given",
        *("keyed", "pointcounts", "probe", "result", "shares", "store", "stream", "subset", "tokens", "units"),
    },
    "edges": {"binning", "coverage", "errors", "probe", "state", "store"},
    "drift": {"errors", "state"},
    "outbox": set(),
    "hooks": {
        *("binning", "errors", "footprint", "ledger", "outbox", "pointcounts", "probe", "shares", "state", "stream", "subset"),
        *("given", "tokencounts", "tokens"),
    },
    "models": {"errors"},
    "corpus": {"errors"},
    "dealing": {"corpus"},
    "sources": {"corpus", "errors"},
    "settling": {"estimators", "keyed", "pointcounts", "shards", "state"},
    "divided": {
        *("corrections", "estimation", "estimators", "independence", "outbox", "permutation", "pointcounts", "pointresult"),
        *("result", "settling", "shares", "significance", "state", "store"),
    },
    "members": set(),
    "ranks": {"binning", "corrections", "divided", "errors", "independence", "members", "result", "state"},
    "stopping": set(),
    "running": {
        "corpus",
        "coverage",
        "dealing",
        "divided",
        "errors",
        "hooks",
        "ranks",
        "settling",
        "sources",
        "stopping",
        "store",
    },
    "planning": {
        "binning",
        "counts",
        "errors",
        "footprint",
        "hooks",
        "kernels",
        "lags",
        "memory",
        "models",
        "places",
        "probe",
        "subset",
        "tokencounts",
        "tokenkeys",
    },
    "calibration": {"binning", "corpus", "edges", "errors", "hooks", "memory", "places", "probe", "sources", "stream", "subset"},
    "accumulation": {
        *("binning", "calibration", "corpus", "divided", "drift", "edges", "errors", "hooks", "probe", "ranks", "running"),
        *("shares", "sources", "state", "store"),
    },
    "canvas": set(),
    "relation_plots": {"canvas", "linearity", "pointresult", "units"},
    "marks": {"canvas"},
    "token_plots": {"canvas", "marks", "pointresult", "result", "units"},
    "depth_plots": {"canvas", "marks", "pointresult", "units"},
    "plots": {
        *("canvas", "corrections", "depth_plots", "marks", "pointresult", "relation_plots", "result", "token_plots", "units"),
    },
    "reading": {"binning", "corpus", "errors", "hooks", "neighbours", "probe", "result", "tokenpairs", "units"},
    "depth": {"errors", "pointresult", "result", "units"},
    "report": {"corrections", "pointresult", "result", "units"},
    "info": {"coverage", "errors", "memory", "store"},
    "merging": {"coverage", "errors", "state", "store"},
    "options": {"corpus", "edges", "errors", "sources"},
    "cli": {"calibration", "errors", "info", "merging", "models", "options", "planning", "probe", "rooms"},
    "__main__": {"cli"},
}

# A method that is a shorter way to say what a later room does: imported when it is called, and not before.
CONVENIENCES = {"probe": {"planning"}}  # Probe.plan


def imports_of(path: Path, *, top_only: bool = False) -> set[str]:
    """Dotted names that a file imports at run time (imports for type checkers left out)."""
    tree = ast.parse(path.read_text())
    typing_only = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = {id(inner) for block in typing_only for inner in ast.walk(block)}
    found: set[str] = set()
    for node in tree.body if top_only else ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "mi_probe").parts[0].removesuffix(".py")


def test_imports_between_rooms_go_one_way() -> None:
    for path in (ROOT / "mi_probe").rglob("*.py"):
        room = room_of(path)
        ours, at_once = (
            {name.split(".")[1] for name in imports_of(path, top_only=top) if name.startswith("mi_probe.")}
            for top in (False, True)
        )
        ours -= {"__version__"} | (CONVENIENCES.get(room, set()) - at_once)
        assert ours - {room} <= DIRECTIONS[room], f"{room} imports {ours - {room} - DIRECTIONS[room]}"
    order = list(DIRECTIONS)
    for room, allowed in DIRECTIONS.items():
        assert all(order.index(other) < order.index(room) for other in allowed), room


def test_only_models_imports_transformer_lens_and_torch_is_never_imported_at_the_top() -> None:
    for path in (ROOT / "mi_probe").rglob("*.py"):
        heavy = {name.split(".")[0] for name in imports_of(path)}
        assert "transformer_lens" not in heavy or room_of(path) == "models"
        at_once = {name.split(".")[0] for name in imports_of(path, top_only=True)}
        assert not at_once & {"torch", "transformer_lens", "transformers", "matplotlib", "pandas", "tqdm"}, path


def test_recipes_import_only_mi_probe_and_the_standard_library() -> None:
    for path in (ROOT / "recipes").glob("*.py"):
        names = imports_of(path)
        assert not {name.split(".")[0] for name in names} - {"mi_probe"} - set(sys.stdlib_module_names), path
        assert {name for name in names if name.startswith("mi_probe")} == {"mi_probe"}, path  # its public face only


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_mi_probe_imports_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import mi_probe; print(*sorted(set(sys.modules) - before))"
    loaded = run(code).split()
    assert len([name for name in loaded if name.startswith("mi_probe")]) == 1
    assert len(loaded) < 60, loaded
    assert not {"numpy", "torch", "transformer_lens", "numba"} & set(loaded)


def test_listing_imports_neither_torch_nor_numba() -> None:
    heavy = "('torch', 'numba', 'transformers')"
    printed = run(f"import sys; from mi_probe import cli; cli.ls(); print('heavy:', *[n for n in {heavy} if n in sys.modules])")
    assert printed.splitlines()[-1] == "heavy:"


def test_every_public_name_is_there_and_has_an_example() -> None:
    for name in mi_probe.__all__:
        thing = getattr(mi_probe, name)
        assert thing.__doc__, name
        if callable(thing) and name != "MIProbeWarning":
            assert ">>>" in thing.__doc__, name
    with pytest.raises(AttributeError, match="no_such_name"):
        mi_probe.no_such_name  # noqa: B018  (the access is what is tested)
    assert dir(mi_probe) == mi_probe.__all__


def test_pyproject_names_every_package_and_pins_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in (ROOT / "mi_probe").rglob("*.py")}
    rooms = {f"mi_probe._{name}" for name in ("probes", "recipes", "notebooks")}
    assert set(project["tool"]["setuptools"]["packages"]) == folders | rooms
    pins = {re.split(r"[=<>]", line)[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    extras = project["project"]["optional-dependencies"]
    wanted = project["project"]["dependencies"] + extras["dev"] + extras["bench"]
    assert {re.split(r"[=<>]", w)[0].lower() for w in wanted} <= pins


def test_nothing_names_a_machine() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not files:
        pytest.skip("not a git checkout")
    words = ["/" + "work/", "/" + "root/", "/" + "tmp/"]
    for name in files:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".ipynb", ""} and path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not [w for w in words if w in text], name


# -- the wheel --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source") / "project"
    ignore = shutil.ignore_patterns(".venv*", ".git", "*.egg-info", "__pycache__", "mi_probe_out", ".*_cache", "build", "dist")
    shutil.copytree(ROOT, source, ignore=ignore)
    out = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    subprocess.run([sys.executable, *command], check=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_rooms_the_model_and_no_other_top_level_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"mi_probe"}
    for part in (
        "mi_probe/py.typed",
        "mi_probe/_probes/dimension_pairs.toml",
        "mi_probe/_recipes/dimension_pairs.py",
        "mi_probe/data/passages.txt",
        "mi_probe/_notebooks/dimension_pairs.ipynb",
        "mi_probe/data/turkish_coffee.txt",
        "mi_probe/data/coffee-gpt2/model.safetensors",
        "mi_probe/data/coffee-gpt2/tokenizer.json",
    ):
        assert part in names
    assert wheel.stat().st_size < 8_500_000


def test_an_installed_wheel_runs_every_recipe_from_a_foreign_folder(wheel: Path, roomy_folder: Path, tmp_path: Path) -> None:
    site, foreign = tmp_path / "site", tmp_path / "elsewhere"
    foreign.mkdir()
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import mi_probe; print(mi_probe.__file__)"],
        cwd=foreign, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(site)
    done = subprocess.run(
        [sys.executable, "-m", "mi_probe.cli", "run", "dimension_pairs"],
        cwd=foreign, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "8,128 pairs" in done.stdout
    assert (foreign / "mi_probe_out" / "distributions.png").is_file()
    every = (
        "import sys; from mi_probe import cli, rooms\n"
        "for name in rooms.names('recipes'):\n"
        "    cli.app(['run', name, '--model', sys.argv[1], '--out', name], result_action='return_value')\n"
        "    cli.app(['cp', f'{name}.ipynb'], result_action='return_value')\n"
    )
    subprocess.run(
        [sys.executable, "-c", every, str(roomy_folder)], cwd=foreign, env=environment, capture_output=True, check=True
    )
    names = [path.stem for path in (ROOT / "recipes").glob("*.py")]
    assert len(names) >= 6
    assert all(list((foreign / name).glob("*.png")) and (foreign / f"{name}.ipynb").is_file() for name in names)


# -- README -----------------------------------------------------------------------------------------------------------


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a model called gpt2, the shape of gpt2-xl and some texts lie, so that the README's commands run."""
    from transformers import GPT2Config

    make_tiny_gpt2(tmp_path / "gpt2", n_layer=12, n_positions=1024)
    GPT2Config(n_embd=1600, n_layer=48, n_head=25, architectures=["GPT2LMHeadModel"]).save_pretrained(tmp_path / "gpt2-xl")
    (tmp_path / "my_texts").mkdir()
    for k in range(2):
        (tmp_path / "my_texts" / f"{k}.txt").write_text(f"Text number {k} about coffee, tea and the sea.\n" * 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_shell_command_of_the_readme_runs(workplace: Path) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line and not line.startswith("#")]
    assert any(line.startswith("mi-probe run") for line in lines)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in lines:
        if line.startswith("make "):  # the test itself was started by one of them
            done = subprocess.run([*line.split(), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
        elif line.startswith(("git clone", "cd ", "pip install", "python3 -m venv", ". ")):
            continue
        else:
            done = subprocess.run(
                ["bash", "-c", line], cwd=workplace, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
            )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.usefixtures("workplace")
def test_every_python_block_of_the_readme_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert blocks("python")
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    claims = re.findall(r"This prints `(.*?)`", (ROOT / "README.md").read_text())
    assert claims
    assert all(claim in printed for claim in claims)


@pytest.mark.parametrize("k", range(len(blocks("python", "docs/hooks.md"))))
def test_every_python_block_about_hooks_runs(workplace: Path, k: int) -> None:
    code = blocks("python", "docs/hooks.md")[k]
    if "nnsight" in code:
        pytest.importorskip("nnsight")
    (workplace / "block.py").write_text(code)  # nnsight reads the source of what calls it
    runpy.run_path(str(workplace / "block.py"))


@pytest.mark.usefixtures("workplace")
def test_every_python_block_about_estimation_runs_and_its_rows_are_those_that_were_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names: dict[str, object] = {}
    for block in blocks("python", "docs/estimation.md"):
        exec(compile(block, "estimation.md", "exec"), names)
    printed = capsys.readouterr().out
    for shown in blocks("text", "docs/estimation.md"):  # what it says is printed
        assert shown in printed
    measured = "".join(path.read_text() for path in (ROOT / "docs" / "measured").glob("*.md"))
    rows = re.findall(r"^\| (?:`\w+`|\d+|[\d,]+: all, [\w ]+) \|.*$", (ROOT / "docs" / "estimation.md").read_text(), re.M)
    quoted = [re.sub(r"^\| [\d,]+: ", "| ", row) for row in rows if re.search(r"\d\.\d{3}", row)]
    assert len(quoted) > 40
    assert not [row for row in quoted if row not in measured]


@pytest.mark.usefixtures("workplace")
def test_every_python_block_about_tokens_runs() -> None:
    names: dict[str, object] = {}
    assert len(blocks("python", "docs/tokens.md")) >= 5
    for block in blocks("python", "docs/tokens.md"):
        exec(compile(block, "tokens.md", "exec"), names)


def test_every_command_about_the_course_runs(workplace: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    (block,) = blocks("bash", "docs/course.md")
    done = subprocess.run(
        ["bash", "-ec", block], cwd=workplace, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"my_lesson.py", "my_lesson.ipynb", "lesson_out"} <= {entry.name for entry in workplace.iterdir()}


@pytest.mark.parametrize(
    ("page", "least"), [("docs/corpora.md", 12), ("docs/scaling.md", 2), ("docs/course.md", 30), ("docs/tokens.md", 3)]
)
def test_rows_of_measurements_are_those_that_were_measured(page: str, least: int) -> None:
    measured = "".join(path.read_text() for path in (ROOT / "docs" / "measured").glob("*.md"))
    text = re.sub(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", "", (ROOT / page).read_text(), flags=re.DOTALL)
    rows = [row for row in re.findall(r"^\| .* \|$", text, re.MULTILINE) if re.search(r"\d", row)]
    assert len(rows) >= least
    assert not [row for row in rows if row not in measured]


def test_the_table_of_corrections_has_every_correction_at_every_setting() -> None:
    text = (ROOT / "docs" / "measured" / "corrections.md").read_text()
    assert len(re.findall(r"^## [\d,]+ samples, \d+ equal-\w+ bins", text, re.M)) == 12
    numbers = r"(?: [+-]\d\.\d{3} / \d\.\d{3} / \d\.\d{3} \|){4}"
    for correction in CORRECTIONS:
        assert len(re.findall(rf"^\| `{correction}` \|{numbers}$", text, re.M)) == 12


def test_the_table_about_hooks_lists_every_behaviour_of_this_version_and_all_counts_are_equal() -> None:
    table = (ROOT / "docs" / "hooks.md").read_text().partition("<!-- table: begin -->")[2]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| ")}
    heads = rows["what happens"]
    assert f"bridge {version('transformer-lens')}" in heads
    assert {name for name in rows if "**" not in name} == {"what happens", *BEHAVIOURS}
    for name in BEHAVIOURS:
        cells = [cell.strip() for cell in rows[name].strip("| ").split(" | ")[1:]]
        assert len(cells) == heads.count("|") - 2
        for cell in cells:
            counted, _, expected = cell.partition(" / ")
            assert cell == "–" or counted == expected, (name, cell)


def test_every_version_in_the_table_is_in_the_range_and_its_ends_are_in_the_table() -> None:
    from packaging.specifiers import SpecifierSet

    table = (ROOT / "docs" / "hooks.md").read_text().partition("<!-- table: begin -->")[2]
    versions = re.findall(r"(?:HT|bridge) ([\d.]+)", table)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [d for d in project["dependencies"] if d.startswith("transformer-lens")]
    specifiers = SpecifierSet(wanted.removeprefix("transformer-lens"))
    assert all(specifiers.contains(v) for v in versions)
    assert any(f">={v}" in wanted for v in versions)


PAGES = ("corpora.md", "course.md", "estimation.md", "hooks.md", "scaling.md", "tokens.md")


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}" for name in PAGES)])
def test_every_figure_and_page_that_is_linked_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]*?)\)", text) if not link.startswith(("http", "#"))]
    assert all(((ROOT / page).parent / link).is_file() for link in links), links
    if page != "docs/hooks.md":
        assert re.search(r"!\[[^\]]*\]\(.*?\.png\)", text)
