"""Tokens of images and reports: one array-like that knows its streams."""

from collections.abc import Mapping

import numpy as np

from skmoecbm.exceptions import InputError
from skmoecbm.moe._token_stream import TokenStream, flat_stream, read_stream

__all__ = ["TokenFeatures", "TokenStream"]


class TokenFeatures:
    """Tokens of one or several named streams, row by row: patches of images, words of reports.

    scikit-learn sees n rows that it can index (`len`, `features[rows]`, `cross_val_score`,
    `GridSearchCV`); `CrossModalMoEClassifier` sees the streams.

    Parameters
    ----------
    streams : dict of str to tokens
        Per stream one of

        * an array or `numpy.memmap` of shape (n, T, d), which is not copied;
        * a tuple of such an array and a mask of shape (n, T), True where a token is real;
        * a list of n arrays (T_i, d), None or of length 0 where the row lacks the stream.

        A row of nothing but NaN lacks the stream. The first token of a row is the one that sums it
        up (CLS), if there is one. float16, float32 and float64 stay what they are; other numbers
        become float64.

    Attributes
    ----------
    names : tuple of str
        Of the streams.
    streams : dict of str to TokenStream
    n_rows : int
    shape : tuple (n, Σd)
    ndim : 2
    dtype : numpy.dtype
        The widest of the streams'.
    present : ndarray of shape (n, M), bool
        Which row has which stream.

    Raises
    ------
    InputError
        If streams differ in their number of rows, tokens of a stream in their width, a row is
        partly NaN, or a value is infinite.

    Notes
    -----
    Indexing by a slice, a list or array of row numbers, or a boolean mask gives `TokenFeatures` of
    these rows that share their tokens with the whole: nothing is copied until a pickle is made. By
    one integer it gives a dict of the row's tokens (T_i, d), None where it lacks a stream.
    Objects are immutable.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.moe import TokenFeatures
    >>> patches = np.zeros((3, 5, 8), dtype=np.float32)
    >>> words = [np.ones((4, 6)), None, np.ones((2, 6))]
    >>> features = TokenFeatures({"image": patches, "text": words})
    >>> features
    TokenFeatures(3 rows; 'image': 5 tokens of width 8, 'text': 2 to 4 tokens of width 6, 1 without)
    >>> features[[1, 2]].present
    array([[ True, False],
           [ True,  True]])
    >>> features[2]["text"].shape
    (2, 6)
    """

    ndim = 2
    __hash__ = None

    def __init__(self, streams):
        if not isinstance(streams, Mapping) or not streams:
            raise InputError(
                "TokenFeatures needs a dict of stream name to tokens, with one stream at least. "
                f"Got {type(streams).__name__}; write TokenFeatures({{'image': tokens}})."
            )
        self._set({name: read_stream(name, tokens) for name, tokens in streams.items()})

    @classmethod
    def from_flat(cls, streams):
        """Make features from tokens that lie side by side, as a store keeps them.

        Parameters
        ----------
        streams : dict of str to (values, offsets)
            Tokens of all rows (S, d), which are not copied, and offsets (n + 1,), int: row i has
            the tokens from ``offsets[i]`` to before ``offsets[i + 1]``.

        Returns
        -------
        TokenFeatures

        Raises
        ------
        InputError
            If the offsets do not rise from 0 to S, or as for the class.

        Examples
        --------
        >>> import numpy as np
        >>> from skmoecbm.moe import TokenFeatures
        >>> TokenFeatures.from_flat({"text": (np.ones((5, 4)), [0, 2, 2, 5])})
        TokenFeatures(3 rows; 'text': 2 to 3 tokens of width 4, 1 without)
        """
        pairs = streams.values() if isinstance(streams, Mapping) else ()
        if not pairs or not all(isinstance(p, tuple | list) and len(p) == 2 for p in pairs):
            raise InputError("from_flat needs a dict of stream name to (values, offsets).")
        return cls._of({name: flat_stream(name, *parts) for name, parts in streams.items()})

    @classmethod
    def _of(cls, streams):
        features = cls.__new__(cls)
        features._set(streams)
        return features

    def _set(self, streams):
        odd = [name for name in streams if not isinstance(name, str) or not name]
        if odd:
            raise InputError(f"Streams must be named by a str. Got {odd[0]!r}.")
        rows = {name: len(stream) for name, stream in streams.items()}
        if len(set(rows.values())) > 1:
            raise InputError(
                f"All streams must have the same number of rows. Got {rows}; give None, or an "
                "all-NaN row, where a row lacks a stream."
            )
        self._streams = dict(streams)

    @property
    def names(self):
        """Names of the streams, a tuple of str."""
        return tuple(self._streams)

    @property
    def streams(self):
        """The streams by name, a dict of `TokenStream`."""
        return dict(self._streams)

    @property
    def n_rows(self):
        """Number of rows, n."""
        return len(next(iter(self._streams.values())))

    def __len__(self):
        """Return the number of rows."""
        return self.n_rows

    @property
    def shape(self):
        """Rows, and the widths of the streams together: (n, Σd)."""
        return self.n_rows, sum(stream.width for stream in self._streams.values())

    @property
    def dtype(self):
        """The widest dtype of the streams."""
        return np.result_type(*(stream.values.dtype for stream in self._streams.values()))

    @property
    def present(self):
        """Which row has which stream, (n, M), bool."""
        return np.stack([stream.present for stream in self._streams.values()], axis=1)

    def __array__(self, dtype=None, copy=None):
        """Refuse: rows have several tokens, and not equally many."""
        raise InputError(
            "TokenFeatures cannot become one array, for rows differ in their tokens. Use "
            "CrossModalMoEClassifier, which reads them, or features.padded(name)."
        )

    def padded(self, name):
        """Return the tokens of a stream as one array.

        Parameters
        ----------
        name : str

        Returns
        -------
        tokens : ndarray of shape (n, T, d)
            T is the number of tokens of the longest row; zero behind the last of a row.
        mask : ndarray of shape (n, T), bool
            True where a token is real.

        Raises
        ------
        InputError
            If there is no such stream.
        """
        return self.select(name)._streams[name].padded()

    def select(self, names):
        """Return the features of some streams, in the order of `names`.

        Parameters
        ----------
        names : str or list of str

        Raises
        ------
        InputError
            If a name is not one of `names`.
        """
        names = [names] if isinstance(names, str) else list(names)
        unknown = [name for name in names if name not in self._streams]
        if unknown or not names:
            what = f"There is no stream {unknown[0]!r} here" if unknown else "No stream was named"
            raise InputError(f"{what}; there are {list(self._streams)}.")
        return TokenFeatures._of({name: self._streams[name] for name in names})

    def join(self, other):
        """Return the features of these streams and of another `TokenFeatures`, side by side.

        Parameters
        ----------
        other : TokenFeatures of n rows

        Raises
        ------
        InputError
            If both have a stream of the same name, or unlike numbers of rows.
        """
        if not isinstance(other, TokenFeatures):
            raise InputError(f"join takes another TokenFeatures. Got {type(other).__name__}.")
        twice = [name for name in self._streams if name in other._streams]
        if twice:
            raise InputError(f"Both have a stream {twice[0]!r}. Give the streams distinct names.")
        return TokenFeatures._of({**self._streams, **other._streams})

    def __getitem__(self, key):
        """Return some rows; see the notes of the class."""
        # scikit-learn's _safe_indexing asks for features[rows, ...]
        rows = key[0] if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis else key
        if not isinstance(rows, slice | tuple):
            rows = np.asarray(rows)
            rows = rows.astype(np.intp) if rows.size == 0 and rows.dtype != bool else rows
            if rows.ndim == 0 and rows.dtype.kind in "iu":
                return {name: stream.row(int(rows)) for name, stream in self._streams.items()}
        if not isinstance(rows, slice) and (
            isinstance(rows, tuple) or rows.ndim != 1 or rows.dtype.kind not in "iub"
        ):
            raise InputError(
                "TokenFeatures has rows alone: index by a slice, an int, row numbers or a boolean "
                "mask; features.select(names) picks streams."
            )
        return TokenFeatures._of({n: stream.take(rows) for n, stream in self._streams.items()})

    def __iter__(self):
        """Iterate over the rows, dicts of tokens (T_i, d) or None by stream."""
        return (self[i] for i in range(len(self)))

    def __eq__(self, other):
        """Tell whether both have the same streams and tokens."""
        if not isinstance(other, TokenFeatures):
            return NotImplemented
        return self.names == other.names and all(
            stream.equals(other._streams[name]) for name, stream in self._streams.items()
        )

    def __repr__(self):
        """Return one line: rows, names, tokens."""
        parts = []
        for name, stream in self._streams.items():
            lengths = stream.lengths[stream.present]
            high = int(lengths.max(initial=0))
            low = int(lengths.min(initial=high))
            many = f"{high}" if low == high else f"{low} to {high}"
            gone = len(stream) - len(lengths)
            parts.append(
                f"{name!r}: {many} token{'s' * (high != 1)} of width {stream.width}"
                f"{f', {gone} without' if gone else ''}"
            )
        return f"TokenFeatures({len(self)} rows; {', '.join(parts)})"
