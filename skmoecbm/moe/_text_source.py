"""Where a language model comes from, and whether a name stands for one at all."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import open_clip

from skmoecbm._hub_access import access_of
from skmoecbm._model_source import (
    CONFIG_NAME,
    DEMO_NAMES,
    TOKENIZER_PATTERNS,
    WAY_ON,
    local_folder,
    read_json,
    snapshot,
    unknown_name,
)
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import BackboneError

__all__ = ["TextSource", "is_language_model", "locate_text"]

# Whole, or in parts; not the variants beside, such as model.fp16.safetensors.
_SAFE = ("model.safetensors", "model-*-of-*.safetensors")
_TORCH = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")


@dataclass(frozen=True, eq=False)
class TextSource:
    """The files of a language model, all of them on this machine.

    Attributes
    ----------
    name : str
        As it was given.
    model : str
        The same without anything local in it.
    revision : str or None
        The commit that the Hub resolved.
    folder : Path
        Where the tokenizer lies.
    config : dict
        Of transformers, without what names code to run.
    weights : list of Path
    """

    name: str
    model: str
    revision: str | None
    folder: Path
    config: dict
    weights: list


def is_language_model(name, revision=None):
    """Return whether a name stands for a model of transformers, not for one of open_clip.

    A folder or repository does where it holds no `open_clip_config.json`; "org/repo" alone is the
    repository of that name, where open_clip knows no architecture "org".

    Raises
    ------
    InputError, BackboneError
        If `revision` is given where there is none, or nothing is there.
    """
    if name in DEMO_NAMES:
        return False
    if name.startswith("local-dir:"):
        return not (local_folder(name) / CONFIG_NAME).is_file()
    if name.startswith("hf-hub:"):
        return _is_language_repository(name, revision)
    architecture, _, tag = name.rpartition("/")
    architecture = architecture.replace("/", "-")
    if open_clip.get_pretrained_cfg(architecture, tag):
        return False
    if not tag or not architecture or open_clip.get_model_config(architecture) is not None:
        raise unknown_name(name)
    return True


@lru_cache(maxsize=64)  # the Hub is asked once, and not in every `transform`
def _is_language_repository(name, revision):
    patterns = [CONFIG_NAME, "config.json"]
    folder = snapshot(_repository(name), revision, patterns, access_of(name))
    return not (folder / CONFIG_NAME).is_file()


def locate_text(name, revision=None):
    """Return the `TextSource` that a name stands for, downloading what is missing.

    Raises
    ------
    InputError
        If `revision` is given for a folder.
    BackboneError
        If files are missing or cannot be downloaded.
    """
    if name.startswith("local-dir:"):
        if revision is not None:
            raise parameter_error(
                "TextTokenEncoder",
                "revision",
                f"None for {name!r}, which is not on the Hub",
                revision,
            )
        return _from_folder(local_folder(name), name, "local-dir", None)
    repository, access = _repository(name), access_of(name)
    patterns = ["config.json", *TOKENIZER_PATTERNS]
    try:
        folder = snapshot(repository, revision, [*patterns, *_SAFE], access)
        if not _weights(folder):
            folder = snapshot(repository, folder.name, [*patterns, *_TORCH], access)
    except BackboneError as error:
        known = "" if name.startswith("hf-hub:") else " open_clip has no model of that name either."
        raise BackboneError(f"{error}{known}") from error
    return _from_folder(folder, name, name, folder.name)


def _repository(name):
    return name.removeprefix("hf-hub:")


def _from_folder(folder, name, model, revision):
    if revision is None and not folder.is_dir():
        raise BackboneError(
            f"The model folder {str(folder)!r} does not exist. Give the path of a folder with "
            "config.json, the weights and the tokenizer of a transformers model."
        )
    path = folder / "config.json"
    if not path.is_file():
        raise BackboneError(
            f"{name!r} holds neither {CONFIG_NAME} nor config.json. A model of open_clip has the "
            "first, a language model of transformers the second."
        )
    config = read_json(path)
    config.pop("auto_map", None)  # would name code to run
    if not isinstance(config.get("model_type"), str):
        raise BackboneError(
            f"The config.json of {name!r} does not say its 'model_type'. Write it in, such as "
            "'bert', in a copy of the folder, and name that: 'local-dir:FOLDER'."
        )
    weights = _weights(folder)
    if not weights:
        raise BackboneError(
            f"{name!r} holds no weights. Put the trained weights there as 'model.safetensors'; "
            f"without them there would be random numbers. {WAY_ON}"
        )
    return TextSource(name, model, revision, folder, config, weights)


def _weights(folder):
    """Return the files of the weights, safetensors where there are such."""
    for pattern in (*_SAFE, *_TORCH):
        if found := sorted(folder.glob(pattern)):
            return found
    return []
