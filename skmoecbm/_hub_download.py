"""A saved model from the Hugging Face Hub: looked at first, then fetched at one commit."""

import logging
import re
from pathlib import Path

import huggingface_hub
import numpy as np
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

from skmoecbm._hub_errors import (
    hub_error,
    is_not_there,
    is_outage,
    is_unreachable,
    knock,
    patiently,
)
from skmoecbm._model_folder import ARRAYS, CARD, CONFIG
from skmoecbm._repository_names import is_repository, name_in
from skmoecbm._validation import check_number, parameter_error
from skmoecbm.exceptions import FormatError, HubError, InputError
from skmoecbm.schema import parse_config

__all__ = ["check_repository", "fetch_model", "fetch_named", "model_infos"]

logger = logging.getLogger("skmoecbm")

LIBRARY = "skmoecbm"  # the Hub's tag of our models; the card has it
_FILES = (CONFIG, ARRAYS, CARD)  # not the pictures that the card shows
_LIMITS = {CONFIG: 48 * 2**20, ARRAYS: 4 * 2**30, CARD: 8 * 2**20}
_MOVES = 3  # of a branch while it is read
_FETCHED = (
    "Or fetch it where there is a network (`hf download REPO --local-dir FOLDER`), bring the "
    "folder here and load that."
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-f]{6,39}")


def check_repository(owner, name, repo, revision):
    """Raise `InputError` unless `repo` is "user/repo" and `revision` a str or None."""
    try:
        good = is_repository(repo)
        validate_repo_id(repo if good else "")
    except HFValidationError:
        good = False
    if not good:
        error = parameter_error(owner, name, "the name of a Hub repository, 'user/repo'", repo)
        inside = name_in(repo)
        raise error if inside is None else InputError(f"{error} Give {inside!r}.")
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise parameter_error(owner, "revision", "a branch, tag or commit, or None", revision)


def fetch_model(repo, revision, access):
    """Return the folder, in the Hub's cache, of a repository's saved model; its name is the commit.

    Only the files of a saved model are fetched, and the arrays only after `config.json` was read
    and found to be of one. A file that is in the cache is not fetched again.

    Parameters
    ----------
    repo : str
        "user/repo".
    revision : str or None
        Branch, tag or commit.
    access : HubAccess

    Raises
    ------
    HubError
        If it cannot be had.
    FormatError
        If it is not a saved model, or larger than its own config.json says.
    """
    at = f" at revision {revision!r}" if revision else ""
    problem = f"Could not get the model {repo!r}{at} from the Hugging Face Hub"
    only_cached = access.local_files_only or huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        cached = _from_cache(repo, revision, access)
    except LocalEntryNotFoundError as error:
        if only_cached:
            told = hub_error(problem, error, local_files_only=access.local_files_only)
            raise _with_hint(told, error, revision) from error
        cached = None
    if cached is not None and (only_cached or _COMMIT.fullmatch(revision or "")):
        return cached
    try:
        return _from_hub(repo, revision, access, cached)
    except FormatError:
        raise
    except Exception as error:
        told = hub_error(problem, error)
        if is_unreachable(error):
            way_on = _FETCHED if cached is None else "HF_HUB_OFFLINE=1 asks it no more."
            told = HubError(f"{told} {way_on}")
        if cached is None or not is_outage(error):
            raise _with_hint(told, error, revision) from error
        logger.warning("%s The copy in the cache is taken, of commit %s.", told, cached.name)
        return cached


def fetch_named(name, revision, access):
    """Return as `fetch_model` what a name stands for that a folder might have had too."""
    try:
        return fetch_model(name, revision, access)
    except HubError as error:
        if not is_not_there(error.__cause__):
            raise
        raise HubError(f"{error} There is no folder {name!r} here either.") from error.__cause__


def _with_hint(told, error, revision):
    """Return an error that says it where a revision that is not found may be a commit cut short."""
    kinds = (RevisionNotFoundError, LocalEntryNotFoundError)
    if isinstance(error, kinds) and _SHORT.fullmatch(revision or ""):
        return HubError(f"{told} If {revision!r} is a commit, give the full commit (40 letters).")
    return told


def model_infos(*, author, search, limit, token):
    """Return the `ModelInfo` of each model with the tag of this library."""
    for name, value in {"author": author, "search": search}.items():
        if value is not None and not isinstance(value, str):
            raise parameter_error("list_models", name, "a str or None", value)
    if limit is not None:
        check_number("list_models", "limit", limit, low=1, integer=True)
    api = huggingface_hub.HfApi(token=token)
    try:
        # huggingface_hub itself tries a list again, for long also where there is no network
        patiently(knock)
        return patiently(
            lambda: list(
                api.list_models(
                    filter=LIBRARY, author=author, search=search, limit=limit, full=True
                )
            ),
            attempts=2,
        )
    except Exception as error:
        raise hub_error("Could not list the models of the Hugging Face Hub", error) from error


def _from_cache(repo, revision, access):
    """Return the folder that the cache holds, whole, and ask nobody."""
    options = access.options
    if not huggingface_hub.constants.HF_HUB_OFFLINE:  # that asks nobody, and says so
        options["local_files_only"] = True
    folder = Path(
        huggingface_hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(_FILES),
            **options,
        )
    )
    if not all((folder / name).is_file() for name in (CONFIG, ARRAYS)):
        raise LocalEntryNotFoundError(f"the copy in {folder} is not whole")
    return folder


def _from_hub(repo, revision, access, cached):
    """Return the folder of what the Hub has now; `cached` is that of what the cache has, or None.

    All is fetched by its commit, and the cache told at the end which commit the branch or tag is:
    where that fails on the way, what the cache held before can still be loaded without a network.
    """
    api = huggingface_hub.HfApi(token=access.token)

    def look(revision):
        info = api.model_info(repo, revision=revision, files_metadata=True)
        _check_sizes(repo, {entry.rfilename: entry.size for entry in info.siblings})
        return info

    def fetch(revision, names):
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=list(names), **access.options
            )
        )

    # who has a copy does not wait long for a network that is not there
    info = patiently(lambda: look(revision), attempts=5 if cached is None else 2)
    for _ in range(_MOVES):
        commit = info.sha
        if cached is not None and cached.name == commit:
            return cached
        folder = _whole(repo, info, fetch)
        logger.info("%s: commit %s, in %s", repo, commit, folder)
        if revision == commit:
            break
        try:
            if fetch(revision, [CONFIG]).name == commit:
                break
            info = look(revision)
        except Exception as error:
            if not is_outage(error):
                raise
            told = hub_error(f"{repo}: {revision or 'main'} is not remembered", error)
            logger.info("%s", told)
            break
        if info.sha == commit:
            break  # else it moved meanwhile
    return folder


def _whole(repo, info, fetch):
    """Return the folder of a commit's files, fetched once its config.json says what they are."""
    commit = info.sha
    folder = patiently(lambda: fetch(commit, [CONFIG]), attempts=3)
    try:
        config = parse_config((folder / CONFIG).read_bytes())
    except FormatError as error:
        raise FormatError(f"The Hub repository {repo!r} (commit {commit}): {error}") from None
    declared = sum(
        np.dtype(entry.dtype).itemsize * int(np.prod(entry.shape, dtype=object))
        for entry in config.arrays.values()
    )
    # the header of safetensors is JSON: a name, type, shape and place for each array
    header = 2**16 + sum(2**8 + 8 * len(name) for name in config.arrays)
    sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings}
    if sizes[ARRAYS] > declared + header:
        raise FormatError(
            f"The Hub repository {repo!r} (commit {commit}) has a {ARRAYS} of {sizes[ARRAYS]:,} "
            f"bytes, but its {CONFIG} declares arrays of {declared:,}. It is damaged or no model "
            "of skmoecbm, and was not fetched; tell its author."
        )
    return patiently(lambda: fetch(commit, _FILES), attempts=3)


def _check_sizes(repo, sizes):
    """Raise `FormatError` unless files, name -> bytes, can be those of a saved model."""
    for name in (CONFIG, ARRAYS):
        if name not in sizes:
            raise FormatError(
                f"The Hub repository {repo!r} is not a model saved by skmoecbm: it has no {name}. "
                "skmoecbm.list_models() lists those that are."
            )
    for name, limit in _LIMITS.items():
        if (sizes.get(name) or 0) > limit:
            raise FormatError(
                f"The Hub repository {repo!r} has a {name} of {sizes[name] / 2**20:,.0f} MB; more "
                f"than {limit / 2**20:,.0f} MB is not loaded. It is no model of skmoecbm."
            )
