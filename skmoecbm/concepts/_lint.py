"""What is wrong with the phrases of a bank, and a bank without it."""

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from skmoecbm.concepts._bank import ConceptBank
from skmoecbm.concepts._library import as_bank
from skmoecbm.concepts._lint_checks import Reader, Sheet, faults, plain_words
from skmoecbm.concepts._lint_rules import Rule, as_rules
from skmoecbm.exceptions import InputError

__all__ = ["Finding", "LintReport", "chosen_findings", "cleaned", "lint_concepts"]


@dataclass(frozen=True)
class Finding:
    """A phrase, and what is wrong with it.

    Attributes
    ----------
    phrase : str
        The wording at fault: the text of a concept or one of its `phrases`.
    rule, kind : str
        Such as "non-visual" and "treatment".
    why, suggestion : str
    severity : {"error", "warning", "info"}
    concept : int
        Place of the concept in the bank.
    wording : int
        0 for the text of the concept, else which of its other `phrases`, from 1.
    """

    phrase: str
    rule: str
    kind: str
    why: str
    suggestion: str
    severity: str
    concept: int
    wording: int

    def __str__(self):
        """Return severity, rule, phrase and why in one line."""
        return f"{self.severity:<7} {self.rule}/{self.kind}: {self.phrase!r}: {self.why}"


@dataclass(frozen=True)
class LintReport:
    """What `lint_concepts` found: a sequence of findings.

    `len` is their number, so that a report is true where anything was found, information too;
    `errors` is empty where a bank passes.

    Attributes
    ----------
    bank : ConceptBank
        The bank that was looked at.
    rules : tuple of Rule
        The rules that were asked.
    findings : tuple of Finding
        In the order of the bank.
    """

    bank: ConceptBank
    rules: tuple[Rule, ...]
    findings: tuple[Finding, ...]

    def __len__(self):
        """Return the number of findings, of any severity."""
        return len(self.findings)

    def __iter__(self):
        """Iterate over the findings."""
        return iter(self.findings)

    @property
    def bank_name(self):
        """The name of the bank, a str."""
        return self.bank.name

    @property
    def texts(self):
        """The concepts that were looked at, a tuple of m str."""
        return tuple(self.bank.texts)

    @property
    def errors(self):
        """The findings that a bank should not have, a tuple of `Finding`."""
        return tuple(one for one in self.findings if one.severity == "error")

    @property
    def counts(self):
        """How many findings each rule has that was asked, dict of str to int."""
        found = Counter(one.rule for one in self.findings)
        return {rule.name: found[rule.name] for rule in self.rules}

    def flagged(self, rules=None):
        """Return the concepts whose text has a finding of these rules.

        Parameters
        ----------
        rules : str or list of str, default=None
            Rules ("non-visual") or single kinds of them ("non-visual/treatment"); None takes
            every finding that is an error.

        Returns
        -------
        ndarray of int
            Places in the bank, ascending, each once. A concept of which only another wording is
            at fault is not among them.

        Raises
        ------
        InputError
            If a rule was not asked.
        """
        chosen = chosen_findings(self, rules)
        return np.array(sorted({one.concept for one in chosen if one.wording == 0}), dtype=int)

    def to_frame(self):
        """Return one row per finding, with the columns of `Finding`.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        return pd.DataFrame(
            [asdict(one) for one in self.findings], columns=list(Finding.__dataclass_fields__)
        )

    def to_dict(self):
        """Return the report, JSON-safe: bank, n_concepts, counts, findings."""
        return {
            "bank": self.bank_name,
            "n_concepts": len(self.texts),
            "counts": self.counts,
            "findings": [asdict(one) for one in self.findings],
        }

    def __str__(self):
        """Return the findings rule by rule, those for information as a number, and their sum."""
        lines = []
        for rule in self.rules:
            found = [one for one in self.findings if one.rule == rule.name]
            if not found:
                continue
            lines.append(f"{rule.name}: {len(found)}. {rule.about}")
            found = [one for one in found if one.severity != "info"]
            width = min(48, max((len(one.phrase) for one in found), default=0))
            lines += [
                f"  {one.severity:<7}  {one.phrase:<{width}}  {one.kind}: {one.why}"
                for one in found
            ]
            advice = dict.fromkeys((one.kind, one.suggestion) for one in found)
            lines += [f"  -> {kind}: {suggestion}" for kind, suggestion in advice]
        severities = Counter(one.severity for one in self.findings)
        n_errors, n_warnings = severities["error"], severities["warning"]
        lines.append(
            f"{self.bank_name}: {len(self.texts)} concepts, {n_errors} error"
            f"{'' if n_errors == 1 else 's'}, {n_warnings} warning{'' if n_warnings == 1 else 's'}"
            + (f", {severities['info']} for information" if severities["info"] else "")
        )
        return "\n".join(lines)

    def __repr__(self):
        """Return name and counts in one line."""
        found = {rule: n for rule, n in self.counts.items() if n}
        return f"LintReport({self.bank_name!r}, {len(self.texts)} concepts, {found})"


def chosen_findings(report, rules, keep=()):
    """Return the findings of these rules or kinds (None: the errors) but for those of `keep`."""
    wanted, spared = _known(report, rules), _known(report, keep or ())
    return [
        one
        for one in report
        if (one.severity == "error" if wanted is None else _is_named(one, wanted))
        and not _is_named(one, spared)
    ]


def _known(report, names):
    """Return the names of rules and kinds as a set, None for None; all must have been asked."""
    if names is None:
        return None
    names = {names} if isinstance(names, str) else set(names)
    known = {rule.name for rule in report.rules}
    kinds = [f"{rule.name}/{kind.name}" for rule in report.rules for kind in rule.kinds]
    if unknown := sorted(map(str, names - known - set(kinds))):
        raise InputError(
            f"{unknown[0]!r} is no rule of this report; there are {sorted(known)} and their kinds, "
            f"such as {kinds[0]!r}."
        )
    return names


def _is_named(finding, names):
    return finding.rule in names or f"{finding.rule}/{finding.kind}" in names


def lint_concepts(bank, *, backbone=None, rules=None):
    """Look for phrases that a concept bottleneck should not have.

    The rules are lists of words, in the package's `concepts/rules`. Errors are a class named in a
    phrase (leak), what no picture shows (non-visual: treatment, prognosis, symptom, touch, risk,
    cause, prevalence, time, location, microscopic, verdict), the person instead of the picture
    (demographic), negation, the same words twice (duplicate), and with a backbone a phrase that
    its tokenizer cuts (too-long). Warnings are parts of class names, vague phrases and
    near-duplicates; that a concept is shared by several classes is information.

    Parameters
    ----------
    bank : ConceptBank, dict of class to phrases, list of phrases, str or PathLike
        Whatever `as_bank` takes. The `phrases` of a concept are looked at too, its `negative` is
        not.
    backbone : Backbone or str, default=None
        A loaded model or its name. With it phrases are counted in its tokens, each with its
        longest template, and near-duplicates are found by their embeddings too.
    rules : str, path, or list of them, default=None
        Names of rules, or JSON files of rules of one's own; None takes all that are bundled.

    Returns
    -------
    LintReport

    Raises
    ------
    InputError
        If the bank or a parameter is none of these, or a rule is unknown.
    FormatError
        If a file is not a bank, or not a rule.

    Examples
    --------
    >>> from skmoecbm.concepts import lint_concepts
    >>> bank = {
    ...     "melanoma": ["irregular border", "may be removed by surgery", "early melanomas"],
    ...     "nevus": ["round", "common in fair skin"],
    ... }
    >>> report = lint_concepts(bank, rules=["leak", "non-visual", "demographic"])
    >>> report.counts
    {'leak': 1, 'non-visual': 2, 'demographic': 1}
    >>> report.flagged("leak")
    array([2])
    >>> print(report.findings[0])
    error   non-visual/treatment: 'may be removed by surgery': 'removed' speaks of care or treatment
    """
    bank, rules = as_bank(bank), as_rules(rules)
    sheet = Sheet(bank, None if backbone is None else Reader(backbone))
    found = {wording: [] for wording in sheet.wordings}
    for rule in rules:
        for wording, finding in _findings(rule, sheet):
            found[wording].append(finding)
    findings = tuple(one for some in found.values() for one in some)
    return LintReport(bank, rules, findings)


def _findings(rule, sheet):
    """Yield (wording, finding); beside an error a warning of the same rule says nothing new."""
    severities = {kind: kind.severity or rule.severity for kind in rule.kinds}
    at_fault = set()
    for kind in sorted(rule.kinds, key=lambda kind: severities[kind] != "error"):
        for wording, blanks in faults(kind, sheet):
            if severities[kind] == "error":
                at_fault.add(wording)
            elif wording in at_fault:
                continue
            yield (
                wording,
                Finding(
                    phrase=wording.text,
                    rule=rule.name,
                    kind=kind.name,
                    why=kind.why.format(**blanks),
                    suggestion=kind.suggestion.format(**blanks),
                    severity=severities[kind],
                    concept=wording.concept,
                    wording=wording.number,
                ),
            )


def cleaned(bank, drop=None, keep=None, report=None):
    """Return the bank without what a report finds; see `ConceptBank.clean`."""
    if report is None:
        report = lint_concepts(bank)
    elif not isinstance(report, LintReport) or report.bank != bank:
        raise InputError(
            f"The 'report' must be what lint_concepts found in this bank, {bank.name!r}, as it is "
            f"now. Got {report!r} instead; lint the bank again."
        )
    faulty = chosen_findings(report, drop, keep)
    # What is taken out may have been all that another finding rests on (two equal phrases of which
    # one is a leak), and joined classes may make a concept shared: until nothing is left to do.
    while faulty:
        bank = _without(bank, faulty)
        faulty = chosen_findings(lint_concepts(bank, rules=report.rules), drop, keep)
    return bank


def _without(bank, faulty):
    """Return the bank without the wordings of these findings."""
    texts = {one.concept for one in faulty if one.wording == 0}
    gone = {(one.concept, one.wording) for one in faulty}
    kept = {i: concept for i, concept in enumerate(bank.concepts) if i not in texts}
    if not kept:
        raise InputError(
            f"Of the bank {bank.name!r} no concept is left: all {len(bank)} have a finding of the "
            "rules that are dropped. Give fewer rules to drop, or rules to keep."
        )
    heirs = {plain_words(concept.text): i for i, concept in kept.items()}
    for one in faulty:
        heir = heirs.get(plain_words(one.phrase))
        if one.rule == "duplicate" and one.wording == 0 and heir is not None:
            lost, has = bank.concepts[one.concept], kept[heir]
            classes = tuple(dict.fromkeys((*has.classes, *lost.classes)))
            against = (k for k in (*has.against, *lost.against) if k not in classes)
            kept[heir] = has.model_copy(
                update={"classes": classes, "against": tuple(dict.fromkeys(against))}
            )
    for i, concept in kept.items():
        phrases = (p for n, p in enumerate(concept.phrases, start=1) if (i, n) not in gone)
        kept[i] = concept.model_copy(update={"phrases": tuple(phrases)})
    return bank.model_copy(update={"concepts": tuple(kept.values())})
