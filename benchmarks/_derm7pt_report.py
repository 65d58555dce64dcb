"""What the derm7pt benchmark found, as README.md and figure.png."""

import numpy as np
import pandas as pd

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

__all__ = ["PAIRED", "PROBE", "SHOTS", "ZERO", "report"]

SHOTS = ("1", "2", "4", "8", "16", "50", "all")
ZERO = "zero-shot, class names"
PROBE = "linear probe on the embedding"
# Both are AUROCs of the test part, measured by a crude probe when this benchmark was asked for.
EARLIER = {PROBE: 0.89, ZERO: 0.81}
PAIRED = ("accuracy", "macro_auroc", "log_loss")
SHOWN = ("accuracy", "balanced_accuracy", "macro_auroc", "log_loss", "ece")
STYLES = {
    "10 concepts": ("#56B4E9", "-"),
    "10 random directions": ("#56B4E9", ":"),
    "49 phrases": ("#D55E00", "-"),
    "49 random directions": ("#D55E00", ":"),
    "49 phrases, prior of class names": ("#009E73", "-"),
    PROBE: ("#000000", "--"),
    ZERO: ("#888888", "-."),
}
PAGE = """# derm7pt under MONET

Melanoma or nevus, fitted on the training part of the file (346 images), judged on its test part
(320). Means over draws of the training rows with 95 % intervals that resample cases of the test
part, too (how: `benchmarks/_experiment_report.py`); differences are paired. Made by
`python -m benchmarks.derm7pt`; every run is in [runs.csv](runs.csv). {machine}.

## All training rows

Random directions: the mean of 20 sets. "Measured earlier" are two numbers of a crude probe that
stood in the request for this benchmark; the intervals show whether they agree.

{all}

## AUROC by shots

Draws: {draws}.

{few}

![AUROC by shots; bands are one standard deviation over draws](figure.png)

## Differences

"By AUROC" reads the interval of the difference: clear where it leaves out zero.

{pairs}
"""


def report(out, runs, pairs):
    """Write README.md and figure.png of the tables of runs and paired differences into `out`."""
    found = summary(runs, ["shots", "variant"], METRICS)
    whole = found[found.shots == "all"]
    table = pd.DataFrame(
        {
            "variant": whole["variant"],
            **{_named(m): [with_interval(r, m) for _, r in whole.iterrows()] for m in SHOWN},
            "AUROC measured earlier": [
                f"{EARLIER[v]}" if v in EARLIER else "" for v in whole["variant"]
            ],
        }
    )
    few = found.assign(text=[with_interval(row, "macro_auroc") for _, row in found.iterrows()])
    order = [shots for shots in SHOTS if shots in set(few.shots)]
    few = few.pivot_table(
        index="variant", columns="shots", values="text", aggfunc="first", sort=False
    )[order].reset_index()
    compared = []
    for (shots, first, second), part in pairs.groupby(["shots", "first", "second"], sort=False):
        row = {"shots": shots, "first": first, "less": second}
        for metric in PAIRED:
            named = _named(metric)
            value = combined(part[metric], part[f"{metric}_se"])
            row[named] = signed(value)
            if metric == "macro_auroc":
                row["by AUROC"] = verdict(value)
        compared.append(row)
    compared = pd.DataFrame(compared)
    compared = compared[compared.shots.isin(["4", "16", "all"])]
    compared = compared.sort_values("shots", key=lambda s: s.map(SHOTS.index), kind="stable")
    draws = runs.groupby("shots")["draw"].nunique()
    text = PAGE.format(
        machine=describe_machine(),
        all=markdown(table),
        few=markdown(few),
        pairs=markdown(compared),
        draws=", ".join(f"{shots}: {draws[shots]}" for shots in order),
    )
    (out / "README.md").write_text(text, encoding="utf-8")
    _draw(found, out / "figure.png")
    print(text)


def _named(metric):
    return {"macro_auroc": "AUROC"}.get(metric, metric.replace("_", " "))


def _draw(found, path):
    """Draw AUROC by shots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots(figsize=(8, 5))
    order = [shots for shots in SHOTS if shots in set(found.shots)]
    for name, (color, line) in STYLES.items():
        part = found[found.variant == name].set_index("shots").loc[order]
        spread = part["macro_auroc_sd"].fillna(0.0).to_numpy()
        at = np.arange(len(order))
        ax.plot(at, part["macro_auroc"], color=color, linestyle=line, marker="o", ms=3, label=name)
        if name in ("49 phrases", PROBE):
            low, high = part["macro_auroc"] - spread, part["macro_auroc"] + spread
            ax.fill_between(at, low, high, color=color, alpha=0.12, linewidth=0)
    ax.set(xticks=range(len(order)), xticklabels=order, xlabel="shots per class")
    ax.set(ylabel="AUROC of melanoma, test part", title="derm7pt under MONET")
    ax.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
