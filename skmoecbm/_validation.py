"""The one error sentence, and how device, threads and seed are resolved."""

import contextlib
import numbers
import sys

import numpy as np
import torch
from sklearn.utils import check_random_state

from skmoecbm.exceptions import InputError

__all__ = [
    "check_choice",
    "check_number",
    "is_dicom_dataset",
    "one_thread",
    "parameter_error",
    "resolve_device",
    "torch_generator",
]


def parameter_error(owner, name, expected, got):
    """Return the `InputError` for a bad parameter, in the package's one sentence.

    Parameters
    ----------
    owner : object or str
        The estimator, function or its name.
    name : str
        The parameter at fault.
    expected : str
        What it must be; completes "must be ...".
    got : object
        What was passed; shown by `repr`, cut at 200 characters.
    """
    owner_name = owner if isinstance(owner, str) else type(owner).__name__
    shown = f"<{type(got).__name__}>" if is_dicom_dataset(got) else repr(got)
    if len(shown) > 200:
        shown = shown[:197] + "..."
    return InputError(
        f"The {name!r} parameter of {owner_name} must be {expected}. Got {shown} instead."
    )


def is_dicom_dataset(thing):
    """Return whether `thing` is a data set of pydicom's, whose repr names the patient."""
    pydicom = sys.modules.get("pydicom")  # whoever has one has imported it
    return pydicom is not None and isinstance(thing, pydicom.Dataset)


def check_choice(owner, name, value, choices):
    """Raise unless `value` is one of the strings (or None) in `choices`."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise parameter_error(owner, name, f"one of {listed}", value)


def check_number(
    owner, name, value, *, low=None, high=None, integer=False, low_open=False, auto=False
):
    """Raise unless `value` is a finite number (or integer) within [low, high], or may be "auto"."""
    if auto and isinstance(value, str) and value == "auto":
        return
    kind = numbers.Integral if integer else numbers.Real
    words = "an integer" if integer else "a number"
    if low is not None:
        words += f" {'greater than' if low_open else 'of at least'} {low}"
    if high is not None:
        words += f"{' and' if low is not None else ''} at most {high}"
    if auto:
        words += ", or 'auto'"
    good = isinstance(value, kind) and not isinstance(value, bool | np.bool_)
    good = good and np.isfinite(value)
    if good and low is not None:
        good = value > low if low_open else value >= low
    if good and high is not None:
        good = value <= high
    if not good:
        raise parameter_error(owner, name, words, value)


def resolve_device(device, owner="skmoecbm"):
    """Return the `torch.device` that `device` names.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:N"} or torch.device
        `"auto"` takes CUDA where torch sees it, else the CPU.

    Raises
    ------
    InputError
        If the name is unknown, or names a CUDA device that torch does not see.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise parameter_error(
            owner, "device", "'auto', 'cpu', 'cuda' or 'cuda:N'", device
        ) from error
    if resolved.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (resolved.index or 0) >= count:
            raise InputError(
                f"device={device!r} was asked for, but torch sees {count} CUDA device(s). "
                "Use device='auto' to take what is there, or install a CUDA build of torch."
            )
    elif resolved.type != "cpu":
        raise parameter_error(owner, "device", "'auto', 'cpu', 'cuda' or 'cuda:N'", device)
    return resolved


def torch_generator(random_state):
    """Return a CPU `torch.Generator` seeded from a scikit-learn `random_state`."""
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return torch.Generator().manual_seed(int(seed))


@contextlib.contextmanager
def one_thread(when=True):
    """Run a block of many small tensor operations on one thread of torch's.

    Threads that wait for each other between small operations spin: on a busy machine of two cores
    the demo experts took six to ten times the processor time with two threads as with one.
    """
    before = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if when:
            torch.set_num_threads(before)
