"""What `reproduce` found, as README.md and figure.png: tables, three questions, the sources."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks._experiment_report import (
    combined,
    markdown,
    signed,
    summary,
    verdict,
    with_interval,
)
from benchmarks._experiment_runs import METRICS
from benchmarks._machine import describe_machine
from benchmarks._published import NOTES, published

__all__ = ["report"]

SHOTS = ("1", "2", "4", "8", "16", "all", "all, balanced")
# Draws of few shots from which on a cell counts for a question.
LEAST = 5
WANTED = 20
# Of each question the comparisons that answer it.
DECIDING = {
    "separate concept spaces": (
        ("list each", "generalist's list for both"),
        ("list each", "specialist's list for both"),
    ),
    "learned fusion": (("gate, no guard", "average"), ("joint, right sign", "average")),
}
LISTS = ("list each", "one list", "'s list for both")
STYLES = {
    "generalist": ("#888888", "-"),
    "specialist": ("#888888", ":"),
    "gate": ("#D55E00", "-"),
    "average": ("#0072B2", "--"),
    "gate, no guard": ("#E69F00", ":"),
    "joint, right sign": ("#009E73", "-."),
    "joint, published sign": ("#CC79A7", "-."),
    "linear probe, both": ("#000000", "--"),
}
PAIRED = {"balanced_accuracy": 1, "macro_auroc": 1, "log_loss": -1}


def report(out):
    """Write README.md and figure.png of the tables in the folder `out`."""
    out = Path(out)
    runs, pairs, classes = (
        pd.concat(
            [
                pd.read_csv(file, dtype={"shots": str, "class": str})
                for file in sorted(out.glob(f"{kind}-*.csv"))
            ]
        )
        for kind in ("runs", "pairs", "classes")
    )
    found = summary(
        runs[runs["accuracy"].notna()], ["experts", "dataset", "split", "shots", "variant"], METRICS
    )
    parts = [HEAD.format(machine=describe_machine())]
    for experts, mine in found.groupby("experts", sort=False):
        parts.append(f"# Experts: {experts}")
        about = pd.read_csv(out / "splits.csv").query("experts == @experts")
        named = about.drop(columns="experts").rename(columns=lambda name: name.replace("_", " "))
        parts.append(markdown(named))
        asked = pairs[pairs.experts == experts]
        parts += _questions(asked, classes[classes.experts == experts])
        skipped = runs[(runs.experts == experts) & runs["accuracy"].isna()]
        for (dataset, split), part in mine.groupby(["dataset", "split"], sort=False):
            parts += _tables(dataset, split, part)
            for _, row in skipped[
                (skipped.dataset == dataset) & (skipped.split == split)
            ].iterrows():
                parts.append(f"{row['variant']}: {row['note']}.")
        parts += _beside(mine)
        name = "figure.png" if experts == found.experts.iloc[0] else f"figure-{len(parts)}.png"
        _draw(mine, out / name)
        parts.append(f"![Macro-AUROC by shots; bars are standard errors over draws]({name})")
    text = "\n\n".join(parts) + "\n"
    (out / "README.md").write_text(text, encoding="utf-8")
    print(text)


HEAD = """Made by `python -m benchmarks.reproduce --report` of the tables in this folder, one row
per run. Means over draws of the training rows with 95 % intervals that also resample the test
rows by lesion (how: `benchmarks/_experiment_report.py`); of "all" there is one draw. {machine}."""


def _ordered(shots):
    return [name for name in SHOTS if name in set(shots)]


def _tables(dataset, split, part):
    """Return the tables of one data set and split: one metric by shots, and all metrics of all."""
    lists = part["variant"].str.contains("|".join(LISTS))
    draws = part.groupby("shots")["draws"].max()
    order = _ordered(part.shots)
    told = ", ".join(f"{shots}: {draws[shots]}" for shots in order)
    parts = [f"## {dataset}, {split} split", f"Draws: {told}."]
    short = [shots for shots in order if not shots.startswith("all") and draws[shots] < WANTED]
    if short:
        parts.append(
            f"**Not complete**: fewer than {WANTED} draws of {', '.join(short)} shots. The command "
            "goes on where it was stopped."
        )
    for metric in ("balanced_accuracy", "macro_auroc", "log_loss", "accuracy"):
        texts = part[~lists].assign(
            text=[with_interval(row, metric) for _, row in part[~lists].iterrows()]
        )
        wide = texts.pivot_table(
            index="variant", columns="shots", values="text", aggfunc="first", sort=False
        )
        wide = wide[[s for s in order if s in wide]].fillna("").reset_index()
        parts += [f"### {metric.replace('_', ' ')}, by shots per class", markdown(wide)]
    ece = part[~lists & part.shots.isin(["16", "all", "all, balanced"])]
    ece = ece.assign(text=[with_interval(row, "ece") for _, row in ece.iterrows()])
    wide = ece.pivot_table(
        index="variant", columns="shots", values="text", aggfunc="first", sort=False
    )
    wide = wide[_ordered(ece.shots)].fillna("").reset_index()
    parts += ["### calibration error (ECE)", markdown(wide)]
    return parts


def _questions(pairs, classes):
    """Return the three questions, each with its table and what the intervals say."""
    parts = ["## The three questions"]
    for question, title in (
        ("separate concept spaces", "### 1. Do separate concept spaces help?"),
        ("learned fusion", "### 2. Does learned fusion beat the plain average?"),
    ):
        rows, counts = [], {}
        mine = pairs[pairs.question == question]
        by = ["dataset", "split", "shots", "first", "second"]
        for key, part in mine.groupby(by, sort=False):
            if len(part) < LEAST and not key[2].startswith("all"):
                continue  # so few draws say nothing of others
            row = dict(zip(by, key, strict=True))
            for metric, sign in PAIRED.items():
                value = combined(part[metric], part[f"{metric}_se"])
                row[metric.replace("_", " ")] = signed(value)
                counts.setdefault((key[3], key[4], metric), []).append(verdict(value, sign))
            rows.append(row)
        if not rows:
            parts += [title, f"Not answered: no cell has {LEAST} draws yet."]
            continue
        table = pd.DataFrame(rows)
        cells = []
        for metric in ("macro auroc", "balanced accuracy"):
            wide = table.pivot_table(
                index=["dataset", "split", "first", "second"],
                columns="shots",
                values=metric,
                aggfunc="first",
                sort=False,
            )
            wide = wide[_ordered(table.shots)].fillna("").reset_index()
            cells += [
                f"Differences in {metric}:",
                markdown(wide.rename(columns={"second": "less"})),
            ]
        verdicts = pd.DataFrame(
            [
                {"first": a, "against": b, "metric": metric.replace("_", " "), "cells": len(seen)}
                | {v: seen.count(v) for v in ("better", "no clear difference", "worse")}
                for (a, b, metric), seen in counts.items()
            ]
        )
        answer = _answer(counts, DECIDING[question])
        parts += [title, answer, EXPLAINED[question], markdown(verdicts), *cells]
    return parts + _rare(classes)


def _answer(counts, deciding):
    """Return yes, in part or no, and how many intervals say so, of all cells and metrics."""
    told, yes = [], []
    for first, second in deciding:
        seen = [v for key, cells in counts.items() if key[:2] == (first, second) for v in cells]
        better, worse = seen.count("better"), seen.count("worse")
        yes.append(better > len(seen) / 2)
        told.append(
            f"{first!r} is clearly better than {second!r} in {better} of {len(seen)} cells and "
            f"metrics, clearly worse in {worse}"
        )
    word = "yes" if all(yes) else "in part" if any(yes) else "no"
    return f"**With these experts: {word}.** {'; '.join(told)}."


EXPLAINED = {
    "separate concept spaces": """The plain average of two experts with concept lists of one
length: the list that each expert's own embeddings choose from the bank on the training rows,
against one expert's choice for both; and against all of the bank for both, which is longer. A cell
is a data set, split and number of shots; better or worse where the 95 % interval of the paired
difference leaves out zero. Cells of fewer than five draws of few shots are left out. Demo experts
know half of the bank each, the other words are directions without meaning to them.""",
    "learned fusion": """"gate" is the default, whose guard keeps the plain average unless the
learned gate is clearly better; "gate, no guard" is the learned gate itself; the joint recipes
start at the published head.""",
}


def _rare_answer(classes):
    """Return yes, in part or no: of falling shares, or of single classes of the rarer half."""
    more, less, rarer, depends, falls, splits = 0, 0, 0, 0, 0, 0
    for _, part in classes.groupby(["dataset", "split"], sort=False):
        half = part.nsmallest(len(part) // 2, "train_rows")
        clear = half["p_adjusted"] < 0.05
        more += int((clear & (half["difference"] > 0)).sum())
        less += int((clear & (half["difference"] < 0)).sum())
        rarer, splits = rarer + len(half), splits + 1
        first = part.iloc[0]
        depends += int(first["p_overall"] < 0.05)
        falls += int(first["spearman"] < 0 and first["spearman_p_value"] < 0.05)
    word = "yes" if splits and falls == splits else "in part" if more > less else "no"
    return (
        f"**With these experts: {word}.** The share depends on the class in {depends} of {splits} "
        f"splits; of the rarer half of the classes it is clearly larger than with exchanged labels "
        f"on {more} of {rarer}, clearly smaller on {less}; that it falls as classes grow is clear "
        f"in {falls} of {splits}."
    )


def _rare(classes):
    title = "### 3. Does the specialist speak more on rare classes?"
    parts = [title, _rare_answer(classes), RARE]
    for (dataset, split), part in classes.groupby(["dataset", "split"], sort=False):
        part = part.sort_values("train_rows")
        weights = [f"{r.weight:.3f} ({r.low:.3f} to {r.high:.3f})" for _, r in part.iterrows()]
        table = pd.DataFrame(
            {
                "class": part["class"],
                "training rows": part["train_rows"],
                "specialist's share": weights,
                "less what it is with exchanged labels": [
                    f"{value:+.3f}" for value in part["difference"]
                ],
                "p, adjusted": [f"{value:.4f}" for value in part["p_adjusted"]],
            }
        )
        first = part.iloc[0]
        parts += [
            f"{dataset}, {split} split: overall p {first['p_overall']:.4f}; rank correlation of "
            f"share with class frequency {first['spearman']:+.2f} "
            f"(p {first['spearman_p_value']:.2f} over the orders of {len(part)} classes).",
            markdown(table),
        ]
    return parts


RARE = """The learned gate without guard, fitted on all training rows; mean share of the specialist
in the decision by true class of the test part, against exchanged labels (2,000 permutations by
lesion, adjusted for all classes and experts together by maxT). Rarest class first."""


def _beside(found):
    """Return the published accuracies beside ours."""
    table = published().merge(found, on=["dataset", "split", "shots", "variant"], how="left")
    rows = [
        {
            "dataset": row["dataset"],
            "variant": row["variant"],
            "shots": row["shots"],
            "published accuracy": f"{row['published']:.3f}",
            "ours": with_interval(row, "accuracy") if np.isfinite(row["accuracy"]) else "not run",
            "ours, balanced accuracy": with_interval(row, "balanced_accuracy")
            if np.isfinite(row["accuracy"])
            else "",
        }
        for _, row in table.iterrows()
    ]
    known = table[(table["draws"] >= LEAST) | (table["shots"] == "all")].dropna(subset=["accuracy"])
    agreement = []
    for (dataset, shots), part in known.groupby(["dataset", "shots"], sort=False):
        if len(part) > 2:
            rho = stats.spearmanr(part["published"], part["accuracy"]).statistic
            agreement.append(f"{dataset}, {shots}: {rho:+.2f}")
    told = "Rank correlation of the variants' accuracies, published with ours, by shots: "
    return ["## Beside the published numbers", NOTES, markdown(pd.DataFrame(rows))] + (
        [told + ", ".join(agreement) + "."] if agreement else []
    )


def _draw(found, path):
    """Draw macro-AUROC by shots, a panel per data set and split."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = list(found.groupby(["dataset", "split"], sort=False))
    figure, axes = pyplot.subplots(1, len(cells), figsize=(4.6 * len(cells), 4.6), squeeze=False)
    for ax, ((dataset, split), part) in zip(axes.flat, cells, strict=True):
        order = [s for s in _ordered(part.shots) if s != "all, balanced"]
        for name, (color, line) in STYLES.items():
            mine = part[part.variant == name].set_index("shots").reindex(order)
            spread = (mine["macro_auroc_sd"] / np.sqrt(mine["draws"])).fillna(0.0)
            ax.errorbar(
                range(len(order)),
                mine["macro_auroc"],
                spread,
                color=color,
                linestyle=line,
                linewidth=2 if name == "gate" else 1.3,
                label=name,
            )
        ax.set(title=f"{dataset}, {split} split", xticks=range(len(order)), xticklabels=order)
        ax.set(xlabel="shots per class", ylabel="macro-AUROC")
    axes.flat[0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
