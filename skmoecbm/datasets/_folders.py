"""Where data sets are kept that were downloaded."""

import os
from pathlib import Path

from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import DownloadError
from skmoecbm.store import default_cache_dir

__all__ = ["data_folder", "not_here"]


def data_folder(data_home=None, owner="data_folder"):
    """Return the folder of downloaded data sets, without creating it.

    Parameters
    ----------
    data_home : path-like, default=None
        None is `SKMOECBM_DATA` if set, else "datasets" in the user's cache folder, beside the
        embeddings (see :func:`skmoecbm.store.default_cache_dir`).
    owner : str
        The function that was given it, for the error.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputError
        If `data_home` is no path.
    """
    if data_home is None:
        chosen = os.environ.get("SKMOECBM_DATA")
        return Path(chosen).expanduser() if chosen else default_cache_dir().parent / "datasets"
    if not isinstance(data_home, str | os.PathLike) or not str(data_home):
        raise parameter_error(owner, "data_home", "a path or None", data_home)
    return Path(data_home).expanduser()


def not_here(what, folder, by_hand):
    """Return the error for what is missing where nothing may be downloaded.

    Parameters
    ----------
    what : str
        The beginning of the sentence, such as "HAM10000".
    folder : path-like
        Where it would be.
    by_hand : str
        How to get it without this package: its last sentence.
    """
    return DownloadError(
        f"{what} is not in {str(folder)!r}, and download_if_missing is False. Call once with "
        f"download_if_missing=True. {by_hand}"
    )
