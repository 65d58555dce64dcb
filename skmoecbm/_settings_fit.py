"""Many settings of a mixture fitted on the same rows, all that they share done once.

The result is that of fitting them one by one. Shared are the reading of the rows, the first stage
of settings that differ in nothing it depends on, and the candidates of the guard that no gate
changes. What remains of the first stage is one stack of associations for each expert.
"""

from dataclasses import replace

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.callback import with_callbacks

from skmoecbm._base import is_small
from skmoecbm._first_stage import enough_shares
from skmoecbm._heads import own_targets, warn_unconverged
from skmoecbm._joint import JointTraining
from skmoecbm._single import ConceptBottleneckClassifier
from skmoecbm._stacked_fits import Memory, Request, fit_stacked, is_stackable
from skmoecbm._validation import one_thread

__all__ = ["fit_settings", "new_memories"]

# Parameters on which nothing that is read of the rows depends.
_FREE = {
    "head",
    "gate",
    "pool",
    "calibrate",
    "guard",
    "specialize",
    "random_state",
    "verbose",
    "n_jobs",
}
_HEAD = ("activation", "prior", "prior_strength", "alpha", "l1", "max_iter", "tol")


def new_memories():
    """Return what `fit_settings` carries from one set of rows to the next."""
    return {}


def fit_settings(
    classifiers, X, y, sample_weight=None, groups=None, memories=None, rows=None, *, kept=True
):
    """Fit classifiers on the same rows; the same as ``fit`` of each.

    Parameters
    ----------
    classifiers : list of GatedConceptBottleneckClassifier
        Unfitted; they are fitted in place. Those with
        `JointTraining` are fitted one by one, and so is the first stage of experts whose head is
        another classifier, not linear, or has L1.
    X, y, sample_weight, groups
        As of `fit`.
    memories : dict or None
        Of `new_memories`, filled by a call with the same classifiers on other rows.
    rows : ndarray of int or None
        Which rows these are, of all those that calls with these memories have; None is the first.
    kept : bool, default=True
        False leaves out the hashes of the data, which tell what a model was fitted on.
    """
    memories = new_memories() if memories is None else memories
    with one_thread(is_small(X)):
        staged = []
        for i, classifier in enumerate(classifiers):
            if isinstance(classifier.training, JointTraining):
                classifier.fit(X, y, sample_weight=sample_weight, groups=groups)
            else:
                staged.append((i, classifier))
        grounds = _grounds(staged, X, y, sample_weight, groups, kept)
        firsts = {}
        for (i, classifier), ground in zip(staged, grounds, strict=True):
            key = _first_stage_key(classifier, ground)
            firsts.setdefault(key, []).append((i, classifier, ground))
        rows = np.arange(len(y)) if rows is None else rows
        _fit_first_stages(list(firsts.values()), memories, X, y, rows)
        waiting = []
        for members in firsts.values():
            waiting += _fit_gates(members)
        _fit_specialists(waiting, memories, rows)


def _same(value):
    """Return what stands for a parameter in a key: equal only if the fits are.

    `clone` has given each setting copies of its lists and objects, so identity tells nothing.
    """
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return kind, tuple(_same(part) for part in value)
    if isinstance(value, dict):
        return kind, tuple((_same(k), _same(v)) for k, v in value.items())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return kind, value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, slice):
        return kind, value.start, value.stop, value.step
    if isinstance(value, BaseEstimator):
        return kind, _same(value.get_params(deep=False))
    simple = value is None or isinstance(value, (str, bool, int, float, np.generic))
    return (kind, value) if simple else (kind, id(value))


def _grounds(staged, X, y, sample_weight, groups, kept):
    """Return the `Ground` of each classifier; rows are read once for each way of reading them."""
    materials, folds, grounds = {}, {}, []
    for _, classifier in staged:
        head, gate, kind, columns = classifier._check_parameters()
        key = tuple(
            (name, _same(value))
            for name, value in sorted(classifier.get_params(deep=False).items())
            if name not in _FREE
        )
        if key not in materials:
            before = set(vars(classifier))
            material = classifier._read_material(X, y, sample_weight, groups, columns, kept=kept)
            learned = {k: v for k, v in vars(classifier).items() if k not in before}
            materials[key] = material, learned
        material, learned = materials[key]
        vars(classifier).update(learned)
        ground = classifier._prepare(material, head, gate, kind)
        ground.number = list(materials).index(key)
        if key not in folds:
            classifier._make_folds(ground)
            folds[key] = ground.folds, ground.no_folds, ground.seen
        ground.folds, ground.no_folds, ground.seen = folds[key]
        classifier._tell_folds(ground)
        grounds.append(ground)
    return grounds


def _first_stage_key(classifier, ground):
    """Return what the experts of a setting depend on."""
    heads = tuple(
        tuple(_same(getattr(head, name)) for name in _HEAD)
        if isinstance(head, ConceptBottleneckClassifier)
        else _same(head)
        for head in ground.heads
    )
    # Alpha is chosen for calibrated experts or for plain ones.
    calibrated = bool(classifier.calibrate) and any(
        getattr(head, "alpha", 0.0) is None for head in ground.heads
    )
    return ground.number, heads, calibrated


def _share_directions(firsts):
    """Let settings of the same prior have the same array, and those of the same rows a target."""
    directions, targets = {}, {}
    for members in firsts:
        ground = members[0][2]
        ground.target = targets.setdefault(ground.number, ground.target)
        for e, head in enumerate(ground.heads):
            if isinstance(head, ConceptBottleneckClassifier):
                key = (ground.number, e, _same(head.prior))
                ground.directions[e] = directions.setdefault(key, ground.directions[e])


def _fit_first_stages(firsts, memories, X, y, rows):
    """Fit the experts of each distinct first stage, and give them to all its settings."""
    _share_directions(firsts)
    requests, search_done = {}, {}
    for members in firsts:
        i, classifier, ground = members[0]
        experts = (ground.data, ground.target, ground.heads, ground.directions)
        classifier.alpha_, classifier.alpha_path_, warm, settled = classifier._choose_alpha(
            *experts, ground.folds
        )
        if all(is_stackable(head) for head in ground.heads):
            folds = ground.folds if len(ground.data) > 1 else None
            for e, head in enumerate(ground.heads):
                alpha = classifier.alpha_ if head.alpha is None else float(head.alpha)
                request = Request(head, ground.target, ground.directions[e], alpha, i)
                requests.setdefault((ground.number, e), []).append((members, folds, request))
            search_done[i] = settled
            continue
        done, folds_done = _fit_experts(classifier, ground, warm, X, y)
        warn_unconverged(ground.head, settled, done, folds_done)
    solved = {}
    for (number, e), wanted in requests.items():
        ground, folds = wanted[0][0][0][2], wanted[0][1]
        memory = memories.setdefault((number, e), Memory())
        memory.rows = rows
        fits = fit_stacked(ground.data[e], [request for *_, request in wanted], folds, memory)
        for (members, *_), fit in zip(wanted, fits, strict=True):
            solved.setdefault(members[0][0], {})[e] = fit
    for members in firsts:
        i, classifier, ground = members[0]
        found = solved.get(i)
        if found is not None:
            fits, logits, folds_done = zip(*(found[e] for e in sorted(found)), strict=True)
            classifier.heads_ = [
                classifier._fitted_head(ground.heads[e], e, fit) for e, fit in enumerate(fits)
            ]
            classifier.oof_logits_ = np.stack(logits, axis=1)
            names = classifier.expert_names_
            done = {name: fit.converged for name, fit in zip(names, fits, strict=True)}
            folds_done = dict(zip(names, folds_done, strict=True))
            warn_unconverged(ground.head, search_done[i], done, folds_done)
        for _, other, _ in members[1:]:
            for name in ("alpha_", "alpha_path_", "oof_logits_"):
                setattr(other, name, getattr(classifier, name))
            other.heads_ = list(classifier.heads_)
            other.prior_used_ = classifier.prior_used_


@with_callbacks
def _fit_experts(classifier, ground, warm, X, y):
    """Fit the experts of one setting by themselves; returns which fits, and folds, converged."""
    context = classifier._init_callback_context(max_subtasks=len(ground.data) + 2)
    experts = (ground.data, ground.target, ground.heads, ground.directions)
    return classifier._fit_experts(*experts, warm, ground.folds, context, X, y)[1:]


def _fit_gates(members):
    """Fit the second stage of settings with the same experts; return who wants specialists."""
    waiting, shared = [], {}
    for _, classifier, ground in members:
        oof = classifier.oof_logits_
        classifier.gate_input_state_, inputs = classifier._see(ground, oof)
        fitted = classifier._fit_gate(ground, oof, inputs, shared)
        shares = classifier._specialist_shares(ground, fitted, inputs)
        if shares is None:
            classifier._take_gate(ground, fitted)
        else:
            waiting.append((members[0][0], classifier, ground, fitted, shares))
    return waiting


def _fit_specialists(waiting, memories, rows):
    """Fit experts again on the rows that are theirs, where a gate asks for it, and judge them."""
    stacked, requests = [], {}
    for entry in waiting:
        i, classifier, ground, fitted, shares = entry
        experts = (ground.data, ground.target, ground.heads, ground.directions, ground.folds)
        if not all(is_stackable(head) for head in ground.heads):
            found, converged = classifier._fit_specialists(*experts, shares)
            classifier._take_gate(
                ground, classifier._judge_specialists(ground, fitted, found, converged)
            )
            continue
        alpha, path, _, settled = classifier._choose_alpha(*experts, shares)
        stacked.append((entry, alpha, path, settled, {}))
        for e, own in enumerate(own_targets(ground.target, shares)):
            if not enough_shares(ground.folds, own, ground.target):
                continue
            head = ground.heads[e]
            its = alpha if head.alpha is None else float(head.alpha)
            request = Request(head, own, ground.directions[e], its, i)
            requests.setdefault((ground.number, e), []).append((stacked[-1], request))
    for (number, e), wanted in requests.items():
        ground = wanted[0][0][0][2]
        # They start where the experts of the same setting ended.
        memory = memories[number, e]
        known = {key: list(own) for key, own in memory.known.items()}
        memory = replace(memory, which=dict(memory.which), known=known, rows=rows)
        fits = fit_stacked(ground.data[e], [request for _, request in wanted], ground.folds, memory)
        for (kept, _), fit in zip(wanted, fits, strict=True):
            kept[-1][e] = fit
    for (_, classifier, ground, fitted, _), alpha, path, settled, fits in stacked:
        heads, logits = list(classifier.heads_), classifier.oof_logits_.copy()
        done, folds_done = {}, {}
        for e, (fit, own, converged) in fits.items():
            name = classifier.expert_names_[e]
            heads[e] = classifier._fitted_head(ground.heads[e], e, fit, alpha, path)
            logits[:, e], done[name], folds_done[name] = own, fit.converged, converged
        found = {"heads_": heads, "oof_logits_": logits, "alpha_": alpha, "alpha_path_": path}
        kept = classifier._judge_specialists(ground, fitted, found, (settled, done, folds_done))
        classifier._take_gate(ground, kept)
