"""Reading the answers of models that think aloud, wrap their JSON, or write it badly.

The texts were written by hand in the manner of deepseek-r1 and meditron; no model gave them.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skmoecbm.concepts._replies import AnswerError, AnswerModel, read_answer


class Phrases(AnswerModel):
    phrases: list[str]


def read(text):
    return read_answer(text, Phrases).phrases


DEEPSEEK = """<think>
Okay, the user wants phrases for the color of melanoma. An answer has the form {"phrases": [...]}.
Maybe {"phrases": ["brown"]}? No, melanoma has several colors, so I should list them.
</think>

```json
{
  "phrases": [
    "several shades of brown",
    "blue-gray areas"
  ]
}
```"""

MEDITRON = """Sure, here is the answer to your question.

{'phrases': ['asymmetric brown patch', 'black dots at the rim',]}

### Input: What is"""


def test_the_thinking_of_deepseek_r1_is_cut_off_and_its_fence_is_opened():
    assert read(DEEPSEEK) == ["several shades of brown", "blue-gray areas"]
    # its template may have opened the thought itself
    assert read(DEEPSEEK.removeprefix("<think>")) == ["several shades of brown", "blue-gray areas"]


def test_a_thought_that_does_not_end_is_no_answer():
    with pytest.raises(AnswerError, match="still thinking"):
        read(DEEPSEEK.partition("</think>")[0])


def test_single_quotes_a_last_comma_and_prose_of_meditron_are_forgiven():
    assert read(MEDITRON) == ["asymmetric brown patch", "black dots at the rim"]


@pytest.mark.parametrize(
    "text",
    [
        '{"phrases": ["a", "b"]}',
        '  {"phrases": ["a", "b"]}\n',
        'Here you are: {"phrases": ["a", "b"]} I hope it helps {really}.',
        '```\n{"phrases": ["a", "b"]}\n```',
        '``` json\n{"phrases": ["a", "b"]}\n```\nIs there more {to do}?',
        "{'phrases': ['a', \"b\"]}",
        '{"phrases": ["a", "b",],}',
        '{"phrases": ["a", "b"]}\n{"phrases": ["a", "b"]}',
        '{"note": "in this form"} {"phrases": ["a", "b"]}',
    ],
)
def test_forms_that_are_read(text):
    assert read(text) == ["a", "b"]


def test_a_phrase_keeps_braces_quotes_and_apostrophes():
    assert read('{"phrases": ["crow\'s feet {fine}", "a \\"halo\\""]}') == [
        "crow's feet {fine}",
        'a "halo"',
    ]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", "empty"),
        ("<think>hm</think>", "empty"),
        ("I cannot say.", "no complete JSON object"),
        ('{"phrases": ["a", "b', "no complete JSON object"),
        ('{"phrases": ["a"]', "no complete JSON object"),
        ("{'phrases': ['crow's feet']}", "no complete JSON object"),
        ('["a", "b"]', "no complete JSON object"),
        ('{"phrases": "a"}', "phrases: Input should be a valid list"),
        ('{"phrases": [1]}', "valid string"),
        ('{"words": ["a"]}', "words is not a known field"),
        ("{}", "phrases is missing"),
        ('{"phrases": ["a"]} or {"phrases": ["b"]}', "several JSON objects"),
        ('{"answer": {"phrases": ["a"]}}', "answer is not a known field"),
        ("{" * 5000, "no complete JSON object"),
        ("{" + "[" * 90_000 + "}", "no complete JSON object"),
        ("{'phrases': [" + "-" * 90_000 + "1]}", "no complete JSON object"),
        ("x" * 200_001, "200001 characters"),
    ],
)
def test_what_is_not_an_answer_says_why(text, finding):
    with pytest.raises(AnswerError, match=finding):
        read(text)


def test_an_inner_object_of_a_broken_one_is_not_the_answer():
    with pytest.raises(AnswerError):
        read('{"draft": {"phrases": ["a"]}, "phrases": ["b", ')


@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_phrases_survive_json(phrases):
    import json

    for text in (json.dumps({"phrases": phrases}), json.dumps({"phrases": phrases}, indent=1)):
        # the marks of thoughts and fences are the one thing that phrases cannot hold
        if not any(mark in text for mark in ("think>", "```")):
            assert read(text) == phrases
            assert read(f"Answer: {text}") == phrases


@given(st.text(max_size=200))
def test_no_text_raises_anything_else(text):
    try:
        read(text)
    except AnswerError:
        pass
