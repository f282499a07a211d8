"""What a generation has fed into the model so far, so that each token counts once, however it is cached."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Generation", "generation_of"]


class Generation:
    """One call of generate.

    Without a cache each step feeds the whole text again; with several rows, a row that has ended is fed on until all have.

    Parameters
    ----------
    stop : tuple of int, optional
        Tokens that end a row; None if a row cannot be followed from step to step (beam search, assisted decoding).
    depth : int
        How many forward passes were under way when it was called.
    prompt : tensor, optional
        What it was called with: token ids, or embeddings.
    prompt_mask : tensor, shape (batch, position), optional
        The attention mask that it was called with.
    """

    def __init__(self, stop: tuple[int, ...] | None, depth: int, prompt: Any = None, prompt_mask: Any = None) -> None:
        self.stop, self.depth, self.prompt_mask = stop, depth, prompt_mask
        shape = tuple(getattr(prompt, "shape", ()))
        self.prompt_length = int(shape[1]) if len(shape) > 1 else None
        self.embedded = len(shape) == 3  # a prompt of embeddings, whose tokens nobody knows
        self.columns = 0  # positions fed so far
        self.text: torch.Tensor | None = None  # what was fed, where it was fed as a whole
        self.cache: Any = None
        self.real: torch.Tensor | None = None
        self.ended: torch.Tensor | None = None
        self.fed: torch.Tensor | None = None
        self.documents: dict[Any, Any] = {}  # by probe: the documents that its rows are
        self.texts: dict[Any, Any] = {}  # and the texts that go on in them

    def note_embedded(self, tokens: Any) -> None:
        """HookedTransformer's generate embeds tokens on its own, before the forward pass that reads them."""
        import torch

        if torch.is_tensor(tokens) and not tokens.is_floating_point() and tokens.ndim == 2:
            self.fed = tokens if self.fed is None else torch.cat([self.fed, tokens], dim=-1)

    def takes(self, tokens: torch.Tensor, past: int, cache: Any) -> bool:
        """Whether a pass is the next step; a criterion or a guide may run the model on other texts in between."""
        import torch

        if not self.columns or self.stop is None:
            return True
        if cache is not None and past:
            if self.cache is None:
                self.cache = cache
            return cache is self.cache
        known = self.text
        return known is None or (
            len(known) == len(tokens) and torch.equal(tokens[:, : known.shape[1]].to(known.device), known[:, : tokens.shape[1]])
        )

    def has_rows_of(self, tokens: torch.Tensor) -> bool:
        """Whether there was a step before, with as many rows."""
        return self.real is not None and len(self.real) == len(tokens)

    def real_with(self, columns: int) -> torch.Tensor:
        """Which of the first columns are not padding: what is generated never is."""
        import torch

        assert self.real is not None
        more = max(0, columns - self.real.shape[1])
        return torch.nn.functional.pad(self.real[:, :columns], (0, more), value=True)

    def step(self, tokens: torch.Tensor, past: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Which tokens of a step were fed before, and which stand behind the end of their row, shape (batch, position) each.

        The token that ends a row is not counted either: alone, the row would stop before it is fed. With a cache no token is fed
        twice; where one is shortened, after a draft that was not taken, other tokens come in the same positions.
        """
        import torch

        rows, positions = tokens.shape
        column = torch.arange(past, past + positions, device=tokens.device)
        repeated = (column < (0 if past else self.columns)).expand(rows, positions)
        begins = self.prompt_length if self.prompt_length is not None else self.columns or past + positions
        if self.stop is None or past + positions <= begins:
            return repeated, None
        generated = (column >= begins) & ~repeated
        ended = torch.isin(tokens, torch.tensor(self.stop, device=tokens.device, dtype=tokens.dtype)) & generated
        finished = ended.long().cumsum(-1) > 0
        if self.ended is not None and len(self.ended) == rows:
            finished = finished | self.ended.to(tokens.device)[:, None]
        return repeated, finished & ~repeated

    def step_ended(self, tokens: torch.Tensor | None, real: torch.Tensor | None, finished: torch.Tensor | None) -> None:
        """A step has ended well."""
        if real is None or tokens is None:
            return
        if real.shape == tokens.shape:
            self.text = tokens
        self.real = real
        self.columns = max(self.columns, real.shape[1])
        if finished is not None:
            self.end_rows(finished[:, -1])

    def end_rows(self, ended: torch.Tensor) -> None:
        """These rows have ended."""
        import torch

        ended = torch.as_tensor(ended).bool()
        same = self.ended is not None and self.ended.shape == ended.shape
        self.ended = ended | self.ended.to(ended.device) if same and self.ended is not None else ended.clone()


class _Reporting:
    """A stopping criterion that tells the generation which rows it has ended."""

    def __init__(self, criterion: Callable[..., Any], generation: Generation) -> None:
        self.criterion, self.generation = criterion, generation

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        said = self.criterion(*args, **kwargs)
        if torch.is_tensor(said) and said.ndim == 1:
            self.generation.end_rows(said)
        return said


def generation_of(
    generate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], depth: int, model: Any
) -> tuple[Generation, dict[str, Any]]:
    """The books of one call of generate.

    Parameters
    ----------
    generate : callable
        The method of a bridge, of a HookedTransformer, or of the Hugging Face model inside.
    args, kwargs
        Of this call.
    depth : int
        How many forward passes are under way.
    model
        The bridge or HookedTransformer; None if the method is Hugging Face's own.

    Returns
    -------
    Generation
    dict
        Keyword arguments to call the method with; its results are the same.
    """
    try:
        bound = inspect.signature(generate).bind(*args, **kwargs)
    except TypeError:  # the method itself will say what is wrong
        return Generation((), depth), kwargs
    bound.apply_defaults()
    given = dict(bound.arguments)
    given |= next((given.pop(p.name) for p in bound.signature.parameters.values() if p.kind is p.VAR_KEYWORD), {})
    if model is None:
        configs = [given.get("generation_config"), getattr(getattr(generate, "__self__", None), "generation_config", None)]
        options = {
            name: next((v for v in (given.get(name), *(getattr(c, name, None) for c in configs)) if v is not None), None)
            for name in ("eos_token_id", "stop_strings", *_ROWS_CHANGE)
        }
        if "eos_token_id" in given:  # given as None, it is none
            options["eos_token_id"] = given["eos_token_id"]
        given["stop_strings"] = options["stop_strings"]
        stop = options["eos_token_id"]
        followed = (options["num_beams"] or 1) == 1 and not any(options[name] for name in _ROWS_CHANGE[1:])
    else:
        stop = given.get("eos_token_id")
        if stop is None and hasattr(model, "original_model"):
            stop = getattr(model.cfg, "eos_token_id", None)
        if stop is None:
            stop = getattr(getattr(model, "tokenizer", None), "eos_token_id", None)
        stop = stop if given.get("stop_at_eos", True) else None
        followed = True
    prompt = next(
        (given[name] for name in ("input", "inputs", "input_ids", "inputs_embeds") if given.get(name) is not None), None
    )
    generation = Generation(_token_ids(stop) if followed else None, depth, prompt, given.get("attention_mask"))
    return generation, _reporting(given, kwargs, generation, model)


_ROWS_CHANGE = ("num_beams", "assistant_model", "prompt_lookup_num_tokens")
"""Options of Hugging Face's generate under which a row of one step is not the row of the next."""


def _token_ids(stop: Any) -> tuple[int, ...]:
    """One token id, several, or none, in whatever type generate takes them."""
    if stop is None:
        return ()
    stop = stop.tolist() if hasattr(stop, "tolist") else stop
    return tuple(int(token) for token in (stop if hasattr(stop, "__iter__") else (stop,)))


def _reporting(given: dict[str, Any], kwargs: dict[str, Any], generation: Generation, model: Any) -> dict[str, Any]:
    """Keyword arguments whose stopping criteria report, and decide as before.

    Hugging Face knows its own criteria by their type, so those stay as they are. Of them, those that end single rows are asked a
    second time, by a criterion of ours behind them.
    """
    criteria, strings = given.get("stopping_criteria"), given.get("stop_strings")
    if not criteria and not strings:
        return kwargs
    from transformers import EosTokenCriteria, StoppingCriteria, StoppingCriteriaList, StopStringCriteria

    listed = [criteria] if isinstance(criteria, StoppingCriteria) else criteria or []
    if not isinstance(listed, list | tuple) or (criteria and "stopping_criteria" not in kwargs):
        return kwargs  # not what the method takes: it will say so
    theirs = "transformers."
    reporting: list[Any] = [c if type(c).__module__.startswith(theirs) else _Reporting(c, generation) for c in listed]
    again = [c for c in listed if isinstance(c, EosTokenCriteria | StopStringCriteria)]
    tokenizer = given.get("tokenizer") or getattr(model, "tokenizer", None)
    texts = [text for text in ([strings] if isinstance(strings, str) else strings or []) if text]
    if texts and tokenizer is not None:
        again.append(StopStringCriteria(tokenizer=tokenizer, stop_strings=texts))
    reporting += [_Reporting(c, generation) for c in again]
    return {**kwargs, "stopping_criteria": StoppingCriteriaList(reporting)}
