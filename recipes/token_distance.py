"""One word again and again in a text: do its occurrences share less the further apart they stand?

Question    Take every occurrence of a word in one text. Do what attention writes for two of them, and what the MLP writes, share
            less the more tokens lie between them, and which of the two shares more, at which block?
Command     mi-probe run token_distance
            mi-probe run token_distance --model gpt2-xl --text-file my_text.txt --word ocean --max-tokens 1000 --out ocean
Cost        Seconds, plus one forward pass.
Expect      Bundled model and passage, "coffee" 7 times, 21 pairs: what the MLP writes shares more than what attention writes,
            most in the first blocks (1.1 and 0.4 nats), far less from the middle on (0.2 to 0.4, and mostly below 0.1). Means
            differ in all blocks but one. tau is below 0 in all blocks, surely so (q <= .05) in the first 6 of the MLP and in 3
            of attention; p in distance.png is of one panel, q allows for all. Nearest neighbours find more where much is shared,
            as bins lose some, and nearly the same order of pairs, least so where there is little to order (attention, block 6).
            Distance is not all: in the first blocks, successive occurrences late in the text share more than early ones. Is it
            learned? Two random models of this shape had q <= .05 in no block; but in one of 48 blocks tau of attention was below
            0 in all, perhaps as near tokens look back on much the same past. p-values are hints: 21 pairs are of 7 tokens only.

Files in the output folder: pairs.csv (a row for each pair of occurrences and hook point), blocks.csv (a row for each block and
kind), result.safetensors, and the figures distance.png, laminar.png, ksg.png. In blocks.csv q and mantel_q allow for all rows;
means_... (Welch's t-test) and taus_... (Fisher's z) compare attention with the MLP, and are the same in both rows of a block.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import mi_probe


def run(
    *,
    model: str = "coffee-gpt2",
    texts: mi_probe.options.Texts = mi_probe.options.Texts(),
    word: str = "coffee",
    trim_z: float = 4.0,
    bins: int | None = None,
    method: Literal["equal_count", "equal_width"] = "equal_count",
    standard: Path | None = None,
    max_tokens: int | None = None,
    units: mi_probe.units.Units = "nats",
    out: Path = Path("mi_probe_out"),
) -> mi_probe.MIResult:
    """Mutual information of every two occurrences of a word against the distance between them, for attention and MLP.

    Parameters
    ----------
    model : str
        The bundled model (coffee-gpt2), a name on the Hugging Face hub (gpt2-xl), or a folder.
    word : str
        A word, or several as they stand in the text, whether in capitals or not.
    trim_z : float
        Leave out dimensions further than this many standard deviations from the mean of their token; inf keeps all.
    bins : int
        Bins of the values of each token; by default by the number of dimensions.
    method : str
        Bins that hold equally many dimensions, or of equal width.
    standard : Path
        Edges of mi-probe calibrate --hooks attn_out mlp_out, fitted on a corpus: dimensions are standardised by its means and
        deviations. Without, by those of the text itself.
    max_tokens : int
        Read no more than so many tokens of the text, which must fit into the model's context.
    units : str
        What figures and words are in. Files are in nats.
    out : Path
        Folder for results and figures.
    """
    # One text through the model.
    document = texts.document()
    scale = mi_probe.units.per_nat(units)
    edges = None if standard is None else mi_probe.Edges.load(standard)
    net = mi_probe.load_model(model)
    reading = mi_probe.read_text(net, document, hooks=["attn_out", "mlp_out"], max_tokens=max_tokens)

    # What every two occurrences share: by histogram, and by nearest neighbours.
    which = reading.select(word)
    result = reading.token_pairs(which, standard=edges, trim_z=trim_z, bins="auto" if bins is None else bins, method=method)
    neighbours = reading.neighbour_pairs(which, standard=edges, trim_z=trim_z)
    table = reading.table(result)
    names = {"attn_out": "attention", "mlp_out": "MLP"}
    table.insert(1, "kind", [names[point.partition(".")[0]] for point in table.point])
    table.insert(2, "block", [int(point.partition(".")[2]) for point in table.point])
    table.insert(6, "ksg", [value for name in result for value in neighbours[name].pairs()])

    # Tests at each block: does MI fall with distance, and are attention and MLP alike?
    compare, where = mi_probe.comparison, reading.positions[which]
    parts = dict(list(table.groupby(["kind", "block"], sort=False)))
    trends = {at: compare.rank_trend(part.distance, part.mi) for at, part in parts.items()}
    dealt = compare.collect({at: compare.mantel(where, part.mi, seed=texts.seed) for at, part in parts.items()})
    agree = compare.collect({at: compare.rank_trend(part.ksg, part.mi) for at, part in parts.items()})
    means, taus = {}, {}
    for block in sorted(set(table.block)):
        one, two = ("attention", block), ("MLP", block)
        means[block] = compare.compare_means(parts[one].mi, parts[two].mi)
        taus[block] = compare.compare_correlations(trends[one].tau, trends[one].n, trends[two].tau, trends[two].n, kind="kendall")
    grouped = table.groupby(["kind", "block"])
    blocks = compare.collect(trends).rename_axis(["kind", "block"])
    blocks = blocks.assign(mantel_p=dealt.p, mantel_q=dealt.q, ksg_tau=agree.tau, ksg_mean=grouped.ksg.mean())
    blocks = blocks.assign(mean=grouped.mi.mean(), se=grouped.mi.sem()).reset_index()
    for name, tests in {"means_": compare.collect(means), "taus_": compare.collect(taus)}.items():
        numbers = tests.drop(columns=["note", "first", "second", "kind"], errors="ignore")
        blocks = blocks.join(numbers.add_prefix(name), on="block")
    blocks["differs"] = blocks.means_q <= 0.05

    # Files and figures.
    out.mkdir(parents=True, exist_ok=True)
    result.save(out / "result.safetensors")
    table.to_csv(out / "pairs.csv", index=False)
    blocks.to_csv(out / "blocks.csv", index=False)
    figures = {
        "distance.png": mi_probe.plots.against_distance(table, blocks, units=units),
        "laminar.png": mi_probe.plots.laminar(blocks, units=units, differs="attention and MLP differ, q ≤ .05"),
        "ksg.png": mi_probe.plots.against_neighbours(table, units=units),
    }
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=150)

    # What it found, in words.
    pairs = parts["attention", 0].distance
    print(f"Model:     {reading.model['name']}, {len(reading.tokens):,} tokens of {document.name}")
    print(f"Word:      '{word}', {len(which)} times: {len(pairs):,} pairs, {pairs.min()} to {pairs.max()} tokens apart")
    for kind, of in blocks.groupby("kind", sort=False):
        top, falls, sure = of["mean"].idxmax(), int((of.tau < 0).sum()), of[of.tau < 0]
        plain, dealt_out = int((sure.q <= 0.05).sum()), int((sure.mantel_q <= 0.05).sum())
        mean, near = scale * of["mean"].mean(), scale * of.ksg_mean.mean()
        print(f"{kind + ':':<10} {mean:.3f} {units} a pair on average over the blocks, by nearest neighbours {near:.3f};")
        print(f"           the most at block {of.block[top]}, {scale * of['mean'][top]:.3f} {units}.")
        print(f"           It falls with distance (tau < 0) in {falls} of {len(of)} blocks; with q <= .05 in {plain},")
        print(f"           by Mantel's test in {dealt_out}.")
        if of.ksg_tau.notna().any():
            order = f"tau {of.ksg_tau.min():.2f} to {of.ksg_tau.max():.2f}"
            print(f"           Histogram and nearest neighbours put pairs in the same order with {order}.")
    each = blocks.drop_duplicates("block")
    differ, strictly, slopes = (int((each[p] <= 0.05).sum()) for p in ("means_q", "means_p_bonferroni", "taus_q"))
    print(f"Both:      means differ in {differ} of {len(each)} blocks (q <= .05; by Bonferroni in {strictly}), tau in {slopes}.")
    for note in sorted({*blocks.note, *(note for point in result.values() for note in point.notes)} - {""}):
        print(f"Note:      {note}.")
    print("Caution:   pairs share tokens, and attention and MLP are of the same pairs. All p-values but Mantel's, which")
    print("           deals out the places of the tokens anew, take them to be independent. And it is one text.")
    print(f"Figures:   {', '.join(str(out / name) for name in figures)}")
    print(f"Results:   {out / 'result.safetensors'}, pairs.csv and blocks.csv beside it")
    return result
