"""Warnings, logs and errors in the words of the command line, on its standard error."""

import logging
import re
import sys
import warnings
from contextlib import contextmanager

from skmoecbm.exceptions import SkmoecbmWarning, UnknownConceptsWarning

__all__ = ["in_options", "warnings_and_logs_as_notes", "without_notices", "without_warning"]

# what Python is told, and what the command line
_WORDS = (
    (
        r"\b(on_error|device|resize|gate|class_weight)='(\w+)'",
        lambda found: f"--{found[1].replace('_', '-')} {found[2]}",
    ),
    (r"\bload_concepts\('(\w+)'\)", r"--concepts \1"),
    (
        r"A bank of your own is a dict, a list, or a path that ends in '\.json'\.",
        "A bank of your own is a file whose name ends in .json.",
    ),
    # an image on the command line has a name; only Python counts from zero
    (r"\bimage [\d,]+ \(('.*?')\) cannot be read", r"image \1 cannot be read"),
)


def in_options(message, args):
    """Return a message in the words of the command line: ``on_error='missing'`` is an option."""
    if hasattr(args, "experts"):
        message = re.sub(r"^The backbone ('[^']*')", r"The model \1 of --experts", message)
    for python, words in _WORDS:
        message = re.sub(python, words, message)
    return message


def _unknown_concepts(warning, args):
    """Return what `fit` and `encode` say where a small model does not know a bank's words."""
    bank = getattr(args, "concepts", warning.bank)
    n = len(warning.concepts)
    some = ", ".join(map(repr, warning.concepts[:3]))
    more = f" and {n - 3:,} more" if n > 3 else ""
    return (
        f"{warning.backbone} knows {warning.n_concepts - n:,} of the {warning.n_concepts:,} "
        f"concepts of {bank}; dropped are {some}{more}. Take --concepts lesions with the demo "
        f"experts, or a model of free text. 'skmoecbm concepts show {bank} --backbone "
        f"{warning.backbone}' marks them all."
    )


@contextmanager
def warnings_and_logs_as_notes(args):
    """Print the package's warnings and logs as one line each, once, without the place in the code.

    Two experts that fail at the same image say the same: it is printed once.
    """
    show_others, told = warnings.showwarning, set()

    def tell(text):
        if text not in told:
            told.add(text)
            sys.stderr.write(f"note: {text}\n")

    def show(message, category, filename, lineno, file=None, line=None):
        if isinstance(message, UnknownConceptsWarning):
            tell(_unknown_concepts(message, args))
        elif issubclass(category, SkmoecbmWarning):
            tell(in_options(str(message), args))
        else:
            show_others(message, category, filename, lineno, file, line)

    class Notes(logging.Handler):
        def emit(self, record):
            tell(record.getMessage())

    logger, handler = logging.getLogger("skmoecbm"), Notes()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            warnings.simplefilter("default", SkmoecbmWarning)
            yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def without_notices():
    """Keep notices about the experts out of the log, where the result says them itself."""

    def is_other(record):
        return not getattr(record, "is_notice", False)

    logger = logging.getLogger("skmoecbm")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


@contextmanager
def without_warning(words):
    """Keep out a warning of the package that holds these words: the command says it better."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f".*{re.escape(words)}", SkmoecbmWarning)
        yield
