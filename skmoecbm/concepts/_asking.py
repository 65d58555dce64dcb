"""Asking a language model many questions: tries, second questions, counts, and what is kept."""

import contextlib
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict
from sklearn.utils import check_random_state
from tqdm import tqdm

from skmoecbm.concepts._checkpoint import Answer, Checkpoint, request_key
from skmoecbm.concepts._faults import FormatRefusedError, TransientFaultError
from skmoecbm.concepts._prompts import reask
from skmoecbm.concepts._replies import AnswerError, read_answer, without_thoughts
from skmoecbm.exceptions import LanguageModelError, SkmoecbmWarning

__all__ = ["Interview", "Question", "Usage", "ask_all"]

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds
LONGEST_WAIT = 900.0  # seconds that an endpoint may ask for
FAULTS_IN_A_ROW = 2  # questions; then the endpoint is gone, or was never there after one


@dataclass(frozen=True)
class Question:
    """A prompt, what it is about, and which repeat of it this is."""

    prompt: str
    subject: tuple[str, ...]
    repeat: int = 0


class Usage(BaseModel):
    """What answers took.

    Attributes
    ----------
    requests : int
        Tries that failed with them.
    prompt_tokens, completion_tokens : int
        As the endpoint counts them.
    uncounted : int
        Answers whose tokens the endpoint did not count.
    cost : float or None
        In the currency of `prices`; None without prices, or where answers are uncounted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    cost: float | None

    @classmethod
    def of(cls, answers, prices):
        """Return the sum over `answers`; `prices` are per million tokens (prompt, completion)."""
        names = ("requests", "prompt_tokens", "completion_tokens", "uncounted")
        sums = {name: sum(getattr(one, name) for one in answers) for name in names}
        cost = None
        if prices is not None and not sums["uncounted"]:
            counts = (sums["prompt_tokens"], sums["completion_tokens"])
            cost = sum(price * n for price, n in zip(prices, counts, strict=True)) / 1e6
        return cls(**sums, cost=cost)


@dataclass(frozen=True)
class Interview:
    """The last answer to each question, in their order, and all that were ever given."""

    answers: tuple[Answer, ...]
    records: tuple[Answer, ...]
    resumed: int


def ask_all(
    questions, client, answer_model, *, check=None, checkpoint=None, max_retries=4, max_reasks=1,
    random_state=None, verbose=0,
):  # fmt: skip
    """Ask every question that the checkpoint holds no good answer to.

    Parameters
    ----------
    questions : list of Question
    client : ModelClient or FunctionClient
    answer_model : subclass of AnswerModel
    check : function of Question and the answer read, default=None
        Raises `AnswerError` where the answer does not fit the question.
    checkpoint : path or None
    max_retries : int
        Tries after the first one when a fault passes by, for each request.
    max_reasks : int
        How often an answer that cannot be used is asked for again, with what was wrong.
    random_state : int, RandomState or None
        Of the jitter between tries.
    verbose : int

    Returns
    -------
    Interview

    Raises
    ------
    LanguageModelError
        If the endpoint refuses the request, or does not answer two questions in a row.
    """
    store = Checkpoint(checkpoint)
    schema, settings = answer_model.model_json_schema(), client.settings()
    keys = [request_key(one.prompt, schema, settings, one.repeat) for one in questions]
    records = store.read(set(keys), answer_model)
    known = {one.key: one for one in records if one.reason is None}
    resumed = len(known)
    left = [pair for pair in zip(keys, questions, strict=True) if pair[0] not in known]
    asker = _Asker(client, schema, max_retries, check_random_state(random_state))
    # With nothing left to ask, neither the package nor a key is needed.
    with client.connect() if left else contextlib.nullcontext() as send:
        answered, gone = 0, 0
        for key, question in tqdm(left, disable=not verbose, unit="question"):
            try:
                answer = asker.answer(send, question, key, answer_model, check, max_reasks)
            except LanguageModelError as error:
                kept = _kept(known, keys, checkpoint)
                raise LanguageModelError(f"{error} {kept}".strip()) from error
            store.append(answer)
            records.append(answer)
            known[key] = answer
            answered += bool(answer.texts)
            gone = 0 if answer.texts else gone + 1
            if gone == (FAULTS_IN_A_ROW if answered else 1):
                kept = _kept(known, keys, checkpoint)
                raise LanguageModelError(
                    f"{client.model!r} does not answer {answer.reason}. {kept}".strip()
                )
    return Interview(tuple(known[key] for key in keys), tuple(records), resumed)


def _kept(known, keys, checkpoint):
    good = sum(one.reason is None for one in known.values())
    if not good:
        return ""
    if checkpoint is None:
        return (
            f"{good} of {len(keys)} answers were there and are lost; give checkpoint= a path to "
            "keep them."
        )
    return f"{good} of {len(keys)} answers are kept in '{checkpoint}'; call again to go on."


class _Asker:
    """Asks one client; keeps which way to ask for the form it has not refused."""

    def __init__(self, client, schema, max_retries, random):
        self.client = client
        self.schema = schema
        self.max_retries = max_retries
        self.random = random
        self.formats = list(client.formats)

    def answer(self, send, question, key, answer_model, check, max_reasks):
        """Return the `Answer` to one question, good or failed."""
        counts = dict.fromkeys(("requests", "prompt_tokens", "completion_tokens", "uncounted"), 0)
        first = {"role": "user", "content": question.prompt}
        messages, texts, value, reason = [first], [], None, None
        for _ in range(1 + max_reasks):
            try:
                reply = self._reply(send, messages, counts)
            except TransientFaultError as fault:
                reason = f"after {self.max_retries + 1} tries: {fault}"
                break
            texts.append(reply.text)
            if reply.refusal:
                reason = f"the model refused: {reply.refusal}"
                break
            try:
                read = read_answer(reply.text, answer_model)
                if check is not None:
                    check(question, read)
            except AnswerError as error:
                reason = str(error)
                if reply.cut_off:
                    reason += " It was cut off at the limit of tokens (max_tokens)."
                messages = [first, *_correction(reply.text, reason)]
            else:
                value, reason = read.model_dump(mode="json"), None
                break
        return Answer(
            key=key, subject=question.subject, repeat=question.repeat, value=value, reason=reason,
            texts=texts, response_format=self.formats[0], **counts,
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )  # fmt: skip

    def _reply(self, send, messages, counts):
        """Return the `Reply` to one request, tried again while faults may pass."""
        tries = 0
        while True:
            counts["requests"] += 1
            try:
                reply = send(messages, self.schema, self.formats[0])
            except FormatRefusedError as refused:
                self._next_format(refused)
            except TransientFaultError as fault:
                if tries == self.max_retries:
                    raise
                self._wait(tries, fault)
                tries += 1
            else:
                for name in ("prompt_tokens", "completion_tokens"):
                    counts[name] += getattr(reply, name) or 0
                counts["uncounted"] += None in (reply.prompt_tokens, reply.completion_tokens)
                return reply

    def _next_format(self, refused):
        if len(self.formats) == 1:
            raise LanguageModelError(
                f"{self.client.model!r} refused the request: {refused} "
                "Another response_format= may be what it knows."
            ) from refused
        old = self.formats.pop(0)
        warnings.warn(
            f"{self.client.model!r} does not take response_format={old!r} ({refused}); "
            f"{self.formats[0]!r} is used. Answers are checked all the same.",
            SkmoecbmWarning,
            stacklevel=2,
        )

    def _wait(self, tries, fault):
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2**tries) * self.random.uniform(0.5, 1.0)
        if fault.retry_after is not None:
            if fault.retry_after > LONGEST_WAIT:
                raise LanguageModelError(
                    f"{self.client.model!r} asks to wait {fault.retry_after:.0f} s: {fault}. "
                    "Call again later."
                ) from fault
            delay = max(delay, fault.retry_after)
        time.sleep(delay)


def _correction(text, reason):
    """Return the messages that follow the first question when its answer cannot be used."""
    try:
        text = without_thoughts(text)
    except AnswerError:
        text = ""
    said = [{"role": "assistant", "content": text[:4000]}] if text else []
    return [*said, {"role": "user", "content": reask(reason)}]
