"""One text as a model reads it: its tokens, chosen as one likes, and their activations, for what they share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mi_probe.binning import Binning, mean_and_sd
from mi_probe.corpus import Document
from mi_probe.errors import InputError, nearest, several
from mi_probe.hooks import attach
from mi_probe.neighbours import NeighbourMI, ksg
from mi_probe.probe import Probe, load_probe
from mi_probe.result import MIResult
from mi_probe.tokenpairs import Standard, standardised, token_pairs, with_note
from mi_probe.units import Units

if TYPE_CHECKING:
    import pandas

__all__ = ["Reading", "read_text"]

_WORD = re.compile(r"\w+")
_OTHERS = 200  # tokens of other texts that those of a text are compared with


@dataclass(frozen=True, eq=False)
class Reading:
    """One text that went through a model: tokens and activations of those that count. `read_text` makes one.

    Attributes
    ----------
    name : str
        What the text is called.
    text : str
    tokens : tuple of str
        The text of each token that counts, without blanks around it.
    ids : array, shape (tokens,), int64
    positions : array, shape (tokens,), int64
        Where each stands among the tokens of the text, from 0; BOS is none of them.
    spans : array, shape (tokens, 2), int64
        Where each begins and ends in the text, in characters.
    values : dict of str -> array, shape (tokens, dimensions)
        Activations by hook point, in the order of the model.
    model : dict
        Name and shape of the model.
    unread : int
        Tokens of the text behind those that were read.

    Examples
    --------
    >>> import mi_probe
    >>> reading = read_text(mi_probe.load_model("coffee-gpt2"), mi_probe.sample_text(), layers=[0, 12])
    >>> reading
    Reading('text', 112 tokens, 2 hook points)
    >>> result = reading.token_pairs()  # 112 x 112 at each of them
    >>> result["hidden_states.12"].mi.shape
    (112, 112)
    """

    name: str
    text: str
    tokens: tuple[str, ...]
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    spans: NDArray[np.int64]
    values: dict[str, NDArray[np.floating]]
    model: dict[str, Any]
    unread: int = 0

    def __repr__(self) -> str:
        return f"Reading('{self.name}', {several(len(self.tokens), 'token')}, {several(len(self.values), 'hook point')})"

    @property
    def names(self) -> tuple[str, ...]:
        """What tokens are called in results: their position and their text, such as ``"17 coffee"``."""
        return tuple(f"{position} {token}" for position, token in zip(self.positions, self.tokens, strict=True))

    def select(
        self,
        word: str | None = None,
        *,
        ids: int | Sequence[int] | None = None,
        pattern: str | None = None,
        part: str | slice | None = None,
        mask: ArrayLike | None = None,
    ) -> NDArray[np.intp]:
        """Which tokens, as ascending indices into `tokens`; say one of these.

        Parameters
        ----------
        word : str
            A word, or several as they stand in the text, whether in capitals or not: the token in which each occurrence ends,
            which has seen all of it.
        ids : int or sequence of int
            Token ids.
        pattern : str
            A regular expression: the token in which each match ends.
        part : str or slice
            A passage of the text, word for word: all tokens in it. Or a slice of positions.
        mask : array, shape (tokens,), bool

        Raises
        ------
        InputError
            Nothing is there, the mask has another length, or not one of these was said.

        Examples
        --------
        >>> import mi_probe
        >>> reading = read_text(mi_probe.load_model("coffee-gpt2"), "Coffee is ground, and ground coffee is boiled.", layers=[6])
        >>> reading.select("coffee"), reading.select(pattern="b.*d"), reading.select(part="ground coffee is")
        (array([0, 6]), array([9]), array([5, 6, 7]))
        """
        given = {"word": word, "ids": ids, "pattern": pattern, "part": part, "mask": mask}
        said = [name for name, value in given.items() if value is not None]
        if len(said) != 1:
            raise InputError(f"say which tokens by one of {', '.join(given)}; got {' and '.join(said) or 'none'}.")
        if word is not None:
            if not isinstance(word, str):
                raise InputError(f"a word is text; got {word!r}.")
            # Letters must not go on beyond it; a comma or an "'s" may stand right beside some.
            before, behind = r"(?<!\w)" * _of_a_word(word[:1]), r"(?!\w)" * _of_a_word(word[-1:])
            chosen = self._ends(before + re.escape(word) + behind, re.IGNORECASE)
            if not len(chosen):
                hint = nearest(word.lower(), sorted({found.lower() for found in _WORD.findall(self.text)}))
                raise InputError(f"the word '{word}' does not occur in '{self.name}'{hint}.")
        elif pattern is not None:
            try:
                chosen = self._ends(pattern)
            except (re.error, TypeError) as error:
                raise InputError(f"the pattern {pattern!r} is no regular expression: {error}.") from error
        elif ids is not None:
            chosen = np.flatnonzero(np.isin(self.ids, list(ids) if isinstance(ids, Set) else ids))
        elif mask is not None:
            which = np.asarray(mask)
            if which.shape != (len(self.tokens),) or which.dtype != bool:
                raise InputError(
                    f"the mask must hold True or False for each of the {len(self.tokens)} tokens; got {which.dtype} of shape "
                    f"{which.shape}."
                )
            chosen = np.flatnonzero(which)
        elif isinstance(part, slice):
            chosen = np.flatnonzero(np.isin(self.positions, np.arange(self.positions.max(initial=-1) + 1)[part]))
        else:
            chosen = self._inside(str(part))
        if not len(chosen):
            raise InputError(f"no token of '{self.name}' fits {said[0]} = {given[said[0]]!r}.")
        return chosen

    def _ends(self, pattern: str, flags: int = 0) -> NDArray[np.intp]:
        lasts = np.array([match.end() for match in re.finditer(pattern, self.text, flags) if match.end() > match.start()])
        ends = self.spans[:, 1]
        at = np.searchsorted(ends, lasts)
        at = at[at < len(ends)]
        # Of several tokens of one character, each a byte or two, only the last has seen all of it.
        at = np.searchsorted(ends, ends[at], side="right") - 1
        inside = self.spans[at, 0] < lasts[: len(at)]  # else it ends in a token that does not count
        return np.unique(at[inside])

    def _inside(self, part: str) -> NDArray[np.intp]:
        start = self.text.find(part)
        if start < 0 or not part:
            raise InputError(f"the passage {part[:60]!r} does not occur in '{self.name}', word for word.")
        return np.flatnonzero((self.spans[:, 1] > start) & (self.spans[:, 0] < start + len(part)))

    @staticmethod
    def standard_of(readings: Sequence[Reading]) -> dict[str, Standard]:
        """Means and standard deviations of every dimension over all tokens of some texts, by hook point.

        Examples
        --------
        >>> import mi_probe
        >>> model = mi_probe.load_model("coffee-gpt2")
        >>> texts = [read_text(model, text, layers=[6]) for text in mi_probe.sample_texts()[:3]]
        >>> [part.shape for part in Reading.standard_of(texts)["hidden_states.6"]]
        [(128,), (128,)]
        """
        if not readings:
            raise InputError("means and deviations take some texts: give Readings of them.")
        for each in readings:
            readings[0]._require_alike(each)
        every = {key: np.concatenate([each.values[key] for each in readings]) for key in readings[0].values}
        return {key: mean_and_sd(np.where(np.isfinite(x), x, np.nan)) for key, x in every.items()}

    def token_pairs(
        self, which: NDArray[np.intp] | None = None, *, standard: Mapping[str, Standard] | None = None, **options: Any
    ) -> MIResult:
        """Mutual information of every pair of the tokens, or of some, at every hook point.

        Parameters
        ----------
        which : array of int, optional
            Of `select`; all by default.
        standard : mapping of hook point -> Binning or (means, standard deviations), optional
            Edges that were fitted on a corpus (`mi_probe.Edges`), or of `standard_of`: dimensions are standardised by its means
            and deviations. By default by those of all tokens of this text.
        **options
            Of `mi_probe.token_pairs`: bins, method, trim_z, correction.

        Returns
        -------
        MIResult
            Its variables are called as in `names`; `table` has distances, too.

        Raises
        ------
        InputError
            There are fewer than two tokens.

        Examples
        --------
        >>> import mi_probe
        >>> reading = read_text(mi_probe.load_model("coffee-gpt2"), mi_probe.sample_text(), layers=[0, 12])
        >>> reading.token_pairs(reading.select("coffee"))
        MIResult(2 hook points: hidden_states.0, hidden_states.12)
        """
        chosen, names = self._two_or_more(which)
        points = {
            key: token_pairs(self._standardised(key, standard)[chosen], standard="none", names=names, **options)
            for key in self.values
        }
        if standard is None:
            points = {key: with_note(point, len(self.tokens)) for key, point in points.items()}
        return MIResult(points, self._about())

    def neighbour_pairs(
        self,
        which: NDArray[np.intp] | None = None,
        *,
        standard: Mapping[str, Standard] | None = None,
        trim_z: float | None = None,
        **options: Any,
    ) -> dict[str, NeighbourMI]:
        """The pairs of `token_pairs` once more, by nearest neighbours: an estimate without bins, to hold that of bins to.

        Parameters
        ----------
        which : array of int, optional
            Of `select`; all by default.
        standard : mapping of hook point -> Binning, optional
            As for `token_pairs`.
        trim_z : float, optional
            Leave out dimensions further than this many standard deviations from the mean of their token: the very ones that
            `token_pairs` leaves out.
        **options
            Of `mi_probe.ksg`: k, seed.

        Returns
        -------
        dict of str -> NeighbourMI
            By hook point; pairs in the order of `token_pairs`.

        Raises
        ------
        InputError
            There are fewer than two tokens.

        Examples
        --------
        >>> import mi_probe
        >>> reading = read_text(mi_probe.load_model("coffee-gpt2"), mi_probe.sample_text(), hooks="attn_out")
        >>> reading.neighbour_pairs(reading.select("coffee"), trim_z=4)["attn_out.3"]
        NeighbourMI(7 variables, 21 pairs, 128 samples, k=3)
        """
        chosen, names = self._two_or_more(which)
        found = {}
        for key in self.values:
            values = self._standardised(key, standard)[chosen].T
            limits = Binning.fit(values, bins=2, trim_z=trim_z).limits
            if limits is not None:
                values = np.where((values < limits[:, 0]) | (values > limits[:, 1]), np.nan, values)
            found[key] = ksg(values, names=names, **options)
        return found

    def unrelated(
        self,
        others: Sequence[Reading],
        which: NDArray[np.intp] | None = None,
        *,
        standard: Mapping[str, Standard] | None = None,
        most: int = _OTHERS,
        **options: Any,
    ) -> MIResult:
        """What tokens of this text share with tokens of other texts, that is, with nothing to do with each other.

        Parameters
        ----------
        others : sequence of Reading
            Of the same model and hook points.
        which : array of int, optional
            Tokens of this text; all by default.
        standard : mapping, optional
            As for `token_pairs`; by default each text is standardised by itself.
        most : int
            So many tokens of the other texts, spread evenly over them.
        **options
            As for `token_pairs`.

        Returns
        -------
        MIResult
            Its pairs are of one token here and one elsewhere.

        Raises
        ------
        InputError
            There is no other text, or one has other hook points.

        Examples
        --------
        >>> import mi_probe
        >>> model = mi_probe.load_model("coffee-gpt2")
        >>> here, there = (read_text(model, text, layers=[6]) for text in (mi_probe.sample_text(), "The glacier moves."))
        >>> here.unrelated([there])["hidden_states.6"].pairs("mi").shape == (len(here.tokens) * len(there.tokens),)
        True
        """
        if not others:
            raise InputError("to compare with other texts takes some: give Readings of them.")
        for other in others:
            self._require_alike(other)
        if not hasattr(most, "__index__") or most < 1:
            raise InputError(f"most must be a whole number of tokens, at least 1; got {most!r}.")
        chosen = self._chosen(which)
        theirs = [(other, k) for other in others for k in range(len(other.tokens))]
        picked = [theirs[k] for k in np.unique(np.linspace(0, len(theirs) - 1, min(most, len(theirs))).round().astype(int))]
        names = [self.names[k] for k in chosen] + [f"{other.name}: {other.names[k]}" for other, k in picked]
        one, two = np.meshgrid(np.arange(len(chosen)), len(chosen) + np.arange(len(picked)), indexing="ij")
        pairs = np.stack([one.ravel(), two.ravel()], axis=1)
        points = {}
        for key in self.values:
            of_others = {id(other): other._standardised(key, standard) for other in others}
            rows = [self._standardised(key, standard)[chosen], *(of_others[id(other)][[k]] for other, k in picked)]
            points[key] = token_pairs(np.concatenate(rows), standard="none", names=names, pairs=pairs.tolist(), **options)
        return MIResult(points, self._about())

    def table(self, result: MIResult, *, units: Units = "nats") -> pandas.DataFrame:
        """Pairs of tokens of this text as a table: those of `MIResult.to_frame`, with `distance` in tokens.

        Parameters
        ----------
        result : MIResult
            Of `token_pairs`.
        units : {"nats", "bits"}

        Examples
        --------
        >>> import mi_probe
        >>> reading = read_text(mi_probe.load_model("coffee-gpt2"), "coffee and tea and coffee", layers=[6])
        >>> reading.table(reading.token_pairs(reading.select("coffee")))[["i", "j", "distance"]].values.tolist()
        [['0 coffee', '4 coffee', 4]]
        """
        frame = result.to_frame(units=units)
        i, j = (frame[end].str.partition(" ")[0].astype(int) for end in ("i", "j"))
        frame.insert(list(frame.columns).index("j") + 1, "distance", (j - i).abs())
        return frame

    def _two_or_more(self, which: NDArray[np.intp] | None) -> tuple[NDArray[np.intp], list[str]]:
        """The tokens asked for, and what they are called."""
        chosen = self._chosen(which)
        names = [self.names[k] for k in chosen]
        if len(chosen) < 2:
            raise InputError(
                f"a pair takes two tokens, and '{self.name}' has {len(names)} of those asked for: "
                f"{', '.join(names) or 'none'}. Ask for others, such as a word that occurs more often, or take a longer text."
            )
        return chosen, names

    def _chosen(self, which: ArrayLike | None) -> NDArray[np.intp]:
        """Indices as they were given, if each is one of a token here and none is there twice."""
        if which is None:
            return np.arange(len(self.tokens))
        given = np.asarray(which)
        chosen = given.astype(np.intp) if given.dtype.kind in "iu" else np.zeros(0, np.intp)
        whole = given.ndim == 1 and (not given.size or given.dtype.kind in "iu")
        if not whole or len(np.unique(chosen)) < len(chosen) or ((chosen < 0) | (chosen >= len(self.tokens))).any():
            got = f"{chosen.tolist()[:8]}" if whole else f"{given.dtype} of shape {given.shape}"
            raise InputError(
                f"which must be different indices of tokens, whole numbers from 0 to {len(self.tokens) - 1}; got {got}. "
                "Reading.select finds them, of a mask, too: select(mask=...)."
            )
        return chosen

    def _require_alike(self, other: Reading) -> None:
        shapes, theirs = ({key: x.shape[1] for key, x in each.values.items()} for each in (self, other))
        if list(shapes.items()) != list(theirs.items()):
            places = ", ".join(f"{key} ({width} dimensions)" for key, width in theirs.items())
            raise InputError(f"'{other.name}' was read at other hook points than '{self.name}': {places}.")

    def _standardised(self, key: str, standard: Mapping[str, Standard] | None) -> NDArray[np.float64]:
        if standard is not None and (not isinstance(standard, Mapping) or key not in standard):
            has = ", ".join(standard) if isinstance(standard, Mapping) else repr(standard)
            raise InputError(f"standard must say by what each hook point is standardised, and lacks '{key}': it has {has}.")
        return standardised(self.values[key], "text" if standard is None else standard[key])

    def _about(self) -> dict[str, Any]:
        return {"model": dict(self.model), "tokens_seen": len(self.tokens), "text": self.name}


def read_text(
    model: Any,
    text: str | Document,
    probe: Probe | str | Path | None = None,
    *,
    hooks: str | Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    max_tokens: int | Literal["context"] | None = None,
) -> Reading:
    """Run one text through a model and keep the activations of its tokens.

    Parameters
    ----------
    model : TransformerBridge or HookedTransformer
    text : str or Document
        No longer than the model's context.
    probe : Probe, str or path, optional
        Which hook points, and which tokens count; every hidden state by default.
    hooks, layers : optional
        Hook points and layers in place of the probe's.
    max_tokens : int or "context", optional
        Read no more than so many tokens of the text, or than the model's context has room for. By default a text that has more is
        refused.

    Raises
    ------
    InputError
        The text has no token that counts, or more than the context has room for, or the model has no tokenizer.
    HookPointError
        The model lacks a hook point.

    Examples
    --------
    >>> import mi_probe
    >>> reading = read_text(mi_probe.load_model("coffee-gpt2"), "A cup of coffee.", hooks="attn_out")
    >>> reading
    Reading('text', 5 tokens, 12 hook points)
    >>> reading.names, reading.values["attn_out.3"].shape
    (('0 A', '1 cup', '2 of', '3 coffee', '4 .'), (5, 128))
    """
    import torch

    document = Document("text", text) if isinstance(text, str) else text
    if not isinstance(document, Document):
        raise InputError(f"one text is read, a string or a Document; got {type(text).__name__}.")
    words = "".join(document.pieces())
    what = probe if isinstance(probe, Probe) else load_probe(probe or "dimension_pairs")
    if hooks is not None:
        what = replace(what, hooks=hooks if isinstance(hooks, str) else tuple(hooks))
    if layers is not None:
        what = replace(what, layers=layers)  # type: ignore[arg-type]  # which makes a tuple of them
    front, every, spans = _tokenised(words, model)
    room = int(model.cfg.n_ctx) - len(front)
    if max_tokens == "context":
        max_tokens = room
    elif max_tokens is not None and (not hasattr(max_tokens, "__index__") or max_tokens < 1):
        raise InputError(f"max_tokens must be at least 1, or 'context'; got {max_tokens!r}.")
    ids, spans, in_all = every[:max_tokens], spans[:max_tokens], len(every)
    if not ids:
        raise InputError(f"'{document.name}' has no token: it is empty.")
    if len(ids) > room:
        raise InputError(
            f"'{document.name}' has {len(ids):,} tokens, and the model's context has room for {room:,}: pairs of tokens are of "
            f"one forward pass. Read its beginning, max_tokens={room} (--max-tokens {room}), or count a corpus by distance."
        )
    # The rows of one text are all that is wanted: never complete, they stay rows.
    alone = replace(
        Probe(hooks=what.hooks, layers=what.layers, when=what.when, visit=what.visit, calibration_tokens=2**62),
        skip_first=what.skip_first,
        skip_special=what.skip_special,
        sample_every=what.sample_every,
    )
    attached = attach(model, alone, memory=float("inf"), count_on="cpu")
    try:
        with torch.inference_mode():
            model(torch.tensor([front + ids]).to(model.cfg.device), return_type=None)
    finally:
        attached.detach()
    taken = {key: stream.withdraw() for key, stream in attached.streams.items()}
    places = next(iter(taken.values()))[1]
    positions = places.position - len(front)
    if not len(positions):
        raise InputError(
            f"no token of '{document.name}' counts: it has {len(ids)}, and the probe leaves first and special ones out."
        )
    chosen = spans[positions]
    return Reading(
        document.name,
        words,
        tuple(words[start:end].strip() or repr(words[start:end])[1:-1] for start, end in chosen.tolist()),
        np.array(ids, dtype=np.int64)[positions],
        positions,
        chosen,
        {key: rows for key, (rows, _, _) in taken.items()},
        attached.model,
        in_all - len(ids),
    )


def _of_a_word(character: str) -> bool:
    """Whether it is a letter, a digit, or a mark on a letter, which is no ``\\w``."""
    return bool(_WORD.match(character)) or (character != "" and unicodedata.category(character)[0] == "M")


def _tokenised(words: str, model: Any) -> tuple[list[int], list[int], NDArray[np.int64]]:
    """What stands in front of the text (BOS), its token ids, and where each stands in the text."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("this model has no tokenizer: take your own activations, and mi_probe.token_pairs.")
    front = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    if tokenizer.is_fast:
        found = tokenizer(words, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, spans = list(found["input_ids"]), np.array(found["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    else:  # it does not tell: where the text ends that the first k tokens stand for
        ids = list(tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"])
        ends = [min(len(tokenizer.decode(ids[:k], clean_up_tokenization_spaces=False)), len(words)) for k in range(len(ids) + 1)]
        last = np.array(ends[1:], dtype=np.int64)
        # Tokens of one character, each a byte or two, all have its place.
        spans = np.stack([np.array(ends, dtype=np.int64)[np.searchsorted(last, last)], last], axis=1)
    return front, ids, spans
