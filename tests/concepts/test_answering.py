"""answer_concepts: which concepts speak for and against which class.

The language models here are functions and the double of `tests/llm_server.py`.
"""

import json
import re

import pytest

from skmoecbm import ConceptBank, InputError, LanguageModelError, SkmoecbmWarning, answer_concepts
from skmoecbm.concepts import OllamaClient
from tests.llm_server import serve

BANK = ConceptBank(
    name="skin",
    classes=[{"key": "mel", "name": "melanoma"}, {"key": "nv", "synonyms": ["nevus"]}],
    concepts=[
        {"text": "dark", "classes": ["nv"], "phrases": ["black"]},
        {"text": "round", "against": ["mel"]},
        {"text": "hair", "classes": ["mel"], "against": ["nv"]},
    ],
    provenance={"model": "first", "prompts": ["what?"], "author": "A. Uthor", "date": "2025-01-01"},
)
TABLE = {
    "melanoma": {"dark": "yes", "round": "no", "hair": "unknown"},
    "nv": {"dark": "unknown", "round": "yes", "hair": "unknown"},
}


def answers(*words):
    told = [{"number": i, "answer": word} for i, word in enumerate(words, start=1)]
    return json.dumps({"answers": told})


def by_table(prompt):
    name = re.search(r"Class: (\w+)", prompt)[1]
    return answers(*(TABLE[name][text] for text in re.findall(r"^\d+\. (.*)$", prompt, re.M)))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 20])
def test_yes_is_for_no_is_against_and_unknown_is_neither(batch_size):
    made = answer_concepts(BANK, domain="skin", client=by_table, batch_size=batch_size)
    assert made.bank.answers.tolist() == [[1, 0], [-1, 1], [0, 0]]
    assert made.bank.texts == BANK.texts and made.bank.concepts[0].phrases == ("black",)
    assert made.usage.requests == 2 * -(-3 // batch_size)
    assert ConceptBank(**made.bank.model_dump()) == made.bank


def test_where_no_answer_can_be_used_what_stood_there_stays():
    def client(prompt):
        return by_table(prompt) if "Class: melanoma" in prompt else "no"

    with pytest.warns(SkmoecbmWarning, match="1 of 2 questions .* nv / concepts 1 to 3"):
        made = answer_concepts(BANK, domain="skin", client=client)
    assert made.bank.answers.tolist() == [[1, 1], [-1, 0], [0, -1]]


def test_an_answer_for_other_numbers_is_asked_for_again():
    given = [answers("yes", "no"), answers("yes", "no", "no"), answers("no", "no", "no")]
    prompts = []

    def client(prompt):
        prompts.append(prompt)
        return given[len(prompts) - 1]

    made = answer_concepts(BANK, domain="skin", client=client)
    assert "There must be one answer for each number from 1 to 3." in prompts[1]
    assert made.bank.answers.tolist() == [[1, -1], [-1, -1], [-1, -1]]


def test_a_word_that_is_none_of_the_three_is_no_answer():
    with pytest.raises(LanguageModelError, match="no answer that can be used"):
        answer_concepts(BANK, domain="skin", client=lambda prompt: answers("yes", "maybe", "no"))


def test_both_makers_of_the_bank_are_in_its_provenance():
    with serve(lambda asked: by_table(asked["messages"][0]["content"])) as server:
        client = OllamaClient("second", host=server.url)
        bank = answer_concepts(BANK, domain="skin", client=client).bank
    told = bank.provenance
    assert (told.author, told.model) == ("A. Uthor", "first, second")
    assert told.prompts[0] == "what?" and len(told.prompts) == 3
    assert told.date.startswith("2025-01-01, ") and "asked by OllamaClient" in told.note
    prompts = answer_concepts(BANK, domain="skin", dry_run=True)
    assert list(told.prompts[1:]) == prompts
    assert "Class: nv (also called nevus)\n" in prompts[1]


def test_an_interrupted_call_goes_on(tmp_path):
    def interrupted(prompt):
        if "Class: nv" in prompt:
            raise KeyboardInterrupt
        return by_table(prompt)

    client, kept = interrupted, tmp_path / "answers.jsonl"
    client.model = by_table.model = "m"
    try:
        with pytest.raises(KeyboardInterrupt):
            answer_concepts(BANK, domain="skin", client=client, checkpoint=kept)
        made = answer_concepts(BANK, domain="skin", client=by_table, checkpoint=kept)
    finally:
        del by_table.model
    assert made.resumed == 1 and made.bank.answers.tolist() == [[1, 0], [-1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"concepts": ["a"]}, "'concepts' parameter of answer_concepts must be a bank with at"),
        ({"domain": ""}, "'domain' parameter of answer_concepts must be non-empty text"),
        ({"batch_size": 0}, "'batch_size' parameter of answer_concepts must be an integer of at"),
        ({"client": 3}, "'client' parameter of answer_concepts must be an OpenAIClient"),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(changed, sentence):
    call = {"concepts": BANK, "domain": "skin", "client": by_table, **changed}
    with pytest.raises(InputError, match=sentence):
        answer_concepts(call.pop("concepts"), **call)
