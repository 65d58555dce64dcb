"""Tables, JSON, text and HTML of an `Explanation`."""

import html
import os
from collections.abc import Sequence

import numpy as np

from skmoecbm.exceptions import InputError

__all__ = [
    "Contributions",
    "bias_decides",
    "html_of",
    "image_name",
    "long_table",
    "said_or_not",
    "seen_by_any",
    "summarise_row",
    "text_of",
    "top_table",
    "value_in_words",
]

_SHOWN_ROWS = 3
_SHOWN_CONCEPTS = 5


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
        return (part.weight[:, None] * part.values)[:, :, None] * part.association.T


def image_name(image):
    """Return the file's name of an image that was given as a path, without its folder, or None."""
    if not isinstance(image, str | os.PathLike):
        return None
    name = os.path.basename(os.fsdecode(image))
    # names of files may hold line breaks, and bytes that are no UTF-8
    return " ".join(name.encode("utf-8", "replace").decode("utf-8").split()) or None


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
                    "expert": name,
                    "concept": explanation.concept_names[e],
                    "contribution": contributions.mean(axis=0),
                    "magnitude": np.abs(contributions).mean(axis=0),
                    "value": explanation.values[e][seen].mean(axis=0) if seen.any() else unseen,
                    "similarity": (
                        explanation.similarities[e][seen].mean(axis=0) if seen.any() else unseen
                    ),
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
        "expert_weight": np.nan,
    }
    frame = pd.concat([*tables, pd.DataFrame(bias)], ignore_index=True)
    if (names := _image_names(explanation)) is not None:
        each = [*(np.repeat(names, len(c)) for c in explanation.concept_names), names]
        frame.insert(1, "image", pd.Series(np.concatenate(each), dtype=object))
    return frame.sort_values("row", kind="stable", ignore_index=True)


def _image_names(explanation):
    """Return the image names of all rows, objects (n,), or None where no image has one."""
    names = [image_name(image) for image in explanation.images or ()]
    return np.array(names, dtype=object) if any(names) else None


def summarise_row(explanation, i, k=None, class_=None):
    """Return what decided one row, as plain JSON types.

    `contributions` holds the k largest over all experts, largest first; each expert's `rest` sums
    its others, and its `total` all of its own. `bias` and the totals sum to `logit`.
    `without_bias` is the class that the concepts alone would give, None where that is not known.
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
            entries += [
                (e, j, float(contribution), float(row.values[e][0, j]), float(similarity))
                for j, (contribution, similarity) in enumerate(
                    zip(contributions, row.similarities[e][0], strict=True)
                )
            ]
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
        "probability": float(row.probabilities[0, row.classes.index(label)]),
        "threshold": None
        if row.thresholds is None
        else float(row.thresholds[row.classes.index(label)]),
        "probabilities": row.probabilities[0].tolist(),
        "logit": float(sign[0] * row.logits[0, column[0]]),
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
            }
            for e, j, contribution, value, similarity in shown
        ],
    }


def _without_bias(row):
    """Return the class that one row's concepts alone speak for, or None."""
    # Of several labels each decides for itself: none could say another one instead.
    if row._of_class is not None or row.thresholds is not None or not row.present.any():
        return None
    scores = row.logits[0] - row.bias[0]
    return row.classes[int(scores[0] > 0) if len(scores) == 1 else int(scores.argmax())]


def bias_decides(summary):
    """Return whether the predicted class of a row is the bias's choice, not the concepts'."""
    return summary["without_bias"] not in (None, summary["predicted"])


def seen_by_any(summary):
    """Return whether any expert saw a row; without one it has the class frequencies alone."""
    return any(expert["present"] for expert in summary["experts"])


def value_in_words(entry):
    """Return a concept's value: +1.8 sd from the training mean, or the similarity as it came."""
    if entry["value"] == entry["similarity"]:  # activation="softmax" standardises nothing
        return f"{entry['value']:.2f}"
    shown = f"{entry['value']:+.1f}"
    return f"{'0.0' if float(shown) == 0 else shown} sd".replace("-", "\N{MINUS SIGN}")


def text_of(explanation):
    """Return the text that `repr` shows: the first rows, their experts and strongest concepts."""
    lines = [_headline(explanation)]
    for i in range(min(len(explanation), _SHOWN_ROWS)):
        row = summarise_row(explanation, i, _SHOWN_CONCEPTS)
        weights = ", ".join(_weight(expert) for expert in row["experts"])
        lines.append(f"{_which(row)}: {_about(row)}, logit {row['logit']:+.2f}; {weights}")
        lines += [
            f"  {entry['contribution']:+6.2f}  {entry['concept']} ({entry['expert']}), "
            f"{value_in_words(entry)}"
            for entry in row["contributions"]
        ]
        rest, count = _rest(row)
        if count:
            lines.append(f"  {rest:+6.2f}  {count} other concept{'s' * (count != 1)}")
        decides = f", which decides: without it {row['without_bias']}" if bias_decides(row) else ""
        lines.append(f"  {row['bias']:+6.2f}  bias{decides}")
    if len(explanation) > _SHOWN_ROWS:
        lines.append(f"... and {len(explanation) - _SHOWN_ROWS:,} more rows")
    return "\n".join([*lines, *(f"Note: {notice}" for notice in explanation.notices)])


def html_of(explanation):
    """Return a table without scripts, all names escaped, for notebooks."""
    cells = [f"<p>{html.escape(_headline(explanation))}</p>"]
    for i in range(min(len(explanation), _SHOWN_ROWS)):
        row = summarise_row(explanation, i, _SHOWN_CONCEPTS)
        rest, count = _rest(row)
        entries = [
            (e["concept"], e["expert"], value_in_words(e), e["contribution"])
            for e in row["contributions"]
        ]
        entries += [(f"{count} other concepts", "", "", rest)] if count else []
        bias = f"bias; without it {row['without_bias']}" if bias_decides(row) else "bias"
        entries += [(bias, "", "", row["bias"]), ("logit", "", "", row["logit"])]
        largest = max(abs(logits) for *_, logits in entries) or 1.0
        weights = ", ".join(_weight(expert) for expert in row["experts"])
        cells.append(
            f"<p><b>{html.escape(f'{_which(row)}: {_about(row)}')}</b>; {html.escape(weights)}</p>"
            "<table><thead><tr><th>concept</th><th>expert</th><th>value</th><th>logits</th>"
            "<th></th></tr></thead><tbody>"
        )
        for concept, expert, value, logits in entries:
            # blue for, orange against: told apart with any colour vision
            colour, width = ("#0072B2" if logits >= 0 else "#D55E00"), 120 * abs(logits) / largest
            cells.append(
                f'<tr><td style="text-align:left">{html.escape(concept)}</td>'
                f'<td style="text-align:left">{html.escape(expert)}</td><td>{value}</td>'
                f"<td>{logits:+.3f}</td>"
                f'<td style="text-align:left"><div style="background:{colour};height:0.8em;'
                f'width:{width:.0f}px"></div></td></tr>'
            )
        cells.append("</tbody></table>")
    if len(explanation) > _SHOWN_ROWS:
        cells.append(f"<p>and {len(explanation) - _SHOWN_ROWS:,} more rows</p>")
    cells += [f"<p><i>{html.escape(notice)}</i></p>" for notice in explanation.notices]
    return f"<div>{''.join(cells)}</div>"


def _headline(explanation):
    n = len(explanation)
    experts = ", ".join(
        f"{name} ({len(concepts):,} concepts)"
        for name, concepts in zip(explanation.expert_names, explanation.concept_names, strict=True)
    )
    return (
        f"Explanation of {n:,} row{'s' * (n != 1)}, {len(explanation.classes)} classes: {experts}"
    )


def _which(row):
    return f"row {row['row']}" + (f", {row['image']}" if row["image"] else "")


def _about(row):
    label = f"{row['class']} (p = {row['probability']:.2f})"
    if not seen_by_any(row):
        return f"seen by no expert, the class frequencies alone give {label}"
    if row["threshold"] is not None:
        return f"{label}, {said_or_not(row)}"
    return label if row["class"] == row["predicted"] else f"{label}, predicted {row['predicted']}"


def said_or_not(summary):
    """Return whether a label is predicted of a row, and from which probability on it would be."""
    kind = "predicted" if summary["probability"] >= summary["threshold"] else "not predicted"
    return f"{kind}: it is from {summary['threshold']:.2g} on"


def _weight(expert):
    weight = f"{100 * expert['weight']:.0f} %" if expert["present"] else "missing"
    return f"{expert['expert']} {weight}"


def _rest(row):
    return (
        sum(expert["rest"] for expert in row["experts"]),
        sum(expert["rest_concepts"] for expert in row["experts"]),
    )
