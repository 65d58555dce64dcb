"""What `CrossModalMoEClassifier` reads: streams of tokens, out of whatever container X is."""

from dataclasses import dataclass

import numpy as np
from sklearn.utils.validation import validate_data

from skmoecbm._block_words import STREAM
from skmoecbm._blocks import present_rows
from skmoecbm._columns import refuse_images
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.moe._token_features import TokenFeatures
from skmoecbm.moe._token_stream import TokenStream, read_stream

__all__ = [
    "ColumnStream",
    "NamedStream",
    "StreamLayout",
    "read_streams",
    "streams_as_fitted",
]

_STREAMS = (
    "'auto', a list of one or two names of streams, or a dict of one or two names to "
    "(columns, width)"
)


@dataclass
class StreamLayout:
    """How streams were read in `fit`.

    Attributes
    ----------
    kind : {"tokens", "columns", "cut"}
        Of `TokenFeatures`; of a table whose columns are tokens; of one cut into tokens.
    columns : list of ndarray of int, or None
        Of each stream that was cut.
    picked : bool
        Whether some streams were asked for, so that there may be others.
    """

    kind: str
    columns: list | None = None
    picked: bool = False


class ColumnStream:
    """Each column of a table (n, m) as a token of its own: the value, at the column's place.

    As if token j were the value times the j-th unit vector, so that each column has a projection of
    its own; the unit vectors are never made.
    """

    def __init__(self, values, present):
        self.values, self.present = values, present

    def __len__(self):
        """Return the number of rows."""
        return len(self.values)

    @property
    def width(self):
        """Columns, m."""
        return self.values.shape[1]

    @property
    def lengths(self):
        """Tokens of each row, (n,)."""
        return self.width * self.present

    def take(self, rows):
        """Return some rows."""
        return ColumnStream(self.values[rows], self.present[rows])

    def padded(self):
        """Return values (n, m), anything where absent, and which are there, (n, m)."""
        return self.values, np.repeat(self.present[:, None], self.width, axis=1)


class NamedStream:
    """A stream of the training rows, as what checks and keeps account of a fit knows an expert."""

    def __init__(self, name, stream):
        self.name, self.stream, self.present = name, stream, stream.present

    def tables(self):
        """Return arrays that tell all of the stream: its tokens, and how many a row has."""
        if isinstance(self.stream, ColumnStream):
            return (self.stream.values,)
        return _FlatTokens(self.stream), self.stream.lengths[:, None]


class _FlatTokens:
    """Tokens of a stream (S, d), of which some are copied where they are asked for."""

    def __init__(self, stream):
        self._values, self._at = stream.values, stream.flat_indices()
        if isinstance(self._at, slice):
            self._values, self._at = self._values[self._at], None
        self.shape = (len(self._values if self._at is None else self._at), stream.width)
        self.dtype = stream.values.dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, some):
        return self._values[some if self._at is None else self._at[some]]


def read_streams(owner, X):
    """Return the streams of X by name, and in `fit` how they were read.

    Parameters
    ----------
    owner : CrossModalMoEClassifier
        In fit it gets `n_features_in_` and the like; afterwards `streams_` and `_layout` tell what
        there must be.
    X : TokenFeatures, DataFrame or array of shape (n, m)

    Returns
    -------
    streams : dict of str to TokenStream or ColumnStream
    layout : StreamLayout

    Raises
    ------
    InputError
        For more than two streams, one that is in no row, or one that never has more than one token.
    """
    if isinstance(X, TokenFeatures):
        _refuse_no_rows(owner, X)
        names, layout = _names_of(owner, X), StreamLayout("tokens")
        layout.picked = not isinstance(owner.streams, str)
        owner.n_features_in_ = X.shape[1]
        vars(owner).pop("feature_names_in_", None)
        streams = X.select(names).streams
    else:
        values = _table(owner, X, True)
        layout, widths = _layout_of(owner, values.shape[1])
        streams = _cut(values, layout, widths)
    for name, stream in streams.items():
        if not stream.present.any():
            way_on = ", or leave it out" if len(streams) > 1 else ""
            raise InputError(
                f"Stream {name!r} is missing from every row. Give it tokens in some{way_on}."
            )
        if stream.lengths.max() <= 1 and owner.fusion == "attention":
            table = " (n_features=1)" if layout.kind == "columns" else ", such as CLS alone"
            raise InputError(
                f"Stream {name!r} has one token per row{table}. Attention to one token is a "
                "softmax over one key, which is 1 whatever is asked: the queries would get no "
                "gradient. Give patch or word tokens, or set fusion='concat'."
            )
    return streams, layout


def streams_as_fitted(owner, X):
    """Return the streams of X by name, in the order of the fit.

    One that X does not have at all is a stream without tokens.

    Raises
    ------
    InputError
        For streams that the fit did not know, or of other widths.
    """
    known, layout, name_of_owner = owner.streams_, owner._layout, type(owner).__name__
    if isinstance(X, TokenFeatures) != (layout.kind == "tokens"):
        here, there = "TokenFeatures", f"a table of {owner.n_features_in_} columns"
        if layout.kind == "tokens":
            here, there = "a table", f"TokenFeatures with the streams {list(known)}"
        raise InputError(f"X is {here}, but {name_of_owner} was fitted on {there}. Give such.")
    if layout.kind != "tokens":
        return _cut(_table(owner, X, False), layout, known)
    _refuse_no_rows(owner, X)
    unknown = [name for name in X.names if name not in known and not layout.picked]
    found = {name: stream for name, stream in X.streams.items() if name in known}
    if unknown or not found:
        way_on = f"Pick with features.select({list(found)})" if found else "Give one of these"
        raise InputError(
            f"X has the streams {list(X.names)}, but {name_of_owner} was fitted on {list(known)}. "
            f"{way_on}."
        )
    for name, stream in found.items():
        if stream.width != known[name]:
            raise InputError(
                f"Stream {name!r} has tokens of width {stream.width}, but {name_of_owner} was "
                f"fitted on width {known[name]}. Use the encoder of the fit, or fit again."
            )
    nothing = np.zeros(len(X), dtype=np.intp)
    return {
        name: found.get(name) or TokenStream(np.empty((0, width), np.float32), nothing, nothing)
        for name, width in known.items()
    }


def _refuse_no_rows(owner, X):
    if len(X) == 0:
        raise InputError(
            f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required "
            f"by {type(owner).__name__}. Give at least one row."
        )


def _names_of(owner, X):
    """Return which streams of X are meant."""
    wanted = owner.streams
    if isinstance(wanted, dict):
        raise InputError(
            "The 'streams' parameter cuts columns of an array into tokens, and X is TokenFeatures, "
            "which has streams of its own. Set streams='auto', or to a list of names."
        )
    if isinstance(wanted, str) and wanted == "auto":
        if len(X.names) > 2:
            raise InputError(
                f"{type(owner).__name__} lets two streams attend to each other. Got "
                f"{len(X.names)}: {list(X.names)}. Name one or two of them in the parameter "
                "'streams'."
            )
        return X.names
    if not isinstance(wanted, list | tuple) or not 1 <= len(wanted) <= 2:
        raise parameter_error(owner, "streams", _STREAMS, wanted)
    return wanted


def _table(owner, X, fitting):
    refuse_images(owner, X)
    return validate_data(owner, X, reset=fitting, dtype=np.float64, ensure_all_finite="allow-nan")


def _layout_of(owner, n_columns):
    """Return the `StreamLayout` of a table, and the widths of its tokens."""
    wanted = owner.streams
    if isinstance(wanted, str) and wanted == "auto":
        return StreamLayout("columns"), {"columns": n_columns}
    if isinstance(wanted, list | tuple):
        raise InputError(
            "The 'streams' parameter names streams of TokenFeatures, and X is a table. Write "
            "streams={'image': (columns, width)} to cut its columns into tokens."
        )
    if not isinstance(wanted, dict) or not 1 <= len(wanted) <= 2:
        raise parameter_error(owner, "streams", _STREAMS, wanted)
    layout, widths = StreamLayout("cut", []), {}
    for name, parts in wanted.items():
        good = isinstance(parts, list | tuple) and len(parts) == 2 and isinstance(name, str)
        good = good and isinstance(parts[1], int | np.integer) and parts[1] >= 1
        if not good:
            wanted = "made of names to (columns, width of a token)"
            raise parameter_error(owner, "streams", wanted, {name: parts})
        columns, widths[name] = parts[0], int(parts[1])
        try:
            columns = columns if isinstance(columns, slice) else np.asarray(columns)
            columns = np.arange(n_columns)[columns]
        except IndexError as error:
            wanted = f"made of columns that X has (0 to {n_columns - 1})"
            raise parameter_error(owner, "streams", wanted, {name: parts}) from error
        if columns.ndim != 1 or not len(columns):
            wanted = "made of a slice or list of columns, with one at least"
            raise parameter_error(owner, "streams", wanted, {name: parts})
        if len(columns) % widths[name]:
            raise InputError(
                f"Stream {name!r}: {columns.size} column(s) cannot be cut into tokens of width "
                f"{widths[name]}. Give a multiple of the width."
            )
        layout.columns.append(columns)
    return layout, widths


def _cut(values, layout, widths):
    """Return the streams of a table (n, m)."""
    if layout.kind == "columns":
        (name,) = widths
        return {name: ColumnStream(values, present_rows(name, "columns", values, words=STREAM))}
    return {
        name: read_stream(name, values[:, columns].reshape(len(values), -1, width))
        for (name, width), columns in zip(widths.items(), layout.columns, strict=True)
    }
