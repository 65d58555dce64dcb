"""The original recipe: experts and gate trained together, by mini-batches, on the pooled loss."""

from sklearn.base import BaseEstimator

from skmoecbm._validation import check_number, parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["JointTraining"]

_GATES = ("uniform", "constant", "linear", "mlp")


class JointTraining(BaseEstimator):
    """Associations and gate trained together by mini-batches: the original recipe, signs put right.

    Minimises the pooled cross-entropy minus ``diversity * mean_i Var_k(S_ik)``, minus
    ``gate_entropy * mean_i H(G_i)``, minus ``balance * H(mean_i G_i)``, plus ``l1 / n * ||A||_1``,
    by Adam. There is no calibration and no guard: what was trained is what predicts. The default
    ``training="staged"`` is the better choice unless this recipe itself is the subject.

    The gate is that of the classifier: ``gate="mlp"`` is the original. Of the gate object its shape
    counts, and `penalty` or `weight_decay`. ``head__alpha`` is a pull towards the prior as in the
    staged fit; left open it is 0, and early stopping alone keeps the associations near the prior.

    Adam moves linear associations along the whitened directions of the training similarities
    (without `l1`, which is about single concepts): concepts are so correlated that along them
    hundreds of epochs are too few. What is minimised, and A, are the same.

    Parameters
    ----------
    diversity : float, default=0.0
        Bonus on the variance over classes of a row's pooled logits. It grows with the square of the
        logits, the cross-entropy only linearly: on unbounded (linear) associations keep it small.
    l1 : float, default=0.0
        As of the head, on all experts; of linear associations only. On the rows of a softmax it
        would be a constant.
    gate_entropy : float, default=0.02
        Bonus on the mean entropy of the rows' gate weights. Published code adds the term to the
        loss and thereby drives every gate to 0 or 1; that sign is not offered.
    balance : float, default=0.0
        Bonus on the entropy of the mean gate weights.
    gate_warmup : int, default=5
        Epochs at the start in which the gate keeps equal weights and only the experts learn.
    dropout : float, default=0.0
        Probability, in [0, 1), with which a hidden unit of the "mlp" gate, or an input of the
        "linear" one, is left out of a training step.
    association_lr : float, default=0.02
        Learning rate of the associations: of a linear one about how far, in logits, a step moves
        each of up to a hundred directions.
    gate_lr : float, default=0.002
        Learning rate of the gate, at most 0.005.
    batch_size : int, default=64
    max_epochs : int, default=100
    validation_fraction : float, default=0.2
        Share of the rows, in [0, 0.5], held out to choose the epoch: stratified by class and by
        which experts are present, groups kept whole. Where that would be fewer than 16 rows, or at
        0, all rows train for `max_epochs`.
    patience : int, default=10
        Epochs without a lower validation loss after which training stops. The weights of the
        best epoch are restored.

    References
    ----------
    Yang et al., Language in a Bottle, CVPR 2023 (softmax association, diversity, L1); Jacobs et
    al., Adaptive Mixtures of Local Experts (1991).

    Examples
    --------
    >>> from skmoecbm import GatedConceptBottleneckClassifier, JointTraining
    >>> clf = GatedConceptBottleneckClassifier(gate="mlp", training=JointTraining(diversity=0.01))
    >>> clf.get_params()["training__diversity"]
    0.01
    """

    def __init__(
        self,
        *,
        diversity=0.0,
        l1=0.0,
        gate_entropy=0.02,
        balance=0.0,
        gate_warmup=5,
        dropout=0.0,
        association_lr=0.02,
        gate_lr=2e-3,
        batch_size=64,
        max_epochs=100,
        validation_fraction=0.2,
        patience=10,
    ):
        self.diversity = diversity
        self.l1 = l1
        self.gate_entropy = gate_entropy
        self.balance = balance
        self.gate_warmup = gate_warmup
        self.dropout = dropout
        self.association_lr = association_lr
        self.gate_lr = gate_lr
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.patience = patience

    def check(self, head, gate):
        """Raise `InputError` for a parameter out of range, or a head or gate that cannot join.

        Parameters
        ----------
        head : ConceptBottleneckClassifier
        gate : gate object
        """
        for name in ("diversity", "l1", "gate_entropy", "balance"):
            check_number(self, name, getattr(self, name), low=0)
        check_number(self, "gate_warmup", self.gate_warmup, low=0, integer=True)
        check_number(self, "dropout", self.dropout, low=0)
        if self.dropout >= 1:
            raise parameter_error(self, "dropout", "a number of at least 0 below 1", self.dropout)
        check_number(self, "association_lr", self.association_lr, low=0, low_open=True)
        check_number(self, "gate_lr", self.gate_lr, low=0, low_open=True)
        self._check_gate_lr()
        for name in ("batch_size", "max_epochs", "patience"):
            check_number(self, name, getattr(self, name), low=1, integer=True)
        check_number(self, "validation_fraction", self.validation_fraction, low=0, high=0.5)
        if head.activation not in ("linear", "softmax"):
            raise InputError(
                f"training=JointTraining(...) trains heads of activation='linear' or 'softmax'. "
                f"Got head__activation={head.activation!r}; use training='staged' for it."
            )
        if head.l1:
            raise InputError(
                f"With training=JointTraining(...) the L1 penalty is that of all experts together. "
                f"Got head__l1={head.l1!r}; set training__l1 instead."
            )
        if gate.kind not in _GATES or getattr(gate, "top_k", None) is not None:
            raise InputError(
                f"training=JointTraining(...) trains the dense gates {', '.join(map(repr, _GATES))}"
                f". Got gate={gate!r}; use training='staged' for it."
            )
        for ours, name in (("gate_entropy", "entropy"), ("balance", "balance")):
            if getattr(gate, name, 0):
                raise InputError(
                    f"With training=JointTraining(...) the bonuses are parts of the joint loss. "
                    f"Got gate__{name}={getattr(gate, name)!r}; set training__{ours} instead."
                )

    def _check_gate_lr(self):
        if self.gate_lr > 5e-3:
            raise parameter_error(
                self,
                "gate_lr",
                "at most 0.005: gates that learn faster than their experts were seen to give "
                "everything to the expert that is ahead in the first steps",
                self.gate_lr,
            )

    def _objective(self, terms):
        """Return what is minimised, from the `JointTerms` of a batch. Bonuses are subtracted."""
        return (
            terms.log_loss
            + terms.penalty
            + self.l1 * terms.l1
            - self.diversity * terms.diversity
            - self.gate_entropy * terms.gate_entropy
            - self.balance * terms.balance
        )
