"""One expert's block of features, and the checks that every block passes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from skmoecbm._block_words import EXPERT
from skmoecbm.concepts._parsing import class_key, folded
from skmoecbm.exceptions import InputError

__all__ = [
    "ExpertBlock",
    "check_expert_name",
    "class_parts",
    "concept_names",
    "matrix_rows",
    "named_experts",
    "present_rows",
    "unit_embeddings",
    "unit_rows",
    "value_rows",
]

# Rounded to this grid, a product of two entries is a multiple of 2**-52, and by Cauchy-Schwarz
# every partial sum of a dot product of unit vectors stays below 2: float64 adds them without
# rounding, so a similarity is the same number in every batch, order of summation and BLAS. The
# rounding itself moves a similarity by about 4e-9, less than its storage as float32 does.
_GRID = 2.0**26

# Rows that are checked and normalised at a time.
_BLOCK_ROWS = 4096
# Lengths of rows that were normalised and stored as float32 are this near 1.
_UNIT = 1e-5


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ExpertBlock:
    """One expert's part of an `ExpertFeatures`: its concepts and what it saw in each row.

    Made by `ExpertFeatures.from_embeddings` or `from_similarities`, which check what they are
    given; immutable, its arrays read-only. Exactly one of (`embeddings`, `texts`) and
    `similarities` is there.

    Attributes
    ----------
    name : str
        Name of the expert.
    concepts : tuple of str, length m
        Names of its concepts.
    present : ndarray of shape (n,), bool
        False where the expert did not see the row (an unreadable image, a modality that was not
        acquired).
    embeddings : ndarray of shape (n, d), float32, or None
        L2-normalised image embeddings; NaN where absent.
    texts : ndarray of shape (m, d), float32, or None
        L2-normalised concept embeddings.
    similarities : ndarray of shape (n, m), float32, or None
        Given values; NaN where absent. Those of an `ExpertUnion` may have gaps in rows that are
        there.
    incidence : ndarray of shape (m, C), bool, or None
        Whether a concept was written for a class.
    answers : ndarray of shape (m, C), int8, or None
        1 where a concept speaks for a class, -1 against it, else 0; None where nothing speaks
        against any.
    class_keys : tuple of str, length C, or None
        The classes that the concepts were written for.
    class_synonyms : dict of str to str, or None
        Lower-cased key, name or synonym of a class -> its key.
    class_embeddings : ndarray of shape (C, d), float32, or None
        L2-normalised embeddings of the class names.
    """

    name: str
    concepts: tuple
    present: np.ndarray
    embeddings: np.ndarray | None = None
    texts: np.ndarray | None = None
    similarities: np.ndarray | None = None
    incidence: np.ndarray | None = None
    answers: np.ndarray | None = None
    class_keys: tuple | None = None
    class_synonyms: dict | None = None
    class_embeddings: np.ndarray | None = None

    def __post_init__(self):
        """Make the arrays read-only."""
        self._freeze()

    def __setstate__(self, state):
        """Make the arrays read-only again: pickle forgets the flag."""
        self.__dict__.update(state)
        self._freeze()

    def _freeze(self):
        for name, value in self.__dict__.items():
            if isinstance(value, np.ndarray):
                value = value.view()  # the flag is for us, not for who gave the array
                value.flags.writeable = False
                self.__dict__[name] = value

    def __len__(self):
        """Return the number of rows."""
        return len(self.present)

    def __repr__(self):
        """Return one line: rows, names, concepts."""
        source = "similarities" if self.texts is None else f"{self.texts.shape[1]}-d embeddings"
        return (
            f"ExpertBlock({self.name!r}, {len(self)} rows, {len(self.concepts)} concepts, {source})"
        )

    def values(self, rows=slice(None), columns=slice(None)):
        """Return the similarities, the same for a row whatever other rows are there.

        Parameters
        ----------
        rows : slice or ndarray of int, default=all
        columns : slice, default=all
            Concepts.

        Returns
        -------
        ndarray of shape (n, m), float32
            Cosine similarity in [-1, 1] (or the values given to `from_similarities`), computed
            in float64; NaN rows where the expert is absent.
        """
        if self.similarities is not None:
            return self.similarities[rows, columns]
        present, texts = self.present[rows], self.texts[columns]
        embeddings = self.embeddings[rows]
        if not present.all():
            embeddings = embeddings[present]
        out = np.full((len(present), len(texts)), np.nan, dtype=np.float32)
        out[present] = _on_grid(embeddings) @ _on_grid(texts).T
        return out

    def take(self, rows):
        """Return the block of some rows; concepts, texts and class parts are shared, not copied.

        Parameters
        ----------
        rows : slice or array of int or bool
            As numpy indexes the first axis.
        """
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]  # a view would keep all rows alive
        names = [n for n in ("embeddings", "similarities") if getattr(self, n) is not None]
        return replace(
            self, present=self.present[rows], **{name: getattr(self, name)[rows] for name in names}
        )

    def pick(self, concepts):
        """Return the block of some concepts only, with what is known about them.

        Parameters
        ----------
        concepts : ndarray of int
            Their positions, each at most once.
        """
        parts = {"concepts": tuple(self.concepts[i] for i in concepts)}
        for name in ("texts", "incidence", "answers"):
            if getattr(self, name) is not None:
                parts[name] = getattr(self, name)[concepts]
        if self.similarities is not None:
            parts["similarities"] = self.similarities[:, concepts]
        return replace(self, **parts)

    def rename(self, name):
        """Return the same block under another expert name."""
        return replace(self, name=check_expert_name(name))


def check_expert_name(name):
    """Return `name` if an expert can have it: a non-empty str without `"__"`."""
    if not isinstance(name, str) or not name or "__" in name:
        raise InputError(
            "An expert's name must be a non-empty str without '__' (columns are named "
            f"'expert__concept'). Got {name!r} instead."
        )
    return name


def unit_rows(rows, present=None, what="Embedding", first=0):
    """Return rows of shape (n, d) L2-normalised in float64, as float32; absent rows are NaN.

    `first` is the number of the first row, for what is said of a row.
    """
    rows = np.asarray(rows, dtype=np.float64)
    largest = np.max(np.abs(rows), axis=1, keepdims=True, initial=0.0)
    zero = np.flatnonzero(largest[:, 0] == 0)
    if zero.size:
        raise InputError(
            f"{what} {first + zero[0]} is all zeros and has no direction; leave it out."
        )
    rows = rows / largest  # squares of very small or large entries would leave float64's range
    out = (rows / np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))).astype(np.float32)
    if present is not None:
        out[~present] = np.nan
    return out


def unit_embeddings(name, array, what="image embeddings", absent=True):
    """Return embeddings L2-normalised as float32, NaN where absent, and which are there.

    Checked and made a block of rows at a time. A memory map of float32 rows of unit length is
    returned as it is: it stays on the disk.

    Parameters
    ----------
    name : str
        The expert's.
    array : array-like of shape (n, d)
        An all-NaN row means that the expert did not see it, if rows may be `absent`.
    what : str, default="image embeddings"
    absent : bool, default=True

    Returns
    -------
    ndarray of shape (n, d), float32
    ndarray of shape (n,), bool

    Raises
    ------
    InputError
        If it is not a 2-D array of finite numbers and NaN, or a row is partly NaN or zero.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        array = matrix_rows(name, what, array, nan_rows=absent)
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"Expert {name!r}: {what} must be 2-D. Got shape {array.shape}.")
    blocks = [slice(a, a + _BLOCK_ROWS) for a in range(0, len(array), _BLOCK_ROWS)]
    gaps, missing = np.zeros((2, len(array)), dtype=bool)
    as_it_is = isinstance(array, np.memmap) and array.dtype == np.float32
    for rows in blocks:
        block = np.asarray(array[rows], dtype=np.float64)
        bad = np.flatnonzero((np.isinf(block) if absent else ~np.isfinite(block)).any(axis=1))
        if bad.size:
            kind = "an infinite value" if absent else "a NaN or infinite value"
            _refuse(name, what, rows.start + bad[0], kind)
        gaps[rows], missing[rows] = np.isnan(block).any(axis=1), np.isnan(block).all(axis=1)
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
        as_it_is &= bool((np.abs(lengths[~missing[rows]] - 1.0) < _UNIT).all())
    present = _present(name, what, gaps, missing)
    if as_it_is:
        return array, present
    out = np.empty(array.shape, dtype=np.float32)
    for rows in blocks:
        one = f"Expert {name!r}: {what.removesuffix('s')}"
        out[rows] = unit_rows(array[rows], present[rows], one, first=rows.start)
    return out, present


def _on_grid(rows):
    return np.rint(rows.astype(np.float64) * _GRID) / _GRID


def named_experts(experts, length, wanted):
    """Yield (name, parts) of a dict of experts, each with `length` parts."""
    if not isinstance(experts, Mapping) or not experts:
        raise InputError(
            f"Experts must be a non-empty dict of name -> {wanted}. Got {type(experts).__name__}."
        )
    for name, parts in experts.items():
        if not isinstance(parts, tuple | list) or len(parts) != length:
            raise InputError(f"Expert {name!r} must be {wanted}. Got {type(parts).__name__}.")
        yield check_expert_name(name), parts


def concept_names(name, concepts):
    """Return the concept names of an expert as a tuple of distinct non-empty str."""
    concepts = tuple(concepts) if not isinstance(concepts, str) else (concepts,)
    if not concepts or not all(isinstance(c, str) and c for c in concepts):
        raise InputError(f"Expert {name!r}: concept names must be a list of non-empty str.")
    if len(set(concepts)) < len(concepts):
        twice = next(c for c in concepts if concepts.count(c) > 1)
        raise InputError(f"Expert {name!r}: concept {twice!r} is there twice; names must differ.")
    return concepts


def matrix_rows(name, what, array, nan_rows=False):
    """Return a float64 copy of a 2-D array that is finite but for NaN where allowed."""
    try:
        array = np.array(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expert {name!r}: {what} must be an array of numbers.") from error
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"Expert {name!r}: {what} must be 2-D. Got shape {array.shape}.")
    bad = np.isinf(array) if nan_rows else ~np.isfinite(array)
    if bad.any():
        kind = "an infinite value" if nan_rows else "a NaN or infinite value"
        _refuse(name, what, np.flatnonzero(bad.any(axis=1))[0], kind)
    return array


def _refuse(name, what, row, kind):
    raise InputError(f"Expert {name!r}: row {row} of the {what} has {kind}; remove or mend it.")


def value_rows(name, what, array):
    """Return a float64 copy of (n, k) values and which rows are there; partly NaN is an error."""
    array = matrix_rows(name, what, array, nan_rows=True)
    return array, present_rows(name, what, array)


def present_rows(name, what, array, more="", words=EXPERT):
    """Return which rows of an expert's (n, k) values are there; partly NaN is an error.

    `more` is a further way on, told after the error; `words` are `BlockWords`.
    """
    gaps = np.isnan(array)
    return _present(name, what, gaps.any(axis=1), gaps.all(axis=1), more, words)


def _present(name, what, gaps, missing, more="", words=EXPERT):
    partly = np.flatnonzero(gaps & ~missing)
    if partly.size:
        listed = ", ".join(map(str, partly[:5])) + (", ..." if partly.size > 5 else "")
        raise InputError(
            f"{words.one.capitalize()} {name!r}: {partly.size} row(s) of the {what} are partly NaN "
            f"(rows {listed}). {words.gaps}{more}"
        )
    return ~missing


def class_parts(
    name,
    n_concepts,
    incidence,
    class_keys,
    class_synonyms,
    class_embeddings=None,
    width=None,
    answers=None,
):
    """Return the class arguments of one expert's block, checked."""
    if isinstance(incidence, Mapping):
        incidence = incidence.get(name)
    if isinstance(answers, Mapping):
        answers = answers.get(name)
    if isinstance(class_keys, Mapping):
        class_keys = class_keys.get(name)
    if isinstance(class_embeddings, Mapping):
        class_embeddings = class_embeddings.get(name)
    if class_synonyms and all(isinstance(v, Mapping) for v in class_synonyms.values()):
        class_synonyms = class_synonyms.get(name)
    if class_keys is None:
        if class_synonyms or any(p is not None for p in (incidence, answers, class_embeddings)):
            raise InputError(
                f"Expert {name!r}: incidence, answers, class_synonyms and class_embeddings need "
                "class_keys, the list of classes in their order."
            )
        return {}
    keys = tuple(class_key(key) for key in class_keys)
    if len(set(keys)) < len(keys) or not keys:
        raise InputError(f"Expert {name!r}: class_keys must be distinct. Got {list(keys)}.")
    synonyms = {}
    named = [(word, class_key(key)) for word, key in (class_synonyms or {}).items()]
    for word, key in [*zip(keys, keys, strict=True), *named]:
        if key not in keys:
            raise InputError(f"Expert {name!r}: synonym {word!r} names no class of {list(keys)}.")
        other = synonyms.setdefault(folded(word), key)
        if other != key:
            raise InputError(
                f"Expert {name!r}: the spelling {word!r} belongs to two classes, {other!r} and "
                f"{key!r}, so a label with it could not be matched. Give it to one of them."
            )
    parts = {"class_keys": keys, "class_synonyms": synonyms}
    if answers is not None:
        answers = np.array(answers)
        if answers.shape != (n_concepts, len(keys)) or not np.isin(answers, [-1, 0, 1]).all():
            raise InputError(
                f"Expert {name!r}: answers must be -1, 0 or 1 of shape ({n_concepts}, "
                f"{len(keys)}), concepts by classes. Got shape {answers.shape}."
            )
        parts["answers"] = answers.astype(np.int8, copy=False)
        if incidence is None:
            incidence = answers == 1
    if incidence is not None:
        incidence = np.array(incidence)
        known = incidence.dtype == bool or np.isin(incidence, [0, 1]).all()
        if incidence.shape != (n_concepts, len(keys)) or not known:
            raise InputError(
                f"Expert {name!r}: incidence must be 0/1 of shape ({n_concepts}, {len(keys)}), "
                f"concepts by classes. Got shape {incidence.shape}."
            )
        parts["incidence"] = incidence.astype(bool, copy=False)
    if class_embeddings is not None:
        rows = matrix_rows(name, "class embeddings", class_embeddings)
        if rows.shape != (len(keys), width):
            raise InputError(
                f"Expert {name!r}: class_embeddings must have shape ({len(keys)}, {width}). "
                f"Got {rows.shape}; experts of other widths need a dict with one array each."
            )
        parts["class_embeddings"] = unit_rows(rows)
    return parts
