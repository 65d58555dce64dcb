"""The encoders of a model: where their backbones lie, on which device, and whether they are it."""

import re
from collections.abc import Mapping
from pathlib import Path

from sklearn.pipeline import Pipeline

from skmoecbm._base import ConceptClassifier
from skmoecbm._identity import check_same_backbone
from skmoecbm._validation import parameter_error, resolve_device
from skmoecbm.encoder import ConceptEncoder
from skmoecbm.exceptions import InputError
from skmoecbm.moe import TextTokenEncoder, TokenEncoder, TokenUnion

__all__ = ["check_backbones", "check_places", "encoders_of", "set_backbones", "set_device"]

# "ViT-B-16/openai" is a name; these begin a path
_PATH = re.compile(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]")

_ENCODERS = (ConceptEncoder, TextTokenEncoder, TokenEncoder)


def encoders_of(model):
    """Return the fitted encoders of a model that have a backbone, expert's name -> encoder.

    Of a union the names are its experts' or streams'; that of an encoder alone is its step's, or
    its class's where it is the whole model.
    """
    if isinstance(model, Pipeline):
        return {key: one for name, step in model.steps for key, one in _inside(step, name).items()}
    return _inside(model, type(model).__name__)


def check_places(owner, backbones):
    """Raise `InputError` unless `backbones` maps experts' names to names of backbones."""
    if not isinstance(backbones, Mapping):
        raise parameter_error(
            owner,
            "backbones",
            "a dict of an expert's name to its backbone, such as {'biomedclip': "
            "'local-dir:/models/biomedclip'}",
            backbones,
        )
    for name, backbone in backbones.items():
        if isinstance(backbone, Path) or (isinstance(backbone, str) and _PATH.match(backbone)):
            raise InputError(
                f"The 'backbones' parameter of {owner} gives {name!r} the path "
                f"{str(backbone)!r}. Write 'local-dir:{backbone}' for a folder."
            )
        if not isinstance(backbone, str):
            raise InputError(
                f"The 'backbones' parameter of {owner} must give {name!r} the name of a model, a "
                f"str. Got {backbone!r:.200} instead."
            )


def set_backbones(model, backbones):
    """Give encoders of a model backbones that lie elsewhere on this machine, expert -> name.

    A revision was one of the repository that the encoder named before, and goes with it.

    Raises
    ------
    InputError
        If a name is not of an expert with a backbone, or a backbone is not a str.
    """
    check_places("load", backbones)
    encoders = encoders_of(model)
    for name in backbones:
        if name not in encoders:
            raise InputError(
                f"The 'backbones' parameter of load names {name!r}; the model's experts with a "
                f"backbone are {list(encoders)}."
            )
    for name, backbone in backbones.items():
        if backbone != encoders[name].backbone:
            encoders[name].set_params(backbone=backbone, revision=None)


def set_device(model, device):
    """Let every encoder and classifier of a model compute on a device.

    Parameters
    ----------
    model : as `load` gives it
    device : {"auto", "cpu", "cuda", "cuda:N"} or None
        None leaves all as it is.

    Raises
    ------
    InputError
        If there is no such device here.
    """
    if device is None:
        return
    resolve_device(device, "load")
    steps = [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    for part in [*steps, *encoders_of(model).values()]:
        if isinstance(part, (*_ENCODERS, ConceptClassifier)):
            part.set_params(device=str(device))


def check_backbones(model):
    """Load every backbone of a model now, and raise unless each is the one that was recorded.

    Raises
    ------
    InputError
        If a backbone differs: which expert's, in which part.
    BackboneError
        If one cannot be had.
    """
    for name, encoder in encoders_of(model).items():
        try:
            check_same_backbone(encoder, encoder._load())
        except InputError as error:
            if hasattr(encoder, "_loaded_as"):  # then it is named
                raise
            raise InputError(f"Expert {name!r}: {error}") from None


def _inside(part, name):
    if isinstance(part, _ENCODERS):
        return {name: part}
    members = part.streams_ if isinstance(part, TokenUnion) else getattr(part, "experts_", ())
    return {key: one for key, one in members if isinstance(one, _ENCODERS)}
