"""NIH ChestX-ray14: chest X-rays with fourteen findings, grouped by patient."""

import numpy as np

from skmoecbm._validation import check_choice
from skmoecbm.datasets._archives import unpack
from skmoecbm.datasets._bunch import image_bunch
from skmoecbm.datasets._download import download, folder_lock
from skmoecbm.datasets._files import ON_MISSING, existing_root, images_below, keep_present
from skmoecbm.datasets._folders import data_folder, not_here
from skmoecbm.datasets._hub_files import hub_files
from skmoecbm.datasets._splits import group_split, rows_left, split_of_column, strange_parts
from skmoecbm.datasets._tables import column_of, find_table, read_frame, tables_below
from skmoecbm.exceptions import InputError

__all__ = ["FINDINGS", "fetch_chestxray14"]

FINDINGS = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Effusion": "pleural effusion",
    "Infiltration": "infiltration",
    "Mass": "mass",
    "Nodule": "nodule",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
    "Consolidation": "consolidation",
    "Edema": "pulmonary edema",
    "Emphysema": "emphysema",
    "Fibrosis": "pulmonary fibrosis",
    "Pleural_Thickening": "pleural thickening",
    "Hernia": "hernia",
}
REPO = "alkzar90/NIH-Chest-X-ray-dataset"
REVISION = "d444bf39439f4fbfac6922e2472b1bf2554309e7"
_TEXTS = ("data/Data_Entry_2017_v2020.csv", "data/train_val_list.txt", "data/test_list.txt")
_ARCHIVES = tuple(f"data/images/images_{k:03d}.zip" for k in range(1, 13))
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
_IMAGE = ("Image Index", "image", "image_id")
_PATIENT = ("Patient ID", "patient", "patient_id")
_HOLDS = (
    "the images (images_001/images and so on, or one folder) and Data_Entry_2017.csv, best with "
    "train_val_list.txt and test_list.txt"
)
_BY_HAND = (
    "By hand: get the archives images_001 to images_012, Data_Entry_2017_v2020.csv, "
    "train_val_list.txt and test_list.txt from https://nihcc.app.box.com/v/ChestXray-NIHCC (or the "
    "same from Kaggle, nih-chest-xrays/data), unpack them into one folder and give it as `root`."
)


def fetch_chestxray14(
    root=None,
    *,
    split=None,
    data_home=None,
    download_if_missing=True,
    on_missing="raise",
    return_X_y=False,
    verbose=True,
):
    r"""Load NIH ChestX-ray14, X-rays with fourteen findings; download it if necessary (45 GB).

    Parameters
    ----------
    root : path-like, default=None
        A folder that holds the images and their table: as NIH or Kaggle give them, a part of it, or
        with a table of your own with columns image, patient and the fourteen findings as 0 and 1.
        None downloads a copy on the Hugging Face Hub into `data_home`.
    split : str, default=None
        Which split is the default of the result: "official" (NIH's, by patient), "group" (70, 10
        and 20 in 100 by patient), or one that the table names in a column. None is "official"
        where NIH's two lists are there, else "group".
    data_home : path-like, default=None
        Where downloads are kept. None is `SKMOECBM_DATA`, or "datasets" in the cache folder.
    download_if_missing : bool, default=True
        False raises where something is missing instead of downloading it.
    on_missing : {"raise", "warn", "ignore"}, default="raise"
        What to do about images that the table names and the folder lacks: "warn" and "ignore" leave
        them out.
    return_X_y : bool, default=False
        Return only `(images, target)`.
    verbose : bool, default=True
        Show progress bars while downloading.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        images : object array of shape (n,)
            Paths, as str.
        target : DataFrame of shape (n, 14), int
            1 where the report names the finding. The columns are `target_names`.
        target_names : list of 14 str
            The findings.
        groups : array of shape (n,)
            The patient.
        metadata : pandas.DataFrame of n rows
            The columns of the table.
        splits : mapping of str to dict of str to int array
            Name -> part ("train", "test", "val" of some) -> rows.
        part : method
            ``data.part("train")`` is a Bunch of the rows of that part of the default split.
        task, metric, scoring : str
            "multi-label"; "macro_auroc" of `evaluate`, "roc_auc" of scikit-learn.
        DESCR : str
            Licence, citation, known traps.
    (images, target) : tuple
        If `return_X_y`.

    Raises
    ------
    InputError
        If the folder lacks images or the table, or the table has other findings.
    DownloadError
        If something is not here and cannot be downloaded, or may not be.

    References
    ----------
    X. Wang et al., "ChestX-ray8: hospital-scale chest X-ray database", CVPR 2017.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skmoecbm.datasets import fetch_chestxray14
    >>> with tempfile.TemporaryDirectory() as root:
    ...     rows = ["Image Index,Finding Labels,Patient ID"]
    ...     for k in range(40):
    ...         rows.append(f"{k:08d}_000.png,{'Mass|Edema' if k < 10 else 'No Finding'},{k // 2}")
    ...         (Path(root) / f"{k:08d}_000.png").touch()  # opened when they are encoded
    ...     _ = (Path(root) / "Data_Entry_2017.csv").write_text("\n".join(rows))
    ...     data = fetch_chestxray14(root)
    >>> data.target.shape, int(data.target["mass"].sum())
    ((40, 14), 10)
    >>> train, test = data.part("train"), data.part("test")
    >>> set(train.groups) & set(test.groups)
    set()
    """
    check_choice("fetch_chestxray14", "on_missing", on_missing, ON_MISSING)
    if root is None:
        root = data_folder(data_home, "fetch_chestxray14") / "chestxray14"
        _download_all(root, download_if_missing, verbose)
    root = existing_root(root, "ChestX-ray14", _HOLDS)
    tables = tables_below(root)
    frame, path = _table(root, tables)
    ids = frame[column_of(frame.columns, _IMAGE)].astype(str).tolist()
    patients = frame[column_of(frame.columns, _PATIENT)].to_numpy()
    indicator = _indicator(frame, path, ids)
    splits, strange = _splits(frame, tables, ids, indicator, patients)
    if split is not None and split not in splits:
        listed = ", ".join(map(repr, splits))
        lists = "" if "official" in splits else " 'official' needs NIH's two lists in the folder."
        raise InputError(
            f"ChestX-ray14 here has no split {split!r}; choose one of {listed}.{lists}"
        )
    found = images_below(root, skip=("__macosx",))
    stems = [name.rpartition(".")[0] or name for name in ids]
    paths = [found.get(stem) for stem in stems]
    here = keep_present(
        paths, ids, name="ChestX-ray14", root=root, on_missing=on_missing, remedy=_BY_HAND
    )
    data = image_bunch(
        name="chestxray14",
        images=[path for path in paths if path is not None],
        target=indicator[here],
        target_names=list(FINDINGS.values()),
        groups=patients[here],
        group_word="patient",
        metadata=frame[here],
        splits={name: rows_left(parts, here) for name, parts in splits.items()},
        default_split=split,
        absent_splits={"official": "Put NIH's train_val_list.txt and test_list.txt beside them."},
        task="multi-label",
        metric="macro_auroc",
        scoring="roc_auc",
    )
    data.splits.add_traps(strange)
    return (data.images, data.target) if return_X_y else data


def _table(root, tables):
    """Return the table that names images and patients, and its path."""
    known = ("Data_Entry_2017", "labels", "metadata")
    for needed in (["Finding Labels"], list(FINDINGS)):
        columns = [_IMAGE, _PATIENT, *needed]
        path = find_table(tables, columns, known=known, name="ChestX-ray14")
        if path is not None:
            return read_frame(path, name="ChestX-ray14"), path
    raise InputError(
        f"The folder of ChestX-ray14, {str(root)!r}, has no table with columns 'Image Index', "
        f"'Patient ID' and 'Finding Labels' (Data_Entry_2017.csv). {_BY_HAND}"
    )


def _indicator(frame, path, ids):
    """Return the findings, int array of shape (n, 14)."""
    column = column_of(frame.columns, "Finding Labels")
    if column is None:
        values = frame[[column_of(frame.columns, code) for code in FINDINGS]]
        if not values.isin([0, 1]).all(axis=None):
            row = int(np.flatnonzero(~values.isin([0, 1]).all(axis=1))[0])
            raise InputError(
                f"The findings in {str(path)!r} must be 0 or 1. The first row with something else "
                f"is {ids[row]!r}; correct the table."
            )
        return values.to_numpy(dtype=np.int64)
    # spelled "Pleural_Thickening" or, in the sample at Kaggle, as here; "No Finding" is no finding
    place = {code: k for k, code in enumerate(FINDINGS)}
    indicator = np.zeros((len(frame), len(FINDINGS)), dtype=np.int64)
    for row, cell in enumerate(frame[column].astype(str)):
        for code in cell.split("|"):
            code = code.strip()
            if code in place:
                indicator[row, place[code]] = 1
            elif code != "No Finding":
                raise InputError(
                    f"{str(path)!r} has the finding {code!r} at {ids[row]!r}, which is none of the "
                    f"fourteen ({', '.join(FINDINGS)}). Correct the table."
                )
    return indicator


def _splits(frame, tables, ids, indicator, patients):
    """Return NIH's split where its lists are there, one by patient, and those of columns.

    With what is strange in these columns, as name -> sentence.
    """
    splits, strange = {}, {}
    lists = {}
    for part, name in _LISTS.items():
        if path := next((table for table in tables if table.name == name), None):
            lists[part] = set(path.read_text(encoding="utf-8").split())
    if len(lists) == len(_LISTS):
        splits["official"] = {
            part: np.flatnonzero([image in named for image in ids]) for part, named in lists.items()
        }
    splits["group"] = group_split(ids, indicator, patients)
    for column in frame.columns:
        name = str(column).lower()
        if "split" in name.split("_"):
            given = split_of_column(frame[column])
            name = "_".join(word for word in name.split("_") if word != "split") or "table"
            if len(given) > 1 and name not in splits:
                splits[name] = given
                if told := strange_parts(frame[column], column):
                    strange[name] = told
    return splits, strange


def _download_all(home, download_if_missing, verbose):
    archives = {path: home / path.rpartition("/")[2].removesuffix(".zip") for path in _ARCHIVES}
    texts = {path: home / path.rpartition("/")[2] for path in _TEXTS}
    if all(path.exists() for path in (*archives.values(), *texts.values())):
        return
    if not download_if_missing:
        raise not_here("ChestX-ray14", home, _BY_HAND)
    with folder_lock(home):
        missing = [path for path, here in (archives | texts).items() if not here.exists()]
        if not missing:  # another process has got it meanwhile
            return
        files = hub_files(REPO, REVISION, missing, remedy=_BY_HAND)
        for path, file in sorted(files.items(), key=lambda item: item[0] in archives):
            got = download(file, home, remedy=_BY_HAND, verbose=verbose)
            if path in archives:  # one at a time, so that the disk holds no archive twice
                unpack(got, archives[path], verbose=verbose)
