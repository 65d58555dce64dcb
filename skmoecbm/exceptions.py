"""The errors and warnings of the package; every message carries the remedy."""

__all__ = [
    "BackboneError",
    "FormatError",
    "InputError",
    "LanguageModelError",
    "SkmoecbmError",
    "SkmoecbmWarning",
]


class SkmoecbmError(Exception):
    """Base of every error that the package raises on purpose."""


class InputError(SkmoecbmError, ValueError):
    """Data or a parameter is not what was expected.

    Also a `ValueError`, so code written for scikit-learn catches it.
    """


class BackboneError(SkmoecbmError, RuntimeError):
    """An image-text model cannot be found, loaded or run."""


class LanguageModelError(SkmoecbmError, RuntimeError):
    """A language model cannot be reached, refuses the request or gives nothing of use."""


class FormatError(SkmoecbmError, ValueError):
    """A saved model or concept file does not follow the format."""


class SkmoecbmWarning(UserWarning):
    """Something worth knowing that does not stop the work."""
