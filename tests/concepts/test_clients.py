"""The clients, with the real packages openai and ollama, against doubles of the endpoints.

The doubles (`tests/llm_server.py`) speak the wire formats; no model is behind them.
"""

import pickle
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import numpy as np
import pytest

from skmoecbm import InputError, LanguageModelError, SkmoecbmWarning
from skmoecbm.concepts import OllamaClient, OpenAIClient, _asking
from skmoecbm.concepts._asking import Question, ask_all
from skmoecbm.concepts._clients import FunctionClient
from skmoecbm.concepts._faults import retry_after_of
from skmoecbm.concepts._replies import AnswerModel
from tests.llm_server import (
    Answer,
    Body,
    BrokenStream,
    CutBody,
    ErrorInStream,
    HalfLine,
    NoChoices,
    Slow,
    Status,
    serve,
)

GOOD = '{"words": ["red"]}'


class Words(AnswerModel):
    words: list[str]


def make(kind, server, **settings):
    settings = {"timeout": 0.3, **settings}
    if kind == "openai":
        return OpenAIClient("double", base_url=server.url + "/v1", **settings)
    return OllamaClient("double", host=server.url, **settings)


@pytest.fixture(params=["openai", "ollama"])
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OLLAMA_HOST", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def naps(monkeypatch):
    """Seconds that would have been slept."""
    slept = []
    monkeypatch.setattr(_asking, "time", SimpleNamespace(sleep=slept.append))
    return slept


def ask(client, n=1, **settings):
    questions = [Question("Name a colour.", ("sky", "colour"), i) for i in range(n)]
    return ask_all(questions, client, Words, random_state=0, **settings)


def test_an_answer_comes_with_its_tokens(kind):
    with serve([GOOD]) as server:
        (answer,) = ask(make(kind, server)).answers
    assert answer.value == {"words": ["red"]} and answer.reason is None
    assert (answer.prompt_tokens, answer.completion_tokens, answer.uncounted) == (100, 20, 0)
    assert (answer.requests, answer.texts) == (1, (GOOD,))


def test_the_schema_and_settings_go_out_with_the_request(kind):
    with serve([GOOD]) as server:
        ask(make(kind, server, temperature=0.7, max_tokens=50))
    (sent,) = server.requests
    assert sent["model"] == "double"
    assert sent["messages"] == [{"role": "user", "content": "Name a colour."}]
    schema = Words.model_json_schema()
    assert schema["additionalProperties"] is False
    if kind == "openai":
        assert sent["response_format"]["json_schema"]["schema"] == schema
        assert sent["response_format"]["json_schema"]["strict"] is True
        assert (sent["temperature"], sent["max_tokens"]) == (0.7, 50)
    else:
        assert sent["format"] == schema
        assert sent["options"] == {"temperature": 0.7, "num_predict": 50}


def test_settings_that_are_not_given_are_not_sent(kind):
    with serve([GOOD]) as server:
        ask(make(kind, server, max_tokens=None))
    (sent,) = server.requests
    assert not {"temperature", "max_tokens", "max_completion_tokens", "think"} & set(sent)
    assert sent.get("options", {}) == {}


def test_openai_itself_is_given_the_new_name_of_the_limit():
    options = OpenAIClient("m", max_tokens=5)._options(Words.model_json_schema(), "text")
    assert options == {"max_completion_tokens": 5}


def test_a_busy_endpoint_is_asked_again_after_the_time_it_says(kind, naps):
    with serve([Status(429, headers={"Retry-After": "7"}), GOOD]) as server:
        (answer,) = ask(make(kind, server)).answers
    assert naps == [7.0]
    assert answer.requests == len(server.requests) == 2
    assert answer.value == {"words": ["red"]}


def test_a_time_that_is_too_long_to_wait_is_an_error(kind, naps):
    with (
        serve([Status(429, headers={"Retry-After": "86400"})]) as server,
        pytest.raises(LanguageModelError, match="asks to wait 86400 s"),
    ):
        ask(make(kind, server))
    assert naps == []


def test_retry_after_may_be_a_date():
    then = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after_of({"retry-after": format_datetime(then)}) == pytest.approx(30, abs=2)
    assert retry_after_of({"retry-after": format_datetime(then - timedelta(days=1))}) == 0
    assert retry_after_of({"retry-after": "-3"}) == 0
    assert retry_after_of({}) is None
    assert retry_after_of({"retry-after": "soon"}) is None
    assert retry_after_of({"retry-after": "inf"}) is None


FAULTS = {
    "500": Status(500, "oops"),
    "503": Status(503, "loading"),
    "timeout": Slow,
    "broken JSON": Body(b'{"id": "1", "choi'),
    "cut body": CutBody,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_passes_is_tried_again_and_the_wait_doubles(kind, fault, naps):
    with serve([fault, fault, GOOD]) as server:
        (answer,) = ask(make(kind, server)).answers
    assert answer.value == {"words": ["red"]}
    assert answer.requests == len(server.requests) == 3  # no hidden tries of the packages
    assert 0.5 <= naps[0] <= 1 and 1 <= naps[1] <= 2


def test_an_answer_without_choices_is_tried_again():
    with serve([NoChoices, GOOD]) as server:
        (answer,) = ask(make("openai", server)).answers
    assert answer.requests == 2 and answer.value


@pytest.mark.parametrize("fault", [BrokenStream, HalfLine, ErrorInStream])
def test_a_stream_that_ends_early_is_tried_again(fault):
    # the text of the first may be whole: without the last part nobody can know
    with serve([fault, GOOD]) as server:
        (answer,) = ask(make("ollama", server)).answers
    assert answer.requests == 2 and answer.texts == (GOOD,)


def test_waits_are_bounded_and_come_from_random_state(naps):
    with serve([Status(500)] * 9 + [GOOD]) as server:
        ask(make("openai", server), max_retries=9)
    first, naps[:] = list(naps), []
    assert max(first) <= 60 and first[-1] >= 30
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    with serve([Status(500)] * 9 + [GOOD]) as server:
        ask(make("openai", server), max_retries=9)
    assert naps == first
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_an_endpoint_that_never_answers_is_given_up_on(kind):
    with (
        serve([Status(500, "oops")]) as server,
        pytest.raises(LanguageModelError, match=r"does not answer after 3 tries: .*500: oops\.$"),
    ):
        ask(make(kind, server), n=5, max_retries=2)
    assert len(server.requests) == 3


def test_an_endpoint_that_goes_away_is_given_up_on_after_two_questions(tmp_path):
    kept = tmp_path / "answers.jsonl"
    with (
        serve([GOOD, Status(500), Status(500), GOOD]) as server,
        pytest.raises(LanguageModelError, match=r"1 of 5 answers are kept in '.*answers.jsonl'"),
    ):
        ask(make("openai", server), n=5, max_retries=0, checkpoint=kept)
    with (
        serve([GOOD, Status(500)]) as server,
        pytest.raises(LanguageModelError, match="1 of 5 answers were there and are lost"),
    ):
        ask(make("openai", server), n=5, max_retries=0)


def test_one_question_that_gets_no_answer_is_recorded_and_the_next_is_asked():
    with serve([GOOD, Status(500), GOOD]) as server:
        answers = ask(make("openai", server), n=3, max_retries=0).answers
    assert [one.value is not None for one in answers] == [True, False, True]
    assert answers[1].reason.startswith("after 1 tries: it answered with status 500")
    assert (answers[1].requests, answers[1].texts) == (1, ())


def test_nobody_at_the_address_is_told_with_the_address(kind):
    with serve([GOOD]) as server:
        pass  # closed again: nobody listens there now
    with pytest.raises(LanguageModelError, match="does not answer after 1 tries"):
        ask(make(kind, server), max_retries=0)


@pytest.mark.parametrize(
    ("status", "openai_says", "ollama_says"),
    [
        (401, "Check OPENAI_API_KEY", "status 401"),
        (404, "Check the model's name and base_url=", "Run: ollama pull double"),
        (400, "context too long", "context too long"),
    ],
)
def test_a_refused_request_is_an_error_at_once(kind, status, openai_says, ollama_says, naps):
    with (
        serve([Status(status, "context too long")]) as server,
        pytest.raises(LanguageModelError, match=openai_says if kind == "openai" else ollama_says),
    ):
        ask(make(kind, server))
    assert len(server.requests) == 1 and naps == []


def test_a_spent_budget_is_not_waited_for(naps):
    with (
        serve([Status(429, "You exceeded your quota", code="insufficient_quota")]) as server,
        pytest.raises(LanguageModelError, match="budget is spent"),
    ):
        ask(make("openai", server))
    assert naps == []


def test_a_page_instead_of_an_answer_names_the_address():
    with (
        serve([Body(b"<html>hello</html>", "text/html")]) as server,
        pytest.raises(LanguageModelError, match=r"Check base_url=, which most often ends in /v1"),
    ):
        ask(make("openai", server))


def test_a_format_that_is_refused_gives_way_to_the_next_and_it_is_said(kind):
    def endpoint(asked):
        sent = asked.get("response_format", asked.get("format"))
        if sent is None:
            return GOOD
        return Status(400, f"response_format {str(sent)[:40]} is not supported")

    with (
        serve(endpoint) as server,
        pytest.warns(SkmoecbmWarning, match="'json_schema'|'json_object'") as told,
    ):
        answers = ask(make(kind, server), n=2).answers
    assert [one.response_format for one in answers] == ["text", "text"]
    assert [one.requests for one in answers] == [3, 1]  # it is not tried again for each question
    assert len([one for one in told if one.category is SkmoecbmWarning]) == 2


@pytest.mark.filterwarnings("ignore:'double' does not take")
def test_an_endpoint_that_refuses_every_format_is_an_error(kind):
    with (
        serve([Status(400, "response_format is not supported")]) as server,
        pytest.raises(LanguageModelError, match="refused the request"),
    ):
        ask(make(kind, server))
    assert len(server.requests) == 3


def test_a_format_that_was_asked_for_is_not_replaced(kind):
    with (
        serve([Status(400, "response_format is not supported")]) as server,
        pytest.raises(LanguageModelError, match="Another response_format= may be what it knows"),
    ):
        ask(make(kind, server, response_format="json_schema"))


def test_a_refusal_is_recorded_as_it_is():
    with serve([Answer(refusal="I cannot help with that")]) as server:
        (answer,) = ask(make("openai", server)).answers
    assert answer.reason == "the model refused: I cannot help with that"
    with serve([Answer("", finish="content_filter")]) as server:
        (answer,) = ask(make("openai", server)).answers
    assert answer.reason == "the model refused: a content filter stopped the answer"
    assert answer.requests == 1


def test_an_answer_that_is_cut_off_says_so(kind):
    with serve([Answer('{"words": ["red", "gr', finish="length")]) as server:
        (answer,) = ask(make(kind, server), max_reasks=0).answers
    assert answer.value is None
    assert "cut off at the limit of tokens (max_tokens)" in answer.reason


def test_an_unusable_answer_is_asked_for_again_with_what_was_wrong(kind):
    with serve(['{"words": "red"}', GOOD]) as server:
        (answer,) = ask(make(kind, server)).answers
    assert answer.value == {"words": ["red"]}
    assert answer.texts == ('{"words": "red"}', GOOD)
    assert (answer.requests, answer.prompt_tokens, answer.completion_tokens) == (2, 200, 40)
    first, second = (request["messages"] for request in server.requests)
    assert second[0] == first[0]
    assert second[1] == {"role": "assistant", "content": '{"words": "red"}'}
    assert (
        second[2]["role"] == "user"
        and "words: Input should be a valid list" in (second[2]["content"])
    )


def test_an_answer_that_stays_unusable_is_recorded_with_every_text():
    with serve(["no", "never", GOOD]) as server:
        answers = ask(make("openai", server), n=2).answers
    assert answers[0].value is None and answers[0].texts == ("no", "never")
    assert answers[0].reason == "There is no complete JSON object in the answer."
    assert answers[1].value


def test_thinking_in_a_field_of_its_own_is_left_out():
    with serve([Answer(GOOD, thinking='maybe {"words": ["blue"]}')]) as server:
        (answer,) = ask(make("ollama", server, think=True)).answers
    assert answer.texts == (GOOD,) and server.requests[0]["think"] is True


def test_tokens_that_are_not_counted_are_not_taken_for_none(kind):
    with serve([Answer(GOOD, tokens=None)]) as server:
        interview = ask(make(kind, server))
    usage = _asking.Usage.of(interview.records, (1.0, 2.0))
    assert (usage.prompt_tokens, usage.uncounted, usage.cost) == (0, 1, None)


def test_cost_is_per_million_tokens(kind):
    with serve([Answer(GOOD, tokens=(1_000_000, 500_000))]) as server:
        interview = ask(make(kind, server), n=2)
    assert _asking.Usage.of(interview.records, (3.0, 8.0)).cost == pytest.approx(2 * (3 + 4))
    assert _asking.Usage.of(interview.records, None).cost is None


def test_the_key_is_sent_and_shown_nowhere(monkeypatch):
    with serve([GOOD]) as server:
        client = OpenAIClient("double", base_url=server.url + "/v1", api_key="sk-secret")
        ask(client)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
        ask(OpenAIClient("double", base_url=server.url + "/v1"))
    assert [one["authorization"] for one in server.requests] == [
        "Bearer sk-secret",
        "Bearer sk-environment",
    ]
    assert "secret" not in repr(client) + str(client.settings()) + client.place


def test_the_address_may_come_from_the_environment(kind, monkeypatch):
    with serve([GOOD]) as server:
        if kind == "openai":
            monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/v1")
            client = OpenAIClient("double")
        else:
            monkeypatch.setenv("OLLAMA_HOST", server.url.removeprefix("http://"))
            client = OllamaClient("double")
        ask(client)
        assert client.place.startswith(server.url)


def test_secrets_in_an_address_are_not_told():
    assert OpenAIClient("m", base_url="https://me:pass@host/v1?key=s").place == "https://host/v1"
    assert OllamaClient("m", host="http://me:pass@host:1").place == "http://host:1"


def test_without_a_key_openai_is_not_asked():
    with pytest.raises(LanguageModelError, match="Set OPENAI_API_KEY"):
        ask(OpenAIClient("gpt"))


@pytest.mark.parametrize("package", ["openai", "ollama"])
def test_a_missing_package_is_named_with_the_extra(package, monkeypatch):
    client = OpenAIClient("m") if package == "openai" else OllamaClient("m")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        LanguageModelError,
        match=rf"needs the package {package}. Run: pip install 'skmoecbm\[llm\]'",
    ):
        ask(client)


def test_clients_are_values(kind):
    make_one = OpenAIClient if kind == "openai" else OllamaClient
    client = make_one("m", temperature=0.5)
    assert pickle.loads(pickle.dumps(client)) == client == make_one("m", temperature=0.5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": ""}, "The 'model' parameter of OpenAIClient must be the name of a model."),
        (
            {"temperature": -1},
            "'temperature' parameter of OpenAIClient must be a number of at least 0",
        ),
        (
            {"max_tokens": 0},
            "'max_tokens' parameter of OpenAIClient must be an integer of at least 1",
        ),
        ({"timeout": 0}, "'timeout' parameter of OpenAIClient must be a number greater than 0"),
        ({"response_format": "xml"}, "'response_format' parameter of OpenAIClient must be one of"),
        ({"base_url": "localhost"}, "'base_url' parameter of OpenAIClient must be an address"),
        ({"api_key": b"sk-secret"}, "'api_key' parameter of OpenAIClient must be a str or None"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    settings = {"model": "m", **settings}
    with pytest.raises(InputError, match=sentence.replace(".", r"\.")) as caught:
        OpenAIClient(settings.pop("model"), **settings)
    assert "secret" not in str(caught.value)


def test_bad_settings_of_ollama_are_refused():
    with pytest.raises(InputError, match="'host' parameter of OllamaClient must be an address"):
        OllamaClient("m", host="gpu:11434")
    with pytest.raises(InputError, match="'think' parameter of OllamaClient must be True, False"):
        OllamaClient("m", think="much")


def test_a_function_is_asked_with_one_text():
    prompts = []

    def answers(prompt):
        prompts.append(prompt)
        return "what?" if len(prompts) == 1 else GOOD

    (answer,) = ask(FunctionClient(answers)).answers
    assert answer.value == {"words": ["red"]} and answer.uncounted == 2
    assert prompts[1].startswith("Name a colour.\n\nwhat?\n\nThat answer cannot be used.")


def test_a_function_may_fail_for_a_while(naps):
    faults = [ConnectionError("gone"), TimeoutError("late")]

    def answers(prompt):
        if faults:
            raise faults.pop()
        return GOOD

    (answer,) = ask(FunctionClient(answers)).answers
    assert answer.requests == 3 and len(naps) == 2


def test_what_else_a_function_raises_goes_through():
    def answers(prompt):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(FunctionClient(answers))
    with pytest.raises(LanguageModelError, match=r"must return a str\. Got dict instead"):
        ask(FunctionClient(lambda prompt: {}))


def test_a_function_is_known_by_its_name_or_its_model():
    def answers(prompt):
        return GOOD

    assert FunctionClient(answers).model.endswith("answers")
    answers.model = "my-llm 2"
    assert FunctionClient(answers).model == "my-llm 2"
