"""A client of Ollama."""

import contextlib
import os
from dataclasses import dataclass

from skmoecbm._validation import parameter_error
from skmoecbm.concepts._clients import ModelClient, check_address, public_address
from skmoecbm.concepts._faults import (
    Reply,
    TransientFaultError,
    missing_package,
    status_error,
)

__all__ = ["OllamaClient"]


@dataclass(frozen=True)
class OllamaClient(ModelClient):
    """A model that Ollama serves: "llama3.1", "deepseek-r1", "meditron", ...

    Needs the package ollama: ``pip install 'skmoecbm[llm]'``. It holds names, not a connection.

    Parameters
    ----------
    model : str
        As `ollama list` calls it.
    host : str, default=None
        Such as "http://gpu-server:11434"; None is the environment's `OLLAMA_HOST`, or this machine.
    think : bool, default=None
        Whether a model that can think does so before it answers; None leaves it to Ollama.
    temperature : float, default=None
        Variety of the answers, at least 0; None leaves it to the model. At 0 repeats are alike.
    max_tokens : int, default=4096
        Where an answer, with its thinking, is cut off: a small model may run on for ever.
    timeout : float, default=120.0
        Seconds to wait for the next word before a request is tried again; the first one may have
        to wait for the model to be loaded.
    response_format : {"auto", "json_schema", "json_object", "text"}, default="auto"
        How the form of the answer is asked for; see `OpenAIClient`.

    Raises
    ------
    InputError
        If a parameter is not what it must be.

    Examples
    --------
    >>> from skmoecbm.concepts import OllamaClient
    >>> OllamaClient("deepseek-r1", temperature=0.6).max_tokens
    4096
    """

    max_tokens: int | None = 4096
    host: str | None = None
    think: bool | None = None

    def __post_init__(self):
        """Check the parameters."""
        super().__post_init__()
        check_address(self, "host")
        if self.think not in (None, True, False):
            raise parameter_error(self, "think", "True, False or None", self.think)

    def settings(self):
        """Return what an answer depends on beside the prompt, a dict."""
        return {**super().settings(), "think": self.think}

    @property
    def place(self):
        """Where Ollama is, a str without what may be secret in it."""
        address = self.host or os.environ.get("OLLAMA_HOST") or "http://localhost:11434"
        return public_address(address if "//" in address else f"http://{address}")

    @contextlib.contextmanager
    def connect(self):
        """Open a connection; yield a function of messages, schema and format that gives a `Reply`.

        Raises
        ------
        LanguageModelError
            If the package ollama is missing.
        """
        try:
            import httpx  # which ollama brings, and whose exceptions it lets through
            import ollama
        except ImportError as error:
            raise missing_package(self, "ollama") from error
        headers = {}

        def keep_headers(response):
            headers.clear()  # ollama's errors do not carry them
            headers.update(response.headers)

        connection = ollama.Client(
            self.host, timeout=self.timeout, event_hooks={"response": [keep_headers]}
        )
        options = {"temperature": self.temperature, "num_predict": self.max_tokens}
        options = {name: value for name, value in options.items() if value is not None}

        def send(messages, schema, response_format):
            shape = {"json_schema": schema, "json_object": "json", "text": None}[response_format]
            asked = f"{self.model!r} at {self.place}"
            headers.clear()
            try:
                # A stream: the timeout then counts from word to word, however long a model thinks.
                parts = connection.chat(
                    self.model, messages, stream=True, think=self.think, format=shape,
                    options=options,
                )  # fmt: skip
                return _ollama_reply(parts)
            except httpx.TimeoutException as error:
                raise TransientFaultError(f"no word within {self.timeout:g} s") from error
            except httpx.ConnectError as error:
                raise TransientFaultError(f"is Ollama running at {self.place}? {error}") from error
            except httpx.HTTPError as error:
                raise TransientFaultError(f"the connection failed: {error}") from error
            except ollama.ResponseError as error:
                remedies = {404: f"Run: ollama pull {self.model}"}
                raise status_error(
                    error.status_code, str(error.error), headers, asked, remedies
                ) from error
            except ValueError as error:
                raise TransientFaultError(f"the body of the answer is broken: {error}") from error

        # the package closes connections on request only since 0.6.1
        with connection if hasattr(connection, "close") else contextlib.nullcontext():
            yield send


def _ollama_reply(parts):
    """Return the `Reply` in a stream of parts of a chat."""
    text, part = [], None
    for part in parts:
        text.append(part.message.content or "")  # the thinking comes in a field of its own
    if part is None or not part.done:
        raise TransientFaultError("the stream of the answer ended early")
    return Reply(
        text="".join(text),
        prompt_tokens=part.prompt_eval_count,
        completion_tokens=part.eval_count,
        cut_off=part.done_reason == "length",
    )
