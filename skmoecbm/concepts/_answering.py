"""Which concepts speak for and against which class, as a language model answers it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from skmoecbm._validation import check_number, parameter_error
from skmoecbm.concepts._asking import Question, ask_all
from skmoecbm.concepts._clients import as_client
from skmoecbm.concepts._generate import check_asking, finish, one_line, provenance, spelled
from skmoecbm.concepts._library import as_bank
from skmoecbm.concepts._parts import Provenance
from skmoecbm.concepts._prompts import answers_prompt
from skmoecbm.concepts._replies import AnswerError, AnswerModel
from skmoecbm.exceptions import LanguageModelError

__all__ = ["answer_concepts"]


class One(BaseModel):
    """The answer for one feature, by its number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    answer: Literal["yes", "no", "unknown"]


class Answers(AnswerModel):
    """For each feature, whether it is typically seen."""

    answers: list[One]


def answer_concepts(
    concepts,
    *,
    domain,
    batch_size=20,
    client=None,
    checkpoint=None,
    prices=None,
    max_retries=4,
    max_reasks=1,
    random_state=None,
    dry_run=False,
    verbose=0,
):
    """Ask a language model which concepts speak for and against which class.

    Each class is asked about once for each batch of concepts. "Yes" puts the class into the
    concept's `classes`, "no" into its `against`, "unknown" into neither, whatever stood there
    before; where there is no answer that can be used, what stood there stays. No image is sent
    anywhere. The answers are a model's: read them before trusting them.

    Parameters
    ----------
    concepts : ConceptBank, or what `as_bank` makes one of
        With at least one class.
    domain : str
        What the images are: "dermoscopic images of skin lesions".
    batch_size : int, default=20
        Concepts in one prompt.
    client, checkpoint, prices, max_retries, max_reasks, random_state, dry_run, verbose
        As for `generate_concepts`.

    Returns
    -------
    Generation, or list of str where `dry_run`
        Its bank has the same concepts in the same order.

    Raises
    ------
    InputError
        If a parameter is not what it must be.
    LanguageModelError
        If a package or key is missing, the endpoint refuses the request or is gone, or no answer
        can be used.

    Warns
    -----
    SkmoecbmWarning
        If some questions have no answer that can be used.

    References
    ----------
    Yang et al., "A Textbook Remedy for Domain Shifts: Knowledge Priors for Medical Image
    Analysis", NeurIPS 2024 (answers of a language model as a prior).

    Examples
    --------
    >>> from skmoecbm.concepts import answer_concepts
    >>> def client(prompt):  # any language model of yours
    ...     dark = "yes" if "Class: mel" in prompt else "no"
    ...     return '{"answers": [{"number": 1, "answer": "%s"}]}' % dark
    >>> made = answer_concepts({"mel": ["dark"], "nv": []}, domain="skin lesions", client=client)
    >>> made.bank.answers.tolist()
    [[1, -1]]
    """
    owner = "answer_concepts"
    bank = as_bank(concepts)
    if not bank.classes:
        raise parameter_error(owner, "concepts", "a bank with at least one class", bank)
    domain = one_line(owner, "domain", domain)
    check_number(owner, "batch_size", batch_size, low=1, integer=True)
    numbers = range(0, len(bank), batch_size)
    batches = {f"concepts {i + 1} to {min(i + batch_size, len(bank))}": i for i in numbers}
    questions = [
        Question(
            answers_prompt(domain, spelled(one), bank.texts[start : start + batch_size]),
            (one.key, batch),
        )
        for one in bank.classes
        for batch, start in batches.items()
    ]
    if dry_run:
        return [question.prompt for question in questions]
    check_asking(owner, prices, max_retries, max_reasks)
    client = as_client(client, owner)

    def check(question, read):
        start = batches[question.subject[1]]
        wanted = list(range(1, len(bank.texts[start : start + batch_size]) + 1))
        if sorted(one.number for one in read.answers) != wanted:
            raise AnswerError(f"There must be one answer for each number from 1 to {wanted[-1]}.")

    interview = ask_all(
        questions, client, Answers, check=check, checkpoint=checkpoint, max_retries=max_retries,
        max_reasks=max_reasks, random_state=random_state, verbose=verbose,
    )  # fmt: skip
    failed = [one.reason for one in interview.answers if one.reason]
    if len(failed) == len(interview.answers):
        raise LanguageModelError(
            f"{client.model!r} gave no answer that can be used; the first failed so: {failed[0]} "
            "Try another model."
        )
    told = {}
    for answer in interview.answers:
        key, batch = answer.subject
        for one in (answer.value or {"answers": ()})["answers"]:
            told[batches[batch] + one["number"] - 1, key] = one["answer"]
    filled = bank.model_copy(
        update={
            "concepts": tuple(
                _filled(concept, {key: told.get((i, key)) for key in bank.class_keys})
                for i, concept in enumerate(bank.concepts)
            ),
            "provenance": _joined(
                bank.provenance,
                provenance(client, interview, [question.prompt for question in questions]),
            ),
        }
    )
    return finish(filled, interview, (), prices, checkpoint)


def _filled(concept, told):
    """Return a concept with the answers in it; None leaves a class as it stands."""
    classes = [k for k, v in told.items() if v == "yes" or (v is None and k in concept.classes)]
    against = [k for k, v in told.items() if v == "no" or (v is None and k in concept.against)]
    return concept.model_copy(update={"classes": tuple(classes), "against": tuple(against)})


def _joined(old, new):
    """Return the provenance of the phrases and that of the answers as one."""
    joined = {
        name: ", ".join(dict.fromkeys(filter(None, [getattr(old, name), new[name]])))
        for name in ("model", "date")
    }
    note = "; ".join(filter(None, [old.note, f"classes of the concepts {new['note']}"]))
    prompts = (*old.prompts, *new["prompts"])
    return Provenance(**{**old.model_dump(), **joined, "note": note, "prompts": prompts})
