"""What every function of `skmoecbm.datasets` returns: a Bunch of images, labels, groups, splits."""

import warnings
from importlib import resources

import numpy as np
from sklearn.utils import Bunch

from skmoecbm.datasets._splits import PARTS, Splits, chosen_rows
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = ["ImageBunch", "describe_data", "image_bunch"]

# What has one entry a row, and goes with the rows of a part.
_BY_ROW = ("images", "target", "groups", "reports", "metadata", "attributes", "captions")


class ImageBunch(Bunch):
    """Images with all that belongs to them; a dict whose keys are attributes as well.

    See the function that made it for its entries.
    """

    def part(self, part, split=None):
        """Return the rows of one part of a split as a Bunch of their own, without splits.

        Parameters
        ----------
        part : str
            "train", "val" or "test".
        split : str, default=None
            A name in `splits`; None is the default, the first in the repr.

        Returns
        -------
        ImageBunch
            `rows` holds the rows of the whole that these are.

        Raises
        ------
        InputError
            If there is no such split or part.

        Examples
        --------
        >>> from skmoecbm.datasets._bunch import image_bunch
        >>> data = image_bunch(
        ...     name="two", images=["a.png", "b.png"], target=["x", "y"], target_names=["x", "y"],
        ...     splits={"official": {"train": [0], "test": [1]}}, descr="",
        ... )
        >>> data.part("test").images
        array(['b.png'], dtype=object)
        """
        splits = self.get("splits")
        if splits is None:
            raise InputError("This is a part already; take parts of the whole data set.")
        name = splits.default if split is None else split
        if name not in splits:
            raise InputError(f"{self.name}: {splits.lack_of(name)}")
        splits.warn_of(name, stacklevel=3)
        parts = splits.rows(name)
        if part not in parts:
            raise InputError(
                f"The split {name!r} of {self.name} has no part {part!r}. It has "
                f"{', '.join(map(repr, parts))}."
            )
        if not len(parts[part]):
            if self.get("uncertain") == "ignore":
                why = (
                    "each of its films is missing or has a label that is unsure. Name fewer "
                    "labels=, or decide on the unsure (uncertain='ones')."
                )
            else:
                why = (
                    "all of its images are missing and were left out, or there are too few. "
                    "Complete the folder, or take another split."
                )
            warnings.warn(
                f"The part {part!r} of the split {name!r} of {self.name} has no rows here: {why}",
                SkmoecbmWarning,
                stacklevel=2,
            )
        return self.take(parts[part], f"{self.name}, {part} of {name!r}")

    def take(self, rows, name=None):
        """Return some rows as a Bunch of their own, without splits.

        Parameters
        ----------
        rows : array-like of int, shape (k,), or of bool, shape (n,); or slice
            Numbers of rows, in the order that is wanted (negative ones count from the end), or a
            mask that is true where a row is wanted: as in ``data.images[rows]``.
        name : str, default=None
            Of the part, for messages and the repr; None keeps the name.

        Returns
        -------
        ImageBunch
            `rows` holds the rows of the whole that these are.

        Raises
        ------
        InputError
            If `rows` is one number or no rows at all (text, fractions), a row is not there, or a
            mask has another length.

        Examples
        --------
        >>> from skmoecbm.datasets._bunch import image_bunch
        >>> data = image_bunch(
        ...     name="three", images=["a.png", "b.png", "c.png"], target=["x", "y", "x"],
        ...     target_names=["x", "y"], splits={}, descr="",
        ... )
        >>> data.take([-1, 0]).images
        array(['c.png', 'a.png'], dtype=object)
        >>> data.take(data.target == "x").rows
        array([0, 2])
        """
        rows = chosen_rows(rows, len(self.images))
        where = rows
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            where = slice(int(rows[0]), int(rows[-1]) + 1)  # a view: a file on disk stays there
        taken = {}
        for key, value in self.items():
            if key in _BY_ROW and value is not None:
                if hasattr(value, "iloc"):
                    value = value.iloc[where].reset_index(drop=True)
                elif isinstance(value, list):
                    value = [value[row] for row in rows]
                else:
                    value = value[where]
            taken[key] = value
        taken |= {"name": name or self.name, "rows": self.rows[rows] if "rows" in self else rows}
        taken.pop("splits", None)
        return type(self)(**taken)

    def __repr__(self):
        """Return what there is, an entry a line."""
        lines = [f"{self.name}: {len(self.images):,} images"]
        for key, value in self.items():
            if key != "name" and value is not None:
                lines.append(f"  {key:<13} {_in_words(key, value, self)}")
        return "\n".join(lines)


def _in_words(key, value, data):
    if key == "splits":
        told = []
        for name, sizes in value.sizes().items():
            marks = ["default"] * (name == value.default) + ["warns"] * (name in value.traps)
            mark = f" ({', '.join(marks)})" if marks else ""
            parts = ", ".join(f"{part} {size:,}" for part, size in sizes.items())
            told.append(f"{name!r}{mark}: {parts}")
        return "; ".join(told)
    if key == "target" and value.ndim == 2:
        counts = value.sum().astype(int)
        return "indicator, " + ", ".join(f"{name} {n:,}" for name, n in counts.items())
    if key == "target":
        counts = {name: int((value == name).sum()) for name in data.target_names}
        return ", ".join(f"{name} {n:,}" for name, n in counts.items())
    if key in ("images", "groups") and not len(value):
        return "none"
    if key == "images" and value.dtype != object:
        return f"{value.dtype} of shape {value.shape}"
    if key == "images":
        return f"paths, the first {str(value[0])!r}"
    if key == "groups":
        return f"{len(set(value.tolist())):,} different, the first {str(value[0])!r}"
    if key == "metadata":
        return f"DataFrame: {', '.join(map(str, value.columns))}"
    if key == "DESCR":
        return f"{len(value.split()):,} words: licence, citation, traps"
    if key in ("reports", "rows", "captions"):
        return f"{len(value):,}"
    if key in ("target_names", "attribute_names"):
        return f"{len(value)} names"
    if key == "attributes":
        return f"{value.dtype} of shape {value.shape}"
    return repr(value)


def describe_data(name):
    """Return the text about a data set that the package brings: `descr/NAME.md`."""
    file = resources.files("skmoecbm.datasets") / "descr" / f"{name}.md"
    return file.read_text(encoding="utf-8")


def image_bunch(
    *,
    name,
    images,
    target,
    target_names,
    splits,
    groups=None,
    group_word="group",
    reports=None,
    metadata=None,
    traps=None,
    absent_splits=None,
    default_split=None,
    task="multi-class",
    metric="balanced_accuracy",
    scoring="balanced_accuracy",
    descr=None,
    more=None,
):
    """Put a data set together, and check that its entries fit each other.

    Parameters
    ----------
    name : str
        Of the data set, for messages and the repr.
    images : sequence of path-like, length n, or array of shape (n, height, width, channels)
        Paths are kept as text in an object array, which takes rows of any kind of index.
    target : array-like of shape (n,), or indicator of shape (n, n_labels)
        Readable names of classes; or 1 where the row has the label of the column, 0 where not, NaN
        where it is not known (float then). An indicator becomes a DataFrame, since classifiers take
        the names of labels from its columns.
    target_names : sequence of str
        The classes in their order, or the labels of the columns.
    splits : dict of str to dict of str to array-like of int
        Name -> part -> rows.
    groups : array-like of shape (n,), default=None
        Lesion or patient.
    group_word : str, default="group"
        What a group is: "lesion", "patient".
    reports : sequence of str, default=None
    metadata : pandas.DataFrame of n rows, default=None
        Codes and all that the data set tells of its images.
    traps : dict of str to str, default=None
        Name of a split -> the warning given when it is taken. A split whose parts share groups has
        one without it, with the count.
    absent_splits : dict of str to str, default=None
        Name of a split that could be there -> a sentence on how to get it.
    default_split : str, default=None
        None is the first of `splits`.
    task, metric : str
        What is to be learnt, and the key of `evaluate` it is measured by.
    scoring : str or callable
        The same for scikit-learn's `scoring`; of grades another one, which sees their order.
    descr : str, default=None
        None reads `descr/NAME.md`.
    more : dict, default=None
        Further entries.

    Returns
    -------
    ImageBunch

    Raises
    ------
    InputError
        If lengths differ, a class is not among the names, or a part has a row that is not there or
        belongs to another part.
    """
    n = len(images)
    if not n:
        raise InputError(f"{name} has no images here. Check the folder.")
    if getattr(images, "ndim", 1) == 1:
        paths = np.empty(n, dtype=object)
        paths[:] = [str(path) for path in images]
        images = paths
    target = _checked_target(name, target, list(target_names))
    groups = None if groups is None else np.asarray(groups)
    for what, values in (
        ("target", target),
        ("groups", groups),
        ("reports", reports),
        ("metadata", metadata),
    ):
        if values is not None and len(values) != n:
            raise InputError(f"{name} has {n:,} images, but {len(values):,} rows of {what}.")
    checked = _checked_splits(name, splits, n)
    traps = {**_shared_groups(name, checked, groups, group_word), **(traps or {})}
    return ImageBunch(
        name=name,
        images=images,
        target=target,
        target_names=list(target_names),
        groups=groups,
        reports=None if reports is None else np.array(list(reports), dtype=object),
        metadata=None if metadata is None else metadata.reset_index(drop=True),
        splits=Splits(checked, traps, default_split, absent_splits),
        task=task,
        metric=metric,
        scoring=scoring,
        DESCR=describe_data(name) if descr is None else descr,
        **(more or {}),
    )


def _checked_target(name, target, names):
    if np.ndim(target) == 2:
        from pandas import DataFrame

        target = np.asarray(target)
        if target.shape[1] != len(names):
            raise InputError(
                f"The indicator of {name} has {target.shape[1]} columns for {len(names)} labels."
            )
        values = np.unique(target[~np.isnan(target)] if target.dtype.kind == "f" else target)
        if not set(values.tolist()) <= {0, 1}:
            raise InputError(f"The indicator of {name} holds {values[:5].tolist()}, not 0 and 1.")
        return DataFrame(target, columns=names)
    target = np.asarray(target)
    if unknown := sorted(set(target.tolist()) - set(names)):
        row = int(np.flatnonzero(np.isin(target, unknown))[0])
        raise InputError(
            f"{name} has rows of the class {unknown[0]!r} (the first is row {row}), which is not "
            f"among its classes: {', '.join(map(repr, names))}."
        )
    return target


def _shared_groups(name, splits, groups, word):
    """Return the trap of each split whose parts share groups."""
    traps = {}
    if groups is None:
        return traps
    for split, parts in splits.items():
        tested = "test" if "test" in parts else "val"
        if tested not in parts or "train" not in parts:
            continue
        shared = np.isin(groups[parts[tested]], np.unique(groups[parts["train"]])).sum()
        if shared:
            traps[split] = (
                f"The split {split!r} of {name} divides images, not {word}s: {shared:,} of its "
                f"{len(parts[tested]):,} {tested} images here are of a {word} that training images "
                "show as well. What is measured on it is too good."
            )
    return traps


def _checked_splits(name, splits, n):
    checked = {}
    for split, parts in splits.items():
        seen = np.zeros(n, dtype=bool)
        checked[split] = {}
        for part in sorted(parts, key=lambda part: PARTS.index(part) if part in PARTS else 9):
            rows = np.sort(np.asarray(parts[part], dtype=np.intp))
            if len(rows) and (rows[0] < 0 or rows[-1] >= n or seen[rows].any()):
                raise InputError(
                    f"The split {split!r} of {name} has rows outside of 0 to {n - 1:,}, or in two "
                    f"parts at once, one of them {part!r}."
                )
            if len(set(rows.tolist())) != len(rows):
                raise InputError(f"The part {part!r} of {split!r} of {name} has a row twice.")
            seen[rows] = True
            checked[split][part] = rows
    return checked
