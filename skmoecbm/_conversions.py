"""From the `config.json` of an older format version to that of the next, as plain JSON."""

__all__ = ["convert"]


def convert(data, version):
    """Return the content of a `config.json`, size-checked JSON, as `version` says it.

    A step changes what it knows; what is malformed it leaves for the check that follows.

    Parameters
    ----------
    data : dict
        With an integer `format_version` from 0 to `version`.
    version : int
    """
    for old in range(data["format_version"], version):
        data = {**_STEPS[old](data), "format_version": old + 1}
    return data


def _from_0(data):
    """Version 0 did not tell the library that reads it, nor what was seen in training.

    Nothing is made up for that: `needs_skmoecbm` is of the version, a training that was not
    recorded stays absent.
    """
    return {**data, "needs_skmoecbm": "0.1"}


_STEPS = {0: _from_0}
