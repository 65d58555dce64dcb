"""What a user names a model by: a folder, or a repository of the Hub; nothing heavy is imported."""

import os
import re
from pathlib import Path

from skmoecbm.exceptions import FormatError, InputError

__all__ = ["is_repository", "local_folder", "name_in"]

_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"
# A path such as "./model" or "../model" is none.
_FORM = re.compile(_NAME, re.ASCII)
_HOSTS = r"(?:www\.)?(?:huggingface\.co|hf\.co)"
_ADDRESS = re.compile(
    rf"(?:(?:https?://)?{_HOSTS}/|hf://|hf-hub:)(?!(?:datasets|spaces)/)(?:models/)?"
    rf"(?P<name>{_NAME})"
    r"(?:@[^/\s]+|[/?#]\S*)?",
    re.ASCII | re.IGNORECASE,
)


def is_repository(source):
    """Return whether a value has the form of "user/repo"."""
    return isinstance(source, str) and _FORM.fullmatch(source) is not None


def name_in(address):
    """Return the "user/repo" in a repository's address, or None."""
    found = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    return found["name"] if found else None


def local_folder(source):
    """Return the folder of a model that `source` names, there or not; None where it is "user/repo".

    Raises
    ------
    FormatError
        If it is a file: a name like "model/config.json" is never asked of the Hub.
    InputError
        If it is an address.
    """
    path = Path(source)
    if path.is_dir():
        return path
    name = name_in(source)
    if name is not None:
        raise InputError(f"{source!r} is an address. Give the name in it, {name!r}.")
    if isinstance(source, str) and re.match(r"https?://", source):
        raise InputError(
            f"{source!r} is an address. Give the name of a repository, 'user/repo', or a folder."
        )
    if os.fspath(path).startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:
            raise InputError(
                f"{str(source)!r} names the home folder of a user who is not here. Give the whole "
                "path."
            ) from None
    if path.is_file():
        raise FormatError(
            f"'{path}' is a file; a saved model is a folder. Give its folder, '{path.parent}'."
        )
    return None if is_repository(source) else path
