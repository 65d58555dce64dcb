"""The second stage of a mixture: from out-of-fold expert logits to a guarded gate.

What both stages work on stands in `Ground`, so that settings which differ in little else can share
it.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
from sklearn.utils import check_random_state

from skmoecbm._first_stage import FirstStage
from skmoecbm._folds import make_folds
from skmoecbm._gate_inputs import fit_gate_inputs, input_parts, join_inputs
from skmoecbm._gates import check_top_k
from skmoecbm._gating import gate_weights, reads_inputs
from skmoecbm._heads import warn_unconverged
from skmoecbm._mixture import MIN_ROWS, choose, fit_mixture, uniform_mixture
from skmoecbm._priors import prior_direction
from skmoecbm._single import ConceptBottleneckClassifier
from skmoecbm._target import Target
from skmoecbm._targets import row_weights
from skmoecbm._validation import resolve_device
from skmoecbm.exceptions import SkmoecbmWarning

__all__ = ["Ground", "Material", "SecondStage"]


@dataclass
class Material:
    """Rows, labels and weights as they were read.

    Attributes
    ----------
    data : list of ExpertData
    gate_values : ndarray of shape (n, g)
    codes : ndarray of shape (n,), int, or LabelMatrix
    weights, counts : ndarray of shape (n,)
        Row weights with class weights, and without.
    groups : ndarray of shape (n,), int, or None
    present : ndarray of shape (n, E), bool
    """

    data: list
    gate_values: np.ndarray
    codes: object
    weights: np.ndarray
    groups: np.ndarray | None
    present: np.ndarray
    counts: np.ndarray


@dataclass
class Ground(Material):
    """What the two stages of one setting work on.

    Attributes
    ----------
    head, heads : ConceptBottleneckClassifier, list of classifiers
        Unfitted: that of the mixture, and each expert's.
    gate : gate object
    input_kind : str
        What the gate looks at; see `fit_gate_inputs`.
    target : Target
    directions : list of (ndarray of shape (K, m_e) or None)
        Of the experts' priors.
    folds : Folds or None
    no_folds : str or None
        Why there are no folds.
    seen : dict
        Gate inputs already learned, by what they depend on.
    number : int
        Of the material, where several settings are fitted together.
    """

    head: object
    heads: list
    gate: object
    input_kind: str
    target: Target
    directions: list
    folds: object = None
    no_folds: str | None = None
    seen: dict = field(default_factory=dict)
    number: int = 0


class SecondStage(FirstStage):
    """How `GatedConceptBottleneckClassifier` prepares both stages, and does the second."""

    def _read_material(self, X, y, sample_weight, groups, gate_columns, *, kept=True):
        """Validate what came with `fit`; sets what is known of the columns and the classes."""
        vars(self).pop("masked_experts_", None)  # a view made by `without` learns all its experts
        data, gate_values, codes, weights, groups, present = self._start_fit(
            X, y, sample_weight, groups, self.class_weight, self.experts, gate_columns, kept=kept
        )
        layout = self._layout
        if self.experts == "auto" and layout.names == ["expert"] and data[0].block is None:
            warnings.warn(
                f"X is a plain array, so its {self.n_features_in_} columns are one expert and "
                "there is nothing to gate. Pass ExpertFeatures, 'expert__concept' column names or "
                "experts=[(name, columns), ...]; a scaler between union and classifier drops the "
                "experts, and none is needed: similarities are standardised here.",
                SkmoecbmWarning,
                stacklevel=5,
            )
        self.expert_names_, self.expert_columns_ = layout.names, layout.columns
        self.concept_names_ = layout.concepts
        counts = row_weights(self, sample_weight, None, self.classes_, codes)
        return Material(data, gate_values, codes, weights, groups, present, counts)

    def _prepare(self, material, head, gate, input_kind):
        """Return the `Ground` of this setting."""
        device = resolve_device(self.device, self)
        # a new dict: settings that share a material share what was known of it
        self.training_summary_ = {**self.training_summary_, "device": device.type}
        data, names = material.data, self._layout.names
        check_top_k(gate, len(data))
        heads = self._heads_of(head, names)
        target = Target(material.codes, len(self.classes_), material.weights, device)
        directions, used = [None] * len(data), dict.fromkeys(names)
        for e, (expert, own) in enumerate(zip(data, heads, strict=True)):
            if isinstance(own, ConceptBottleneckClassifier):
                own._check_activation(self.multilabel_)
                directions[e], used[expert.name] = prior_direction(
                    self, own.prior, expert.block, self.classes_, expert.shape[1]
                )
        self.prior_used_ = used
        for name in ("oof_logits_", "training_history_"):
            vars(self).pop(name, None)  # each training leaves one of them
        self.specialized_ = False
        return Ground(
            **vars(material),
            head=head,
            heads=heads,
            gate=gate,
            input_kind=input_kind,
            target=target,
            directions=directions,
        )

    def _make_folds(self, ground):
        ground.folds, ground.no_folds = make_folds(
            self, self.cv, ground.codes, ground.weights, ground.groups, ground.present
        )
        self._tell_folds(ground)

    def _tell_folds(self, ground):
        told = {"n_folds": len(ground.folds or ()), "no_folds": ground.no_folds}
        self.training_summary_ = {**self.training_summary_, **told}

    def _fit_second_stage(self, ground, oof):
        """Fit gate inputs, gate and guard on the logits `oof` (n, E, K), and specialists if due."""
        self.gate_input_state_, inputs = self._see(ground, oof)
        fitted = self._fit_gate(ground, oof, inputs)
        shares = self._specialist_shares(ground, fitted, inputs)
        if shares is not None:
            found, converged = self._fit_specialists(
                ground.data, ground.target, ground.heads, ground.directions, ground.folds, shares
            )
            fitted = self._judge_specialists(ground, fitted, found, converged)
        self._take_gate(ground, fitted)

    def _take_gate(self, ground, fitted):
        """Keep a second stage as fitted attributes; says so where there is none."""
        self._take_mixture(fitted)
        if fitted.fallback is not None and ground.gate.kind != "uniform":
            warnings.warn(
                f"No gate could be fitted: {fitted.fallback}. All experts count the same, for "
                "every image. Give more images (or groups) of each class for a gate.",
                SkmoecbmWarning,
                stacklevel=6,
            )

    def _see(self, ground, oof):
        """Learn what the gate sees; "disagreement" depends on what the experts say.

        Returns its state, and a function from rows and a mask of experts to the gate's inputs.
        """
        kind, said = ground.input_kind, list(np.moveaxis(oof, 1, 0))
        judged = ground.weights
        if kind == "disagreement" and ground.folds is not None:
            # Of other rows no expert has said anything.
            judged = judged * (ground.folds.held_out >= 0)
        if kind not in ground.seen:
            state = fit_gate_inputs(
                ground.data, ground.gate_values, judged, kind, said, ground.codes
            )
            pieces, extra = input_parts(
                state,
                ground.data,
                ground.gate_values,
                ground.present,
                said,
                not self.multilabel_,
            )
            if kind == "disagreement":
                return state, _inputs(state, pieces, extra)
            ground.seen[kind] = state, pieces, extra
        state, pieces, extra = ground.seen[kind]
        return state, _inputs(state, pieces, extra)

    def _specialist_shares(self, ground, fitted, inputs):
        """Return how much of each row is each expert's (n, E), None where none learns again.

        An expert that learned from rows which it cannot read has learned their noise. Once a gate
        knows these rows, they weigh by its trust: the step of expectation maximisation that
        staged training leaves out.
        """
        if not (self.specialize and reads_inputs(fitted.gate) and fitted.row_losses is not None):
            return None
        present = ground.present
        trust = gate_weights(fitted.gate, inputs(slice(None), present), present)
        return trust * present.sum(axis=1, keepdims=True)

    def _judge_specialists(self, ground, fitted, found, converged):
        """Take the specialists where they clearly pay, and return the second stage that is kept."""
        state, inputs = self._see(ground, found["oof_logits_"])
        again = self._fit_gate(ground, found["oof_logits_"], inputs)
        losses = {"before": fitted.row_losses, "after": again.row_losses}
        judged = ground.weights * (ground.folds.held_out >= 0)
        if choose(losses, judged, ground.groups, ground.counts) == "before":
            return fitted
        vars(self).update(found, gate_input_state_=state, specialized_=True)
        warn_unconverged(ground.head, *converged)
        return again

    def _fit_gate(self, ground, oof, inputs, shared=None):
        """Second stage, or the reason why there is none; `shared` as of `fit_mixture`."""
        present, folds = ground.present, ground.folds
        n_experts = present.shape[1]
        if folds is None:
            return uniform_mixture(n_experts, ground.no_folds if n_experts > 1 else None)
        if n_experts == 1:
            return uniform_mixture(1, None)
        usable = ground.weights * (folds.held_out >= 0)
        if np.count_nonzero(usable) < MIN_ROWS:
            return uniform_mixture(n_experts, f"fewer than {MIN_ROWS} rows with a held-out fold")
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        return fit_mixture(
            oof,
            ground.codes,
            usable,
            present,
            inputs(slice(None), present),
            folds.held_out,
            names=self.expert_names_,
            gate=ground.gate,
            pool=self.pool,
            calibrate=self.calibrate,
            guard=self.guard,
            groups=ground.groups,
            counts=ground.counts,
            masked_inputs=inputs,
            device=ground.target.device,
            seed=seed,
            shared=shared,
        )


def _inputs(state, pieces, extra):
    """Return a function from rows and a mask of experts to the gate's inputs."""

    def inputs(rows, mask):
        return join_inputs(state, [piece[rows] for piece in pieces], extra[rows], mask)

    return inputs
