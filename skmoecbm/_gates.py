"""The gates a user can choose, as small objects with their own parameters."""

import numpy as np
from sklearn.base import BaseEstimator

from skmoecbm._gating import GateState, fit_linear_gate, with_top_k
from skmoecbm._laplace import fit_laplace_gate
from skmoecbm._mlp_gate import fit_mlp_gate
from skmoecbm._validation import check_number, parameter_error

__all__ = [
    "ConstantGate",
    "GaussianGate",
    "LaplaceGate",
    "LinearGate",
    "MLPGate",
    "UniformGate",
    "check_top_k",
    "resolve_gate",
]


class UniformGate(BaseEstimator):
    """The plain average of the experts.

    Examples
    --------
    >>> from skmoecbm import GatedConceptBottleneckClassifier, UniformGate
    >>> GatedConceptBottleneckClassifier(gate=UniformGate())
    GatedConceptBottleneckClassifier(gate=UniformGate())
    """

    kind = "uniform"

    def check(self):
        """Nothing can be wrong."""


class ConstantGate(BaseEstimator):
    """One weight per expert, the same for every image, fitted on out-of-fold logits.

    Examples
    --------
    >>> from skmoecbm import ConstantGate
    >>> ConstantGate()
    ConstantGate()
    """

    kind = "constant"

    def check(self):
        """Nothing can be wrong."""


class _InputGate(BaseEstimator):
    """A gate that reads the row: it has `entropy`, `balance`, `max_iter` and `top_k`."""

    def check(self):
        """Raise `InputError` for a parameter out of range."""
        for name in ("entropy", "balance"):
            check_number(self, name, getattr(self, name), low=0)
        check_number(self, "max_iter", self.max_iter, low=1, integer=True)
        if self.top_k is not None:
            check_number(self, "top_k", self.top_k, low=1, integer=True)

    def fit_states(
        self, inputs, logits, codes, shares, present, pool, *, device, seed, memory=None
    ):
        """Fit on each row of `shares`; see `fit_linear_gate`.

        A dict `memory` carries from one gate to the next on the same rows what both need.

        All present experts have a say here, whatever `top_k`: with it only the strongest would
        get a gradient, and under ``top_k=1``, whose one weight is always 1, none of them.
        """
        if pool == "sum" and self.top_k is not None:
            # As many experts add up as will have a say.
            count = np.maximum(present.sum(1), 1)
            logits = logits * (np.minimum(count, self.top_k) / count)[:, None, None]
            memory = None
        states, n_iter = self._fit(
            (inputs, logits, codes, shares, present, pool),
            device=device,
            seed=seed,
            memory=memory,
        )
        return with_top_k(states, self.top_k), n_iter


class LinearGate(_InputGate):
    """Softmax of a linear function of the gate inputs; the default.

    Symmetric in the experts and zero at the start, so that equal experts stay equally weighted
    and their order does not matter.

    Parameters
    ----------
    penalty : float, default=20.0
        ``penalty / n * sum_e ||w_e||**2`` on slopes and a tenth of it on biases, n the sum of
        the sample weights.
    entropy : float, default=0.0
        Bonus on the mean entropy of the rows' weights: shrinks every row towards equal weights.
    balance : float, default=0.0
        Bonus on the entropy of the mean weights: forbids all rows going to one expert.
    max_iter : int, default=500
        Largest number of L-BFGS steps.
    tol : float, default=1e-7
        Norm of the gradient at which to stop.
    top_k : int or None, default=None
        How many experts have a say for one image: the k largest weights of the present experts,
        made to sum to 1; of equal weights the first. None is all. The gate learns as if all had
        a say; temperatures and guard see it as it will be used.

    Examples
    --------
    >>> from skmoecbm import GatedConceptBottleneckClassifier, LinearGate
    >>> clf = GatedConceptBottleneckClassifier(gate=LinearGate(penalty=5.0))
    >>> clf.get_params()["gate__penalty"]
    5.0
    """

    kind = "linear"

    def __init__(
        self, *, penalty=20.0, entropy=0.0, balance=0.0, max_iter=500, tol=1e-7, top_k=None
    ):
        self.penalty = penalty
        self.entropy = entropy
        self.balance = balance
        self.max_iter = max_iter
        self.tol = tol
        self.top_k = top_k

    def check(self):
        """Raise `InputError` for a parameter out of range."""
        super().check()
        check_number(self, "penalty", self.penalty, low=0)
        check_number(self, "tol", self.tol, low=0, low_open=True)

    def _fit(self, problem, *, device, seed, memory):
        return fit_linear_gate(
            *problem,
            self.penalty,
            entropy=self.entropy,
            balance=self.balance,
            max_iter=self.max_iter,
            tol=self.tol,
            device=device,
            memory=memory,
        )


class GaussianGate(LinearGate):
    """Gate logits ``b_e - s * ||x - W_e||**2``, which is `LinearGate` under another name.

    ``-s ||x - W_e||**2 = -s ||x||**2 + 2 s W_e . x - s ||W_e||**2``, and the first term is the
    same for all experts: slopes ``2 s W_e`` and biases ``b_e - s ||W_e||**2`` of a linear gate say
    the same, and each linear gate is such a one for any s. So it is fitted as one, with the
    parameters of `LinearGate`. It is here because the squared form is what is often printed for
    `LaplaceGate`; to have distances that matter, use that one.

    Parameters
    ----------
    penalty, entropy, balance, max_iter, tol, top_k
        As in `LinearGate`.

    References
    ----------
    Xu, Jordan and Hinton, An Alternative Model for Mixtures of Experts (1995).

    Examples
    --------
    >>> from skmoecbm import GaussianGate
    >>> GaussianGate(penalty=5.0)
    GaussianGate(penalty=5.0)
    """

    kind = "gaussian"

    def _fit(self, problem, *, device, seed, memory):
        states, n_iter = super()._fit(problem, device=device, seed=seed, memory=memory)
        return [GateState("gaussian", state.arrays) for state in states], n_iter


class LaplaceGate(_InputGate):
    """Gate logits ``b_e - scale * ||x - W_e||``: an expert speaks near its centre.

    The distance is not squared. Two logits differ by at most ``|b_i - b_j| + scale *
    ||W_i - W_j||`` however far the image is from all that was seen in training, where those of a
    linear gate grow without end.

    Parameters
    ----------
    scale : float, default=2.0
        The largest slope of a gate logit, the gate inputs being standardised.
    penalty : float, default=20.0
        ``penalty / n * sum_e (scale / r)**2 ||W_e||**2`` and a tenth of it on ``b_e**2``, r the
        root mean square of ``||x||``. With all centres at the origin the experts are equal; near
        there the gate is as linear and as shrunk as a `LinearGate` of the same penalty.
    entropy, balance, top_k
        As in `LinearGate`.
    max_iter : int, default=500
        Largest number of L-BFGS steps.
    tol : float, default=1e-6
        Norm of the gradient at which to stop.

    Notes
    -----
    The centres start at rows that k-means++ draws, each given to the expert that does better
    around it, and so near to the origin that no two logits differ by more than 0.1. The order of
    the experts matters only where two of them do equally well there; the problem is not convex, so
    `random_state` can matter where the penalty is small.

    References
    ----------
    Han et al., FuseMoE: Mixture-of-Experts Transformers for Fleximodal Fusion (2024), for the
    gate; Arthur and Vassilvitskii, k-means++ (2007), for its start.

    Examples
    --------
    >>> from skmoecbm import LaplaceGate
    >>> LaplaceGate(scale=3.0)
    LaplaceGate(scale=3.0)
    """

    kind = "laplace"

    def __init__(
        self,
        *,
        scale=2.0,
        penalty=20.0,
        entropy=0.0,
        balance=0.0,
        max_iter=500,
        tol=1e-6,
        top_k=None,
    ):
        self.scale = scale
        self.penalty = penalty
        self.entropy = entropy
        self.balance = balance
        self.max_iter = max_iter
        self.tol = tol
        self.top_k = top_k

    def check(self):
        """Raise `InputError` for a parameter out of range."""
        super().check()
        check_number(self, "penalty", self.penalty, low=0)
        for name in ("scale", "tol"):
            check_number(self, name, getattr(self, name), low=0, low_open=True)

    def _fit(self, problem, *, device, seed, memory):
        return fit_laplace_gate(
            *problem,
            self.penalty,
            scale=self.scale,
            entropy=self.entropy,
            balance=self.balance,
            max_iter=self.max_iter,
            tol=self.tol,
            device=device,
            seed=seed,
        )


class MLPGate(_InputGate):
    """A small network, as in the original recipe: LayerNorm, Linear, LeakyReLU(0.01), Linear.

    The last layer starts at zero, so training starts from equal weights. All rows at once, AdamW.

    Parameters
    ----------
    hidden : int, default=16
        Width of the hidden layer.
    learning_rate : float, default=2e-3
        At most 5e-3: larger ones were seen to collapse on one expert.
    weight_decay : float, default=1e-2
        Of AdamW.
    entropy, balance : float, default=0.0
        As in `LinearGate`.
    max_iter : int, default=300
        Number of steps.
    top_k : int or None, default=None
        As in `LinearGate`.

    Examples
    --------
    >>> from skmoecbm import MLPGate
    >>> MLPGate(hidden=8)
    MLPGate(hidden=8)
    """

    kind = "mlp"

    def __init__(
        self,
        *,
        hidden=16,
        learning_rate=2e-3,
        weight_decay=1e-2,
        entropy=0.0,
        balance=0.0,
        max_iter=300,
        top_k=None,
    ):
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.entropy = entropy
        self.balance = balance
        self.max_iter = max_iter
        self.top_k = top_k

    def check(self):
        """Raise `InputError` for a parameter out of range."""
        super().check()
        check_number(self, "hidden", self.hidden, low=1, integer=True)
        check_number(self, "learning_rate", self.learning_rate, low=0, high=5e-3, low_open=True)
        check_number(self, "weight_decay", self.weight_decay, low=0)

    def _fit(self, problem, *, device, seed, memory):
        return fit_mlp_gate(
            *problem,
            hidden=self.hidden,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            entropy=self.entropy,
            balance=self.balance,
            max_iter=self.max_iter,
            device=device,
            seed=seed,
        )


_SHORT = {
    gate.kind: gate
    for gate in (UniformGate, ConstantGate, LinearGate, MLPGate, LaplaceGate, GaussianGate)
}


def resolve_gate(owner, gate):
    """Return the gate object that `gate` (a string or an object) names, checked.

    Raises
    ------
    InputError
        If it is neither a known string nor a gate object, or a parameter is out of range.
    """
    if isinstance(gate, str) and gate in _SHORT:
        gate = _SHORT[gate]()
    if not isinstance(gate, tuple(_SHORT.values())):
        names = ", ".join(repr(name) for name in _SHORT)
        raise parameter_error(owner, "gate", f"one of {names} or a gate object", gate)
    gate.check()
    return gate


def check_top_k(gate, n_experts):
    """Raise `InputError` if a gate lets more experts speak than there are."""
    top_k = getattr(gate, "top_k", None)
    if top_k is not None and top_k > n_experts:
        wanted = f"at most the number of experts, which is {n_experts}"
        raise parameter_error(gate, "top_k", wanted, top_k)
