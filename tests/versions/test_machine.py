"""Four hundred random steps: a probe against a plain model of what it should have counted.

The same steps every time; MI_PROBE_RANDOM_STEPS=20000 takes as many others, new ones each time.
"""

from __future__ import annotations

import copy
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .kits import DEFAULT, EVERYTHING, MAKERS, Kit, everything_on, kit

PROBES = {
    "default": DEFAULT,
    "everything": EVERYTHING,
    "first three left out": replace(DEFAULT, skip_first=3, skip_special=False),
    "after others": replace(DEFAULT, when="after"),
}
texts = st.lists(st.integers(0, 20), min_size=1, max_size=6)


def what_counts(row: list[int], name: str) -> list[int]:
    """The rule, as plainly as it can be said: by position and by token."""
    probe = PROBES[name]
    return [t for place, t in enumerate(row) if place >= probe.skip_first and not (probe.skip_special and t == 0)]


@dataclass
class Expected:
    """What one probe should have counted."""

    name: str
    probe: Any
    tokens: list[int] = field(default_factory=list)
    paused: Any = None
    wiped: bool = False

    def sees(self, row: list[int], first: int = 0) -> None:
        """A pass over a row, of which the first tokens were seen before."""
        if self.paused is None and not self.wiped:
            before = what_counts(row[:first], self.name)
            self.tokens += what_counts(row, self.name)[len(before) :]


class Machine(RuleBasedStateMachine):
    """Steps on one model; a copy without probes says what the logits should be."""

    kind: str

    @initialize()
    def start(self) -> None:
        self.kit: Kit = kit(self.kind)
        self.model = self.kit.model
        self.bare = copy.deepcopy(self.model)
        with torch.no_grad():
            self.model(torch.tensor([[1]]))
        self.before = everything_on(self.model)
        self.probes: list[Expected] = []
        self.had_a_graph = False

    def all_see(self, row: list[int], first: int = 0) -> None:
        for expected in self.probes:
            expected.sees(row, first)

    # -- probes come and go --

    @precondition(lambda self: len(self.probes) < 3)
    @rule(name=st.sampled_from(sorted(PROBES)))
    def attach(self, name: str) -> None:
        self.probes.append(Expected(name, self.kit.attach(PROBES[name])))

    @precondition(lambda self: self.probes)
    @rule(which=st.integers(0, 2), how=st.sampled_from(["detach", "with", "error", "del"]))
    def leave(self, which: int, how: str) -> None:
        gone = self.probes.pop(which % len(self.probes))
        if gone.paused is not None:
            gone.paused.__exit__(None, None, None)
        if how == "del":
            gone.probe = None
        elif how == "detach":
            gone.probe.detach()
        elif how == "with":
            with gone.probe:
                pass
        else:
            with suppress(KeyboardInterrupt), gone.probe:
                raise KeyboardInterrupt
        if gone.probe is not None:
            assert self.kit.read(gone.probe) == gone.tokens

    @precondition(lambda self: self.probes)
    @rule(which=st.integers(0, 2))
    def pause_or_go_on(self, which: int) -> None:
        one = self.probes[which % len(self.probes)]
        if one.paused is None:
            one.paused = one.probe.pause()
            one.paused.__enter__()
        else:
            one.paused.__exit__(None, None, None)
            one.paused = None

    # -- passes --

    @rule(row=texts, how=st.sampled_from(["call", "run_with_cache", "run_with_hooks", "grad", "copy"]))
    def run(self, row: list[int], how: str) -> None:
        tokens = torch.tensor([row])
        self.had_a_graph |= how == "grad"
        how = "call" if how == "copy" and self.had_a_graph else how  # some versions keep tensors that cannot be copied then
        with torch.set_grad_enabled(how == "grad"):
            if how == "run_with_cache":
                logits = self.model.run_with_cache(tokens)[0]
            elif how == "run_with_hooks":
                logits = self.model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", lambda x, hook: None)])
            elif how == "copy":
                logits = copy.deepcopy(self.model)(tokens)
            else:
                logits = self.model(tokens)
            assert torch.equal(logits, self.bare(tokens))
        if how != "copy":
            self.all_see(row)

    @rule(rows=st.lists(texts, min_size=2, max_size=3))
    def run_padded(self, rows: list[list[int]]) -> None:
        length = max(map(len, rows))
        tokens = torch.tensor([row + [7] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        with torch.no_grad():
            assert torch.equal(self.model(tokens, attention_mask=mask), self.bare(tokens, attention_mask=mask))
        for row in rows:
            self.all_see(row)

    @rule(row=texts.map(lambda row: [*row, 5]), steps=st.integers(1, 3), cache=st.booleans())
    def generate(self, row: list[int], steps: int, cache: bool) -> None:
        # Not a prompt that ends in EOS: HookedTransformer's generate masks it as padding, and what is masked is not counted.
        wanted = {"max_new_tokens": steps, "do_sample": False, "verbose": False, "return_type": "tokens", "stop_at_eos": False}
        out = self.model.generate(torch.tensor([row]), use_past_kv_cache=cache, **wanted)
        assert torch.equal(out, self.bare.generate(torch.tensor([row]), use_past_kv_cache=cache, **wanted))
        self.all_see(out[0, :-1].tolist())

    @rule(row=texts, layer=st.integers(0, 2), error=st.sampled_from([RuntimeError, KeyboardInterrupt]))
    def a_pass_that_fails(self, row: list[int], layer: int, error: type[BaseException]) -> None:
        def fail(x: Any, hook: Any) -> None:
            raise error

        with suppress(error), torch.no_grad():
            self.model.run_with_hooks(torch.tensor([row]), fwd_hooks=[(f"blocks.{layer}.hook_resid_post", fail)])

    @rule(row=texts, layer=st.integers(1, 2))
    def a_pass_that_stops(self, row: list[int], layer: int) -> None:
        with torch.no_grad():
            self.model(torch.tensor([row]), stop_at_layer=layer)

    @rule(outer=texts, inner=texts)
    def a_pass_inside_a_pass(self, outer: list[int], inner: list[int]) -> None:
        done: list[bool] = []

        def nested(x: Any, hook: Any) -> None:
            if not done:
                done.append(True)
                self.model(torch.tensor([inner]))

        with torch.no_grad():
            logits = self.model.run_with_hooks(torch.tensor([outer]), fwd_hooks=[("blocks.1.hook_resid_post", nested)])
            assert torch.equal(logits, self.bare(torch.tensor([outer])))
        self.all_see(inner)
        self.all_see(outer)

    # -- other people's hooks --

    @rule()
    def someone_adds_a_hook(self) -> None:
        self.model.add_hook("blocks.1.hook_resid_pre", lambda x, hook: None)

    @rule()
    def someone_resets_hooks(self) -> None:
        self.model.reset_hooks()

    @rule(row=texts)
    def someone_takes_all_hooks_off(self, row: list[int]) -> None:
        for point in self.model.hook_dict.values():
            point.remove_hooks(dir="both", including_permanent=True)
        for expected in self.probes:
            expected.wiped = True
        self.run(row, "call")

    @precondition(lambda self: any(expected.wiped for expected in self.probes))
    @rule()
    def reattach(self) -> None:
        for expected in self.probes:
            expected.probe.reattach()
            expected.wiped = False

    # -- laws --

    @invariant()
    def what_was_counted_is_what_should_have_been(self) -> None:
        for expected in self.probes:
            assert self.kit.read(expected.probe) == expected.tokens

    def teardown(self) -> None:
        if not hasattr(self, "probes"):
            return
        for expected in self.probes:
            expected.probe.detach()
        self.model.reset_hooks()
        assert everything_on(self.model) == self.before


@pytest.mark.parametrize("kind", MAKERS)
def test_hundreds_of_random_steps_never_miscount_nor_leave_a_hook(kind: str) -> None:
    steps: list[int] = []
    wanted = int(os.environ.get("MI_PROBE_RANDOM_STEPS", "0"))

    class Here(Machine):
        def teardown(self) -> None:
            super().teardown()
            steps.append(self.taken)

        @invariant()
        def one_more_step(self) -> None:
            self.taken = getattr(self, "taken", -1) + 1

    Here.kind = kind
    case = Here.TestCase
    case.settings = settings(
        max_examples=max(5, wanted // 200),
        stateful_step_count=200,
        derandomize=not wanted,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # making a failure smaller takes minutes; the steps are printed as they were
        suppress_health_check=list(HealthCheck),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case().runTest()
    assert sum(steps) >= max(400, wanted // 2), steps
