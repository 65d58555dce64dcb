"""Which columns belong to which expert, whatever container X comes in."""

from dataclasses import dataclass
from os import PathLike

import numpy as np
from PIL.Image import Image
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import validate_data

from skmoecbm._block_words import words_of
from skmoecbm._blocks import present_rows
from skmoecbm._decoding import describe
from skmoecbm._dicom_frame import DicomFrame
from skmoecbm._expert_data import ExpertData
from skmoecbm._validation import is_dicom_dataset, parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures

__all__ = ["ExpertData", "Layout", "layout_of", "own_heads", "read_experts", "refuse_images"]

_GAPS = (
    " Or give it a head of its own that takes NaN: "
    "experts=[(name, HistGradientBoostingClassifier(), columns), ...]."
)


@dataclass
class Layout:
    """The split of the columns, fixed in `fit`.

    Attributes
    ----------
    names : list of str
        Experts.
    columns : list of ndarray of int
        Their columns.
    concepts : list of list of str
        Their concept names.
    gate_columns : ndarray of int
        Columns that only the gate sees.
    gaps : frozenset of str
        Experts that may see a row with some of their columns NaN.
    """

    names: list
    columns: list
    concepts: list
    gate_columns: np.ndarray
    gaps: frozenset = frozenset()


def layout_of(owner, X, experts, gate_columns=()):
    """Return the `Layout` that X and the `experts` parameter describe.

    Raises
    ------
    InputError
        For column names of which only some carry a prefix, unknown columns, names given twice,
        or columns in two experts.
    """
    names, words = _column_names(X), words_of(owner)
    n_columns = owner.n_features_in_
    gate = np.array([_column_index(owner, "gate_input", c, names, n_columns) for c in gate_columns])
    gate = gate.astype(int)
    taken = set(gate.tolist())
    left = [i for i in range(n_columns) if i not in taken]
    if not (isinstance(experts, str) and experts == "auto"):
        blocks = _given_blocks(owner, experts, names, n_columns)
    elif isinstance(X, ExpertFeatures):
        # Of a block that only the gate sees no expert is left.
        blocks = {
            block.name: columns
            for block, columns in _block_columns(X)
            if not set(columns.tolist()) <= set(gate.tolist())
        }
    elif names is not None and any("__" in name for name in names):
        bare = [names[i] for i in left if "__" not in names[i]]
        if bare:
            raise InputError(words.bare.format(bare[:3], len(bare), len(left)))
        blocks = {}
        for i in left:
            blocks.setdefault(names[i].split("__", 1)[0], []).append(i)
    else:
        blocks = {words.whole: left}
    # A gate column never doubles as evidence.
    kept = set(left)
    blocks = {name: np.array([i for i in cols if i in kept]) for name, cols in blocks.items()}
    for name, columns in blocks.items():
        if not len(columns):
            raise InputError(
                f"{words.one.capitalize()} {name!r} has no column left. Give it at least one."
            )
    if not blocks:
        raise InputError("All columns are gate_input, so no expert is left. Leave some of them.")
    labels = names if names is not None else [f"x{i}" for i in range(n_columns)]
    concepts = [
        [labels[i].removeprefix(f"{name}__") for i in columns] for name, columns in blocks.items()
    ]
    columns = [columns.astype(int) for columns in blocks.values()]
    gaps = frozenset(name for name, head in own_heads(experts).items() if _takes_gaps(head))
    return Layout(list(blocks), columns, concepts, gate, gaps)


def _takes_gaps(head):
    """Return whether a classifier, or a pipeline up to its imputer, says that it takes NaN."""
    if not isinstance(head, Pipeline):
        return get_tags(head).input_tags.allow_nan
    for _, step in head.steps:  # a pipeline's own tags tell nothing
        if not get_tags(step).input_tags.allow_nan:
            return False
        if hasattr(step, "add_indicator"):
            return True
    return True


def own_heads(experts):
    """Return expert -> head for those of ``experts`` that are (name, head, columns)."""
    if not isinstance(experts, (list, tuple)):
        return {}
    return {entry[0]: entry[1] for entry in experts if len(entry) == 3}


def read_experts(owner, X, layout=None, *, y=None, experts="auto", gate_columns=()):
    """Validate X and cut it into experts.

    Parameters
    ----------
    owner : estimator
        Gets `n_features_in_` and `feature_names_in_` where `layout` is None (in `fit`).
    X : ExpertFeatures, DataFrame or array of shape (n, m)
    layout : Layout or None
        The split learned in `fit`.
    y : array-like or None
        Handed on; labels are checked where they are encoded.
    experts, gate_columns
        As the classifier's parameters.

    Returns
    -------
    data : list of ExpertData
    gate_values : ndarray of shape (n, g), float64
    layout : Layout
    y : as it came

    Raises
    ------
    InputError
        For a partly NaN block, infinity, other columns than in `fit`.
    """
    fitting = layout is None
    if isinstance(X, ExpertFeatures):
        y = _check_features(owner, X, y, fitting)
        values = None
    else:
        source = X
        refuse_images(owner, X)
        # Without y: what is wrong with labels is said by row, where they are encoded.
        X = validate_data(owner, X, reset=fitting, dtype=np.float64, ensure_all_finite="allow-nan")
        values = X
    if fitting:
        layout = layout_of(owner, X if values is None else source, experts, gate_columns)
    data, gaps = [], _GAPS if hasattr(owner, "experts") else ""
    for name, columns in zip(layout.names, layout.columns, strict=True):
        block = None if values is not None else _block_at(X, columns)
        if block is not None and block.similarities is None:
            # Of embeddings rows are whole or absent, and products may do without the values.
            data.append(ExpertData(name, None, block.present, block))
            continue
        if block is not None:
            part = block.values().astype(np.float64)
        else:
            part = _values_at(X, columns) if values is None else values[:, columns]
        if name in layout.gaps:
            present = ~np.isnan(part).all(axis=1)
        else:
            present = present_rows(name, "columns", part, gaps, words_of(owner))
        data.append(ExpertData(name, part, present, block))
    gate_values = (
        _values_at(X, layout.gate_columns) if values is None else values[:, layout.gate_columns]
    )
    return data, gate_values, layout, y


def refuse_images(owner, X):
    """Say what is amiss where a classifier is handed images; all else is scikit-learn's to say."""
    first, words = X, words_of(owner)
    if isinstance(X, list | tuple | np.ndarray) or hasattr(X, "iloc"):
        first = next(iter(X), None) if getattr(X, "ndim", 1) == 1 else None
    name, dims = type(owner).__name__, np.ndim(X) if isinstance(X, np.ndarray) else 0
    if dims in (3, 4) or (isinstance(first, np.ndarray) and first.ndim in (2, 3)):
        shape = X.shape if dims else first.shape
        what = f"X has the shape {shape}" if dims else f"The first row of X has the shape {shape}"
        raise InputError(f"{what}, as of images or tokens, and {words.behind.format(name=name)}")
    # Some sparse matrices are dicts as well.
    is_record = isinstance(first, dict) and not issparse(first)
    if words.records and (is_record or _holds_objects(X, first)):
        raise InputError(f"X holds records, and {words.behind.format(name=name)}")
    if isinstance(first, str | bytes | PathLike | Image | DicomFrame) or is_dicom_dataset(first):
        shown = describe(first)
        raise InputError(
            f"X holds images (the first is {shown}), and {words.behind.format(name=name)}"
        )


def _holds_objects(X, first):
    """Tell whether the first row, of a DataFrame or a tuple, has an image or a text in it."""
    cells = first if isinstance(first, tuple) else []
    if hasattr(X, "columns") and len(X):
        cells = X.iloc[0].tolist()
    kinds = (str, bytes, PathLike, Image, np.ndarray, DicomFrame)
    return any(isinstance(cell, kinds) or is_dicom_dataset(cell) for cell in cells)


def _block_columns(X):
    """Yield each block of an `ExpertFeatures` with its columns."""
    start = 0
    for block in X.blocks:
        yield block, np.arange(start, start + len(block.concepts))
        start += len(block.concepts)


def _block_at(X, columns):
    """Return the block, or the part of one, that these columns are; None where they span two."""
    for block, mine in _block_columns(X):
        if np.array_equal(columns, mine):
            return block
        if np.isin(columns, mine).all():
            return block.pick(columns - mine[0])
    return None


def _values_at(X, columns):
    """Return some columns of an `ExpertFeatures`, computing no others; (n, k), float64."""
    values = np.empty((len(X), len(columns)))
    for block, mine in _block_columns(X):
        here = np.flatnonzero(np.isin(columns, mine))
        if len(here):
            values[:, here] = block.pick(columns[here] - mine[0]).values()
    return values


def _check_features(owner, X, y, fitting):
    """Do for ExpertFeatures what scikit-learn's `validate_data` does for arrays."""
    if len(X) == 0:
        raise InputError(
            f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required "
            f"by {type(owner).__name__}. Give at least one image."
        )
    if fitting:
        owner.n_features_in_ = X.shape[1]
        owner.feature_names_in_ = np.array(X.columns, dtype=object)
        return y
    known = getattr(owner, "feature_names_in_", None)
    if known is not None and list(known) != X.columns:
        new = [c for c in X.columns if c not in set(known)]
        gone = [c for c in known if c not in set(X.columns)]
        raise InputError(
            f"X has other concepts than {type(owner).__name__} was fitted on: {len(new)} unknown "
            f"(such as {new[:2]}), {len(gone)} missing (such as {gone[:2]}). Transform the images "
            "with the encoders of the fit, or fit again."
        )
    if X.shape[1] != owner.n_features_in_:
        raise InputError(
            f"X has {X.shape[1]} features, but {type(owner).__name__} is expecting "
            f"{owner.n_features_in_} features as input."
        )
    return y


def _column_names(X):
    if isinstance(X, ExpertFeatures):
        return X.columns
    columns = getattr(X, "columns", None)
    if columns is None or not all(isinstance(c, str) for c in columns):
        return None
    return list(columns)


def _column_index(owner, parameter, column, names, n_columns):
    if isinstance(column, str):
        if names is None or column not in names:
            there = "X has no column names" if names is None else f"X has {names[:8]}"
            more = ", ..." if names is not None and len(names) > 8 else ""
            if isinstance(getattr(owner, parameter, None), (list, tuple, dict)) and any(
                name.endswith(f"__{column}") for name in names or ()
            ):
                whole = next(name for name in names if name.endswith(f"__{column}"))
                more += f"; did you mean {whole!r}?"
            raise parameter_error(
                owner,
                parameter,
                f"made of columns that X has (after an ExpertUnion they are 'expert__column'; "
                f"{there}{more})",
                column,
            )
        return names.index(column)
    integer = isinstance(column, (int, np.integer)) and not isinstance(column, bool)
    if integer and -n_columns <= column < n_columns:
        return int(column) % n_columns
    raise parameter_error(
        owner, parameter, f"made of columns that X has (0 to {n_columns - 1})", column
    )


def _named_block(columns, names):
    """Return the columns of the block that a str names, where no column is called so."""
    if not isinstance(columns, str) or names is None or columns in names:
        return columns
    return [name for name in names if name.startswith(f"{columns}__")] or columns


def _listed(owner, parameter, entry, names):
    """Return the columns of an entry of ``experts`` as a list, of whatever."""
    columns = _named_block(entry[-1], names)
    if isinstance(columns, str):
        return [columns]
    try:
        columns = np.asarray(columns).tolist()
    except ValueError as error:  # lists of several lengths
        wanted = "made of (name, columns), the columns a flat list"
        raise parameter_error(owner, parameter, wanted, entry) from error
    if isinstance(columns, int):
        return [columns]
    if not isinstance(columns, list):
        wanted = "made of (name, columns), the columns a name, a number, a slice or a list"
        raise parameter_error(owner, parameter, wanted, entry)
    return columns


def _given_blocks(owner, experts, names, n_columns):
    """Resolve ``experts=[(name, columns) or (name, head, columns), ...]``."""
    words = words_of(owner)
    parameter, wanted = words.parameter, words.forms
    if not isinstance(experts, (list, tuple)) or not experts:
        raise parameter_error(owner, parameter, wanted, experts)
    blocks, used = {}, {}
    for entry in experts:
        if not (
            isinstance(entry, (list, tuple))
            and len(entry) in words.lengths
            and isinstance(entry[0], str)
        ):
            raise parameter_error(owner, parameter, wanted, entry)
        name, columns = entry[0], entry[-1]
        if len(entry) == 3 and not (hasattr(entry[1], "fit") and is_classifier(entry[1])):
            wanted = f"made of (name, head, columns), the head of {name!r} a classifier"
            raise parameter_error(owner, parameter, wanted, entry[1])
        if name in blocks:
            raise parameter_error(owner, parameter, wanted, [e[0] for e in experts])
        if isinstance(columns, slice):
            try:
                indices = list(range(n_columns))[columns]
            except TypeError as error:
                wanted = f"made of columns that X has; a slice is of numbers (0 to {n_columns})"
                raise parameter_error(owner, parameter, wanted, entry) from error
        else:
            columns = _listed(owner, parameter, entry, names)
            if len(columns) == n_columns and all(isinstance(c, bool) for c in columns):
                columns = np.flatnonzero(columns).tolist()
            elif any(isinstance(c, bool) for c in columns):
                wanted = f"made of columns that X has; a mask has {n_columns} entries"
                raise parameter_error(owner, parameter, wanted, entry)
            indices = [_column_index(owner, parameter, c, names, n_columns) for c in columns]
        for i in indices:
            if i in used:
                where = f"in two {words.parameter}, {used[i]!r} and"
                where = "twice in" if used[i] == name else where
                raise InputError(
                    f"Column {names[i] if names else i!r} stands {where} {name!r}. Give each "
                    f"column to one {words.one}, once."
                )
            used[i] = name
        blocks[name] = indices
    return blocks
