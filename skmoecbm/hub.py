"""Save and load models as JSON and safetensors: nothing that is loaded can run code."""

import os
from pathlib import Path

from skmoecbm._foreign_saving import check_trusted
from skmoecbm._model_backbones import set_backbones, set_device
from skmoecbm._model_folder import refuse_other_files
from skmoecbm._model_reading import read_folder_config, read_model
from skmoecbm._model_writing import model_files, replace_folder
from skmoecbm._validation import parameter_error, resolve_device

__all__ = ["load", "read_config", "save"]


def save(
    model, folder, *, label_map=None, trusted=(), metrics=None, audit=None, card=None
):
    """Save a fitted model as `config.json`, `model.safetensors` and a `README.md`.

    The backbones are named and fingerprinted, not contained; neither are images, training rows,
    file paths or groups. The same model gives the same bytes.

    Parameters
    ----------
    model : fitted Pipeline, classifier or encoder
        A pipeline of `ConceptEncoder` or `ExpertUnion` and a classifier of this package, or one
        of these alone.
    folder : path
        Made if it is not there. A model saved there before is replaced, in one step at the end:
        a save that fails leaves it as it was.
    label_map : dict of str to label, default=None
        Codes in the user's table -> class, kept beside the model; see `read_config`.
    trusted : list of str, default=()
        Types of your own or of other libraries ("mypkg.MyTransformer") that heads, steps and
        experts may be made of. Whoever loads the model must name them too, and have them
        installed.
    metrics : Evaluation, ReportedMetrics, mapping, or list of these, default=None
        Measured numbers for the card, best as `ReportedMetrics`, which say on which data. The
        folder keeps them in the card alone: give them again when a loaded model is saved.
    audit : Audit, default=None
        Its verdicts stand in the card; its tables, which may name groups, do not.
    card : CardDetails, default=None
        Title, intended use, licence and the like, pictures of the concepts' weights, and images
        that may become public.

    Raises
    ------
    InputError
        If the model is not fitted, has a step or parameter without a safe form, a type that is
        not in `trusted`, or the folder holds other files.

    Notes
    -----
    Heads, steps and experts that are estimators of scikit-learn are kept in the format of skops
    (``pip install 'skmoecbm[skops]'``), never as pickles. Of their types all of scikit-learn's
    are trusted but those whose compiled code would follow any number in a file, and that are
    not checked here: neighbours by trees, splines.

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
    files = model_files(
        model,
        label_map=label_map,
        trusted=check_trusted("save", trusted),
        metrics=metrics,
        audit=audit,
        card=card,
    )
    replace_folder(folder, files)


def load(folder, *, backbones=None, device=None, trusted=()):
    """Load a model that `save` wrote, ready to predict, explain and evaluate.

    Only JSON and safetensors are read: no pickle, no import by name, no download. Backbones are
    loaded when they are first used, and compared then with what the model was fitted with.

    Parameters
    ----------
    folder : path
    backbones : dict of str to str, default=None
        Expert name -> backbone, for experts whose backbone lies elsewhere here, such as
        `{"biomedclip": "local-dir:/models/biomedclip"}`. A single encoder's name is its step's.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default=None
        Where encoders and classifiers compute; None is what each was fitted with.
    trusted : list of str, default=()
        Types beyond scikit-learn's that you know and that the model may be made of, such as
        "mypkg.MyTransformer"; the error names those that it needs. They are imported and run:
        name only what you would run from where the model comes from.

    Returns
    -------
    model : as it was saved

    Raises
    ------
    FormatError
        If the folder is not a saved model, is damaged, is of a newer version, or needs types that
        are not in `trusted`.
    InputError
        If `backbones` names an expert that the model does not have, or there is no such `device`;
        if skops is needed, or a type of `trusted`, and is not installed.

    Warns
    -----
    SkmoecbmWarning
        If a part was saved with another version of scikit-learn.

    Notes
    -----
    Embeddings are cached in the default folder of this machine, wherever the saved model had its
    own: `set_params(cache_dir=...)` on an encoder changes that.
    """
    if device is not None:
        resolve_device(device, "load")  # that there is none is told before anything is read
    model = read_model(_folder_of("load", folder), trusted=check_trusted("load", trusted))
    set_backbones(model, backbones or {})
    set_device(model, device)
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
