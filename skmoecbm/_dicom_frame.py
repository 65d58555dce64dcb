"""Which frame of a DICOM file is meant, through which window."""

import numbers
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from skmoecbm._validation import check_number, parameter_error

__all__ = ["DicomFrame"]


@dataclass(frozen=True)
class DicomFrame:
    """One frame of a DICOM file, seen through a window; stands wherever an image may stand.

    A path, bytes or a file object alone is the first frame through the first window of the file.

    Parameters
    ----------
    file : path, bytes or binary file object
        Read as DICOM even if it does not look like it.
    frame : int, default=0
        Counted from 0, as `pydicom` does; viewers often count from 1.
    window : (center, width), int, str or None, default=None
        Numbers in the units of the film after its rescaling (Hounsfield units for CT), by the
        standard's LINEAR function; or which of the windows of the file: its number, counted from
        0, or its name (WindowCenterWidthExplanation, in any case). None is the file's first. It
        outranks `value_range`, and is for grey films only.

    Raises
    ------
    InputError
        If `frame` or `window` is none of these. What the file lacks is told when it is read.

    References
    ----------
    DICOM PS3.3, C.11.2 (VOI LUT module).

    Examples
    --------
    >>> from skmoecbm import DicomFrame
    >>> DicomFrame("ct.dcm", frame=3, window=(40, 400))
    DicomFrame('ct.dcm', frame=3, window=(40.0, 400.0))
    """

    file: Any
    frame: int = 0
    window: Any = None

    def __post_init__(self):
        check_number("DicomFrame", "frame", self.frame, low=0, integer=True)
        object.__setattr__(self, "frame", int(self.frame))
        object.__setattr__(self, "window", _checked_window(self.window))

    def __repr__(self):
        """Name the file and what differs from its first frame and window; no bytes."""
        if isinstance(self.file, str | os.PathLike):
            words = [repr(os.fspath(self.file))]
        elif isinstance(self.file, bytes | bytearray | memoryview):
            words = [f"<{len(self.file):,} bytes>"]
        else:
            words = [f"<{type(self.file).__name__}>"]
        words += [f"frame={self.frame}"] if self.frame else []
        words += [f"window={self.window!r}"] if self.window is not None else []
        return f"DicomFrame({', '.join(words)})"


def _checked_window(window):
    if window is None or isinstance(window, str):
        return window
    if isinstance(window, numbers.Integral) and not isinstance(window, bool):
        if window >= 0:
            return int(window)
    else:
        try:
            center, width = (float(number) for number in window)
        except (TypeError, ValueError):
            center = width = np.nan
        if np.isfinite([center, width]).all() and width > 0:
            return center, width
    raise parameter_error(
        "DicomFrame",
        "window",
        "None, (center, width) with a width above 0, or the number (from 0) or name of a window "
        "of the file",
        window,
    )
