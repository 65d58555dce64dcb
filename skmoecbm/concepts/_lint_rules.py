"""The linter's rules: data in `rules/*.json`, or in a file of one's own."""

from functools import cache
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from skmoecbm.concepts._lint_words import Pattern
from skmoecbm.concepts._parsing import read_json, sentences
from skmoecbm.concepts._parts import Part
from skmoecbm.exceptions import FormatError, InputError

__all__ = ["Kind", "Rule", "as_rules"]

Severity = Literal["error", "warning", "info"]
# What each check tells of a wording at fault: the blanks that `why` and `suggestion` may have.
CHECKS = {
    "words": {"found"},
    "class-name": {"found", "class_key"},
    "class-initials": {"found", "class_key"},
    "class-part": {"found", "class_key"},
    "same-words": {"other"},
    "same-stems": {"other"},
    "same-embedding": {"other", "similarity", "backbone"},
    "context": {"tokens", "limit", "backbone"},
    "classes": {"n", "n_classes", "class_keys"},
}


class Kind(Part):
    """One kind of fault that a rule finds.

    Attributes
    ----------
    name : str
    check : str
        What is compared: the `words` of the phrase, or one of the checks that need the bank.
    words : tuple of str
        Patterns, see `skmoecbm.concepts._lint_words.Pattern`.
        For "class-name" words that name no class by themselves ("normal"), for "class-initials"
        common words, for "class-part" words that many names hold ("lesion"), for "same-stems"
        words that make no difference.
    but : tuple of str
        Patterns that are taken out of the phrase first: what would be a false alarm.
    all_words : bool
        Every word of the phrase must match, instead of any.
    not_for : tuple of str
        Patterns; where the bank's name, description or templates hold one, the kind is left out.
    severity : {"error", "warning", "info"} or None
        None is that of the rule.
    threshold : float or None
        Cosine similarity of "same-embedding".
    why, suggestion : str
        What a finding says; `{found}` stands for the words.
    """

    name: str
    check: Literal[tuple(CHECKS)] = "words"
    words: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    all_words: bool = False
    not_for: tuple[str, ...] = ()
    severity: Severity | None = None
    threshold: float | None = Field(default=None, gt=0, le=1)
    why: str
    suggestion: str

    @model_validator(mode="after")
    def _complete(self):
        for sentence in (self.why, self.suggestion):
            blanks = {name for _, name, _, _ in Formatter().parse(sentence) if name is not None}
            if blanks - CHECKS[self.check]:
                raise ValueError(
                    f"the kind {self.name!r} cannot fill {sorted(blanks - CHECKS[self.check])} in "
                    f"{sentence!r}; there are {sorted(CHECKS[self.check])}"
                )
        if self.check == "words" and not self.words:
            raise ValueError(f"the kind {self.name!r} has no words")
        if (self.check == "same-embedding") != (self.threshold is not None):
            raise ValueError(
                "only a kind with the check 'same-embedding' has a threshold, and it must"
            )
        return self


class Rule(Part):
    """A rule: its name, how bad its findings are, and the kinds of fault it finds."""

    name: str
    severity: Severity
    about: str
    kinds: tuple[Kind, ...] = Field(min_length=1)


def read_rule(path):
    """Return the `Rule` in a JSON file.

    Raises
    ------
    FormatError
        If it is not such a file.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise FormatError(f"'{path}' is not a rule: a JSON object.")
    try:
        return Rule(**data)
    except ValidationError as error:
        raise FormatError(f"'{path}' is not a rule: {sentences(error)}") from None


@cache
def bundled_rules():
    """Return the shipped rules, name -> `Rule`, the worst first."""
    with resources.as_file(resources.files("skmoecbm.concepts") / "rules") as folder:
        found = [read_rule(path) for path in sorted(folder.glob("[!_]*.json"))]
    order = ("error", "warning", "info")
    return {
        rule.name: rule for rule in sorted(found, key=lambda r: (order.index(r.severity), r.name))
    }


def as_rules(rules):
    """Return the rules that `rules` means, a tuple of `Rule`; see `lint_concepts`."""
    bundled = bundled_rules()
    if rules is None:
        return tuple(bundled.values())
    wanted = [rules] if isinstance(rules, str | Path | Rule) else list(rules)
    found = {}
    for one in wanted:
        if isinstance(one, Rule):
            rule = one
        elif isinstance(one, Path) or str(one).lower().endswith(".json"):
            rule = read_rule(one)
        elif one in bundled:
            rule = bundled[one]
        else:
            raise InputError(
                f"There is no rule {one!r}; there are {list(bundled)}. "
                "A rule of your own is a path that ends in '.json'."
            )
        found[rule.name] = rule
    if not found:
        raise InputError(
            "The 'rules' parameter of lint_concepts must name a rule at least, or be None."
        )
    return tuple(found.values())


@cache
def pattern(words):
    """Return the compiled `Pattern` of a tuple of patterns."""
    return Pattern(words)
