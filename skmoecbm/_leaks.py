"""What training and test images share: groups, identical images, near-duplicates."""

import hashlib
from dataclasses import dataclass

import numpy as np

from skmoecbm._leak_split import rows_of_split
from skmoecbm._targets import check_groups
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures
from skmoecbm.images import as_image_list, iter_images

__all__ = ["LeakReport", "check_leak", "find_leaks"]

_CHUNK_PAIRS = 8_000_000  # pairs of rows handled at once: 64 MB of float64 an array
# Two passes through a network on other machines differ in the seventh digit; two images never do.
_EQUAL = 1 - 1e-6


@dataclass(frozen=True)
class LeakReport:
    """Which test rows share something with the training rows.

    Attributes
    ----------
    n_train, n_test : int
    looked_for : tuple of str
        Of "group", "identical" and "near", those that could be looked for.
    found : dict of str to ndarray of shape (n_test,), int
        For each of these the training row that a test row shares it with (the first one, or the
        nearest), -1 where there is none. A row that is identical is not near as well.
    similarity : ndarray of shape (n_test,) or None
        Cosine to the nearest training row, of embeddings less their training mean; the least over
        the experts.
    group_names : list or None
        The group of each test row.
    """

    n_train: int
    n_test: int
    looked_for: tuple
    found: dict
    similarity: object = None
    group_names: object = None

    @property
    def leaking(self):
        """Test rows that share anything, ndarray of shape (n_test,), bool."""
        return np.any([np.zeros(self.n_test, bool), *(f >= 0 for f in self.found.values())], axis=0)

    def counts(self):
        """Return the number of test rows of each kind, dict of str to int."""
        return {kind: int((rows >= 0).sum()) for kind, rows in self.found.items()}

    def __bool__(self):
        """Tell whether anything leaks."""
        return bool(self.leaking.any())

    def to_frame(self):
        """Return one row per finding: `kind`, `test_row`, `train_row`, `group`, `similarity`.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        columns = ["kind", "test_row", "train_row", "group", "similarity"]
        return pd.DataFrame(self.rows(), columns=columns)

    def rows(self):
        """Return the findings as a list of dict, the columns of `to_frame`."""
        rows = []
        for kind, found in self.found.items():
            for i in np.flatnonzero(found >= 0).tolist():
                group = self.group_names[i] if kind == "group" else None
                near = float(self.similarity[i]) if kind == "near" else None
                rows.append(
                    {
                        "kind": kind,
                        "test_row": i,
                        "train_row": int(found[i]),
                        "group": group,
                        "similarity": near,
                    }
                )
        return rows

    def __repr__(self):
        """Return the counts in one line."""
        words = {"group": "share a group", "identical": "are identical", "near": "are nearly equal"}
        told = ", ".join(f"{n:,} {words[kind]}" for kind, n in self.counts().items())
        total = f"{int(self.leaking.sum()):,} of {self.n_test:,} test rows"
        rest = "" if "near" in self.looked_for else "; near-duplicates: not looked for"
        return (
            f"LeakReport({total} share something with {self.n_train:,} training rows: {told}{rest})"
        )


def check_leak(
    train, test=None, split=None, *, train_groups=None, test_groups=None, parts=None, near=0.99
):
    """Look for what training and test images share.

    Three ways to say which these are: ``check_leak(train, test)``;
    ``check_leak(images, groups, split)`` with the rows of the parts; ``check_leak(data)`` or
    ``check_leak(data, split="community")`` with a data set of :mod:`skmoecbm.datasets`.

    Parameters
    ----------
    train : sequence of images, ExpertFeatures, or Bunch
        Images are compared by their pixels, whatever file they come in; features by the embeddings
        that they carry, which also shows near-duplicates (re-encoded, resized, slightly cropped).
        With `split` these are all rows. A Bunch gives images and groups, a whole one its splits.
    test : sequence of images, ExpertFeatures, Bunch, or array-like of shape (n,), default=None
        The others; with `split` the group of each row of `train`, or None.
    split : dict of str to int array, pair of int arrays, or str, default=None
        Rows of the parts, such as ``{"train": rows, "test": rows}`` or ``(train, test)`` of a
        splitter; of a Bunch the name of one of its splits, by default its first.
    train_groups, test_groups : array-like of shape (n_train,) and (n_test,), default=None
        Lesion, patient or study of each row: both, or none. Not with `split`.
    parts : pair of str, default=None
        Which parts of `split` are compared, the training part first. None is "train" with "test",
        or with "val" where there is no other.
    near : float in (0, 1], default=0.99
        Cosine, of embeddings less their training mean and in every expert, from which on images are
        near-duplicates.

    Returns
    -------
    LeakReport
        Its rows are counted within the parts.

    Raises
    ------
    InputError
        If one is features and the other is not, lengths differ, one is empty, or features carry
        nothing to compare.

    Notes
    -----
    Under the two demo experts, of 7,029 photographs of HAM10000 none is nearer than 0.985 to one of
    another lesion, while 148 of 150 are found again after JPEG compression at quality 75, 149 at
    half their size, and two thirds after two pixels were cut off each side.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.datasets import check_leak, make_lesions
    >>> images = make_lesions(6, random_state=0).images
    >>> report = check_leak(images[:4], images[3:])
    >>> report.counts()
    {'identical': 1}
    >>> report  # doctest: +NORMALIZE_WHITESPACE
    LeakReport(1 of 3 test rows share something with 4 training rows: 1 are identical;
    near-duplicates: not looked for)
    >>> report.leaking
    array([ True, False, False])
    >>> check_leak(images, ["a", "a", "b", "b", "c", "c"], ([0, 2], [1, 4])).counts()
    {'group': 1, 'identical': 0}
    """
    if split is not None or hasattr(train, "splits"):
        train, test, train_groups, test_groups = rows_of_split(
            train, test, split, parts, (train_groups, test_groups)
        )
    elif hasattr(train, "images") and hasattr(test, "images"):
        if train_groups is None and test_groups is None:
            train_groups, test_groups = train.get("groups"), test.get("groups")
        train, test = train.images, test.images
    if test is None:
        raise InputError(
            "check_leak needs test rows as well: check_leak(train, test), or check_leak(images, "
            "groups, split) with the rows of a split."
        )
    features = [isinstance(X, ExpertFeatures) for X in (train, test)]
    if any(features) and not all(features):
        raise InputError(
            "check_leak compares images with images or features with features. Got "
            f"{type(train).__name__} and {type(test).__name__}; transform both."
        )
    if not len(train) or not len(test):
        raise InputError(
            f"check_leak got {len(train):,} training and {len(test):,} test rows. Give some of "
            "both."
        )
    if not all(features):
        keys = [_pixel_keys(X) for X in (train, test)]
        return find_leaks(None, None, train_groups, test_groups, keys=keys, near=near)
    found = find_leaks(train, test, train_groups, test_groups, near=near)
    if not found.counts():  # no leak may be said of what was not looked at
        raise InputError(
            "These features carry no embeddings, so there is nothing to compare. Give images, "
            "features that an encoder made, or train_groups and test_groups."
        )
    return found


def _pixel_keys(images):
    """Return a hash of the pixels of each image, None where it cannot be read."""
    keys = []
    for image in iter_images(as_image_list(images), on_error="missing"):
        if image is None:
            keys.append(None)
            continue
        digest = hashlib.blake2b(image.tobytes(), digest_size=16)
        digest.update(repr(image.size).encode())
        keys.append(digest.hexdigest())
    return keys


def find_leaks(train, test, train_groups=None, test_groups=None, *, keys=None, near=0.99):
    """Return the `LeakReport` of features, groups and keys of images; `check_leak` without images.

    Parameters
    ----------
    train, test : ExpertFeatures or None
    train_groups, test_groups : array-like or None
    keys : pair of list of str, default=None
        What is equal for equal images, of the training and of the test rows.
    near : float
    """
    check_number("check_leak", "near", near, low=0, high=1, low_open=True)
    sides = [keys, None if train is None else (train, test), (train_groups, test_groups)]
    n_train, n_test = next(
        (len(a), len(b)) for a, b in (s for s in sides if s is not None) if a is not None
    )
    found, names, similarity = {}, None, None
    if (train_groups is None) != (test_groups is None):
        raise InputError(
            "Groups must be given for training and test rows, or for neither: a group is shared "
            "only if both sides name it."
        )
    if train_groups is not None:
        known, names = check_groups(train_groups, n_train), check_groups(test_groups, n_test)
        _same_kind(known, names)
        found["group"] = _first_of(known, names)
    if keys is not None:
        found["identical"] = _first_of(*keys)
    cosines = [] if train is None else _nearest(train, test)
    if cosines:
        raw, centred, nearest = cosines
        same = found.get("identical", np.full(n_test, -1))
        same = np.where((same < 0) & (raw >= _EQUAL), nearest, same)
        found["identical"] = same
        found["near"] = np.where((centred >= near) & (same < 0), nearest, -1)
        similarity = centred
    return LeakReport(n_train, n_test, tuple(found), found, similarity, names)


def _same_kind(train, test):
    """Raise if groups are text on one side only: 7 and "7" would pass for two patients."""
    text = [{isinstance(group, str) for group in side} for side in (train, test)]
    if text in ([{True}, {False}], [{False}, {True}]):
        raise InputError(
            "Groups are text on one side and not on the other (training rows have "
            f"{train[0]!r}, test rows {test[0]!r}), so that none could be found on both. Give them "
            "in the same form."
        )


def _first_of(train, test):
    """Return for each test key the first training row that has it, else -1."""
    first = {}
    for row, key in enumerate(train):
        if key is not None:
            first.setdefault(key, row)
    return np.array([-1 if key is None else first.get(key, -1) for key in test], dtype=int)


def _nearest(train, test):
    """Return raw and centred cosine to the nearest training row, and which it is; (n_test,) each.

    A pair is as near as the expert says that sees the greatest difference; one that sees only one
    of the two says nothing.
    """
    names = [
        block.name
        for block in train.blocks
        if block.embeddings is not None and block.name in test.expert_names and block.present.any()
    ]
    if not names:
        return []
    pairs = []
    for name in names:
        (a,), (b,) = train.select(name).blocks, test.select(name).blocks
        rows, others = (np.nan_to_num(x.embeddings).astype(np.float64) for x in (a, b))
        mean = rows[a.present].mean(axis=0)
        moved = [_unit(x - mean) for x in (rows, others)]
        pairs.append((rows, others, *moved, a.present, b.present))
    raw, centred, nearest = [], [], []
    size = max(1, _CHUNK_PAIRS // len(train))
    for start in range(0, len(test), size):
        part = slice(start, start + size)
        plain = least = np.inf
        seen = False
        for rows, others, moved, others_moved, there, others_there in pairs:
            both = others_there[part, None] & there
            plain = np.minimum(plain, np.where(both, others[part] @ rows.T, np.inf))
            least = np.minimum(least, np.where(both, others_moved[part] @ moved.T, np.inf))
            seen = seen | both
        least = np.where(seen, least, -1.0)
        best = least.argmax(axis=1)
        nearest.append(best)
        centred.append(np.take_along_axis(least, best[:, None], axis=1)[:, 0])
        raw.append(np.take_along_axis(np.where(seen, plain, -1.0), best[:, None], axis=1)[:, 0])
    return tuple(np.concatenate(parts) for parts in (raw, centred, nearest))


def _unit(rows):
    length = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return rows / np.where(length > 0, length, 1.0)
