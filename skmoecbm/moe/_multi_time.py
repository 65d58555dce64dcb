"""`MultiTimeAttention`: irregular time series on a regular grid."""

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skmoecbm._validation import check_number, parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.moe._time_attention import TimeAttention
from skmoecbm.moe._time_series import check_width, count_variables, pack_series, unpack

__all__ = ["MOST_FREQUENCIES", "MOST_HEADS", "MOST_POINTS", "MultiTimeAttention"]

_ROWS_AT_ONCE = 512

# More than anybody has a use for, and what a saved model may ask for.
MOST_POINTS, MOST_FREQUENCIES, MOST_HEADS = 2**16, 2**12, 2**8


class MultiTimeAttention(TransformerMixin, BaseEstimator):
    """Transformer of irregular time series into numbers at regular points in time.

    For each point, variable and head it gives the mean of what was measured around then, and how
    much was. Standing alone it is of fixed sinusoids and learns only the span of time and the scale
    of the variables. In ``SparseMoEClassifier(time_series={"vitals": MultiTimeAttention(...)})``
    the attention is trained with everything else, from there on.

    Parameters
    ----------
    n_points : int, default=16
        Points in time, from the first to the last.
    n_frequencies : int, default=8
        Sinusoids that times are described by. With F of them a measurement is near a point within
        about ``1 / (F * sqrt(sharpness))`` of the span of time.
    sharpness : float or tuple of float, default=8.0
        How much the nearest measurements count over others. One number for each head: a small one
        smooths, a great one takes what is nearest.
    time_range : (float, float) or "auto", default="auto"
        First and last point in time, in the unit of the times; "auto" spans the measurements of the
        fit. What was measured outside counts as measured at that end.
    n_variables : int, default=None
        Needed where X is a block of columns that `pack_series` wrote.

    Attributes
    ----------
    span_ : (float, float), in the unit of the times
    points_ : ndarray of shape (G,), in the unit of the times
        Regular in the span; of one point its beginning.
    means_, scales_ : ndarray of shape (V,)
        Of each variable over its measurements; the deviation is 1 where it does not vary.
    n_variables_ : int
    n_features_in_ : int
        Columns of X, where it was a table.

    Notes
    -----
    The order of a row's measurements makes no difference, nor do other rows. Published code gives
    the mask to the attention as values that the same mask hides, which come out as 1 wherever the
    variable was measured at all, at any time; here the amount is of what is near the point.

    References
    ----------
    Shukla and Marlin (2021), "Multi-time attention networks for irregularly sampled time series";
    Han et al. (2024), "FuseMoE", which makes them a modality.

    Examples
    --------
    >>> from skmoecbm.moe import MultiTimeAttention
    >>> fever = [([0.0, 9.0], [36.9, 39.1]), ([1.0, 4.0, 10.0], [39.5, 38.0, 36.8]), None]
    >>> grid = MultiTimeAttention(n_points=2).fit_transform(fever)
    >>> grid.shape
    (3, 4)
    >>> bool(grid[0, 0] < grid[0, 2]), bool(grid[1, 0] > grid[1, 2])  # at the start, at the end
    (True, True)
    """

    def __init__(
        self, n_points=16, *, n_frequencies=8, sharpness=8.0, time_range="auto", n_variables=None
    ):
        self.n_points = n_points
        self.n_frequencies = n_frequencies
        self.sharpness = sharpness
        self.time_range = time_range
        self.n_variables = n_variables

    def fit(self, X, y=None):
        """Learn the span of time, and the scale of each variable.

        Parameters
        ----------
        X : list of length n, or array or DataFrame of shape (n, L * (1 + 2 * V))
            As `pack_series` takes them, or what it returned. A DataFrame of one column of objects
            has a series in each cell.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError
            For a parameter out of range, or a row that is no series.
        """
        self.check()
        vars(self).pop("n_features_in_", None)
        packed, self.n_variables_ = self._packed(X, self.n_variables)
        if len(getattr(X, "shape", ())) == 2:
            self.n_features_in_ = X.shape[1]
        return self.learn_scales(packed, np.ones(len(packed)))

    def learn_scales(self, packed, weights, name="X"):
        """Fit to packed series (n, L * (1 + 2 * V)), rows weighed by (n,)."""
        times, values, mask = unpack(packed, self.n_variables_, name)
        used = (weights > 0)[:, None] & mask.any(2)
        if self.time_range == "auto":
            low, high = (times[used].min(), times[used].max()) if used.any() else (0.0, 1.0)
        else:
            low, high = self.time_range
        self.span_ = (float(low), float(high if high > low else low + 1.0))
        self.points_ = np.linspace(*self.span_, self.n_points)
        w = weights[:, None, None] * mask
        total = np.maximum(w.sum((0, 1)), np.finfo(float).tiny)
        self.means_ = (w * values).sum((0, 1)) / total
        scales = np.sqrt((w * np.square(values - self.means_)).sum((0, 1)) / total)
        self.scales_ = np.where(scales > 1e-12 * (1 + np.abs(self.means_)), scales, 1.0)
        return self

    def scaled(self, packed, name="X"):
        """Return times in units of the span, standardised values and mask, of packed series."""
        times, values, mask = unpack(packed, self.n_variables_, name)
        first, last = self.span_
        times = (times - first) / (last - first)
        return times, np.where(mask, (values - self.means_) / self.scales_, 0.0), mask

    def attention_settings(self):
        """Return the arguments of `TimeAttention`."""
        return int(self.n_points), int(self.n_frequencies), self._heads()

    def attention(self):
        """Return the attention as it stands before it has learned anything."""
        return TimeAttention(*self.attention_settings())

    @property
    def n_outputs(self):
        """Columns of the grid."""
        return 2 * len(self._heads()) * self.n_points * self.n_variables_

    def transform(self, X):
        """Return the series on the grid.

        Parameters
        ----------
        X : list of length n, or array or DataFrame of shape (n, L * (1 + 2 * V))

        Returns
        -------
        ndarray of shape (n, H * G * V * 2), float64
            For each head, point and variable the mean, in deviations of the variable (0 where there
            is nothing), and in [0, 1] how much there was. NaN in a row without a series.
        """
        check_is_fitted(self)
        packed, _ = self._packed(X, self.n_variables_)
        attention = self.attention()
        found = [np.empty((0, self.n_outputs))]
        with torch.no_grad():
            for start in range(0, len(packed), _ROWS_AT_ONCE):
                some = self.scaled(packed[start : start + _ROWS_AT_ONCE])
                found.append(attention(*map(torch.as_tensor, some)).flatten(1).numpy())
        grid = np.concatenate(found)
        grid[np.isnan(packed).all(axis=1)] = np.nan
        return grid

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns, such as "v0_at_12_mean".

        Parameters
        ----------
        input_features : list of str, length V, default=None
            Names of the variables; None is v0, v1, ... So are the names of all columns of a table
            that was given to `fit`, which a `ColumnTransformer` hands over: they say nothing of
            the variables.
        """
        check_is_fitted(self)
        names = input_features
        columns = getattr(self, "n_features_in_", None)
        if names is None or len(names) == columns != self.n_variables_:
            names = [f"v{v}" for v in range(self.n_variables_)]
        if len(names) != self.n_variables_:
            raise InputError(
                f"There are {self.n_variables_} variables. Got {len(names)} names for them."
            )
        heads = (
            [""] if len(self._heads()) == 1 else [f"_head{h}" for h in range(len(self._heads()))]
        )
        return np.array(
            [
                f"{name}_at_{point}{head}_{kind}"
                for head in heads
                for point in _told_apart(self.points_)
                for name in names
                for kind in ("mean", "amount")
            ],
            dtype=object,
        )

    def check(self):
        """Raise `InputError` for a parameter out of range."""
        for name, most in (("n_points", MOST_POINTS), ("n_frequencies", MOST_FREQUENCIES)):
            check_number(self, name, getattr(self, name), low=1, high=most, integer=True)
        heads = self.sharpness if isinstance(self.sharpness, tuple | list) else (self.sharpness,)
        if not 1 <= len(heads) <= MOST_HEADS:
            wanted = f"a number, or one for each of at most {MOST_HEADS} heads"
            raise parameter_error(self, "sharpness", wanted, heads)
        for one in heads:
            check_number(self, "sharpness", one, low=0)
        if self.n_variables is not None:
            check_number(self, "n_variables", self.n_variables, low=1, integer=True)
        span = self.time_range
        if isinstance(span, str) and span == "auto":
            return
        wanted = "'auto', or the first and the last point in time"
        if not isinstance(span, tuple | list) or len(span) != 2:
            raise parameter_error(self, "time_range", wanted, span)
        for end in span:
            check_number(self, "time_range", end)
        if span[0] >= span[1]:
            raise parameter_error(self, "time_range", wanted, span)

    def _heads(self):
        heads = self.sharpness if isinstance(self.sharpness, tuple | list) else (self.sharpness,)
        return tuple(float(one) for one in heads)

    def _packed(self, X, n_variables):
        """Return packed series, and how many variables they are of."""
        X = _array_of(X)
        if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "fiu":
            if n_variables is None:
                raise InputError(
                    "X is a block of columns, and MultiTimeAttention cannot see how many variables "
                    "are in it. Say n_variables=, or give the series as a list of rows."
                )
            check_width(X.shape[1], n_variables, "X")
            X = np.ascontiguousarray(X, dtype=np.float64)  # one order of sums for all tables
            gaps = np.flatnonzero(np.isnan(X).any(axis=1) & ~np.isnan(X).all(axis=1))
            if len(gaps) or np.isinf(X).any():
                row = gaps[0] if len(gaps) else np.flatnonzero(np.isinf(X).any(axis=1))[0]
                raise InputError(
                    f"Row {row} of the block is NaN in part, or infinite. A row that has no series "
                    "is NaN in all columns; give the block as pack_series wrote it."
                )
            return X, n_variables
        if (isinstance(X, np.ndarray) and X.dtype != object) or isinstance(X, str | dict):
            raise InputError(
                "X must be a list of time series, or the block of columns that pack_series "
                f"returns. Got {type(X).__name__} of shape {np.shape(X)} instead."
            )
        rows = list(X)
        packed = pack_series(rows, n_variables=n_variables)
        return packed, n_variables or count_variables(rows)


def _told_apart(points):
    """Return points in time as text, of as few digits as tell them apart."""
    for digits in range(4, 17):
        names = [f"{point:.{digits}g}" for point in points]
        if len(set(names)) == len(names):
            break
    return names


def _array_of(X):
    """Return a table as an array, or as a list the one column of a table that holds series."""
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        values = X.to_numpy()
        if values.dtype == object and values.shape[1] > 1:  # such as of columns Int64 and float
            try:
                values = np.asarray(values, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise InputError(
                    "X is a table with something else than numbers in it. Give the columns that "
                    f"pack_series wrote, or one column with a series in each cell. ({error})"
                ) from error
        X = values
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 2 and X.shape[1] == 1:
        return X[:, 0].tolist()
    return X
