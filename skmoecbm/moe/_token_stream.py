"""One stream of tokens: flat values, and where each row's tokens begin and how many they are."""

import numpy as np

from skmoecbm.exceptions import InputError

__all__ = ["TokenStream", "flat_stream", "read_stream"]

# Numbers that are checked, compared or copied at a time: 32 MB of float64.
_CHUNK = 2**22


class TokenStream:
    """Tokens of one stream, row by row; a row without tokens lacks the stream.

    Attributes
    ----------
    values : ndarray or memmap of shape (S, d), float
        Tokens of all rows, never copied when rows are picked.
    starts, lengths : ndarray of shape (n,), int
        Row i has the tokens ``values[starts[i] : starts[i] + lengths[i]]``.
    """

    def __init__(self, values, starts, lengths):
        values = values.view()  # the flag is for us, not for who gave the array
        values.flags.writeable = False
        self.values, self.starts, self.lengths = values, starts, lengths

    def __len__(self):
        """Return the number of rows."""
        return len(self.lengths)

    @property
    def width(self):
        """Numbers in a token, d."""
        return self.values.shape[1]

    @property
    def present(self):
        """Which rows have tokens, (n,), bool."""
        return self.lengths > 0

    def take(self, rows):
        """Return some rows, as numpy indexes the first axis; their tokens are not copied."""
        return TokenStream(self.values, self.starts[rows], self.lengths[rows])

    def row(self, i):
        """Return the tokens of a row (T_i, d), a view; None where there are none."""
        length = self.lengths[i]
        return self.values[self.starts[i] : self.starts[i] + length] if length else None

    def chunks(self):
        """Yield the tokens of some rows at a time, (s, d), in their order."""
        most = max(1, _CHUNK // max(1, self.width))
        for rows in _pieces(self.lengths, most):
            yield self.values[self.flat_indices(rows)]

    def padded(self, rows=slice(None)):
        """Return tokens (b, T, d), zero behind a row's last, and which are real, (b, T), bool."""
        lengths = self.lengths[rows]
        longest = int(lengths.max(initial=0))
        mask = np.arange(longest) < lengths[:, None]
        tokens = np.zeros((len(lengths), longest, self.width), dtype=self.values.dtype)
        tokens[mask] = self.values[self.flat_indices(rows)]
        return tokens, mask

    def compact(self):
        """Return the same with no tokens but these rows' own, side by side."""
        total = int(self.lengths.sum())
        starts = np.cumsum(self.lengths) - self.lengths
        if total == len(self.values) and np.array_equal(
            starts[self.present], self.starts[self.present]
        ):
            return self
        values = np.empty((total, self.width), dtype=self.values.dtype)
        at = 0
        for chunk in self.chunks():
            values[at : at + len(chunk)] = chunk
            at += len(chunk)
        return TokenStream(values, starts, self.lengths)

    def __reduce__(self):
        """Pickle the tokens of these rows alone."""
        small = self.compact()
        return TokenStream, (small.values, small.starts, small.lengths)

    def equals(self, other):
        """Tell whether both have the same tokens in every row."""
        if self.width != other.width or not np.array_equal(self.lengths, other.lengths):
            return False
        most = max(1, _CHUNK // max(1, self.width))
        return all(
            np.array_equal(
                self.values[self.flat_indices(rows)], other.values[other.flat_indices(rows)]
            )
            for rows in _pieces(self.lengths, most)
        )

    def flat_indices(self, rows=slice(None)):
        """Return where in `values` the tokens of some rows are, (s,); a slice if side by side."""
        starts, lengths = self.starts[rows], self.lengths[rows]
        starts, lengths = starts[lengths > 0], lengths[lengths > 0]
        if not len(starts):
            return slice(0, 0)
        ends = np.cumsum(lengths)
        if np.array_equal(starts - starts[0], ends - lengths):
            return slice(starts[0], starts[0] + ends[-1])
        return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1])


def _pieces(lengths, most):
    """Yield slices of rows that together have about `most` tokens, one row at least."""
    start, total = 0, 0
    for row, length in enumerate(lengths.tolist()):
        if total and total + length > most:
            yield slice(start, row)
            start, total = row, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))


def read_stream(name, tokens):
    """Return the `TokenStream` of tokens as a user has them.

    Parameters
    ----------
    name : str
    tokens : array (n, T, d), (array (n, T, d), mask (n, T)), or sequence of n arrays (T_i, d)

    Raises
    ------
    InputError
        For another shape, unlike widths, NaN in a part of a row, or an infinite value.
    """
    if isinstance(tokens, tuple) and len(tokens) == 2 and np.ndim(tokens[0]) == 3:
        return _masked(name, _block(name, tokens[0]), tokens[1])
    if isinstance(tokens, np.ndarray) and tokens.dtype != object:
        return _masked(name, _block(name, tokens), None)
    if not isinstance(tokens, list | tuple | np.ndarray):
        raise InputError(
            f"Stream {name!r}: tokens must be an array (n, T, d) or a list of n arrays (T_i, d). "
            f"Got {type(tokens).__name__}."
        )
    rows, width, dtype = [], None, None
    for i, row in enumerate(tokens):
        if row is None or np.size(row) == 0:
            rows.append(None)
            continue
        row = _numbers(name, row, f"row {i} of the tokens")
        if row.ndim != 2 or (width is not None and row.shape[1] != width):
            wanted = "(T_i, d)" if width is None else f"(T_i, {width}), as the rows before it"
            raise InputError(
                f"Stream {name!r}: row {i} of the tokens must have shape {wanted}. Got shape "
                f"{row.shape}; give None where a row lacks the stream."
            )
        width = row.shape[1]
        dtype = row.dtype if dtype is None else np.promote_types(dtype, row.dtype)
        rows.append(row)
    if width is None:
        raise InputError(
            f"Stream {name!r}: no row has a token, so its width is unknown. Leave the stream out, "
            "or give an array of shape (n, T, d) in which all is NaN."
        )
    lengths = np.array([0 if row is None else len(row) for row in rows])
    values = np.empty((int(lengths.sum()), width), dtype=dtype)
    np.concatenate([row for row in rows if row is not None], out=values)
    return _checked(name, values, np.cumsum(lengths) - lengths, lengths)


def flat_stream(name, values, offsets):
    """Return the `TokenStream` of flat values (S, d) and offsets (n + 1,), which are checked."""
    values = _numbers(name, values, "the flat tokens")
    offsets = np.asarray(offsets)
    good = values.ndim == 2 and offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets)
    offsets = offsets.astype(np.intp) if good else offsets
    if not good or offsets[0] or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise InputError(
            f"Stream {name!r}: flat tokens (S, d) need offsets (n + 1,) that rise from 0 to S. Got "
            f"shapes {values.shape} and {offsets.shape}."
        )
    return _checked(name, values, offsets[:-1], np.diff(offsets))


def _numbers(name, array, what):
    """Return an array of floats, as it is where it has such; memory-mapped ones stay so."""
    try:
        array = array if isinstance(array, np.ndarray) else np.asarray(array)
        if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
            return array
        if array.dtype.kind in "biufO":
            return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Stream {name!r}: {what} must hold numbers ({error}). Give vectors of equal width."
        ) from error
    raise InputError(f"Stream {name!r}: {what} must hold real numbers. Got dtype {array.dtype}.")


def _block(name, tokens):
    """Return tokens of shape (n, T, d)."""
    tokens = _numbers(name, tokens, "tokens")
    if tokens.ndim != 3 or tokens.shape[2] == 0:
        raise InputError(
            f"Stream {name!r}: tokens must have shape (n, T, d): rows, tokens, and numbers in a "
            f"token. Got shape {tokens.shape}."
        )
    return tokens


def _masked(name, tokens, mask):
    """Return the stream of tokens (n, T, d), of which a mask (n, T) says which are real."""
    n, longest, width = tokens.shape
    values = tokens.reshape(n * longest, width)
    starts, lengths = np.arange(n) * longest, np.full(n, longest)
    if mask is None:
        return _checked(name, values, starts, lengths)
    mask = np.asarray(mask)
    if mask.shape != (n, longest) or not np.isin(mask, (0, 1)).all():
        raise InputError(
            f"Stream {name!r}: the mask of tokens {tokens.shape} must have shape "
            f"{(n, longest)} and hold True, or 1, where a token is real. Got shape {mask.shape}"
            f"{'' if mask.shape != (n, longest) else ' with other values'}."
        )
    mask = mask.astype(bool)
    lengths = mask.sum(axis=1)
    if (mask != (np.arange(longest) < lengths[:, None])).any():  # not padded at the end
        values, starts = values[mask.ravel()], np.cumsum(lengths) - lengths
    return _checked(name, values, starts, lengths)


def _checked(name, values, starts, lengths):
    """Return a stream; rows of nothing but NaN have no tokens, other values must be finite."""
    lengths = lengths.copy()
    stream = TokenStream(values, starts, lengths)
    for rows in _pieces(lengths, max(1, _CHUNK // max(1, values.shape[1]))):
        if np.isfinite(values[stream.flat_indices(rows)]).all():
            continue
        for i in range(*rows.indices(len(lengths))):
            row = stream.row(i)
            if row is None or np.isfinite(row).all():
                continue
            if np.isnan(row).all():
                lengths[i] = 0
                continue
            token = int(np.flatnonzero(~np.isfinite(row).all(axis=1))[0])
            found = "NaN" if np.isnan(row).any() else "an infinite value"
            raise InputError(
                f"Stream {name!r}: row {i} has {found} (in token {token}). Mend it, leave the "
                "token out with a mask, or give NaN for the whole row: it then lacks the stream."
            )
    return stream
