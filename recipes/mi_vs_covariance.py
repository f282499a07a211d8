"""Mutual information has no sign and sees curves; covariance has a sign and is blind to them: made-up data, a model.

Question    What does mutual information (MI) see that covariance does not, and the other way round? First on simulated data,
            then on hidden states: does it matter there?
Command     mi-probe run mi_vs_covariance
            mi-probe run mi_vs_covariance --model gpt2 --text-file my_texts/ --shards 16 --layers 0 6 12 --out gpt2_covariance
Cost        Seconds for one text; for a corpus, about what its forward passes cost.
Expect      Simulated: MI over correlation is a U, covariance a line; parabola, cosine and circle have MI and no correlation.
            Hidden states of the bundled model: covariance sees the smaller part of what pairs share, on the bundled passage
            15 % at the least (hidden_states.4) and 34 % at the most (hidden_states.11). Which pairs, one passage cannot tell:
            the clouds of those that disagree most are clumps of repeated words, which q takes for independent tokens. Over
            100,000 tokens of All About Coffee (Ukers 1922) the first eight share .02 to .07 nats, not .24 to .35, and other
            pairs come first; the shares over depth were 16 to 44 %. So read single pairs over many texts, with --shards 16.

Files in the output folder: figures; shapes.csv, sweep.csv (simulated), beyond_covariance.csv (1,000 pairs of one hook point,
those whose disagreement is surest first), summary.csv, result.safetensors, state.safetensors (the counts).
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
    probe: str = "dimension_pairs",
    hooks: list[str] | None = None,
    layers: list[int] | None = None,
    at: str | None = None,
    bins: int | None = None,
    shards: int = 0,
    weak: float = 0.2,
    samples: int = 2000,
    units: mi_probe.units.Units = "nats",
    out: Path = Path("mi_probe_out"),
) -> mi_probe.MIResult:
    """Mutual information beside covariance: of simulated shapes, and of every pair of hidden dimensions.

    Parameters
    ----------
    model : str
        The bundled model (coffee-gpt2), a name on the Hugging Face hub (gpt2), or a folder.
    probe : str
        A ready-made probe (see mi-probe ls) or a TOML file; bins are of equal count in any case.
    hooks : list
        Hook points in place of the probe's: a named set such as resid_post, names, or patterns.
    layers : list
        Only these layers of the hook points.
    at : str
        Hook point whose pairs are drawn; the middle one by default.
    bins : int
        Bins of each dimension in place of the probe's.
    shards : int
        Take standard errors from so many shards of documents, 16 or more, instead of counting tokens as independent.
    weak : float
        Pairs with |r| up to this are looked through for strong MI.
    samples : int
        Of each simulated shape, drawn from the seed.
    units : str
        What figures and words are in. Files are in nats.
    out : Path
        Folder for results and figures.
    """
    # What to measure.
    what = replace(mi_probe.load_probe(probe), variables="dimensions", method="equal_count", moments=True, shards=shards)
    if hooks is not None:
        what = replace(what, hooks=tuple(hooks))
    if layers is not None:
        what = replace(what, layers=tuple(layers))
    if bins is not None:
        what = replace(what, bins=bins)
    scale = mi_probe.units.per_nat(units)
    corpus = texts.corpus()
    net = mi_probe.load_model(model)
    keys = [point.key for point in mi_probe.hooks.resolve(net, what)]
    at = at or keys[len(keys) // 2]
    mi_probe.errors.require_point(at, keys)
    out.mkdir(parents=True, exist_ok=True)

    # Part 1: data whose MI and correlation are known.
    shapes = mi_probe.simulated.all_shapes()
    table = mi_probe.simulated.measure(shapes, samples=samples, seed=texts.seed)
    noises = [mi_probe.simulated.correlated_noise(tenths / 10) for tenths in range(-9, 10)]
    sweep = mi_probe.simulated.measure(noises, samples=samples, seed=texts.seed)
    panels = []
    for k, (shape, row) in enumerate(zip(shapes, table.itertuples(), strict=True)):
        x, y = shape.sample(samples, texts.seed + k).T
        panels.append((f"{shape.name}:\nMI {scale * row.mi:.2f} {units}, r {row.correlation:+.2f}", "x", "y", x, y))
    figures = {
        "shapes.png": mi_probe.plots.pair_scatter(panels, columns=3),
        "sweep.png": mi_probe.plots.mi_and_covariance(sweep, units=units),
    }

    # Part 2: hidden states. Counts with second moments, so that correlations are known beside them.
    counted = mi_probe.accumulate(
        net, corpus, what, checkpoint=out / "state.safetensors", seed=texts.seed, progress=True, **over.arguments()
    )
    result = counted.estimate()
    point = result[at]
    beyond = mi_probe.linearity.beyond_covariance(point)
    table.to_csv(out / "shapes.csv", index=False)
    sweep.to_csv(out / "sweep.csv", index=False)
    result.save(out / "result.safetensors")
    result.summary().to_csv(out / "summary.csv")
    beyond.head(1000).to_csv(out / "beyond_covariance.csv", index=False)
    blind = beyond[beyond.correlation.abs() <= weak]
    picks = blind.head(3)
    title = f"{at}, {counted.model['name']}, {point.samples:,} tokens"
    figures["mi_vs_r.png"] = mi_probe.plots.mi_against_correlation(point, marked=picks, title=title, units=units)
    cloud = mi_probe.sample_activations(net, corpus, at, what)
    straight = beyond.sort_values("linear", ascending=False).head(1)
    names = [*(f"{k}: much MI, weak r" for k in range(1, len(picks) + 1)), "for comparison: the largest |r|"]
    panels = []
    for name, row in zip(names, (*picks.itertuples(), *straight.itertuples()), strict=False):
        label = f"{name}\nMI {scale * row.continuous:.2f} ± {2 * scale * row.se:.2f} {units}, r {row.correlation:+.2f}"
        panels.append((label, f"dimension {row.i}", f"dimension {row.j}", cloud[:, int(row.i)], cloud[:, int(row.j)]))
    figures["clouds.png"] = mi_probe.plots.pair_scatter(panels)
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=150)

    # What it found, in words.
    print(f"Simulated, {samples:,} samples of each shape, MI in {units}:")
    for row in table.itertuples():
        print(f"  {row.shape:<28} MI {scale * row.mi:.2f} (known: {scale * row.known_mi:.2f}), r {row.correlation:+.2f}")
    print(f"Model:    {counted.model['name']}, {counted.tokens_seen:,} tokens of {corpus.name}")
    shares = {name: mi_probe.linearity.explained(each) for name, each in result.items()}
    here = shares[at]
    print(f"At {at}: {here.pairs:,} pairs share {scale * here.continuous:.3f} {units} on average. Of it covariance sees")
    print(f"          {100 * here.linear_share:.0f} %, rank correlation {100 * here.gaussian_share:.0f} %.")
    (low, least), (high, most) = (pick((each.linear_share, name) for name, each in shares.items())[::-1] for pick in (min, max))
    print(f"Depth:    covariance sees {100 * least:.0f} % at {low}, the least, and {100 * most:.0f} % at {high}, the most.")
    sure, among = int((beyond.q <= 0.05).sum()), int((blind.q <= 0.05).sum())
    print(
        f"Beyond:   {sure:,} pairs share more than Gaussians of their r would (q <= .05), {among:,} of them with |r| <= {weak}."
    )
    if not among:
        print("          The clouds are those that come nearest to it: their MI may be chance.")
    elif "shard_se" not in point.columns:
        print("          Tokens that recur, as repeated words do, count as independent here: clumps in the clouds may be no more")
        print("          than that, and single pairs of one text are not to be trusted. Take more texts, with --shards 16.")
    print(f"Figures:  {', '.join(str(out / name) for name in figures)}")
    print(f"Results:  {out / 'result.safetensors'}, tables beside it")
    return result
