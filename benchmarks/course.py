"""The numbers of docs/course.md: what a course on language models says of MI in GPT-2, measured on the bundled model.

python benchmarks/course.py > docs/measured/course.md
"""

from __future__ import annotations

import io
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import mi_probe
from mi_probe import cli, comparison, linearity
from mi_probe.tokenpairs import Standard

_SHOWN = ("hidden_states.0", "hidden_states.6", "hidden_states.12")

Row = tuple[str, str]


def histogram(model: Any, text: str) -> list[Row]:
    """Lesson 1: the 15-bin histogram, its shift, the embedding that stands apart."""
    with mi_probe.attach(model, "course_histogram") as probe:
        model(text)
    found = probe.estimate(p_values="none")
    with mi_probe.attach(model, "dimension_pairs") as probe:
        model(text)
    ranked = probe.estimate(p_values="none")
    first = found[_SHOWN[0]]
    rows = [("pairs, at each of 13 hidden states", f"{len(first.pairs()):,}, {first.samples} tokens")]
    for name in _SHOWN:
        point, equal = found[name], ranked[name]
        raw, chance, mi = (point.pairs(what) for what in ("raw", "chance", "mi"))
        low, high = np.quantile(chance, [0.05, 0.95])
        rows += [
            (f"{name}, 15 equal-width bins: plain estimate, mean ± sd", f"{raw.mean():.3f} ± {raw.std():.3f} nats"),
            (f"{name}: chance level, mean (middle 90 % of pairs)", f"{chance.mean():.3f} ({low:.3f} to {high:.3f}) nats"),
            (f"{name}: adjusted, mean ± sd", f"{mi.mean():.3f} ± {mi.std():.3f} nats"),
            (f"{name}: rank correlation of plain and adjusted", f"{spearmanr(raw, mi).statistic:.2f}"),
            (f"{name}, 5 equal-count bins: adjusted, mean ± sd", f"{equal.pairs().mean():.3f} ± {equal.pairs().std():.3f} nats"),
        ]
    for name in ("hidden_states.1", "hidden_states.2"):
        values = ranked[name].pairs()
        rows.append((f"{name}, 5 equal-count bins: adjusted, mean ± sd", f"{values.mean():.3f} ± {values.std():.3f} nats"))
    for what, point in (("15 equal-width bins", found["hidden_states.6"]), ("5 equal-count bins", ranked["hidden_states.6"])):
        rows.append((f"hidden_states.6, {what}: standard error of a pair, mean", f"{np.mean(point.pairs('se')):.2f} nats"))
    x = mi_probe.sample_activations(model, [text], "hidden_states.6")
    neighbours = mi_probe.ksg(x).pairs("mi")
    plain, adjusted = found["hidden_states.6"].pairs("raw"), ranked["hidden_states.6"].pairs("mi")
    for what, values in (("15 equal-width bins, plain", plain), ("5 equal-count bins, adjusted", adjusted)):
        rank = spearmanr(neighbours, values).statistic
        rows.append((f"hidden_states.6: rank correlation of nearest neighbours and {what}", f"{rank:.2f}"))
    rows.append(("hidden_states.6: nearest neighbours, mean", f"{neighbours.mean():.3f} nats"))
    noise = mi_probe.pairwise(np.random.default_rng(0).standard_normal((94, 200)), bins=15, method="equal_width", p_values="none")
    rows.append(("94 samples of independent noise, 15 equal-width bins: plain, mean", f"{noise.pairs('raw').mean():.3f} nats"))
    return rows


def tokens(model: Any, text: str) -> list[Row]:
    """Lesson 2: the matrix turned round."""
    reading = mi_probe.read_text(model, text)
    others = [mi_probe.read_text(model, each) for each in mi_probe.sample_texts()]
    standard = mi_probe.Reading.standard_of(others)
    table = comparison.against_unrelated(reading.token_pairs(standard=standard), reading.unrelated(others, standard=standard))
    rows = []
    for name in _SHOWN:
        row = table.loc[name]
        medians = f"{row['median']:.3f}, {row.unrelated_median:.3f} nats"
        rows.append((f"{name}: token pairs, median, and of unrelated texts", medians))
        rows.append((f"{name}: token pairs above 95 % of unrelated ones", f"{100 * row.beyond:.0f} %"))
    last = _SHOWN[-1]
    as_they_are: dict[str, Standard] = dict.fromkeys(standard, "none")
    for what, by in (("as they are", as_they_are), ("standardised by other texts", standard)):
        mean = reading.token_pairs(standard=by)[last].pairs().mean()
        rows.append((f"{last}: token pairs, dimensions {what}, mean", f"{mean:.3f} nats"))
    return rows


def recipe(name: str, table: str, *options: str) -> pd.DataFrame:
    """What a recipe writes."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        cli.app(["run", name, "--out", folder, *options], result_action="return_value")
        return pd.read_csv(Path(folder) / table)


def words() -> list[Row]:
    """Lesson 3: one word again and again, attention and MLP; what the recipe writes."""
    table = recipe("token_distance", "blocks.csv")
    rows = []
    for kind, of in table.groupby("kind", sort=False):
        means = ", ".join(f"{of['mean'].iloc[k]:.2f}" for k in (0, 6, 11))
        taus = f"{of.ksg_tau.min():.2f} to {of.ksg_tau.max():.2f}"
        by_neighbours = f"{of['mean'].mean():.2f}, {of.ksg_mean.mean():.2f} nats"
        rows += [
            (f"{kind}: mean MI of two 'coffee' at the first, the seventh and the last block", f"{means} nats"),
            (
                f"{kind}: blocks of 12 where MI falls with distance; q <= .05; by Mantel's test",
                f"{_falling(of)}; {(of.mantel_q <= 0.05).sum()}",
            ),
            (f"{kind}: Kendall's tau of histogram and nearest neighbours, over blocks", taus),
            (f"{kind}: mean over blocks, and by nearest neighbours", by_neighbours),
        ]
    once = table[table.kind == table.kind.iloc[0]]
    rows.append(("blocks of 12 where attention and MLP differ (q <= .05)", str((once.means_q <= 0.05).sum())))
    for seed in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            _random_weights(Path(folder), seed)
            control = recipe("token_distance", "blocks.csv", "--model", folder)
        for kind, of in control.groupby("kind", sort=False):
            rows.append((f"{kind}, random weights, seed {seed}: blocks of 12 where MI falls; q <= .05", _falling(of)))
    return rows


def _falling(blocks: pd.DataFrame) -> str:
    return f"{(blocks.tau < 0).sum()}; {(blocks.q <= 0.05).sum()}"


def _random_weights(folder: Path, seed: int) -> None:
    """A model of the bundled one's shape, with its tokenizer and random weights."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, GPT2LMHeadModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    bundled = Path(mi_probe.__file__).parent / "data" / "coffee-gpt2"
    torch.manual_seed(seed)
    GPT2LMHeadModel(AutoConfig.from_pretrained(bundled)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled).save_pretrained(folder)


def across() -> list[Row]:
    """A state against later ones."""
    table = recipe("across_depth", "across_depth.csv").set_index(["start", "place"])
    rows = []
    for start, place in (("0", "1"), ("0", "12"), ("6", "7"), ("6", "12")):
        row = table.loc[(f"hidden_states.{start}", f"hidden_states.{place}")]
        rows.append(
            (
                f"hidden_states.{start} and {place}: a dimension with itself (median), with the others (mean)",
                f"{row.itself:.2f}, {row.others:.2f} nats",
            )
        )
    return rows


def distance(model: Any) -> list[Row]:
    """The same over a corpus."""
    counted = mi_probe.accumulate(model, mi_probe.sample_texts(), "tokens_by_distance")
    table = comparison.reach(counted.estimate_token_pairs())
    rows = []
    for name, row in table.loc[list(_SHOWN)].iterrows():
        values = f"{row.nearest:.3f}, {row.unrelated:.3f} ± {2 * row.unrelated_se:.3f} nats"
        rows.append((f"{name}, 32 passages: neighbours, and tokens of unrelated texts", values))
    return rows + equal_words(model)


def equal_words(model: Any) -> list[Row]:
    """The same pairs, those of equal tokens apart from the others; and pairs of each text and the next."""
    readings = [mi_probe.read_text(model, text, hooks=list(_SHOWN[::2])) for text in mi_probe.sample_texts()]
    standard = mi_probe.Reading.standard_of(readings)
    pairs = []
    for one, other in zip(readings, [*readings[1:], readings[0]], strict=True):
        n = len(one.ids)
        ids = np.concatenate([one.ids, other.ids])
        for name in one.values:
            point = mi_probe.token_pairs(np.concatenate([one.values[name], other.values[name]]), standard=standard[name])
            i, j = np.triu_indices(len(ids), 1)
            where = np.where(j < n, np.where(j - i == 1, "near", np.where((j - i > 16) & (j - i <= 64), "far", "")), "other")
            where = np.where(i >= n, "", where)  # both of the next text, which has its turn
            pairs.append(pd.DataFrame({"point": name, "where": where, "equal": ids[i] == ids[j], "mi": point.pairs()}))
    every = pd.concat(pairs)
    mean = every.groupby(["point", "equal", "where"]).mi.mean()
    share = 100 * every[every["where"] == "far"].equal.mean()
    rows = []
    for name in _SHOWN[::2]:
        unequal, equal = mean[name, False], mean[name, True]
        values = f"{unequal['near']:.3f}, {unequal['far']:.3f}, {unequal['other']:.3f} nats"
        rows.append((f"{name}, unequal tokens: neighbours, 17 to 64 apart, of two texts", values))
        values = f"{equal['far']:.2f}, {equal['other']:.2f} nats"
        rows.append((f"{name}, equal tokens, {share:.1f} % of those 17 to 64 apart: these, and of two texts", values))
    return rows


def covariance(model: Any, text: str) -> list[Row]:
    """Lesson 4: MI beside covariance."""
    shapes = mi_probe.simulated.measure(mi_probe.simulated.all_shapes(), samples=2000, seed=0)
    rows = []
    for row in shapes.itertuples():
        rows.append((f"{row.shape}: MI (known), r", f"{row.mi:.2f} ({row.known_mi:.2f}) nats, {row.correlation:+.2f}"))
    with mi_probe.attach(model, mi_probe.Probe(moments=True)) as probe:
        model(text)
    every = {name: linearity.explained(point).linear_share for name, point in probe.estimate().items()}
    least = min(every, key=every.__getitem__)
    rows.append((f"{least}: the least share of the MI that covariance sees, over hidden states", f"{100 * every[least]:.0f} %"))
    for name in every:
        if name in _SHOWN:
            rows.append((f"{name}: share of the MI that covariance sees", f"{100 * every[name]:.0f} %"))
    return rows


def main() -> None:
    """Print the table."""
    model, text = mi_probe.load_model("coffee-gpt2"), mi_probe.sample_text()
    print("# What the course says, measured on the bundled model\n\nWritten by `python benchmarks/course.py`.\n")
    for title, rows in (
        ("Pairs of dimensions, one paragraph", histogram(model, text)),
        ("Pairs of tokens, the same paragraph", tokens(model, text)),
        ("One word, the same paragraph", words()),
        ("Distance, over texts", distance(model)),
        ("Covariance", covariance(model, text)),
        ("A state against later ones", across()),
    ):
        print(f"## {title}\n\n| what | measured |\n|---|---|")
        print("\n".join(f"| {what} | {value} |" for what, value in rows) + "\n")


if __name__ == "__main__":
    main()
