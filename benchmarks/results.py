"""The measurements as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from claim import Row, Table
from claims.forward import Need
from measure import Spread

__all__ = ["format_bytes", "format_milliseconds", "format_ratio", "markdown_table", "needs_table", "section"]

_HEAD = ("what", "ours", "ms", "peak MB", "peer", "ms", "peak MB", "ratio", "target", "met", "checked first")
_LEFT = {"what", "ours", "peer", "checked first", "run", "constant", "of what"}


def digits(value: float) -> str:
    """Three digits: 0.123, 1.23, 12.3, 123, 1,230."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _spread(spread: Spread) -> str:
    return f"{digits(spread.median)} ({digits(spread.low)}–{digits(spread.high)})"


def format_milliseconds(seconds: list[float]) -> str:
    """Median and range of repeats."""
    return _spread(Spread.of([1e3 * s for s in seconds]))


def format_ratio(ratio: Spread, kind: str) -> str:
    """Median and range: how many times faster, "12.3× (11.9–12.8)", or what part of the peer's time, "1.23 of it (1.21–1.25)"."""
    sign = "×" if kind == "faster" else " of it"
    return f"{digits(ratio.median)}{sign} ({digits(ratio.low)}–{digits(ratio.high)})"


def format_bytes(number: int) -> str:
    """In MB."""
    return digits(number / 1e6)


def _met(met: bool | None) -> str:
    return {None: "–", True: "yes", False: "**no**"}[met]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---" if h in _LEFT else "--:" for h in head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _cells(row: Row) -> list[str]:
    claim, contest = row.claim, row.contest
    sign = "≥" if claim.kind == "faster" else "≤"
    return [
        contest.what,
        claim.ours.name,
        format_milliseconds(row.ours),
        format_bytes(row.ours_bytes),
        contest.peer.name + (f" *({contest.part})*" if contest.part else ""),
        format_milliseconds(row.peer),
        format_bytes(row.peer_bytes) + (" *(of the part)*" if contest.part else ""),
        format_ratio(row.ratio, claim.kind),
        "–" if claim.target is None else f"{sign} {claim.target:,g}",
        _met(row.met),
        claim.checked,
    ]


def section(table: Table, rows: Iterable[Row]) -> str:
    """A claim's heading and table."""
    return f"## {table.title}\n\n{table.about}\n\n{markdown_table(_HEAD, map(_cells, rows))}"


def needs_table(needs: Iterable[Need]) -> str:
    """The table about memory."""
    head = ("run", "extra peak MB", "tables MB", "ratio", "target", "met")
    rows = (
        [
            need.what,
            format_bytes(need.extra),
            format_bytes(need.tables),
            f"{need.ratio:.2f}",
            "–" if need.target is None else f"≤ {need.target:g}",
            _met(need.met),
        ]
        for need in needs
    )
    return markdown_table(head, rows)
