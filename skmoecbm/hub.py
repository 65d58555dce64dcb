"""Save and load models as JSON and safetensors: nothing that is loaded can run code."""

import os
from pathlib import Path

from skmoecbm._last_step import best_of
from skmoecbm._model_folder import refuse_other_files
from skmoecbm._model_reading import read_folder_config, read_model, set_backbones
from skmoecbm._model_writing import model_files, replace_folder
from skmoecbm._validation import parameter_error

__all__ = ["load", "read_config", "save"]


def save(model, folder, *, label_map=None):
    """Save a fitted model as `config.json`, `model.safetensors` and a `README.md`.

    The backbones are named and fingerprinted, not contained; neither are images, training rows,
    file paths or groups. The same model gives the same bytes.

    Parameters
    ----------
    model : fitted Pipeline, classifier or encoder
        A pipeline of `ConceptEncoder` or `ExpertUnion` and a classifier of this package, or one
        of these alone; of a search the best of its models.
    folder : path
        Made if it is not there. A model saved there before is replaced, in one step at the end:
        a save that fails leaves it as it was.
    label_map : dict of str to label, default=None
        Codes in the user's table -> class, kept beside the model; see `read_config`.

    Raises
    ------
    InputError
        If the model is not fitted, has a step or parameter without a safe form, or the folder
        holds other files.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skmoecbm import ConceptBottleneckClassifier
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> model = ConceptBottleneckClassifier(alpha=1.0).fit(X, X[:, 0] > 0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, folder)
    ...     again = load(folder)
    >>> bool((again.predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    folder = _folder_of("save", folder)
    refuse_other_files(folder)
    replace_folder(folder, model_files(best_of(model), label_map=label_map))


def load(folder, *, backbones=None):
    """Load a model that `save` wrote, ready to predict, explain and evaluate.

    Only JSON and safetensors are read: no pickle, no import by name, no download. Backbones are
    loaded when they are first used, and compared then with what the model was fitted with.

    Parameters
    ----------
    folder : path
    backbones : dict of str to str, default=None
        Expert name -> backbone, for experts whose backbone lies elsewhere here, such as
        `{"biomedclip": "local-dir:/models/biomedclip"}`. A single encoder's name is its step's.

    Returns
    -------
    model : as it was saved

    Raises
    ------
    FormatError
        If the folder is not a saved model, is damaged, or is of a newer version.
    InputError
        If `backbones` names an expert that the model does not have.

    Notes
    -----
    Embeddings are cached in the default folder of this machine, wherever the saved model had its
    own: `set_params(cache_dir=...)` on an encoder changes that.
    """
    model = read_model(_folder_of("load", folder))
    set_backbones(model, backbones or {})
    return model


def read_config(folder):
    """Return the checked `config.json` of a saved model, without its arrays.

    Parameters
    ----------
    folder : path

    Returns
    -------
    ModelConfig
        With `format_version`, `library_versions`, `notices`, `label_map`, `model` and `arrays`.

    Raises
    ------
    FormatError
        If the folder is not a saved model, or of a newer version.
    """
    return read_folder_config(_folder_of("read_config", folder))


def _folder_of(owner, folder):
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise parameter_error(owner, "folder", "the path of a folder", folder)
    return Path(folder)
