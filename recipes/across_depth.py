"""How fast does a dimension's information about itself, and about the others, fade over depth?

Question    From the first hidden state, and from the middle one, to each later one: how much does the value of a hidden dimension
            tell about the same dimension further up, and how much about all the others?
Command     mi-probe run across_depth
            mi-probe run across_depth --model gpt2 --dimensions 256 --text-file my_texts/ --out gpt2_depth
            mi-probe run across_depth --hooks resid_post --start resid_post.2 resid_post.8
Cost        Seconds for one text. Tables for every two places: at GPT-2's size 150 MB each, which --dimensions makes fewer.
Expect      The bundled model: a dimension of the embedding tells after one block 0.11 nats of its 1.61 about itself, no more than
            about the others, so blocks do not keep it where it was. From the middle on they do: 0.95 nats after one block, 0.35
            after six, which is ten times what it tells about the others.

Files in the output folder: result.safetensors (load it with mi_probe.MIResult.load; result["a -> b"].between() is the rectangle
of two places), state.safetensors (the counts), across_depth.csv (in nats), and the figures across_depth.png, heat_map.png.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mi_probe


def run(
    *,
    model: str = "coffee-gpt2",
    texts: mi_probe.options.Texts = mi_probe.options.Texts(),
    over: mi_probe.options.Over = mi_probe.options.Over(),
    probe: str = "between_states",
    hooks: list[str] | None = None,
    layers: list[int] | None = None,
    start: list[str] | None = None,
    bins: int | None = None,
    dimensions: int | None = None,
    units: mi_probe.units.Units = "nats",
    heat_map_at: str | None = None,
    out: Path = Path("mi_probe_out"),
) -> mi_probe.MIResult | None:
    """How fast information about a dimension itself, and about the others, fades from one hidden state to later ones.

    Parameters
    ----------
    model : str
        The bundled model (coffee-gpt2), a name on the Hugging Face hub (gpt2), or a folder.
    probe : str
        A ready-made probe (see mi-probe ls) or a TOML file, for its tokens and bins; which places meet is said here.
    hooks : list
        Hook points in place of the probe's: a named set such as resid_post, names, or patterns.
    layers : list
        Only these layers of the hook points.
    start : list
        Hook points to start from; by default the first one and the middle one.
    bins : int
        Bins of each dimension in place of the probe's.
    dimensions : int
        Only so many dimensions, chosen at random, the same ones everywhere.
    units : str
        What figures and words are in. Files are in nats.
    heat_map_at : str
        Two places for the heat map, such as "hidden_states.0 -> hidden_states.1"; by default the last two that meet.
    out : Path
        Folder for results and figures.
    """
    # What to measure, and on what: each start with every later place, in the order of the model.
    what = replace(mi_probe.load_probe(probe), variables="dimensions", pairs="between", between="first")
    if hooks is not None:
        what = replace(what, hooks=tuple(hooks))
    if layers is not None:
        what = replace(what, layers=tuple(layers))
    if bins is not None:
        what = replace(what, bins=bins)
    if dimensions is not None:
        what = replace(what, dimensions=dimensions, chosen_by="random")
    corpus = texts.corpus()
    out.mkdir(parents=True, exist_ok=True)

    # Forward passes with the probe attached; counts, then estimates. Several processes share the work; the first has the result.
    with mi_probe.Ranks.from_environment() as ranks:
        net = mi_probe.load_model(model, device=ranks.device)
        places = [point.key for point in mi_probe.hooks.resolve(net, what)]
        starts = start or list(dict.fromkeys([places[0], places[(len(places) - 1) // 2]]))
        for name in starts:
            mi_probe.errors.require_point(name, places)
            if name == places[-1]:
                raise mi_probe.errors.InputError(f"nothing comes after '{name}', the last place: start from an earlier one.")
        what = replace(what, between=tuple((name, later) for name in starts for later in places[places.index(name) + 1 :]))
        if heat_map_at is not None:
            mi_probe.errors.require_point(heat_map_at, mi_probe.hooks.couples(net, what))
        saved = out / "state.safetensors"
        counted = mi_probe.accumulate(
            net, corpus, what, checkpoint=saved, ranks=ranks, seed=texts.seed, progress=True, **over.arguments()
        )
        result = ranks.estimate(counted, p_values="none")
    if result is None:
        return None
    table = mi_probe.fading(result, units=units)
    result.save(out / "result.safetensors")
    mi_probe.fading(result).to_csv(out / "across_depth.csv", index=False)

    # Figures.
    at = heat_map_at or list(result)[-1]
    title = f"{at}, {counted.model['name']}"
    mi_probe.plots.fading(table, units=units).savefig(out / "across_depth.png", dpi=150)
    figure = mi_probe.plots.heat_map(result[at], title=title, units=units, variables="hidden dimensions")
    figure.savefig(out / "heat_map.png", dpi=150)

    # What it found, in words.
    point = result[at]
    print(f"Model:    {counted.model['name']}, {counted.tokens_seen:,} tokens of {corpus.name}")
    print(
        f"Measured: mutual information (MI) of every hidden dimension of a start with every one of each later place, "
        f"{len(point.pairs()):,} pairs each, adjusted for chance, in {units}; each dimension in {point.bins} bins."
    )
    for name, rows in table.groupby("start", sort=False):
        near, far = rows.iloc[0], rows.iloc[-1]
        print(f"From {name}, where a dimension's entropy is {near.entropy:.3f} {units}:")
        print(f"  itself  {_of_itself(near, units)}")
        print(f"          {_of_itself(far, units)}")
        halved = rows[rows.kept < 0.5]
        if len(halved):
            print(f"          Less than half of it is left from {halved.iloc[0].place} on.")
        print(f"  others  {near.others:.4f} {units} at {near.place}, {far.others:.4f} at {far.place}, a pair on average.")
    print(
        f"Noise:    chance alone would give {table.chance.mean():.3f} on average, which is taken off. One dimension's value is "
        f"off by {table.itself_se.mean():.3f}, one pair's by {table.others_se.mean():.3f} (standard errors, if tokens were "
        "independent).\n"
        "          Tokens that recur, as words of a short text do, make all dimensions share something."
    )
    print(f"Figures:  {out / 'across_depth.png'}, {out / 'heat_map.png'}")
    print(f"Results:  {out / 'result.safetensors'}, {out / 'across_depth.csv'}")
    return result


def _of_itself(row: Any, units: str) -> str:
    middle = f"median, middle half {row.itself_low:.3f} to {row.itself_high:.3f}"
    return f"{row.itself:.3f} {units} at {row.place} ({middle}), {100 * row.kept:.0f} % of the entropy"
