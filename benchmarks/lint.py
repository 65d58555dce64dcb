r"""Precision and recall of the linter's rules on labelled phrases, and its findings on lists.

    python -m benchmarks.lint $SKMOECBM_TEST_DATA/concepts

The labels are in tests/concepts/lint_labels.json: 300 phrases of LaBo's candidates for HAM10000,
drawn and labelled by reading before any rule was written; the rules were written on the others.
A phrase counts as found by a rule where a kind of it has a finding, of whatever severity.
"""

import argparse
import hashlib
import json
from pathlib import Path

from skmoecbm.concepts import ConceptBank, as_bank, lint_concepts, list_concepts

LABELS = Path(__file__).parents[1] / "tests" / "concepts" / "lint_labels.json"
RULES = ("non-visual", "demographic", "negation", "leak", "vague")


def labelled(bank):
    """Return the labelled phrases of the bank, text -> set of rules."""
    file = json.loads(LABELS.read_text(encoding="utf-8"))
    key = file["salt"].encode()
    digests = {
        hashlib.blake2b(text.encode(), digest_size=12, key=key).hexdigest(): text
        for text in bank.texts
    }
    return {digests[digest]: set(rules) for digest, rules in file["labels"].items()}


def scores(folder):
    """Return rule -> (labelled, found, both) on the labelled phrases, and the errors made."""
    bank = ConceptBank.from_labo(folder / "labo_ham10000_candidates.json")
    labels = labelled(bank)
    report = lint_concepts(bank)
    table, errors = {}, {}
    for rule in RULES:
        told = {text for text, rules in labels.items() if rule in rules}
        found = {bank.texts[i] for i in report.flagged(rule)} & set(labels)
        table[rule] = len(told), len(found), len(told & found)
        errors[rule] = sorted(found - told), sorted(told - found)
    return table, errors


def main(argv=None):
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder 'concepts' of the test data")
    parser.add_argument("--errors", action="store_true", help="show the phrases judged wrongly")
    args = parser.parse_args(argv)
    table, errors = scores(args.folder)
    print("| rule | labelled | found | precision | recall |\n|---|---|---|---|---|")
    for rule, (n, found, both) in table.items():
        print(f"| {rule} | {n} | {found} | {both / max(found, 1):.2f} | {both / max(n, 1):.2f} |")
    if args.errors:
        for rule, (false, missed) in errors.items():
            print(f"{rule}: false alarms {false}\n  missed {missed}")
    print("\n| list | phrases | non-visual or demographic | any error |\n|---|---|---|---|")
    for source in (args.folder / "labo_ham10000_selected.json", *list_concepts()):
        report = lint_concepts(as_bank(source))
        strict, n = report.flagged(["non-visual", "demographic"]), len(report.flagged())
        print(f"| {report.bank_name} | {len(report.texts)} | {len(strict)} | {n} |")


if __name__ == "__main__":
    main()
