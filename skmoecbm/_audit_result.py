"""What `audit` returns: checks with their measures and verdicts, as table, JSON, text and HTML."""

import html
import math
import textwrap
from dataclasses import dataclass, field

__all__ = ["QUESTIONS", "STATUSES", "Audit", "Check", "Measure", "not_made"]

#: "good": nothing against the model; "concern": something a reader must know before trusting it;
#: "unclear": the data are too few to tell, or what was found is small; "not made": see the verdict.
STATUSES = ("good", "concern", "unclear", "not made")

#: What each check asks, in the order they are made.
QUESTIONS = {
    "leaks": "Does the test share anything with the training?",
    "concepts": "Are these concepts better than random directions?",
    "ceiling": "What do the concepts cost, against the embeddings themselves?",
    "economy": "How few concepts per class will do?",
    "gate": "Is the gate better than the average and the best single expert?",
    "calibration": "Are the probabilities what they say, and for every subgroup?",
    "language": "Is anything wrong with the concepts that carry the decisions?",
}

_SHOWN_ROWS = 12


@dataclass(frozen=True)
class Measure:
    """A number that a check found, with the interval of its resamples.

    Attributes
    ----------
    name : str
    value, low, high : float
        NaN where there is none.
    verdict : str
        What it says by itself; may be empty.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    verdict: str = ""


@dataclass(frozen=True)
class Check:
    """One question put to the model, and what was found.

    Attributes
    ----------
    name : str
    status : {"good", "concern", "unclear", "not made"}
    verdict : str
        Sentences; for a check that was not made, why.
    measures : tuple of Measure
    tables : dict of str to list of dict
        Longer findings by title: curves, bins, subgroups, rows that leak.
    notes : tuple of str
        What was left out, and what the fits warned of.
    """

    name: str
    status: str
    verdict: str
    measures: tuple = ()
    tables: dict = field(default_factory=dict)
    notes: tuple = ()

    @property
    def question(self):
        """What was asked, a sentence."""
        return QUESTIONS[self.name]

    def __getitem__(self, name):
        """Return the measure of that name."""
        return {one.name: one for one in self.measures}[name]


def not_made(name, reason):
    """Return a check that could not be made, with its reason, a clause."""
    return Check(name, "not made", f"Not made, because {reason}")


class Audit:
    """What `audit` found; made by that function.

    Attributes
    ----------
    checks : dict of str to Check
        By name, in the order they were made.
    n, n_groups : int
        Rows audited, and the resampling units they come in.
    n_train : int or None
        Training rows of the refits.
    confidence : float
    n_bootstrap : int
    notices : tuple of str
        What must be said with the results, such as that the experts are demonstrations.
    """

    def __init__(self, checks, *, n, n_groups, n_train, confidence, n_bootstrap, notices=()):
        self.checks = {check.name: check for check in checks}
        self.n, self.n_groups, self.n_train = n, n_groups, n_train
        self.confidence, self.n_bootstrap = confidence, n_bootstrap
        self.notices = tuple(notices)

    def __getitem__(self, name):
        """Return the check of that name."""
        return self.checks[name]

    @property
    def verdict(self):
        """Plain sentences, one line per check, a str."""
        return "\n".join(f"{c.name} ({c.status}): {c.verdict}" for c in self.checks.values())

    def to_frame(self):
        """Return one row per measure, and one for each check that was not made.

        Returns
        -------
        pandas.DataFrame
            Columns `check`, `status`, `measure`, `value`, `low`, `high`, `verdict`.
        """
        import pandas as pd

        rows = []
        for check in self.checks.values():
            for one in check.measures:
                row = (one.name, one.value, one.low, one.high, one.verdict)
                rows.append((check.name, check.status, *row))
            if not check.measures:
                nothing = (math.nan,) * 3
                rows.append((check.name, check.status, None, *nothing, check.verdict))
        names = ["check", "status", "measure", "value", "low", "high", "verdict"]
        return pd.DataFrame(rows, columns=names)

    def to_dict(self):
        """Return everything as plain JSON types; undefined numbers are None."""
        return {
            "n": self.n,
            "n_groups": self.n_groups,
            "n_train": self.n_train,
            "confidence": self.confidence,
            "n_bootstrap": self.n_bootstrap,
            "notices": list(self.notices),
            "checks": [_plain(_as_dict(check)) for check in self.checks.values()],
        }

    def __repr__(self):
        """Return the verdicts and the measures as text."""
        lines = [self._title()]
        for check in self.checks.values():
            lines += ["", f"{check.name} - {check.question} [{check.status}]"]
            lines += textwrap.wrap(check.verdict, 96, initial_indent="  ", subsequent_indent="  ")
            width = max((len(one.name) for one in check.measures), default=0)
            for one in check.measures:
                tail = f"  {one.verdict}" if one.verdict else ""
                lines.append(f"    {one.name:<{width}}  {_number(one)}{tail}".rstrip())
            lines += [f"    note: {note}" for note in check.notes]
        return "\n".join(lines)

    def to_html(self):
        """Return a fragment of HTML: escaped, without scripts, styled by its own attributes.

        Returns
        -------
        str
            One ``<div class="skmoecbm-audit">``, to stand in a notebook or in a report.
        """
        parts = ['<div class="skmoecbm-audit">', f"<p>{html.escape(self._title())}</p>"]
        parts += [f"<p><em>{html.escape(notice)}</em></p>" for notice in self.notices]
        for check in self.checks.values():
            title = html.escape(f"{check.name}: {check.question}")
            parts += [
                f"<section><h3>{title}</h3>",
                f"<p><strong>{html.escape(check.status)}</strong>. "
                f"{html.escape(check.verdict)}</p>",
            ]
            if check.measures:
                rows = [
                    {"measure": m.name, "value [interval]": _number(m), "verdict": m.verdict}
                    for m in check.measures
                ]
                parts.append(_table(rows))
            for name, rows in check.tables.items():
                more = f" ({len(rows):,})" if len(rows) > _SHOWN_ROWS else ""
                parts.append(
                    f"<details><summary>{html.escape(name)}{more}</summary>{_table(rows)}</details>"
                )
            parts += [f"<p><small>{html.escape(note)}</small></p>" for note in check.notes]
            parts.append("</section>")
        return "\n".join([*parts, "</div>"])

    def _repr_html_(self):
        return self.to_html()

    def _title(self):
        groups = "" if self.n_groups == self.n else f" in {self.n_groups:,} groups"
        refits = "" if self.n_train is None else f", refits on {self.n_train:,} training rows"
        intervals = (
            f", {100 * self.confidence:g} % intervals from {self.n_bootstrap:,} resamples"
            if self.n_bootstrap
            else ""
        )
        return f"Audit on {self.n:,} row{'s' * (self.n != 1)}{groups}{refits}{intervals}"


def _as_dict(check):
    names = ("name", "question", "status", "verdict", "tables", "notes")
    told = {name: getattr(check, name) for name in names}
    fields = ("name", "value", "low", "high", "verdict")
    return {**told, "measures": [{f: getattr(m, f) for f in fields} for m in check.measures]}


def _plain(value):
    """Return a value as JSON types."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _number(measure):
    if not math.isfinite(measure.value):
        return "undefined"
    shown = _cell(measure.value)
    if math.isfinite(measure.low):
        shown += f" [{_cell(measure.low)}, {_cell(measure.high)}]"
    return shown


def _cell(value):
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return "" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{round(value, 3) + 0.0:.3f}" if math.isfinite(value) else ""


def _table(rows):
    if not rows:
        return "<p>none</p>"
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in names)
    lines = []
    for row in rows:
        cells = (html.escape(_cell(row.get(name))) for name in names)
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
