"""What the classifiers of this folder share: rows held out, their score, where logits start."""

import copy

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer
from sklearn.utils.validation import check_is_fitted

from skmoecbm._base import ConceptClassifier, fit_task
from skmoecbm._heads import two_columns
from skmoecbm._joint_fit import split_rows
from skmoecbm._validation import check_choice, check_number, parameter_error
from skmoecbm.exceptions import InputError
from skmoecbm.moe._routing import GATINGS
from skmoecbm.moe._routing_explanation import explain_routing
from skmoecbm.moe._training import Balancing, MiniBatches, train

__all__ = ["NetworkClassifier"]


class NetworkClassifier(ConceptClassifier):
    """A classifier that trains a network by mini-batches and keeps its best epoch.

    To be explained one has `_routing`, `_outputs` and `_logits_without`, as `SparseMoEClassifier`.
    """

    _sums_concepts = False

    @property
    def _masked(self):
        """Names of the modalities that this view never looks at."""
        return tuple(getattr(self, f"masked_{self._block_words.parameter}_", ()))

    def without(self, name):
        """Return a view of this fitted model that never looks at one modality, or stream.

        Its predictions are those for rows that lack it: ``without("text")`` of a model of images
        and texts is the model of images alone. Nothing is fitted or copied; a view that is fitted
        again has all of them again.

        Parameters
        ----------
        name : str

        Returns
        -------
        classifier
            Of the same class. It has no calibration for sets of classes.

        Raises
        ------
        InputError
            If there is no such modality, or it is the last one.
        """
        check_is_fitted(self)
        words, masked = self._block_words, self._masked
        left = [n for n in self.modality_names_ if n not in masked]
        if name not in left:
            raise InputError(f"There is no {words.one} {name!r} to leave out; there are {left}.")
        if len(left) == 1:
            raise InputError(
                f"{name!r} is the last {words.one}; without it nothing is left to decide."
            )
        view = copy.copy(self)
        setattr(view, f"masked_{words.parameter}_", (*masked, name))
        vars(view).pop("set_calibration_", None)  # of what it says less is known
        return view

    def _start_rows(self, *rows, **settings):
        """Validate what comes with rows that were read; a view has all modalities again."""
        vars(self).pop(f"masked_{self._block_words.parameter}_", None)
        return super()._start_rows(*rows, **settings)

    def set_params(self, **params):
        """Set parameters, also those of `training` and `balancing` where these are None.

        Parameters
        ----------
        **params
            As of any estimator of scikit-learn's. ``training__learning_rate`` of a `training` that
            is None puts ``MiniBatches()`` there first, and so of `balancing` what None stands for.

        Returns
        -------
        self
        """
        own = {name: value for name, value in params.items() if "__" not in name}
        super().set_params(**own)  # before: `top_k` tells which balancing None stands for
        nested = {name: value for name, value in params.items() if "__" in name}
        for name, default in (("training", MiniBatches), ("balancing", self._default_balancing)):
            if getattr(self, name) is None and any(key.startswith(f"{name}__") for key in nested):
                setattr(self, name, default())
        return super().set_params(**nested)

    def _default_balancing(self):
        """Return what `balancing=None` stands for."""
        dense = self.top_k == self.n_experts
        return Balancing(loss="importance" if dense else "switch")

    def explain(self, X, *, images=None):
        """Tell whom each row was sent to, and what each modality did to the decision.

        Parameters
        ----------
        X : as of `predict`
        images : ignored
            Here so that the method is called as that of other classifiers.

        Returns
        -------
        RoutingExplanation
            Its `summary` tells whether routing differs by class, and who is missed.
        """
        check_is_fitted(self)
        return explain_routing(self, X)

    def _addends(self, X):
        """Return what adds up to the decision: of experts (n, E', K'), of modalities (n, M, K')."""
        found = [[one.cpu().numpy() for one in told] for told, _ in self._outputs(X, "addends")]
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    def _split(self, training, target, present, groups, rng):
        """Return which rows train, which are held out, and why none are (or None)."""
        used = target.weights > 0
        nobody = np.zeros(len(used), dtype=bool)
        if not training.early_stopping:
            return used, nobody, "early_stopping is False"
        splitter = training.validation_fraction
        if not hasattr(splitter, "split"):
            seed = np.random.default_rng(rng.randint(np.iinfo(np.int32).max))
            return split_rows(target, present, groups, splitter, seed)
        rows = np.flatnonzero(used)
        codes = target.codes[rows] if target.exclusive else target.codes.values[rows]
        names = None if groups is None else groups[rows]
        train, test = next(iter(splitter.split(np.zeros((len(rows), 1)), codes, names)))
        is_training, held_out = nobody.copy(), nobody.copy()
        is_training[rows[train]], held_out[rows[test]] = True, True
        is_training &= ~held_out
        if not (is_training.any() and held_out.any()):
            raise InputError(
                "The 'validation_fraction' of MiniBatches leaves no row to train or to validate. "
                "Give another splitter, or a share."
            )
        return is_training, held_out, None

    def _check_mixture(self):
        """Validate what is stored of experts and training, and return balancing and training."""
        for name in ("n_experts", "top_k", "expert_hidden"):
            check_number(self, name, getattr(self, name), low=1, integer=True)
        if self.top_k > self.n_experts:
            wanted = f"an int of at most n_experts (now {self.n_experts})"
            raise parameter_error(self, "top_k", wanted, self.top_k)
        check_choice(self, "gating", self.gating, GATINGS)
        training = MiniBatches() if self.training is None else self.training
        if not isinstance(training, MiniBatches):
            raise parameter_error(self, "training", "MiniBatches(...) or None", training)
        training.check()
        balancing = self.balancing
        if balancing is None:
            balancing = self._default_balancing()
        if not isinstance(balancing, Balancing):
            raise parameter_error(self, "balancing", "Balancing(...) or None", balancing)
        balancing.check(self)
        return balancing, training

    def _train(self, X, y, network, rates, n, batch_loss, score, training, generator, reason):
        """Train a network, and keep its tensors and what the run tells.

        Parameters
        ----------
        X, y
            As they came, for callbacks.
        network, rates, n, batch_loss, score, training, generator
            As `train` takes them.
        reason : str or None
            Why no rows are held out.
        """
        context = self._init_callback_context(max_subtasks=training.max_epochs)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        run = train(
            network,
            rates,
            n,
            batch_loss,
            score,
            training,
            generator,
            lambda name: fit_task(context, self, X, y, name),
        )
        self.weights_ = {
            name: value.cpu().numpy().copy() for name, value in network.state_dict().items()
        }
        run.early_stopping = reason or True
        self.history_ = vars(run).copy()
        self.training_summary_["device"] = next(network.parameters()).device.type
        self.n_iter_ = len(run.train_loss)
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=self._fitted_attributes()
        )
        return self

    def _log_odds(self):
        """Return the logits of the class frequencies, shape (K',)."""
        logits = np.asarray(self.class_log_prior_, dtype=np.float64)
        if self.multilabel_:
            return np.clip(logits, -10.0, 10.0)
        return logits[1:] - logits[:1] if self._n_outputs == 1 else logits - logits.mean()

    def _score(self, network, rows, scoring):
        """Return the score of rows held out; greater is better."""
        with torch.no_grad():
            logits, _ = network(rows.x, rows.present)
            if scoring is None:
                return -float((rows.share * rows.losses(logits)).sum() / rows.share.sum())
        scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring
        shown = logits.cpu().numpy()
        labels = rows.labels.cpu().numpy()
        if not self.multilabel_:
            labels = self.classes_[labels]
        return float(scorer(_Frozen(self.classes_, shown, self.multilabel_), shown, labels))


class _Frozen(ClassifierMixin, BaseEstimator):
    """Logits in the form of a fitted classifier, for scikit-learn's scorers."""

    def __init__(self, classes, logits, multilabel):
        self.classes_, self._logits, self._multilabel = classes, logits, multilabel

    def decision_function(self, X):
        return self._logits[:, 0] if self._logits.shape[1] == 1 else self._logits

    def predict_proba(self, X):
        if self._multilabel:
            return 1.0 / (1.0 + np.exp(-self._logits))
        logits = two_columns(self._logits) if self._logits.shape[1] == 1 else self._logits
        return np.exp(log_softmax(logits, axis=1))

    def predict(self, X):
        probabilities = self.predict_proba(X)
        if self._multilabel:
            return (probabilities >= 0.5).astype(int)
        return self.classes_[probabilities.argmax(axis=1)]
