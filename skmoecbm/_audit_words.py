"""What the linter says of the concepts that carry the decisions."""

import numpy as np

from skmoecbm._audit_result import Check, Measure, not_made
from skmoecbm.concepts import Concept, ConceptBank, ConceptClass, lint_concepts
from skmoecbm.explanation import explain_features
from skmoecbm.features import ExpertFeatures

__all__ = ["language"]

_LISTED = 50


def language(problem):
    """Weigh the linter's findings by what the concepts contribute to the decisions."""
    banks = dict(problem.banks)
    if isinstance(problem.X, ExpertFeatures):
        for block in problem.X.blocks:
            if block.name not in banks and block.texts is not None:
                banks[block.name] = _bank_of(block)
    if not banks:
        return not_made("language", "the features do not tell which columns are phrases.")
    table = explain_features(problem.classifier, problem.X).top(k=10**9)
    table["share"] = table["magnitude"] / max(table["magnitude"].sum(), 1e-300)
    findings = {}
    for expert, bank in banks.items():
        for one in lint_concepts(bank):
            if one.severity in ("error", "warning"):
                findings.setdefault((expert, bank.texts[one.concept]), []).append(one)
    rows, shares = [], {"error": 0.0, "warning": 0.0}
    for place, (expert, text, share) in enumerate(
        zip(table["expert"], table["concept"], table["share"], strict=True), start=1
    ):
        found = findings.get((expert, text), [])
        if not found:
            continue
        worst = "error" if any(one.severity == "error" for one in found) else "warning"
        shares[worst] += float(share)
        first = next(one for one in found if one.severity == worst)
        rows.append(
            {
                "rank": place,
                "expert": expert,
                "concept": text,
                "share of decisions": float(share),
                "severity": worst,
                "rule": f"{first.rule}/{first.kind}",
                "why": first.why,
            }
        )
    looked = table[[e in banks for e in table["expert"]]]
    measures = (
        Measure("concepts looked at", len(looked)),
        Measure("concepts with an error", sum(row["severity"] == "error" for row in rows)),
        Measure("concepts with a warning alone", sum(r["severity"] == "warning" for r in rows)),
        Measure("share of decisions carried by errors", shares["error"]),
        Measure("share of decisions carried by warnings alone", shares["warning"]),
    )
    if shares["error"] > 0:
        worst = [row for row in rows if row["severity"] == "error"][:3]
        told = "; ".join(f"{row['concept']!r} ({row['rule']})" for row in worst)
        status = "concern"
        verdict = (
            f"Phrases that a bank should not have carry {shares['error']:.1%} of the decisions. "
            f"The weightiest: {told}."
        )
    elif shares["warning"] > 0:
        status = "unclear"
        verdict = (
            f"No phrase is at fault; phrases with a warning carry {shares['warning']:.1%} of the "
            "decisions."
        )
    else:
        status = "good"
        verdict = f"The linter has nothing against the {len(looked):,} concepts."
    notes = [
        f"expert {expert!r} has no bank of concepts and was not looked at"
        for expert in dict.fromkeys(table["expert"])
        if expert not in banks
    ]
    if len(rows) > _LISTED:
        notes.append(f"{len(rows):,} concepts with a finding; its table lists the first {_LISTED}")
    return Check(
        "language",
        status,
        verdict,
        measures,
        {"findings by weight": rows[:_LISTED]} if rows else {},
        tuple(notes),
    )


def _bank_of(block):
    """Return a bank of a block's concepts, with the classes it knows."""
    keys = block.class_keys or ()
    incidence = block.incidence
    if incidence is None:
        incidence = np.zeros((len(block.concepts), len(keys)), dtype=bool)
    words = {}
    for word, key in (block.class_synonyms or {}).items():
        if word != key.lower():
            words.setdefault(key, []).append(word)
    return ConceptBank(
        name=block.name,
        classes=tuple(ConceptClass(key=key, synonyms=tuple(words.get(key, ()))) for key in keys),
        concepts=tuple(
            Concept(text=text, classes=tuple(np.array(keys, dtype=object)[row]))
            for text, row in zip(block.concepts, incidence, strict=True)
        ),
    )
