"""The loss of the joint recipe: experts, gate and pool as one differentiable function."""

from dataclasses import dataclass

import torch
from torch.nn.functional import leaky_relu, logsigmoid, softplus

from skmoecbm._constrained import hundred_cosines
from skmoecbm._pooling import entropy_and_slope

__all__ = ["JointModel", "JointRows", "JointTerms", "layer_normed"]


@dataclass
class JointTerms:
    """The parts of the joint loss, scalar tensors; all are means over the rows of a batch.

    Attributes
    ----------
    log_loss : torch.Tensor
        Pooled cross-entropy, in nats; of several labels their mean binary cross-entropy.
    diversity : torch.Tensor
        Variance over classes of a row's pooled logits (population variance).
    gate_entropy, balance : torch.Tensor
        Mean entropy of the rows' gate weights, entropy of the mean weights, in nats.
    l1 : torch.Tensor
        Absolute sum of all linear associations, over n.
    penalty : torch.Tensor
        The pull of linear or softmax associations to the prior, and a linear gate's to 0.
    """

    log_loss: torch.Tensor
    diversity: torch.Tensor
    gate_entropy: torch.Tensor
    balance: torch.Tensor
    l1: torch.Tensor
    penalty: torch.Tensor


@dataclass
class JointRows:
    """What a batch holds, as tensors.

    Attributes
    ----------
    values : list of torch.Tensor of shape (n, m_e), float64
        Similarities, standardised unless the head is a softmax; 0 where absent.
    inputs : torch.Tensor of shape (n, q), float64
        Gate inputs.
    present : torch.Tensor of shape (n, E), bool
    labels : torch.Tensor of shape (n, K), float64
        One-hot rows, or an indicator.
    cells : torch.Tensor of shape (n, K) or None
        Weights of an indicator's cells; None where each row has just one class.
    shares : torch.Tensor of shape (n,)
        Row weights, of mean 1 over the training rows.
    normed : torch.Tensor of shape (n, q) or None
        The inputs after the layer norm of an "mlp" gate, where that was done already.
    """

    values: list
    inputs: torch.Tensor
    present: torch.Tensor
    labels: torch.Tensor
    cells: torch.Tensor | None
    shares: torch.Tensor
    normed: torch.Tensor | None = None

    def __getitem__(self, rows):
        return JointRows(
            [values[rows] for values in self.values],
            self.inputs[rows],
            self.present[rows],
            self.labels[rows],
            None if self.cells is None else self.cells[rows],
            self.shares[rows],
            None if self.normed is None else self.normed[rows],
        )


def layer_normed(inputs):
    """Return inputs (n, q) less their mean by row, over their deviation."""
    centred = inputs - inputs.mean(1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-5)


def row_losses(mixed, labels, cells):
    """Return the loss (n,) of pooled logits (n, K): one class per row, or K labels with cells."""
    if cells is None:
        return -(labels * torch.log_softmax(mixed, dim=1)).sum(1)
    return ((softplus(mixed) - labels * mixed) * cells).mean(1)


class JointModel:
    """Associations, intercepts and gate as tensors, and the loss they share.

    Parameters
    ----------
    softmax : bool
        Whether logits are ``100 D softmax(A)'`` rather than ``Z A' + b``.
    matrices, priors : list of torch.Tensor of shape (K', m_e)
        A of each expert (K rows inside a softmax), and what the pull draws it to.
    intercepts : list of torch.Tensor of shape (K',)
    kind : {"uniform", "constant", "linear", "mlp"}
    layers : dict of str to torch.Tensor
        The gate's numbers, as in `GateState`.
    pool : {"logit", "prob", "sum"}
    exclusive : bool
        Whether each row has just one class.
    pull, gate_pull : float
        alpha / 2n of the associations, and the penalty over n of a linear gate.
    l1_rate : float
        1 / n.
    """

    def __init__(
        self,
        *,
        softmax,
        matrices,
        priors,
        intercepts,
        kind,
        layers,
        pool,
        exclusive,
        pull,
        gate_pull,
        l1_rate,
    ):
        self.softmax, self.kind, self.pool, self.exclusive = softmax, kind, pool, exclusive
        self.matrices, self.priors, self.intercepts = matrices, priors, intercepts
        self.layers, self.pull, self.gate_pull, self.l1_rate = layers, pull, gate_pull, l1_rate
        # The softmax association has no intercept.
        self.experts = [*matrices, *([] if softmax else intercepts)]
        for tensor in self.tensors():
            tensor.requires_grad_(True)

    def tensors(self):
        """Return all trained tensors."""
        return [*self.experts, *self.layers.values()]

    def association(self, e):
        """Return the association (K', m) and intercept (K',) of one expert."""
        if self.softmax:
            weights, intercept = hundred_cosines(self.matrices[e][None])
            return weights[0], intercept[0]
        return self.matrices[e], self.intercepts[e]

    def expert_logits(self, rows):
        """Return S of shape (n, E, K), two classes as (0, s); 0 where absent."""
        logits = []
        for e, values in enumerate(rows.values):
            association, intercept = self.association(e)
            own = (values @ association.T + intercept) * rows.present[:, [e]]
            if own.shape[1] == 1 and self.exclusive:
                own = torch.cat([torch.zeros_like(own), own], dim=1)
            logits.append(own)
        return torch.stack(logits, dim=1)

    def gate_logits(self, rows, drop=lambda tensor: tensor):
        """Return the gate's logits (n, E), minus infinity where absent."""
        layers = self.layers
        if self.kind == "uniform":
            logits = torch.zeros_like(rows.present, dtype=torch.float64)
        elif self.kind == "constant":
            logits = layers["bias"].expand(rows.present.shape)
        elif self.kind == "linear":
            logits = drop(rows.inputs) @ layers["slope"].T + layers["bias"]
        else:
            normed = layer_normed(rows.inputs) if rows.normed is None else rows.normed
            hidden = leaky_relu(normed @ layers["hidden_weight"].T + layers["hidden_bias"], 0.01)
            logits = drop(hidden) @ layers["out_weight"].T + layers["out_bias"]
        return logits.masked_fill(~rows.present, -torch.inf)

    def mix(self, log_weights, logits):
        """Return pooled logits (n, K) of log gate weights (n, E) and expert logits (n, E, K)."""
        if self.pool == "prob":
            # On log weights, whose gradient stays finite at a weight of zero.
            log_weights = log_weights[:, :, None]
            if self.exclusive:
                return torch.logsumexp(log_weights + torch.log_softmax(logits, dim=2), dim=1)
            spoken_for = torch.logsumexp(log_weights + logsigmoid(logits), dim=1)
            return spoken_for - torch.logsumexp(log_weights + logsigmoid(-logits), dim=1)
        mixed = torch.einsum("ne,nek->nk", log_weights.exp(), logits)
        if self.pool == "sum":
            mixed = mixed * torch.isfinite(log_weights).sum(1, keepdim=True)
        return mixed

    def terms(self, rows, drop=lambda tensor: tensor):
        """Return the `JointTerms` of a batch of rows, each with at least one expert."""
        gate_logits = self.gate_logits(rows, drop)
        log_weights = torch.log_softmax(gate_logits, dim=1)
        weights = log_weights.exp()
        mixed = self.mix(log_weights, self.expert_logits(rows))
        entropy, _ = entropy_and_slope(gate_logits, weights)
        share = rows.shares / len(rows.shares)
        mean = share @ weights / share.sum()
        zero = share.new_zeros(())
        l1 = zero if self.softmax else sum(matrix.abs().sum() for matrix in self.matrices)
        penalty = zero
        if self.pull:
            pairs = zip(self.matrices, self.priors, strict=True)
            penalty = self.pull * sum((matrix - prior).square().sum() for matrix, prior in pairs)
        if self.gate_pull:
            slope, bias = self.layers["slope"], self.layers["bias"]
            # As in the staged gate: a tenth of it on the biases.
            penalty = penalty + self.gate_pull * (slope.square().sum() + 0.1 * bias.square().sum())
        return JointTerms(
            log_loss=share @ row_losses(mixed, rows.labels, rows.cells),
            # Over the classes of a row. Over the rows it would be another quantity.
            diversity=share @ mixed.var(dim=1, correction=0),
            gate_entropy=share @ entropy,
            balance=-torch.xlogy(mean, mean).sum(),
            l1=self.l1_rate * l1,
            penalty=penalty,
        )
