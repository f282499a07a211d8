"""Mutual information of every pair of tokens of one text: samples are hidden dimensions, variables are tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe.binning import Binning, BinningMethod, as_samples, mean_and_sd
from mi_probe.corrections import Correction
from mi_probe.errors import InputError
from mi_probe.estimation import pairwise
from mi_probe.pointresult import PairwiseMI
from mi_probe.subset import Pairs

__all__ = ["Standard", "standardised", "token_pairs"]

_FEW = 20  # tokens, from which on they share no more than 0.003 nats for being standardised by themselves

Standard = Literal["text", "none"] | Binning | tuple[ArrayLike, ArrayLike]
"""By what each dimension is standardised: the text itself, nothing, the sample that edges were fitted on, or means and standard
deviations, each of shape (dimensions,)."""


def standardised(x: ArrayLike, standard: Standard = "text") -> NDArray[np.float64]:
    """Values less the mean of their dimension, in its standard deviations.

    A few dimensions of a residual stream are large in every token, and all have means of their own: without this, what any two
    tokens share is mostly that profile.

    Parameters
    ----------
    x : array, shape (tokens, dimensions)
    standard : "text", "none", Binning, or (means, standard deviations)
        By all tokens of `x`; not at all; or by those of a corpus. By T tokens of their own, any two share about 1 / (T - 1)^2
        nats for that alone, and of fewer than 8 more: for a short text, take those of a corpus.

    Returns
    -------
    array, shape (tokens, dimensions)
        NaN in a dimension that does not vary, which tells nothing.

    Raises
    ------
    InputError
        Means and deviations are of another number of dimensions, or a `Binning` has none.

    Examples
    --------
    >>> standardised([[1.0, 5.0], [3.0, 5.0]])
    array([[-1., nan],
           [ 1., nan]])
    """
    values = as_samples(x)
    if isinstance(standard, str):
        if standard == "none":
            return values.astype(np.float64)
        if standard != "text":
            raise InputError(f"standard must be 'text', 'none', a Binning, or means and standard deviations; got {standard!r}.")
        mean, sd = mean_and_sd(np.where(np.isfinite(values), values, np.nan))
    elif isinstance(standard, Binning):
        if standard.frame is None:
            raise InputError("these edges came without means and standard deviations: take edges that were fitted on a sample.")
        values = standard.select(values)
        mean, sd = standard.frame.T
        sd = np.where(standard.varies, sd, 0.0)  # the frame has something else there, to divide by
    else:
        try:
            mean, sd = (np.asarray(part, dtype=np.float64) for part in standard)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"standard must be 'text', 'none', a Binning, or means and standard deviations; got {type(standard).__name__}: "
                f"{error}."
            ) from error
    if mean.shape != (values.shape[1],) or sd.shape != mean.shape:
        raise InputError(
            f"means and standard deviations must be of {values.shape[1]} dimensions; got shapes {mean.shape} and {sd.shape}."
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sd > 0, (values.astype(np.float64) - mean) / sd, np.nan)


def token_pairs(
    x: ArrayLike,
    *,
    standard: Standard = "text",
    names: Sequence[str] | None = None,
    pairs: Pairs | Sequence[Sequence[int]] = "all",
    bins: int | Literal["auto"] = "auto",
    method: BinningMethod = "equal_count",
    trim_z: float | None = None,
    correction: Correction = "adjusted",
) -> PairwiseMI:
    """Mutual information of every pair of tokens, over their hidden dimensions.

    There are no p-values: dimensions are no random sample, and tokens that have nothing to do with each other may share more than
    shuffled dimensions would. Compare with tokens of other texts instead (`Reading.unrelated`).

    Parameters
    ----------
    x : array, shape (tokens, dimensions)
        One hook point's activations, of one text.
    standard : "text", "none", Binning, or (means, standard deviations)
        See `standardised`. Where `x` holds a few tokens of a text only, give what it was in all of the text, or in a corpus.
    names : sequence of str, optional
        What the tokens are called; 0, 1, 2, ... by default.
    pairs : "all", int, or sequence of (int, int)
        As for `pairwise`.
    bins : int or "auto"
        Bins of the values of each token; by default by the number of dimensions, 14 for 768.
    method : {"equal_count", "equal_width"}
    trim_z : float, optional
        Leave out dimensions further than this many standard deviations from the mean of their token.
    correction : str
        See `mi_probe.estimators.estimate`.

    Returns
    -------
    PairwiseMI
        Its samples are dimensions.

    Raises
    ------
    InputError
        There is one token only, or `x`, `standard`, `names` or `pairs` do not fit each other.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((3, 768))
    >>> x[2] = x[0]
    >>> shared = token_pairs(x, standard="none")
    >>> bool(np.isclose(shared.mi[0, 2], np.log(14), atol=0.001)), bool(abs(shared.mi[0, 1]) < 0.03)
    (True, True)
    """
    values = standardised(x, standard)
    if len(values) < 2:
        raise InputError(f"a pair takes two tokens; got {len(values)}{f' ({names[0]})' if names else ''}.")
    found = pairwise(
        values.T, bins=bins, method=method, trim_z=trim_z, correction=correction, names=names, pairs=pairs, p_values="none"
    )
    return with_note(found, len(values)) if isinstance(standard, str) and standard == "text" else found


def with_note(point: PairwiseMI, tokens: int) -> PairwiseMI:
    """The same with a note, where tokens of one text were standardised by so few that this alone makes them alike.

    Less their mean, T tokens that have nothing in common correlate by -1/(T - 1), and in their own deviations no value is far
    off: of two, one is the mirror image of the other.
    """
    if tokens >= _FEW:
        return point
    alone = min(1 / (tokens - 1) ** 2, np.log(2))
    note = (
        f"{tokens} tokens were standardised by themselves, which alone makes any two share {alone:.2g} nats or more: "
        "take means and deviations of more texts"
    )
    return replace(point, notes=(*point.notes, note))
