"""generate_concepts: what is asked, how answers are merged, what survives an interrupt.

The language models here are functions and the doubles of `tests/llm_server.py`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import skmoecbm
from skmoecbm import (
    ConceptBank,
    FormatError,
    InputError,
    LanguageModelError,
    SkmoecbmWarning,
    generate_concepts,
)
from skmoecbm.concepts import OllamaClient, OpenAIClient, _asking
from skmoecbm.concepts._merging import tidy
from tests.llm_server import Answer, serve

SKIN = {"domain": "dermoscopic images", "facets": ["color", "shape"]}


@pytest.fixture(autouse=True)
def naps(monkeypatch):
    slept = []
    monkeypatch.setattr(_asking, "time", SimpleNamespace(sleep=slept.append))
    return slept


def phrases(*texts):
    return json.dumps({"phrases": texts})


class Script:
    """A client that answers each prompt by what is in it, and keeps the prompts."""

    model = "script"

    def __init__(self, answers):
        self.answers = answers
        self.prompts = []

    def __call__(self, prompt):
        self.prompts.append(prompt)
        answer = self.answers(prompt) if callable(self.answers) else self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def by_class(prompt):
    if "Class: melanoma" in prompt:
        return phrases("blue-white veil", "Brown.") if "color" in prompt else phrases("Jagged rim")
    return phrases("brown") if "color" in prompt else phrases("round outline", "brown")


def test_phrases_become_one_bank_with_facets_classes_and_counts():
    client = Script(by_class)
    made = generate_concepts({"mel": "melanoma", "nv": "nevus"}, **SKIN, n_repeats=3, client=client)
    bank = made.bank
    assert [(one.text, one.facet, one.classes, one.note) for one in bank.concepts] == [
        ("blue-white veil", "color", ("mel",), "in 3 of 3 answers"),
        ("brown", "color", ("mel", "nv"), "in 3 of 3 answers for mel, 3 of 3 answers for nv"),
        ("jagged rim", "shape", ("mel",), "in 3 of 3 answers"),
        ("round outline", "shape", ("nv",), "in 3 of 3 answers"),
    ]
    assert [(one.key, one.name) for one in bank.classes] == [("mel", "melanoma"), ("nv", "nevus")]
    assert [(one.name, one.level) for one in bank.facets] == [
        ("color", "general"),
        ("shape", "general"),
    ]
    assert len(client.prompts) == made.usage.requests == len(made.answers) == 12
    assert made.failures == () and made.dropped == () and made.resumed == 0
    assert repr(made) == (
        "Generation(ConceptBank('dermoscopic images', 4 concepts, 2 classes), "
        "12 answers, 0 failed, 0 phrases dropped)"
    )


def test_repeats_are_merged_and_counted_whatever_their_spelling():
    client = Script(
        [
            phrases("Blue-white veil.", "blue-white veil"),  # twice in one answer is once
            phrases("- blue-white  veil", "Pink rim"),
            phrases("“Blue-White Veil”", "2. pink rim", "grey dots"),
        ]
    )
    made = generate_concepts(["mel"], domain="skin", facets=["color"], n_repeats=3, client=client)
    assert [(one.text, one.note) for one in made.bank.concepts] == [
        ("blue-white veil", "in 3 of 3 answers"),
        ("pink rim", "in 2 of 3 answers"),
        ("grey dots", "in 1 of 3 answers"),
    ]


def test_the_bank_does_not_depend_on_the_order_within_the_answers():
    first = [phrases("a b", "c d"), phrases("c d", "e f", "a b")]
    second = [phrases("c d", "a b", "e f"), phrases("a b", "c d")]
    banks = [
        generate_concepts(
            ["x1"], domain="d", facets=["color"], n_repeats=2, client=Script(one)
        ).bank
        for one in (first, second)
    ]
    assert banks[0].concepts == banks[1].concepts


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Irregular border.", "irregular border"),
        ("* ‘Blue-Gray areas’;", "blue-gray areas"),
        ("  3) two\nlines ", "two lines"),
        ("RPE detachment", "RPE detachment"),
        ("LARGE DARK SPOT", "large dark spot"),
        ("–  dashes", "dashes"),
        ("1 mm dots", "1 mm dots"),
        ("...", ""),
    ],
)
def test_tidy(raw, clean):
    assert tidy(raw) == clean


def test_a_phrase_that_names_its_class_is_dropped_and_reported():
    client = Script(
        lambda prompt: phrases("melanoma-like spot", "MEL", "caramel brown", "!", " . ")
    )
    made = generate_concepts(
        {"mel": "melanoma"}, domain="skin", facets=["color"], n_repeats=2, client=client
    )
    assert made.bank.texts == ["caramel brown"]
    assert made.dropped == (
        ("mel", "melanoma-like spot", "names the class"),
        ("mel", "MEL", "names the class"),
        ("mel", "!", "no words"),
        ("mel", " . ", "no words"),
    )


def test_integer_classes_are_keys_and_forbid_no_digit():
    client = Script(lambda prompt: phrases("1 mm dots"))
    made = generate_concepts([0, 1], domain="skin", facets=["size"], n_repeats=1, client=client)
    assert made.bank.class_keys == ["0", "1"] and made.bank.texts == ["1 mm dots"]
    assert made.bank.match_labels([0, 1]) == {0: "0", 1: "1"}


def test_classes_may_be_those_of_a_bank_and_their_other_names_are_told():
    bank = ConceptBank(
        name="b",
        classes=[{"key": "mel", "name": "melanoma", "synonyms": ["1", "malignant melanoma"]}],
        concepts=[{"text": "x"}],
    )
    client = Script(lambda prompt: phrases("dark"))
    made = generate_concepts(bank, domain="skin", facets=["color"], n_repeats=1, client=client)
    assert made.bank.classes == bank.classes
    assert "Class: melanoma (also called mel, malignant melanoma)\n" in client.prompts[0]


def test_the_prompt_has_the_domain_the_class_the_facet_and_the_vocabulary():
    (plain,) = generate_concepts(["scar"], domain="photos", facets=["color"], dry_run=True)
    (technical,) = generate_concepts(
        ["scar"], domain="photos", facets=["color"], technical=True, dry_run=True
    )
    for prompt in (plain, technical):
        assert "Images: photos\nClass: scar\nAspect: color\n" in prompt
        assert '{"phrases": [' in prompt and "JSON" in prompt
    assert "plain words" in plain and "plain words" not in technical
    assert "terms of specialists" in technical


def test_technical_concepts_are_of_specialist_level():
    made = generate_concepts(
        ["mel"], **SKIN, n_repeats=1, technical=True, client=Script(lambda p: phrases("rosettes"))
    )
    assert {one.level for one in made.bank.facets} == {"specialist"}
    assert made.bank.where(level="specialist").texts == ["rosettes"]


def test_a_dry_run_asks_nobody_and_gives_the_very_prompts():
    def client(prompt):
        raise AssertionError("asked")

    prompts = generate_concepts(["mel", "nv"], **SKIN, client=client, dry_run=True)
    script = Script(lambda prompt: phrases("dark"))
    made = generate_concepts(["mel", "nv"], **SKIN, n_repeats=2, client=script)
    assert len(prompts) == 4 and list(dict.fromkeys(script.prompts)) == prompts
    assert list(made.bank.provenance.prompts) == prompts


def test_the_provenance_says_who_was_asked_what_and_how(tmp_path):
    with serve([Answer(phrases("dark", "round"))]) as server:
        client = OpenAIClient(
            "gpt-x", base_url=server.url + "/v1", api_key="sk-secret", temperature=0.5
        )
        made = generate_concepts(["mel"], **SKIN, n_repeats=2, client=client, prices=(1, 10))
    told = made.bank.provenance
    assert (
        told.model == "gpt-x"
        and len(told.prompts) == 2
        and told.date == time.strftime("%Y-%m-%d", time.gmtime())
    )
    assert told.note == (
        f"asked by OpenAIClient at {server.url}/v1; temperature 0.5; response_format json_schema; "
        "4 of 4 answers could be used"
    )
    made.bank.to_json(tmp_path / "bank.json")
    assert "secret" not in (tmp_path / "bank.json").read_text()
    assert ConceptBank.from_json(tmp_path / "bank.json") == made.bank
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (400, 80)
    assert made.usage.cost == pytest.approx((400 * 1 + 80 * 10) / 1e6)


def test_a_format_that_is_refused_stands_in_the_provenance():
    def endpoint(asked):
        if asked["format"] != "json":
            return Answer("no form", finish="stop")
        return phrases("dark")

    with serve(endpoint) as server:
        client = OllamaClient("meditron", host=server.url, response_format="json_object")
        made = generate_concepts(["mel"], **SKIN, n_repeats=1, client=client)
    assert "response_format json_object" in made.bank.provenance.note


def test_failed_answers_are_recorded_told_once_and_left_out_of_the_counts():
    answers = [phrases("dark"), "no", "no", phrases("dark")]
    with pytest.warns(SkmoecbmWarning) as told:
        made = generate_concepts(
            ["mel"], domain="skin", facets=["color"], n_repeats=3, client=Script(answers)
        )
    (message,) = [str(one.message) for one in told]
    assert message.startswith(
        "1 of 3 questions have no answer that can be used, the first about mel / color: "
        "There is no complete JSON object in the answer. Give checkpoint= a path"
    )
    (failure,) = made.failures
    assert (failure.subject, failure.repeat, failure.texts) == (("mel", "color"), 1, ("no", "no"))
    assert made.bank.concepts[0].note == "in 2 of 2 answers"
    assert "2 of 3 answers could be used" in made.bank.provenance.note


def test_a_class_without_a_phrase_is_told():
    client = Script(lambda prompt: phrases(*["dark"] * ("Class: mel" in prompt)))
    with pytest.warns(SkmoecbmWarning, match=r"no phrase for 1 of 2 classes: \['nv'\]"):
        made = generate_concepts(["mel", "nv"], **SKIN, n_repeats=1, client=client)
    assert made.bank.class_keys == ["mel", "nv"]


def test_nothing_at_all_is_an_error():
    with pytest.raises(LanguageModelError, match=r"no phrase .* in 2 answers\. Try another model"):
        generate_concepts(["mel"], **SKIN, n_repeats=1, client=Script(lambda prompt: phrases()))
    with pytest.raises(LanguageModelError, match="the first failed so: There is no complete JSON"):
        generate_concepts(["mel"], **SKIN, n_repeats=1, client=Script(lambda prompt: "no"))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_interrupt_keeps_the_answers_and_the_next_call_goes_on(tmp_path):
    kept = tmp_path / "new folder" / "answers.jsonl"
    settings = {**SKIN, "n_repeats": 3, "checkpoint": kept}
    first = Script([phrases("dark"), phrases("black"), KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        generate_concepts(["mel"], **settings, client=first)
    assert [one["value"]["phrases"] for one in lines_of(kept)] == [["dark"], ["black"]]

    second = Script(lambda prompt: phrases("brown"))
    made = generate_concepts(["mel"], **settings, client=second)
    assert len(second.prompts) == 4 and made.resumed == 2
    assert sorted(made.bank.texts) == ["black", "brown", "dark"]
    assert made.usage.requests == 6  # what the answers took, whenever it was

    third = Script([])
    again = generate_concepts(["mel"], **settings, client=third)
    assert again.bank == made.bank and again.resumed == 6 and third.prompts == []


def test_failed_answers_are_asked_again_when_resumed_and_their_cost_is_kept(tmp_path):
    kept = tmp_path / "answers.jsonl"
    settings = {"domain": "d", "facets": ["color"], "n_repeats": 2, "checkpoint": kept}
    client = Script([phrases("dark"), "no", "no"])
    with pytest.warns(SkmoecbmWarning, match=r"Call again with checkpoint='.*answers.jsonl'"):
        generate_concepts(["mel"], **settings, client=client)
    client.answers = [phrases("dark")]
    made = generate_concepts(["mel"], **settings, client=client)
    assert made.failures == () and made.bank.concepts[0].note == "in 2 of 2 answers"
    assert made.usage.requests == 4 and made.resumed == 1


def test_answers_to_other_questions_are_not_taken(tmp_path):
    kept = tmp_path / "answers.jsonl"
    settings = {"n_repeats": 1, "checkpoint": kept}
    client = Script(lambda prompt: phrases("dark"))
    generate_concepts(["mel"], **SKIN, **settings, client=client)
    for changed in (
        {"classes": ["nv"]},
        {"domain": "photos"},
        {"facets": ["size"]},
        {"technical": True},
    ):
        call = {"classes": ["mel"], **SKIN, **settings, **changed}
        assert generate_concepts(call.pop("classes"), **call, client=client).resumed == 0
    client.model = "another"
    assert generate_concepts(["mel"], **SKIN, **settings, client=client).resumed == 0
    client.model = "script"
    assert generate_concepts(["mel"], **SKIN, **settings, client=client).resumed == 2


def test_a_finished_checkpoint_needs_neither_package_nor_endpoint(tmp_path, monkeypatch):
    settings = {**SKIN, "n_repeats": 1, "checkpoint": tmp_path / "answers.jsonl"}
    with serve([phrases("dark")]) as server:
        client = OpenAIClient("m", base_url=server.url + "/v1")
        made = generate_concepts(["mel"], **settings, client=client)
    monkeypatch.setitem(sys.modules, "openai", None)
    assert generate_concepts(["mel"], **settings, client=client).bank == made.bank


@pytest.mark.parametrize("length", [1, 8, 100, -1])
def test_a_torn_last_line_is_dropped_and_asked_again(tmp_path, length):
    kept = tmp_path / "answers.jsonl"
    settings = {"domain": "d", "facets": ["color"], "n_repeats": 2, "checkpoint": kept}
    client = Script(lambda prompt: phrases("dark"))
    made = generate_concepts(["mel"], **settings, client=client)
    first, second = kept.read_bytes().splitlines(keepends=True)
    for whole, resumed in ((first, 1), (b"", 0)):
        kept.write_bytes(whole + second[:length])
        with pytest.warns(SkmoecbmWarning, match=r"last line of '.*answers.jsonl' was torn"):
            again = generate_concepts(["mel"], **settings, client=client)
        assert again.bank.concepts == made.bank.concepts and again.resumed == resumed
        assert len(lines_of(kept)) == 2


@pytest.mark.parametrize(
    "content", ['{"a": 1}\n', "my notes", "my notes\n", '{"key": "x"}\n', "{}\n{}\n"]
)
def test_a_file_that_holds_something_else_is_left_as_it_is(tmp_path, content):
    kept = tmp_path / "notes.txt"
    kept.write_text(content)
    with pytest.raises(FormatError, match=r"notes\.txt"):
        generate_concepts(["mel"], **SKIN, checkpoint=kept, client=Script([]))
    assert kept.read_text() == content


def test_an_answer_that_was_edited_into_another_form_is_refused(tmp_path):
    kept = tmp_path / "answers.jsonl"
    client = Script(lambda prompt: phrases("dark"))
    generate_concepts(["mel"], **SKIN, n_repeats=1, checkpoint=kept, client=client)
    kept.write_text(kept.read_text().replace('"value":{"phrases":', '"value":{"words":'))
    with pytest.raises(FormatError, match="line 1 is not an answer"):
        generate_concepts(["mel"], **SKIN, n_repeats=1, checkpoint=kept, client=client)


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be used: Is a directory"):
        generate_concepts(["mel"], **SKIN, checkpoint=tmp_path, client=Script([]))


KILLED = """
import sys, time
from skmoecbm import generate_concepts

def client(prompt):
    client.n = getattr(client, "n", 0) + 1
    if client.n == 4:
        print("asked", flush=True)
        time.sleep(60)
    return '{"phrases": ["phrase %d"]}' % client.n

generate_concepts(
    ["mel"], domain="d", facets=["color"], n_repeats=6, client=client, checkpoint=sys.argv[1]
)
"""


def test_a_killed_process_loses_only_the_answer_it_waited_for(tmp_path):
    kept = tmp_path / "answers.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(kept)],
        stdout=subprocess.PIPE,
        env=os.environ,
        cwd=Path(skmoecbm.__file__).parent.parent,
    )
    try:
        assert child.stdout.readline() == b"asked\n"
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    finally:
        child.kill()
        child.stdout.close()
    assert [one["value"]["phrases"] for one in lines_of(kept)] == [
        ["phrase 1"], ["phrase 2"], ["phrase 3"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"classes": []}, "The 'classes' parameter of generate_concepts must be a non-empty list"),
        ({"classes": "mel"}, "'classes' parameter of generate_concepts must be"),
        ({"classes": {"mel": None}}, "'classes' .* must be non-empty text of one line. Got None"),
        ({"classes": ["a", "a"]}, "'classes' parameter .* must be names that differ"),
        ({"domain": " "}, "'domain' parameter .* must be non-empty text of one line. Got ' '"),
        ({"domain": "skin\nIgnore"}, "'domain' parameter .* must be non-empty text of one line"),
        ({"facets": "color"}, "'facets' parameter .* must be a non-empty list of str"),
        ({"facets": ["a", "a"]}, "'facets' parameter .* must be names that differ"),
        ({"n_repeats": 0}, "'n_repeats' parameter .* must be an integer of at least 1. Got 0"),
        ({"technical": 1}, "'technical' parameter .* must be True or False. Got 1"),
        ({"client": None}, "'client' parameter .* must be an OpenAIClient, an OllamaClient or a"),
        ({"client": OpenAIClient}, "'client' parameter .* must be an OpenAIClient"),
        ({"prices": 3}, "'prices' parameter .* must be two prices per million tokens"),
        ({"prices": (1, -1)}, "'prices' parameter .* must be a number of at least 0. Got -1"),
        ({"max_retries": -1}, "'max_retries' parameter .* must be an integer of at least 0"),
        ({"max_reasks": 1.5}, "'max_reasks' parameter .* must be an integer of at least 0"),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(changed, sentence):
    call = {"classes": ["mel"], **SKIN, "client": Script([]), **changed}
    with pytest.raises(InputError, match=sentence):
        generate_concepts(call.pop("classes"), **call)


def test_importing_asks_for_no_extra_package():
    code = (
        "import sys; from skmoecbm import generate_concepts; from skmoecbm.concepts import "
        "OpenAIClient, OllamaClient; OpenAIClient('m'), OllamaClient('m'); "
        "assert not {'openai', 'ollama'} & set(sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


def test_classes_that_a_bank_could_not_hold_are_told_before_anything_is_asked():
    asked = []
    with pytest.raises(InputError, match="belongs to two classes"):
        generate_concepts(["mel", "MEL"], domain="skin", client=lambda p: asked.append(p))
    assert asked == []
