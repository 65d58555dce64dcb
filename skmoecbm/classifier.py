"""Concept bottleneck classifiers: one expert, and a gated mixture of several."""

import warnings

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed

from skmoecbm._base import fit_task
from skmoecbm._columns import Layout
from skmoecbm._folds import make_folds
from skmoecbm._gate_inputs import fit_gate_inputs, input_parts, join_inputs
from skmoecbm._gates import resolve_gate
from skmoecbm._heads import Target, fit_head, out_of_fold, warn_unconverged
from skmoecbm._mixing import FittedMixture
from skmoecbm._mixture import MIN_ROWS, fit_mixture, uniform_mixture
from skmoecbm._priors import prior_direction
from skmoecbm._single import ConceptBottleneckClassifier, choose_alpha
from skmoecbm._targets import row_weights
from skmoecbm._validation import check_choice, parameter_error, resolve_device
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = ["ConceptBottleneckClassifier", "GatedConceptBottleneckClassifier"]

# What a head has too, and the mixture decides. Not random_state, which meta-estimators set on all
# parts and which no association draws from.
_OWNED = {"class_weight": None, "cv": 5, "device": "auto"}


class GatedConceptBottleneckClassifier(FittedMixture):
    """A mixture of concept bottlenecks, one per expert, under a gate that decides per image.

    ``S = tau * sum_e G[:, e] * tau_e * (Z_e A_e' + b_e)``: experts are fitted first, each a convex
    problem; then temperatures and gate on their out-of-fold logits, shrunk towards the plain
    average; a guard keeps the plain average unless something beats it by two standard errors.

    Parameters
    ----------
    head : ConceptBottleneckClassifier or None, default=None
        The classifier of each expert; None is ``ConceptBottleneckClassifier()``. An open
        ``head__alpha`` is chosen once, for all experts together. `class_weight`, `cv` and `device`
        are those of the mixture and must be left alone here; `random_state` is of no effect.
    gate : {"linear", "uniform", "constant", "mlp"} or gate object, default="linear"
    experts : "auto" or list of (name, columns), default="auto"
        ``"auto"`` reads the experts from an `ExpertFeatures` or from ``expert__concept`` column
        names; else all columns are one expert. Columns are names, positions or a slice.
    gate_input : "auto", "similarities" or list of columns, default="auto"
        ``"auto"``: the first 16 principal components of all similarities. A list names columns
        that the gate sees beside them and that are no evidence; with ``experts="auto"`` a block
        of nothing else is no expert.
    pool : {"logit", "prob", "sum"}, default="logit"
        How logits mix; see MATHS section 2. Explanations need ``"logit"`` or ``"sum"``.
    training : {"staged"}, default="staged"
    cv : int, splitter or iterable, default=5
        Folds for alpha, out-of-fold logits and guard.
    calibrate : bool, default=True
        Whether temperatures are fitted.
    guard : bool, default=True
        Whether the plain average is kept unless the gate is clearly better.
    class_weight : "balanced", dict or None, default=None
    n_jobs : int or None, default=None
        Experts fitted side by side in threads.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
    random_state : int, RandomState or None, default=None
        Start of the MLP gate; everything else draws no numbers.
    verbose : int, default=0

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    expert_names_ : list of str, length E
    expert_columns_ : list of ndarray of int
    concept_names_ : list of list of str
    heads_ : list of ConceptBottleneckClassifier
        The fitted experts.
    expert_scale_ : ndarray of shape (E,)
        Inverse temperature tau_e of each expert.
    pool_scale_ : ndarray of shape (E,)
        Post-pool scale tau by number of present experts.
    gate_state_ : object with `kind` and `arrays`
    gate_input_state_ : dict of str to ndarray
    selected_ : str
        What the guard kept: "uniform", "constant", an expert's name, or the gate. Where an expert
        is called as a gate is, all of them stand here as ``"expert NAME"``.
    fallback_ : str or None
        Why no gate was fitted, if none was.
    oof_log_loss_ : dict of str to float
        Cross-fitted log-loss of each candidate, in nats.
    oof_logits_ : ndarray of shape (n, E, K)
        Out-of-fold expert logits of the training rows (two classes: columns 0 and s).
    alpha_ : float
    alpha_path_ : dict
    prior_used_ : dict of str to (str or None)
        The prior of each expert.
    class_log_prior_ : ndarray of shape (K,)
    routing_information_ : float
        Mutual information between row and expert, in nats.

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
        class_weight=None,
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
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def set_params(self, **params):
        """Set parameters; says so when one of a part that is not an object is asked for."""
        for name in params:
            part, _, rest = name.partition("__")
            if rest and part in ("head", "gate") and part not in params:
                value = getattr(self, part)
                if value is None or isinstance(value, str):
                    example = "ConceptBottleneckClassifier()" if part == "head" else "LinearGate()"
                    raise InputError(
                        f"{name!r} cannot be set while {part}={value!r}, which is shorthand for a "
                        f"default object. Pass the object, {part}={example}, and set it there."
                    )
        return super().set_params(**params)

    def _check_parameters(self):
        check_choice(self, "pool", self.pool, ("logit", "prob", "sum"))
        check_choice(self, "training", self.training, ("staged",))
        for name in ("calibrate", "guard"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise parameter_error(self, name, "True or False", getattr(self, name))
        head = ConceptBottleneckClassifier() if self.head is None else self.head
        if not isinstance(head, ConceptBottleneckClassifier):
            raise parameter_error(self, "head", "a ConceptBottleneckClassifier or None", self.head)
        head._check_parameters()
        for name, default in _OWNED.items():
            value = getattr(head, name)
            # Without ==: a cv may be a list of arrays.
            if value is not default and not (isinstance(value, (int, str)) and value == default):
                raise InputError(
                    f"The 'head__{name}' parameter of {type(self).__name__} must be left at "
                    f"{default!r}: all experts share that of the mixture. Got {value!r:.200} "
                    f"instead. Set {name} of the mixture itself."
                )
        columns, kind = (), "components"
        if isinstance(self.gate_input, str):
            check_choice(self, "gate_input", self.gate_input, ("auto", "similarities"))
            kind = "similarities" if self.gate_input == "similarities" else kind
        elif isinstance(self.gate_input, (list, tuple)) and len(self.gate_input):
            columns = self.gate_input
        else:
            wanted = "'auto', 'similarities' or a list of columns"
            raise parameter_error(self, "gate_input", wanted, self.gate_input)
        return head, resolve_gate(self, self.gate), kind, columns

    def _fit(self, X, y, sample_weight, groups):
        head, gate, input_kind, gate_columns = self._check_parameters()
        vars(self).pop("masked_experts_", None)  # a view made by `without` learns all its experts
        device = resolve_device(self.device, self)
        data, gate_values, codes, weights, groups, present = self._start_fit(
            X, y, sample_weight, groups, self.class_weight, self.experts, gate_columns
        )
        layout, n_experts = self._layout, len(data)
        if self.experts == "auto" and layout.names == ["expert"] and data[0].block is None:
            warnings.warn(
                f"X is a plain array, so its {self.n_features_in_} columns are one expert and "
                "there is nothing to gate. Pass ExpertFeatures, 'expert__concept' column names or "
                "experts=[(name, columns), ...]; a scaler between union and classifier drops the "
                "experts, and none is needed: similarities are standardised here.",
                SkmoecbmWarning,
                stacklevel=4,
            )
        self.expert_names_, self.expert_columns_ = layout.names, layout.columns
        self.concept_names_ = layout.concepts
        target = Target(codes, len(self.classes_), weights, device)
        folds, no_folds = make_folds(self, self.cv, codes, weights, groups, present)

        context = self._init_callback_context(max_subtasks=n_experts + 2)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        directions, used = [], {}
        for expert in data:
            direction, used[expert.name] = prior_direction(
                self, head.prior, expert.block, self.classes_, expert.values.shape[1]
            )
            directions.append(direction)
        self.prior_used_ = used
        with fit_task(context, self, X, y, "alpha"):
            self.alpha_, self.alpha_path_, warm, settled = choose_alpha(
                data, target, head, directions, folds
            )
        oof, done, folds_done = self._fit_experts(
            data, target, head, directions, warm, folds, context, X, y
        )
        warn_unconverged(head, settled, done, folds_done)
        with fit_task(context, self, X, y, "gate") as report:
            self.gate_input_state_ = fit_gate_inputs(data, gate_values, weights, input_kind)
            parts = input_parts(self.gate_input_state_, data, gate_values, present)
            counts = row_weights(self, sample_weight, None, self.classes_, codes)
            if folds is None:
                fitted = uniform_mixture(n_experts, no_folds if n_experts > 1 else None)
            else:
                fitted = self._fit_gate(oof, target, parts, present, folds, groups, counts, gate)
            self.gate_state_ = fitted.gate
            self.expert_scale_, self.pool_scale_ = fitted.expert_scale, fitted.pool_scale
            self.selected_, self.fallback_ = fitted.selected, fitted.fallback
            self.oof_log_loss_ = fitted.losses
            self.routing_information_ = fitted.information
            self.n_iter_ = max([fitted.n_iter, *(head.n_iter_ for head in self.heads_)])
            report.update(self._fitted_attributes())
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=self._fitted_attributes()
        )
        return self

    def _fit_experts(self, data, target, head, directions, warm, folds, context, X, y):
        """Fit each expert on all rows, then its folds from there.

        Returns out-of-fold logits (n, E, K), and by expert's name whether its fit and its folds
        converged.
        """
        n_folds = 0 if folds is None else len(folds)
        branches = [
            context.subcontext(task_name=f"expert {expert.name}", max_subtasks=n_folds + 1)
            for expert in data
        ]

        def fit_one(e):
            branch = branches[e]
            branch.call_on_fit_task_begin(estimator=self, X=X, y=y)
            with fit_task(branch, self, X, y, "all rows"):
                fitted = fit_head(data[e], target, head, directions[e], self.alpha_, warm[e])
            tasks = [branch.subcontext(task_name=f"fold {f}") for f in range(n_folds)]
            for task in tasks:
                task.call_on_fit_task_begin(estimator=self, X=X, y=y)
            logits, done = np.zeros((len(target.codes), len(self.classes_))), True
            # The folds are one stack of problems: they begin and end together.
            if folds is not None and len(data) > 1:
                logits, done = out_of_fold(
                    data[e], target, head, directions[e], self.alpha_, folds, fitted
                )
            for task in [*tasks, branch]:
                task.call_on_fit_task_end(estimator=self, X=X, y=y)
            return fitted, logits, done

        parallel = Parallel(n_jobs=self.n_jobs, prefer="threads")
        found = parallel(delayed(fit_one)(e) for e in range(len(data)))
        fits, logits, folds_done = zip(*found, strict=True)
        self.heads_ = [self._fitted_head(head, e, fitted) for e, fitted in enumerate(fits)]
        self.oof_logits_ = np.stack(logits, axis=1)
        names = self.expert_names_
        done = {name: fitted.converged for name, fitted in zip(names, fits, strict=True)}
        return self.oof_logits_, done, dict(zip(names, folds_done, strict=True))

    def _fitted_head(self, head, e, fitted):
        """Return the classifier of one expert, as if it had been fitted alone."""
        name, concepts = self.expert_names_[e], self.concept_names_[e]
        classifier = clone(head)
        classifier.classes_, classifier.class_log_prior_ = self.classes_, self.class_log_prior_
        classifier._take(
            fitted, self.alpha_, self.alpha_path_, self.prior_used_[name], name, concepts
        )
        classifier.n_features_in_ = len(concepts)
        classifier._layout = Layout(
            [name], [np.arange(len(concepts))], [concepts], np.array([], int)
        )
        return classifier

    def _fit_gate(self, oof, target, parts, present, folds, groups, counts, gate):
        """Second stage, or the reason why there is none."""
        n_experts = present.shape[1]
        if n_experts == 1:
            return uniform_mixture(1, None)
        usable = target.weights * (folds.held_out >= 0)
        if np.count_nonzero(usable) < MIN_ROWS:
            return uniform_mixture(n_experts, f"fewer than {MIN_ROWS} rows with a held-out fold")
        pieces, extra = parts

        def inputs(rows, mask):
            mine = [piece[rows] for piece in pieces]
            return join_inputs(self.gate_input_state_, mine, extra[rows], mask)

        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        return fit_mixture(
            oof,
            target.codes,
            usable,
            present,
            inputs(slice(None), present),
            folds.held_out,
            names=self.expert_names_,
            gate=gate,
            pool=self.pool,
            calibrate=self.calibrate,
            guard=self.guard,
            groups=groups,
            counts=counts,
            masked_inputs=inputs,
            device=target.device,
            seed=seed,
        )
