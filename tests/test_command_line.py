"""mi-probe ls, show, cp and run, and every recipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mi_probe
from mi_probe import cli, rooms
from mi_probe.errors import MIProbeError, RoomError


def call(*arguments: str) -> None:
    cli.app(list(arguments), result_action="return_value", exit_on_error=False)


def test_ls_names_every_probe_and_recipe_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    call("ls")
    printed = capsys.readouterr().out
    for which in ("probes", "recipes"):
        for name in rooms.names(which):
            line = rooms.about(rooms.find(which, name))
            assert line
            assert f"{name} " in printed
            assert line in printed
    assert "mi-probe cp NAME.ipynb" in printed


def test_show_prints_the_file_itself(capsys: pytest.CaptureFixture[str]) -> None:
    call("show", "dimension_pairs")
    printed = capsys.readouterr().out
    assert "def run(" in printed
    assert 'hooks = "hidden_states"' in printed
    call("show", "dimension_pairs.toml")
    assert "def run(" not in capsys.readouterr().out


def test_a_copy_is_the_file_and_is_never_overwritten_silently(tmp_path: Path) -> None:
    call("cp", "dimension_pairs.py", str(tmp_path))
    copy = tmp_path / "dimension_pairs.py"
    assert copy.read_text() == rooms.read_text(rooms.find("recipes", "dimension_pairs"))
    copy.write_text("mine")
    with pytest.raises(RoomError, match="--force"):
        call("cp", "dimension_pairs.py", str(tmp_path))
    assert copy.read_text() == "mine"
    call("cp", "dimension_pairs.py", str(copy), "--force")
    assert copy.read_text() != "mine"
    call("cp", "course_histogram", str(tmp_path / "new" / "mine.toml"))
    assert mi_probe.load_probe(tmp_path / "new" / "mine.toml").bins == 15


def test_a_notebook_is_copied_when_it_is_asked_for_and_never_overwritten_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    call("cp", "dimension_pairs.ipynb")
    assert capsys.readouterr().out == "copied to dimension_pairs.ipynb; open it in Jupyter, or upload it to Colab\n"
    copy = tmp_path / "dimension_pairs.ipynb"
    assert copy.read_text() == rooms.read_text(rooms.find("notebooks", "dimension_pairs"))
    copy.write_text("mine")
    with pytest.raises(RoomError, match="--force"):
        call("cp", "dimension_pairs.ipynb")
    assert copy.read_text() == "mine"
    call("cp", "dimension_pairs.ipynb", "--force")
    call("cp", "dimension_pairs", "mine.ipynb")
    assert copy.read_text() == (tmp_path / "mine.ipynb").read_text() != "mine"
    call("cp", "dimension_pairs", "folder")
    assert sorted(path.suffix for path in (tmp_path / "folder").iterdir()) == [".py", ".toml"]
    with pytest.raises(RoomError, match=r"no recipe or probe 'course_histogram\.ipynb'"):
        call("cp", "course_histogram.ipynb")
    with pytest.raises(RoomError, match=r"not a \.ipynb file"):
        call("cp", "course_histogram", "histogram.ipynb")


def test_a_notebook_is_not_shown_but_opened() -> None:
    with pytest.raises(RoomError, match=r"mi-probe cp dimension_pairs\.ipynb; .* dimension_pairs\.py"):
        call("show", "dimension_pairs.ipynb")


@pytest.mark.parametrize("command", ["show", "cp", "run"])
def test_a_name_that_does_not_exist_brings_the_nearest(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MIProbeError, match="did you mean 'dimension_pairs'"):
        call(command, "dimensions_pairs")


@pytest.mark.parametrize("name", rooms.names("recipes"))
def test_the_copy_of_every_recipe_runs(
    name: str, roomy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    call("cp", f"{name}.py", "mine.py")
    out = tmp_path / "out"
    call("run", "./mine.py", "--model", str(roomy_folder), "--out", str(out))
    assert "nats" in capsys.readouterr().out
    assert {p.suffix for p in out.iterdir()} >= {".png", ".safetensors", ".csv"}


@pytest.mark.parametrize("name", rooms.names("recipes"))
def test_every_recipe_is_one_short_file_with_a_header_and_public_names(name: str) -> None:
    text = rooms.read_text(rooms.find("recipes", name))
    assert text.count("\n") <= 160
    for part in ("Question", "Command", "Cost", "Expect", f"mi-probe run {name}"):
        assert part in text
    assert "._" not in text


def test_dimension_pairs_writes_what_it_says(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text("a short text about coffee and nothing else, " * 5)
    out = tmp_path / "out"
    options = [
        "--hooks",
        "resid_post",
        "--layers",
        "0",
        "-1",
        "--bins",
        "4",
        "--text-file",
        str(tmp_path / "one.txt"),
    ]
    call("run", "dimension_pairs", "--model", str(tiny_folder), "--out", str(out), *options)
    printed = capsys.readouterr().out
    result = mi_probe.MIResult.load(out / "result.safetensors")
    state = mi_probe.ProbeState.load(out / "state.safetensors")
    assert list(result) == list(state.streams) == ["resid_post.0", "resid_post.2"]
    assert state.tokens_seen == result["resid_post.0"].samples == 220
    assert result["resid_post.0"].bins == 4
    assert "220 tokens of one.txt" in printed
    assert "120 pairs" in printed
    for figure in ("distributions", "heat_map", "depth", "pairs"):
        assert (out / f"{figure}.png").stat().st_size > 5000
        assert str(out / f"{figure}.png") in printed


def test_help_is_there_for_run_and_for_each_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    call("run", "--help")
    assert "mi-probe run NAME --help" in capsys.readouterr().out
    call("run", "dimension_pairs", "--help")
    assert "--heat-map-at" in capsys.readouterr().out


def test_a_wrong_point_for_the_heat_map_is_refused_before_anything_is_counted(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MIProbeError, match=r"hidden_states\.3"):
        call("run", "dimension_pairs", "--model", str(tiny_folder), "--heat-map-at", "hidden_states.99", "--out", str(tmp_path))
    assert not list(tmp_path.glob("*"))


def test_a_copy_keeps_its_ending(tmp_path: Path) -> None:
    with pytest.raises(RoomError, match=r"not a \.py file"):
        call("cp", "course_histogram", str(tmp_path / "mine.py"))
    (tmp_path / "dimension_pairs.toml").write_text("mine")
    with pytest.raises(RoomError, match="is there already"):
        call("cp", "dimension_pairs", str(tmp_path))
    assert not (tmp_path / "dimension_pairs.py").exists()


def test_an_error_is_one_clear_line_and_exit_code_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mi_probe.cli", "run", "dimension_pairs", "--text-file", "none.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no file or folder none.txt")
    assert "Traceback" not in done.stderr


def test_standard_input_is_read(tiny_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mi_probe.cli", "run", "dimension_pairs", "--model", str(tiny_folder), "--text-file", "-"]
    done = subprocess.run(command, cwd=tmp_path, input="piped text", capture_output=True, text=True, check=True)
    assert "10 tokens of standard input" in done.stdout
