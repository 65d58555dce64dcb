"""What every client of a language model has in common; any function as a client."""

import contextlib
from dataclasses import KW_ONLY, dataclass
from urllib.parse import urlsplit

from skmoecbm._validation import check_choice, check_number, parameter_error
from skmoecbm.concepts._faults import Reply, TransientFaultError
from skmoecbm.exceptions import LanguageModelError

__all__ = ["FunctionClient", "ModelClient", "as_client", "check_address", "public_address"]

FORMATS = ("json_schema", "json_object", "text")


@dataclass(frozen=True)
class ModelClient:
    """What the clients have in common: names and settings, no connection."""

    model: str
    _: KW_ONLY
    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float = 120.0
    response_format: str = "auto"

    def __post_init__(self):
        """Check the parameters."""
        if not isinstance(self.model, str) or not self.model.strip():
            raise parameter_error(self, "model", "the name of a model", self.model)
        if self.temperature is not None:
            check_number(self, "temperature", self.temperature, low=0)
        if self.max_tokens is not None:
            check_number(self, "max_tokens", self.max_tokens, low=1, integer=True)
        check_number(self, "timeout", self.timeout, low=0, low_open=True)
        check_choice(self, "response_format", self.response_format, ("auto", *FORMATS))

    @property
    def formats(self):
        """Ways to ask for the form of an answer, the first to be tried first."""
        return FORMATS if self.response_format == "auto" else (self.response_format,)

    def settings(self):
        """Return what an answer depends on beside the prompt, a dict."""
        return {
            "client": type(self).__name__, "model": self.model,
            "temperature": self.temperature, "max_tokens": self.max_tokens,
        }  # fmt: skip


def check_address(client, name):
    """Raise unless a parameter is None or an address."""
    value = getattr(client, name)
    if value is not None and (
        not isinstance(value, str) or not value.startswith(("http://", "https://"))
    ):
        raise parameter_error(
            client, name, "an address that begins with http:// or https://", value
        )


def public_address(address):
    """Return an address without what may be secret in it, for messages and the provenance."""
    parts = urlsplit(str(address))
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl().rstrip("/")


class FunctionClient:
    """Any function from a prompt to a text, as a client."""

    formats = ("text",)
    place = None

    def __init__(self, function):
        self.function = function
        name = getattr(function, "__qualname__", type(function).__qualname__)
        module = getattr(function, "__module__", None)
        self.model = str(getattr(function, "model", None) or f"{module}.{name}")

    def settings(self):
        """Return what an answer depends on beside the prompt, a dict."""
        return {"client": "function", "model": self.model}

    @contextlib.contextmanager
    def connect(self):
        """Yield a function of messages, schema and format that gives a `Reply`."""

        def send(messages, schema, response_format):
            try:
                text = self.function("\n\n".join(one["content"] for one in messages))
            except (ConnectionError, TimeoutError) as error:
                raise TransientFaultError(f"{type(error).__name__}: {error}") from error
            if not isinstance(text, str):
                raise LanguageModelError(
                    f"The client {self.model!r} must return a str. Got {type(text).__name__} "
                    "instead."
                )
            return Reply(text)

        yield send


def as_client(client, owner):
    """Return the client that `client` means; a function becomes one.

    Raises
    ------
    InputError
        If it is neither a client nor callable.
    """
    if isinstance(client, ModelClient):
        return client
    if not callable(client) or isinstance(client, type):
        raise parameter_error(
            owner,
            "client",
            "an OpenAIClient, an OllamaClient or a function from str to str",
            client,
        )
    return FunctionClient(client)
