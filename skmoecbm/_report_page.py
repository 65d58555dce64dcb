"""From the findings of a report to its page: what the template needs, and the template."""

import math

from skmoecbm._report_arms import HEADLINES, METRICS, OURS
from skmoecbm._report_words import (
    difference_in_words,
    estimate_text,
    headlines,
    ordinal,
    share,
    signed,
)

__all__ = ["render"]

_KINDS = {
    "right": ("Right", "the surest of those that are right"),
    "wrong": ("Wrong", "the surest of those that are wrong"),
    "certain": ("Certain", "the surest"),
    "uncertain": ("Uncertain", "those that could most easily have come out otherwise"),
}


def render(page):
    """Return the HTML of a report, a str.

    Parameters
    ----------
    page : dict
        What `model_report` gathered. Everything in it is text to the template: it is escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("skmoecbm", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "signed": signed,
        "share": share,
        "ordinal": ordinal,
        "estimate": estimate_text,
        "cell": _cell,
        "percent": _percent,
    }
    environment.tests["contains_class"] = lambda classes, k: k in classes
    explanation, classifier = page["explanation"], page["classifier"]
    multilabel = explanation.thresholds is not None
    experts = [
        {"name": name, "n_concepts": len(concepts)}
        for name, concepts in zip(explanation.expert_names, explanation.concept_names, strict=True)
    ]
    n_unseen = int((~explanation.present.any(axis=1)).sum())
    view = page | {
        "multilabel": multilabel,
        "unit": getattr(explanation, "unit", "logit"),
        "classes": explanation.classes,
        "n": len(explanation),
        "n_unseen": n_unseen,
        "notices": explanation.notices,
        "experts": experts,
        "kind_of_model": type(classifier).__name__,
        "selected": getattr(classifier, "selected_", None),
        "fallback": getattr(classifier, "fallback_", None),
        "has_images": explanation.images is not None,
        "kinds": _KINDS,
        "gallery": [_card(entry, explanation.classes, multilabel) for entry in page["cases"]],
        "concept_scale": _concept_scale(page["concepts"]),
        "headlines": [],
        "comparison": None,
    }
    if page["truth"] is not None:
        results = page["results"]
        view["headlines"] = headlines(
            results, page["truth"], explanation.classes, multilabel, page["audit"]
        )
        view["comparison"] = _comparison(results, multilabel)
        view["ours"] = results[OURS]
        view["class_metrics"] = _class_metrics(results[OURS])
    return environment.get_template("report.html.j2").render(view)


def _concept_scale(concepts):
    """Return the largest of all that is drawn of the classes: their bars can be compared."""
    sizes = [
        abs(value)
        for entry in concepts
        if entry["n"]
        for value in (*(one["mean"] for one in entry["concepts"]), entry["rest"], entry["bias"])
    ]
    return max(sizes, default=0.0) or 1.0


def _comparison(results, multilabel):
    """Return the tables of metrics and of differences, as text with places for the drawing."""
    ours = results[OURS]
    others = [name for name in results if name != OURS]
    metrics = []
    for metric, found in ours.items():
        name, meaning, _ = METRICS[metric]
        estimates = [results[arm][metric] for arm in results]
        ends = [x for e in estimates for x in e if math.isfinite(x)]
        low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        width = (high - low) or 1.0
        marks = [
            {
                "text": estimate_text(e),
                "at": _percent((e.value - low) / width),
                "from": _percent((e.low - low) / width),
                "wide": _percent((e.high - e.low) / width),
                "is_drawn": math.isfinite(e.value) and math.isfinite(e.low) and len(results) > 1,
            }
            for e in estimates
        ]
        metrics.append({"name": name, "meaning": meaning, "marks": marks, "value": found.value})
    differences = []
    for other in others:
        cells = []
        for metric in HEADLINES[multilabel]:
            found = ours.difference(results[other], metric)
            word = difference_in_words(found, metric)
            cells.append({"text": estimate_text(found, sign=True), "word": word})
        differences.append({"other": other, "cells": cells})
    return {
        "arms": list(results),
        "metrics": metrics,
        "headlines": [METRICS[metric][0] for metric in HEADLINES[multilabel]],
        "differences": differences,
    }


def _class_metrics(ours):
    """Return the names of the metrics of a class, and rows (class, support, texts)."""
    first = next(iter(ours.per_class.values()), {})
    names = [name for name in first if name != "support"]
    shown = [METRICS.get(f"macro_{n}", (n,))[0].removeprefix("Macro").strip(" -") for n in names]
    rows = [
        (label, row["support"], [estimate_text(row[name]) for name in names])
        for label, row in ours.per_class.items()
    ]
    return [name[:1].upper() + name[1:] for name in shown], rows


def _card(entry, classes, multilabel):
    """Return a case as the gallery shows it."""
    case, why = entry["case"], entry["why"]
    truth = None
    said = str(why["class"])
    involved = {case.class_}
    if multilabel:
        is_said = why["probability"] >= why["threshold"]
        said = f"{why['class']}: {'said' if is_said else 'not said'}"
        right = None if case.truth is None else is_said == bool(case.truth)
        truth = None if case.truth is None else ("present" if case.truth else "absent")
    else:
        right = None if case.truth is None else case.truth == case.class_
        truth = None if case.truth is None else str(classes[case.truth])
        involved |= set() if case.truth is None else {case.truth}
    name = entry["name"] or f"row {case.row + 1}"
    alt = f"{name}: predicted {said}" + ("" if truth is None else f", true: {truth}")
    largest = max(
        [abs(why["rest"]), abs(why["bias"])]
        + [abs(one["contribution"]) for one in why["contributions"]]
    )
    return entry | {
        "name": name,
        "alt": alt,
        "said": said,
        "truth": truth,
        "right": right,
        "kind": case.kind,
        "involved": sorted(involved),
        "largest": largest or 1.0,
        "number": case.row + 1,
    }


def _percent(value, digits=2):
    """Return a share as a CSS length in per cent, kept to [0, 100] and free of NaN."""
    if value is None or not math.isfinite(value):
        return "0%"
    return f"{100 * min(max(value, 0.0), 1.0):.{digits}f}%"


def _cell(value):
    """Return what stands in a cell of an audit's table."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return "" if value is None else str(value)
    if not math.isfinite(value):
        return ""
    whole = float(value).is_integer() and (abs(value) > 1 or isinstance(value, int))
    return f"{value:,.0f}" if whole else f"{value:.3f}"
