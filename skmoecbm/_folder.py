"""A folder of images and a table of labels, as the command line takes them."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from skmoecbm._label_table import list_some, read_table
from skmoecbm.exceptions import InputError

__all__ = [
    "IMAGE_SUFFIXES",
    "LabelledImages",
    "Places",
    "existing_folder",
    "find_images",
    "list_images",
    "read_label_map",
    "read_labelled_images",
    "rename_labels",
    "unify_labels",
]

IMAGE_SUFFIXES = frozenset(
    [".bmp", ".dcm", ".dicom", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
)


@dataclass(frozen=True)
class Places:
    """Where rows stand in their file, in words.

    Attributes
    ----------
    file : str
        The file's name.
    lines : list of int, length n
        The line of each row as an editor counts: the header is line 1.
    """

    file: str
    lines: list

    def __getitem__(self, row):
        """Return such as "metadata.csv line 17"."""
        return f"{self.file} line {self.lines[row]}"

    def of_several(self, rows, names, limit=5):
        """Return the first of some rows, each with its name, and how many more there are."""
        listed = [f"line {self.lines[row]} ({names[row]!r})" for row in rows[:limit]]
        more = f" and {len(rows) - limit:,} more" if len(rows) > limit else ""
        return f"{self.file} {', '.join(listed)}{more}"


@dataclass(frozen=True)
class LabelledImages:
    """Images, their labels and groups, row by row.

    Attributes
    ----------
    images : list of Path, length n
    labels : ndarray of str, shape (n,)
    groups : ndarray of str, shape (n,), or None
        What must not be split between folds, e.g. the lesion or the patient.
    n_without_file : int
        Rows of the table that were left out because no file was found.
    places : Places
        Where each image stands in the table.
    more : dict of str to list of str, length n
        Other columns that were asked for, as text.
    """

    images: list
    labels: np.ndarray
    groups: np.ndarray | None
    n_without_file: int
    places: Places
    more: dict = field(default_factory=dict)


def existing_folder(folder):
    """Return the path of a folder of images, or say that there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"The image folder {str(folder)!r} {what}. Name a folder of images.")
    return folder


def list_images(paths):
    """Return the image files that `paths` name; folders are searched through and through.

    Parameters
    ----------
    paths : sequence of path-like
        Files are taken as they are; of folders (and their sub-folders), every file with the
        ending of an image, in alphabetical order.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        If a path does not exist, or a folder holds no image.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
            ]
            if not inside:
                raise InputError(
                    f"The folder {str(path)!r} holds no image. Files with one of the endings "
                    f"{', '.join(sorted(IMAGE_SUFFIXES))} are looked for, sub-folders included."
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"The image {str(path)!r} does not exist. Check the path.")
    return found


def find_images(folder, identifiers, places=None):
    """Return the file of each identifier, or None where there is none.

    Parameters
    ----------
    folder : path-like
        Searched through and through.
    identifiers : sequence of str, length n
        A path relative to the folder, a file name, or a file name without its ending.
    places : Places, default=None
        Where they stand, for the error.

    Returns
    -------
    list of Path or None, length n

    Raises
    ------
    InputError
        If two files fit one identifier.
    """
    folder = existing_folder(folder)
    by_name = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
            for name in {file.name, file.stem}:
                by_name.setdefault(name, []).append(file)
    found = []
    for row, identifier in enumerate(identifiers):
        direct = folder / identifier
        if identifier and direct.is_file():
            found.append(direct)
            continue
        files = by_name.get(identifier, [])
        if len(files) > 1:
            at = "" if places is None else f" ({places[row]})"
            raise InputError(
                f"The image {identifier!r}{at} fits {len(files)} files: {list_some(files, 3)}. "
                f"Write its path relative to {str(folder)!r}, with its ending, in the table."
            )
        found.append(files[0] if files else None)
    return found


def _select(table, conditions, option):
    """Return the rows that meet every condition ``COLUMN=VALUE[,VALUE...]`` of an option."""
    whole, path = table, str(table.path)
    steps, named = [], []
    for condition in conditions:
        name, sign, value = condition.partition("=")
        if not sign:
            raise InputError(
                f"{option} must be COLUMN=VALUE or COLUMN=VALUE,VALUE, such as split=train. "
                f"Got {condition!r}."
            )
        there = {cell.strip() for cell in whole.column(name, option)}
        # a value that holds a comma itself is taken as it stands
        wanted = {value.strip()}
        if not wanted & there:
            wanted = {one.strip() for one in value.split(",")}
        if unknown := sorted(wanted - there):
            raise InputError(
                f"No row of {path!r} has {list_some(unknown)} in column {name!r}, which "
                f"{option} {condition} asks for. The column holds "
                f"{list_some(sorted(there), 20)}."
            )
        keep = [cell.strip() in wanted for cell in table.column(name)]
        steps.append(f"{condition} leaves {sum(keep):,} of {len(keep):,} rows")
        if not any(keep):
            remedy = "Leave one out."
            if name in named:
                remedy = (
                    f"All conditions must hold: several values of {name!r} go into one option, as "
                    f"in {option} {name}=VALUE,VALUE."
                )
            raise InputError(
                f"No row of {path!r} is left by {option}: {', then '.join(steps)}. {remedy}"
            )
        named.append(name)
        table = table.take(keep)
    return table


def read_label_map(path):
    """Read a mapping from the labels in a table to other labels.

    Parameters
    ----------
    path : path-like
        A JSON object ``{"from": "to"}``, or a CSV of two columns with a header line.

    Returns
    -------
    dict of str to str

    Raises
    ------
    InputError
        If the file cannot be read, or is of another form.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        table = read_table(path)
        if len(table.columns) != 2:
            raise InputError(
                f"The label map {str(path)!r} must have two columns, from and to. "
                f"It has {len(table.columns)}: {list_some(table.columns)}."
            )
        return dict(table.rows)
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"The label map {str(path)!r} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"The label map {str(path)!r} cannot be read as JSON: {error}.") from error
    if not isinstance(mapping, dict) or not all(isinstance(to, str) for to in mapping.values()):
        raise InputError(
            f'The label map {str(path)!r} must be a JSON object of texts, {{"from": "to"}}.'
        )
    return mapping


def read_labelled_images(
    folder,
    table_path,
    *,
    image_column,
    label_column,
    group_column=None,
    label_map=None,
    select_rows=(),
    select_option="--select-rows",
    skip_missing=False,
    more_columns=(),
):
    """Read a table of labels and find the image of each row.

    Parameters
    ----------
    folder : path-like
        Where the images are, sub-folders included.
    table_path : path-like
        A CSV file with a header line.
    image_column, label_column : str
        The columns with the image's identifier (`find_images`) and its label.
    group_column : str, optional
        The column of what must stay together, e.g. the lesion or the patient.
    label_map : dict of str to str, optional
        Labels it names are replaced.
    select_rows : sequence of str
        Conditions ``"COLUMN=VALUE"`` or ``"COLUMN=VALUE,VALUE"`` that all must hold.
    select_option : str, default="--select-rows"
        The option of the command line that gave them, for errors.
    skip_missing : bool, default=False
        Leave out rows without a file instead of raising.
    more_columns : sequence of str
        Other columns to hand on as they are.

    Returns
    -------
    LabelledImages

    Raises
    ------
    InputError
        If a column is absent, a label or group empty, a file missing, or no row left.
    """
    table = _select(read_table(table_path), select_rows, select_option)
    identifiers = table.column(image_column, "--image-column")
    labels = table.column(label_column, "--label-column")
    groups = None if group_column is None else table.column(group_column, "--group-column")
    more = {name: table.column(name, "--subgroups") for name in more_columns}
    if not table.rows:
        raise InputError(f"The table {str(table_path)!r} has no rows below its header.")
    places = Places(table.path.name, table.lines)
    for name, values in ((label_column, labels), (group_column, groups)):
        empty = [row for row, value in enumerate(values or ()) if not value.strip()]
        if empty:
            raise InputError(
                f"{len(empty):,} of {len(table.rows):,} rows of {str(table_path)!r} have nothing "
                f"in column {name!r}: {places.of_several(empty, identifiers)}. "
                "Fill them in, or leave these rows out."
            )
    files = find_images(folder, identifiers, places)
    gone = [row for row, file in enumerate(files) if file is None]
    if gone and not (skip_missing and len(gone) < len(files)):
        raise InputError(
            f"{len(gone):,} of {len(files):,} images named in column {image_column!r} are not "
            f"in {str(folder)!r}: {places.of_several(gone, identifiers)}. Check --images and "
            "--image-column, or leave these rows out with --on-error missing."
        )
    here = np.array([file is not None for file in files])
    # Labels and groups are stripped: " mel" in a table is the class "mel".
    labels = np.array([label.strip() for label in labels], dtype=str)[here]
    return LabelledImages(
        images=[file for file in files if file is not None],
        labels=labels if label_map is None else rename_labels(labels, label_map),
        groups=None if groups is None else np.array([group.strip() for group in groups])[here],
        n_without_file=len(gone),
        places=Places(places.file, np.array(places.lines)[here].tolist()),
        more={name: np.array(cells)[here].tolist() for name, cells in more.items()},
    )


def rename_labels(labels, label_map):
    """Return the labels, ndarray of str of shape (n,), with those that the map names replaced."""
    return np.array([label_map.get(label, label) for label in labels.tolist()], dtype=str)


def unify_labels(labels, bank, *, known=None, places=None):
    """Give labels that mean the same class of a concept bank one spelling.

    Parameters
    ----------
    labels : ndarray of str, shape (n,)
        Keys, names or synonyms of the bank's classes.
    bank : ConceptBank or None
        None, or a bank without classes, changes nothing.
    known : sequence of str, optional
        The spellings to use (a fitted model's classes); by default the most frequent one in
        `labels` of each class.
    places : Places, default=None
        Where the labels stand, for the error.

    Returns
    -------
    ndarray of str, shape (n,)

    Raises
    ------
    InputError
        If a label fits no class.
    """
    distinct = sorted(set(labels))
    preferred = [label for label, _ in Counter(labels).most_common()] if known is None else known
    if bank is not None and bank.class_keys:
        meaning = bank.match_labels(sorted({*distinct, *preferred}))
    else:
        meaning = {label: label for label in {*distinct, *preferred}}
    spelling = {}
    for label in preferred:
        spelling.setdefault(meaning[label], label)
    spelling.pop(None, None)
    unified = {label: spelling.get(meaning[label]) for label in distinct}
    if known is not None:
        unified |= {label: label for label in distinct if label in known}
    strange = [label for label in distinct if unified[label] is None]
    if strange:
        classes = known if known is not None else bank.class_keys
        where = "of the model" if known is not None else f"of the concept bank {bank.name!r}"
        first = next(row for row, label in enumerate(labels) if unified[label] is None)
        at = "" if places is None else f" (first in {places[first]})"
        raise InputError(
            f"{len(strange)} label(s) fit no class {where}: {list_some(strange)}{at}. Its classes "
            f"are {list_some(classes, 20)}. Name the class of each label in a file for --label-map."
        )
    return np.array([unified[label] for label in labels], dtype=str)
