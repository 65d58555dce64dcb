"""What went wrong at the Hugging Face Hub, in one sentence; and what is tried again."""

import json
import re
import time

from huggingface_hub import constants, get_token
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import get_session, parse_ratelimit_headers

from skmoecbm.exceptions import HubError

__all__ = [
    "forget_token",
    "hub_error",
    "hub_reason",
    "is_not_there",
    "is_outage",
    "is_unreachable",
    "knock",
    "patiently",
    "refuse_offline",
    "status_of",
]

_ATTEMPTS = 5
_LONGEST_WAIT = 60  # seconds; who is told to come back later than that is told so
_PASSING = (408, 429, 500, 502, 503, 504)
_QUERY = re.compile(r"\?[^\s'\"]*=[^\s'\"]*")  # of an address of storage: it signs for who asked
_CLIENTS = ("httpx", "httpx2", "httpcore", "requests", "urllib3")  # of any huggingface_hub
_BAD_TOKEN = "the Hub does not accept the token (401)"
_LOGIN = "Log in with `hf auth login`, set HF_TOKEN, or give a token that may"


def patiently(call, *, again_if_unclear=True, attempts=_ATTEMPTS):
    """Return what `call` returns; where the Hub asks to wait or stumbles, wait and try again.

    huggingface_hub itself does so for up- and downloads of files, not for what only asks or
    changes something. A Hub that no connection can be made to is not tried again.

    Parameters
    ----------
    call : callable without parameters
    again_if_unclear : bool, default=True
        Also where the request may have been carried out, though its answer is an error or lost.
        False is for what must not happen twice.
    attempts : int
        Few for what tries again by itself.
    """
    pause = 1.0
    for attempt in range(attempts):
        try:
            return call()
        except Exception as error:
            wait = _retry_after(error)
            wait = pause if wait is None else wait
            is_refused = status_of(error) == 429
            worth = is_refused or (again_if_unclear and is_outage(error))
            worth = worth and not is_unreachable(error)
            if not worth or wait > _LONGEST_WAIT or attempt == attempts - 1:
                raise
        time.sleep(wait)
        pause *= 2
    raise AssertionError("the last attempt returns or raises")


def knock():
    """Raise where no connection to the Hub can be made; before what would try for minutes."""
    get_session().head(constants.ENDPOINT, timeout=10)


def refuse_offline(problem):
    """Raise `HubError` where HF_HUB_OFFLINE forbids every request, before work is done for one."""
    if constants.HF_HUB_OFFLINE:
        raise hub_error(problem, hub_errors.OfflineModeIsEnabled())


def is_not_there(error):
    """Return whether no repository of the name was found, at the Hub or where it is not reached."""
    root = _root(error)
    if isinstance(root, hub_errors.GatedRepoError):
        return False
    kinds = (
        hub_errors.RepositoryNotFoundError,
        hub_errors.LocalEntryNotFoundError,
        hub_errors.OfflineModeIsEnabled,
    )
    return isinstance(root, kinds) or _is_of_network(root)


def is_unreachable(error):
    """Return whether no connection could be made: an unknown host, or nobody who listens."""
    error = _root(error)
    reason = getattr(next(iter(error.args), None), "reason", None)  # so requests tells it
    kinds = {kind.__name__ for one in (error, reason) for kind in type(one).__mro__}
    names = {"ConnectError", "NewConnectionError", "NameResolutionError", "ConnectionRefusedError"}
    return bool(kinds & names)


def is_outage(error):
    """Return whether an error is the network's or the Hub's, and may pass."""
    error = _root(error)
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return False
    status = status_of(error)
    if status is not None:
        return status in _PASSING
    # an answer that is no JSON is some proxy's page about a fault
    return isinstance(error, json.JSONDecodeError) or _is_of_network(error)


def status_of(error):
    """Return the HTTP status that an error tells of, or None."""
    return getattr(getattr(_root(error), "response", None), "status_code", None)


def hub_error(problem, error, *, local_files_only=False, remedy=None):
    """Return the `HubError` that says a problem, its reason and a way on; raise it from `error`.

    Parameters
    ----------
    problem : str
        "Could not get 'user/repo'": the start of the sentence.
    error : Exception
        Of huggingface_hub; headers that it holds lose the token.
    local_files_only : bool
    remedy : str, default=None
        In place of the one that the reason suggests.
    """
    is_anonymous = not _has_token(error)
    forget_token(error)
    reason = hub_reason(error, local_files_only=local_files_only)
    if status_of(error) == 401 and reason == _BAD_TOKEN and is_anonymous:
        reason, remedy = "nobody is logged in (401)", remedy or f"{_LOGIN} do it."
    return HubError(f"{problem}: {reason}. {remedy or _remedy(error)}")


def hub_reason(error, *, local_files_only=False):
    """Return in one clause why nothing came; the Hub's own texts run over several lines."""
    cause = error.__cause__
    if isinstance(error, hub_errors.LocalEntryNotFoundError):
        if local_files_only:
            return "the Hugging Face cache does not hold it, and local_files_only=True asks nobody"
        if isinstance(cause, hub_errors.OfflineModeIsEnabled):
            return "the Hugging Face cache does not hold it, and HF_HUB_OFFLINE is set"
        if cause is not None and not isinstance(cause, hub_errors.HfHubHTTPError):
            reason = hub_reason(cause)
            return reason if _is_of_network(cause) else f"the Hub cannot be reached ({reason})"
        if cause is not None:
            return hub_reason(cause)
    if cause is not None and _root(error) is not error:
        return hub_reason(_root(error))
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    # a gated repository is told as a kind of missing one
    for kind, reason in (
        (
            hub_errors.GatedRepoError,
            "its owners grant access, to who is logged in (`hf auth login`)",
        ),
        (hub_errors.RepositoryNotFoundError, "there is no such repository, or it is private"),
        (hub_errors.RevisionNotFoundError, "the repository has no such revision"),
    ):
        if isinstance(error, kind):
            return reason
    status = status_of(error)
    if status in (401, 403) and _is_of_storage(error):
        return f"the Hub's storage refuses the file ({status})"
    if status == 401:
        return _BAD_TOKEN
    if status == 403:
        return "this account or token may not do that (403)"
    if status in (409, 412):
        return f"somebody else changed it meanwhile ({status})"
    if status == 429:
        wait = _retry_after(error)
        return "the Hub has too many requests (429)" + (
            "" if wait is None else f", and asks to wait {wait:,.0f} seconds"
        )
    if status in _PASSING:
        return f"the Hub has a fault of its own ({status})"
    if isinstance(error, json.JSONDecodeError):
        return "the Hub's answer cannot be read"
    line = next(iter(str(error).strip().splitlines()), "").rstrip(" .!:")
    line = _QUERY.sub("", line)
    told = f"{type(error).__name__}: {line}" if line else type(error).__name__
    if is_unreachable(error):
        return f"the Hub cannot be reached ({told})"
    return f"the connection to the Hub failed ({told})" if _is_of_network(error) else told


def forget_token(error):
    """Take the token out of an error and its causes: requests hold it, answers may repeat it."""
    chain, todo = [], [error]
    while todo:
        one = todo.pop()
        if one is not None and all(one is not other for other in chain):
            chain.append(one)
            todo += [one.__cause__, one.__context__]
    tokens = {get_token()}
    for one in chain:
        of_answer = getattr(getattr(one, "response", None), "request", None)
        for request in (of_answer, getattr(one, "_request", None)):
            header = getattr(request, "headers", {}).pop("authorization", None) or ""
            tokens.add(header.rpartition(" ")[2])
    for token in filter(None, tokens):
        for one in chain:
            one.args = tuple(_without(token, part) for part in one.args)
            if hasattr(one, "server_message"):
                one.server_message = _without(token, one.server_message)


def _has_token(error):
    """Return whether the request that failed was somebody's; ask before the token is forgotten."""
    return "authorization" in getattr(_request_of(error), "headers", ())


def _request_of(error):
    return getattr(getattr(_root(error), "response", None), "request", None)


def _is_of_storage(error):
    """Return whether a file's own place was asked: that is told by its address, not by a token."""
    address = str(getattr(_request_of(error), "url", ""))
    return bool(address) and not address.startswith(constants.ENDPOINT)


def _without(token, part):
    return part.replace(token, "<token>") if isinstance(part, str) else part


def _remedy(error):
    root, status = _root(error), status_of(error)
    is_missing = isinstance(error, hub_errors.LocalEntryNotFoundError)
    if is_missing and (root is error or isinstance(root, hub_errors.OfflineModeIsEnabled)):
        return (
            "Load it once where there is a network; or fetch it there (`hf download REPO "
            "--local-dir FOLDER`), bring the folder here and load that."
        )
    if isinstance(root, hub_errors.OfflineModeIsEnabled):
        return "Unset it, or use what is on this machine."
    if isinstance(root, hub_errors.GatedRepoError):
        return "Ask for access on its page, then log in and try again."
    if isinstance(root, hub_errors.RepositoryNotFoundError):
        return f"Check the name. {_LOGIN} read it if it is private."
    if isinstance(root, hub_errors.RevisionNotFoundError):
        return "Give a branch, tag or commit that its page lists."
    if status in (401, 403) and _is_of_storage(error):
        return "Try again: what allows it holds for a short time."
    if status == 401:
        return "Make a new one at the Hub's settings, and log in with `hf auth login`."
    if status == 403:
        reads = getattr(_request_of(error), "method", "") in ("GET", "HEAD")
        return f"{_LOGIN} {'read it' if reads else 'write to it'}."
    if status == 404:
        return "Check the name, and HF_ENDPOINT if that is set."
    if status in (409, 412):
        return "Look at what is there now, and try again."
    if is_unreachable(root):
        return "Check the network, and HF_ENDPOINT if that is set."
    if _is_of_network(root):
        return "Check the network, and try again later."
    return "Try again later."


def _root(error):
    """Return the error below those that only say "while uploading" or "not in the cache either"."""
    while error.__cause__ is not None and (
        type(error) is RuntimeError or isinstance(error, hub_errors.LocalEntryNotFoundError)
    ):
        error = error.__cause__
    return error


def _is_of_network(error):
    kinds = {kind.__name__ for kind in type(error).__mro__}
    is_client = type(error).__module__.partition(".")[0] in _CLIENTS
    return isinstance(error, ConnectionError | TimeoutError) or (
        is_client and bool(kinds & {"TransportError", "ConnectionError", "Timeout"})
    )


def _retry_after(error):
    """Return the seconds that the Hub asks to wait: by its own header, or by that of proxies."""
    headers = getattr(getattr(_root(error), "response", None), "headers", None) or {}
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isdigit() else None
