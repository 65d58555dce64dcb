"""The gates a user can choose, as small objects with their own parameters."""

import numpy as np
import torch
from sklearn.base import BaseEstimator

from skmoecbm._gating import GateState, fit_linear_gate
from skmoecbm._pooling import PooledLoss
from skmoecbm._validation import check_number, parameter_error

__all__ = ["ConstantGate", "LinearGate", "MLPGate", "UniformGate", "resolve_gate"]


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


class LinearGate(BaseEstimator):
    """Softmax of a linear function of the gate inputs (MATHS section 2; the default).

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

    Examples
    --------
    >>> from skmoecbm import GatedConceptBottleneckClassifier, LinearGate
    >>> clf = GatedConceptBottleneckClassifier(gate=LinearGate(penalty=5.0))
    >>> clf.get_params()["gate__penalty"]
    5.0
    """

    kind = "linear"

    def __init__(self, *, penalty=20.0, entropy=0.0, balance=0.0, max_iter=500, tol=1e-7):
        self.penalty = penalty
        self.entropy = entropy
        self.balance = balance
        self.max_iter = max_iter
        self.tol = tol

    def check(self):
        """Raise `InputError` for a parameter out of range."""
        for name in ("penalty", "entropy", "balance"):
            check_number(self, name, getattr(self, name), low=0)
        check_number(self, "max_iter", self.max_iter, low=1, integer=True)
        check_number(self, "tol", self.tol, low=0, low_open=True)

    def fit_states(self, inputs, logits, codes, shares, present, pool, *, device, seed):
        """Fit on each row of `shares`; see `fit_linear_gate`. Deterministic: `seed` is not used."""
        return fit_linear_gate(
            inputs,
            logits,
            codes,
            shares,
            present,
            pool,
            self.penalty,
            entropy=self.entropy,
            balance=self.balance,
            max_iter=self.max_iter,
            tol=self.tol,
            device=device,
        )


class MLPGate(BaseEstimator):
    """A small network: LayerNorm, Linear, LeakyReLU(0.01), Linear (MATHS, seed form).

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
    ):
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.entropy = entropy
        self.balance = balance
        self.max_iter = max_iter

    def check(self):
        """Raise `InputError` for a parameter out of range."""
        check_number(self, "hidden", self.hidden, low=1, integer=True)
        check_number(self, "learning_rate", self.learning_rate, low=0, high=5e-3, low_open=True)
        check_number(self, "max_iter", self.max_iter, low=1, integer=True)
        for name in ("weight_decay", "entropy", "balance"):
            check_number(self, name, getattr(self, name), low=0)

    def fit_states(self, inputs, logits, codes, shares, present, pool, *, device, seed):
        """Fit one network per row of `shares`, all from the same start."""

        def tensor(array, dtype=torch.float64):
            return torch.as_tensor(np.asarray(array), dtype=dtype, device=device)

        inputs = tensor(inputs)
        centred = inputs - inputs.mean(1, keepdim=True)
        normed = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-5)
        absent, codes = ~tensor(present, torch.bool), tensor(codes, torch.int64)
        n_experts, width = logits.shape[2], inputs.shape[1]
        states = []
        for fold_logits, share in zip(logits, shares, strict=True):
            generator = torch.Generator().manual_seed(0 if seed is None else seed)
            first = torch.randn(self.hidden, width, generator=generator, dtype=torch.float64)
            first = tensor(first / max(width, 1) ** 0.5)
            shapes = {
                "hidden_bias": (self.hidden,),
                "out_weight": (n_experts, self.hidden),
                "out_bias": (n_experts,),
            }
            layers = {"hidden_weight": first.requires_grad_(True)}
            for name, shape in shapes.items():
                layers[name] = tensor(np.zeros(shape)).requires_grad_(True)
            share = tensor(share)[None]
            objective = PooledLoss(
                tensor(fold_logits)[None],
                codes,
                share / share.sum(),
                absent,
                pool,
                self.entropy,
                self.balance,
            )
            optimizer = torch.optim.AdamW(
                layers.values(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            for _ in range(self.max_iter):
                optimizer.zero_grad()
                hidden = normed @ layers["hidden_weight"].T + layers["hidden_bias"]
                hidden = torch.nn.functional.leaky_relu(hidden, 0.01)
                output = hidden @ layers["out_weight"].T + layers["out_bias"]
                _, slope = objective(output.detach()[None])
                output.backward(slope[0])
                optimizer.step()
            arrays = {name: layer.detach().cpu().numpy() for name, layer in layers.items()}
            states.append(GateState("mlp", arrays))
        return states, self.max_iter


_SHORT = {"uniform": UniformGate, "constant": ConstantGate, "linear": LinearGate, "mlp": MLPGate}


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
