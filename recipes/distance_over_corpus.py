"""How much do two tokens share the further they are apart? Over a corpus, with error bars and a baseline.

Question    Does what two tokens of a text share fall with the number of tokens between them, at every hidden state, and how far
            does it reach before they are like tokens of different texts?
Command     mi-probe run distance_over_corpus
            mi-probe run distance_over_corpus --model gpt2 --text-file my_texts/ --furthest 256 --out gpt2_distance
            torchrun --nproc-per-node 2 -m mi_probe run distance_over_corpus --text-file my_texts/ --out gpt2_distance --resume
Cost        For a corpus, about what its forward passes cost, and more with a larger --furthest. Counts take a few MB.
Expect      The bundled model, on 32 passages: depth shows. At the embedding neighbours share no more than tokens of different
            texts do (0.025 and 0.031 nats), those further apart a little more (0.038): the same word comes again, but not at
            once, and pairs of different words share as little at any distance. From hidden_states.8 on, neighbours share two to
            three times as much as tokens of other texts, and in the last three states all up to 64 apart share more.

Files in the output folder: state.safetensors (the counts: they can be gone on with, and added to), over_distance.csv, reach.csv,
over_distance.png.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mi_probe


def run(
    *,
    model: str = "coffee-gpt2",
    texts: mi_probe.options.Texts = mi_probe.options.Texts(),
    over: mi_probe.options.Over = mi_probe.options.Over(),
    counts: Path | None = None,
    probe: str = "tokens_by_distance",
    hooks: list[str] | None = None,
    layers: list[int] | None = None,
    furthest: int | None = None,
    bins: int | None = None,
    units: mi_probe.units.Units = "nats",
    out: Path = Path("mi_probe_out"),
) -> mi_probe.ProbeState | None:
    """Mutual information of two tokens of a text over the distance between them, at every hidden state.

    Without texts of your own it runs over 32 bundled passages.

    Parameters
    ----------
    model : str
        The bundled model (coffee-gpt2), a name on the Hugging Face hub (gpt2), or a folder.
    counts : Path
        Estimate from these counts, such as mi-probe merge writes, instead of running texts.
    probe : str
        A ready-made probe (see mi-probe ls) or a TOML file: which hook points, and which tokens count.
    hooks : list
        Hook points in place of the probe's: a named set such as resid_post, names, or patterns.
    layers : list
        Only these layers of the hook points.
    furthest : int
        Pairs further apart than this many tokens are not counted; in place of the probe's.
    bins : int
        Bins of the values of each token; by default by the number of hidden dimensions.
    units : str
        What figures and words are in. Files are in nats.
    out : Path
        Folder for results and figures.
    """
    # What to measure, and on what.
    what = replace(mi_probe.load_probe(probe), variables="tokens", by="distance", labels=())
    if hooks is not None:
        what = replace(what, hooks=tuple(hooks))
    if layers is not None:
        what = replace(what, layers=tuple(layers))
    if furthest is not None:
        what = replace(what, furthest=furthest)
    if bins is not None:
        what = replace(what, bins=bins)
    corpus = texts.corpus(otherwise=mi_probe.sample_texts())
    out.mkdir(parents=True, exist_ok=True)

    # Forward passes with the probe attached. Several processes share the work; the first has the counts.
    counted: mi_probe.ProbeState
    with mi_probe.Ranks.from_environment() as ranks:
        if counts is None:
            net = mi_probe.load_model(model, device=ranks.device)
            saved = out / "state.safetensors"
            counted = mi_probe.accumulate(
                net, corpus, what, checkpoint=saved, ranks=ranks, seed=texts.seed, progress=True, **over.arguments()
            )
        else:
            counted = mi_probe.ProbeState.load(counts)
        first = ranks.first
    if not first:
        return None  # another process has it

    # The mean over all pairs of each distance, with errors from shards of documents, and how far it reaches.
    table = counted.estimate_token_pairs()
    reach = mi_probe.comparison.reach(table)
    table.to_csv(out / "over_distance.csv", index=False)
    reach.to_csv(out / "reach.csv")
    figure = mi_probe.plots.over_distance(table, units=units)
    figure.savefig(out / "over_distance.png", dpi=150)

    # What it found, in words.
    scale = mi_probe.units.per_nat(units)
    pairs = table[table.key != "unrelated"].groupby("point").pairs.sum().iloc[0]
    print(f"Model:    {counted.model['name']}, {counted.tokens_seen:,} tokens of {counts or corpus.name}")
    print(f"Measured: mutual information of {pairs:,} pairs of tokens at each hook point, mean over pairs, in {units}, freed of")
    print("          what chance adds; ± is two standard errors, from shards of documents.")
    print(f"{'hook point':<20}{'neighbours':>11}{'furthest':>10}   other texts     above them")
    for row in reach.itertuples():
        known = row.unrelated == row.unrelated  # of one text there are none
        other = f"{scale * row.unrelated:.3f} ± {2 * scale * row.unrelated_se:.3f}" if known else f"{'none':<13}"
        nearest = f"all up to {row.reach:.0f}" if row.reach else "not neighbours"
        above = "at all distances" if row.above == 1 else f"at {100 * row.above:.0f} % of distances, {nearest}"
        above = above if row.reach >= 0 else "? (it takes several texts)"
        print(f"{row.Index:<20}{scale * row.nearest:>11.3f}{scale * row.farthest:>10.3f}   {other}   {above}")
    if table.shards.max() < 2:
        print("Errors:   none are known: they take several texts, as one counts once, however long it is.")
    elif table.shards.max() < 8:
        print(f"Errors:   rough ones, from {table.shards.max()} sets of documents: a text counts once, however long it is.")
    print(f"Figure:   {out / 'over_distance.png'}")
    print(f"Results:  {out / 'over_distance.csv'}, {out / 'reach.csv'}, {out / 'state.safetensors'}")
    return counted
