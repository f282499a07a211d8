"""Codes of one variable at two tokens of a text, counted over a stream: also where a text comes in pieces."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mi_probe.binning import MISSING
from mi_probe.places import Places
from mi_probe.serial import count_lags

if TYPE_CHECKING:
    import torch

__all__ = ["LaggedCounts"]

_OPEN = 256  # texts whose last tokens are remembered: the latest ones, and at least all of an update


class LaggedCounts:
    """Lagged counts of every variable; see `mi_probe.serial.count_lags`.

    A sequence that says so (`Places.text`) goes on where its text ended: a generation comes token by token. What is remembered of
    open texts is not part of the counts, and neither merged nor saved.

    Parameters
    ----------
    lags, variables, bins : int

    Attributes
    ----------
    counts : array, shape (lags, variables, bins, bins), int64

    Examples
    --------
    >>> import numpy as np
    >>> lagged = LaggedCounts(1, 1, 2)
    >>> for token in range(3):
    ...     lagged.update(np.array([[token % 2]], dtype=np.uint8), Places(*(np.array([value]) for value in (0, token, 7, 7))))
    >>> lagged.counts[0, 0]  # 0 1 0
    array([[0, 1],
           [1, 0]])
    """

    def __init__(self, lags: int, variables: int, bins: int) -> None:
        self._counts = np.zeros((lags, variables, bins, bins), dtype=np.int64)
        self._on_device: torch.Tensor | None = None  # what was counted there, and is not in the counts yet
        self._tails: OrderedDict[int, tuple[int, NDArray[np.uint8]]] = OrderedDict()

    @staticmethod
    def nbytes_for(lags: int, variables: int, bins: int) -> int:
        """Bytes of the counts, and of a file that holds them."""
        return lags * variables * bins * bins * 8

    @property
    def counts(self) -> NDArray[np.int64]:
        """What was counted."""
        self.fetch()
        return self._counts

    def restore(self, counts: NDArray[np.int64]) -> None:
        """Go on from counts of the same shape, where they are."""
        self._counts, self._on_device = counts, None

    def fetch(self) -> None:
        """Bring here what was counted on a device."""
        if self._on_device is not None:
            together = self._counts + self._on_device.cpu().numpy()
            self._counts, self._on_device = together, None  # both or neither, whatever interrupts

    def update(self, codes: Any, places: Places) -> None:
        """Count more samples, shape (samples, variables): an array, or a tensor, which is counted where it is."""
        lags = len(self._counts)
        if not len(codes) or not lags:
            return
        step = _step(places)
        if step == 0 or step > lags:
            return
        if not isinstance(codes, np.ndarray):
            if places.text is None:
                self._update_on_device(codes, places)
                return
            codes = codes.cpu().numpy()  # tokens that come one by one
        if step > 1:  # as where one token in so many is kept: the places between need not be walked through
            some = np.zeros_like(self._counts[step - 1 :: step])
            count_lags(*Places(places.sequence, places.position // step, places.document).spread_out(codes), some)
            self._counts[step - 1 :: step] += some
            return
        wide, lengths = places.spread_out(codes)
        texts, again, which = [], [], places.texts
        for start, part in zip(places.starts(), np.split(wide, np.cumsum(lengths)[:-1]), strict=True):
            number, first = int(which[start]), int(places.position[start])
            text = part
            following, tail = self._tails.get(number, (-1, part[:0]))
            if 0 <= following <= first < following + lags:
                gap = np.full((first - following, part.shape[1]), MISSING, dtype=np.uint8)
                text = np.concatenate([tail, gap, part])
                again.append(tail)  # whose own pairs were counted before
            texts.append(text)
            if number >= 0:
                self._tails[number] = (first + len(part), text[-lags:].copy())
                self._tails.move_to_end(number)
        while len(self._tails) > max(_OPEN, len(texts)):
            self._tails.popitem(last=False)
        count_lags(np.concatenate(texts), np.array([len(text) for text in texts]), self._counts)
        if again:
            before = np.zeros_like(self._counts)
            count_lags(np.concatenate(again), np.array([len(tail) for tail in again]), before)
            self._counts -= before

    def _update_on_device(self, codes: torch.Tensor, places: Places) -> None:
        import torch

        from mi_probe.kernels import onehot

        where, lengths = places.spread()
        with torch.inference_mode(False):
            if self._on_device is None or self._on_device.device != codes.device:
                self.fetch()
                self._on_device = torch.zeros(self._counts.shape, dtype=torch.int64, device=codes.device)
            wide = torch.full((int(lengths.sum()), codes.shape[1]), MISSING, dtype=torch.uint8, device=codes.device)
            wide.index_copy_(0, torch.from_numpy(where).to(codes.device), codes)
            onehot.count_lags(wide, lengths, self._on_device)

    def copy(self) -> LaggedCounts:
        """An independent copy, which goes on with the same open texts."""
        twin = LaggedCounts(len(self.counts), *self.counts.shape[1:3])
        twin._counts += self.counts
        twin._tails = self._tails.copy()
        return twin


def _step(places: Places) -> int:
    """The largest number that divides every distance of rows within a sequence, 0 if there is none; 1 if sequences go on."""
    if (places.texts >= 0).any():
        return 1
    inside = np.diff(places.sequence) == 0
    return int(np.gcd.reduce(np.diff(places.position)[inside], initial=0))
