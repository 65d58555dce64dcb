"""CheXpert: chest X-rays of Stanford Hospital with fourteen labels, some of them uncertain."""

import os
import re

import numpy as np

from skmoecbm._validation import check_choice
from skmoecbm.datasets._bunch import image_bunch
from skmoecbm.datasets._chexpert_labels import (
    LABELS,
    POLICIES,
    chosen_labels,
    indicator_of,
    known_rows,
    rows_of_view,
)
from skmoecbm.datasets._files import ON_MISSING, existing_root, keep_present
from skmoecbm.datasets._splits import group_split
from skmoecbm.datasets._tables import read_frame
from skmoecbm.exceptions import InputError

__all__ = ["load_chexpert"]

_TABLES = {
    "train": ("train.csv",),
    "val": ("valid.csv", "val.csv", "val_labels.csv"),
    "test": ("test.csv", "test_labels.csv"),
}
_HOLDS = "train.csv, valid.csv and the folders train and valid (CheXpert-v1.0 or -small)"
_BY_HAND = (
    "Get CheXpert at https://stanfordaimi.azurewebsites.net (after signing its agreement), unpack "
    "it, and give the folder that holds train.csv as `root`."
)
_PATIENT = re.compile(r"patient\d+")


def load_chexpert(
    root,
    *,
    uncertain="ones",
    labels=None,
    view="frontal",
    split=None,
    on_missing="raise",
    return_X_y=False,
):
    r"""Load CheXpert, chest X-rays with fourteen labels, from a local folder.

    Parameters
    ----------
    root : path-like
        CheXpert-v1.0, CheXpert-v1.0-small, or the folder around it; also the batches of the newer
        download ("CheXpert-v1.0 batch 2 (train 1)"), and tables of the test part beside it.
    uncertain : {"ones", "zeros", "ignore"}, default="ones"
        What a label is where the report is unsure (-1): there, not there, or not known. With
        "ignore" it is NaN, and films with such a label are in no part of the splits, since
        classifiers take none; the fewer `labels`, the fewer films are lost.
    labels : None, "competition" or list of str, default=None
        All fourteen; the five that the paper and its competition judge (atelectasis, cardiomegaly,
        consolidation, edema, pleural effusion); or some by name.
    view : {"frontal", "lateral", "PA", "AP", "all"}, default="frontal"
    split : str, default=None
        Which split is the default: "official" or "group" (70, 10 and 20 in 100 by patient, of all
        films here). None is "official" where the validation part is here.
    on_missing : {"raise", "warn", "ignore"}, default="raise"
        What to do about images that the tables name and the folder lacks: "warn" and "ignore" leave
        them out.
    return_X_y : bool, default=False
        Return only `(images, target)`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        images : object array of shape (n,)
            Paths, as str.
        target : DataFrame of shape (n, n_labels), int, or float with NaN
            1 where the label is there. What a report does not mention counts as not there.
        target_names : list of str
            The labels that were asked for.
        groups : array of shape (n,)
            The patient, as the paths have it.
        metadata : pandas.DataFrame of n rows
            The columns of the tables, labels as they are among them; ``view``, ``part`` and
            ``n_uncertain``.
        splits : mapping of str to dict of str to int array
            Name -> part ("train", "val", "test" where its table is here) -> rows.
        part : method
            ``data.part("train")`` is a Bunch of the rows of that part of the default split.
        task, metric, scoring : str
            "multi-label"; "macro_auroc" of `evaluate`, "roc_auc" of scikit-learn.
        uncertain : str
            What was made of uncertain labels: the parameter.
        DESCR : str
            Licence, citation, known traps.
    (images, target) : tuple
        If `return_X_y`.

    Raises
    ------
    InputError
        If the folder lacks tables or images, or a parameter is none of the above.

    References
    ----------
    J. Irvin et al., "CheXpert: a large chest radiograph dataset with uncertainty labels and expert
    comparison", AAAI 2019.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skmoecbm.datasets import load_chexpert
    >>> with tempfile.TemporaryDirectory() as root:
    ...     rows = ["Path,Sex,Age,Frontal/Lateral,AP/PA,Edema,Pneumothorax"]
    ...     for k in range(1, 21):
    ...         film = f"train/patient{k:05d}/study1/view1_frontal.jpg"
    ...         (Path(root) / film).parent.mkdir(parents=True)
    ...         (Path(root) / film).touch()  # opened when it is encoded
    ...         rows.append(f"CheXpert-v1.0-small/{film},Male,60,Frontal,AP,{-(k % 2)}.0,1.0")
    ...     _ = (Path(root) / "train.csv").write_text("\n".join(rows))
    ...     data = load_chexpert(root, labels=["Edema", "Pneumothorax"])
    >>> data.target.sum().to_dict()
    {'pulmonary edema': 10, 'pneumothorax': 20}
    >>> print(data.groups[0])
    patient00001
    """
    check_choice("load_chexpert", "uncertain", uncertain, POLICIES)
    check_choice("load_chexpert", "on_missing", on_missing, ON_MISSING)
    check_choice("load_chexpert", "split", split, (None, "official", "group"))
    codes = chosen_labels(labels, "load_chexpert")
    root = existing_root(root, "CheXpert", _HOLDS)
    folders = [root, *sorted(path for path in root.glob("[Cc]he[Xx]pert*") if path.is_dir())]
    frame = _films(root, folders)
    frame = frame[
        rows_of_view(frame["view"], view, owner="load_chexpert", name="CheXpert")
    ].reset_index(drop=True)
    ids = frame["Path"].tolist()
    indicator, frame["n_uncertain"] = indicator_of(
        frame, codes, uncertain, name="CheXpert", ids=ids
    )
    patients = np.array([_patient_of(path) for path in ids])
    paths = _found(ids, folders)
    here = keep_present(
        paths, ids, name="CheXpert", root=root, on_missing=on_missing, remedy=_BY_HAND
    )
    frame, indicator, patients = frame[here], indicator[here], patients[here]
    splits = _splits(frame, indicator, patients)
    if split is not None and split not in splits:
        raise InputError(
            f"CheXpert here has no split {split!r}. 'official' needs valid.csv and its films "
            "beside those of train.csv; 'group' needs films of 10 patients."
        )
    data = image_bunch(
        name="chexpert",
        images=[path for path in paths if path is not None],
        target=indicator,
        target_names=[LABELS[code] for code in codes],
        groups=patients,
        group_word="patient",
        metadata=frame,
        splits=known_rows(indicator, splits),
        default_split=split,
        absent_splits={"official": "Put valid.csv and the folder valid beside train.csv."},
        task="multi-label",
        metric="macro_auroc",
        scoring="roc_auc",
        more={"uncertain": uncertain},
    )
    return (data.images, data.target) if return_X_y else data


def _films(root, folders):
    """Return the rows of all tables that are here, with `part` and `view`."""
    import pandas as pd

    frames = []
    for part, names in _TABLES.items():
        places = [folder / name for folder in folders for name in names]
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            frame = read_frame(path, name="CheXpert", columns=["Path"])
            frames.append(frame.assign(part=part))
    if not frames:
        raise InputError(
            f"The folder of CheXpert, {str(root)!r}, has neither train.csv nor valid.csv. "
            f"{_BY_HAND}"
        )
    frame = pd.concat(frames, ignore_index=True)
    frame["view"] = _views(frame)
    return frame


def _views(frame):
    """Return PA, AP, frontal or lateral of each film; tables of the test part only have paths."""
    stems = frame["Path"].str.rsplit("/", n=1).str[-1].str.lower()
    views = np.where(stems.str.contains("lateral"), "lateral", "frontal").astype(object)
    if "AP/PA" in frame.columns:
        known = (views == "frontal") & frame["AP/PA"].isin(["AP", "PA"]).to_numpy()
        views[known] = frame["AP/PA"].to_numpy()[known]
    return views


def _patient_of(path):
    found = _PATIENT.search(path)
    if found is None:
        raise InputError(
            f"The table of CheXpert names {path!r}, where no patient can be found: paths look like "
            "'CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg'. Get the table anew."
        )
    return found[0]


def _found(ids, folders):
    """Return where each film is, None where it is nowhere.

    Tables name paths from the folder of another release on ('CheXpert-v1.0/train/...'), and the
    newer download has patients of the training part right below each of its batches.
    """
    places = [(str(folder), skipped) for skipped in (0, 1) for folder in folders]
    paths, likely = [], places[0]
    for name in ids:
        parts = name.split("/")
        if parts[0].lower().startswith("chexpert"):
            parts = parts[1:]
        path = None
        for place in (likely, *places):  # most films are where the one before was
            folder, skipped = place
            path = os.path.join(folder, *parts[skipped:])
            if os.path.isfile(path):
                likely = place
                break
            path = None
        paths.append(path)
    return paths


def _splits(frame, indicator, patients):
    rows = {part: np.flatnonzero(frame["part"] == part) for part in _TABLES}
    rows = {part: at for part, at in rows.items() if len(at)}
    splits = {"official": rows} if len(rows) > 1 else {}
    if len(set(patients.tolist())) >= 10:
        splits["group"] = group_split(frame["Path"], indicator, patients)
    return splits or {"official": rows}
