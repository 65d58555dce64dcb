"""Concept bottleneck classifiers: one expert, and a gated mixture of several."""

import numpy as np
from sklearn.utils import check_random_state

from skmoecbm._base import fit_task
from skmoecbm._gate_inputs import resolve_gate_input
from skmoecbm._gates import resolve_gate
from skmoecbm._heads import warn_unconverged
from skmoecbm._joint import JointTraining
from skmoecbm._joint_fit import JointlyTrained
from skmoecbm._second_stage import SecondStage
from skmoecbm._single import ConceptBottleneckClassifier
from skmoecbm._validation import check_choice, parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["ConceptBottleneckClassifier", "GatedConceptBottleneckClassifier"]

# Parts with parameters of their own, and the objects that their shorthands stand for.
_PARTS = {
    "head": "ConceptBottleneckClassifier()",
    "gate": "LinearGate()",
    "training": "JointTraining()",
}


class GatedConceptBottleneckClassifier(JointlyTrained, SecondStage):
    """A mixture of concept bottlenecks, one per expert, under a gate that decides per image.

    ``S = tau * sum_e G[:, e] * tau_e * (Z_e A_e' + b_e)``: experts are fitted first, each a convex
    problem; then temperatures and gate on their out-of-fold logits, shrunk towards the plain
    average; a guard keeps the plain average unless something beats it by two standard errors.

    Parameters
    ----------
    head : ConceptBottleneckClassifier or None, default=None
        The classifier of each expert; None is ``ConceptBottleneckClassifier()``. An open
        ``head__alpha`` is chosen once, for all experts together. `class_weight`,
        `target_prevalence`, `cv` and `device` are those of the mixture and must be left alone
        here; `random_state` is of no effect.
    gate : {"linear", "uniform", "constant", "mlp", "laplace", "gaussian"} or gate object, \
            default="linear"
        What decides by row how far each expert is trusted. ``"uniform"`` is the plain average,
        ``"constant"`` one weight per expert for all rows; the others read `gate_input`: a linear
        function, a network of one hidden layer, or distances to a centre per expert. An object,
        such as ``LinearGate(penalty=5.0)``, has settings.
    experts : "auto" or list of (name, columns) or (name, head, columns), default="auto"
        ``"auto"`` reads the experts from an `ExpertFeatures` or from ``expert__concept`` column
        names; else all columns are one expert. Columns are names, positions, a slice, or the name
        of a block; columns that neither an expert nor `gate_input` names are not used. A head of
        its own is a `ConceptBottleneckClassifier` with other parameters, or any classifier of
        scikit-learn with `decision_function` or `predict_proba` (one that was trained elsewhere in
        a `FrozenEstimator`), so that age and sex, or the features of another model, stand beside
        the concepts. One that declares `allow_nan` sees rows of which some columns are NaN, which
        are an error without it.
    gate_input : str, list of columns or dict, default="auto"
        ``"auto"``: the first 16 principal components of all similarities. ``"similarities"``: all
        of them. ``"disagreement"``: how sure each expert is and how far from the others.
        ``"embeddings:NAME"``: the image embeddings of one expert, of `ExpertFeatures`. A list
        names columns that the gate sees beside ``"auto"`` and that are no evidence; with
        ``experts="auto"`` a block of nothing else is no expert. Columns beside another kind:
        ``{"kind": "disagreement", "columns": ["age"]}``.
    pool : {"logit", "prob", "sum"}, default="logit"
        ``"logit"``: logits are averaged, ``"sum"``: added, ``"prob"``: probabilities are averaged,
        so that explanations are in probabilities.
    training : "staged" or JointTraining, default="staged"
        ``"staged"``: experts, then gate. A `JointTraining` object: the original recipe, all of it
        at once by mini-batches, with no calibration and no guard.
    cv : int, splitter or iterable, default=5
        Folds for alpha, out-of-fold logits and guard.
    calibrate : bool, default=True
        Whether temperatures are fitted.
    guard : bool, default=True
        Whether the plain average is kept unless the gate is clearly better.
    specialize : bool, default=True
        Whether, once the guard has kept a gate that decides by row, each expert is fitted again
        with every row weighted by the gate's trust in it. Kept under the guard's rule, and not
        tried with ``guard=False``. Such experts are less of use where they must decide alone.
    class_weight : "balanced", dict or None, default=None
        "balanced": rows of each class weigh the same in all, as scikit-learn has it; a dict names
        the weight of each class. Probabilities are then at those frequencies: `target_prevalence`.
    target_prevalence : "train", dict of class to frequency, or None, default=None
        Class frequencies of the images to come. None: those that the model was trained at, which
        `class_weight` has changed. ``"train"``: those of the training rows. A dict may name some
        classes, such as ``{"mel": 0.03}``; the others share the rest as in training. Read when
        predicting: `set_params` changes it without a new fit.
    n_jobs : int or None, default=None
        Experts fitted side by side in threads.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Where it is fitted and predicts; "auto" is CUDA where torch sees it. Not saved.
    random_state : int, RandomState or None, default=None
        Start of the MLP and Laplace gates; everything else draws no numbers.
    verbose : int, default=0
        Of no effect; progress is told to scikit-learn's callbacks (`set_callbacks`).

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
        Labels in sorted order, as the columns of probabilities stand.
    multilabel_ : bool
        Whether a row may have several of the classes.
    expert_names_ : list of str, length E
        In the order of all that is by expert.
    expert_columns_ : list of ndarray of int
        Which columns of X each expert sees.
    concept_names_ : list of list of str
        Names of these columns, without the expert's.
    heads_ : list of ConceptBottleneckClassifier
        The fitted experts; of another classifier a wrapper with it as `estimator`.
    expert_scale_ : ndarray of shape (E,)
        Inverse temperature tau_e of each expert.
    pool_scale_ : ndarray of shape (E,)
        Post-pool scale tau by number of present experts.
    gate_state_ : object with `kind` and `arrays`
        The gate that was kept: what it is, and its parameters as float64.
    gate_input_state_ : dict of str to ndarray
        How what the gate reads is made from X: means, scales, axes.
    selected_ : str
        What the guard kept: "uniform", "constant", an expert's name, or the gate. Where an expert
        is called as a gate is, all of them stand here as ``"expert NAME"``. "joint" after joint
        training.
    fallback_ : str or None
        Why no gate was fitted, if none was.
    specialized_ : bool
        Whether experts fitted again on the rows that are theirs were kept.
    oof_log_loss_ : dict of str to float
        Cross-fitted log-loss of each candidate, in nats.
    oof_logits_ : ndarray of shape (n, E, K)
        Out-of-fold expert logits of the training rows (two classes: columns 0 and s). Joint
        training has none, and an empty `oof_log_loss_`. Not in a pickle, nor saved.
    training_history_ : dict
        Of joint training alone: losses and mean gate weights by epoch, `best_epoch`, and
        `early_stopping` (True, or why there was none). Not saved with the model.
    alpha_ : float
    alpha_path_ : dict
    prior_used_ : dict of str to (str or None)
        The prior of each expert.
    class_log_prior_, class_prevalence_ : ndarray of shape (K,)
        Class frequencies with class weights (their logarithm, or log odds), and without.
    thresholds_ : ndarray of shape (K,)
        Only after `tune_thresholds`: probability from which on a row has the label.
    concept_quantiles_ : list of E arrays of shape (m_e, 101)
        Of each concept's similarity over the training rows, at the shares 0, 0.01, ..., 1.
    set_calibration_ : object
        Only after `calibrate_sets`: what `predict_set` needs.
    routing_information_ : float
        Mutual information between row and expert, in nats.
    training_summary_ : dict
        What the training saw, as counts and one-way digests: rows, classes, experts, groups,
        folds, device, `data_sha256`. Plain values, no dates.

    References
    ----------
    Jacobs et al., Adaptive Mixtures of Local Experts (1991); Guo et al., On Calibration of Modern
    Neural Networks (2017); Yang et al., Language in a Bottle (2023).

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skmoecbm import GatedConceptBottleneckClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> experts = [("left", slice(0, 6)), ("right", slice(6, 13))]
    >>> clf = GatedConceptBottleneckClassifier(experts=experts).fit(X, y)
    >>> clf.gate_weights(X).shape
    (178, 2)
    >>> clf.score(X, y) > 0.95
    True
    """

    def __init__(
        self,
        head=None,
        gate="linear",
        *,
        experts="auto",
        gate_input="auto",
        pool="logit",
        training="staged",
        cv=5,
        calibrate=True,
        guard=True,
        specialize=True,
        class_weight=None,
        target_prevalence=None,
        n_jobs=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.head = head
        self.gate = gate
        self.experts = experts
        self.gate_input = gate_input
        self.pool = pool
        self.training = training
        self.cv = cv
        self.calibrate = calibrate
        self.guard = guard
        self.specialize = specialize
        self.class_weight = class_weight
        self.target_prevalence = target_prevalence
        self.n_jobs = n_jobs
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def set_params(self, **params):
        """Set parameters; says so when one of a part that is not an object is asked for."""
        for name in params:
            part, _, rest = name.partition("__")
            if rest and part in _PARTS and part not in params:
                value = getattr(self, part)
                if value is None or isinstance(value, str):
                    example = _PARTS[part]
                    raise InputError(
                        f"{name!r} cannot be set while {part}={value!r}, which is shorthand for a "
                        f"default object. Pass the object, {part}={example}, and set it there."
                    )
        return super().set_params(**params)

    def _check_parameters(self):
        check_choice(self, "pool", self.pool, ("logit", "prob", "sum"))
        if not isinstance(self.training, JointTraining) and self.training != "staged":
            wanted = "'staged' or a JointTraining object"
            raise parameter_error(self, "training", wanted, self.training)
        for name in ("calibrate", "guard", "specialize"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise parameter_error(self, name, "True or False", getattr(self, name))
        head = ConceptBottleneckClassifier() if self.head is None else self.head
        if not isinstance(head, ConceptBottleneckClassifier):
            raise parameter_error(self, "head", "a ConceptBottleneckClassifier or None", self.head)
        self._check_head(head, "head")
        try:  # what is wrong with it is told before the work
            check_random_state(self.random_state)
        except ValueError:
            wanted = "an int of at least 0 and below 2**32, a RandomState or None"
            raise parameter_error(self, "random_state", wanted, self.random_state) from None
        kind, columns = resolve_gate_input(self, self.gate_input)
        gate = resolve_gate(self, self.gate)
        if self.training != "staged":
            self.training.check(head, gate)
        return head, gate, kind, columns

    def _fit(self, X, y, sample_weight, groups):
        head, gate, input_kind, gate_columns = self._check_parameters()
        material = self._read_material(X, y, sample_weight, groups, gate_columns)
        ground = self._prepare(material, head, gate, input_kind)
        data, target = ground.data, ground.target
        if isinstance(self.training, JointTraining):
            settings = {
                "gate_values": ground.gate_values,
                "input_kind": input_kind,
                "present": ground.present,
            }
            return self._fit_jointly(
                X,
                y,
                data,
                target,
                head,
                ground.directions,
                gate,
                groups=ground.groups,
                **settings,
            )
        self._make_folds(ground)
        context = self._init_callback_context(max_subtasks=len(data) + 2)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        experts = (data, target, ground.heads, ground.directions)
        with fit_task(context, self, X, y, "alpha"):
            self.alpha_, self.alpha_path_, warm, settled = self._choose_alpha(
                *experts, ground.folds
            )
        oof, done, folds_done = self._fit_experts(*experts, warm, ground.folds, context, X, y)
        warn_unconverged(head, settled, done, folds_done)
        with fit_task(context, self, X, y, "gate") as report:
            self._fit_second_stage(ground, oof)
            report.update(self._fitted_attributes())
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=self._fitted_attributes()
        )
        return self
