"""Several experts side by side, each keeping its own block of columns."""

from contextlib import nullcontext

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from skmoecbm._blocks import check_expert_name
from skmoecbm._named_encoders import NamedEncoders
from skmoecbm._union_columns import choose_columns, fixed_columns
from skmoecbm._union_rows import encoder_concepts, fitted, transformed
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures

__all__ = ["ExpertUnion", "columns_seen"]


class ExpertUnion(NamedEncoders, CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """Put the features of several experts side by side, each in a block of its own.

    Parameters
    ----------
    experts : list of (name, encoder) or (name, encoder, columns)
        The encoder is a `ConceptEncoder`, any scikit-learn transformer (of tabular columns,
        say), or "passthrough" for columns that are numbers already. `columns` names what it sees
        of a DataFrame or 2-D array, as in `sklearn.compose.ColumnTransformer`: a str or int gives
        it a Series or 1-D array; a list of them, a slice, a mask or a callable of X (such as
        `make_column_selector`) a DataFrame or 2-D array; without it the encoder sees all. Names
        of experts are unique, not empty and without "__".
    n_jobs : int, default=None
        How many encoders work at the same time, in threads.

    Attributes
    ----------
    experts_ : list of (name, encoder)
        The fitted clones.
    named_experts_ : Bunch
        The same by name.
    columns_ : list of (None, str, int, list of str or list of int)
        What each expert sees, as `fit` found it: names, where X is a DataFrame that has unique
        ones, so that a later DataFrame may have other columns, in another order.

    Notes
    -----
    A row is missing for an expert where the encoder gives NaN alone: an image that cannot be read
    (with `on_error="missing"`), a text that is None, NaN or blank, numbers that are all NaN. A
    transformer that takes no NaN, by its scikit-learn tags, is not shown the rows with nothing in
    its columns. A row of which some numbers are NaN stays so, for a head that may take it; see the
    `experts` of `GatedConceptBottleneckClassifier`.

    Unlike `sklearn.pipeline.FeatureUnion` it keeps the blocks apart, takes columns and hands
    callbacks on. Parameters of an encoder are reached by `name__parameter`; setting `name`
    replaces the encoder.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skmoecbm import ExpertUnion
    >>> X = np.array([[50.0, 1.0, 3.0], [60.0, 2.0, 9.0]])
    >>> union = ExpertUnion([("age", StandardScaler(), [0]), ("sizes", StandardScaler(), [1, 2])])
    >>> union.fit_transform(X)
    ExpertFeatures(2 rows; 'age': 1 concept, 'sizes': 2 concepts)
    """

    _encoders = "experts"

    def __init__(self, experts, *, n_jobs=None):
        self.experts = experts
        self.n_jobs = n_jobs

    @with_callbacks
    def fit(self, X, y=None):
        """Fit every encoder.

        Parameters
        ----------
        X : sequence of n images; or DataFrame or array of shape (n, columns)
        y : array of shape (n,), default=None
            Handed to every encoder.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If `experts` is not as described, or a column is not there.
        """
        self._fit(X, y, transform=False)
        return self

    @with_callbacks
    def fit_transform(self, X, y=None):
        """Fit every encoder and return the features of `X`; each image is read once.

        Returns
        -------
        ExpertFeatures of shape (n, Σm)
        """
        return ExpertFeatures(self._fit(X, y, transform=True))

    def transform(self, X):
        """Return the features of all experts, in their order.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        ExpertFeatures of shape (n, Σm), float32
            One block per expert. A DataFrame with `expert__concept` columns after
            `set_output(transform="pandas")`.
        """
        blocks = Parallel(n_jobs=self.n_jobs, require="sharedmem")(
            delayed(transformed)(name, encoder, seen)
            for name, encoder, seen in columns_seen(self, X)
        )
        return ExpertFeatures(blocks)

    def get_feature_names_out(self, input_features=None):
        """Return `"expert__concept"` of each column.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of shape (Σm,), str objects
        """
        check_is_fitted(self)
        names = [
            f"{name}__{concept}"
            for name, encoder in self.experts_
            for concept in encoder_concepts(encoder)
        ]
        return np.array(names, dtype=object)

    @property
    def named_experts_(self):
        """The fitted encoders by name, a Bunch."""
        check_is_fitted(self)
        return Bunch(**dict(self.experts_))

    def __sklearn_tags__(self):
        """Tell scikit-learn that the input may be one column of images or texts."""
        tags = super().__sklearn_tags__()
        tags.no_validation = True
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _check_experts(self):
        entries = self._entries()
        if not entries or len(entries) < len(self.experts):
            raise parameter_error(
                self,
                "experts",
                "a non-empty list of (name, encoder) or (name, encoder, columns)",
                self.experts,
            )
        names = [check_expert_name(entry[0]) for entry in entries]
        if len(set(names)) < len(names):
            raise InputError(f"Expert names must differ. Got {names}; rename one of them.")
        taken = [name for name in names if name in ("experts", "n_jobs")]
        if taken:
            raise InputError(f"{taken[0]!r} is a parameter of ExpertUnion; rename this expert.")
        for name, encoder, *_ in entries:
            if encoder == "passthrough":
                continue
            if isinstance(encoder, type) or not (
                hasattr(encoder, "fit") and hasattr(encoder, "transform")
            ):
                raise InputError(
                    f"Expert {name!r} must be an encoder: an object with fit and transform, such "
                    f"as ConceptEncoder(...), or 'passthrough'. Got {encoder!r:.80} instead."
                )
        return entries

    def _fit(self, X, y, transform):
        entries = self._check_experts()
        context = self._init_callback_context(
            max_subtasks=len(entries), sequential_subtasks=False
        ).call_on_fit_task_begin(estimator=self, X=X, y=y)
        jobs, fixed = [], []
        for i, (name, encoder, *columns) in enumerate(entries):
            columns = fixed_columns(name, X, *columns) if columns else None
            if isinstance(encoder, str):  # "passthrough"
                encoder = FunctionTransformer(feature_names_out="one-to-one")
                columns = [columns] if isinstance(columns, str | int) else columns
            encoder = clone(encoder)
            if hasattr(encoder, "set_output"):
                encoder.set_output(transform="default")  # a DataFrame would lose the block
            subcontext = context.subcontext(task_name=f"fit-{name}", task_id=i)
            seen = choose_columns(name, X, columns)
            fixed.append(columns)
            jobs.append((self, subcontext, name, encoder, seen, y, transform))
        # encoders are fitted in place, also where the user chose a backend of processes
        done = Parallel(n_jobs=self.n_jobs, require="sharedmem")(
            delayed(_fit_one)(*job) for job in jobs
        )
        self.experts_ = [(job[2], job[3]) for job in jobs]
        self.columns_ = fixed
        self._n_columns = X.shape[1] if getattr(X, "ndim", None) == 2 else None
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return done


def columns_seen(union, X):
    """Return (name, fitted encoder, what it sees of X) of each expert of a fitted union."""
    check_is_fitted(union)
    # a model that was loaded does not know how many columns there were
    n_columns = getattr(union, "_n_columns", None)
    return [
        (name, encoder, choose_columns(name, X, columns, n_columns))
        for (name, encoder), columns in zip(union.experts_, union.columns_, strict=True)
    ]


def _fit_one(union, context, name, encoder, X, y, transform):
    # an encoder without callbacks is no reason to warn the user
    hand_on = (
        context.propagate_callback_context if hasattr(encoder, "set_callbacks") else nullcontext
    )
    with hand_on(encoder):
        context.call_on_fit_task_begin(estimator=union, X=X, y=y)
        block = fitted(name, encoder, X, y, transform=transform)
        context.call_on_fit_task_end(estimator=union, X=X, y=y)
    return block
