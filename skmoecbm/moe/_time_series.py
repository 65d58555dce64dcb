"""Irregular time series: ragged lists of measurements, and the same as a block of columns."""

import numpy as np

from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError

__all__ = ["check_width", "count_variables", "pack_series", "unpack"]

_SHAPES = "(times (L,), values (L, V)), or (times, values, mask (L, V))"


def pack_series(series, n_slots=None, n_variables=None):
    """Write irregular time series as one block of columns, which goes wherever columns go.

    Parameters
    ----------
    series : list of length n
        For each row None, where there is no series, or (times, values) or (times, values, mask):
        when something was measured, shape (L,), in any unit; what, shape (L, V), or (L,) for one
        variable; and which of the values are there, shape (L, V). A value that is NaN is not there
        either. Each row may have a length L of its own, and measurements come in any order.
    n_slots : int, default=None
        Measurements that a row has place for. None takes the longest row: give the number where
        other rows are to be packed later.
    n_variables : int, default=None
        Needed where no row may have a measurement.

    Returns
    -------
    ndarray of shape (n, n_slots * (1 + 2 * V)), float64
        For each slot the time, the V values and V numbers 1 (there) or 0, all 0 in a slot that is
        not used. A row without any measurement is NaN, as blocks that are missing are.

    Raises
    ------
    InputError
        If a row has another form, a time that is not finite, or more measurements than slots.

    Examples
    --------
    >>> from skmoecbm.moe import pack_series
    >>> pack_series([([0.5, 2.0], [[36.9], [39.1]]), None])
    array([[ 0.5, 36.9,  1. ,  2. , 39.1,  1. ],
           [ nan,  nan,  nan,  nan,  nan,  nan]])
    """
    rows = [_row(i, row) for i, row in enumerate(series)]
    if not rows:
        raise InputError("pack_series needs at least one row. Got an empty list.")
    if n_variables is not None:
        check_number("pack_series", "n_variables", n_variables, low=1, integer=True)
    measured = [row for row in rows if row is not None]
    widths = sorted({values.shape[1] for _, values, _ in measured} | {n_variables} - {None})
    if not widths:
        raise InputError(
            "No row has a measurement, so that nobody knows how many variables there are. Say "
            "n_variables=, or give at least one row that has one."
        )
    if len(widths) > 1:
        way_on = "give NaN for what a row lacks"
        if n_variables is not None and n_variables < widths[-1]:
            way_on += f", and say n_variables={widths[-1]}"
        raise InputError(
            f"All rows must have the same variables{_said(n_variables)}. Got {widths[0]} and "
            f"{widths[-1]}; {way_on}."
        )
    longest = max((len(times) for times, _, _ in measured), default=1)
    if n_slots is None:
        n_slots = longest
    check_number("pack_series", "n_slots", n_slots, low=1, integer=True)
    if longest > n_slots:
        raise InputError(
            f"A row has {longest} measurements, and n_slots={n_slots} has no place for them. Give "
            "a greater n_slots, or drop the oldest ones."
        )
    packed = np.full((len(rows), n_slots, 1 + 2 * widths[0]), np.nan)
    for i, row in enumerate(rows):
        if row is not None:
            packed[i] = 0.0
            packed[i, : len(row[0])] = np.column_stack(row)
    return packed.reshape(len(rows), -1)


def _said(n_variables):
    return "" if n_variables is None else f" (n_variables={n_variables})"


def unpack(packed, n_variables, name="X"):
    """Return times (n, L), values (n, L, V) and mask (n, L, V), bool, of packed series.

    Rows without a series come back with nothing there.

    Raises
    ------
    InputError
        If a mask is neither 0 nor 1; names the series `name`.
    """
    n = len(packed)
    cells = np.where(np.isnan(packed), 0.0, packed).reshape(n, -1, 1 + 2 * n_variables)
    mask = cells[:, :, 1 + n_variables :]
    if not ((mask == 0) | (mask == 1)).all():
        raise InputError(
            f"The masks of the time series {name!r} are not 0 or 1: was the block scaled or "
            f"imputed before, or is n_variables not {n_variables}? Give it as pack_series wrote "
            "it; it is scaled inside."
        )
    return cells[:, :, 0], cells[:, :, 1 : 1 + n_variables], mask > 0


def check_width(width, n_variables, name):
    """Raise unless a block has columns for whole slots."""
    slot = 1 + 2 * n_variables
    if width % slot or not width:
        raise InputError(
            f"The time series {name!r} has {width} columns, which is not a multiple of the {slot} "
            f"that pack_series writes for each slot of {n_variables} variable(s). Give the block "
            "that pack_series returns, and the number of variables in it."
        )


def _row(i, row):
    """Return times (L,), values (L, V) and mask (L, V) of what was measured, or None."""
    if row is None:
        return None
    if not isinstance(row, list | tuple) or len(row) not in (2, 3):
        raise InputError(
            f"Row {i} of the series must be None, or {_SHAPES}. Got {type(row).__name__} instead."
        )
    try:
        times, values = (np.asarray(part, dtype=np.float64) for part in row[:2])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Row {i} of the series has something else than numbers in it: {error}."
        ) from error
    values = values[:, None] if values.ndim == 1 else values
    mask = np.isfinite(values)
    if len(row) == 3:
        given = np.asarray(row[2])
        given = given[:, None] if given.ndim == 1 else given
        if given.shape != values.shape or not np.isin(given, (0, 1)).all():
            raise InputError(
                f"Row {i} of the series: the mask must be of 0 and 1, of the shape of the values, "
                f"{values.shape}. Got the shape {given.shape}."
            )
        mask = mask & given.astype(bool)
        values = np.where(given.astype(bool), values, 0.0)
    if times.ndim != 1 or values.ndim != 2 or len(times) != len(values):
        raise InputError(
            f"Row {i} of the series must be {_SHAPES}. Got times of shape {times.shape} and values "
            f"of shape {values.shape}."
        )
    if np.isinf(values).any() or not np.isfinite(times[mask.any(axis=1)]).all():
        raise InputError(
            f"Row {i} of the series has a time or a value that is not finite. Give NaN for a value "
            "that was not measured, and a number for each time."
        )
    used = mask.any(axis=1)
    if not used.any():
        return None
    return times[used], np.where(mask, values, 0.0)[used], mask[used].astype(np.float64)


def count_variables(series):
    """Return of how many variables the first row is that is a series, or None."""
    return next((row[1].shape[1] for row in map(_row, range(len(series)), series) if row), None)
