"""A training step of the joint recipe: rows cut in one piece, and the gradient written out.

At a batch of 64 rows automatic differentiation spends most of a step on its own book-keeping.
"""

import torch

from skmoecbm._joint_loss import JointRows, JointTerms, layer_normed
from skmoecbm._pooling import entropy_and_slope

__all__ = ["PackedRows", "coefficients", "joint_gradients"]


class PackedRows:
    """Rows side by side in one table, so that a batch of them is one cut.

    Parameters
    ----------
    rows : JointRows

    Attributes
    ----------
    complete : bool
        Whether all rows have all experts.
    """

    def __init__(self, rows):
        self._normed, self.complete = rows.normed is not None, bool(rows.present.all())
        inputs = rows.normed if self._normed else rows.inputs
        parts = [*rows.values, inputs, rows.present.double(), rows.labels, rows.shares[:, None]]
        parts += [] if rows.cells is None else [rows.cells]
        self._widths, self._n_experts = [part.shape[1] for part in parts], len(rows.values)
        self._table = torch.cat(parts, dim=1)

    def take(self, index):
        """Return some rows, given by a tensor of their numbers."""
        parts = self._table.index_select(0, index).split(self._widths, dim=1)
        values, rest = parts[: self._n_experts], parts[self._n_experts :]
        inputs, present, labels, shares, *cells = rest
        normed, cells = inputs if self._normed else None, cells[0] if cells else None
        return JointRows(values, inputs, present > 0.5, labels, cells, shares[:, 0], normed)


def coefficients(training):
    """Return how much each part of the joint loss counts, a dict by the fields of `JointTerms`.

    The loss is linear in them.
    """
    names = list(JointTerms.__dataclass_fields__)
    parts = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in names]
    slopes = torch.autograd.grad(training._objective(JointTerms(*parts)), parts, allow_unused=True)
    return {n: 0.0 if g is None else float(g) for n, g in zip(names, slopes, strict=True)}


def joint_gradients(model, rows, counts, *, complete=False, drop=None):
    """Return the log-loss of a batch, and the gradients of the joint loss by `model.tensors()`.

    What autograd makes of ``training._objective(model.terms(rows))``, for pools of logits.

    Parameters
    ----------
    model : JointModel
        Of pool "logit" or "sum".
    rows : JointRows
        Each with at least one expert.
    counts : dict of str to float
        From `coefficients`.
    complete : bool, default=False
        Whether all rows have all experts.
    drop : callable or None
        Dropout, as of ``JointModel.terms``.
    """
    logits = model.expert_logits(rows)
    gate, given, hidden, leak = _gate(model, rows, drop)
    gate = gate if complete else gate.masked_fill(~rows.present, -torch.inf)
    weights = torch.softmax(gate, dim=1)
    mixed = torch.einsum("ne,nek->nk", weights, logits)
    # "sum" counts the experts that are there.
    times = None
    if model.pool == "sum":
        times = rows.present.sum(1, keepdim=True).double()
        mixed = mixed * times
    share = (rows.shares / len(rows.shares))[:, None]
    losses, slope = _losses(mixed, rows)
    slope = slope * (counts["log_loss"] * share)
    if counts["diversity"]:
        centred = mixed - mixed.mean(1, keepdim=True)
        slope = slope + (2.0 * counts["diversity"] / mixed.shape[1]) * share * centred
    if times is not None:
        slope = slope * times
    by_weight = torch.einsum("nk,nek->ne", slope, logits)
    if counts["balance"]:
        mean = share.T @ weights / share.sum()
        told = torch.where(mean > 0, -torch.log(mean.clamp_min(1e-300)) - 1.0, 0.0)
        by_weight = by_weight + counts["balance"] / share.sum() * share * told
    by_gate = weights * (by_weight - (weights * by_weight).sum(1, keepdim=True))
    if counts["gate_entropy"]:
        _, own = entropy_and_slope(gate, weights)
        by_gate = by_gate + counts["gate_entropy"] * share * own
    by_logits = weights[:, :, None] * slope[:, None, :]
    if not complete:
        by_logits = by_logits * rows.present[:, :, None]
    gradients = _by_experts(model, rows, by_logits, counts)
    gradients += _by_gate(model, by_gate, given, hidden, leak, counts)
    return float((share.T @ losses[:, None]).item()), gradients


def _losses(mixed, rows):
    """Return the loss (n,) of pooled logits (n, K), and its derivative by them."""
    if rows.cells is None:
        log_p = torch.log_softmax(mixed, dim=1)
        return -(rows.labels * log_p).sum(1), log_p.exp() - rows.labels
    losses = torch.nn.functional.softplus(mixed) - rows.labels * mixed
    slope = (torch.sigmoid(mixed) - rows.labels) * rows.cells / mixed.shape[1]
    return (losses * rows.cells).mean(1), slope


def _gate(model, rows, drop):
    """Return the gate's logits (n, E), and what its layers were given."""
    layers = model.layers
    if model.kind == "linear":
        given = rows.inputs if drop is None else drop(rows.inputs)
        return torch.addmm(layers["bias"], given, layers["slope"].T), given, None, None
    if model.kind == "mlp":
        given = layer_normed(rows.inputs) if rows.normed is None else rows.normed
        hidden = torch.addmm(layers["hidden_bias"], given, layers["hidden_weight"].T)
        leak = torch.ones_like(hidden).masked_fill_(hidden <= 0, 0.01)
        if drop is not None:
            leak = drop(leak)
        hidden = hidden * leak
        return torch.addmm(layers["out_bias"], hidden, layers["out_weight"].T), given, hidden, leak
    gate = torch.zeros(rows.present.shape, dtype=torch.float64, device=rows.present.device)
    return (gate if model.kind == "uniform" else gate + layers["bias"]), None, None, None


def _by_experts(model, rows, by_logits, counts):
    """Return the gradients by the associations, then those by the intercepts."""
    matrices, intercepts = [], []
    for e, (matrix, prior) in enumerate(zip(model.matrices, model.priors, strict=True)):
        own = by_logits[:, e]
        own = own[:, 1:] if model.exclusive and len(model.association(e)[1]) == 1 else own
        slope = own.T @ rows.values[e]
        if model.softmax:
            weights = torch.softmax(matrix, dim=1)
            if len(slope) == 1:  # of two classes the difference is kept
                slope = torch.cat([-slope, slope])
            slope = 100.0 * slope
            slope = weights * (slope - (weights * slope).sum(1, keepdim=True))
        else:
            intercepts.append(own.sum(0))
            if counts["l1"]:
                slope = slope + (counts["l1"] * model.l1_rate) * torch.sign(matrix)
        if model.pull:
            slope = slope + (2.0 * counts["penalty"] * model.pull) * (matrix - prior)
        matrices.append(slope)
    return [*matrices, *intercepts]


def _by_gate(model, by_gate, given, hidden, leak, counts):
    """Return the gradients by the gate's layers, in their order."""
    if model.kind == "uniform":
        return []
    found = {"bias": by_gate.sum(0)}
    if model.kind == "linear":
        found["slope"] = by_gate.T @ given
        if model.gate_pull:
            pull = 2.0 * counts["penalty"] * model.gate_pull
            found["slope"] = found["slope"] + pull * model.layers["slope"]
            found["bias"] = found["bias"] + 0.1 * pull * model.layers["bias"]
    elif model.kind == "mlp":
        before = (by_gate @ model.layers["out_weight"]) * leak
        found = {
            "out_bias": found["bias"],
            "out_weight": by_gate.T @ hidden,
            "hidden_bias": before.sum(0),
            "hidden_weight": before.T @ given,
        }
    return [found[name] for name in model.layers]
