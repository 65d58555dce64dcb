"""`SparseMoEClassifier`: each row goes to a few of many small networks."""

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state

from skmoecbm._block_words import MODALITY
from skmoecbm._heads import two_columns
from skmoecbm._target import Target
from skmoecbm._validation import check_choice, parameter_error, resolve_device
from skmoecbm.moe._base import NetworkClassifier
from skmoecbm.moe._multi_time import MultiTimeAttention
from skmoecbm.moe._network import Shape, SparseNetwork
from skmoecbm.moe._penalties import balance
from skmoecbm.moe._rows import Rows
from skmoecbm.moe._time_series import check_width

__all__ = ["SparseMoEClassifier"]

_ROWS_AT_ONCE = 8192


class SparseMoEClassifier(NetworkClassifier):
    """Classifier that sends each row to a few of many small networks.

    Parameters
    ----------
    n_experts : int, default=8
        Networks of one hidden layer; with ``router="disjoint"`` so many for each modality.
    top_k : int, default=2
        How many of them a row goes to.
    expert_hidden : int, default=128
        Width of their hidden layer, of their answer, and where there are several modalities of the
        vector that each is brought to.
    router : {"joint", "per_modality", "disjoint"}, default="joint"
        One router that sees all modalities; a router for each, over the same experts; or a router
        and experts for each.
    gating : {"softmax", "laplace", "gaussian"}, default="softmax"
        A router's score: linear in what it sees; minus the distance to a centre per expert; or
        minus the squared distance.
    noise : bool, default=False
        Whether routers learn how much noise a row's scores get in training.
    modalities : "auto", dict of name to columns, or list of (name, columns), default="auto"
        Blocks of columns. "auto" takes those of an `ExpertFeatures`, the prefixes of columns named
        "modality__column", or all columns as one. Columns that are named by none are not used.
    missing : {"mask", "learned"}, default="mask"
        A modality is absent from a row whose block is all NaN. "mask": it counts nothing there, the
        others renormalise, and the router is told. "learned": a vector that is learned stands for
        it.
    time_series : dict of str to MultiTimeAttention, default=None
        Modalities that are irregular time series, packed by `pack_series`, with how they are read;
        say ``n_variables``. Their attention is trained with all else.
    balancing : Balancing or None, default=None
        None is ``Balancing()``, or where every row goes to every expert
        ``Balancing(loss="importance")``.
    training : MiniBatches or None, default=None
        None is ``MiniBatches()``.
    class_weight : "balanced", dict or None, default=None
    target_prevalence : "train", dict or None, default=None
        As of `GatedConceptBottleneckClassifier`.
    device : {"auto", "cpu", "cuda", ...}, default="auto"
    random_state : int, RandomState instance or None, default=None
    verbose : int, default=0

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    modality_names_ : list of str, length M
    time_series_ : dict of str to MultiTimeAttention
        Fitted: span of time and scales. What the attention has learned is in `weights_`.
    weights_ : dict of str to ndarray
        Every trained tensor, float64.
    network_shape_ : object
        What fixes the shapes of `weights_`.
    training_summary_ : dict
        What it learned from, as counts and digests.
    history_ : dict
        train_loss and validation_score by epoch, best_epoch, early_stopping.
    n_iter_ : int
        Epochs that were run.
    n_features_in_ : int

    Notes
    -----
    The decision is what the experts say, brought to the classes by a linear head, and a linear part
    that sees every column. Training begins where that part is a logistic regression and the experts
    are silent: where they find nothing, the logistic regression is what stays. Modalities that are
    there are summed at first, as evidence is, and how loud their average is for each number of them
    is learned. Routers begin at clusters of what they see.

    Predictions are without noise and without a limit of how many rows an expert takes, so that they
    depend on no other row. Arithmetic is float64.

    References
    ----------
    Shazeer et al. (2017), "Outrageously large neural networks"; Fedus et al. (2022), "Switch
    transformers"; Han et al. (2024), "FuseMoE".

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.moe import SparseMoEClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((500, 4))
    >>> y = (X[:, 0] * X[:, 1] > 0).astype(int)  # a different rule on each side
    >>> clf = SparseMoEClassifier(n_experts=4, top_k=1, expert_hidden=16, random_state=0)
    >>> bool(clf.fit(X, y).score(X, y) > 0.9)
    True
    >>> clf.explain(X).expert_weights.shape
    (500, 4)
    """

    _block_words = MODALITY

    def __init__(
        self,
        *,
        n_experts=8,
        top_k=2,
        expert_hidden=128,
        router="joint",
        gating="softmax",
        noise=False,
        modalities="auto",
        missing="mask",
        time_series=None,
        balancing=None,
        training=None,
        class_weight=None,
        target_prevalence=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_experts = n_experts
        self.top_k = top_k
        self.expert_hidden = expert_hidden
        self.router = router
        self.gating = gating
        self.noise = noise
        self.modalities = modalities
        self.missing = missing
        self.time_series = time_series
        self.balancing = balancing
        self.training = training
        self.class_weight = class_weight
        self.target_prevalence = target_prevalence
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_settings(self):
        """Validate what was stored, and return balancing and training."""
        check_choice(self, "router", self.router, ("joint", "per_modality", "disjoint"))
        check_choice(self, "missing", self.missing, ("mask", "learned"))
        if not isinstance(self.noise, bool | np.bool_):
            raise parameter_error(self, "noise", "True or False", self.noise)
        return self._check_mixture()

    def _fit(self, X, y, sample_weight, groups):
        balancing, training = self._check_settings()
        device = resolve_device(self.device, self)
        blocks = self.modalities
        blocks = list(blocks.items()) if isinstance(blocks, dict) else blocks
        data, _, codes, weights, groups, present = self._start_fit(
            X, y, sample_weight, groups, self.class_weight, blocks, ()
        )
        self.modality_names_ = list(self._layout.names)
        target = Target(codes, len(self.classes_), weights, device)
        rng = check_random_state(self.random_state)
        generator = torch.Generator().manual_seed(rng.randint(np.iinfo(np.int32).max))
        is_training, held_out, reason = self._split(training, target, present, groups, rng)
        self._learn_scales(data, weights * is_training)
        series = [self.time_series_.get(name) for name in self.modality_names_]
        self.network_shape_ = Shape(
            widths=tuple(
                one.n_outputs if one else expert.shape[1]
                for one, expert in zip(series, data, strict=True)
            ),
            n_outputs=self._n_outputs,
            n_experts=int(self.n_experts),
            top_k=int(self.top_k),
            hidden=int(self.expert_hidden),
            router=self.router,
            gating=self.gating,
            noisy=bool(self.noise),
            learned_missing=self.missing == "learned" and len(data) > 1,
            series=tuple(
                one and (int(one.n_variables_), *one.attention_settings()) for one in series
            ),
        )
        network = SparseNetwork(self.network_shape_).to(device)
        rows = Rows(*self._tensors(data, device), target)
        mine = rows.take(np.flatnonzero(is_training))
        log_odds = torch.as_tensor(self._log_odds(), device=device)
        network.start(mine, log_odds, rng, generator)
        mine.share = mine.share / mine.share.mean()

        def batch_loss(batch):
            part = mine.take(batch)
            logits, routings = network(part.x, part.present, generator)
            loss = (part.share * part.losses(logits)).mean()
            return loss + balance(routings, part.share, balancing)

        others = rows.take(np.flatnonzero(held_out)) if held_out.any() else None
        score = others and (lambda: self._score(network, others, training.scoring))
        rates, n = [(list(network.parameters()), 1.0)], int(is_training.sum())
        return self._train(X, y, network, rates, n, batch_loss, score, training, generator, reason)

    def _read_series(self, data):
        """Check `time_series`, and return for each name of one how it is read, not fitted yet."""
        given = {} if self.time_series is None else self.time_series
        wanted = f"a dict from modalities ({self.modality_names_}) to MultiTimeAttention(...)"
        if not isinstance(given, dict):
            raise parameter_error(self, "time_series", wanted, given)
        widths = {expert.name: expert.shape[1] for expert in data}
        for name, one in given.items():
            if name not in widths or not isinstance(one, MultiTimeAttention):
                raise parameter_error(self, "time_series", wanted, {name: one})
            one.check()
            if one.n_variables is None:
                wanted = f"said: MultiTimeAttention(n_variables=...) of the time series {name!r}"
                raise parameter_error(one, "n_variables", wanted, None)
            check_width(widths[name], one.n_variables, name)
        return {name: clone(one) for name, one in given.items()}

    def _learn_scales(self, data, weights):
        """Keep mean and deviation of each column over the training rows that have it."""
        self.time_series_ = self._read_series(data)
        self.modality_means_, self.modality_scales_ = [], []
        for expert in data:
            w = weights * expert.present
            if not w.any():  # its only rows are held out
                w = expert.present.astype(float)
            values = np.where(expert.present[:, None], expert.values, 0.0)
            if expert.name in self.time_series_:
                one = self.time_series_[expert.name]
                one.n_variables_ = one.n_variables
                one.learn_scales(values, w, expert.name)
                values = np.empty((len(values), 0))
            mean = w @ values / w.sum()
            scale = np.sqrt(w @ np.square(values - mean) / w.sum())
            self.modality_means_.append(mean)
            self.modality_scales_.append(np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, 1.0))

    def _tensors(self, data, device):
        """Return standardised values by modality, 0 where absent, and who is present."""
        values = []
        for expert, mean, scale in zip(
            data, self.modality_means_, self.modality_scales_, strict=True
        ):
            if expert.name in self.time_series_:
                one = self.time_series_[expert.name]
                times, cells, mask = one.scaled(expert.values, expert.name)
                z = np.concatenate([times[:, :, None], cells, mask], axis=2)
            else:
                z = np.where(expert.present[:, None], (expert.values - mean) / scale, 0.0)
            values.append(torch.as_tensor(z, device=device))
        present = np.stack([expert.present for expert in data], axis=1)
        return values, torch.as_tensor(present, device=device)

    def _read(self, X):
        """Return rows as `ConceptClassifier` does; a view has no modality that it leaves out."""
        data, gate_values = super()._read(X)
        for expert in data:
            if expert.name in self._masked:
                expert.present = np.zeros_like(expert.present)
        return data, gate_values

    def _network(self, device):
        """Return the fitted network."""
        network = SparseNetwork(self.network_shape_)
        network.load_state_dict(
            {name: torch.as_tensor(value) for name, value in self.weights_.items()}
        )
        return network.to(device)

    def _outputs(self, X, method="forward", modality=None, **options):
        """Yield what the network says of some rows at a time, and who is present, (n, M).

        Of the model without a modality, given by number, if there is a `modality`.
        """
        data, _ = self._read(X)
        device = resolve_device(self.device, self)
        values, present = self._tensors(data, device)
        if modality is not None:
            present[:, modality] = False
        network = self._network(device)
        with torch.no_grad():
            for start in range(0, len(present), _ROWS_AT_ONCE):
                some = slice(start, start + _ROWS_AT_ONCE)
                given = ([part[some] for part in values], present[some])
                yield getattr(network, method)(*given, **options), (given[0], present[some])

    def _class_logits(self, X):
        """Return logits (n, K) at the class frequencies of training."""
        parts = [
            (logits.cpu().numpy(), there.cpu().numpy())
            for (logits, _), (_, there) in self._outputs(X)
        ]
        logits, present = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if self._n_outputs == 1:
            logits = two_columns(logits)
        return self._fill_absent(logits, present)

    def _logits_without(self, X, *, expert=None, modality=None):
        """Return the decision (n, K') of the model, or of what is left of it."""
        without = None if expert is None else divmod(expert, self.network_shape_.n_experts)
        parts = [
            torch.where(there.any(1)[:, None], logits, torch.nan).cpu().numpy()
            for (logits, _), (_, there) in self._outputs(X, modality=modality, without=without)
        ]
        logits = np.concatenate(parts)
        return np.where(np.isnan(logits), self._log_odds(), logits) + self._constant_logits()

    def _routing(self, X):
        """Return what a `RoutingExplanation` is made of."""
        weights, seen, present = [], [], []
        for (_, routings), (_, there) in self._outputs(X):
            weights.append(torch.stack([one.weights for one in routings], dim=1).cpu().numpy())
            seen.append(torch.stack([one.present for one in routings], dim=1).cpu().numpy())
            present.append(there.cpu().numpy())
        present = np.concatenate(present)
        shape = self.network_shape_
        names = [f"expert {e}" for e in range(shape.n_experts)]
        if shape.n_pools > 1:
            names = [
                f"{modality} {e}" for modality in self.modality_names_ for e in range(len(names))
            ]
        some = present.any(axis=1)
        return {
            "weights": np.concatenate(weights) * some[:, None, None],
            "seen": np.concatenate(seen) & some[:, None],
            "modality_present": present,
            "router_names": ["all"] if shape.router == "joint" else list(self.modality_names_),
            "expert_names": names,
        }

    def routing_weights(self, X):
        """Return how much each expert counts in each row.

        Parameters
        ----------
        X : ExpertFeatures, DataFrame or array of shape (n, m)

        Returns
        -------
        ndarray of shape (n, R, E), float64
            In [0, 1]; one router for ``router="joint"``, else one for each modality (and with
            "disjoint" experts of its own). Zero for experts that were not chosen, and for a
            modality that is absent.
        """
        return self._routing(X)["weights"]
