"""How much information do the dimensions of a residual stream share, from the embedding to the last block?

Question    For every pair of hidden dimensions, how much does the value of one tell about the other, and does depth change it?
Command     mi-probe run dimension_pairs
            mi-probe run dimension_pairs --model gpt2 --text-file my_texts/ --out gpt2_pairs
            torchrun --nproc-per-node 2 -m mi_probe run dimension_pairs --text-file my_texts/ --out gpt2_pairs --resume
Cost        Seconds for one text; for a corpus, about what its forward passes cost. Memory does not grow with the text.
Expect      One short text: much of the plain estimate is chance (left panel of distributions.png); the right panel shows what is
            left. In the bundled model the pairs share most at the embedding, 0.11 nats on average, and less with depth, down to
            0.025 at the last blocks: tokens repeat in a paragraph, and at the embedding equal tokens are nearly equal rows.

Files in the output folder: result.safetensors (load it with mi_probe.MIResult.load), state.safetensors (the counts, saved on the
way, too: they can be gone on with, and added to), summary.csv, top_pairs.csv, convergence.csv, and the figures.
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
    probe: str = "dimension_pairs",
    hooks: list[str] | None = None,
    layers: list[int] | None = None,
    bins: int | None = None,
    trim_z: float | None = None,
    correction: mi_probe.estimators.Correction = "adjusted",
    p_values: mi_probe.independence.PValues = "auto",
    units: mi_probe.units.Units = "nats",
    heat_map_at: str | None = None,
    out: Path = Path("mi_probe_out"),
) -> mi_probe.MIResult | None:
    """Mutual information of every pair of hidden dimensions at every hidden state.

    Parameters
    ----------
    model : str
        The bundled model (coffee-gpt2), a name on the Hugging Face hub (gpt2), or a folder.
    counts : Path
        Estimate from these counts, such as mi-probe merge writes, instead of running texts.
    probe : str
        A ready-made probe (see mi-probe ls) or a TOML file.
    hooks : list
        Hook points in place of the probe's: a named set such as resid_post, names, or patterns.
    layers : list
        Only these layers of the hook points.
    bins : int
        Bins of each dimension in place of the probe's.
    trim_z : float
        Leave out values further than this many standard deviations from the mean of their dimension.
    correction : str
        How the plain estimate is freed of what chance adds to it.
    p_values : str
        The test of independence.
    units : str
        What figures and words are in. Files are in nats.
    heat_map_at : str
        Hook point for the heat map and the scatter plots; the middle one by default.
    out : Path
        Folder for results and figures.
    """
    # What to measure, and on what.
    what = replace(mi_probe.load_probe(probe), variables="dimensions")
    if hooks is not None:
        what = replace(what, hooks=tuple(hooks))
    if layers is not None:
        what = replace(what, layers=tuple(layers))
    if bins is not None:
        what = replace(what, bins=bins)
    if trim_z is not None:
        what = replace(what, trim_z=trim_z)
    corpus = texts.corpus()
    out.mkdir(parents=True, exist_ok=True)

    # Forward passes with the probe attached; counts, then estimates. Several processes share the work; the first has the result.
    counted: mi_probe.ProbeState
    with mi_probe.Ranks.from_environment() as ranks:
        if counts is None:
            net = mi_probe.load_model(model, device=ranks.device)
            if heat_map_at is not None:
                names = list(mi_probe.hooks.couples(net, what)) or [point.key for point in mi_probe.hooks.resolve(net, what)]
                mi_probe.errors.require_point(heat_map_at, names)
            saved = out / "state.safetensors"
            counted = mi_probe.accumulate(
                net, corpus, what, checkpoint=saved, ranks=ranks, seed=texts.seed, progress=True, **over.arguments()
            )
        else:
            counted = mi_probe.ProbeState.load(counts)
        result = ranks.estimate(counted, correction=correction, p_values=p_values)
    if result is None:  # another process has it
        return None
    result.save(out / "result.safetensors")
    result.summary().to_csv(out / "summary.csv")
    result.top_pairs(100).to_csv(out / "top_pairs.csv", index=False)

    settling = mi_probe.convergence(counted)
    settling.to_csv(out / "convergence.csv", index=False)

    # Figures.
    at = heat_map_at or list(result)[len(result) // 2]
    title = f"{at}, {counted.model['name']}"
    figures = {
        "distributions.png": mi_probe.plots.distributions(result, units=units),
        "heat_map.png": mi_probe.plots.heat_map(result[at], title=title, units=units, variables="hidden dimensions"),
    }
    if len(result) > 1:
        figures["depth.png"] = mi_probe.plots.depth_profile(result, units=units)
    if settling.tokens.nunique() > 1:
        figures["convergence.png"] = mi_probe.plots.settling(settling, units=units)
    table = result[at].to_frame(units=units)
    if counts is None and table.mi.notna().any():
        clouds = {place: mi_probe.sample_activations(net, corpus, place, what) for place in at.split(" -> ")}
        picks = {
            "the pair nearest to 0": table.mi.abs().idxmin(),
            "the median pair": (table.mi - table.mi.median()).abs().idxmin(),
            "the strongest pair": table.mi.idxmax(),
        }
        panels = []
        for label, row in picks.items():
            pair = table.loc[row]
            ends = [name.rpartition(":") for name in (pair.i, pair.j)]  # a dimension, with its place before it if there are two
            x, y = (clouds[place or at][:, int(dimension)] for place, _, dimension in ends)
            x_name, y_name = (f"{place or at}, dimension {dimension}" for place, _, dimension in ends)
            panels.append((f"{label}: {pair.mi:.3f} {units}", x_name, y_name, x, y))
        figures["pairs.png"] = mi_probe.plots.pair_scatter(panels)
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=150)

    # What it found, in words.
    print(f"Model:    {counted.model['name']}, {counted.tokens_seen:,} tokens of {counts or corpus.name}")
    print(mi_probe.describe(result, variables="hidden dimensions", samples="tokens", units=units, settling=settling))
    print(f"Figures:  {', '.join(str(out / name) for name in figures)}")
    print(f"Results:  {out / 'result.safetensors'}, tables beside it")
    return result
