"""What was counted, what was left out, and why: the books of a probe."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mi_probe.errors import several

__all__ = ["COUNTED", "UNCOUNTED_PASS", "Ledger", "PointStatus", "Status"]

COUNTED = "counted"
UNCOUNTED_PASS = "in forward passes that were not counted"

# Why a forward pass was not counted.
PAUSED = "the probe was paused"
CHANGED = "the model's weights were processed after the probe was attached"
RAISED = "an error ended it"
STOPPED = "stop_at_layer came before the last hook point of the probe"
NO_TOKENS = "no token ids (start_at_layer, or embeddings as input)"
UNREADABLE_MASK = "its attention mask does not tell what is padding"
STAND_INS = "it ran under vmap, jvp or fake tensors"
HOOKS_GONE = "the probe's hooks were taken off"
SILENT = "a hook point of the probe did not fire"
MISFIT = "a hook point gave something else than one row of numbers a token"
DETACHED = "the probe was detached or attached anew in the middle of it"
NO_MEMORY = "its counts did not fit in memory"
NO_EDGES = "no edges could be fitted with its tokens"
NO_LABELS = "it had no labels, or others than one for each token"
TOO_FEW_VISITS = "a hook point fired less often than Probe(visit=...) asks for"


@dataclass
class Ledger:
    """Forward passes and tokens by what became of them.

    Attributes
    ----------
    passes : Counter
        ``"counted"``, or the reason why a forward pass was not.
    tokens : Counter
        ``"counted"``, or the reason why a token was left out. Every token that went into a forward pass is in one of them.

    Examples
    --------
    >>> ledger = Ledger()
    >>> ledger.tokens.update({"counted": 9, "padding": 3})
    >>> ledger.tokens.total()
    12
    """

    passes: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    def enter_uncounted(self, reason: str, tokens: int) -> None:
        """Enter a forward pass that was not counted."""
        self.passes[reason] += 1
        self.tokens[UNCOUNTED_PASS] += tokens

    def enter_counted(self, n: int, left_out: dict[str, int]) -> None:
        """Enter a forward pass that was counted, with the tokens of it that were left out."""
        self.passes[COUNTED] += 1
        self.tokens[COUNTED] += n
        self.tokens.update(left_out)

    def __iadd__(self, other: Ledger) -> Ledger:
        self.passes.update(other.passes)
        self.tokens.update(other.tokens)
        return self

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Plain numbers, for a file; what is zero is left out."""
        return {name: {k: v for k, v in sorted(getattr(self, name).items()) if v} for name in ("passes", "tokens")}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Ledger:
        """What `to_dict` wrote; an empty dictionary is an empty ledger."""
        return Ledger(*(Counter({str(k): int(v) for k, v in values.get(name, {}).items()}) for name in ("passes", "tokens")))


@dataclass(frozen=True)
class PointStatus:
    """One hook point of a probe.

    Attributes
    ----------
    hook_name : str
        In the model; empty if no model feeds it.
    counted : int
        Tokens counted.
    missing : int
        Values among them that were NaN or infinite: counted apart, left out pair by pair.
    left_out : dict of str -> int
        Rows that `ProbeState.update` left out here, by reason; those of forward passes are in `Status.tokens`.
    fired : int
        How often it fired in forward passes that the probe watched.
    fired_outside : int
        How often it fired outside a forward pass, as in the backward pass under gradient checkpointing: never counted.
    state : str
        ``"attached"``, ``"detached"``, ``"fed by update"``, or what is wrong with it.
    """

    hook_name: str
    counted: int
    missing: int
    left_out: dict[str, int] = field(default_factory=dict)
    fired: int = 0
    fired_outside: int = 0
    state: str = "fed by update"


@dataclass(frozen=True)
class Status:
    """The books of a probe at one moment; ``print`` shows them.

    Attributes
    ----------
    tokens_seen : int
    passes, tokens : dict of str -> int
        As in `Ledger`.
    points : dict of str -> PointStatus
        By the name that results carry.
    """

    tokens_seen: int
    passes: dict[str, int]
    tokens: dict[str, int]
    points: dict[str, PointStatus]

    def __str__(self) -> str:
        lines = [f"{self.tokens_seen:,} tokens counted at {several(len(self.points), 'hook point')}"]
        per_point = [point.left_out for point in self.points.values()]
        same_everywhere = bool(per_point) and all(left_out == per_point[0] for left_out in per_point)
        books = {"forward passes": self.passes, "tokens in them": self.tokens}
        if same_everywhere:
            books["left out at each hook point"] = per_point[0]
        for title, counts in books.items():
            rows = sorted(counts.items(), key=lambda item: (item[0] != COUNTED, -item[1]))
            lines += [f"  {title}"] * bool(rows)
            lines += [f"    {n:>12,}  {what if what == COUNTED else 'left out: ' + what}" for what, n in rows]
        if self.points:
            width = max(len("hook point"), *map(len, self.points))
            place = max(len("in the model"), *(len(point.hook_name) for point in self.points.values()))
            lines.append(
                f"  {'hook point':{width}}  {'in the model':{place}}  {'counted':>10}  {'missing':>8}  {'fired':>8}  state"
            )
            for name, point in self.points.items():
                outside = f" (and {point.fired_outside:,} times outside a forward pass)" if point.fired_outside else ""
                fired = f"{point.fired:>8,}" if point.hook_name else f"{'-':>8}"
                numbers = f"{point.counted:>10,}  {point.missing:>8,}  {fired}"
                lines.append(f"  {name:{width}}  {point.hook_name or '-':{place}}  {numbers}  {point.state}{outside}")
                if not same_everywhere:
                    lines += [f"    {n:>12,}  left out: {why}" for why, n in point.left_out.items()]
        return "\n".join(lines)
