"""What `CrossModalMoEClassifier` reads: streams of tokens, out of whatever container X is."""

import numpy as np
import torch
from sklearn.utils.validation import validate_data

from skmoecbm._blocks import present_rows
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.moe._token_features import TokenFeatures
from skmoecbm.moe._token_stream import TokenStream, read_stream

__all__ = ["ColumnStream", "NamedStream", "StreamRows", "moments", "pieces", "read_streams"]

# Numbers that a forward pass may hold at a time: 64 MB of float64.
_AT_ONCE = 2**23

_STREAMS = (
    "'auto', a list of one or two names of streams, or a dict of one or two names to "
    "(columns, width)"
)


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


class StreamRows:
    """Rows of a stream that become standardised tensors when they are needed.

    Parameters
    ----------
    stream : TokenStream or ColumnStream
    mean, scale : ndarray of shape (d,)
    device : torch.device
    """

    def __init__(self, stream, mean, scale, device):
        self.stream, self.mean, self.scale, self.device = stream, mean, scale, device

    def __len__(self):
        """Return the number of rows."""
        return len(self.stream)

    def __getitem__(self, rows):
        """Return some rows."""
        rows = rows.cpu().numpy() if isinstance(rows, torch.Tensor) else rows
        return StreamRows(self.stream.take(rows), self.mean, self.scale, self.device)

    def padded(self):
        """Return tokens (b, T, d), or (b, m) of columns, and which are real, (b, T), bool.

        float64 where the tokens are, else float32; zero where no token is.
        """
        tokens, mask = self.stream.padded()
        dtype = np.float64 if tokens.dtype == np.float64 else np.float32
        # In the tokens' own precision: float64 of all of them would be most of the work.
        z = (tokens - self.mean.astype(dtype)) / self.scale.astype(dtype)
        z = np.where(mask if z.ndim == 2 else mask[:, :, None], z, dtype(0))
        return torch.as_tensor(z, device=self.device), torch.as_tensor(mask, device=self.device)


def pieces(x, present, width):
    """Yield some rows at a time, so many that their tokens fit into memory.

    Parameters
    ----------
    x : list of StreamRows
    present : tensor of shape (n, M), bool
    width : int
        What tokens are projected to.
    """
    longest = [int(rows.stream.lengths.max(initial=0)) for rows in x]
    numbers = sum(
        tokens * (1 if isinstance(rows.stream, ColumnStream) else rows.stream.width)
        + tokens * 4 * width
        for tokens, rows in zip(longest, x, strict=True)
    )
    numbers += longest[0] * longest[-1]
    step = max(1, _AT_ONCE // max(numbers, 1))
    for start in range(0, len(present), step):
        some = slice(start, start + step)
        yield [rows[some] for rows in x], present[some]


def moments(stream, weights):
    """Return mean and deviation of the numbers of a stream's tokens, each (d,), float64.

    A row counts by its weight, however many tokens it has; a number that does not vary has the
    deviation 1.

    Parameters
    ----------
    stream : TokenStream or ColumnStream
    weights : ndarray of shape (n,)
    """
    weights = weights * stream.present
    if not weights.any():  # its only rows are held out
        weights = stream.present.astype(float)
    weights = weights / weights.sum()
    if isinstance(stream, ColumnStream):

        def parts():
            yield weights, np.where(stream.present[:, None], stream.values, 0.0)
    else:
        by_token = np.repeat(weights / np.maximum(stream.lengths, 1), stream.lengths)

        def parts():
            at = 0
            for chunk in stream.chunks():
                yield by_token[at : at + len(chunk)], chunk.astype(np.float64, copy=False)
                at += len(chunk)

    mean = sum(w @ values for w, values in parts())
    scale = np.sqrt(sum(w @ np.square(values - mean) for w, values in parts()))
    return mean, np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, 1.0)


def read_streams(owner, X, known=None):
    """Return the streams of X by name, in the order of the fit.

    Parameters
    ----------
    owner : CrossModalMoEClassifier
        Gets `n_features_in_` and the like where `known` is None.
    X : TokenFeatures, DataFrame or array of shape (n, m)
    known : dict of str to int or None
        Streams of the fit and their widths; None in fit.

    Returns
    -------
    dict of str to TokenStream or ColumnStream
        One without tokens for a stream of the fit that X does not have at all.

    Raises
    ------
    InputError
        For streams that the fit did not know, or of other widths; in fit for more than two, and for
        one that never has more than one token.
    """
    fitting = known is None
    if isinstance(X, TokenFeatures):
        found = _of_features(owner, X, known)
    else:
        found = _of_table(owner, X, known)
    if fitting:
        _refuse_single_tokens(owner, found, X)
        return found
    for name, stream in found.items():
        if stream.width != known[name]:
            raise InputError(
                f"Stream {name!r} has tokens of width {stream.width}, but "
                f"{type(owner).__name__} was fitted on width {known[name]}. Use the encoder of the "
                "fit, or fit again."
            )
    n = len(next(iter(found.values())))
    nothing = np.zeros(n, dtype=np.intp)
    return {
        name: found.get(name) or TokenStream(np.empty((0, width), np.float32), nothing, nothing)
        for name, width in known.items()
    }


def _of_features(owner, X, known):
    if len(X) == 0:
        raise InputError(
            f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required "
            f"by {type(owner).__name__}. Give at least one row."
        )
    wanted = owner.streams
    if isinstance(wanted, dict):
        raise InputError(
            "The 'streams' parameter cuts columns of an array into tokens, and X is TokenFeatures, "
            "which has streams of its own. Set streams='auto', or to a list of names."
        )
    if known is not None:
        picked = isinstance(wanted, list | tuple)
        unknown = [name for name in X.names if name not in known and not picked]
        if unknown or not any(name in known for name in X.names):
            raise InputError(
                f"X has the streams {list(X.names)}, but {type(owner).__name__} was fitted on "
                f"{list(known)}. Pick them with features.select(names)."
            )
        return {name: stream for name, stream in X.streams.items() if name in known}
    auto = isinstance(wanted, str) and wanted == "auto"
    names = X.names if auto else wanted
    if not isinstance(names, list | tuple) or not 1 <= len(names) <= 2:
        if auto:
            raise InputError(
                f"{type(owner).__name__} lets two streams attend to each other. Got {len(names)}: "
                f"{list(names)}. Name one or two of them in the parameter 'streams'."
            )
        raise parameter_error(owner, "streams", _STREAMS, wanted)
    owner.n_features_in_ = X.shape[1]
    vars(owner).pop("feature_names_in_", None)
    return X.select(names).streams


def _of_table(owner, X, known):
    X = validate_data(
        owner, X, reset=known is None, dtype=np.float64, ensure_all_finite="allow-nan"
    )
    wanted = owner.streams
    if isinstance(wanted, str) and wanted == "auto":
        if known is not None and list(known) != ["columns"]:
            raise InputError(
                f"X is a table, but {type(owner).__name__} was fitted on the streams "
                f"{list(known)}. Give TokenFeatures."
            )
        return {"columns": ColumnStream(X, present_rows("columns", "columns", X))}
    if not isinstance(wanted, dict) or not 1 <= len(wanted) <= 2:
        if isinstance(wanted, list | tuple):
            raise InputError(
                "The 'streams' parameter names streams of TokenFeatures, and X is a table. Write "
                "streams={'image': (columns, width)} to cut its columns into tokens."
            )
        raise parameter_error(owner, "streams", _STREAMS, wanted)
    return {name: _cut(owner, name, parts, X) for name, parts in wanted.items()}


def _cut(owner, name, parts, X):
    """Return a block of columns (n, T * width) as T tokens."""
    good = isinstance(parts, list | tuple) and len(parts) == 2 and isinstance(name, str)
    good = good and isinstance(parts[1], int | np.integer) and parts[1] >= 1
    if not good:
        wanted = "made of names to (columns, width of a token)"
        raise parameter_error(owner, "streams", wanted, {name: parts})
    columns, width = parts
    try:
        block = X[:, columns if isinstance(columns, slice) else np.asarray(columns)]
    except IndexError as error:
        wanted = f"made of columns that X has (0 to {X.shape[1] - 1})"
        raise parameter_error(owner, "streams", wanted, {name: parts}) from error
    if block.ndim != 2 or block.shape[1] == 0 or block.shape[1] % width:
        raise InputError(
            f"Stream {name!r}: {block.shape[1] if block.ndim == 2 else 1} column(s) cannot be cut "
            f"into tokens of width {width}. Give a multiple of the width."
        )
    return read_stream(name, block.reshape(len(X), -1, width))


def _refuse_single_tokens(owner, streams, X):
    for name, stream in streams.items():
        if not stream.present.any():
            raise InputError(
                f"Stream {name!r} is missing from every row. Give it tokens in some, or leave it "
                "out."
            )
        if stream.lengths.max() <= 1 and owner.fusion == "attention":
            table = isinstance(stream, ColumnStream)
            raise InputError(
                f"Stream {name!r} has one token per row"
                f"{' (n_features=1)' if table else ', such as CLS alone'}. Attention to one token "
                "is a softmax over one key, which is 1 whatever is asked: the queries would get no "
                "gradient. Give patch or word tokens, or set fusion='concat'."
            )
