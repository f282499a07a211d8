"""What a file is, in words: from its header alone, so that a large one is told as fast as a small one."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_probe import store
from mi_probe.coverage import absent, described, origin, parts_from
from mi_probe.errors import MIProbeError, StoreError
from mi_probe.memory import in_bytes

__all__ = ["kind_of", "told"]

_KINDS = {
    "state": "a state, the counts of a probe",
    "checkpoint": "a checkpoint, the counts of a run that is not over",
    "result": "a result, the estimates of a probe",
    "edges": "edges of bins, for runs to come",
}
_LONGEST = 100  # characters of a value
_SAID_ELSEWHERE = ("probe", "corpus", "order", "shard", "calibration", "seed")  # facts of a run that have a row of their own
_MOST_POINTS = 4  # whose convergence is shown; of more, the first and the last


def kind_of(contents: store.Contents) -> str:
    """``"state"``, ``"checkpoint"`` (a state of a run that can go on), ``"result"`` or ``"edges"``; else what the file says."""
    run = contents.header.get("run")
    goes_on = isinstance(run, dict) and run.get("position") is not None
    return "checkpoint" if contents.kind == "state" and goes_on else contents.kind


def told(path: str | os.PathLike[str], *, check: bool = False) -> str:
    """What a file is and holds, in words and tables.

    Parameters
    ----------
    path : path
    check : bool
        Read all of it and verify its digest, too.

    Raises
    ------
    StoreError
        Missing, cut off, altered, not of mi_probe, or with a header that makes no sense.

    Examples
    --------
    >>> import mi_probe, numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> state = mi_probe.ProbeState(mi_probe.Probe(bins=3, lags=0))
    >>> state.update("layer 0", np.random.default_rng(0).standard_normal((60, 4)))
    >>> state.save(f"{folder.name}/a.safetensors")
    >>> for line in told(f"{folder.name}/a.safetensors").splitlines()[-2:]:
    ...     print(line)
      hook point  dimensions  pairs  bins  method       samples  bytes
      layer 0              4      6     3  equal_count       60  600 B
    >>> folder.cleanup()
    """
    path = Path(path)
    contents = store.check(path) if check else store.look(path)
    try:
        return _told(path, contents, check)
    except (MIProbeError, KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        raise StoreError(
            f"{path} has a header that makes no sense: {error!r}; mi-probe info --check tells if it fits."
        ) from error


def _told(path: Path, contents: store.Contents, checked: bool) -> str:
    header, kind = contents.header, kind_of(contents)
    if kind not in _KINDS:
        raise StoreError(f"{path} says that it is '{kind}', which this mi_probe does not know.")
    lines = [f"{path}: {_KINDS[kind]} ({header['schema']}, mi_probe {header.get('writer')}), {in_bytes(contents.nbytes)}"]
    rows = [row for row in _rows(header) if row[1]]
    if checked:
        rows.append(("digest", "fits: the file is as it was written"))
    width = max((len(name) for name, _ in rows), default=0)
    width = max(width, len("hook point"))
    lines += [f"  {name:<{width}}  {value}" for name, value in rows]
    lines += _convergence(header.get("convergence") or [], of_tokens=_counts_tokens(header))
    points = _points(contents)
    if points:
        lines += ["", *_indented(points, 2)]
    return "\n".join(lines)


def _rows(header: Mapping[str, Any]) -> list[tuple[str, str]]:
    about = header["about"] if isinstance(header.get("about"), dict) else {}  # of results and edges
    probe = _probe(header)
    run = dict(header.get("run") or {})
    totals, position = run.pop("totals", {}), run.pop("position", None)
    parts = parts_from(header.get("parts") or [])
    origin = about if header["schema"].startswith("edges/") else header.get("calibration") or {}
    return [
        ("probe", str(probe.get("about") or "")),
        ("asked for", _choices(probe)),
        ("model", _model(header.get("model") or about.get("model") or {})),
        ("tokens", _tokens(header, about)),
        *((str(name), _value(number)) for name, number in totals.items()),
        *(("corpus", line) for line in described(parts)),
        *(("not here", line) for line in absent(parts)),
        ("edges", _origin(origin)),
        ("run", _facts({key: value for key, value in run.items() if key not in _SAID_ELSEWHERE and value not in (None, 0)})),
        ("goes on", "" if position is None else _place(position, run.get("max_tokens"))),
    ]


def _probe(header: Mapping[str, Any]) -> dict[str, Any]:
    about = header["about"] if isinstance(header.get("about"), dict) else {}
    return tomllib.loads(header.get("probe") or about.get("probe") or "")


def _counts_tokens(header: Mapping[str, Any]) -> bool:
    return _probe(header).get("variables") == "tokens"


def _choices(probe: Mapping[str, Any]) -> str:
    """What a probe measures in one line; what is off or not limited is not said."""
    flat = {k: v for key, value in probe.items() for k, v in (value.items() if isinstance(value, dict) else [(key, value)])}
    if flat.get("variables") == "tokens":
        some = isinstance(flat.get("dimensions"), int)
        of_none = ("pairs", "method", "lags", *(() if some else ("chosen_by", "seed")))  # they say nothing about pairs of tokens
        flat = {key: value for key, value in flat.items() if key not in of_none}
    return _facts({key: value for key, value in flat.items() if key != "about" and value not in (False, 0, "all", [])})


def _origin(about: Mapping[str, Any]) -> str:
    said = origin(about)
    return said + (f", seed {about['seed']}" if said and about.get("seed") is not None else "")


def _place(position: Mapping[str, Any], limit: int | None) -> str:
    """How far a run is that is not over."""
    of = "" if limit is None else f" of {limit:,}"
    tokens, block = _value(position.get("tokens")), _value(position.get("block"))
    return f"with --resume, after {tokens}{of} tokens of the text, in its block {block}"


def _model(model: Mapping[str, Any]) -> str:
    name, layers, width = (model.get(key) for key in ("name", "n_layers", "d_model"))
    known = [f"{_value(layers)} layers" if layers else "", f"width {_value(width)}" if width else ""]
    flags = [str(key).replace("_", " ") for key, value in model.items() if value is True]
    rest = {k: v for k, v in model.items() if k not in ("name", "n_layers", "d_model") and not isinstance(v, bool)}
    return ", ".join(filter(None, [str(name or ""), *known, *flags, _facts(rest)]))


def _tokens(header: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    seen = header.get("tokens_seen") if "tokens_seen" in header else about.get("tokens_seen")
    if seen is None:
        return ""
    books = header.get("ledger") or {}
    left_out = {reason: n for reason, n in books.get("tokens", {}).items() if reason != "counted"}
    passes = books.get("passes", {}).get("counted")
    text = f"{_value(seen)} counted"
    text += f" in {_value(passes)} forward {'pass' if passes == 1 else 'passes'}" if passes else ""
    return text + "".join(f"; left out: {_value(n)} {reason}" for reason, n in left_out.items())


def _convergence(rows: Sequence[Mapping[str, Any]], *, of_tokens: bool = False) -> list[str]:
    """Mean MI over pairs, or over keys of pairs of tokens, as the run went on; at all hook points if they are few."""
    names = list(dict.fromkeys(name for row in rows for name in row.get("points", {})))
    if not names:
        return []
    names = names if len(names) <= _MOST_POINTS else [names[0], names[-1]]
    table = [["tokens", *(text for name in names for text in (name, "change"))]]
    before: dict[str, float] = {}
    for row in rows:
        cells = [_value(row["tokens"])]
        for name in names:
            mi = row["points"].get(name, {}).get("mi")
            change = None if mi is None or name not in before else mi - before[name]
            cells += ["-" if mi is None else f"{mi:.4f}", "-" if change is None else f"{change:+.4f}"]
            before |= {} if mi is None else {name: mi}
        table.append(cells)
    over = "kinds of pairs of tokens" if of_tokens else "pairs"
    return ["", f"  convergence: mean MI over {over}, in nats, after so many tokens", *_indented(table, 2)]


def _facts(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{str(key).replace('_', ' ')} {_value(value)}" for key, value in facts.items() if value is not None)


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join((value if isinstance(value, str) else json.dumps(value)).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _points(contents: store.Contents) -> list[list[str]]:
    """A table of hook points: what is known of each from its facts and the shapes of its arrays."""
    found = []
    for k, facts in enumerate(contents.header["points"]):
        arrays = {name.partition(".")[2]: at for name, at in contents.tensors.items() if name.startswith(f"{k}.")}
        edges, tables, estimates = (arrays.get(name) for name in ("edges", "tables", "mi"))
        row = {"hook point": facts["name"]}
        sides = " and ".join(str(side[1]) for side in facts.get("sides", ()))  # of an activation, or counted of it
        if edges is not None:
            all_of = f" of {facts['width']:,}" if facts.get("width", edges.shape[0]) != edges.shape[0] else ""
            row |= {"dimensions": f"{edges.shape[0]:,}{all_of}" if all_of or not sides else sides}
        elif "variables" in facts:
            row |= {"dimensions": sides or f"{len(facts['variables']):,}"}
        pairs = None if "tokens.tables" in arrays else tables or estimates  # those of tokens are in no header
        row |= {"pairs": f"{pairs.shape[0]:,}"} if pairs is not None else {}
        bins = facts.get("bins", None if edges is None else edges.shape[1] + 1)
        row |= {"bins": str(bins)} if bins is not None else {}
        row |= {name: str(facts[name]) for name in ("method", "correction") if name in facts}
        samples = facts.get("n", facts.get("samples"))
        row |= {"samples": f"{samples:,}"} if isinstance(samples, int) else {}
        row |= {"beside": _beside(arrays)} if _beside(arrays) else {}
        row["bytes"] = in_bytes(sum(at.nbytes for at in arrays.values()))
        found.append(row)
    names = list(dict.fromkeys(name for row in found for name in row))
    return [names, *([row.get(name, "-") for name in names] for row in found)] if found else []


def _beside(arrays: Mapping[str, store.Tensor]) -> str:
    """What is kept beside the pairs."""
    shards = sum(name.startswith("shard.") and name.endswith(".tables") for name in arrays)
    said = [
        f"{arrays['lagged'].shape[0]} lags" if "lagged" in arrays else "",
        f"{shards} shards" if shards else "",
        "swap" if "swapped.tables" in arrays else "",
        "moments" if "moments.n" in arrays else "",
        *_of_tokens(arrays),
    ]
    return ", ".join(filter(None, said))


def _of_tokens(arrays: Mapping[str, store.Tensor]) -> list[str]:
    """Pairs of tokens and by how many keys; of edges, the tokens that are to be compared with."""
    if "tokens.cells" in arrays:
        keys, shards, _ = arrays["tokens.cells"].shape
        return [f"pairs of tokens by {keys} keys", f"{shards} shards"]
    return [f"tokens to compare with: {arrays['others'].shape[0]}"] if "others" in arrays else []


def _indented(table: Sequence[Sequence[str]], by: int) -> list[str]:
    """A table in columns: words to the left, numbers to the right."""
    head, *rows = table
    columns = list(zip(*table, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1].isdigit() or cell[:1] in "-+" for cell in column[1:]) for column in columns]
    lines = []
    for row in (head, *rows):
        cells = (f"{cell:>{w}}" if r else f"{cell:<{w}}" for cell, w, r in zip(row, widths, right, strict=True))
        lines.append((" " * by + "  ".join(cells)).rstrip())
    return lines
