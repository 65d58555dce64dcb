"""The classifier of one expert."""

import numpy as np

from skmoecbm._additive import AdditivePart
from skmoecbm._alpha_search import select_alpha
from skmoecbm._base import ConceptClassifier, fit_task
from skmoecbm._folds import make_folds
from skmoecbm._heads import (
    FALLBACK_ALPHA,
    Target,
    fit_head,
    two_columns,
    warn_unconverged,
)
from skmoecbm._priors import prior_direction
from skmoecbm._validation import check_choice, check_number, resolve_device
from skmoecbm.exceptions import InputError

__all__ = ["ConceptBottleneckClassifier", "choose_alpha"]


class ConceptBottleneckClassifier(ConceptClassifier):
    """A linear classifier on the similarities of images to concepts of one expert.

    Every logit is a sum over concepts: ``S = Z A' + b`` with Z the standardised similarities.
    A starts from a language prior: with few images it is the zero-shot classifier, with many the
    prior fades.

    Parameters
    ----------
    activation : {"linear", "nonnegative", "softmax"}, default="linear"
        ``"linear"``: signed A, a convex problem with one optimum. ``"nonnegative"``: A >= 0 (for
        two classes in each of the two rows, whose difference is kept).
        ``"softmax"``: the original, ``logits = 100 * D softmax(A)'``, which can only speak *for* a
        class and keeps every concept in use.
    prior : {"class", "class_name", "similarity", "answers", None} or array-like of shape (K, m), \
            default="class"
        ``"class"``: 1 for concepts that were written for the class, where the features carry that
        (an `ExpertFeatures` from a bank of concepts by class), else no prior. ``"class_name"``: 1
        for the m / K concepts nearest the class's name in the expert's text space.
        ``"similarity"``: a concept counts for a class as much as the class's name resembles that
        of the one it was written for. ``"answers"``: 1 where a concept speaks for the class, -1
        where against it (`Concept.against`). Each row is divided by its absolute sum.
    prior_strength : float, default=1.0
        Standard deviation of ``Z A0'`` over the training rows, in logits.
    alpha : float or None, default=None
        Strength of the pull ``alpha / (2 n) * ||A - A0||**2``; None chooses it on the folds.
    l1 : float, default=0.0
        Strength of ``l1 / n * ||A||_1``; without effect on ``"softmax"``, whose rows have a
        constant sum.
    cv : int, splitter or iterable, default=5
        Folds on which `alpha` is chosen; at most as many as rows (groups) of the rarest class.
    class_weight : "balanced", dict or None, default=None
        "balanced": rows of each class weigh the same in all, as scikit-learn has it; a dict names
        the weight of each class. Probabilities are then at those frequencies: `target_prevalence`.
    target_prevalence : "train", dict of class to frequency, or None, default=None
        Class frequencies of the images to come. None: those that the model was trained at, which
        `class_weight` has changed. ``"train"``: those of the training rows. A dict may name some
        classes, such as ``{"mel": 0.03}``; the others share the rest as in training. Read when
        predicting: `set_params` changes it without a new fit.
    max_iter : int, default=300
        Most steps of a descent; one that needs more warns.
    tol : float, default=1e-4
        How far from its optimum the mean loss may stay while alpha is searched, in nats; the fit
        that is kept goes on to a hundredth of it. Small problems are finished by Newton's method
        to the limit of float64.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Where it is fitted and predicts; "auto" is CUDA where torch sees it. Not saved.
    random_state : int, RandomState or None, default=None
        Kept for the fits that draw numbers; the association solvers draw none.
    verbose : int, default=0
        Of no effect; progress is told to scikit-learn's callbacks (`set_callbacks`).

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
        Labels in sorted order, as the columns of probabilities stand.
    multilabel_ : bool
        Whether a row may have several of the classes.
    association_ : ndarray of shape (K', m)
        A; K' is 1 for two classes, else K. For ``activation="softmax"`` it is ``100 softmax(A)``.
        float64; of very many coefficients (beyond 2**24, with embeddings) float32.
    intercept_ : ndarray of shape (K',)
    mean_, scale_ : ndarray of shape (m,)
        ``Z = (D - mean_) / scale_``.
    prior_association_ : ndarray of shape (K', m)
        A0, scaled; for ``activation="softmax"`` where A starts, inside its softmax.
    prior_used_ : str or None
    alpha_ : float
    alpha_path_ : dict
        The penalties tried and their out-of-fold log-losses.
    concept_names_ : list of str
        Names of the columns, without the expert's.
    expert_name_ : str
        Of the one expert.
    concept_quantiles_ : ndarray of shape (m, 101)
        Of each concept's similarity over the training rows, at the shares 0, 0.01, ..., 1.
    class_log_prior_ : ndarray of shape (K,)
        Logarithm of the weighted class frequencies; log odds where a row may have several labels.
    class_prevalence_ : ndarray of shape (K,)
        Frequency of each class in the training rows, without class weights.
    thresholds_ : ndarray of shape (K,)
        Only after `tune_thresholds`: probability from which on a row has the label.
    set_calibration_ : object
        Only after `calibrate_sets`: what `predict_set` needs.
    n_iter_ : int
    training_summary_ : dict
        What the training saw, as counts and one-way digests: rows, classes, experts, groups,
        folds, device, `data_sha256`. Plain values, no dates.

    References
    ----------
    Yang et al., Language in a Bottle: Language Model Guided Concept Bottlenecks for Interpretable
    Image Classification, CVPR 2023 (the association matrix, equation 6).

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skmoecbm import ConceptBottleneckClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> clf = ConceptBottleneckClassifier(alpha=1.0).fit(X, y)
    >>> clf.association_.shape
    (3, 13)
    >>> round(clf.score(X, y), 2)
    1.0
    """

    def __init__(
        self,
        *,
        activation="linear",
        prior="class",
        prior_strength=1.0,
        alpha=None,
        l1=0.0,
        cv=5,
        class_weight=None,
        target_prevalence=None,
        max_iter=300,
        tol=1e-4,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.activation = activation
        self.prior = prior
        self.prior_strength = prior_strength
        self.alpha = alpha
        self.l1 = l1
        self.cv = cv
        self.class_weight = class_weight
        self.target_prevalence = target_prevalence
        self.max_iter = max_iter
        self.tol = tol
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_activation(self, multilabel):
        """Refuse the one association that cannot do several labels."""
        if multilabel and self.activation == "softmax":
            raise InputError(
                "activation='softmax' cannot learn an indicator y: its logits are averages of 100 "
                "x cosine, which can only speak for a label and start far above the loss of "
                "guessing the frequencies. Use activation='linear' or 'nonnegative'."
            )

    def _check_parameters(self):
        check_choice(self, "activation", self.activation, ("linear", "nonnegative", "softmax"))
        check_number(self, "prior_strength", self.prior_strength, low=0)
        if self.alpha is not None:
            check_number(self, "alpha", self.alpha, low=0, low_open=True)
        check_number(self, "l1", self.l1, low=0)
        check_number(self, "max_iter", self.max_iter, low=1, integer=True)
        check_number(self, "tol", self.tol, low=0, low_open=True)

    def _fit(self, X, y, sample_weight, groups):
        self._check_parameters()
        device = resolve_device(self.device, self)
        start = self._start_fit(X, y, sample_weight, groups, self.class_weight, "auto", ())
        self.training_summary_["device"] = device.type
        data, _, codes, weights, groups, present = start
        if len(data) > 1:
            raise InputError(
                f"ConceptBottleneckClassifier takes one expert. X has {len(data)}: "
                f"{[expert.name for expert in data]}. Use X.select(name) for one of them, or "
                "GatedConceptBottleneckClassifier for all."
            )
        self._check_activation(self.multilabel_)
        context = self._init_callback_context(max_subtasks=2)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        target = Target(codes, len(self.classes_), weights, device)
        direction, used = prior_direction(
            self, self.prior, data[0].block, self.classes_, data[0].shape[1]
        )
        folds = None
        if self.alpha is None:
            folds, reason = make_folds(self, self.cv, codes, weights, groups, present)
            self.training_summary_.update(n_folds=len(folds or ()), no_folds=reason)
        with fit_task(context, self, X, y, "alpha"):
            alpha, path, warm, settled = choose_alpha(
                data, target, [self], [direction], folds, calibrated=False
            )
        with fit_task(context, self, X, y, "refit") as report:
            fitted = fit_head(data[0], target, self, direction, alpha, warm[0])
            self._take(fitted, alpha, path, used, self._layout.names[0], self._layout.concepts[0])
            (self.concept_quantiles_,) = self.concept_quantiles_
            report.update(self._fitted_attributes())
        warn_unconverged(self, settled, {self.expert_name_: fitted.converged})
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=self._fitted_attributes()
        )
        return self

    def _take(self, fitted, alpha, path, prior_used, name, concepts):
        """Keep a solution as fitted attributes."""
        self.association_ = fitted.association
        self.intercept_ = fitted.intercept
        self.mean_, self.scale_ = fitted.mean, fitted.scale
        self.prior_association_ = fitted.prior
        self.prior_used_ = prior_used
        self.alpha_, self.alpha_path_ = alpha, path
        self.n_iter_ = fitted.n_iter
        self.expert_name_, self.concept_names_ = name, list(concepts)

    def _logits(self, expert):
        """Standardised similarities (n, m) and logits (n, K'), both 0 where absent."""
        present = expert.present[:, None]
        z = np.where(present, (expert.values - self.mean_) / self.scale_, 0.0)
        return z, np.where(present, z @ self.association_.T + self.intercept_, 0.0)

    def _class_logits(self, X):
        data, _ = self._read(X)
        logits = two_columns(self._tiled_logits(data[0]))
        return self._fill_absent(logits, data[0].present[:, None])

    def _tiled_logits(self, expert):
        """Return the logits (n, K'), 0 where absent, without keeping all similarities if many."""
        if not expert.is_large:
            return self._logits(expert)[1]
        logits = np.zeros((expert.shape[0], len(self.intercept_)))
        for rows, concepts, values in expert.tiles():
            z = (values - self.mean_[concepts]) / self.scale_[concepts]
            logits[rows] += z @ self.association_[:, concepts].T
        return np.where(expert.present[:, None], logits + self.intercept_, 0.0)

    def _additive_parts(self, X):
        data, _ = self._read(X)
        z, logits = self._logits(data[0])
        weight = data[0].present.astype(np.float64)
        return [
            AdditivePart(
                self.expert_name_,
                self.concept_names_,
                weight,
                weight,
                weight,
                z,
                data[0].values,
                self.association_,
                self.intercept_,
                logits,
                getattr(self, "concept_quantiles_", None),
            )
        ]


def choose_alpha(data, target, heads, priors, folds, shares=None, *, calibrated):
    """Return alpha (fixed, fallback or chosen), its path, starts, and whether it converged.

    One alpha for all experts whose head leaves it open; where none does, that of the first.
    `shares` and `calibrated` are those of `select_alpha`.
    """
    open_ones = [e for e, head in enumerate(heads) if head.alpha is None]
    starts = [None] * len(data)
    if not open_ones or folds is None:
        alpha = FALLBACK_ALPHA if open_ones else float(heads[0].alpha)
        return alpha, {}, starts, True
    alpha, path, warm, settled = select_alpha(
        *([part[e] for e in open_ones] for part in (data, heads, priors)),
        target,
        folds,
        None if shares is None else shares[:, open_ones],
        calibrated=calibrated,
    )
    for e, start in zip(open_ones, warm, strict=True):
        starts[e] = start
    return alpha, path, starts, settled
