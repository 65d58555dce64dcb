"""From a fitted model to the bytes of its files, and onto the disk in one step."""

import hashlib
import secrets
import shutil

import numpy as np
import safetensors.numpy
from pydantic import ValidationError

from skmoecbm._card_files import card_files
from skmoecbm._last_step import best_of
from skmoecbm._model_folder import ARRAYS, CONFIG
from skmoecbm._packing import pack, unpack
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.schema import ArrayEntry, ModelConfig, library_versions, parse_config, tell

__all__ = ["model_files", "replace_folder"]


def model_files(
    model,
    *,
    label_map=None,
    trusted=(),
    metrics=None,
    audit=None,
    card=None,
    repo_id=None,
    revision=None,
):
    """Return the files of a fitted model, name -> bytes; the same model gives the same bytes.

    Parameters
    ----------
    model : fitted estimator
    label_map : dict of str to label, default=None
    trusted : tuple of str, default=()
        Types of others that may be in it; see `save`.
    metrics, audit, card, repo_id, revision
        For the card: see `card_files`.
    """
    is_map = isinstance(label_map, dict) and all(isinstance(code, str) for code in label_map)
    if label_map is not None and not is_map:
        wanted = "a dict of codes, each a str as it stands in the table, to classes"
        raise parameter_error("save", "label_map", wanted, label_map)
    model, arrays = best_of(model), {}
    try:
        node = pack(model, arrays, trusted=trusted)
        arrays = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
        content = safetensors.numpy.save(arrays)
        config = ModelConfig(
            library_versions=library_versions(),
            notices=_notices(node),
            label_map=label_map,
            model=node,
            arrays={
                name: ArrayEntry(shape=array.shape, dtype=array.dtype.name)
                for name, array in arrays.items()
            },
            arrays_sha256=hashlib.sha256(content).hexdigest(),
        )
    except ValidationError as error:
        raise InputError(f"The model cannot be saved: {tell(error)}.") from None
    text = config.to_json()
    try:
        written = text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 30) : error.end + 30]
        raise InputError(
            f"The model cannot be saved: it has a text with half a character, near {near!r}. Write "
            "the name or label anew."
        ) from None
    # what cannot be loaded is not saved
    unpack(parse_config(text).model, dict(arrays), trusted=trusted)
    beside = card_files(
        model,
        config,
        arrays,
        metrics=metrics,
        audit=audit,
        card=card,
        repo_id=repo_id,
        revision=revision,
    )
    return {CONFIG: written, ARRAYS: content, **beside}


def replace_folder(folder, contents):
    """Write files into a new folder beside, then put it in the place of `folder`."""
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    # with the rights that the user gives to new folders, where those of `tempfile` are fixed
    new = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    new.mkdir()
    old = new.with_name(new.name + "-old")
    try:
        for name, content in contents.items():
            (new / name).write_bytes(content)
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _notices(node):
    """Return the distinct notices of the backbones in a node."""
    if node.kind == "Pipeline":
        found = [notice for step in node.steps for notice in _notices(step.node)]
    elif node.kind == "ExpertUnion":
        found = [notice for expert in node.experts for notice in _notices(expert.encoder)]
    elif node.kind == "TokenUnion":
        found = [notice for stream in node.streams for notice in _notices(stream.encoder)]
    else:
        found = [node.notice] if getattr(node, "notice", None) else []
    return tuple(dict.fromkeys(found))
