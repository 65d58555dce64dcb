"""A client of OpenAI-compatible endpoints."""

import contextlib
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from skmoecbm._validation import parameter_error
from skmoecbm.concepts._clients import ModelClient, check_address, public_address
from skmoecbm.concepts._faults import (
    Reply,
    TransientFaultError,
    missing_package,
    status_error,
)
from skmoecbm.exceptions import LanguageModelError

__all__ = ["OpenAIClient"]


@dataclass(frozen=True)
class OpenAIClient(ModelClient):
    """A model behind an OpenAI-compatible endpoint: OpenAI, vLLM, llama.cpp, LM Studio, ...

    Needs the package openai: ``pip install 'skmoecbm[llm]'``. It holds names, not a connection.

    Parameters
    ----------
    model : str
        As the endpoint calls it.
    base_url : str, default=None
        Where the endpoint is, such as "http://localhost:8000/v1"; None is the environment's
        `OPENAI_BASE_URL`, or OpenAI.
    api_key : str, default=None
        None is the environment's `OPENAI_API_KEY`; an endpoint of your own may need none. It is
        neither shown nor stored.
    temperature : float, default=None
        Variety of the answers, at least 0; None leaves it to the model. At 0 repeats are alike.
    max_tokens : int, default=None
        Where an answer is cut off; None leaves it to the endpoint.
    timeout : float, default=120.0
        Seconds to wait for the endpoint before a request is tried again.
    response_format : {"auto", "json_schema", "json_object", "text"}, default="auto"
        How the form of the answer is asked for. "auto" begins with the schema; an endpoint that
        refuses it is asked for a JSON object, then for text. The provenance says which it was.

    Raises
    ------
    InputError
        If a parameter is not what it must be.

    Examples
    --------
    >>> from skmoecbm.concepts import OpenAIClient
    >>> client = OpenAIClient("llama-3.1-8b", base_url="http://localhost:8000/v1", api_key="s")
    >>> client.model, "api_key" in repr(client)
    ('llama-3.1-8b', False)
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self):
        """Check the parameters."""
        super().__post_init__()
        check_address(self, "base_url")
        if self.api_key is not None and (not isinstance(self.api_key, str) or not self.api_key):
            # not the value itself: it may be a key all the same
            raise parameter_error(self, "api_key", "a str or None", type(self.api_key))

    @property
    def place(self):
        """Where the endpoint is, a str without what may be secret in it."""
        address = self.base_url or os.environ.get("OPENAI_BASE_URL")
        return public_address(address or "https://api.openai.com/v1")

    @contextlib.contextmanager
    def connect(self):
        """Open a connection; yield a function of messages, schema and format that gives a `Reply`.

        Raises
        ------
        LanguageModelError
            If the package openai is missing, or there is no key.
        """
        try:
            import openai
        except ImportError as error:
            raise missing_package(self, "openai") from error
        key = self.api_key or os.environ.get("OPENAI_API_KEY")
        if not key and not (self.base_url or os.environ.get("OPENAI_BASE_URL")):
            raise LanguageModelError(
                "OpenAI asks for a key. Set OPENAI_API_KEY or give OpenAIClient(api_key=...); for "
                "an endpoint of your own give base_url=."
            )
        # max_retries=0: tries are counted and spaced in one place, ours.
        connection = openai.OpenAI(
            api_key=key or "none", base_url=self.base_url, timeout=self.timeout, max_retries=0
        )

        def send(messages, schema, response_format):
            options = self._options(schema, response_format)
            try:
                completion = connection.chat.completions.create(
                    model=self.model, messages=messages, **options
                )
            except openai.APITimeoutError as error:
                raise TransientFaultError(f"no answer within {self.timeout:g} s") from error
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                raise TransientFaultError(f"the connection failed: {cause}") from error
            except openai.APIStatusError as error:
                body = error.body if isinstance(error.body, dict) else {}
                told = f"{body.get('message') or error.body or error} {error.code or ''}"
                headers, asked = error.response.headers, f"{self.model!r} at {self.place}"
                raise status_error(error.status_code, told, headers, asked, _REMEDIES) from error
            except (openai.APIResponseValidationError, ValueError) as error:
                raise TransientFaultError(f"the body of the answer is broken: {error}") from error
            return _openai_reply(completion, self.place)

        with connection:
            yield send

    def _options(self, schema, response_format):
        options = {}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        if self.max_tokens is not None:
            # OpenAI's newer models refuse the old name, other endpoints may not know the new one.
            openai_itself = urlsplit(self.place).hostname == "api.openai.com"
            options["max_completion_tokens" if openai_itself else "max_tokens"] = self.max_tokens
        if response_format == "json_schema":
            shape = {"name": schema["title"], "schema": schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": shape}
        elif response_format == "json_object":
            options["response_format"] = {"type": "json_object"}
        return options


_REMEDIES = {
    401: "Check OPENAI_API_KEY or api_key=.",
    403: "Check that the key may use this model.",
    404: "Check the model's name and base_url=, which most often ends in /v1.",
    429: "Its budget is spent; waiting does not help.",
}


def _openai_reply(completion, place):
    """Return the `Reply` in a chat completion."""
    if not hasattr(completion, "choices"):
        raise LanguageModelError(
            f"{place} does not answer as an OpenAI-compatible endpoint. Check base_url=, which "
            "most often ends in /v1."
        )
    if not completion.choices or completion.choices[0].message is None:
        raise TransientFaultError("the answer has no choices")
    choice, usage = completion.choices[0], completion.usage
    refusal = choice.message.refusal
    if choice.finish_reason == "content_filter":
        refusal = refusal or "a content filter stopped the answer"
    return Reply(
        text=choice.message.content or "",
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        cut_off=choice.finish_reason == "length",
        refusal=refusal,
    )
