"""Images of one's own: a folder per class, or a table of paths and labels."""

import os
import re
import warnings
from pathlib import Path

import numpy as np

from skmoecbm._folder import IMAGE_SUFFIXES
from skmoecbm._label_table import list_some, rows_have
from skmoecbm._validation import check_choice
from skmoecbm.datasets._bunch import image_bunch
from skmoecbm.datasets._chexpert_labels import known_rows
from skmoecbm.datasets._files import ON_MISSING, existing_root, keep_present, walk
from skmoecbm.datasets._image_table import (
    frame_of,
    named_column,
    paths_of,
    possible_groups,
    target_of,
)
from skmoecbm.datasets._splits import PARTS, group_split, split_of_column, strange_parts
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = ["load_image_folder"]

_NAME = "image folder"
_PART_FOLDERS = {"train", "training", "val", "valid", "validation", "dev", "test"}
# What lies beside images and is none.
_TEXT = {".csv", ".html", ".json", ".md", ".pdf", ".tsv", ".txt", ".xlsx", ".xml", ".zip"}
_UNKNOWN_GROUPS = (
    "It is not known which of these images are of one patient or lesion, so that some may be on "
    "both sides of this split. What is measured on it is then too good; groups= keeps them "
    "together."
)


def load_image_folder(
    root,
    labels=None,
    *,
    image=None,
    target=None,
    groups=None,
    split=None,
    on_missing="raise",
    return_X_y=False,
):
    r"""Load your own images: a folder for each class, or a table of paths and labels.

    Parameters
    ----------
    root : path-like
        Without `labels`, a folder that holds one for each class, or folders "train", "val" and
        "test" that do; images may lie deeper. Images are known by their ending there: DICOM files
        without one must be renamed, or named in a table. With `labels`, where the paths of the
        table begin.
    labels : path-like or DataFrame, default=None
        A CSV file (commas, semicolons or tabs), an Excel file (.xlsx, first sheet) or a DataFrame
        with a row per image. Images in the folder without a row are not used; hidden files and
        folders and "__MACOSX" are not looked at.
    image : str, default=None
        The column of the images: paths below `root`, absolute paths, or names of files anywhere
        below it, with or without ending. A path with folders is looked for deeper below `root` as a
        whole; an absolute path of another machine by its last folders, at least one, where one
        image alone has them. None takes the first there is of "path", "image", "image_path",
        "file", "filename", "file_name", "image_id", "img" and "name".
    target : str or list of str, default=None
        The column of labels, one of several classes; or a list of columns of 0 and 1, one for each
        label, empty where it is not known. None takes the first there is of "label", "target",
        "class", "diagnosis", "dx", "finding" and "y".
    groups : str, default=None
        What belongs together, a patient or lesion: a column of the table; without a table, a
        regular expression for the path below `root` whose first group (or whole) is the name, such
        as ``r"patient\d+"``. A table with a column such as "patient_id" warns without it.
    split : str, default=None
        A column of the table that says "train", "val" or "test", or nothing.
    on_missing : {"raise", "warn", "ignore"}, default="raise"
        What to do about images that the table names and the folder lacks: "warn" and "ignore" leave
        them out.
    return_X_y : bool, default=False
        Return only `(images, target)`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        images : object array of shape (n,)
            Paths, as str.
        target : array of shape (n,), str; or DataFrame of shape (n, n_labels)
            The class; or 1 where the image has the label of the column, 0 where not, NaN where it
            is not known. Rows with NaN are in no part of a split: classifiers take none.
        target_names : list of str
            The classes, sorted, or the columns of the labels.
        groups : array of shape (n,), or None
            What belongs together; None where it is not known.
        metadata : pandas.DataFrame of n rows
            The other columns of the table; or the path below `root` and the folder of the part.
        splits : mapping of str to dict of str to int array
            "table" (of the column) or "folders" where there are such; "group" of 70, 10 and 20 in
            100 where `groups` are known, else "random", which warns when it is taken. Of fewer than
            ten groups or images there is "all" alone, without a test part.
        part : method
            ``data.part("train")`` is a Bunch of the rows of that part of the first split.
        task, metric, scoring : str
            "multi-class", "binary-class" or "multi-label", and what it is measured by.
        DESCR : str
            Where the data come from, and known traps.
    (images, target) : tuple
        If `return_X_y`.

    Raises
    ------
    InputError
        If there are no images, or the table lacks a column, a label, or names images that are not
        there (the count and the first are told).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skmoecbm.datasets import load_image_folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for k in range(30):
    ...         film = Path(root) / ("nevus" if k % 3 else "melanoma") / f"patient{k // 2}_{k}.jpg"
    ...         film.parent.mkdir(exist_ok=True)
    ...         film.touch()  # opened when it is encoded
    ...     data = load_image_folder(root, groups=r"patient\d+")
    >>> data.target_names, int((data.target == "melanoma").sum())
    (['melanoma', 'nevus'], 10)
    >>> set(data.part("train").groups) & set(data.part("test").groups)
    set()
    """
    check_choice("load_image_folder", "on_missing", on_missing, ON_MISSING)
    root = existing_root(root, "your images", "images")
    if labels is None:
        if image is not None or target is not None or split is not None:
            raise InputError(
                "image=, target= and split= name columns of a table. Give the table as labels=, or "
                "leave them out: the folders are the classes."
            )
        found = _of_folders(root, groups)
    else:
        found = _of_table(root, labels, image, target, groups, split, on_missing)
    paths, names, classes, class_names, members, metadata, splits = found
    ids = [name.replace(os.sep, "/") for name in names]
    here = np.arange(len(ids)) if members is None else members
    if len(set(here.tolist())) >= 10:
        made = "random" if members is None else "group"
        splits = {**splits, made: group_split(ids, classes, here)}
    splits = splits or {"all": {"train": np.arange(len(ids))}}
    several = np.ndim(classes) == 2
    data = image_bunch(
        name=_NAME,
        images=paths,
        target=classes,
        target_names=class_names,
        groups=members,
        metadata=metadata,
        splits=known_rows(classes, splits) if several else splits,
        traps={"random": _UNKNOWN_GROUPS} if "random" in splits else None,
        absent_splits={"group": "Name what belongs together with groups=."},
        task="multi-label" if several else f"{'multi' if len(class_names) > 2 else 'binary'}-class",
        metric="macro_auroc" if several else "balanced_accuracy",
        scoring="roc_auc" if several else "balanced_accuracy",
        descr=_describe(len(paths), class_names, members),
    )
    return (data.images, data.target) if return_X_y else data


def _of_folders(root, groups):
    """Return what the folders say."""
    import pandas as pd

    paths, left_out = _listed(root)
    names = [os.path.relpath(path, root) for path in paths]
    parts = [Path(name).parts for name in names]
    if not paths or any(len(part) < 2 for part in parts):
        lying = [name for name, part in zip(names, parts, strict=True) if len(part) < 2]
        told = (
            f"{len(lying):,} {'image lies' if len(lying) == 1 else 'images lie'} in it directly, "
            f"the first {lying[0]!r}"
            if lying
            else "there are none"
        )
        more = "" if paths else left_out
        raise InputError(
            f"The images in {str(root)!r} must lie in a folder for each class, but {told}. Give a "
            f"table of paths and labels as labels=.{more}"
        )
    if left_out:
        warnings.warn(left_out.strip(), SkmoecbmWarning, stacklevel=3)
    top = {part[0].lower() for part in parts}
    splits, part_of = {}, [""] * len(parts)
    if len(top) > 1 and top <= _PART_FOLDERS and all(len(part) > 2 for part in parts):
        part_of = [part[0] for part in parts]
        splits = {"folders": split_of_column(part_of)}
        parts = [part[1:] for part in parts]
    classes = np.array([part[0] for part in parts])
    class_names = sorted(set(classes.tolist()))
    if len(class_names) < 2:
        raise InputError(
            f"All images in {str(root)!r} are in the folder {class_names[0]!r}: there is one "
            "class. Give the folder around it, or a table of paths and labels as labels=."
        )
    metadata = pd.DataFrame({"path": names, "part": part_of})
    members = None if groups is None else _groups_by_name(groups, names)
    return paths, names, classes, class_names, members, metadata, splits


def _listed(root):
    """Return the images below a folder in order, and a sentence on folders that hold none."""
    paths, others, folders = [], [], 0
    for folder, files in walk(root, lambda name: name.lower() != "__macosx"):
        here = [file for file in files if _ending(file) in IMAGE_SUFFIXES]
        paths += [os.path.join(folder, file) for file in here]
        rest = [file for file in files if _ending(file) not in _TEXT]
        if rest and not here:
            folders += 1
            others += [os.path.join(folder, file) for file in rest]
    if not others:
        return sorted(paths), ""
    first = os.path.relpath(min(others), root)
    return sorted(paths), (
        f" {len(others):,} {'file is' if len(others) == 1 else 'files are'} left out, since no "
        f"file of {'that folder' if folders == 1 else f'these {folders:,} folders'} has the ending "
        f"of an image (such as .png or .dcm); the first is {first!r}. Rename DICOM files so that "
        "they end in .dcm, or name them in a table of paths and labels, labels=."
    )


def _ending(file):
    return os.path.splitext(file)[1].lower()


def _groups_by_name(groups, names):
    try:
        pattern = re.compile(groups)
    except (re.error, TypeError) as error:
        raise InputError(
            f"Without a table, groups= is a regular expression for paths. Got {groups!r}: {error}."
        ) from error
    found = [pattern.search(name.replace(os.sep, "/")) for name in names]
    if None in found:
        first = names[found.index(None)]
        raise InputError(
            f"groups={groups!r} is not found in the paths of {found.count(None):,} images; the "
            f"first is {first!r}. Change the expression."
        )
    return np.array([one[1] if pattern.groups else one[0] for one in found])


def _of_table(root, labels, image, target, groups, split, on_missing):
    """Return what the table says."""
    frame = frame_of(labels)
    paths, names = paths_of(frame, image, root, lambda: _listed(root)[0])
    classes, class_names = target_of(frame, target, names)
    here = keep_present(
        paths,
        names,
        name="your images",
        root=root,
        on_missing=on_missing,
        remedy="Look at the first path of the table and at root=: together they name a file. "
        "A name without folders is looked for among files with the ending of an image.",
    )
    frame, classes = frame[here].reset_index(drop=True), classes[here]
    names = [name for name, there in zip(names, here, strict=True) if there]
    paths = [path for path in paths if path is not None]
    members = None
    if groups is None:
        column, word = possible_groups(frame, {image, split, *np.atleast_1d(target)})
        if word is not None:
            warnings.warn(
                f"The table has a column {str(column)!r}, and groups= is not given: rows of one "
                f"{word} may land on both sides of a split. Pass groups={str(column)!r}.",
                SkmoecbmWarning,
                stacklevel=3,
            )
    else:
        members = np.array(named_column(frame, groups, "groups"))
        if (members == "").any():
            row = int(np.flatnonzero(members == "")[0])
            raise InputError(
                f"{rows_have(int((members == '').sum()))} no group; the first is {names[row]!r}. "
                f"Fill in column {groups!r}: what is unknown would pass for one group."
            )
    splits = {}
    if split is not None:
        words = named_column(frame, split, "split")
        parts = split_of_column(words)
        if "train" not in parts:
            raise InputError(
                f"Column {split!r} names no part {', '.join(map(repr, PARTS))}: it holds "
                f"{list_some(sorted(set(words)))}."
            )
        if told := strange_parts(words, split):
            raise InputError(f"{told} Correct them; empty cells are of images in no part.")
        splits = {"table": parts}
    return paths, names, classes, class_names, members, frame, splits


def _describe(n, names, groups):
    told = f", {len(set(groups.tolist())):,} groups" if groups is not None else ""
    return (
        f"# Images of your own\n\n{n:,} images, {len(names)} classes or labels{told}.\n\n"
        "**Licence.** Yours to know.\n\n**Traps.** Images of one patient or lesion on both sides "
        "of a split (groups=), the same image twice (`check_leak`), classes that come from "
        "different machines or hospitals.\n"
    )
