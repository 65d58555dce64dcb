"""How the networks of this folder are trained: mini-batches, warm-up, early stopping."""

from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.base import BaseEstimator

from skmoecbm._validation import check_number, parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["Balancing", "MiniBatches", "Run", "train"]


class Balancing(BaseEstimator):
    """What is added to the loss so that experts share the work.

    Parameters
    ----------
    loss : {"switch", "importance"} or None, default="switch"
        The balance loss of sparse routing, or the squared variation of the experts' importance,
        which also works where every row goes to every expert (``top_k=n_experts``).
    weight : float, default=0.01
        How much of it.
    z_loss : float, default=0.0
        How much of the mean squared log-sum-exp of the routers' logits.
    modality_entropy : float, default=0.0
        Bonus on the Jensen-Shannon divergence between modalities, for ``router="per_modality"``:
        they are drawn to different experts.

    References
    ----------
    Fedus et al. (2022), "Switch transformers", equation 4; Shazeer et al. (2017), equation 7; Zoph
    et al. (2022), equation 5; Han et al. (2024), "FuseMoE", equation 5.

    Examples
    --------
    >>> from skmoecbm.moe import Balancing, SparseMoEClassifier
    >>> clf = SparseMoEClassifier(balancing=Balancing(z_loss=1e-3))
    >>> clf.set_params(balancing__weight=0.1).balancing
    Balancing(weight=0.1, z_loss=0.001)
    """

    def __init__(self, *, loss="switch", weight=0.01, z_loss=0.0, modality_entropy=0.0):
        self.loss = loss
        self.weight = weight
        self.z_loss = z_loss
        self.modality_entropy = modality_entropy

    def check(self, owner):
        """Raise `InputError` for a parameter out of range, or that does not suit its owner."""
        if self.loss not in ("switch", "importance", None):
            raise parameter_error(self, "loss", "'switch', 'importance' or None", self.loss)
        for name in ("weight", "z_loss", "modality_entropy"):
            check_number(self, name, getattr(self, name), low=0)
        router = getattr(owner, "router", None)
        if self.modality_entropy and router != "per_modality":
            way_on = f"so it needs router='per_modality'. Got router={router!r}"
            if router is None:
                way_on = f"and {type(owner).__name__} has one router for all of them"
            raise InputError(
                "The 'modality_entropy' of Balancing compares how modalities use the same experts, "
                f"{way_on}; set it to 0."
            )
        if self.loss == "switch" and self.weight and owner.top_k == owner.n_experts > 1:
            raise InputError(
                "Balancing(loss='switch') is a constant where every row goes to every expert "
                f"(top_k={owner.top_k} of {owner.n_experts}). Use Balancing(loss='importance')."
            )


class MiniBatches(BaseEstimator):
    """How a sparse network is trained.

    Parameters
    ----------
    learning_rate : float, default=2e-3
    weight_decay : float, default=1e-4
        Of AdamW.
    batch_size : int, default=128
    max_epochs : int, default=200
    warmup_epochs : int, default=5
        The learning rate rises linearly over these.
    early_stopping : bool, default=True
        Whether the epoch is kept that does best on rows held out.
    patience : int, default=20
        Epochs without a better one after which training stops.
    validation_fraction : float in (0, 0.5] or splitter, default=0.15
        Share of rows held out: stratified, groups kept whole. Of a splitter of scikit-learn's the
        first split is taken, with its training rows alone.
    scoring : str, callable or None, default=None
        What the held-out rows are scored by; greater is better. A name of scikit-learn's, such as
        "roc_auc_ovr", or a scorer counts each row once: it is not told sample or class weights.
        None is minus the log-loss with the weights of the fit.

    Examples
    --------
    >>> from sklearn.model_selection import GroupShuffleSplit
    >>> from skmoecbm.moe import MiniBatches
    >>> MiniBatches(validation_fraction=GroupShuffleSplit(1), scoring="roc_auc_ovr").max_epochs
    200
    """

    def __init__(
        self,
        *,
        learning_rate=2e-3,
        weight_decay=1e-4,
        batch_size=128,
        max_epochs=200,
        warmup_epochs=5,
        early_stopping=True,
        patience=20,
        validation_fraction=0.15,
        scoring=None,
    ):
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.warmup_epochs = warmup_epochs
        self.early_stopping = early_stopping
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.scoring = scoring

    def check(self):
        """Raise `InputError` for a parameter out of range."""
        check_number(self, "learning_rate", self.learning_rate, low=0, low_open=True)
        check_number(self, "weight_decay", self.weight_decay, low=0)
        for name in ("batch_size", "max_epochs", "patience"):
            check_number(self, name, getattr(self, name), low=1, integer=True)
        check_number(self, "warmup_epochs", self.warmup_epochs, low=0, integer=True)
        if not isinstance(self.early_stopping, bool | np.bool_):
            raise parameter_error(self, "early_stopping", "True or False", self.early_stopping)
        if not hasattr(self.validation_fraction, "split"):
            fraction = self.validation_fraction
            check_number(self, "validation_fraction", fraction, low=0, low_open=True, high=0.5)

    def rate(self, epoch):
        """Return the learning rate of an epoch, counted from 1."""
        return self.learning_rate * min(1.0, epoch / max(self.warmup_epochs, 1))


@dataclass
class Run:
    """What a training run tells.

    Attributes
    ----------
    train_loss, validation_score : list of float
        By epoch; scores are empty where no rows were held out. Greater is better.
    best_epoch : int
        Whose weights were kept; 0 is the start.
    early_stopping : True or str
        Or why there was none.
    """

    train_loss: list = field(default_factory=list)
    validation_score: list = field(default_factory=list)
    best_epoch: int = 0
    early_stopping: bool | str = True


def train(network, groups, n, batch_loss, score, settings, generator, epoch_task=nullcontext):
    """Train a network, and leave it with the weights of its best epoch, or of its start.

    Parameters
    ----------
    network : torch.nn.Module
    groups : list of (list of tensors, float)
        Parameters, each with how its learning rate compares with the first's.
    n : int
        Training rows.
    batch_loss : callable
        From row numbers (b,) to the loss of these rows.
    score : callable or None
        Returns the score of the rows held out; greater is better.
    settings : MiniBatches
    generator : torch.Generator
        Of the order of rows.
    epoch_task : callable
        Context manager around each epoch, called with its name.

    Returns
    -------
    Run
    """
    rates = [relative for _, relative in groups]
    optimizer = torch.optim.AdamW(
        [{"params": tensors} for tensors, _ in groups], weight_decay=settings.weight_decay
    )
    run, best, best_score = Run(), None, -np.inf
    if score is not None:
        best, best_score = _copied(network), _checked(score())
    for epoch in range(1, settings.max_epochs + 1):
        for group, relative in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = relative * settings.rate(epoch)
        with epoch_task(f"epoch {epoch}"):
            total = 0.0
            order = torch.randperm(n, generator=generator)
            for rows in order.split(settings.batch_size):
                optimizer.zero_grad()
                loss = batch_loss(rows)
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(rows) / n
            found = None if score is None or not np.isfinite(total) else score()
        if not np.isfinite(total):
            raise InputError(
                f"Training diverged in epoch {epoch}: the loss is {total:g}. Lower learning_rate "
                f"(now {settings.learning_rate:g})."
            )
        run.train_loss.append(total)
        if score is None:
            run.best_epoch = epoch
            continue
        run.validation_score.append(_checked(found))
        if found > best_score:
            run.best_epoch, best_score, best = epoch, found, _copied(network)
        elif epoch - max(run.best_epoch, settings.warmup_epochs) >= settings.patience:
            break
    if best is not None:
        network.load_state_dict(best)
    return run


def _copied(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _checked(found):
    """Return a score of the rows held out, which must be a number."""
    if np.isnan(found):
        raise InputError(
            "The 'scoring' of MiniBatches gives no number on the rows that are held out, for they "
            "lack a class or are too few. Hold out more (validation_fraction), or score by None."
        )
    return found
