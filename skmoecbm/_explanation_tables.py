"""Tables and JSON of an `Explanation`."""

import os
from collections.abc import Sequence

import numpy as np

from skmoecbm._dicom_frame import DicomFrame
from skmoecbm.exceptions import InputError

__all__ = [
    "Contributions",
    "bias_decides",
    "image_name",
    "image_names",
    "long_table",
    "seen_by_any",
    "summarise_row",
    "summarise_rows",
    "top_table",
]

_SEPARATING = 3  # concepts told of what separates a class from its runner-up


class Contributions(Sequence):
    """Contributions per expert, computed on access: 10,000 rows of 1,000 concepts need not fit."""

    def __init__(self, parts):
        self._parts = parts

    def __len__(self):
        """Return the number of experts."""
        return len(self._parts)

    def __getitem__(self, expert):
        """Return the array (n, m_e, K') of one expert, by number or name."""
        names = [part.name for part in self._parts]
        if isinstance(expert, str) and expert not in names:
            raise InputError(f"There is no expert {expert!r} here; there are {names}.")
        part = self._parts[names.index(expert) if isinstance(expert, str) else expert]
        weighted = (part.weight[:, None] * part.values)[:, :, None]
        if part.slopes is None:
            return weighted * part.association.T
        return weighted * np.swapaxes(part.slopes @ part.association, 1, 2)


def image_name(image):
    """Return the file's name of an image that was given as a path, without its folder, or None.

    Of a `DicomFrame` with the frame and the window that its caller asked for.
    """
    words = []
    if isinstance(image, DicomFrame):
        if image.frame:
            words.append(f"frame {image.frame}")
        if isinstance(image.window, tuple):
            words.append(f"window ({', '.join(f'{number:g}' for number in image.window)})")
        elif image.window is not None:
            words.append(f"window {image.window}")
        image = image.file
    if not isinstance(image, str | os.PathLike):
        return None
    name = os.path.basename(os.fsdecode(image))
    # names of files may hold line breaks, and bytes that are no UTF-8
    said = ", ".join([name, *words] if name else []).encode("utf-8", "replace").decode("utf-8")
    return " ".join(said.split()) or None


def top_table(explanation, k, class_):
    """Return the k concepts of the largest mean absolute contribution; see `Explanation.top`."""
    import pandas as pd

    columns, signs, _ = explanation._targets(class_)
    tables = []
    for e, name in enumerate(explanation.expert_names):
        contributions = explanation._towards(e, columns, signs)
        seen = explanation.present[:, e]
        unseen = np.full(contributions.shape[1], np.nan)
        tables.append(
            pd.DataFrame(
                {
                    # first what must not be hidden where a terminal is narrow
                    "concept": explanation.concept_names[e],
                    "contribution": contributions.mean(axis=0),
                    "magnitude": np.abs(contributions).mean(axis=0),
                    "expert": name,
                    "value": explanation.values[e][seen].mean(axis=0) if seen.any() else unseen,
                    "similarity": (
                        explanation.similarities[e][seen].mean(axis=0) if seen.any() else unseen
                    ),
                    "percentile": (
                        explanation.percentiles[e][seen].mean(axis=0) if seen.any() else unseen
                    ),
                    "unit": explanation.unit,
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values("magnitude", ascending=False, kind="stable", ignore_index=True)[:k]


def long_table(explanation, class_):
    """Return one line per (row, expert, concept) and per bias; see `Explanation.to_frame`."""
    import pandas as pd

    columns, signs, labels = explanation._targets(class_)
    n = len(explanation)
    labels = np.array([*labels, None], dtype=object)[:-1]
    tables = []
    for e, name in enumerate(explanation.expert_names):
        concepts = explanation.concept_names[e]
        m = len(concepts)
        seen = explanation.present[:, [e]]
        tables.append(
            pd.DataFrame(
                {
                    "row": np.repeat(explanation.rows, m),
                    "class": np.repeat(labels, m),
                    "expert": pd.Series([name] * (n * m), dtype=object),
                    "concept": concepts * n,
                    "contribution": explanation._towards(e, columns, signs).ravel(),
                    "value": np.where(seen, explanation.values[e], np.nan).ravel(),
                    "similarity": explanation.similarities[e].ravel(),
                    "percentile": explanation.percentiles[e].ravel(),
                    "expert_weight": np.repeat(explanation.expert_weights[:, e], m),
                }
            )
        )
    bias = {
        "row": explanation.rows,
        "class": labels,
        "expert": pd.Series([None] * n, dtype=object),
        "concept": "(bias)",
        "contribution": signs * explanation.bias[np.arange(n), columns],
        "value": np.nan,
        "similarity": np.nan,
        "percentile": np.nan,
        "expert_weight": np.nan,
    }
    frame = pd.concat([*tables, pd.DataFrame(bias)], ignore_index=True)
    frame["unit"] = explanation.unit
    if (names := image_names(explanation)) is not None:
        each = [*(np.repeat(names, len(c)) for c in explanation.concept_names), names]
        frame.insert(1, "image", pd.Series(np.concatenate(each), dtype=object))
    return frame.sort_values("row", kind="stable", ignore_index=True)


def image_names(explanation):
    """Return the image names of all rows, objects (n,), or None where no image has one."""
    names = [image_name(image) for image in explanation.images or ()]
    return np.array(names, dtype=object) if any(names) else None


def summarise_rows(explanation, k=None, class_=None):
    """Return `summarise_row` of all rows; what is computed for all is computed once."""
    if not len(explanation):
        return []
    cases = None if explanation._source is None else explanation.cases()
    return [summarise_row(explanation, i, k, class_, cases) for i in range(len(explanation))]


def summarise_row(explanation, i, k=None, class_=None, cases=None):
    """Return what decided one row, as plain JSON types.

    `contributions` holds the k largest over all experts, largest first; each expert's `rest` sums
    its others, and its `total` all of its own. `bias` and the totals sum to `sum`, which is
    `logit` unless `unit` says otherwise. `without_bias` is the class that the concepts alone would
    give, None where that is not known. `runner_up` has what separates the class from the most
    probable other, `what_if` what other weights of the experts would give (of the `cases`).
    """
    row = explanation[i]
    column, sign, (label,) = row._targets(class_)
    experts, entries = [], []
    for e, name in enumerate(row.expert_names):
        contributions = row._towards(e, column, sign)[0]
        present = bool(row.present[0, e])
        experts.append(
            {
                "expert": name,
                "present": present,
                "gate": float(row.gate[0, e]),
                "weight": float(row.expert_weights[0, e]),
                "logit": float(sign[0] * row.expert_logits[0, e, column[0]]) if present else None,
                "total": float(contributions.sum()),
            }
        )
        if present:
            cells = (contributions, row.values[e][0], row.similarities[e][0])
            cells = zip(*cells, explanation.percentiles[e][i], strict=True)
            entries += [(e, j, *map(float, cell)) for j, cell in enumerate(cells)]
    entries.sort(key=lambda entry: -abs(entry[2]))
    shown = entries if k is None else entries[:k]
    for e, expert in enumerate(experts):
        mine = [entry for entry in entries[len(shown) :] if entry[0] == e]
        expert["rest"] = float(sum(entry[2] for entry in mine))
        expert["rest_concepts"] = len(mine)
    return {
        "row": int(row.rows[0]),
        "image": None if row.images is None else image_name(row.images[0]),
        "predicted": row.predicted.tolist()[0],
        "class": label,
        "against": row.against,
        "unit": row.unit,
        "probability": float(row.probabilities[0, row.classes.index(label)]),
        "threshold": None
        if row.thresholds is None
        else float(row.thresholds[row.classes.index(label)]),
        "probabilities": row.probabilities[0].tolist(),
        "logit": float(sign[0] * row.logits[0, column[0]]),
        "sum": float(sign[0] * row.totals[0, column[0]]),
        "bias": float(sign[0] * row.bias[0, column[0]]),
        "without_bias": _without_bias(row),
        "experts": experts,
        "contributions": [
            {
                "expert": row.expert_names[e],
                "concept": row.concept_names[e][j],
                "contribution": contribution,
                "value": value,
                "similarity": None if np.isnan(similarity) else similarity,
                "percentile": None if np.isnan(percentile) else percentile,
            }
            for e, j, contribution, value, similarity, percentile in shown
        ],
        "runner_up": _runner_up(row, label),
        "what_if": None if cases is None else [_case_of(c, explanation, i, label) for c in cases],
    }


def _runner_up(row, label):
    """Return what separates a row's class from the most probable other, or None."""
    if row._of_class is not None or row.thresholds is not None or not row.present.any():
        return None
    (other,) = row._rivals([label]).tolist()
    between = summarise_row(row.versus(label, other), 0, _SEPARATING)
    return {
        "class": other,
        "probability": float(row.probabilities[0, row.classes.index(other)]),
        "difference": between["sum"],
        "bias": between["bias"],
        "rest": float(sum(expert["rest"] for expert in between["experts"])),
        "contributions": between["contributions"],
    }


def _case_of(case, explanation, i, label):
    """Return one row of a `Case` as plain JSON types, None where it says nothing."""
    column = explanation.classes.index(label)
    known = bool(np.isfinite(case.probabilities[i]).all())
    return {
        "case": case.name,
        "gate": case.gate[i].tolist() if known else None,
        "probability": float(case.probabilities[i, column]) if known else None,
        "probabilities": case.probabilities[i].tolist() if known else None,
        "predicted": explanation._said(case.probabilities[[i]])[0],
    }


def _without_bias(row):
    """Return the class that one row's concepts alone speak for, or None."""
    # Of several labels each decides for itself: none could say another one instead.
    if row._of_class is not None or row.thresholds is not None or not row.present.any():
        return None
    if row.unit != "logit":  # of a probability nothing could be left out
        return None
    scores = row.logits[0] - row.bias[0]
    return row.classes[int(scores[0] > 0) if len(scores) == 1 else int(scores.argmax())]


def bias_decides(summary):
    """Return whether the predicted class of a row is the bias's choice, not the concepts'."""
    return summary["without_bias"] not in (None, summary["predicted"])


def seen_by_any(summary):
    """Return whether any expert saw a row; without one it has the class frequencies alone."""
    return any(expert["present"] for expert in summary["experts"])
