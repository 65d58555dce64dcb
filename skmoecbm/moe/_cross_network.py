"""The network of `CrossModalMoEClassifier`: attention between streams, gates, sparse residual."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from skmoecbm.moe._cross_attention import attend, sinusoids
from skmoecbm.moe._linear import solve_linear
from skmoecbm.moe._network import Routing, start_router
from skmoecbm.moe._pool import ExpertPool
from skmoecbm.moe._routing import Router, route

__all__ = ["CrossNetwork", "CrossShape", "Fused", "cross_tensor_shapes", "drop_streams"]

# Rows that k-means looks at, at most.
_CLUSTERED = 2000

# How large positions are at the start, beside tokens whose numbers are about 1.
_POSITIONS = 0.1


@dataclass(frozen=True)
class CrossShape:
    """What fixes the tensors of a `CrossNetwork`.

    Attributes
    ----------
    widths : tuple of int
        Of each stream's tokens.
    n_outputs : int
    width : int
        What tokens are projected to, d.
    n_experts, top_k, hidden : int
    fusion : {"attention", "concat"}
    pooling : {"mean", "cls"}
    moe : bool
    gating : {"softmax", "laplace", "gaussian"}
    """

    widths: tuple
    n_outputs: int
    width: int
    n_experts: int
    top_k: int
    hidden: int
    fusion: str
    pooling: str
    moe: bool
    gating: str


@dataclass
class Fused:
    """What the streams make together.

    Attributes
    ----------
    vector : tensor of shape (n, d), float64
    shares : tensor of shape (n, M), float64
        How much each stream counts; 0 where absent, rows sum to 1.
    looked_at : list of M tensors of shape (n, T_o)
        How much stream m looks at each token of its partner o; zero for tokens that are not there.
        Empty without attention.
    by_stream : list of M tensors of shape (n, d), float64
        What each puts into `vector`, their sum.
    """

    vector: torch.Tensor
    shares: torch.Tensor
    looked_at: list
    by_stream: list


class CrossNetwork(nn.Module):
    """Tokens to a common width, attention both ways, pooled, gated, a sparse residual, a head.

    U_m = tokens P_m' + c_m + g_m positions; F_m = softmax(U_m Q_m (U_o K_o)' / sqrt(d)) U_o V_o
    over the tokens of the partner o that are there (of a stream alone in the model, its own);
    H_m = pooled(U_m + F_m); gamma = sigmoid(W H + b); F' = sum_m gamma_m H_m / sum_m gamma_m over
    the streams that are there, in a voice by how many they are; O = F' + MoE(F'); logits = O head'
    + intercept.
    """

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        d, n = shape.width, len(shape.widths)
        self.projections = nn.ParameterList(_empty(d, width) for width in shape.widths)
        self.offsets = nn.ParameterList(_empty(d) for _ in shape.widths)
        self.gains = _empty(n)
        attends = shape.fusion == "attention"
        for name in ("queries", "keys", "values"):
            setattr(self, name, nn.ParameterList(_empty(d, d) for _ in range(n if attends else 0)))
        self.gated = attends and n > 1
        if self.gated:
            self.gates = _empty(n, n * d)
            self.gate_offsets = _empty(n)
        if shape.moe:
            self.router = Router(d + (n if n > 1 else 0), shape.n_experts, shape.gating)
            self.pool = ExpertPool(shape.n_experts, d, shape.hidden, d)
        else:
            self.pool = ExpertPool(1, d, shape.top_k * shape.hidden, d)
        # How loud the average of the streams that are there is, by how many they are: alone a
        # stream has a full voice, as if it had seen as much as both.
        self.log_voice = _empty(n - 1)
        self.head = _empty(shape.n_outputs, d)
        self.intercept = _empty(shape.n_outputs)

    def groups(self):
        """Return the tensors of projections and attention, and those of router and experts."""
        first = [*self.projections, *self.offsets, self.gains]
        first += [*self.queries, *self.keys, *self.values]
        theirs = {id(tensor) for tensor in first}
        return first, [tensor for tensor in self.parameters() if id(tensor) not in theirs]

    @torch.no_grad()
    def start(self, pieces, rows, log_odds, rng, generator, score=None):
        """Draw the weights, solve the head, and let the router begin at clusters of what it sees.

        The experts are silent at first: training starts at the best linear answer to what the
        streams make together.

        Parameters
        ----------
        pieces : iterable of (x, present)
            Of the training rows, some at a time.
        rows : Rows
            All of them, with labels and weights.
        log_odds : tensor of shape (K',)
            Logits of the class frequencies.
        rng : numpy.random.RandomState
        generator : torch.Generator
        score : callable or None
            Scores the network on rows held out, greater is better, to choose how much the head is
            held back; None takes the more cautious way.
        """
        for matrix in (*self.projections, *self.queries, *self.keys, *self.values):
            bound = math.sqrt(3.0 / matrix.shape[1])  # numbers of about 1 stay so
            drawn = torch.rand(matrix.shape, generator=generator, dtype=torch.float64)
            matrix.copy_(bound * (2 * drawn - 1))
        self.gains.fill_(_POSITIONS)
        self.log_voice.fill_(math.log(0.5))  # a sum of those that are there: evidence adds up
        self.pool.start(generator, silent=True)
        fused, seen = [], []
        for x, present in pieces:
            fused.append(self.fuse(x, present).vector)
            seen.append(self._seen(fused[-1], present))
        fused, seen = torch.cat(fused), torch.cat(seen)
        share = (rows.share / rows.share.sum())[:, None]
        mean = (share * fused).sum(0)
        scale = (share * (fused - mean).square()).sum(0).sqrt().clamp_min(1e-12)
        # These columns are drawn, as many as the width says, and fit a few hundred rows exactly. So
        # either the slope of each is held to about 1, or, more cautiously, the logit of them all.
        columns, found = (fused - mean) / scale, []
        for penalty in (float(columns.shape[1]), 1.0)[: 1 if score is None else 2]:
            slopes, intercept = solve_linear(columns, rows, log_odds, penalty)
            self.head.copy_(slopes / scale)
            self.intercept.copy_(intercept - self.head @ mean)
            told = 0.0 if score is None else score()
            found.append((told, self.head.clone(), self.intercept.clone()))
        _, head, intercept = max(found, key=lambda one: one[0])
        self.head.copy_(head)
        self.intercept.copy_(intercept)
        if self.shape.moe:
            start_router(self.router, seen, self.shape, rng, _CLUSTERED)

    def forward(self, x, present, positions=None, without=None):
        """Return logits (n, K') and a list of the `Routing` of the router.

        Parameters
        ----------
        x : list of StreamRows, length M
        present : tensor of shape (n, M), bool
            A stream that is not is never looked at.
        positions : list of tensors (n, T_m), int, or None
            Where each token stands; None counts from 0.
        without : int or None
            An expert that nobody is sent to.
        """
        fused = self.fuse(x, present, positions).vector
        routings = []
        nobody = -1 if without is None else without
        gone = torch.arange(len(self.pool.w1), device=fused.device) == nobody
        if self.shape.moe:
            logits = self.router(self._seen(fused, present))
            logits = logits.masked_fill(gone & (len(gone) > 1), -torch.inf)
            weights, probabilities = route(logits, self.shape.top_k)
            weights = weights * ~gone  # of one expert alone nothing is left
            routings.append(Routing(logits, probabilities, weights, present.any(1)))
        else:
            weights = (~gone).double().expand(len(fused), 1)
        answer = fused + self.pool(fused, weights)
        return answer @ self.head.T + self.intercept, routings

    def fuse(self, x, present, positions=None):
        """Return what the streams make together, `Fused`."""
        padded = [part.padded() for part in x]
        dtype = torch.float32
        if any(z.dtype == torch.float64 for z, _ in padded):
            dtype = torch.float64
        tokens, masks, counted, pooled = [], [], [], []
        for m, (z, mask) in enumerate(padded):
            tokens.append(self._embed(m, z.to(dtype), positions and positions[m]))
            masks.append(mask & present[:, m, None])
            counted.append(self._count(masks[m], dtype))
            pooled.append((counted[m][:, None] @ tokens[m])[:, 0])
        looked_at = []
        for m in range(len(x) if self.queries else 0):
            o = len(x) - 1 - m
            some = slice(0, 1) if self.shape.pooling == "cls" else slice(None)
            weights = attend(
                tokens[m][:, some] @ self.queries[m].to(dtype),
                tokens[o] @ self.keys[o].to(dtype),
                masks[o],
            )
            # Pooled before values are made: a sum of products is the product of the sum.
            weights = counted[m][:, None, some] @ weights
            pooled[m] = pooled[m] + ((weights @ tokens[o]) @ self.values[o].to(dtype))[:, 0]
            looked_at.append(weights[:, 0])
        pooled = [one.double() for one in pooled]
        shares = self._shares(pooled, present)
        voices = torch.cat([self.log_voice.exp(), self.log_voice.new_ones(1)])
        voice = voices[present.sum(1).clamp_min(1) - 1, None]
        by_stream = [voice * shares[:, m, None] * one for m, one in enumerate(pooled)]
        return Fused(sum(by_stream), shares, looked_at, by_stream)

    def addends(self, x, present):
        """Return what each expert (n, E, K') and each stream (n, M, K') add to the logits.

        With the intercept they sum to what `forward` returns.
        """
        fused = self.fuse(x, present)
        _, routings = self(x, present)
        weights = routings[0].weights if routings else torch.ones_like(fused.vector[:, :1])
        of_experts = []
        for e in range(weights.shape[1]):
            alone = torch.zeros_like(weights)
            alone[:, e] = weights[:, e]
            of_experts.append(self.pool(fused.vector, alone) @ self.head.T)
        linear = [one @ self.head.T for one in fused.by_stream]
        return torch.stack(of_experts, 1), torch.stack(linear, 1)

    def _embed(self, m, z, positions):
        """Return tokens at the common width, (n, T, d)."""
        matrix = self.projections[m].to(z.dtype)
        embedded = z[:, :, None] * matrix.T if z.ndim == 2 else z @ matrix.T
        if positions is None:
            positions = torch.arange(z.shape[1], device=z.device)[None]
        where = sinusoids(positions, self.shape.width, z.dtype)
        return embedded + (self.offsets[m].to(z.dtype) + self.gains[m].to(z.dtype) * where)

    def _count(self, mask, dtype):
        """Return how much each token counts where a stream is pooled, (n, T)."""
        counted = mask.to(dtype)
        if self.shape.pooling == "cls":
            return counted * (torch.arange(mask.shape[1], device=mask.device) == 0)
        return counted / counted.sum(1, keepdim=True).clamp_min(1.0)

    def _shares(self, pooled, present):
        """Return how much each stream counts, (n, M); exactly 0 where it is absent."""
        if self.gated:
            scores = logsigmoid(torch.cat(pooled, dim=1) @ self.gates.T + self.gate_offsets)
        else:
            scores = torch.zeros_like(present, dtype=torch.float64)
        # A row of nothing has no share to give; it is answered by the class frequencies.
        there = present | ~present.any(1, keepdim=True)
        return scores.masked_fill(~there, -torch.inf).softmax(1) * present

    def _seen(self, fused, present):
        """Return what the router looks at: the fused vector, and which streams are missing."""
        if present.shape[1] == 1:
            return fused
        return torch.cat([fused, (~present).double()], 1)


def cross_tensor_shapes(shape):
    """Return name -> shape of every tensor of a network, without making any."""
    with torch.device("meta"):
        network = CrossNetwork(shape)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def drop_streams(present, probability, generator):
    """Return who is present, (n, M), where of some rows that have both streams one is gone."""
    if not probability or present.shape[1] == 1:
        return present
    chance = torch.rand(len(present), generator=generator, dtype=torch.float64).to(present.device)
    loses = present.all(1) & (chance < probability)
    first = chance < probability / 2
    return present & ~torch.stack([loses & first, loses & ~first], 1)


def _empty(*shape):
    return nn.Parameter(torch.zeros(shape, dtype=torch.float64))
