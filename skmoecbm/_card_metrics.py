"""The metrics of a model card: tables to read, and `EvalResult`s for the model-index."""

import re

from huggingface_hub import EvalResult

from skmoecbm._card_words import Inert, code, estimate_in_words, one_line, prose
from skmoecbm._report_arms import METRICS

__all__ = ["eval_results", "metric_sections"]

_DISJOINT = {
    True: "As its author states, no lesion, patient or study of it was in the training data.",
    False: "It shares lesions, patients or studies with the training data: the numbers flatter.",
    None: "Whether it shares lesions, patients or studies with the training data is not stated.",
}
_CLASS_METRICS = {
    "recall": "recall",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1": "F1",
}
_NOT_STATED = "not stated"
_SHOWN_CLASSES = 60


def eval_results(reported, task):
    """Return one `EvalResult` for each number that is defined.

    Intervals are in `metric_args` ("low", "high", "confidence", "n_bootstrap"); rows, groups and
    "group_disjoint" (true, false or "not stated") in `dataset_args`.

    Parameters
    ----------
    reported : tuple of ReportedMetrics
    task : str
        A task of the Hub, such as "image-classification".
    """
    results, seen = [], set()
    for k, one in enumerate(reported):
        found = one.numbers
        name = one.dataset or one.dataset_id or _NOT_STATED
        place = (one.dataset_id or _slug(name), None if one.split is None else one_line(one.split))
        # the Hub joins what has the same type and split into one result
        config = f"part-{k + 1}" if place in seen else None
        seen.add(place)
        about = {
            "group_disjoint": _NOT_STATED if one.group_disjoint is None else one.group_disjoint
        }
        if found["n"] is not None:
            about |= {"n": found["n"], "n_groups": found["n_groups"]}
        else:
            about["source"] = "given by the author"
        for metric, value in found["metrics"].items():
            if value["value"] is None:
                continue
            args = {}
            if value["low"] is not None and value["high"] is not None:
                args = {
                    "low": value["low"],
                    "high": value["high"],
                    "confidence": found["confidence"],
                    "n_bootstrap": found["n_bootstrap"],
                }
            results.append(
                EvalResult(
                    task_type=task,
                    dataset_type=place[0],
                    dataset_name=one_line(name),
                    dataset_config=config,
                    dataset_split=place[1],
                    dataset_args=about,
                    metric_type=one_line(metric, 64),
                    metric_name=METRICS[metric][0] if metric in METRICS else one_line(metric, 64),
                    metric_value=value["value"],
                    metric_args=args or None,
                )
            )
    return results


def metric_sections(reported, *, has_leaks=False):
    """Return what the template shows of each `ReportedMetrics`, a list of dict.

    Parameters
    ----------
    reported : tuple of ReportedMetrics
    has_leaks : bool, default=False
        Whether an audit in the same card is concerned that test and training share something.
    """
    sections = [_section(one) for one in reported]
    for section, one in zip(sections, reported, strict=True):
        if has_leaks and one.group_disjoint is not False:
            said = section["disjoint"]
            section["disjoint"] = Inert(f"{said} **But the audit below found leaks.**")
    return sections


def _section(one):
    found = one.numbers
    split = "" if one.split is None else f", split {code(one.split)}"
    data = "Data not stated" if one.dataset is None else code(one.dataset)
    title = Inert(f"{data}{split}")
    if found["n"] is None:
        how = "Numbers given by the author, without intervals."
    else:
        units = (
            "rows" if found["n_groups"] == found["n"] else f"rows in {found['n_groups']:,} groups"
        )
        how = f"Measured on {found['n']:,} {units}"
        if found["n_bootstrap"]:
            whole = "groups" if found["n_groups"] != found["n"] else "rows"
            how += (
                f"; in brackets {100 * found['confidence']:g} % intervals from "
                f"{found['n_bootstrap']:,} resamples of whole {whole}"
            )
        how += "."
    rows = [
        (
            METRICS[metric][0] if metric in METRICS else code(metric),
            estimate_in_words(**value),
            METRICS[metric][1] if metric in METRICS else "",
        )
        for metric, value in found["metrics"].items()
    ]
    names = [
        name for name in next(iter(found["per_class"]), {}) if name not in ("class", "support")
    ]
    return {
        "title": title,
        "how": how,
        "disjoint": Inert(_DISJOINT[one.group_disjoint]),
        "rows": rows,
        "class_metrics": [_CLASS_METRICS.get(name) or code(name) for name in names],
        "classes": [
            (
                code(row["class"]),
                f"{row['support']:,}",
                [estimate_in_words(**row[n]) for n in names],
            )
            for row in found["per_class"][:_SHOWN_CLASSES]
        ],
        "n_hidden": max(0, len(found["per_class"]) - _SHOWN_CLASSES),
        "notes": [prose(note) for note in found["notes"]],
    }


def _slug(name):
    """Return a name as the Hub would spell that of data."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.")[:96] or "data"
