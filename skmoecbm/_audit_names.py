"""The names of the checks of an audit, for the command line too: no heavy import."""

import difflib

from skmoecbm.exceptions import InputError

__all__ = ["CHECK_NAMES", "TRAINING_ROWS", "check_names"]

CHECK_NAMES = ("leaks", "concepts", "ceiling", "economy", "gate", "calibration", "language")

#: The remedy of checks that are not made, which stands in pages that both ways of calling write.
TRAINING_ROWS = "train=(images, y, groups) in Python, --train-rows on the command line"


def check_names(names):
    """Raise `InputError` where a name, list of str, that --checks was given is of no check."""
    for name in names:
        if name not in CHECK_NAMES:
            near = difflib.get_close_matches(name.lower(), CHECK_NAMES, 1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"--checks: there is no check {name!r}.{meant} Name some of "
                f"{', '.join(CHECK_NAMES)}."
            )
