"""Several experts side by side, each keeping its own block of columns."""

from contextlib import nullcontext

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import Bunch
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from skmoecbm._blocks import check_expert_name
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures

__all__ = ["ExpertUnion", "choose_columns"]


class ExpertUnion(CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """Put the features of several experts side by side, each in a block of its own.

    Parameters
    ----------
    experts : list of (name, encoder) or (name, encoder, columns)
        The encoder is a `ConceptEncoder`, or any scikit-learn transformer (of tabular columns,
        say). `columns` names what it sees of a DataFrame or 2-D array: a str or int gives it a
        Series or 1-D array, a list or slice a DataFrame or 2-D array; without it the encoder sees
        all. Names are unique, not empty and without "__".
    n_jobs : int, default=None
        How many encoders work at the same time, in threads.

    Attributes
    ----------
    experts_ : list of (name, encoder)
        The fitted clones.
    named_experts_ : Bunch
        The same by name.

    Notes
    -----
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

    def __init__(self, experts, *, n_jobs=None):
        self.experts = experts
        self.n_jobs = n_jobs

    def get_params(self, deep=True):
        """Return the parameters and, if `deep`, the encoders by name and their parameters."""
        params = super().get_params(deep=False)
        if deep:
            for name, encoder, *_ in self._entries():
                params[name] = encoder
                if hasattr(encoder, "get_params") and not isinstance(encoder, type):
                    for key, value in encoder.get_params(deep=True).items():
                        params[f"{name}__{key}"] = value
        return params

    def set_params(self, **params):
        """Set `experts`, `n_jobs`, an encoder by its name, or `name__parameter`."""
        if "experts" in params:
            self.experts = params.pop("experts")
        names = [entry[0] for entry in self._entries()]
        for name in names:
            if name in params:
                encoder = params.pop(name)
                self.experts = [
                    (entry[0], encoder, *entry[2:]) if entry[0] == name else entry
                    for entry in self.experts
                ]
        return super().set_params(**params)

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
        return self._join(self._fit(X, y, transform=True))

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
        check_is_fitted(self)
        columns = [entry[2:] for entry in self.experts]
        return self._join(
            Parallel(n_jobs=self.n_jobs, prefer="threads")(
                delayed(encoder.transform)(choose_columns(name, X, *column))
                for (name, encoder), column in zip(self.experts_, columns, strict=True)
            )
        )

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
            for concept in _concepts(encoder)
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

    def _entries(self):
        """Return the experts that are at least pairs: `get_params` must work before `fit`."""
        experts = self.experts if isinstance(self.experts, list | tuple) else ()
        return [one for one in experts if isinstance(one, list | tuple) and len(one) in (2, 3)]

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
            if isinstance(encoder, type) or not (
                hasattr(encoder, "fit") and hasattr(encoder, "transform")
            ):
                raise InputError(
                    f"Expert {name!r} must be an encoder: an object with fit and transform, such "
                    f"as ConceptEncoder(...). Got {encoder!r:.80} instead."
                )
        return entries

    def _fit(self, X, y, transform):
        entries = self._check_experts()
        context = self._init_callback_context(
            max_subtasks=len(entries), sequential_subtasks=False
        ).call_on_fit_task_begin(estimator=self, X=X, y=y)
        jobs = []
        for i, (name, encoder, *columns) in enumerate(entries):
            encoder = clone(encoder)
            if hasattr(encoder, "set_output"):
                encoder.set_output(transform="default")  # a DataFrame would lose the block
            subcontext = context.subcontext(task_name=f"fit-{name}", task_id=i)
            jobs.append(
                (self, subcontext, encoder, choose_columns(name, X, *columns), y, transform)
            )
        done = Parallel(n_jobs=self.n_jobs, prefer="threads")(
            delayed(_fit_one)(*job) for job in jobs
        )
        self.experts_ = [(entry[0], job[0]) for entry, job in zip(entries, done, strict=True)]
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return [job[1] for job in done]

    def _join(self, outputs):
        blocks = []
        for (name, encoder), output in zip(self.experts_, outputs, strict=True):
            if not isinstance(output, ExpertFeatures):
                output = output.toarray() if hasattr(output, "toarray") else output
                output = ExpertFeatures.from_similarities({name: (output, _concepts(encoder))})
            if len(output.blocks) > 1:
                raise InputError(
                    f"Expert {name!r} is itself a union of {list(output.expert_names)}; "
                    "list these experts in one ExpertUnion."
                )
            blocks.append(output.blocks[0].rename(name))
        return ExpertFeatures(blocks)


def _fit_one(union, context, encoder, X, y, transform):
    # an encoder without callbacks is no reason to warn the user
    hand_on = (
        context.propagate_callback_context if hasattr(encoder, "set_callbacks") else nullcontext
    )
    with hand_on(encoder):
        context.call_on_fit_task_begin(estimator=union, X=X, y=y)
        output = encoder.fit_transform(X, y) if transform else encoder.fit(X, y)
        context.call_on_fit_task_end(estimator=union, X=X, y=y)
    return encoder, output


def _concepts(encoder):
    """Return the concept names of a fitted encoder, or the feature names of any transformer."""
    bank = getattr(encoder, "bank_", None)
    return bank.texts if bank is not None else [str(n) for n in encoder.get_feature_names_out()]


def choose_columns(name, X, columns=None):
    """Return the columns of `X` that expert `name` sees."""
    if columns is None:
        return X
    shape = getattr(X, "shape", None)
    if shape is None or len(shape) != 2:
        raise InputError(
            f"Expert {name!r} asks for columns {columns!r}: X must be a DataFrame or a 2-D array. "
            f"Got {type(X).__name__}{'' if shape is None else f' of shape {tuple(shape)}'}."
        )
    by_name = isinstance(columns, str) or (
        isinstance(columns, list) and any(isinstance(column, str) for column in columns)
    )
    try:
        if not hasattr(X, "iloc"):
            if by_name:
                raise InputError(
                    f"Expert {name!r} asks for columns by name ({columns!r}): X must be a "
                    f"DataFrame. Got {type(X).__name__}; use column numbers."
                )
            return X[:, columns]
        return X[columns] if by_name else X.iloc[:, columns]
    except (IndexError, KeyError) as error:
        there = list(X.columns) if hasattr(X, "iloc") else f"{shape[1]} columns"
        raise InputError(
            f"Expert {name!r} asks for columns {columns!r}, which are not all there: {there}."
        ) from error
