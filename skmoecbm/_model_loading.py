"""How `load` finds a model, and what it does with one once its files are read."""

from typing import NamedTuple

from skmoecbm._foreign_saving import check_trusted
from skmoecbm._hub_access import remember_access
from skmoecbm._hub_download import check_repository, fetch_named
from skmoecbm._model_backbones import (
    check_backbones,
    check_places,
    encoders_of,
    set_backbones,
    set_device,
)
from skmoecbm._model_reading import read_model
from skmoecbm._repository_names import local_folder
from skmoecbm._validation import resolve_device
from skmoecbm.exceptions import InputError

__all__ = ["LoadOptions", "check_options", "find_folder", "read_with"]


class LoadOptions(NamedTuple):
    """What is done with a model beside reading it; the parameters of `load`."""

    device: str | None
    backbones: dict
    trusted: tuple
    check_backbones: bool


def check_options(owner, device, backbones, trusted, check):
    """Return the `LoadOptions`, told to be wrong before anything is read or fetched."""
    if device is not None:
        resolve_device(device, owner)
    places = {} if backbones is None else backbones
    check_places(owner, places)
    return LoadOptions(device, places, check_trusted(owner, trusted), check)


def find_folder(source, revision, access):
    """Return the folder of what `load` was given: itself, or where the Hub's files were put."""
    folder = local_folder(source)
    if folder is None:
        check_repository("load", "source", source, revision)
        return fetch_named(source, revision, access)
    if revision is not None:
        raise InputError(
            f"The 'revision' parameter of load is for a repository of the Hub; {str(source)!r} "
            f"{'is a folder here' if folder.is_dir() else 'is not the name of one'}. Leave it "
            "out, or call from_pretrained('user/repo', revision=...)."
        )
    return folder


def read_with(folder, access, options):
    """Return the model of a folder, its encoders and classifiers set as the options say."""
    model = read_model(folder, trusted=options.trusted)
    set_backbones(model, options.backbones)
    set_device(model, options.device)
    names = {encoder.backbone for encoder in encoders_of(model).values()}
    remember_access(names, access)
    if options.check_backbones:
        check_backbones(model)
    return model
