"""Joint training of a mixture: the split that tells when to stop, the start, the descent."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.utils import check_random_state

from skmoecbm._base import fit_task
from skmoecbm._gate_inputs import fit_gate_inputs, gate_inputs
from skmoecbm._gating import GateState, gate_weights, routing_information
from skmoecbm._heads import HeadFit, expert_problem
from skmoecbm._joint_coordinates import Steps, stretches
from skmoecbm._joint_gradient import PackedRows, coefficients, joint_gradients
from skmoecbm._joint_loss import JointModel, JointRows, layer_normed
from skmoecbm._mixing import FittedMixture
from skmoecbm._mixture import MixtureFit
from skmoecbm._mlp_gate import first_layer
from skmoecbm.exceptions import InputError

__all__ = ["JointFit", "JointlyTrained", "fit_joint", "split_rows"]

#: Fewer validation rows than this say more about chance than about when to stop.
MIN_VALIDATION_ROWS = 16

# Draws of a validation split that may lose a class of an expert.
_DRAWS = 10


class JointlyTrained(FittedMixture):
    """What `GatedConceptBottleneckClassifier` does under ``training=JointTraining(...)``."""

    def _fit_jointly(self, X, y, data, target, head, directions, gate, **settings):
        """Train experts and gate together; an epoch is a task."""
        context = self._init_callback_context(max_subtasks=self.training.max_epochs)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        fitted = fit_joint(
            data,
            target,
            head,
            directions,
            gate,
            self.training,
            pool=self.pool,
            seed=check_random_state(self.random_state).randint(np.iinfo(np.int32).max),
            epoch_task=lambda name: fit_task(context, self, X, y, name),
            **settings,
        )
        self.alpha_, self.alpha_path_ = float(head.alpha or 0.0), {}
        self.heads_ = [self._fitted_head(head, e, one) for e, one in enumerate(fitted.heads)]
        self.gate_input_state_ = fitted.gate_inputs
        self.training_history_ = fitted.history
        self.training_summary_["joint"] = {
            "epochs": len(fitted.history["train_loss"]),
            "best_epoch": fitted.history["best_epoch"],
            "early_stopping": fitted.history["early_stopping"],
        }
        self._take_mixture(fitted.mixture)
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=self._fitted_attributes()
        )
        return self

    def _take_mixture(self, fitted):
        """Keep gate and scales as fitted attributes."""
        self.gate_state_ = fitted.gate
        self.expert_scale_, self.pool_scale_ = fitted.expert_scale, fitted.pool_scale
        self.selected_, self.fallback_ = fitted.selected, fitted.fallback
        self.oof_log_loss_ = fitted.losses
        self.routing_information_ = fitted.information
        self.n_iter_ = max([fitted.n_iter, *(head.n_iter_ for head in self.heads_)])


@dataclass
class JointFit:
    """What the joint recipe learned.

    Attributes
    ----------
    heads : list of HeadFit
    mixture : MixtureFit
        The gate; all scales are 1.
    gate_inputs : dict of str to ndarray
        As of `fit_gate_inputs`.
    history : dict
        train_loss and validation_loss (of epochs 1, 2, ... and 0, 1, ...), mean_gate after each
        epoch, best_epoch, and early_stopping: True, or why there was none.
    """

    heads: list
    mixture: MixtureFit
    gate_inputs: dict
    history: dict


def fit_joint(
    experts,
    target,
    head,
    directions,
    gate,
    training,
    *,
    gate_values,
    input_kind,
    present,
    groups,
    pool,
    seed,
    epoch_task=nullcontext,
):
    """Train the experts and their gate together.

    Parameters
    ----------
    experts : list of ExpertData
    target : Target
    head : ConceptBottleneckClassifier
        Its parameters.
    directions : list of (ndarray of shape (K, m) or None)
        Direction of each expert's prior.
    gate : gate object
    training : JointTraining
    gate_values : ndarray of shape (n, g)
        Columns that only the gate sees.
    input_kind : {"components", "similarities"}
    present : ndarray of shape (n, E), bool
    groups : ndarray of shape (n,) or None
    pool : {"logit", "prob", "sum"}
    seed : int
    epoch_task : callable
        Context manager around each epoch, called with its name.

    Returns
    -------
    JointFit
    """
    train, held_out, reason = split_rows(
        target, present, groups, training.validation_fraction, np.random.default_rng(seed)
    )
    problems = [
        expert_problem(expert, target, head, direction, train[None], spanned=False)
        for expert, direction in zip(experts, directions, strict=True)
    ]
    state = fit_gate_inputs(experts, gate_values, target.weights * train, input_kind)
    inputs = gate_inputs(state, experts, gate_values, present)
    rows = _tensor_rows(experts, problems, target, inputs, present, train)
    generator = torch.Generator().manual_seed(seed)
    kind = gate.kind if len(experts) > 1 else "uniform"
    model = _start(problems, rows, target, head, gate, kind, train, pool, generator)
    history = _train(
        model,
        rows[torch.as_tensor(np.flatnonzero(train), device=target.device)],
        rows[torch.as_tensor(np.flatnonzero(held_out), device=target.device)],
        training,
        getattr(gate, "weight_decay", 0.0),
        generator,
        epoch_task,
    )
    history["early_stopping"] = reason or True
    heads = []
    with torch.no_grad():
        for e, problem in enumerate(problems):
            association, intercept = model.association(e)
            mean = problem.mean + problem.similarities.offset
            arrays = [association, intercept, mean[0], problem.scale[0], problem.prior[0]]
            arrays = [array.cpu().numpy().copy() for array in arrays]
            heads.append(HeadFit(*arrays, len(history["train_loss"]), True))
        layers = {name: layer.cpu().numpy().copy() for name, layer in model.layers.items()}
    fitted = GateState(kind, layers)
    kept, ones = present.any(1), np.ones(len(experts))
    weights = gate_weights(fitted, inputs[kept], present[kept])
    mixture = MixtureFit(fitted, ones, ones.copy(), "joint")
    mixture.information = routing_information(weights, target.weights[kept])
    return JointFit(heads, mixture, state, history)


def split_rows(target, present, groups, fraction, rng):
    """Return which rows train, which validate, and why none validate (None where some do).

    Every so-manieth row or group, in an order by class and by which experts are present that is
    random within. What is alone of its kind trains.

    Parameters
    ----------
    target : Target
    present : ndarray of shape (n, E), bool
    groups : ndarray of shape (n,) or None
    fraction : float
    rng : numpy.random.Generator
    """
    used = target.weights > 0
    kinds = present.astype(int)
    if target.exclusive:
        kinds = np.column_stack([target.codes, kinds])
    kinds = np.unique(kinds, axis=0, return_inverse=True)[1].ravel()
    rows = np.flatnonzero(used)
    units = np.arange(len(rows)) if groups is None else groups[rows]
    units = np.unique(units, return_inverse=True)[1]
    # A group is of the kind that is rarest among its rows.
    rarest_first = np.argsort(np.bincount(kinds[rows])[kinds[rows]], kind="stable")
    first = np.unique(units[rarest_first], return_index=True)[1]
    kind = kinds[rows[rarest_first[first]]]
    eligible = np.flatnonzero(np.bincount(kind)[kind] > 1)
    nobody = np.zeros(len(used), dtype=bool)
    for _ in range(_DRAWS):
        order = eligible[np.lexsort((rng.random(len(eligible)), kind[eligible]))]
        steps = np.floor(np.arange(len(order) + 1) * fraction + rng.random())
        picked = np.zeros(len(kind), dtype=bool)
        picked[order[np.diff(steps) > 0]] = True
        held_out = nobody.copy()
        held_out[rows[picked[units]]] = True
        if held_out.sum() < MIN_VALIDATION_ROWS:
            return used, nobody, f"fewer than {MIN_VALIDATION_ROWS} rows could be held out"
        train = used & ~held_out
        if not target.exclusive or _same_cells(target.codes, present, train, used):
            return train, held_out, None
    return used, nobody, "no draw left every class of every expert in training"


def _same_cells(codes, present, train, used):
    """Tell whether every class that an expert saw is still there for it."""
    shape = (codes.max() + 1, present.shape[1])
    cells = []
    for rows in (train, used):
        seen = np.zeros(shape, dtype=bool)
        for e in range(shape[1]):
            seen[codes[rows & present[:, e]], e] = True
        cells.append(seen)
    return (cells[0] == cells[1]).all()


def _tensor_rows(experts, problems, target, inputs, present, train):
    device = target.device

    def tensor(array):
        return torch.tensor(array, device=device)  # a copy: features may be read-only

    values = []
    for expert, problem in zip(experts, problems, strict=True):
        mean = problem.mean[0] + problem.similarities.offset
        z = tensor(expert.values).sub_(mean).div_(problem.scale[0])
        z[~tensor(expert.present)] = 0.0
        values.append(z)
    if target.exclusive:
        labels = np.eye(target.n_classes)[target.codes]
    else:
        labels = target.codes.values
    shares = target.weights / target.weights[train].mean()
    return JointRows(
        values, tensor(inputs), tensor(present), tensor(labels), target.cells(), tensor(shares)
    )


def _start(problems, rows, target, head, gate, kind, train, pool, generator):
    """Return the model at its priors, with the intercepts of the frequencies and equal weights."""
    softmax, device = head.activation == "softmax", target.device
    share = torch.as_tensor(target.weights * train, device=device)[:, None]
    share = share if rows.cells is None else share * rows.cells
    frequency = ((share * rows.labels).sum(0) / share.sum(0)).clamp(1e-6, 1 - 1e-6)
    if target.exclusive:
        intercept = frequency.log() - frequency.log().mean()
        intercept = intercept[1:] - intercept[:1] if target.n_classes == 2 else intercept
    else:
        intercept = torch.logit(frequency)
    priors = [(problem.matrix_prior if softmax else problem.prior)[0] for problem in problems]
    width, n_experts = rows.inputs.shape[1], len(problems)
    shapes = {
        "uniform": {},
        "constant": {"bias": (n_experts,)},
        "linear": {"slope": (n_experts, width), "bias": (n_experts,)},
        "mlp": {"out_bias": (n_experts,)},
    }[kind]
    if kind == "mlp":
        hidden = gate.hidden
        shapes |= {"hidden_bias": (hidden,), "out_weight": (n_experts, hidden)}
    layers = {
        name: torch.zeros(shape, dtype=torch.float64, device=device)
        for name, shape in shapes.items()
    }
    if kind == "mlp":
        drawn = first_layer(
            gate.hidden, rows.inputs.cpu().numpy(), target.weights * train, generator
        )
        layers["hidden_weight"] = drawn.to(device)
    # n counts the losses that the penalties stand beside: one per row, or one per row and label.
    n = float(target.weights[train].sum()) * (1 if target.exclusive else target.n_classes)
    return JointModel(
        softmax=softmax,
        matrices=[prior.clone(memory_format=torch.contiguous_format) for prior in priors],
        priors=priors,
        intercepts=[intercept.clone() for _ in problems],
        kind=kind,
        layers=layers,
        pool=pool,
        exclusive=target.exclusive,
        pull=0.0 if head.alpha is None else head.alpha / (2.0 * n),
        gate_pull=gate.penalty / n if kind == "linear" else 0.0,
        l1_rate=1.0 / n,
    )


def _train(model, rows, held_out, training, weight_decay, generator, epoch_task):
    """Descend by mini-batches, and put the weights of the best epoch back. Return the history."""
    steps = Steps(model, stretches(model, rows, training.l1))
    experts = [*steps.tensors, *model.experts[len(steps.tensors) :]]
    # AdamW without decay is Adam; fused, one call updates all tensors. It goes through numbers and
    # gradients as they lie in memory, so those must lie alike: on a CPU it does not look.
    groups = [{"params": experts, "lr": training.association_lr, "weight_decay": 0.0}]
    if model.layers:
        gate = {"params": list(model.layers.values()), "lr": training.gate_lr}
        groups.append({**gate, "weight_decay": weight_decay})
    optimizer = torch.optim.AdamW(groups, fused=True)
    device, n = rows.inputs.device, len(rows.inputs)
    if model.kind == "mlp":
        rows, held_out = (
            replace(part, normed=layer_normed(part.inputs)) for part in (rows, held_out)
        )
    packed, counts = PackedRows(rows), coefficients(training)

    def drop(tensor):
        # From the fit's own generator: torch's dropout draws from the one of the whole program.
        kept = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor * (kept >= training.dropout).to(device) / (1.0 - training.dropout)

    def step(batch):
        """Return the log-loss of a batch and the gradients by all tensors."""
        dropped = drop if training.dropout else None
        if model.pool != "prob":
            with torch.no_grad():
                return joint_gradients(model, batch, counts, complete=packed.complete, drop=dropped)
        terms = model.terms(batch, dropped or (lambda tensor: tensor))
        gradients = torch.autograd.grad(training._objective(terms), model.tensors())
        return float(terms.log_loss.detach()), gradients

    def validation_loss():
        with torch.no_grad():
            return float(model.terms(held_out).log_loss / held_out.shares.mean())

    def snapshot():
        return [tensor.detach().clone() for tensor in model.tensors()]

    stops = len(held_out.inputs) > 0
    history = {"train_loss": [], "validation_loss": [], "mean_gate": [], "best_epoch": 0}
    best = snapshot()
    if stops:
        history["validation_loss"].append(validation_loss())
    for epoch in range(1, training.max_epochs + 1):
        with epoch_task(f"epoch {epoch}"):
            total = 0.0
            order = torch.randperm(n, generator=generator).to(device)
            for batch in order.split(training.batch_size):
                loss, gradients = step(packed.take(batch))
                # The gate's tensors come after the experts', and wait for them.
                learning = len(model.experts) if epoch <= training.gate_warmup else None
                steps.take(gradients[: len(steps.tensors)])
                pairs = zip(model.tensors()[:learning], gradients, strict=False)
                for tensor, gradient in list(pairs)[len(steps.tensors) :]:
                    tensor.grad = gradient.contiguous()
                optimizer.step()
                steps.put()
                total += loss * len(batch) / n
            with torch.no_grad():
                weights = torch.softmax(model.gate_logits(rows), dim=1)
                share = rows.shares / rows.shares.sum()
                history["mean_gate"].append((share @ weights).cpu().tolist())
            history["train_loss"].append(total)
            loss = validation_loss() if stops else total
        if not np.isfinite([total, loss]).all():
            raise InputError(
                f"Joint training diverged in epoch {epoch}: the loss is {total:g}. Lower "
                f"association_lr (now {training.association_lr:g}) or diversity (now "
                f"{training.diversity:g})."
            )
        if not stops:
            best, history["best_epoch"] = None, epoch
            continue
        history["validation_loss"].append(loss)
        if loss < history["validation_loss"][history["best_epoch"]]:
            best, history["best_epoch"] = snapshot(), epoch
        # Patience is for the whole model, which begins when the gate does.
        elif epoch - max(history["best_epoch"], training.gate_warmup) >= training.patience:
            break
    if best is not None:
        with torch.no_grad():
            for tensor, value in zip(model.tensors(), best, strict=True):
                tensor.copy_(value)
    return history
