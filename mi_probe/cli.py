"""The command mi-probe: list, show and copy probes and recipes, plan, calibrate, run; merge files, say what they are."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from mi_probe import __version__, rooms
from mi_probe.errors import InputError, MIProbeError, MIProbeWarning, RankError, RoomError, nearest
from mi_probe.options import Texts

__all__ = ["app", "main"]

app = App(
    name="mi-probe",
    version=__version__,
    help="How much information do the hidden units of a language model share?",
    suppress_keyboard_interrupt=False,  # a run that was stopped has something to say
)


@app.command
def ls() -> None:
    """List the ready-made probes and recipes."""
    as_notebook = "; as a Jupyter notebook: mi-probe cp NAME.ipynb"
    uses: dict[rooms.Room, str] = {"recipes": f"mi-probe run NAME{as_notebook}", "probes": "mi-probe run RECIPE --probe NAME"}
    for which, use in uses.items():
        names = rooms.names(which)
        print(f"{which} ({use})")
        width = max(map(len, names), default=0)
        for name in names:
            print(f"  {name:<{width}}  {rooms.about(rooms.find(which, name))}")


@app.command
def show(name: str) -> None:
    """Print a recipe or a probe.

    Parameters
    ----------
    name : str
        As `mi-probe ls` lists it. A name that both have shows both.
    """
    if name.endswith(".ipynb"):
        recipe = f"{name.removesuffix('.ipynb')}.py"
        raise RoomError(f"a notebook is to be opened: mi-probe cp {name}; it has the steps of {recipe}, which can be shown.")
    for path in _anywhere(name):
        print(f"# {path.name}\n{rooms.read_text(path)}")


@app.command
def cp(name: str, dest: Path = Path(), *, force: bool = False) -> None:
    """Copy a recipe, a recipe as a Jupyter notebook, or a probe, to edit it.

    Parameters
    ----------
    name : str
        As `mi-probe ls` lists it; with its ending (.py or .toml) if a recipe and a probe share it; with .ipynb for the notebook.
    dest : Path
        A folder, or the name of the copy.
    force : bool
        Replace a file that is there.
    """
    into_folder = dest.is_dir() or not dest.suffix
    sources = _anywhere(name, notebooks=not into_folder and dest.suffix == ".ipynb")
    if not into_folder:
        sources = [s for s in sources if s.suffix == dest.suffix]
        if not sources:
            raise RoomError(f"{name} is not a {dest.suffix} file: name a folder, or a copy with its own ending.")
    targets = [dest / source.name if into_folder else dest for source in sources]
    for target in targets:
        if target.exists() and not force:
            raise RoomError(f"{target} is there already: choose another name, or say --force to replace it.")
    for source, target in zip(sources, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rooms.read_text(source), encoding="utf-8")
        path = str(target) if target.parent != Path() else f"./{target}"
        uses = {".py": f"edit it, then: mi-probe run {path}", ".toml": f"edit it, then: mi-probe run RECIPE --probe {path}"}
        print(f"copied to {target}; {uses.get(target.suffix, 'open it in Jupyter, or upload it to Colab')}")


@app.command
def plan(
    probe: str = "dimension_pairs",
    *,
    model: str = "coffee-gpt2",
    hooks: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    layers: Annotated[list[int] | None, Parameter(consume_multiple=True, negative=())] = None,
    bins: int | None = None,
    dimensions: int | None = None,
    chosen_by: Literal["variance", "random"] | None = None,
    pairs: int | None = None,
    sample_every: int | None = None,
    lags: int | None = None,
    shards: int | None = None,
    swap: bool | None = None,
    moments: bool | None = None,
    furthest: int | None = None,
    tokens: int | None = None,
    pass_tokens: int = 1024,
) -> None:
    """Say what a probe will take, before anything is loaded: memory, files, time.

    Parameters
    ----------
    probe : str
        A ready-made probe, as `mi-probe ls` lists it, or a TOML file.
    model : str
        The bundled model (coffee-gpt2), a name on the Hugging Face hub (gpt2-xl), or a folder with a config.json.
    hooks : list
        Hook points in place of the probe's: a named set such as resid_post, names, or patterns.
    layers : list
        Only these layers of the hook points.
    bins : int
        Bins of each dimension in place of the probe's.
    dimensions : int
        Only so many dimensions of each hook point.
    chosen_by : str
        How they are chosen: by the largest variance, or at random.
    pairs : int
        Only so many pairs, at random.
    sample_every : int
        Count one token in so many.
    lags : int
        Lags in place of the probe's.
    shards : int
        Shards in place of the probe's.
    swap : bool
        Count across documents, too.
    moments : bool
        Keep second moments, too.
    furthest : int
        Pairs of tokens up to this far apart, in place of the probe's.
    tokens : int
        How many tokens there will be. A text that ends before the calibration does takes far less.
    pass_tokens : int
        Tokens in one forward pass.
    """
    from mi_probe.planning import plan as planned
    from mi_probe.probe import load_probe

    asked: dict[str, Any] = {
        "hooks": hooks,
        "layers": layers,
        "bins": bins,
        "dimensions": dimensions,
        "chosen_by": chosen_by,
        "pairs": pairs,
        "sample_every": sample_every,
        "lags": lags,
        "shards": shards,
        "swap": swap,
        "moments": moments,
        "furthest": furthest,
    }
    what = replace(load_probe(probe), **{name: value for name, value in asked.items() if value is not None})
    print(planned(model, what, tokens=tokens, pass_tokens=pass_tokens))


@app.command
def calibrate(
    probe: str = "dimension_pairs",
    *,
    texts: Texts = Texts(),
    model: str = "coffee-gpt2",
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("edges.safetensors"),
    force: bool = False,
    stretches: int = 64,
    hooks: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    layers: Annotated[list[int] | None, Parameter(consume_multiple=True, negative=())] = None,
    bins: int | None = None,
    trim_z: float | None = None,
    calibration_tokens: int | None = None,
) -> None:
    """Fit the edges of bins on a random sample of a corpus, for all runs over it, and save them.

    All text is read once; only the sample is run.

    Parameters
    ----------
    probe : str
        A ready-made probe, as `mi-probe ls` lists it, or a TOML file.
    model : str
        The bundled model (coffee-gpt2), a name on the Hugging Face hub (gpt2), or a folder.
    out : Path
        Where to save the edges.
    force : bool
        Replace a file that is there.
    stretches : int
        Stretches of text that the sample is from, at least; more of them represent the corpus better, and take longer.
    hooks : list
        Hook points in place of the probe's: a named set such as resid_post, names, or patterns.
    layers : list
        Only these layers of the hook points.
    bins : int
        Bins of each dimension in place of the probe's.
    trim_z : float
        Leave out values further than this many standard deviations from the mean of their dimension.
    calibration_tokens : int
        Tokens of the sample in place of the probe's.
    """
    from mi_probe.calibration import calibrate as calibrated
    from mi_probe.models import load_model
    from mi_probe.probe import load_probe

    if out.is_dir() or not out.parent.is_dir():
        raise RoomError(f"--out {out} must name a file in a folder that is there.")
    if out.exists() and not force:
        raise RoomError(f"{out} is there already: choose another name, or say --force to replace it.")
    asked: dict[str, Any] = {
        "hooks": hooks,
        "layers": layers,
        "bins": bins,
        "trim_z": trim_z,
        "calibration_tokens": calibration_tokens,
    }
    if not texts.named:
        raise InputError("name the texts: --text-file FILES or folders, --dataset NAME, or --text TEXT.")
    what = replace(load_probe(probe), **{name: value for name, value in asked.items() if value is not None})
    edges = calibrated(load_model(model), texts.corpus(), what, seed=texts.seed, stretches=stretches, progress=True)
    edges.save(out)
    print(edges)
    recipe, its = ("distance_over_corpus", "tokens_by_distance") if what.variables == "tokens" else ("dimension_pairs",) * 2
    words = ["mi-probe", "run", recipe, "--model", model, *texts.words()]
    for option, given in (("--probe", [probe] if probe != its else None), ("--hooks", hooks), ("--layers", layers)):
        words += [option, *map(str, given)] if given else []
    print(f"saved to {out}; count with them: {shlex.join([*words, '--edges', str(out)])}")


@app.command
def merge(
    files: Annotated[list[Path], Parameter(consume_multiple=True, negative=())],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    force: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Add up state files, as the tasks of a job array leave them: shards of one corpus, each once.

    Parameters
    ----------
    files : list
        State files, or checkpoints.
    out : Path
        The file to write.
    force : bool
        Replace a file that is there.
    """
    from mi_probe.merging import merge_files

    merge_files(files, out, replace=force, say=print)


@app.command
def info(
    files: Annotated[list[Path], Parameter(consume_multiple=True, negative=())],
    /,
    *,
    check: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Say what files are and what they hold: states, checkpoints, results, edges.

    Parameters
    ----------
    files : list
    check : bool
        Read all of each and verify its digest; without, only headers are read.
    """
    from mi_probe.info import told

    failed = False
    for k, file in enumerate(files):
        try:
            print("\n" * bool(k) + told(file, check=check))
        except MIProbeError as error:  # the others are told all the same
            print(f"error: {error}", file=sys.stderr)
            failed = True
    if failed:
        sys.exit(1)


@app.command(help_flags=[])
def run(
    name: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
) -> None:
    """Run a recipe. Its own options: mi-probe run NAME --help.

    Parameters
    ----------
    name : str
        A recipe, as `mi-probe ls` lists it, or a recipe file of your own.
    arguments : str
        The recipe's options.
    """
    if name in ("--help", "-h"):
        app.help_print(["run"])
        return
    path = rooms.find("recipes", name)
    recipe = App(
        name=f"mi-probe run {name}",
        help_format="plaintext",
        version_flags=[],
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=(), consume_multiple=True),
    )
    recipe.default(_function(path))
    recipe(_standard_input_named(arguments), result_action="return_value")


def _standard_input_named(arguments: tuple[str, ...]) -> list[str]:
    """A lone hyphen after --text-file as a path, since a hyphen would be read as an option."""
    option, named = "", []
    for argument in arguments:
        option = argument if argument.startswith("--") else option
        named.append("/dev/stdin" if argument == "-" and option == "--text-file" else argument)
    return named


def _anywhere(name: str, *, notebooks: bool = False) -> list[Path]:
    """The files of a name in all rooms, or of a name and an ending in one; notebooks only if they are asked for."""
    stem, dot, ending = name.rpartition(".")
    has_ending = bool(dot) and f".{ending}" in (".py", ".toml", ".ipynb")
    found = []
    for which in ("recipes", "probes", "notebooks"):
        if (stem if has_ending else name) in rooms.names(which):
            path = rooms.find(which, stem if has_ending else name)
            if path.suffix == f".{ending}" if has_ending else notebooks or which != "notebooks":
                found.append(path)
    if not found:
        every = [*rooms.names("recipes"), *rooms.names("probes")]
        raise RoomError(f"there is no recipe or probe '{name}'{nearest(name, every)}; `mi-probe ls` lists all.")
    return found


def _function(path: Path) -> Callable[..., Any]:
    """The function `run` of a recipe file."""
    spec = importlib.util.spec_from_file_location(f"mi_probe_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RoomError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # type hints of the recipe are resolved through it
    spec.loader.exec_module(module)
    function: Callable[..., Any] | None = getattr(module, "run", None)
    if not callable(function):
        raise RoomError(
            f"{path} has no function run(...): a recipe is a file with one. `mi-probe show dimension_pairs` shows how."
        )
    return function


def main() -> None:
    """Entry point of the console script. Of several processes that torchrun started, the first speaks for all."""
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"warning: {message}\n"
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        warnings.simplefilter("ignore", MIProbeWarning)
    try:
        app(_standard_input_named(tuple(sys.argv[1:])))
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        sys.exit(0)
    except (MIProbeError, OSError) as error:
        if rank == "0":
            print(f"error: {error}", file=sys.stderr)
        elif isinstance(error, RankError):  # the first one may be who is gone
            print(f"error on rank {rank}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        if rank == "0":
            print(str(stop) or "stopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
