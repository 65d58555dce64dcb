"""Concepts that a language model writes, and what is known of how it did."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from skmoecbm._validation import check_number, parameter_error
from skmoecbm.concepts._asking import Question, Usage, ask_all
from skmoecbm.concepts._bank import ConceptBank
from skmoecbm.concepts._checkpoint import Answer
from skmoecbm.concepts._clients import as_client
from skmoecbm.concepts._merging import merged
from skmoecbm.concepts._parsing import folded
from skmoecbm.concepts._parts import ConceptClass
from skmoecbm.concepts._prompts import phrases_prompt
from skmoecbm.concepts._replies import AnswerModel
from skmoecbm.exceptions import LanguageModelError, SkmoecbmWarning

__all__ = [
    "Generation",
    "check_asking",
    "finish",
    "generate_concepts",
    "one_line",
    "provenance",
    "spelled",
]

FACETS = ("appearance", "color", "pattern", "shape")


@dataclass(frozen=True)
class Generation:
    """A bank that a language model wrote or filled, with every answer it was made from.

    Attributes
    ----------
    bank : ConceptBank
        `bank.provenance` has the model, the date and every prompt, word for word.
    answers : tuple of Answer
        One for each question, in the order asked.
    dropped : tuple of (str, str, str)
        Class, phrase and reason of each phrase that was answered but is not in the bank.
    usage : Usage
        Requests, tokens and cost of all that the answers took, in this call and earlier ones.
    resumed : int
        How many answers were taken from the checkpoint.
    """

    bank: ConceptBank
    answers: tuple[Answer, ...]
    dropped: tuple[tuple[str, str, str], ...]
    usage: Usage
    resumed: int

    @property
    def failures(self):
        """The answers that could not be used, a tuple of Answer with a `reason` each."""
        return tuple(one for one in self.answers if one.reason is not None)

    def __repr__(self):
        """Return one line: what there is, not what it says."""
        return (
            f"Generation({self.bank!r}, {len(self.answers)} answers, {len(self.failures)} failed, "
            f"{len(self.dropped)} phrases dropped)"
        )


class Phrases(AnswerModel):
    """Phrases for what can be seen, the most typical first."""

    phrases: list[str]


def generate_concepts(
    classes,
    *,
    domain,
    facets=FACETS,
    n_repeats=5,
    technical=False,
    client=None,
    checkpoint=None,
    prices=None,
    max_retries=4,
    max_reasks=1,
    random_state=None,
    dry_run=False,
    verbose=0,
):
    """Ask a language model for phrases that describe each class, and merge them into a bank.

    Each class is asked about once for each facet and repeat. No image is sent anywhere; the names
    of the classes and the domain are, to the client's endpoint. What comes back was written by a
    model and read by nobody: read it, or have an expert read it, before trusting it.

    Parameters
    ----------
    classes : list of str, dict of str to str, or ConceptBank
        Keys as `y` has them; a dict gives key -> name; of a bank its classes are taken.
    domain : str
        What the images are: "dermoscopic images of skin lesions".
    facets : sequence of str, default=("appearance", "color", "pattern", "shape")
        What to ask about; each becomes a `Facet` of the bank.
    n_repeats : int, default=5
        How often each question is asked. How many answers have a phrase stands in
        `Concept.note`.
    technical : bool, default=False
        Ask for the terms of specialists (facets of level "specialist") instead of plain words
        ("general").
    client : OpenAIClient, OllamaClient or function
        Who is asked. A function takes the prompt and returns the answer, both str; its
        `ConnectionError` and `TimeoutError` are tried again. Not needed for a dry run.
    checkpoint : path, default=None
        A file to which each answer is appended as soon as it is there. The same call with the same
        file goes on where the last one ended, and asks again what failed.
    prices : (float, float), default=None
        Price of a million tokens of prompts and of answers, in any currency, for `usage.cost`.
    max_retries : int, default=4
        Tries after the first one when the endpoint is busy, breaks off or does not answer.
    max_reasks : int, default=1
        How often an answer that cannot be used is asked for again, with what was wrong with it.
    random_state : int, RandomState or None, default=None
        Of the jitter between tries; the answers depend on the model alone.
    dry_run : bool, default=False
        Ask nobody; return the prompts.
    verbose : int, default=0
        1 shows the progress.

    Returns
    -------
    Generation, or list of str where `dry_run`
        Concepts are in the order of the classes, the facets, and how many answers have them.

    Raises
    ------
    InputError
        If a parameter is not what it must be.
    LanguageModelError
        If a package or key is missing, the endpoint refuses the request or is gone, or no phrase
        came of it at all.

    Warns
    -----
    SkmoecbmWarning
        If some questions have no answer that can be used.

    Examples
    --------
    >>> from skmoecbm import generate_concepts
    >>> def client(prompt):  # any language model of yours
    ...     return '{"phrases": ["Blue-white veil.", "irregular border"]}'
    >>> made = generate_concepts(
    ...     {"mel": "melanoma"}, domain="skin lesions", facets=["color"], n_repeats=2, client=client
    ... )
    >>> made.bank.texts
    ['blue-white veil', 'irregular border']
    >>> made.bank.concepts[0].note
    'in 2 of 2 answers'
    >>> made.usage.requests
    2
    """
    owner = "generate_concepts"
    classes = class_entries(classes, owner)
    domain = one_line(owner, "domain", domain)
    if isinstance(facets, str) or not isinstance(facets, list | tuple) or not facets:
        raise parameter_error(owner, "facets", "a non-empty list of str", facets)
    facets = [one_line(owner, "facets", one) for one in facets]
    if len(set(facets)) < len(facets):
        raise parameter_error(owner, "facets", "names that differ", facets)
    check_number(owner, "n_repeats", n_repeats, low=1, integer=True)
    if not isinstance(technical, bool):
        raise parameter_error(owner, "technical", "True or False", technical)
    prompts = {
        (one.key, facet): phrases_prompt(domain, spelled(one), facet, technical)
        for one in classes
        for facet in facets
    }
    if dry_run:
        return list(prompts.values())
    check_asking(owner, prices, max_retries, max_reasks)
    client = as_client(client, owner)
    questions = [
        Question(prompt, subject, repeat)
        for subject, prompt in prompts.items()
        for repeat in range(n_repeats)
    ]
    interview = ask_all(
        questions, client, Phrases, checkpoint=checkpoint, max_retries=max_retries,
        max_reasks=max_reasks, random_state=random_state, verbose=verbose,
    )  # fmt: skip
    concepts, dropped = merged(interview.answers, classes, facets)
    if not concepts:
        reasons = [one.reason for one in interview.answers if one.reason]
        raise LanguageModelError(
            f"{client.model!r} gave no phrase that can be used in {len(questions)} answers"
            f"{f'; the first failed so: {reasons[0]}' if reasons else '.'} Try another model."
        )
    level = "specialist" if technical else "general"
    bank = ConceptBank(
        name=domain,
        description=f"Written by the language model {client.model}; not reviewed.",
        classes=classes,
        concepts=concepts,
        facets=[{"name": facet, "level": level} for facet in facets],
        provenance=provenance(client, interview, prompts.values()),
    )
    bare = [one.key for one in classes if not any(one.key in c.classes for c in bank.concepts)]
    if bare:
        warnings.warn(
            f"There is no phrase for {len(bare)} of {len(classes)} classes: {bare}. Give them "
            "other names, or phrases of your own.",
            SkmoecbmWarning,
            stacklevel=2,
        )
    return finish(bank, interview, dropped, prices, checkpoint)


def class_entries(classes, owner):
    """Return a list of `ConceptClass` from what a user may give as classes."""
    if isinstance(classes, ConceptBank):
        classes = classes.classes
    if isinstance(classes, Mapping):
        classes = [{"key": str(key), "name": name} for key, name in classes.items()]
    expected = "a non-empty list of class names, a dict of key -> name or a bank with classes"
    if isinstance(classes, str) or not isinstance(classes, list | tuple) or not classes:
        raise parameter_error(owner, "classes", expected, classes)
    entries = []
    for one in classes:
        if not isinstance(one, ConceptClass):
            one = one if isinstance(one, dict) else {"key": str(one)}
            for text in one.values():
                one_line(owner, "classes", text)
            one = ConceptClass(**one)
        entries.append(one)
    if len({one.key for one in entries}) < len(entries):
        raise parameter_error(owner, "classes", "names that differ", [one.key for one in entries])
    # The bank's own rules on spellings, before anything is asked and paid for.
    ConceptBank(name="classes", classes=entries, concepts=[{"text": "any"}])
    return entries


def one_line(owner, name, text):
    """Return a text without the spaces around it; raise where it is empty or has several lines."""
    if not isinstance(text, str) or not text.strip() or len(text.split("\n")) > 1:
        raise parameter_error(owner, name, "non-empty text of one line", text)
    return text.strip()


def check_asking(owner, prices, max_retries, max_reasks):
    """Raise unless the parameters of the asking are well-formed."""
    check_number(owner, "max_retries", max_retries, low=0, integer=True)
    check_number(owner, "max_reasks", max_reasks, low=0, integer=True)
    if prices is not None:
        if not isinstance(prices, list | tuple) or len(prices) != 2:
            raise parameter_error(
                owner, "prices", "two prices per million tokens: of prompts and of answers", prices
            )
        for price in prices:
            check_number(owner, "prices", price, low=0)


def provenance(client, interview, prompts):
    """Return the fields of a bank's `Provenance`: who was asked what, and with what success."""
    settings = client.settings()
    formats = sorted({one.response_format for one in interview.answers})
    failed = sum(one.reason is not None for one in interview.answers)
    at = f" at {client.place}" if client.place else ""
    told = [f"asked by {settings.pop('client')}{at}"]
    settings.pop("model")
    told += [f"{name} {value}" for name, value in settings.items() if value is not None]
    told += [f"response_format {' and '.join(formats)}"]
    told += [f"{len(interview.answers) - failed} of {len(interview.answers)} answers could be used"]
    return {
        "model": client.model,
        "prompts": list(dict.fromkeys(prompts)),
        "date": max(one.date for one in interview.answers)[:10],
        "note": "; ".join(told),
    }


def finish(bank, interview, dropped, prices, checkpoint):
    """Return the `Generation`; warn once where answers failed."""
    usage = Usage.of(interview.records, prices)
    made = Generation(bank, interview.answers, tuple(dropped), usage, interview.resumed)
    if made.failures:
        first = made.failures[0]
        remedy = (
            f"Call again with checkpoint={str(checkpoint)!r} to ask them again"
            if checkpoint is not None
            else "Give checkpoint= a path, so that another call asks only them again"
        )
        warnings.warn(
            f"{len(made.failures)} of {len(made.answers)} questions have no answer that can be "
            f"used, the first about {' / '.join(first.subject)}: {first.reason} {remedy}; all are "
            "in `failures`.",
            SkmoecbmWarning,
            stacklevel=3,
        )
    return made


def spelled(one):
    """Return how a class is called in a prompt."""
    others = [s for s in (one.key, *one.synonyms) if folded(s) != folded(one.name)]
    others = [s for s in others if not s.isdigit()]
    return f"{one.name} (also called {', '.join(others)})" if others else one.name
