"""Requests to the servers of data sets: what may pass is tried again, the rest is said plainly."""

import errno
import http.client
import json
import re
import socket
import time
import urllib.error
import urllib.request

from skmoecbm.exceptions import DownloadError

__all__ = ["ATTEMPTS", "get_json", "open_url", "pause_before", "why", "worth_another_try"]

ATTEMPTS = 5  # in a row without a further byte
_TIMEOUT = 60.0  # seconds without an answer or a byte
_LONGEST_WAIT = 120  # seconds; a server that asks for more is not waited for
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_MAX_JSON = 32 * 2**20


def open_url(url, headers=None):
    """Return the open answer of a server; redirects are followed, proxies of the system used."""
    request = urllib.request.Request(url, headers={"User-Agent": "skmoecbm", **(headers or {})})
    return urllib.request.urlopen(request, timeout=_TIMEOUT)


def worth_another_try(error):
    """Return whether an error is of the kind that passes."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSING and (_asked_to_wait(error) or 0) <= _LONGEST_WAIT
    reason = getattr(error, "reason", error)  # URLError wraps what the socket said
    if isinstance(reason, socket.gaierror | ConnectionRefusedError):
        return False  # no network, or nobody there: seconds change nothing
    kinds = (ConnectionError, TimeoutError, http.client.HTTPException)
    return isinstance(error, kinds) or isinstance(reason, kinds)


def pause_before(error, attempt):
    """Wait before another attempt, the first being 0: as the server asks, else ever longer."""
    asked = _asked_to_wait(error)
    time.sleep(min(2.0**attempt, 30.0) if asked is None else asked)


def _asked_to_wait(error):
    value = (getattr(error, "headers", None) or {}).get("Retry-After") or ""
    return float(value) if re.fullmatch(r"\s*[0-9]{1,9}\s*", value) else None


def why(error):
    """Return in one clause why nothing came."""
    if isinstance(error, urllib.error.HTTPError):
        words = {
            401: "the server asks for a login (401)",
            403: "the server refuses it (403)",
            404: "it is not there any more (404)",
            410: "it is not there any more (410)",
            429: "the server has too many requests (429)",
        }
        if error.code in words:
            return words[error.code]
        if error.code >= 500:
            return f"the server has a fault of its own ({error.code})"
        return f"the server answers {error.code} ({error.reason})"
    reason = getattr(error, "reason", error)
    if isinstance(reason, socket.gaierror):
        return "there is no network, or no such server"
    if isinstance(reason, ConnectionRefusedError):
        return "the server, or the proxy in between, takes no connections"
    if isinstance(reason, TimeoutError):
        return f"the server was silent for {_TIMEOUT:.0f} seconds"
    if isinstance(reason, OSError) and reason.errno == errno.ENOSPC:
        return "the disk is full"
    if isinstance(error, OSError) and not isinstance(error, urllib.error.URLError):
        if error.filename is not None:
            return f"{str(error.filename)!r} cannot be written ({error.strerror})"
    return f"the connection failed ({type(reason).__name__}: {reason})"


def get_json(url, *, problem, remedy):
    """Return what a server tells as JSON.

    Parameters
    ----------
    url : str
    problem : str
        "Could not ask ... for its files": the start of the sentence of an error.
    remedy : str
        Its last sentence.

    Raises
    ------
    DownloadError
    """
    for attempt in range(ATTEMPTS):
        try:
            with open_url(url) as answer:
                text = answer.read(_MAX_JSON)
            break
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS - 1 or not worth_another_try(error):
                raise DownloadError(f"{problem}: {why(error)}. {remedy}") from error
            pause_before(error, attempt)
    try:
        return json.loads(text)
    except ValueError as error:
        raise DownloadError(f"{problem}: the answer cannot be read. {remedy}") from error
