"""MedMNIST: small images of twelve sets, with their own parts and measures."""

import json
import os
from importlib import resources
from pathlib import Path

import numpy as np
from sklearn.metrics import cohen_kappa_score, make_scorer

from skmoecbm._validation import check_choice, parameter_error
from skmoecbm.datasets._bunch import describe_data, image_bunch
from skmoecbm.datasets._download import RemoteFile, download, folder_lock
from skmoecbm.datasets._files import existing_root
from skmoecbm.datasets._folders import data_folder, not_here
from skmoecbm.datasets._npz import read_labels, stacked_images
from skmoecbm.exceptions import InputError

__all__ = ["SIZES", "fetch_medmnist", "medmnist_sets"]

SIZES = (28, 64, 128, 224)
BASE_URL = "https://zenodo.org/records/10519652/files/"
_VOLUMES = "organ nodule adrenal fracture vessel synapse".split()
# task -> what scikit-learn's `scoring` takes
_SCORING = {"multi-class": "roc_auc_ovr", "binary-class": "roc_auc", "multi-label": "roc_auc"}
_ROOT = "give the folder or file with root="


def medmnist_sets():
    """Return name -> what is known of each set: md5 by size, task, classes, licence, source.

    Returns
    -------
    dict of str to dict
    """
    file = resources.files("skmoecbm.datasets") / "medmnist.json"
    return json.loads(file.read_text(encoding="utf-8"))


def fetch_medmnist(
    name,
    size=28,
    *,
    root=None,
    data_home=None,
    download_if_missing=True,
    return_X_y=False,
    verbose=True,
):
    """Load a set of MedMNIST; download it from Zenodo if necessary.

    Parameters
    ----------
    name : str
        "pathmnist", "chestmnist", "dermamnist", "octmnist", "pneumoniamnist", "retinamnist",
        "breastmnist", "bloodmnist", "tissuemnist", "organamnist", "organcmnist" or "organsmnist",
        in upper or lower case. The sets of volumes ("...3d") are not images.
    size : {28, 64, 128, 224}, default=28
        Pixels a side.
    root : path-like, default=None
        The .npz file as MedMNIST gives it (``retinamnist.npz``, ``retinamnist_64.npz``), or the
        folder that holds it. None downloads into `data_home`.
    data_home : path-like, default=None
        Where downloads are kept. None is `SKMOECBM_DATA`, or "datasets" in the cache folder.
    download_if_missing : bool, default=True
        False raises where the file is missing instead of downloading it.
    return_X_y : bool, default=False
        Return only `(images, target)`.
    verbose : bool, default=True
        Show a progress bar while downloading.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        images : uint8 array of shape (n, size, size, 1 or 3)
            More than half a gigabyte is mapped from a file in `data_home`, not held in memory.
        target : str array of shape (n,), or int DataFrame of shape (n, n_labels)
            The class; of "chestmnist" an indicator, whose columns are the labels.
        target_names : list of str
            The classes in the order of their numbers: of grades, from the lowest to the highest.
        metadata : pandas.DataFrame of n rows
            ``label``, the number of the class in the file (not of an indicator).
        splits : mapping with "official": part ("train", "val", "test") -> rows
            That of "dermamnist" shares lesions between its parts, and warns when it is taken.
        part : method
            ``data.part("train")`` is a Bunch of the rows of that part.
        task : {"multi-class", "binary-class", "multi-label", "ordinal"}
            What kind of labels these are.
        metric : str
            "macro_auroc", a key of `evaluate`: what MedMNIST measures all its sets by.
        scoring : str or callable
            The same as scikit-learn's `scoring` takes it; of grades Cohen's kappa with quadratic
            weights, which sees their order.
        DESCR : str
            Licence, citation, known traps.
    (images, target) : tuple
        If `return_X_y`.

    Raises
    ------
    InputError
        If there is no such set, or the file is another one.
    DownloadError
        If the file is not here and cannot be downloaded, or may not be.

    References
    ----------
    J. Yang et al., "MedMNIST v2", Scientific Data 10, 41 (2023).

    Examples
    --------
    >>> from skmoecbm.datasets import fetch_medmnist
    >>> data = fetch_medmnist("retinamnist", root="medmnist/")  # doctest: +SKIP
    >>> data.task, data.metric  # doctest: +SKIP
    ('ordinal', 'macro_auroc')
    """
    known = medmnist_sets()
    name = _check_name(name, known)
    if not isinstance(size, int | np.integer) or size not in SIZES:
        root_too = f"; {_ROOT}" if _is_path(size) else ""
        raise parameter_error("fetch_medmnist", "size", f"one of {SIZES}{root_too}", size)
    about = known[name]
    file_name = f"{name}.npz" if size == 28 else f"{name}_{size}.npz"
    home = data_folder(data_home, "fetch_medmnist") / "medmnist"
    path = _file(file_name, root, home, about["md5"][str(size)], download_if_missing, verbose)
    labels = read_labels(path)
    sizes = {part: len(rows) for part, rows in labels.items()}
    if sizes != about["n_rows"]:
        raise InputError(
            f"{str(path)!r} is not the file of {name}: it has {_counted(sizes)} images, {name} has "
            f"{_counted(about['n_rows'])}. Download it anew."
        )
    images = stacked_images(path, home / "unpacked")
    ends = np.cumsum([0, *(len(part) for part in labels.values())])
    if len(images) != ends[-1] or images.shape[1:3] != (size, size):
        raise InputError(
            f"{str(path)!r} has {len(images):,} images of {images.shape[1]} x {images.shape[2]} "
            f"pixels and {ends[-1]:,} labels; {size} x {size} was asked for. Download it anew."
        )
    target, metadata = _target(np.concatenate(list(labels.values())), about, path)
    if about["task"] == "ordinal":
        scoring = make_scorer(cohen_kappa_score, weights="quadratic", labels=about["classes"])
    else:
        scoring = _SCORING[about["task"]]
    data = image_bunch(
        name=name,
        images=images,
        target=target,
        target_names=about["classes"],
        metadata=metadata,
        splits={
            "official": {part: np.arange(ends[k], ends[k + 1]) for k, part in enumerate(labels)}
        },
        traps={"official": about["trap"]} if "trap" in about else None,
        task=about["task"],
        metric="macro_auroc",
        scoring=scoring,
        descr=_described(name, about),
    )
    return (data.images, data.target) if return_X_y else data


def _counted(sizes):
    return ", ".join(f"{n:,} {part}" for part, n in sizes.items())


def _is_path(value):
    """Tell whether a name looks like the folder or file that goes with `root`."""
    if not isinstance(value, str):
        return isinstance(value, os.PathLike)
    return "/" in value or os.sep in value or value.endswith(".npz") or os.path.exists(value)


def _check_name(name, known):
    lower = name.lower() if isinstance(name, str) else name
    if isinstance(lower, str) and lower.removesuffix("mnist3d") in _VOLUMES:
        raise InputError(
            f"The set {name!r} holds volumes, which image encoders cannot read. The sets of images "
            f"are {', '.join(known)}."
        )
    if lower not in tuple(known) and _is_path(name):
        raise parameter_error(
            "fetch_medmnist", "name", f"the name of a set, such as 'retinamnist'; {_ROOT}", name
        )
    check_choice("fetch_medmnist", "name", lower, tuple(known))
    return lower


def _file(file_name, root, home, md5, download_if_missing, verbose):
    """Return the path of the .npz file, downloaded if it must be."""
    by_hand = (
        f"By hand: get {BASE_URL}{file_name} and give it as `root`, or the folder that holds it."
    )
    if root is not None:
        path = Path(root).expanduser()
        if path.suffix != ".npz":
            path = existing_root(path, "MedMNIST", f"{file_name!r}") / file_name
        if not path.is_file():
            raise InputError(f"There is no file {str(path)!r}. {by_hand}")
        return path
    if not (home / file_name).exists():
        if not download_if_missing:
            raise not_here(f"{file_name!r} of MedMNIST", home, by_hand)
        file = RemoteFile(f"{BASE_URL}{file_name}?download=1", file_name, f"md5:{md5}")
        with folder_lock(home):
            download(file, home, remedy=by_hand, verbose=verbose)
    return home / file_name


def _target(labels, about, path):
    """Return names of classes, or an indicator, and the metadata."""
    import pandas as pd

    classes = about["classes"]
    if about["task"] == "multi-label":
        good = labels.ndim == 2 and labels.shape[1] == len(classes)
        top = 1
    else:
        labels = labels.reshape(len(labels), -1)
        good = labels.shape[1] == 1
        top = len(classes) - 1
    if not good or labels.min() < 0 or labels.max() > top:
        raise InputError(
            f"The labels of {str(path)!r} are not those of the {len(classes)} classes of this set. "
            "Check that it is the file of the set, and download it anew."
        )
    if about["task"] == "multi-label":
        return labels, None
    numbers = labels[:, 0]
    return np.array(classes)[numbers], pd.DataFrame({"label": numbers})


def _described(name, about):
    lines = [
        describe_data("medmnist"),
        f"## This set: {name}\n",
        f"{about['source']}\n",
        f"**Licence.** {about['licence']}.\n",
        f"**Traps.** {' '.join(filter(None, [about.get('trap'), about['note']]))}",
    ]
    return "\n".join(lines) + "\n"
