"""The first stage of a mixture: each expert by itself, on all rows and on folds."""

import numpy as np
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed

from skmoecbm._base import fit_task
from skmoecbm._columns import Layout, own_heads
from skmoecbm._foreign import ForeignHead, fit_foreign, foreign_out_of_fold, takes_weights
from skmoecbm._heads import fit_head, out_of_fold, own_targets
from skmoecbm._joint import JointTraining
from skmoecbm._mixing import FittedMixture
from skmoecbm._single import ConceptBottleneckClassifier, choose_alpha
from skmoecbm.exceptions import InputError

__all__ = ["FirstStage", "enough_shares"]

# What a head has too, and the mixture decides. Not random_state, which meta-estimators set on all
# parts and which no association draws from.
_OWNED = {"class_weight": None, "cv": 5, "device": "auto", "target_prevalence": None}

# Part of the row weights below which an expert has too few rows of its own to learn from again.
_LEAST_SHARE = 0.01
_LEAST_WEIGHT = 1e-4


class FirstStage(FittedMixture):
    """How `GatedConceptBottleneckClassifier` fits its experts, whatever heads they have."""

    def _check_head(self, head, where):
        """Refuse parameters of a concept head that the mixture decides."""
        head._check_parameters()
        for name, default in _OWNED.items():
            value = getattr(head, name)
            # Without ==: a cv may be a list of arrays.
            if value is not default and not (isinstance(value, (int, str)) and value == default):
                raise InputError(
                    f"The '{where}__{name}' parameter of {type(self).__name__} must be left at "
                    f"{default!r}: all experts share that of the mixture. Got {value!r:.200} "
                    f"instead. Set {name} of the mixture itself."
                )

    def _heads_of(self, head, names):
        """Return the unfitted head of each expert."""
        own = own_heads(self.experts)
        jointly = isinstance(self.training, JointTraining)
        shared = {**head.get_params(deep=False), "prior": None}
        for name, given in own.items():
            if isinstance(given, ConceptBottleneckClassifier):
                self._check_head(given, name)
                if jointly and {**given.get_params(deep=False), "prior": None} != shared:
                    raise InputError(
                        f"Expert {name!r} has a head of its own that differs from the others in "
                        "more than its prior, and training=JointTraining() trains one kind of head "
                        "for all. Set head= instead, or use training='staged'."
                    )
            elif jointly:
                raise InputError(
                    f"Expert {name!r} has a {type(given).__name__} for a head, which training="
                    "JointTraining() cannot train with the others. Use training='staged'."
                )
        return [own.get(name, head) for name in names]

    def _choose_alpha(self, data, target, heads, directions, folds, shares=None):
        """Choose the alpha of the concept experts, None where there is none.

        Returns it with its path, the start of each expert's fit, and whether all converged.
        """
        mine = [e for e, h in enumerate(heads) if isinstance(h, ConceptBottleneckClassifier)]
        warm = [None] * len(heads)
        if not mine:
            return None, {}, warm, True
        parts = ([part[e] for e in mine] for part in (data, heads, directions))
        experts, own, priors = parts
        shares = None if shares is None else shares[:, mine]
        calibrated = bool(self.calibrate) and len(data) > 1
        alpha, path, starts, settled = choose_alpha(
            experts, target, own, priors, folds, shares, calibrated=calibrated
        )
        for e, start in zip(mine, starts, strict=True):
            warm[e] = start
        return alpha, path, warm, settled

    def _fit_experts(self, data, target, heads, directions, warm, folds, context, X, y):
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
            branch, head = branches[e], heads[e]
            foreign = not isinstance(head, ConceptBottleneckClassifier)
            alpha = self.alpha_ if foreign or head.alpha is None else float(head.alpha)
            own = (self.expert_names_[e], head, data[e], target, self.classes_)
            own = (*own, self.concept_names_[e])
            branch.call_on_fit_task_begin(estimator=self, X=X, y=y)
            with fit_task(branch, self, X, y, "all rows"):
                if foreign:
                    fitted = fit_foreign(*own)
                    if fitted is None:
                        raise InputError(
                            f"All rows that expert {data[e].name!r} sees are of one class, so its "
                            "head has nothing to learn. Give it rows of another class, or leave "
                            "it out."
                        )
                else:
                    own_fit = (data[e], target, head, directions[e], alpha)
                    fitted = fit_head(*own_fit, warm[e], keep=folds is not None and len(data) > 1)
            tasks = [branch.subcontext(task_name=f"fold {f}") for f in range(n_folds)]
            for task in tasks:
                task.call_on_fit_task_begin(estimator=self, X=X, y=y)
            logits, done = np.zeros((len(target.codes), len(self.classes_))), True
            # The folds are one stack of problems: they begin and end together.
            if folds is not None and len(data) > 1:
                if foreign:
                    logits = foreign_out_of_fold(*own, folds)
                else:
                    logits, done = out_of_fold(*own_fit, folds, fitted)
                    fitted.problem = fitted.start = None
            for task in [*tasks, branch]:
                task.call_on_fit_task_end(estimator=self, X=X, y=y)
            return fitted, logits, done

        parallel = Parallel(n_jobs=self.n_jobs, prefer="threads")
        found = parallel(delayed(fit_one)(e) for e in range(len(data)))
        fits, logits, folds_done = zip(*found, strict=True)
        self.heads_ = [
            fitted if isinstance(fitted, ForeignHead) else self._fitted_head(heads[e], e, fitted)
            for e, fitted in enumerate(fits)
        ]
        # Of one expert there are none: zeros that were never written take no memory.
        self.oof_logits_ = np.stack(logits, axis=1) if len(data) > 1 else logits[0][:, None]
        names = self.expert_names_
        done = {
            name: getattr(fitted, "converged", True)
            for name, fitted in zip(names, fits, strict=True)
        }
        return self.oof_logits_, done, dict(zip(names, folds_done, strict=True))

    def _fit_specialists(self, data, target, heads, directions, folds, shares):
        """Fit each expert again on all rows and on the folds, with rows weighted by its share.

        With an alpha of their own: what made a large one good was mostly the rows that an expert
        cannot read. A head that takes no row weights stays, and so does that of an expert which
        has next to nothing of the rows.

        Parameters
        ----------
        shares : ndarray of shape (n, E)
            As of `own_targets`.

        Returns
        -------
        found : dict
            `heads_`, `oof_logits_`, `alpha_` and `alpha_path_`.
        converged : tuple
            Of the search, and by expert's name of the fits and of their folds.
        """
        alpha, path, warm, settled = self._choose_alpha(
            data, target, heads, directions, folds, shares
        )
        fitted, logits, done, folds_done = list(self.heads_), self.oof_logits_.copy(), {}, {}
        for e, own in enumerate(own_targets(target, shares)):
            expert, head, name = data[e], heads[e], self.expert_names_[e]
            if not enough_shares(folds, own, target):
                continue
            if not isinstance(head, ConceptBottleneckClassifier):
                if takes_weights(head):
                    # Rows of no share stay, at next to no weight: without them a class that the
                    # head has learned could be gone, or too rare for its own folds.
                    least = own_targets(target, np.maximum(shares[:, [e]], _LEAST_WEIGHT))[0]
                    parts = (name, head, expert, least, self.classes_, self.concept_names_[e])
                    fitted[e] = fit_foreign(*parts)
                    logits[:, e] = foreign_out_of_fold(*parts, folds)
                continue
            its = alpha if head.alpha is None else float(head.alpha)
            fit = fit_head(expert, own, head, directions[e], its, warm[e], keep=True)
            fitted[e], done[name] = self._fitted_head(head, e, fit, alpha, path), fit.converged
            logits[:, e], folds_done[name] = out_of_fold(
                expert, own, head, directions[e], its, folds, fit
            )
            fit.problem = fit.start = None
        found = {"heads_": fitted, "oof_logits_": logits, "alpha_": alpha, "alpha_path_": path}
        return found, (settled, done, folds_done)

    def _fitted_head(self, head, e, fitted, alpha=None, path=None):
        """Return the classifier of one expert, as if it had been fitted alone.

        With another alpha and path than those of the mixture where they are given.
        """
        name, concepts = self.expert_names_[e], self.concept_names_[e]
        classifier = clone(head)
        classifier.classes_, classifier.class_log_prior_ = self.classes_, self.class_log_prior_
        classifier.multilabel_ = self.multilabel_
        classifier.class_prevalence_ = self.class_prevalence_
        shared = head.alpha is None or isinstance(self.training, JointTraining)
        if alpha is None:
            alpha, path = self.alpha_, self.alpha_path_
        alpha, path = (alpha, path) if shared else (float(head.alpha), {})
        classifier._take(fitted, alpha, path, self.prior_used_[name], name, concepts)
        classifier.concept_quantiles_ = self.concept_quantiles_[e]
        classifier.n_features_in_ = len(concepts)
        classifier._layout = Layout(
            [name], [np.arange(len(concepts))], [concepts], np.array([], int)
        )
        return classifier


def enough_shares(folds, own, target):
    """Tell whether an expert has rows enough of its own, on each fold, to learn from again."""
    return (folds.train @ own.weights).min() >= _LEAST_SHARE * target.weights.sum()
