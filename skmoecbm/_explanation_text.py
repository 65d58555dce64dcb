"""Text and HTML of an `Explanation`, and the words that its picture shares with them."""

import html

from skmoecbm._explanation_tables import bias_decides, seen_by_any, summarise_rows

__all__ = [
    "WHAT_IF",
    "before_the_class",
    "html_of",
    "instead",
    "rank_in_words",
    "said_or_not",
    "shown_class",
    "sum_in_words",
    "text_of",
    "value_in_words",
]

# How a notice begins where the values of concepts are not the image's own.
WHAT_IF = "what if: "
_SHOWN_ROWS = 3
_SHOWN_CONCEPTS = 5


def before_the_class(explanation):
    """Return what a headline begins with: that this decision is no real one, or nothing."""
    return "What if: " if any(n.startswith(WHAT_IF) for n in explanation.notices) else ""


def value_in_words(entry):
    """Return a concept's value: +1.8 sd from the training mean, or the similarity as it came."""
    if entry["value"] == entry["similarity"]:  # activation="softmax" standardises nothing
        return f"{entry['value']:.2f}"
    shown = f"{entry['value']:+.1f}"
    return f"{'0.0' if float(shown) == 0 else shown} sd".replace("-", "\N{MINUS SIGN}")


def rank_in_words(entry):
    """Return a concept's percentile among the training images, "" where it is not known."""
    return "" if entry["percentile"] is None else f"{entry['percentile']:.0f}"


def said_or_not(summary):
    """Return whether a label is predicted of a row, and from which probability on it would be."""
    kind = "predicted" if summary["probability"] >= summary["threshold"] else "not predicted"
    return f"{kind}: it is from {summary['threshold']:.2g} on"


def sum_in_words(summary):
    """Return what the contributions of a row sum to."""
    if summary["against"] is None:
        return summary["unit"]
    return {"logit": "difference of logits", "probability": "difference of probabilities"}[
        summary["unit"]
    ]


def shown_class(explanation, label):
    """Return the name to show for a class: "melanoma (mel)", or its label alone."""
    name = explanation.class_names.get(label)
    return str(label) if name in (None, str(label)) else f"{name} ({label})"


def instead(case, summary):
    """Return "(bcc instead)" where other weights would give another class, else ""."""
    if case["predicted"] == summary["what_if"][0]["predicted"]:
        return ""
    says = "no label" if case["predicted"] in ("", None) else case["predicted"]  # 0 is a label
    return f"({says} instead)"


def text_of(explanation):
    """Return the text that `repr` shows: the first rows, their experts and strongest concepts."""
    lines = [_headline(explanation)]
    for row in summarise_rows(explanation[:_SHOWN_ROWS], _SHOWN_CONCEPTS):
        weights = ", ".join(_weight(expert) for expert in row["experts"])
        about = f"{_about(row, explanation)}, {sum_in_words(row)} {row['sum']:+.2f}"
        lines.append(f"{_which(row)}: {about}; {weights}")
        lines += [
            f"  {entry['contribution']:+6.2f}  {entry['concept']} ({entry['expert']}), "
            f"{_value_and_rank(entry)}"
            for entry in row["contributions"]
        ]
        rest, count = _rest(row)
        if count:
            lines.append(f"  {rest:+6.2f}  {count} other concept{'s' * (count != 1)}")
        decides = f", which decides: without it {row['without_bias']}" if bias_decides(row) else ""
        lines.append(f"  {row['bias']:+6.2f}  bias{decides}")
        lines += [f"  {line}" for line in _compared(row)]
    if len(explanation) > _SHOWN_ROWS:
        lines.append(f"... and {len(explanation) - _SHOWN_ROWS:,} more rows")
    return "\n".join([*lines, *(f"Note: {notice}" for notice in explanation.notices)])


def html_of(explanation):
    """Return a table without scripts, all names escaped, for notebooks."""
    cells = [f"<p>{html.escape(_headline(explanation))}</p>"]
    for row in summarise_rows(explanation[:_SHOWN_ROWS], _SHOWN_CONCEPTS):
        rest, count = _rest(row)
        entries = [
            (e["concept"], e["expert"], value_in_words(e), rank_in_words(e), e["contribution"])
            for e in row["contributions"]
        ]
        entries += [(f"{count} other concepts", "", "", "", rest)] if count else []
        bias = f"bias; without it {row['without_bias']}" if bias_decides(row) else "bias"
        entries += [(bias, "", "", "", row["bias"]), (sum_in_words(row), "", "", "", row["sum"])]
        largest = max(abs(part) for *_, part in entries) or 1.0
        weights = ", ".join(_weight(expert) for expert in row["experts"])
        title = html.escape(f"{_which(row)}: {_about(row, explanation)}")
        unit = {"logit": "logits", "probability": "probability"}[row["unit"]]
        cells.append(
            f"<p><b>{title}</b>; {html.escape(weights)}</p>"
            "<table><thead><tr><th>concept</th><th>expert</th><th>value</th><th>percentile</th>"
            f"<th>{unit}</th><th></th></tr></thead><tbody>"
        )
        for concept, expert, value, rank, part in entries:
            # blue for, orange against: told apart with any colour vision
            colour, width = ("#0072B2" if part >= 0 else "#D55E00"), 120 * abs(part) / largest
            cells.append(
                f'<tr><td style="text-align:left">{html.escape(concept)}</td>'
                f'<td style="text-align:left">{html.escape(expert)}</td><td>{value}</td>'
                f"<td>{rank}</td><td>{part:+.3f}</td>"
                f'<td style="text-align:left"><div style="background:{colour};height:0.8em;'
                f'width:{width:.0f}px"></div></td></tr>'
            )
        cells.append("</tbody></table>")
        cells += [f"<p>{html.escape(line)}</p>" for line in _compared(row)]
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
    parts = "" if explanation.unit == "logit" else "; the parts are probabilities, not logits"
    return (
        f"Explanation of {n:,} row{'s' * (n != 1)}, {len(explanation.classes)} classes: {experts}"
        f"{parts}"
    )


def _which(row):
    return f"row {row['row']}" + (f", {row['image']}" if row["image"] else "")


def _about(row, explanation):
    label = f"{shown_class(explanation, row['class'])} (p = {row['probability']:.2f})"
    if not seen_by_any(row):
        return f"seen by no expert, the class frequencies alone give {label}"
    if row["against"] is not None:
        label = f"{label} against {shown_class(explanation, row['against'])}"
    if row["threshold"] is not None:
        return f"{label}, {said_or_not(row)}"
    return label if row["class"] == row["predicted"] else f"{label}, predicted {row['predicted']}"


def _value_and_rank(entry):
    rank = rank_in_words(entry)
    return value_in_words(entry) + (f", percentile {rank}" if rank else "")


def _compared(row):
    """Return lines on the runner-up, and on what other weights of the experts would give."""
    lines, other = [], row["runner_up"]
    if other is not None:
        parts = [f"{e['concept']} {e['contribution']:+.2f}" for e in other["contributions"]]
        parts += [f"others {other['rest']:+.2f}", f"bias {other['bias']:+.2f}"]
        what = {"logit": "logits", "probability": "probability"}[row["unit"]]
        lines.append(
            f"over {other['class']} (p = {other['probability']:.2f}) by {other['difference']:+.2f} "
            f"in {what}: {', '.join(parts)}"
        )
    cases = [case for case in (row["what_if"] or [])[1:] if case["probabilities"] is not None]
    if cases:
        told = []
        for case in cases:
            turned = instead(case, row)
            told.append(f"{case['case']} {case['probability']:.2f}{turned and f' {turned}'}")
        lines.append(f"p({row['class']}) with other weights: {'; '.join(told)}")
    return lines


def _weight(expert):
    weight = f"{100 * expert['weight']:.0f} %" if expert["present"] else "missing"
    return f"{expert['expert']} {weight}"


def _rest(row):
    return (
        sum(expert["rest"] for expert in row["experts"]),
        sum(expert["rest_concepts"] for expert in row["experts"]),
    )
