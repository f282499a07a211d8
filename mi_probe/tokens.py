"""Which tokens of a batch count, and why the others do not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.errors import InputError
from mi_probe.places import Places

if TYPE_CHECKING:
    import torch

    from mi_probe.probe import Probe

__all__ = ["BETWEEN", "FINISHED", "FIRST", "PADDING", "REPEATED", "SPECIAL", "Choice", "choose", "real_tokens"]

PADDING = "padding"
REPEATED = "fed before in the same generation"
FINISHED = "of rows that had ended, in generation"
FIRST = "first positions"
SPECIAL = "special tokens"
BETWEEN = "between those that are sampled"


@dataclass(frozen=True)
class Choice:
    """The tokens of a batch that count.

    Attributes
    ----------
    shape : (int, int)
        Rows and positions of the batch.
    index : torch.Tensor or None
        Indices of the tokens that count into the flattened batch; None if all of them do.
    n : int
        How many count.
    left_out : dict of str -> int
        The others by reason; a token that has several reasons is under the first of them.
    position : torch.Tensor, shape (n,)
        Where in its row each token that counts stands; 0 is the first that is not padding, cached ones included.
    """

    shape: tuple[int, int]
    index: torch.Tensor | None
    n: int
    left_out: dict[str, int]
    position: torch.Tensor

    def places(
        self,
        documents: NDArray[np.integer],
        texts: NDArray[np.integer] | None = None,
        labels: NDArray[np.integer] | None = None,
    ) -> Places:
        """Places of the tokens that count, given the document and, if it goes on, text of each row, and the tokens' labels."""
        rows, positions = self.shape
        index = np.arange(rows * positions) if self.index is None else self.index.cpu().numpy()
        return Places.of_batch(index, positions, documents, self.position.cpu().numpy(), texts, labels)


def real_tokens(
    tokens: torch.Tensor,
    mask: Any,
    past: Any,
    tokenizer: Any,
    padding_side: str | None = None,
    prepends_bos: bool = True,
) -> torch.Tensor:
    """Which tokens are not padding, over the cached past and the new ones.

    Parameters
    ----------
    tokens : tensor, shape (batch, position)
        The new tokens.
    mask : array, shape (batch, position) or (batch, past + position), optional
        The attention mask, where there is one.
    past : tensor, shape (batch, past), bool
        The cached tokens that are not padding.
    tokenizer : optional
        For the padding token.
    padding_side : {"right", "left"}, optional
        The tokenizer's by default.
    prepends_bos : bool
        Whether rows begin with BOS, which may be the same token as padding.

    Returns
    -------
    tensor, shape (batch, past + position), bool

    Raises
    ------
    InputError
        The mask has another shape.
    """
    import torch

    rows, positions = tokens.shape
    past = past.to(tokens.device)
    if mask is not None:
        given = torch.as_tensor(mask, device=tokens.device).bool()
        if tuple(given.shape) == (rows, past.shape[1] + positions):
            return given
        if tuple(given.shape) == (rows, positions):
            return torch.cat([past, given], dim=-1)
        raise InputError(
            f"the attention mask has shape {tuple(given.shape)}; with {positions} tokens in each of {rows} rows and "
            f"{past.shape[1]} cached before them, which of them are padding cannot be told."
        )
    new = torch.ones_like(tokens, dtype=torch.bool)
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is not None and rows > 1 and positions > 1:
        # TransformerLens passes no mask for a right-padded list of strings. Only the run of pads at the end (or, padded on the
        # left, at the start) is padding: in GPT-2 the same token also stands for BOS and EOS.
        real = tokens.ne(pad).long()
        if (padding_side or getattr(tokenizer, "padding_side", "right")) == "right":
            new = real.flip(-1).cumsum(-1).flip(-1) > 0
        else:
            new = real.cumsum(-1) > 0
            if prepends_bos and pad == getattr(tokenizer, "bos_token_id", None):  # the last pad of the run is this row's BOS
                start = (~new).sum(-1) - 1
                has_bos = (start >= 0).nonzero()[:, 0]
                new[has_bos, start[has_bos]] = True
    return torch.cat([past, new], dim=-1)


def choose(
    tokens: torch.Tensor,
    real: torch.Tensor,
    probe: Probe,
    special: Collection[int] = (),
    *,
    repeated: torch.Tensor | None = None,
    finished: torch.Tensor | None = None,
) -> Choice:
    """Sort the tokens of a batch into those that count and those that do not.

    Parameters
    ----------
    tokens : tensor, shape (batch, position)
    real : tensor, shape (batch, past + position), bool
        As `real_tokens` gives it.
    probe : Probe
        Its ``skip_first``, ``skip_special`` and ``sample_every``.
    special : collection of int
        The tokenizer's special tokens.
    repeated, finished : tensor, shape (batch, position), bool, optional
        Tokens that a generation feeds again, and those behind the end of a row.

    Returns
    -------
    Choice
    """
    import torch

    positions = tokens.shape[1]
    place = real.long().cumsum(-1)[:, -positions:] - 1  # 0 is the first real token, wherever padding stands
    reasons = {PADDING: ~real[:, -positions:]}
    if repeated is not None:
        reasons[REPEATED] = repeated
    if finished is not None:
        reasons[FINISHED] = finished
    if probe.skip_first:
        reasons[FIRST] = place < probe.skip_first
    if probe.skip_special and special:
        ids = torch.tensor(sorted(special), device=tokens.device, dtype=tokens.dtype)
        reasons[SPECIAL] = torch.isin(tokens, ids)
    if probe.sample_every > 1:  # by position alone, so that it does not matter how rows are batched
        reasons[BETWEEN] = (place - probe.skip_first) % probe.sample_every != 0
    keep = torch.ones_like(tokens, dtype=torch.bool)
    gone = []
    for which in reasons.values():
        gone.append((keep & which).sum())
        keep &= ~which
    index = keep.reshape(-1).nonzero()[:, 0]  # once a forward pass, not once a hook
    left_out = dict(zip(reasons, torch.stack(gone).tolist(), strict=True))
    shape = (tokens.shape[0], positions)
    n = len(index)
    by_reason = {why: count for why, count in left_out.items() if count}
    return Choice(shape, None if n == tokens.numel() else index, n, by_reason, place.reshape(-1)[index])
