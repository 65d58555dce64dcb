"""What an endpoint may answer: a reply, a fault that passes, a refusal, an end."""

import email.utils
import math
import time
from dataclasses import dataclass

from skmoecbm.exceptions import LanguageModelError

__all__ = [
    "FormatRefusedError",
    "Reply",
    "TransientFaultError",
    "missing_package",
    "retry_after_of",
    "status_error",
]


@dataclass(frozen=True)
class Reply:
    """One answer as it came; the counts are None where the endpoint gives none."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cut_off: bool = False
    refusal: str | None = None


class TransientFaultError(Exception):
    """A fault that may be gone at the next try; `retry_after` is in seconds, or None."""

    def __init__(self, reason, retry_after=None):
        super().__init__(reason)
        self.retry_after = retry_after


class FormatRefusedError(Exception):
    """The endpoint does not know this way to ask for the form of an answer."""


def retry_after_of(headers):
    """Return the seconds that a Retry-After header asks for (a number or a date), or None."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def status_error(status, told, headers, asked, remedies):
    """Return the exception that a status other than 200 means.

    Parameters
    ----------
    status : int
        -1 for an error within a stream.
    told : str
        What the endpoint says of it.
    headers : mapping of str to str
    asked : str
        The model and where it is, for the message.
    remedies : dict of int to str
        One more sentence for some of the statuses.
    """
    told = " ".join(told.split())
    told = told.rstrip(".") if len(told) <= 300 else told[:297] + ".."
    lower = told.lower()
    formats = ("response_format", "json_schema", "json_object", "structured output", "format")
    if status in (400, 422) and any(word in lower for word in formats):
        return FormatRefusedError(told)
    # A spent budget has the status of haste, but waiting does not help.
    if (status in (-1, 408, 409, 425, 429) or status >= 500) and "insufficient_quota" not in lower:
        what = "broke its answer off" if status == -1 else f"answered with status {status}"
        return TransientFaultError(f"it {what}: {told}", retry_after_of(headers))
    remedy = remedies.get(status, "Mend what it says and call again.")
    return LanguageModelError(f"{asked} refused the request (status {status}): {told}. {remedy}")


def missing_package(client, package):
    """Return the error for a package that is not installed."""
    return LanguageModelError(
        f"{type(client).__name__} needs the package {package}. Run: pip install 'skmoecbm[llm]'"
    )
