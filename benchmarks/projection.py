"""From the constants measured to models and corpora that were not: the tables of docs/scaling.md.

python benchmarks/projection.py    # writes them anew from docs/measured/scaling.md
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COUNTING", "ENCODING", "ESTIMATING", "HEAD", "MODELS", "Model", "read_constants", "tables", "write"]

HEAD = ("constant", "value", "of what")
COUNTING, ESTIMATING, ENCODING = "counting, tables larger than caches", "estimating", "encoding"

TOKENS = 10**9
BINS = 8
CORES, MEMORY = 64, 512e9  # of the machine that the tables imagine
SHARE = 0.75  # of its memory for tables; the model and its activations take the rest


@dataclass(frozen=True)
class Model:
    """A model by what matters here.

    Attributes
    ----------
    name : str
    width : int
        Dimensions that are measured.
    states : int
        Hook points.
    """

    name: str
    width: int
    states: int

    @property
    def pairs(self) -> int:
        """Of one hook point."""
        return self.width * (self.width - 1) // 2

    def table_bytes(self, bins: int = BINS) -> int:
        """All tables, 4 bytes a cell."""
        return self.pairs * bins**2 * 4 * self.states

    def core_seconds(self, constants: dict[str, float], bins: int = BINS) -> float:
        """One token: encoding and counting, in seconds of one thread."""
        counting = constants[COUNTING] * self.pairs * bins**2 / 64
        return 1e-9 * self.states * (counting + constants[ENCODING] * self.width)


MODELS = (
    Model("GPT-2 small", 768, 13),
    Model("GPT-2 XL", 1600, 49),
    Model("4,096 dimensions, 32 blocks", 4096, 33),
    Model("8,192 dimensions, 80 blocks", 8192, 81),
)
SUBSETS = (
    ("everything", 1, 1, 1),
    ("one token in 16", 1, 1, 16),
    ("one token in 256", 1, 1, 256),
    ("a quarter of the dimensions", 4, 1, 1),
    ("a quarter of the dimensions, one token in 16", 4, 1, 16),
    ("every eighth hook point", 1, 8, 1),
    ("every eighth hook point, one token in 16", 1, 8, 16),
)
"""In words: every which dimension, hook point and token is kept."""


def read_constants(measured: str) -> dict[str, float]:
    """Those of the text of docs/measured/scaling.md, by name."""
    part = measured.partition("## Constants")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \| ([\d.,]+) \|", part, re.M)
    return {name: float(value.replace(",", "")) for name, value in rows}


def _digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{_digits(number / size)} {unit}"
    return f"{_digits(number / 1e3)} kB"


def _time(seconds: float) -> str:
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds)} seconds"


def _machines(number: float) -> int:
    return max(1, int(-(-number // (SHARE * MEMORY))))


def _markdown(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _models(constants: dict[str, float]) -> str:
    rows = []
    for model in MODELS:
        each, size = model.core_seconds(constants), model.table_bytes()
        machines = _machines(size)
        rows.append(
            [
                model.name, f"{model.states}", f"{model.pairs:,}", _bytes(size), _digits(1 / each), _time(each * TOKENS),
                f"{machines}", _time(each * TOKENS / (CORES * machines)),
            ]
        )  # fmt: skip
    head = ("model", "hook points", "pairs at each", "tables", "tokens a second and core", "one core", "machines", "together")
    return _markdown(head, rows)


def _subsets(constants: dict[str, float]) -> str:
    rows = []
    for model in MODELS[2:]:
        for name, dimension, point, every in SUBSETS:
            part = Model(model.name, model.width // dimension, -(-model.states // point))
            size, whole = part.table_bytes(), part.core_seconds(constants) * TOKENS / every
            machines = _machines(size)
            rows.append(
                [model.name, name, f"{part.pairs:,}", _bytes(size), f"{machines}", _time(whole / (CORES * machines)),
                 f"{(BINS - 1) ** 2 / (2 * TOKENS / every):.1e}"]
            )  # fmt: skip
    head = ("model", "what is kept", "pairs at each", "tables", "machines", "together", "chance level, nats")
    return _markdown(head, rows)


def tables(constants: dict[str, float]) -> dict[str, str]:
    """The Markdown of each table of docs/scaling.md, by its mark."""
    return {"models": _models(constants), "subsets": _subsets(constants)}


def write(page: Path, measured: Path) -> None:
    """Put the tables between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables(read_constants(measured.read_text(encoding="utf-8"))).items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"{page} must have the marks {begin} and {end}, once each.")
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    docs = Path(__file__).resolve().parents[1] / "docs"
    write(docs / "scaling.md", docs / "measured" / "scaling.md")
