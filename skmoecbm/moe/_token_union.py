"""Records of an image and a report, each part to the encoder that reads it."""

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from skmoecbm._named_encoders import NamedEncoders
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.moe._token_features import TokenFeatures
from skmoecbm.moe._without_columns import WithoutColumns

__all__ = ["TokenUnion"]


class TokenUnion(NamedEncoders, WithoutColumns, BaseEstimator):
    """Put the tokens of several encoders side by side, each in a stream of its own.

    Parameters
    ----------
    streams : list of (name, encoder)
        Encoders whose `transform` gives `TokenFeatures` of one stream, such as `TokenEncoder` and
        `TextTokenEncoder`. Names are unique, not empty and without "__"; they name what an encoder
        sees of a record.

    Attributes
    ----------
    streams_ : list of (name, encoder)
        The fitted clones.
    named_streams_ : Bunch
        The same by name.

    Notes
    -----
    A record may lack a part: an image or a text that is None or NaN, a blank text. Parameters of an
    encoder are reached by `name__parameter`; setting `name` replaces the encoder.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.moe import TextTokenEncoder, TokenEncoder, TokenUnion
    >>> union = TokenUnion([
    ...     ("image", TokenEncoder("demo-general", cache_dir=None)),
    ...     ("text", TextTokenEncoder("demo-general", cache_dir=None)),
    ... ])
    >>> image = np.zeros((80, 90, 3), dtype=np.uint8)
    >>> records = [(image, "irregular border"), (image, None), (None, "hair")]
    >>> union.fit_transform(records).present
    array([[ True,  True],
           [ True, False],
           [False,  True]])
    """

    _encoders = "streams"

    def __init__(self, streams):
        self.streams = streams

    def fit(self, X, y=None):
        """Fit every encoder on its part of the records.

        Parameters
        ----------
        X : DataFrame with the columns of those names, list of n dict with those keys, or list of n
            tuples or array of shape (n, streams) in their order
        y : array of shape (n,), default=None
            Handed to every encoder.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If `streams` is not as described, or a part is not there.
        """
        entries = self._check_streams()
        parts = _parts(X, [name for name, _ in entries])
        self.streams_ = [
            (name, clone(encoder).fit(part, y))
            for (name, encoder), part in zip(entries, parts, strict=True)
        ]
        return self

    def transform(self, X):
        """Return the tokens of all streams.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        TokenFeatures of n rows
        """
        check_is_fitted(self)
        parts = _parts(X, [name for name, _ in self.streams_])
        streams = {}
        for (name, encoder), part in zip(self.streams_, parts, strict=True):
            tokens = encoder.transform(part)
            if not isinstance(tokens, TokenFeatures) or len(tokens.names) != 1:
                raise InputError(
                    f"The encoder of stream {name!r} must give TokenFeatures of one stream. Got "
                    f"{tokens!r:.80}; take a TokenEncoder or a TextTokenEncoder."
                )
            streams[name] = tokens.streams[tokens.names[0]]
        return TokenFeatures._of(streams)  # under the names given here, and not copied

    def get_feature_names_out(self, input_features=None):
        """Return the names that the encoders give, with the names of the streams in front.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of shape (Σd,), str objects
        """
        check_is_fitted(self)
        names = [
            f"{name}__{str(one).rpartition('__')[2]}"
            for name, encoder in self.streams_
            for one in encoder.get_feature_names_out()
        ]
        return np.array(names, dtype=object)

    @property
    def named_streams_(self):
        """The fitted encoders by name, a Bunch."""
        check_is_fitted(self)
        return Bunch(**dict(self.streams_))

    def __sklearn_tags__(self):
        """Tell scikit-learn that rows are records."""
        tags = super().__sklearn_tags__()
        tags.no_validation = True
        tags.input_tags.string = tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _check_streams(self):
        entries = self._entries()
        if (
            not entries
            or len(entries) < len(self.streams)
            or any(len(entry) != 2 for entry in entries)
        ):
            raise parameter_error(
                self, "streams", "a non-empty list of (name, encoder)", self.streams
            )
        names = [name for name, _ in entries]
        odd = [n for n in names if not isinstance(n, str) or not n or "__" in n or n == "streams"]
        if odd or len(set(names)) < len(names):
            raise InputError(
                "Names of streams must be distinct and not empty, without '__', and other than "
                f"'streams'. Got {names}; rename them."
            )
        for name, encoder in entries:
            if isinstance(encoder, type) or not (
                hasattr(encoder, "fit") and hasattr(encoder, "transform")
            ):
                raise InputError(
                    f"Stream {name!r} must have an encoder: an object with fit and transform, such "
                    f"as TokenEncoder(...). Got {encoder!r:.80} instead."
                )
        return entries


def _parts(X, names):
    """Return what each stream sees of the records, a list of columns."""
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        absent = [name for name in names if list(X.columns).count(name) != 1]
        if absent:
            raise InputError(
                f"The records must have one column for each of the streams {names}. Of "
                f"{absent[0]!r} there are {list(X.columns).count(absent[0])}; there are "
                f"{list(X.columns)[:10]}."
            )
        return [X[name] for name in names]
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "OU":
        X = [tuple(row) for row in X.astype(object)]
    elif isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype == object:
        X = list(X)
    if not isinstance(X, list | tuple):
        raise InputError(
            f"Expected a DataFrame with the columns {names}, a list of dict with these keys, or a "
            f"list of tuples in this order. Got {type(X).__name__}."
        )
    if not X:
        raise InputError("Found 0 records (shape (0,)) while a minimum of 1 is required.")
    if all(isinstance(record, dict) for record in X):
        absent = [name for name in names if not any(name in record for record in X)]
        if absent:
            raise InputError(
                f"No record has the key {absent[0]!r}; each must have those of {names} that it has "
                "anything for."
            )
        return [[record.get(name) for record in X] for name in names]
    for row, record in enumerate(X):
        if not isinstance(record, tuple | list) or len(record) != len(names):
            many = f" of {len(record)}" if isinstance(record, tuple | list) else ""
            raise InputError(
                f"Record {row:,} must be a tuple of {len(names)}, one for each of {names}, as all "
                f"records, or all must be dict. Got {type(record).__name__}{many}; None stands for "
                "a part that a record lacks."
            )
    return [[record[i] for record in X] for i in range(len(names))]
