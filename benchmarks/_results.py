"""What a benchmark found: ratios with their spread, as a table, and as lines for a whole run."""

import json
import os
from typing import NamedTuple

import numpy as np

__all__ = ["BARS", "FILE", "Ratio", "report", "table"]

BARS = (
    "A bar is what the median should reach: at least (≥) or at most (≤) that number, set at full "
    'size; "-" is a number without one. A quick run may miss bars that hold at full size.'
)

# Name of the environment variable with the file that `python -m benchmarks` collects from.
FILE = "SKMOECBM_BENCHMARK_RESULTS"


class Ratio(NamedTuple):
    """One thing that was measured, more than once where that was affordable.

    Attributes
    ----------
    what : str
        Of what to what, with its unit where it is no ratio.
    values : list of float
        All repeats; the median counts.
    bar : float or None
        What it should reach; None where nothing was set.
    most : bool
        Whether the bar is the most it may be, rather than the least.
    """

    what: str
    values: list
    bar: float | None = None
    most: bool = False

    @property
    def verdict(self):
        """Return "met", "missed" or "-", of a median without a bar."""
        if self.bar is None:
            return "-"
        median = float(np.median(self.values))
        return "met" if (median <= self.bar if self.most else median >= self.bar) else "missed"


def table(rows):
    """Return a Markdown table of (benchmark, ratio) pairs."""
    lines = [
        "| benchmark | what | median | least to most of n | bar | bar met |",
        "|---|---|--:|--:|--:|---|",
    ]
    for benchmark, ratio in rows:
        sign = "≤" if ratio.most else "≥"
        bar = "" if ratio.bar is None else f"{sign} {ratio.bar:g}"
        spread = f"{min(ratio.values):.3g} to {max(ratio.values):.3g} of {len(ratio.values)}"
        lines.append(
            f"| {benchmark} | {ratio.what} | {np.median(ratio.values):.3g} | {spread} | {bar} "
            f"| {ratio.verdict} |"
        )
    return "\n".join(lines)


def report(benchmark, ratios):
    """Print the ratios, and hand them to `python -m benchmarks` where that is what runs."""
    print()
    print(table([(benchmark, ratio) for ratio in ratios]))
    if os.environ.get(FILE):
        with open(os.environ[FILE], "a", encoding="utf-8") as file:
            for ratio in ratios:
                values = [float(value) for value in ratio.values]
                found = {"benchmark": benchmark, **ratio._asdict(), "values": values}
                file.write(json.dumps(found) + "\n")
