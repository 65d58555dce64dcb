"""HAM10000: dermatoscopic images of seven diagnoses, grouped by lesion."""

import numpy as np

from skmoecbm._validation import check_choice
from skmoecbm.datasets._bunch import image_bunch
from skmoecbm.datasets._files import ON_MISSING, existing_root, images_below, keep_present, readable
from skmoecbm.datasets._folders import data_folder
from skmoecbm.datasets._ham10000_files import community_split, download_ham, has_community_split
from skmoecbm.datasets._ham10000_tables import BY_HAND, CLASSES, ham_table, isic_test_table
from skmoecbm.datasets._splits import group_split, rows_left, split_of_column, strange_parts
from skmoecbm.exceptions import InputError

__all__ = ["fetch_ham10000"]

_HOLDS = (
    "the images (in folders of any names, such as HAM10000_images_part_1 and _2) and "
    "HAM10000_metadata.csv, or the folders of ISIC 2018 task 3"
)


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
    split : {"group", "community", "official"} or the name of another, default="group"
        Which split is the default of the result. "group" keeps the images of a lesion together.
        "community" is that of LaBo and the papers after it: 391 of its 1,005 test images show a
        lesion of the training images, and taking it warns of that. It is read from the table's
        column `split_community` or LaBo's three files in `root`, else downloaded. "official" adds
        the test images of ISIC 2018 task 3, which are no part of HAM10000, and tests on them; the
        other splits do without. A column `split_NAME` of the table is the split NAME.
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
            The diagnoses.
        groups : object array of shape (n,)
            The lesion, as str.
        metadata : pandas.DataFrame of n rows
            The columns of the table.
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
    official = split == "official"
    if root is None:
        download_ham(home, download_if_missing, verbose, with_test=official)
    root = existing_root(home if root is None else root, "HAM10000", _HOLDS)
    frame = ham_table(root)
    n = len(frame)
    ids = frame["image_id"].tolist()
    target = readable(frame["dx"], CLASSES, name="HAM10000", column="dx", ids=ids)
    splits = {"group": group_split(ids, target, frame["lesion_id"].astype(str))}
    strange = {}
    for column in frame.columns:
        name = str(column).removeprefix("split_")
        if name != column and len(given := split_of_column(frame[column])) > 1:
            splits[name] = given
            if told := strange_parts(frame[column], column):
                strange[name] = told
    if "community" not in splits and (split == "community" or has_community_split(root)):
        splits["community"] = community_split(root, home, ids, download_if_missing, verbose)
    if official:
        import pandas as pd

        frame = pd.concat([frame, isic_test_table(root)], ignore_index=True)
        ids = frame["image_id"].tolist()
        target = readable(frame["dx"], CLASSES, name="ISIC 2018", column="dx", ids=ids)
        splits["official"] = {"train": np.arange(n), "test": np.arange(n, len(frame))}
    if split not in splits:
        listed = ", ".join(map(repr, dict.fromkeys([*splits, "community", "official"])))
        raise InputError(f"HAM10000 here has no split {split!r}; choose one of {listed}.")
    found = images_below(root, skip=("masks", "__macosx"))
    paths = [found.get(image) for image in ids]
    here = keep_present(
        paths, ids, name="HAM10000", root=root, on_missing=on_missing, remedy=BY_HAND
    )
    data = image_bunch(
        name="ham10000",
        images=[path for path in paths if path is not None],
        target=target[here],
        target_names=list(CLASSES.values()),
        groups=frame["lesion_id"].astype(str).to_numpy(dtype=object)[here],
        group_word="lesion",
        metadata=frame[here],
        splits={name: rows_left(parts, here) for name, parts in splits.items()},
        default_split=split,
        absent_splits={
            name: f"fetch_ham10000(..., split={name!r}) gets it."
            for name in ("community", "official")
        },
    )
    data.splits.add_traps(strange)
    return (data.images, data.target) if return_X_y else data
