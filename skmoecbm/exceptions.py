"""The errors and warnings of the package; every message carries the remedy."""

__all__ = [
    "BackboneError",
    "DownloadError",
    "FormatError",
    "HubError",
    "InputError",
    "LanguageModelError",
    "SkmoecbmError",
    "SkmoecbmWarning",
    "UnknownConceptsWarning",
    "Unreadable",
]


class SkmoecbmError(Exception):
    """Base of every error that the package raises on purpose."""


class InputError(SkmoecbmError, ValueError):
    """Data or a parameter is not what was expected.

    Also a `ValueError`, so code written for scikit-learn catches it.
    """


class Unreadable(InputError):
    """One image is damaged or absent: what `on_error="missing"` forgives."""


class BackboneError(SkmoecbmError, RuntimeError):
    """An image-text model cannot be found, loaded or run."""


class DownloadError(SkmoecbmError, OSError):
    """A data set is not on this machine, and cannot be downloaded or may not be.

    Also an `OSError`, as scikit-learn's own functions raise it.
    """


class HubError(SkmoecbmError, RuntimeError):
    """The Hugging Face Hub cannot be reached, does not have it, or does not allow it."""


class LanguageModelError(SkmoecbmError, RuntimeError):
    """A language model cannot be reached, refuses the request or gives nothing of use."""


class FormatError(SkmoecbmError, ValueError):
    """A saved model or concept file does not follow the format."""


class SkmoecbmWarning(UserWarning):
    """Something worth knowing that does not stop the work."""


class UnknownConceptsWarning(SkmoecbmWarning):
    """A model of fixed vocabulary does not know some concepts, and they are dropped.

    Attributes
    ----------
    backbone : str
        The model.
    bank : str
        The name of the bank.
    n_concepts : int
        How many concepts the bank has.
    concepts : tuple of str
        All that are dropped; the message names the first few.
    """

    def __init__(self, message, *, backbone="", bank="", n_concepts=0, concepts=()):
        super().__init__(message)
        self.backbone = backbone
        self.bank = bank
        self.n_concepts = n_concepts
        self.concepts = tuple(concepts)
