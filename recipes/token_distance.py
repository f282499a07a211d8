"""One word again and again in a text: do its occurrences share less the further apart they stand?

Question    Take every occurrence of a word in one text. Do what attention writes for two of them, and what the MLP writes, share
            less the more tokens lie between them, and which of the two shares more, at which block?
Command     mi-probe run token_distance
            mi-probe run token_distance --model gpt2-xl --text-file my_text.txt --word ocean --max-tokens 1000 --out ocean
Cost        Seconds, plus one forward pass.
Expect      TODO

Files in the output folder: pairs.csv (a row for each pair of occurrences and hook point), blocks.csv (a row for each block and
kind), result.safetensors, and the figures distance.png, laminar.png, ksg.png. In blocks.csv the columns means_... and taus_...
compare attention with the MLP, and are the same in both rows of a block.
"""

from __future__ import annotations

from pathlib import Path

import mi_probe


def run(
    *,
    model: str = "coffee-gpt2",
    texts: mi_probe.options.Texts = mi_probe.options.Texts(),
    word: str = "coffee",
    trim_z: float = 4.0,
    bins: int | None = None,
    method: mi_probe.binning.BinningMethod = "equal_count",
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
    result = reading.token_pairs(which, standard=edges, trim_z=trim_z, bins=bins or "auto", method=method)
    neighbours = reading.neighbour_pairs(which, standard=edges, trim_z=trim_z)
    table = reading.table(result)
    names = {"attn_out": "attention", "mlp_out": "MLP"}
    table.insert(1, "kind", [names[point.partition(".")[0]] for point in table.point])
    table.insert(2, "block", [int(point.partition(".")[2]) for point in table.point])
    table.insert(6, "ksg", [value for name in result for value in neighbours[name].pairs()])

    # Tests at each block: does MI fall with distance, and are attention and MLP alike?
    compare = mi_probe.comparison
    parts = dict(list(table.groupby(["kind", "block"], sort=False)))
    plain = {at: compare.rank_trend(part.distance, part.mi) for at, part in parts.items()}
    dealt = {at: compare.mantel(reading.positions[which], part.mi, seed=texts.seed) for at, part in parts.items()}
    agree = {at: compare.rank_trend(part.ksg, part.mi) for at, part in parts.items()}
    both = {block: (("attention", block), ("MLP", block)) for block in sorted(set(table.block))}
    means = {block: compare.compare_means(parts[one].mi, parts[two].mi) for block, (one, two) in both.items()}
    taus = {
        block: compare.compare_correlations(plain[one].tau, plain[one].n, plain[two].tau, plain[two].n, kind="kendall")
        for block, (one, two) in both.items()
    }
    blocks = compare.collect(plain).rename_axis(["kind", "block"]).reset_index()
    print(blocks)
    print(compare.collect(dealt))
    print(compare.collect(agree))
    print(compare.collect(means))
    print(compare.collect(taus))
    return result
