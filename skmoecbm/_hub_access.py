"""With what rights, and from which cache, files are taken from the Hugging Face Hub."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["HubAccess", "access_of", "check_access", "remember_access"]


@dataclass(frozen=True)
class HubAccess:
    """Where downloads are kept, who asks for them, and whether anything may be asked at all.

    Attributes
    ----------
    cache_dir : str or None
        The Hub's cache folder; None is huggingface_hub's own (`HF_HOME`, `HF_HUB_CACHE`).
    token : str, bool or None
        None is that of `hf auth login` or `HF_TOKEN`, where there is one; False is none. Not in
        the repr, and never in a pickle.
    local_files_only : bool
        Make no request: take only what the cache holds.
    """

    cache_dir: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False

    def __reduce__(self):
        """Refuse to be pickled: a file is no place for a token."""
        raise TypeError("HubAccess may hold a token, so it is not pickled")

    @property
    def options(self):
        """Return the keyword arguments that huggingface_hub's downloads take."""
        return {
            "cache_dir": self.cache_dir,
            "token": self.token,
            "local_files_only": self.local_files_only,
        }


# A loaded model fetches its backbones when they are first used, long after `load` was told how.
# What it was told is kept here, for this process, and not on the estimators: these are pickled.
_lock = threading.Lock()
_accesses = {}


def remember_access(backbones, access):
    """Let backbones, by name, be fetched this way from now on; the last word counts."""
    with _lock:
        for name in backbones:
            _accesses[name] = access


def access_of(backbone):
    """Return the `HubAccess` of a backbone, by name."""
    with _lock:
        return _accesses.get(backbone, HubAccess())


def check_access(owner, cache_dir, token, local_files_only):
    """Return the `HubAccess` of a user's parameters.

    Raises
    ------
    InputError
        If one is malformed. A token is not shown.
    """
    if cache_dir is not None:
        if not isinstance(cache_dir, str | Path) or not str(cache_dir):
            raise parameter_error(owner, "cache_dir", "a path or None", cache_dir)
        cache_dir = str(Path(cache_dir).expanduser())
    if not isinstance(local_files_only, bool):
        raise parameter_error(owner, "local_files_only", "True or False", local_files_only)
    return HubAccess(cache_dir, check_token(owner, token), local_files_only)


def check_token(owner, token):
    """Return a token without the space around it; errors do not show it."""
    if token is None or isinstance(token, bool):
        return token
    if isinstance(token, str):
        # read from a file it ends in a line end; what else is no header's text would be shown in
        # the HTTP client's own error
        token = token.strip()
        if token and token.isascii() and token.isprintable() and " " not in token:
            return token
    raise InputError(
        f"The 'token' parameter of {owner} must be a token of the Hugging Face Hub, a str without "
        "spaces, or None for that of `hf auth login`. What was given is something else; it is not "
        "shown here."
    )
