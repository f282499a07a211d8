"""How much do two tokens of a text share, from the embedding to the last block? Here samples are hidden dimensions.

Question    The matrix turned round: for every two tokens of one text, how much does the vector of one tell about the other's,
            does depth change it, and is it more than tokens of unrelated texts share?
Command     mi-probe run token_pairs
            mi-probe run token_pairs --model gpt2 --text-file my_text.txt --max-tokens 200 --out gpt2_tokens
            mi-probe run token_pairs --word coffee
Cost        Seconds: one forward pass for the text, and one for each text that it is compared with.
Expect      In the bundled model depth shows, as it hardly does in pairs of dimensions: up to the middle a pair of tokens shares
            next to nothing more than tokens of unrelated texts (medians within 0.005 nats), at the last block 0.02 nats; there
            19 % of the pairs lie above 95 % of the unrelated ones, 7 % at the embedding. Equal words stand out at all depths.

Files in the output folder: result.safetensors and unrelated.safetensors (load them with mi_probe.MIResult.load), summary.csv,
depth.csv (each hook point beside unrelated tokens), top_pairs.csv, and the figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import mi_probe


def run(
    *,
    model: str = "coffee-gpt2",
    texts: mi_probe.options.Texts = mi_probe.options.Texts(),
    max_tokens: int | None = None,
    word: str | None = None,
    pattern: str | None = None,
    part: str | None = None,
    others: list[str] | None = None,
    standard: Literal["others", "text"] = "others",
    probe: str = "dimension_pairs",
    hooks: list[str] | None = None,
    layers: list[int] | None = None,
    bins: int | Literal["auto"] = "auto",
    method: Literal["equal_count", "equal_width"] = "equal_count",
    trim_z: float | None = None,
    correction: mi_probe.estimators.Correction = "adjusted",
    units: mi_probe.units.Units = "nats",
    map_at: str | None = None,
    out: Path = Path("mi_probe_out"),
) -> mi_probe.MIResult:
    """Mutual information of every pair of tokens of one text at every hidden state.

    Parameters
    ----------
    model : str
        The bundled model (coffee-gpt2), a name on the Hugging Face hub (gpt2), or a folder.
    max_tokens : int
        Read so many tokens of the text; by default as many as the model's context holds.
    word : str
        Only the tokens in which this word ends.
    pattern : str
        Only the tokens in which a match of this regular expression ends.
    part : str
        Only the tokens of this passage, as it stands in the text.
    others : list
        Files of texts to compare with; 32 bundled passages on other subjects by default.
    standard : str
        By what each dimension is standardised first: all tokens of the other texts, or those of the text itself.
    probe : str
        A ready-made probe (see mi-probe ls) or a TOML file: which hook points, and which tokens count.
    hooks : list
        Hook points in place of the probe's: a named set such as resid_post, names, or patterns.
    layers : list
        Only these layers of the hook points.
    bins : int
        Bins of the values of each token; by default by the number of hidden dimensions.
    method : str
        How values are binned.
    trim_z : float
        Leave out dimensions further than this many standard deviations from the mean of their token.
    correction : str
        How the plain estimate is freed of what chance adds to it.
    units : str
        What figures and words are in. Files are in nats.
    map_at : str
        Hook point for the large map; the last one by default.
    out : Path
        Folder for results and figures.
    """
    # The text as the model reads it, and texts that have nothing to do with it.
    text = texts.document()
    net = mi_probe.load_model(model)
    most: Any = "context" if max_tokens is None else max_tokens
    reading = mi_probe.read_text(net, text, probe, hooks=hooks, layers=layers, max_tokens=most)
    elsewhere = mi_probe.documents(text_file=others) if others else mi_probe.sample_texts()
    there = [mi_probe.read_text(net, each, probe, hooks=hooks, layers=layers, max_tokens="context") for each in elsewhere]
    at = map_at or list(reading.values)[-1]
    mi_probe.errors.require_point(at, reading.values)

    # Which tokens: all of them, unless one of the three says otherwise.
    chosen = any(said is not None for said in (word, pattern, part))
    which = reading.select(word, pattern=pattern, part=part) if chosen else None

    # MI of every pair, with each dimension standardised first: what all tokens have in common is not what two of them share.
    means = mi_probe.Reading.standard_of(there) if standard == "others" else None
    options: dict[str, Any] = {"standard": means, "bins": bins, "method": method, "trim_z": trim_z, "correction": correction}
    result = reading.token_pairs(which, **options)
    unrelated = reading.unrelated(there, which, **options)
    depth = mi_probe.comparison.against_unrelated(result, unrelated)
    out.mkdir(parents=True, exist_ok=True)
    result.save(out / "result.safetensors")
    unrelated.save(out / "unrelated.safetensors")
    result.summary().to_csv(out / "summary.csv")
    depth.to_csv(out / "depth.csv")
    table = reading.table(result)
    table.sort_values("mi", ascending=False).head(100).to_csv(out / "top_pairs.csv", index=False)

    # Figures.
    figures = {
        "depth.png": mi_probe.plots.token_depth(result, unrelated, units=units),
        "maps.png": mi_probe.plots.token_maps(result, units=units),
        "map.png": mi_probe.plots.token_map(result[at], title=f"{at}, {reading.model['name']}", units=units),
    }
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=150)

    # What it found, in words.
    cut = f", {reading.unread:,} more not read" if reading.unread else ""
    print(f"Model:    {reading.model['name']}, {len(reading.tokens)} tokens of {reading.name}{cut}; {len(there)} other texts")
    print(mi_probe.describe(result, variables="tokens", samples="hidden dimensions", units=units))
    print("Depth:    a pair of tokens, beside one of unrelated texts (medians); pairs above 95 % of the unrelated ones")
    scale = mi_probe.units.per_nat(units)
    for row in depth.itertuples():
        print(
            f"  {row.Index:<18} {scale * row.median:6.3f} {scale * row.unrelated_median:6.3f} {units}  {100 * row.beyond:4.0f} %"
        )
    print(f"Figures:  {', '.join(str(out / name) for name in figures)}")
    print(f"Results:  {out / 'result.safetensors'}, tables beside it")
    return result
