"""The network of `SparseMoEClassifier`: modalities, routers, pools of experts, a linear part."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import nn

from skmoecbm.moe._linear import solve_linear
from skmoecbm.moe._pool import ExpertPool
from skmoecbm.moe._routing import Router, add_noise, route
from skmoecbm.moe._time_attention import TimeAttention

__all__ = [
    "Routing",
    "Shape",
    "SparseNetwork",
    "clusters",
    "sharpness",
    "start_router",
    "tensor_shapes",
]

# Rows that k-means looks at, at most.
_CLUSTERED = 5000

# How much surer than its neighbour an expert is at the start, in logits, of a row half-way typical.
_HEAD_START = 2.0


@dataclass(frozen=True)
class Shape:
    """What fixes the tensors of a `SparseNetwork`.

    Attributes
    ----------
    widths : tuple of int
        Columns of each modality.
    n_outputs : int
    n_experts, top_k, hidden : int
    router : {"joint", "per_modality", "disjoint"}
    gating : {"softmax", "laplace", "gaussian"}
    noisy : bool
    learned_missing : bool
        Whether an absent modality is stood for by a learned vector.
    series : tuple of None or (int, int, int, tuple of float)
        Variables, points, frequencies and sharpness of a modality that is a time series.
    """

    widths: tuple
    n_outputs: int
    n_experts: int
    top_k: int
    hidden: int
    router: str
    gating: str
    noisy: bool
    learned_missing: bool
    series: tuple = ()

    @property
    def n_routers(self):
        """One for all modalities together, or one for each."""
        return 1 if self.router == "joint" else len(self.widths)

    @property
    def n_pools(self):
        """Disjoint modalities have experts of their own."""
        return len(self.widths) if self.router == "disjoint" else 1


@dataclass
class Routing:
    """Where one router sent the rows.

    Attributes
    ----------
    logits, probabilities, weights : tensor of shape (n, E)
        As they decided: with noise in training. Weights are zero for experts not chosen.
    present : tensor of shape (n,), bool
        Rows that have what the router looks at.
    """

    logits: torch.Tensor
    probabilities: torch.Tensor
    weights: torch.Tensor
    present: torch.Tensor


class SparseNetwork(nn.Module):
    """Each modality to a common width, routers, the few experts that they choose, a linear head.

    Beside it a linear part sees everything. It begins as a logistic regression, the experts as
    silent: where there is nothing for experts to find, that is what the network stays.

    A modality that is absent from a row has the weight zero there: what the others say is averaged
    over those that are present, as loud as is learned for that number of them, and routers are told
    which those are.
    """

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.attentions = nn.ModuleDict(
            {str(m): TimeAttention(*one[1:]) for m, one in enumerate(shape.series) if one}
        )
        several = len(shape.widths) > 1
        width = shape.hidden if several else shape.widths[0]
        projections = shape.widths if several else ()
        self.projections = nn.ParameterList(_empty(width, one) for one in projections)
        self.offsets = nn.ParameterList(_empty(width) for _ in projections)
        self.missing = nn.ParameterList(
            _empty(width) for _ in (projections if shape.learned_missing else ())
        )
        seen = len(shape.widths) * (width + several) if shape.router == "joint" else width
        self.routers = nn.ModuleList(
            Router(seen, shape.n_experts, shape.gating, shape.noisy) for _ in range(shape.n_routers)
        )
        self.pools = nn.ModuleList(
            ExpertPool(shape.n_experts, width, shape.hidden, shape.hidden)
            for _ in range(shape.n_pools)
        )
        # How loud the average of the modalities that are there is, by how many they are. Alone a
        # modality has a full voice, as if it had seen as much as all of them together.
        self.log_voice = None
        if several and not shape.learned_missing:
            self.log_voice = _empty(len(shape.widths) - 1)
        self.head = _empty(shape.n_outputs, shape.hidden)
        self.linear = _empty(shape.n_outputs, sum(shape.widths) + len(shape.widths) * several)
        self.intercept = _empty(shape.n_outputs)

    @torch.no_grad()
    def start(self, rows, log_odds, rng, generator):
        """Draw the weights, solve the linear part, let routers begin at clusters of what they see.

        Parameters
        ----------
        rows : Rows
            That the network is trained on.
        log_odds : tensor of shape (K',)
            Logits of the class frequencies.
        rng : numpy.random.RandomState
        generator : torch.Generator
        """
        for matrix in (*self.projections, self.head):
            bound = 1.0 / math.sqrt(matrix.shape[1])
            drawn = torch.rand(matrix.shape, generator=generator, dtype=torch.float64)
            matrix.copy_(bound * (2 * drawn - 1))
        for vector in self.missing:
            vector.copy_(0.1 * torch.randn(vector.shape, generator=generator, dtype=torch.float64))
        for pool in self.pools:
            pool.start(generator, silent=True)
        x, present = self._on_grids(rows.x), rows.present
        slopes, intercept = solve_linear(self._all(x, present), rows, log_odds)
        self.linear.copy_(slopes)
        self.intercept.copy_(intercept)
        if self.log_voice is not None:  # a sum of those that are there: evidence adds up
            n = len(self.log_voice) + 1
            self.log_voice.copy_(torch.log(torch.arange(1, n, dtype=torch.float64) / n))
        parts, _ = self._parts(x, present)
        for router, (seen, there) in zip(self.routers, self._seen(parts, present), strict=True):
            start_router(router, seen[there], self.shape, rng, _CLUSTERED)

    def forward(self, x, present, generator=None, without=None):
        """Return logits (n, K') and the `Routing` of each router.

        Parameters
        ----------
        x : list of tensors (n, p_m), or (n, L, 1 + 2 V) of a time series
            Standardised; anything finite where absent.
        present : tensor of shape (n, M), bool
        generator : torch.Generator or None
            Of the noise of training; None is without.
        without : (int, int) or None
            Pool and number of an expert that nobody is sent to.
        """
        x = self._on_grids(x)
        parts, share = self._parts(x, present)
        routings = []
        for r, (router, (seen, there)) in enumerate(
            zip(self.routers, self._seen(parts, present), strict=True)
        ):
            logits = router(seen)
            if generator is not None and self.shape.noisy:
                logits = add_noise(logits, router.deviation(seen), generator)
            if without is not None and without[0] == r % len(self.pools):
                gone = torch.arange(logits.shape[1], device=logits.device) == without[1]
                if len(gone) == 1:
                    there = torch.zeros_like(there)
                logits = logits.masked_fill(gone & (len(gone) > 1), -torch.inf)
            weights, probabilities = route(logits, self.shape.top_k)
            routings.append(Routing(logits, probabilities, weights * there[:, None], there))
        answer = 0.0
        for p, given, weights in self._sent(parts, share, routings):
            answer = answer + self.pools[p](given, weights)
        logits = answer @ self.head.T + self._all(x, present) @ self.linear.T + self.intercept
        return logits, routings

    def addends(self, x, present):
        """Return what each expert and each modality's columns add to the logits.

        With the intercept they sum to what `forward` returns.

        Parameters
        ----------
        x, present
            As of `forward`.

        Returns
        -------
        of_experts : tensor of shape (n, pools * E, K')
        of_modalities : tensor of shape (n, M, K')
            Of the linear part; of an absent modality the mark that it is.
        """
        _, routings = self(x, present)
        x = self._on_grids(x)
        parts, share = self._parts(x, present)
        n_experts = self.shape.n_experts
        found = [0.0] * (len(self.pools) * n_experts)
        for p, given, weights in self._sent(parts, share, routings):
            for e in range(n_experts):
                alone = torch.zeros_like(weights)
                alone[:, e] = weights[:, e]
                at = p * n_experts + e
                found[at] = found[at] + self.pools[p](given, alone) @ self.head.T
        columns, marks = self._all(x, present), sum(self.shape.widths)
        linear = []
        for m, own in enumerate(torch.arange(marks).split(list(self.shape.widths))):
            if self.projections:
                own = torch.cat([own, torch.tensor([marks + m])])
            linear.append(columns[:, own] @ self.linear[:, own].T)
        return torch.stack(found, 1), torch.stack(linear, 1)

    def _sent(self, parts, share, routings):
        """Yield which rows (n, d) go to which pool, and with which weights (n, E)."""
        if self.shape.router == "joint":
            mixed = sum(part * share[:, m, None] for m, part in enumerate(parts))
            yield 0, mixed, routings[0].weights
            return
        for m, (part, routing) in enumerate(zip(parts, routings, strict=True)):
            yield m % len(self.pools), part, routing.weights * share[:, m, None]

    def _all(self, x, present):
        """Return all columns, 0 where absent, and of several modalities which are absent."""
        if not self.projections:
            return x[0]
        parts = [torch.where(present[:, m, None], part, 0.0) for m, part in enumerate(x)]
        return torch.cat([*parts, (~present).double()], dim=1)

    def _parts(self, x, present):
        """Return each modality at the common width, and its share in each row, (n, M)."""
        there = present
        if not self.projections:
            return x, there.double()
        parts = []
        for m, (matrix, offset) in enumerate(zip(self.projections, self.offsets, strict=True)):
            part = torch.where(present[:, m, None], x[m] @ matrix.T + offset, 0.0)
            if self.missing:
                part = torch.where(present[:, m, None], part, self.missing[m])
            parts.append(part)
        if self.missing:
            there = torch.ones_like(present)
        count = there.sum(1).clamp_min(1)
        share = there.double() / count[:, None]
        if self.log_voice is not None:
            voices = torch.cat([self.log_voice.exp(), self.log_voice.new_ones(1)])
            share = share * voices[count - 1, None]
        return parts, share

    def _on_grids(self, x):
        """Return all modalities as rows of numbers: of a time series what is around its points."""
        x = list(x)
        for name, attention in self.attentions.items():
            m = int(name)
            times, values, mask = x[m].tensor_split([1, 1 + self.shape.series[m][0]], dim=2)
            x[m] = attention(times[:, :, 0], values, mask > 0).flatten(1)
        return x

    def _seen(self, parts, present):
        """Return what each router looks at, and in which rows it has something to look at."""
        several = len(parts) > 1
        everywhere = torch.ones_like(present[:, 0])
        if self.shape.router != "joint":
            there = [everywhere if self.missing else present[:, m] for m in range(len(parts))]
            return list(zip(parts, there, strict=True))
        marks = [(~present).double()] if several else []
        return [(torch.cat([*parts, *marks], 1), everywhere if several else present[:, 0])]


def tensor_shapes(shape):
    """Return name -> shape of every tensor of a network, without making any."""
    with torch.device("meta"):
        network = SparseNetwork(shape)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def start_router(router, seen, shape, rng, most):
    """Let a router begin at clusters of at most so many of the rows (n, d) that it sees."""
    points = seen.cpu().numpy()
    if len(points) == 0:  # all that have the modality are held out
        points = rng.standard_normal((shape.n_experts + 1, points.shape[1]))
    if len(points) > most:
        points = points[rng.permutation(len(points))[:most]]
    centres = clusters(points, shape.n_experts, rng)
    sharp = sharpness(points, centres, shape.gating)
    router.start(torch.as_tensor(centres, device=seen.device), sharp)


def clusters(rows, n, rng):
    """Return n centres (n, d) of rows; where there are fewer distinct rows, others near them."""
    distinct = np.unique(rows, axis=0)
    if len(distinct) > n:
        seed = rng.randint(np.iinfo(np.int32).max)
        return KMeans(n, n_init=3, random_state=seed).fit(rows).cluster_centers_
    extra = distinct[rng.randint(len(distinct), size=n - len(distinct))]
    spread = rows.std(axis=0) + 1e-3
    return np.concatenate([distinct, extra + 0.1 * spread * rng.standard_normal(extra.shape)])


def sharpness(rows, centres, gating):
    """Return s at which the median row gives its own expert the head start."""
    if len(centres) == 1:
        return 1.0
    far = np.linalg.norm(rows[:, None] - centres[None], axis=2)
    first, second = np.sort(far, axis=1)[:, :2].T
    gap = second - first if gating == "laplace" else second**2 - first**2
    gap = np.median(gap) * (0.5 if gating == "softmax" else 1.0)
    return float(np.clip(_HEAD_START / max(gap, 1e-12), 1e-3, 1e3))


def _empty(*shape):
    return nn.Parameter(torch.zeros(shape, dtype=torch.float64))
