"""The sentences and the number formats of a report."""

import math

from skmoecbm._audit_calibration import ECE_BY_CHANCE
from skmoecbm._report_arms import AVERAGE, HEADLINES, METRICS, OURS

__all__ = [
    "difference_in_words",
    "estimate_text",
    "headlines",
    "ordinal",
    "share",
    "signed",
]


def signed(value, digits=2):
    """Return a number with its sign, a true minus, and no negative zero."""
    shown = f"{value:+.{digits}f}"
    return (f"{0:.{digits}f}" if float(shown) == 0 else shown).replace("-", "\N{MINUS SIGN}")


def share(value):
    """Return a number in [0, 1] as per cent."""
    return f"{100 * value:.0f} %"


def ordinal(value):
    """Return a whole number as 1st, 2nd, 3rd, 4th ..."""
    number = round(value)
    tail = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10)
    return f"{number}{tail or 'th'}"


def estimate_text(found, digits=3, sign=False):
    """Return an `Estimate` as text: value and, where there is one, interval."""
    if found is None or not math.isfinite(found.value):
        return "undefined"
    show = (lambda x: signed(x, digits)) if sign else (lambda x: f"{x:.{digits}f}")
    if not math.isfinite(found.low):
        return show(found.value)
    return f"{show(found.value)} [{show(found.low)}, {show(found.high)}]"


def difference_in_words(found, metric):
    """Return what a difference of this model less another says."""
    if not math.isfinite(found.value) or not math.isfinite(found.low):
        return "no interval"
    if found.low <= 0 <= found.high:
        return "no clear difference"
    return "better" if (found.value > 0) != METRICS[metric][2] else "worse"


def _by_chance(error, audit):
    """Return what chance alone gives, where an audit of the same error knows it; else nothing."""
    check = None if audit is None else audit.checks.get("calibration")
    found = {} if check is None else {one.name: one.value for one in check.measures}
    if ECE_BY_CHANCE not in found or not math.isclose(found["ece"], error, abs_tol=1e-9):
        return ""
    return f"; perfect probabilities stay below {found[ECE_BY_CHANCE]:.3f} in 95 % of such samples"


def headlines(results, truth, classes, multilabel, audit=None):
    """Return the sentences that the report begins with.

    Parameters
    ----------
    results : dict of str to Evaluation
        What `compare` returned.
    truth : ndarray of shape (n,), int, or (n, K)
    classes : list
    multilabel : bool
    audit : Audit or None
        Knows how large the calibration error is by chance.

    Returns
    -------
    list of str
    """
    ours = results[OURS]
    told = []
    if not multilabel:
        n_classes = len(ours.per_class)
        told.append(
            f"Balanced accuracy (the mean recall of the classes) is "
            f"{estimate_text(ours['balanced_accuracy'])}; guessing would give "
            f"{1 / max(n_classes, 1):.3f}."
        )
        top = max(range(len(classes)), key=lambda k: (truth == k).sum())
        told.append(
            f"It is right for {share(ours['accuracy'].value)} of the rows; always saying "
            f"{classes[top]} would be right for {share((truth == top).mean())}."
        )
    auroc = ours["macro_auroc"]
    told.append(
        "Macro-AUROC (how well it ranks, 0.5 is chance) is "
        f"{estimate_text(auroc)}; probabilities are off by {ours['ece'].value:.3f} on average "
        f"(calibration error{_by_chance(ours['ece'].value, audit)})."
    )
    for other, result in results.items():
        if other == OURS:
            continue
        metric = HEADLINES[multilabel][0]
        found = ours.difference(result, metric)
        against = "the plain average of its experts" if other == AVERAGE else other
        told.append(
            f"Against {against}: {difference_in_words(found, metric)} in "
            f"{METRICS[metric][0].lower().replace('auroc', 'AUROC')}, "
            f"{estimate_text(found, sign=True)}."
        )
    return told
