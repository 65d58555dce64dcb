"""The form of a repository's name on the Hub, known before anything heavy is imported."""

import re

__all__ = ["is_repository"]

# A path such as "./model" or "../model" is none.
_FORM = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def is_repository(source):
    """Return whether a value has the form of "user/repo"."""
    return isinstance(source, str) and _FORM.fullmatch(source) is not None
