"""HAM10000: dermatoscopic images of seven diagnoses, grouped by lesion."""

import re

import numpy as np

from skmoecbm._validation import check_choice
from skmoecbm.datasets._archives import unpack
from skmoecbm.datasets._bunch import image_bunch
from skmoecbm.datasets._dataverse import dataverse_files
from skmoecbm.datasets._download import RemoteFile, download, folder_lock
from skmoecbm.datasets._files import ON_MISSING, existing_root, images_below, keep_present, readable
from skmoecbm.datasets._folders import data_folder, not_here
from skmoecbm.datasets._splits import PARTS, group_split, rows_left, split_of_column
from skmoecbm.datasets._tables import column_of, find_table, read_frame, tables_below
from skmoecbm.exceptions import InputError

__all__ = ["CLASSES", "fetch_ham10000"]

CLASSES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}
SERVER = "https://dataverse.harvard.edu"
DOI = "doi:10.7910/DVN/DBW86T"
# The files of LaBo, whose split it is, at the commit that brought them.
SPLITS_URL = (
    "https://raw.githubusercontent.com/YueYANG1996/LaBo/"
    "dc38fe8b92961880ec09e97705885b023b5c7359/datasets/HAM10000/splits/"
)
_ARCHIVES = ("HAM10000_images_part_1", "HAM10000_images_part_2")
_TABLE = "HAM10000_metadata"
_HOLDS = (
    "the images (in folders of any names, such as HAM10000_images_part_1 and _2) and "
    "HAM10000_metadata.csv, or the folders of ISIC 2018 task 3"
)
_BY_HAND = (
    "By hand: get HAM10000_images_part_1.zip, HAM10000_images_part_2.zip and HAM10000_metadata "
    "from https://doi.org/10.7910/DVN/DBW86T (or the same from Kaggle, "
    "kmader/skin-cancer-mnist-ham10000), unpack them into one folder and give it as `root`."
)
_SPLIT_FILE = "class2images_{}.p"
_SPLIT_BY_HAND = (
    "By hand: put class2images_train.p, class2images_val.p and class2images_test.p, which are in "
    "datasets/HAM10000/splits of https://github.com/YueYANG1996/LaBo, into `root`; or give your "
    "table a column split_community."
)
_NAME_OF_IMAGE = re.compile(rb"ISIC_\d{7}")


def fetch_ham10000(
    root=None,
    *,
    split="group",
    data_home=None,
    download_if_missing=True,
    on_missing="raise",
    return_X_y=False,
    verbose=True,
):
    r"""Load HAM10000, dermatoscopic images of seven diagnoses; download it if necessary (3 GB).

    Parameters
    ----------
    root : path-like, default=None
        A folder that holds the images and their table: as the Harvard Dataverse or Kaggle give
        them, or ISIC 2018 task 3 (its folder of training images, its ground truth and its lesion
        groupings). None downloads from the Harvard Dataverse into `data_home`.
    split : {"group", "community"} or the name of another split, default="group"
        Which split is the default of the result. "group" keeps the images of a lesion together.
        "community" is that of LaBo and the papers after it: 391 of its 1,005 test images show a
        lesion of the training images, and taking it warns of that. It is read from the table's
        column `split_community` or LaBo's three files in `root`, else downloaded. A column
        `split_NAME` of the table is the split NAME.
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
        target : str array of shape (n,)
            The diagnosis, such as "melanoma"; its code ("mel") is in ``metadata["dx"]``.
        target_names : list of 7 str
        groups : str array of shape (n,)
            The lesion.
        metadata : pandas.DataFrame of n rows
        splits : mapping of str to dict of str to int array
            Name -> part ("train", "val", "test") -> rows.
        part : method
            ``data.part("train")`` is a Bunch of the rows of that part of the default split.
        task, metric, scoring : str
            "multi-class"; "balanced_accuracy" of `evaluate` and scikit-learn.
        DESCR : str
            Licence, citation, known traps.
    (images, target) : tuple
        If `return_X_y`.

    Raises
    ------
    InputError
        If the folder lacks images or the table, or the table has other diagnoses.
    DownloadError
        If something is not here and cannot be downloaded, or may not be.

    References
    ----------
    P. Tschandl et al., "The HAM10000 dataset, a large collection of multi-source dermatoscopic
    images of common pigmented skin lesions", Scientific Data 5, 180161 (2018).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skmoecbm.datasets import fetch_ham10000
    >>> with tempfile.TemporaryDirectory() as root:
    ...     rows = ["lesion_id,image_id,dx"]
    ...     for k in range(40):
    ...         rows.append(f"HAM_{k // 2},ISIC_{k:07d},{'mel' if k < 10 else 'nv'}")
    ...         (Path(root) / f"ISIC_{k:07d}.jpg").touch()  # opened when they are encoded
    ...     _ = (Path(root) / "HAM10000_metadata.csv").write_text("\n".join(rows))
    ...     data = fetch_ham10000(root)
    >>> train, test = data.part("train"), data.part("test")
    >>> len(train.images), len(test.images), set(train.groups) & set(test.groups)
    (28, 8, set())
    >>> str(train.target[0])
    'melanoma'
    """
    check_choice("fetch_ham10000", "on_missing", on_missing, ON_MISSING)
    home = data_folder(data_home, "fetch_ham10000") / "ham10000"
    if root is None:
        _download_all(home, download_if_missing, verbose)
    root = existing_root(home if root is None else root, "HAM10000", _HOLDS)
    frame = _table(root)
    ids = frame["image_id"].astype(str).tolist()
    target = readable(frame["dx"], CLASSES, name="HAM10000", column="dx", ids=ids)
    lesions = frame["lesion_id"].astype(str).to_numpy()
    splits = {"group": group_split(ids, target, lesions)}
    for column in frame.columns:
        name = str(column).removeprefix("split_")
        if name != column and len(given := split_of_column(frame[column])) > 1:
            splits[name] = given
    if "community" not in splits and (
        split == "community" or (root / _SPLIT_FILE.format("test")).exists()
    ):
        splits["community"] = _community(root, home, ids, download_if_missing, verbose)
    found = images_below(root, skip=("masks", "__macosx"))
    paths = [found.get(image) for image in ids]
    here = keep_present(
        paths, ids, name="HAM10000", root=root, on_missing=on_missing, remedy=_BY_HAND
    )
    if split not in splits:
        listed = ", ".join(map(repr, dict.fromkeys([*splits, "community"])))
        raise InputError(f"HAM10000 here has no split {split!r}; choose one of {listed}.")
    data = image_bunch(
        name="ham10000",
        images=[path for path in paths if path is not None],
        target=target[here],
        target_names=list(CLASSES.values()),
        groups=lesions[here],
        group_word="lesion",
        metadata=frame[here],
        splits={name: rows_left(parts, here) for name, parts in splits.items()},
        default_split=split,
        absent_splits={"community": "fetch_ham10000(..., split='community') gets it."},
    )
    return (data.images, data.target) if return_X_y else data


def _table(root):
    """Return the table of any layout with columns image_id, dx and lesion_id."""
    tables = tables_below(root)
    columns = ["image_id", "dx", "lesion_id"]
    path = find_table(tables, columns, known=(_TABLE, "metadata"), name="HAM10000")
    if path is not None:
        frame = read_frame(path, name="HAM10000", columns=columns)
    else:
        frame = _isic_table(root, tables)
    if frame["image_id"].duplicated().any():
        twice = frame["image_id"][frame["image_id"].duplicated()].iloc[0]
        raise InputError(
            f"The table of HAM10000 names the image {str(twice)!r} twice. Get it anew."
        )
    return frame


def _isic_table(root, tables):
    """Return the same of ISIC 2018: a column of 0 and 1 for each diagnosis, lesions apart."""
    trained = [path for path in tables if "test" not in path.name.lower()]
    trained = [path for path in trained if "validation" not in path.name.lower()]
    codes = [code.upper() for code in CLASSES]
    truth = find_table(trained, ["image", *codes], name="HAM10000")
    if truth is None:
        raise InputError(
            f"The folder of HAM10000, {str(root)!r}, has no table with columns image_id, dx and "
            f"lesion_id (HAM10000_metadata). {_BY_HAND}"
        )
    lesions = find_table(tables, ["image", "lesion_id"], name="HAM10000")
    if lesions is None:
        raise InputError(
            f"The folder {str(root)!r} has the ground truth of ISIC 2018 task 3, but not "
            "ISIC2018_Task3_Training_LesionGroupings.csv. Without it images of one lesion would "
            "stand on both sides of a split: get it from https://challenge.isic-archive.com/data, "
            "2018, and put it into the folder."
        )
    frame = read_frame(truth, name="HAM10000")
    frame = frame.rename(columns={column_of(frame.columns, code): code for code in codes})
    frame = frame.rename(columns={column_of(frame.columns, "image"): "image_id"})
    frame["dx"] = [codes[k].lower() for k in frame[codes].to_numpy().argmax(axis=1)]
    known = read_frame(lesions, name="HAM10000", columns=["image", "lesion_id"])
    known = known.rename(columns={"image": "image_id", "diagnosis_confirm_type": "dx_type"})
    frame = frame.drop(columns=codes).merge(known, on="image_id", how="left")
    if frame["lesion_id"].isna().any():
        image = frame["image_id"][frame["lesion_id"].isna()].iloc[0]
        raise InputError(
            f"{str(lesions)!r} does not name the lesion of {frame['lesion_id'].isna().sum():,} "
            f"images; the first is {image!r}. Get it anew."
        )
    return frame


def _community(root, home, ids, download_if_missing, verbose):
    """Return the rows of the community split from LaBo's three files."""
    folder = root
    if not all((root / _SPLIT_FILE.format(part)).exists() for part in PARTS):
        folder = home / "splits"
        names = [_SPLIT_FILE.format(part) for part in PARTS]
        if not all((folder / name).exists() for name in names):
            if not download_if_missing:
                raise not_here("The community split of HAM10000", folder, _SPLIT_BY_HAND)
            with folder_lock(folder):
                for name in names:
                    file = RemoteFile(SPLITS_URL + name, name)
                    download(file, folder, remedy=_SPLIT_BY_HAND, verbose=verbose)
    row = {image: k for k, image in enumerate(ids)}
    parts, seen = {}, set()
    for part in PARTS:
        # These are pickles, which could run code. Nothing in them is run: all that is needed are
        # the names of images, which stand in them as text.
        path = folder / _SPLIT_FILE.format(part)
        names = {name.decode() for name in _NAME_OF_IMAGE.findall(path.read_bytes())}
        if not names or names & seen:
            raise InputError(
                f"{str(path)!r} is not what it should be: it names "
                f"{'images of another part' if names else 'no image'}. Remove it. {_SPLIT_BY_HAND}"
            )
        seen |= names
        parts[part] = np.array(sorted(row[name] for name in names if name in row), dtype=np.intp)
    return parts


def _download_all(home, download_if_missing, verbose):
    def is_complete():
        tables = [path for path in home.glob(f"{_TABLE}*") if path.suffix != ".part"]
        return tables and all((home / name).is_dir() for name in _ARCHIVES)

    if is_complete():
        return
    if not download_if_missing:
        raise not_here("HAM10000", home, _BY_HAND)
    with folder_lock(home):
        if is_complete():  # another process has got it meanwhile
            return
        files = dataverse_files(SERVER, DOI, [_TABLE, *_ARCHIVES], remedy=_BY_HAND)
        for name, file in files.items():
            if name in _ARCHIVES:
                if not (home / name).is_dir():
                    archive = download(file, home, remedy=_BY_HAND, verbose=verbose)
                    unpack(archive, home / name, verbose=verbose)
            else:
                download(file, home, remedy=_BY_HAND, verbose=verbose)
