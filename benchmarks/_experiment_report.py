"""From tables of runs to means with intervals, and to Markdown."""

import numpy as np
import pandas as pd
from scipy import stats

__all__ = ["combined", "markdown", "signed", "summary", "verdict", "with_interval"]


def summary(runs, by, metrics):
    """Return the mean of each metric over draws, with a 95 % interval.

    One draw: the interval of its resampled test rows. Several: the half-widths of the mean over
    draws (Student's t) and of the test rows (as the mean of the runs') add in squares. That is
    wide rather than narrow, as a mean over draws averages part of the second away.

    Parameters
    ----------
    runs : DataFrame
        With columns METRIC, METRIC_low, METRIC_high.
    by : list of str
    metrics : sequence of str

    Returns
    -------
    DataFrame
        `by`, draws, and per metric METRIC, METRIC_low, METRIC_high, METRIC_sd.
    """
    rows = []
    for key, part in runs.groupby(by, sort=False):
        row = dict(zip(by, key, strict=True)) | {"draws": len(part)}
        for metric in metrics:
            values = part[metric].to_numpy(dtype=float)
            half = (part[f"{metric}_high"] - part[f"{metric}_low"]).mean() / 2
            row[metric] = values.mean()
            row[f"{metric}_sd"] = values.std(ddof=1) if len(values) > 1 else np.nan
            if len(values) == 1:
                low, high = part[f"{metric}_low"].iloc[0], part[f"{metric}_high"].iloc[0]
            else:
                t = stats.t.ppf(0.975, len(values) - 1)
                width = np.hypot(t * values.std(ddof=1) / np.sqrt(len(values)), half)
                low, high = values.mean() - width, values.mean() + width
            row[f"{metric}_low"], row[f"{metric}_high"] = low, high
        rows.append(row)
    return pd.DataFrame(rows)


def combined(differences, errors):
    """Return the mean paired difference and its 95 % interval, draws and test rows as above."""
    values, errors = np.asarray(differences, dtype=float), np.asarray(errors, dtype=float)
    of_rows = np.sqrt((errors**2).mean())
    half = 1.96 * of_rows
    if len(values) > 1:
        between = values.std(ddof=1) / np.sqrt(len(values))
        half = np.hypot(half, stats.t.ppf(0.975, len(values) - 1) * between)
    return values.mean(), values.mean() - half, values.mean() + half


def with_interval(row, metric, digits=3):
    """Return "0.812 (0.790 to 0.834)" of a row of `summary`."""
    value, low, high = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
    if not np.isfinite(value):
        return ""
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def verdict(found, sign=1):
    """Return "better", "worse" or "no clear difference" of a difference with its interval."""
    low, high = sorted(sign * bound for bound in found[1:])
    return "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def signed(found, digits=3):
    """Return "+0.012 (-0.003 to +0.027)"."""
    value, low, high = found
    return f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def markdown(table):
    """Return a DataFrame as a Markdown table; numbers stand to the right."""
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    lines = [
        "| " + " | ".join(map(str, table.columns)) + " |",
        "|" + "|".join("--:" if right else "---" for right in numeric) + "|",
    ]
    for _, row in table.iterrows():
        lines.append("| " + " | ".join(map(_cell, row)) + " |")
    return "\n".join(lines)


def _cell(value):
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.3f}"
    return str(value).replace("|", "\\|")
