"""How far the work is: a bar on a terminal and in notebooks, few plain lines in a log."""

import sys
import time

from tqdm import tqdm

__all__ = ["progress"]

# seconds between two lines of a log
_PAUSE = 30.0


def progress(total, *, unit, name, verbose):
    """Return what counts the work: a context manager with `update(count)`.

    Parameters
    ----------
    total : int
    unit : str
        What is counted, in the singular.
    name : str
        Who works.
    verbose : bool
        False shows nothing.

    Returns
    -------
    tqdm or PlainProgress
        A log, unlike a terminal, keeps every state of a bar: there, a line now and then.
    """
    # a notebook's standard error is no terminal, but it draws a bar
    draws = sys.stderr.isatty() or "ipykernel" in sys.modules
    if not verbose or not total or draws:
        return tqdm(total=total, unit=unit, desc=name, disable=not verbose or not total)
    return PlainProgress(total, unit, name)


class PlainProgress:
    """Writes a line to standard error every half minute, and one at the end."""

    def __init__(self, total, unit, name):
        self.total, self.unit, self.name = total, unit, name
        self.done = 0
        self.begin = self.told = time.monotonic()

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *error):
        """Tell what was done, also where an error stopped it."""
        self._tell()

    def update(self, count):
        """Count what was done since the last call."""
        self.done += count
        if time.monotonic() - self.told > _PAUSE and self.done < self.total:
            self._tell()

    def _tell(self):
        self.told = time.monotonic()
        units = f"{self.unit}s" if self.total != 1 else self.unit
        seconds = self.told - self.begin
        sys.stderr.write(f"{self.name}: {self.done:,}/{self.total:,} {units} in {seconds:.1f} s\n")
        sys.stderr.flush()
