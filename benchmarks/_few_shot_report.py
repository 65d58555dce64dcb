"""What the few-shot benchmark found: a table per data set, the bars, a figure."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

__all__ = ["report"]

SHOTS = ("1", "2", "4", "8", "16", "50", "all")
JOINT = ("joint, published sign", "joint, right sign", "joint, no entropy")


def report(out):
    """Print the tables and bars of the results in `out`, and write few_shot.csv and few_shot.png.

    Parameters
    ----------
    out : Path
    """
    files = sorted(Path(out).glob("few_shot-*.csv"))
    table = pd.concat([pd.read_csv(file, dtype={"shots": str}) for file in files])
    metrics = ["balanced_accuracy", "macro_auroc", "log_loss", "ece", "quadratic_kappa"]
    metrics = [name for name in metrics if name in table]
    grouped = table.groupby(["dataset", "shots", "arm"], sort=False)
    summary = grouped[[*metrics, "seconds"]].mean()
    summary = summary.join(grouped[metrics].std(), rsuffix="_sd")
    summary["draws"] = grouped.size()
    summary = summary.reset_index()
    summary.to_csv(Path(out) / "few_shot.csv", index=False, float_format="%.4f")
    for name, part in summary.groupby("dataset", sort=False):
        for metric in metrics:
            if part[metric].notna().all():
                wide = part.pivot_table(index="arm", columns="shots", values=metric, sort=False)
                print(f"\n{name}: {metric}\n{wide[_in_order(wide.columns)].round(3).to_string()}")
    cells = [_Cell(Path(out), name, shots) for name, shots in _cells(table)]
    print(f"\n{_bars(cells, table).to_string(index=False)}")
    print(f"\nbetter than average and best single, Holm over data sets:\n{_superior(cells, table)}")
    chosen = table[table["arm"] == "default"].groupby(["dataset", "shots"], sort=False)
    print("\nhow often the guard kept what:")
    print(chosen["selected"].value_counts().unstack(fill_value=0).to_string())
    _draw(summary, Path(out) / "few_shot.png")


def _in_order(shots):
    return [name for name in SHOTS if name in set(shots)]


def _cells(table):
    for name, part in table.groupby("dataset", sort=False):
        for shots in _in_order(part["shots"]):
            yield name, shots


class _Cell:
    """One data set and number of shots: paired differences between arms, with standard errors."""

    def __init__(self, out, dataset, shots):
        self.dataset, self.shots = dataset, shots
        self.table = pd.read_csv(out / f"few_shot-{dataset}-{shots}.csv")
        stored = np.load(out / f"few_shot-{dataset}-{shots}.npz")
        self.per_row = dict(zip(stored["arms"].tolist(), stored["per_row"], strict=True))
        self.groups, self.shared = stored["groups"], float(stored["shared"])

    def arms(self, metric):
        return self.table.pivot_table(index="draw", columns="arm", values=metric, sort=False)

    def difference(self, arm, other, metric):
        """Return the mean difference of two arms, its standard errors, and the number of draws.

        The first is over draws of the training rows, the second over those of the test rows too.
        """
        values = self.arms(metric)
        gain = (values[arm] - values[other]).to_numpy()
        part = ("balanced_accuracy", "log_loss").index(metric)
        rows = self.per_row[arm][part] - self.per_row[other][part]
        n_draws = len(gain)
        between = gain.var(ddof=1) * (1 / n_draws + self.shared / (1 - self.shared))
        clusters = np.unique(self.groups, return_inverse=True)[1]
        sums = np.bincount(clusters, weights=rows - rows.mean())
        within = (sums**2).sum() / len(rows) ** 2 * len(sums) / (len(sums) - 1)
        return gain.mean(), np.sqrt(between), np.sqrt(between + within), n_draws

    def rival(self, metric):
        """Return the better of the plain average and the best single expert, by the mean."""
        mean = self.arms(metric).mean()
        mean = mean if metric == "balanced_accuracy" else -mean
        return max(("average", *self.singles()), key=lambda arm: mean[arm])

    def singles(self):
        """Return the names of the arms of one expert."""
        names = list(dict.fromkeys(self.table["arm"]))
        return names[: names.index("average")]


def _bars(cells, table):
    """Return a row per cell: the default against its rival and against the best joint recipe."""
    rows = []
    for cell in cells:
        told = {"dataset": cell.dataset, "shots": cell.shots}
        for metric, sign, margin in (("balanced_accuracy", 1, 0.01), ("log_loss", -1, 0.03)):
            short = {"balanced_accuracy": "acc", "log_loss": "loss"}[metric]
            mean, error, whole, n_draws = cell.difference("default", cell.rival(metric), metric)
            quantile = stats.t.ppf(0.95, n_draws - 1)
            told[f"{short} - rival"] = f"{mean:+.3f}"
            told[f"{short} bound"] = f"{mean - sign * quantile * error:+.3f}"
            counts = SHOTS.index(cell.shots) >= SHOTS.index("8")
            worst = sign * mean - quantile * error
            told[f"{short} ok"] = ("yes" if worst >= -margin else "NO") if counts else "-"
            told[f"{short} bound, test rows drawn too"] = f"{mean - sign * quantile * whole:+.3f}"
        joint = cell.arms("balanced_accuracy").mean()[list(JOINT)].idxmax()
        mean, _, _, n_draws = cell.difference("default", joint, "balanced_accuracy")
        of_joint = cell.arms("balanced_accuracy")[joint].std(ddof=1) / np.sqrt(n_draws)
        told["acc - joint"] = f"{mean:+.3f}"
        told["joint se"] = f"{of_joint:.3f}"
        told["joint ok"] = "yes" if mean >= -of_joint else "NO"
        rows.append(told)
    return pd.DataFrame(rows)


def _superior(cells, table):
    """Return per number of shots the p-values of "default > rival", Holm over the data sets."""
    rows = []
    for shots in _in_order(table["shots"]):
        mine = [cell for cell in cells if cell.shots == shots]
        p = []
        for cell in mine:
            mean, _, error, n_draws = cell.difference(
                "default", cell.rival("balanced_accuracy"), "balanced_accuracy"
            )
            p.append(1.0 if error == 0 else stats.t.sf(mean / error, n_draws - 1))
        order, adjusted, running = np.argsort(p), np.empty(len(p)), 0.0
        for rank, i in enumerate(order):
            running = max(running, min(1.0, (len(p) - rank) * p[i]))
            adjusted[i] = running
        told = {cell.dataset: f"{a:.3g}" for cell, a in zip(mine, adjusted, strict=True)}
        rows.append({"shots": shots, **told})
    return pd.DataFrame(rows).to_string(index=False)


def _draw(summary, path):
    """Draw balanced accuracy by shots, a panel per data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    styles = {
        "average": ("#0072B2", "--"),
        "default": ("#D55E00", "-"),
        "no guard": ("#E69F00", ":"),
        "joint, right sign": ("#009E73", "-."),
        "joint, published sign": ("#CC79A7", "-."),
    }
    names = list(dict.fromkeys(summary["dataset"]))
    figure, axes = pyplot.subplots(2, -(-len(names) // 2), figsize=(12, 7), squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        part = summary[summary["dataset"] == name]
        shots = _in_order(part["shots"])
        arms = list(dict.fromkeys(part["arm"]))
        singles = arms[: arms.index("average")]
        for arm in [*singles, *styles]:
            color, line = styles.get(arm, ("#888888", "-" if arm == singles[0] else ":"))
            mine = part[part["arm"] == arm].set_index("shots").loc[shots]
            error = mine["balanced_accuracy_sd"] / np.sqrt(mine["draws"])
            ax.errorbar(
                range(len(shots)),
                mine["balanced_accuracy"],
                error,
                color=color,
                linestyle=line,
                linewidth=2.2 if arm == "default" else 1.4,
                label=arm if arm not in singles else f"{arm} alone",
            )
        ax.set(title=name, xticks=range(len(shots)), xticklabels=shots)
        ax.set(xlabel="shots per class", ylabel="balanced accuracy")
        ax.legend(fontsize=7, frameon=False)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
