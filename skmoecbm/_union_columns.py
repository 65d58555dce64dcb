"""Which columns of a table an expert sees: as asked for, as fixed in `fit`, as cut out."""

import numbers

import numpy as np

from skmoecbm.exceptions import InputError

__all__ = ["choose_columns", "fixed_columns"]


def fixed_columns(name, X, columns):
    """Return what a specification of columns means for `X`, so that it stays so.

    Parameters
    ----------
    name : str
        The expert, for errors.
    X : DataFrame or array of shape (n, k)
    columns : None, str, int, list of them, slice, mask of k bool, or callable
        As the `columns` of `ExpertUnion`.

    Returns
    -------
    None, str, int, list of str or list of int
        One column alone where `columns` is one. Names where `X` has them and they are unique:
        they stay right when columns change their places.

    Raises
    ------
    InputError
        If a column is not there or not unique, or none is chosen.
    """
    if columns is None:
        return None
    _check_table(name, X, columns)
    asked = columns(X) if callable(columns) else columns
    labels = list(X.columns) if hasattr(X, "iloc") else None
    places = _places(name, asked, labels, X.shape[1])
    if not places:
        there = labels if labels is not None else f"{X.shape[1]} columns"
        raise InputError(
            f"Expert {name!r} asks for columns {columns!r}, and of {there} that is none. "
            "Choose one at least, or leave the expert out."
        )
    fixed = places
    if labels is not None:
        names = [labels[i] for i in places]
        if all(isinstance(one, str) and labels.count(one) == 1 for one in names):
            fixed = names
    return fixed[0] if _is_one(asked) else fixed


def choose_columns(name, X, columns, n_columns=None):
    """Return the columns of `X` that `fixed_columns` named: 1-D where it is one alone.

    Parameters
    ----------
    name : str
    X : as in `fixed_columns`
    columns : what `fixed_columns` returned
    n_columns : int, default=None
        How many columns numbers were fixed among; None does not ask.
    """
    if columns is None:
        return X
    _check_table(name, X, columns)
    first = columns[0] if isinstance(columns, list) else columns
    if not isinstance(first, str) and n_columns not in (None, X.shape[1]):
        raise InputError(
            f"X has {X.shape[1]} columns, but expert {name!r} was fitted on {n_columns} and finds "
            f"its own by their numbers ({columns!r}). Give the columns of the fit, in their order."
        )
    labels = list(X.columns) if hasattr(X, "iloc") else None
    places = _places(name, columns, labels, X.shape[1])
    places = places[0] if _is_one(columns) else places
    return X[:, places] if labels is None else X.iloc[:, places]


def _check_table(name, X, columns):
    shape = getattr(X, "shape", None)
    if shape is None or len(shape) != 2:
        raise InputError(
            f"Expert {name!r} asks for columns {columns!r}: X must be a DataFrame or a 2-D array. "
            f"Got {type(X).__name__}{'' if shape is None else f' of shape {tuple(shape)}'}."
        )


def _is_one(columns):
    return isinstance(columns, str | numbers.Integral)


def _places(name, columns, labels, n_columns):
    """Return the positions of the columns, in their order."""
    if isinstance(columns, slice):
        if not any(isinstance(end, str) for end in (columns.start, columns.stop)):
            return list(range(n_columns))[columns]
        # by names, the last one included, as pandas has it
        ends = [
            None if end is None else _place(name, end, columns, labels, n_columns)
            for end in (columns.start, columns.stop)
        ]
        stop = n_columns if ends[1] is None else ends[1] + 1
        return list(range(ends[0] or 0, stop, columns.step or 1))
    if _is_one(columns):
        return [_place(name, columns, columns, labels, n_columns)]
    if not isinstance(columns, list | tuple) and getattr(columns, "ndim", None) != 1:
        raise InputError(
            f"The columns of expert {name!r} must be a str, an int, a list of them, a slice, a "
            f"mask or a callable of X that gives one of these. Got {columns!r:.80} instead."
        )
    asked = list(columns)
    is_bool = [isinstance(one, bool | np.bool_) for one in asked]
    if any(is_bool):
        if not all(is_bool) or len(asked) != n_columns:
            raise InputError(
                f"Expert {name!r}: a mask of columns must be one bool for each of the {n_columns} "
                f"columns. Got {columns!r:.80} instead."
            )
        return np.flatnonzero(asked).tolist()
    return [_place(name, one, columns, labels, n_columns) for one in asked]


def _place(name, column, columns, labels, n_columns):
    """Return the position of one column; `columns` is all that was asked for."""
    if isinstance(column, str):
        if labels is None:
            raise InputError(
                f"Expert {name!r} asks for columns by name ({columns!r}): X must be a "
                "DataFrame. Got an array; give the DataFrame, or fit with column numbers."
            )
        if labels.count(column) == 1:
            return labels.index(column)
        if column in labels:
            raise InputError(
                f"Expert {name!r} asks for the column {column!r}, and {labels.count(column)} "
                "columns are called so. Rename them, or use column numbers."
            )
    elif isinstance(column, numbers.Integral) and not isinstance(column, bool):
        if -n_columns <= column < n_columns:
            return int(column) % n_columns
    there = labels if labels is not None else f"{n_columns} columns"
    raise InputError(
        f"Expert {name!r} asks for columns {columns!r}, which are not all there: {there}."
    )
