"""`CrossModalMoEClassifier`: two streams of tokens attend to each other, then a sparse mixture."""

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skmoecbm._block_words import STREAM
from skmoecbm._heads import two_columns
from skmoecbm._target import Target
from skmoecbm._validation import check_choice, check_number, parameter_error, resolve_device
from skmoecbm.exceptions import InputError
from skmoecbm.moe._base import NetworkClassifier
from skmoecbm.moe._cross_network import CrossNetwork, CrossShape, drop_streams
from skmoecbm.moe._cross_rows import moments, pieces, scaled_rows
from skmoecbm.moe._cross_streams import NamedStream, read_streams, streams_as_fitted
from skmoecbm.moe._penalties import balance
from skmoecbm.moe._rows import Rows

__all__ = ["CrossModalMoEClassifier"]


class CrossModalMoEClassifier(NetworkClassifier):
    """Classifier of images and reports whose patches and words attend to each other.

    Tokens are projected to a common width, patches look at words and words at patches, the streams
    are pooled and weighed by a gate, and what they make together goes through a sparse mixture of
    small networks to a linear head. The backbones that made the tokens stay as they are.

    Parameters
    ----------
    n_experts : int, default=8
        Networks of one hidden layer.
    top_k : int, default=2
        How many of them a row goes to.
    expert_hidden : int, default=128
        Width of their hidden layer.
    width : int, default=128
        What tokens are projected to.
    fusion : {"attention", "concat"}, default="attention"
        "concat" is without attention and gate: pooled streams side by side before a linear layer.
    pooling : {"mean", "cls"}, default="mean"
        What stands for a stream: the mean of its tokens, or its first token, which by contract is
        the one that sums it up.
    moe : bool, default=True
        False puts one network of ``top_k * expert_hidden`` hidden units in the mixture's place.
    gating : {"softmax", "laplace", "gaussian"}, default="softmax"
        As of `SparseMoEClassifier`.
    streams : "auto", list of str, or dict of str to (columns, width), default="auto"
        "auto" takes the streams of a `TokenFeatures`, and of an array makes one stream ("columns")
        in which each column is a token with a projection of its own. A list names one or two
        streams of a `TokenFeatures`. A dict cuts columns of an array into tokens, such as
        ``{"image": (slice(0, 640), 64), "text": (slice(640, 960), 32)}``: ten of each.
    stream_dropout : float in [0, 1), default=0.1
        In training a row that has both streams loses one of them, either, with this probability, so
        that rows of one stream alone are known even if training had few.
    attention_rate : float, default=1.0
        How the learning rate of projections and attention compares with that of all behind them,
        which is the one of `training`.
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
    streams_ : dict of str to int
        Streams and the widths of their tokens.
    modality_names_ : list of str
        Of the streams, as explanations call them.
    weights_ : dict of str to ndarray
        Every trained tensor, float64.
    history_ : dict
        train_loss and validation_score by epoch, best_epoch, early_stopping.
    n_iter_ : int
        Epochs that were run.
    n_features_in_ : int

    Notes
    -----
    A stream that a row lacks has the weight zero exactly: nothing attends to it, the gate gives the
    other all, and the router is told. A row then says what it would with ``without(name)``.
    One stream alone attends to itself. Training starts at the best linear answer to the pooled
    streams, with experts that are silent.

    Projections and attention are computed in float64 if the tokens are float64, else in float32,
    all behind them in float64. Predictions depend on no other row and on no padding: row by row
    they equal those of all at once to 1e-10 for float64 tokens, to about 1e-5 for others.

    Tokens of one per row (CLS alone) are refused: a softmax over one key is 1 whatever the query.

    References
    ----------
    Vaswani et al. (2017), "Attention is all you need"; Fedus et al. (2022), "Switch transformers".

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.moe import CrossModalMoEClassifier, TokenFeatures
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 200)
    >>> patches, words = rng.standard_normal((200, 5, 4)), rng.standard_normal((200, 3, 4))
    >>> patches[:, 1:, 0] += 2 * y[:, None]
    >>> features = TokenFeatures({"image": patches, "text": words})
    >>> clf = CrossModalMoEClassifier(n_experts=2, width=8, expert_hidden=8, random_state=0)
    >>> bool(clf.fit(features, y).score(features, y) > 0.8)
    True
    >>> image_only = clf.without("text")
    >>> bool(image_only.score(features, y) > 0.8)
    True
    """

    _block_words = STREAM

    def __init__(
        self,
        *,
        n_experts=8,
        top_k=2,
        expert_hidden=128,
        width=128,
        fusion="attention",
        pooling="mean",
        moe=True,
        gating="softmax",
        streams="auto",
        stream_dropout=0.1,
        attention_rate=1.0,
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
        self.width = width
        self.fusion = fusion
        self.pooling = pooling
        self.moe = moe
        self.gating = gating
        self.streams = streams
        self.stream_dropout = stream_dropout
        self.attention_rate = attention_rate
        self.balancing = balancing
        self.training = training
        self.class_weight = class_weight
        self.target_prevalence = target_prevalence
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_settings(self):
        """Validate what was stored, and return balancing and training."""
        check_number(self, "width", self.width, low=1, integer=True)
        check_choice(self, "fusion", self.fusion, ("attention", "concat"))
        check_choice(self, "pooling", self.pooling, ("mean", "cls"))
        if not isinstance(self.moe, bool | np.bool_):
            raise parameter_error(self, "moe", "True or False", self.moe)
        check_number(self, "stream_dropout", self.stream_dropout, low=0, high=1)
        if self.stream_dropout == 1:
            wanted = "less than 1: with 1 no row would ever have both streams"
            raise parameter_error(self, "stream_dropout", wanted, self.stream_dropout)
        check_number(self, "attention_rate", self.attention_rate, low=0, low_open=True)
        return self._check_mixture()

    def _start_streams(self, X, y, sample_weight, groups):
        """Validate everything that comes with `fit`."""
        streams, layout = read_streams(self, X)
        named = [NamedStream(name, stream) for name, stream in streams.items()]
        nothing = np.empty((len(named[0].present), 0))
        found = self._start_rows(named, nothing, y, sample_weight, groups, self.class_weight)
        self.streams_ = {name: stream.width for name, stream in streams.items()}
        self._layout, self.modality_names_ = layout, list(streams)
        return list(streams.values()), *found

    def _fit(self, X, y, sample_weight, groups):
        balancing, training = self._check_settings()
        device = resolve_device(self.device, self)
        streams, codes, weights, _, groups, present = self._start_streams(
            X, y, sample_weight, groups
        )
        target = Target(codes, len(self.classes_), weights, device)
        rng = check_random_state(self.random_state)
        generator = torch.Generator().manual_seed(rng.randint(np.iinfo(np.int32).max))
        is_training, held_out, reason = self._split(training, target, present, groups, rng)
        learned = [moments(stream, weights * is_training) for stream in streams]
        self.token_means_, self.token_scales_ = (list(part) for part in zip(*learned, strict=True))
        self.network_shape_ = CrossShape(
            widths=tuple(self.streams_.values()),
            n_outputs=self._n_outputs,
            width=int(self.width),
            n_experts=int(self.n_experts),
            top_k=int(self.top_k),
            hidden=int(self.expert_hidden),
            fusion=self.fusion,
            pooling=self.pooling,
            moe=bool(self.moe),
            gating=self.gating,
        )
        network = CrossNetwork(self.network_shape_).to(device)
        rows = Rows(*scaled_rows(self, streams, device), target)
        mine = rows.take(np.flatnonzero(is_training))
        log_odds = torch.as_tensor(self._log_odds(), device=device)

        def batch_loss(batch):
            part = mine.take(batch)
            there = drop_streams(part.present, self.stream_dropout, generator)
            logits, routings = network(part.x, there)
            loss = (part.share * part.losses(logits)).mean()
            return loss + balance(routings, part.share, balancing)

        def in_pieces(x, present):
            found = [network(*some)[0] for some in pieces(x, present, self.width)]
            return torch.cat(found), None

        others = rows.take(np.flatnonzero(held_out)) if held_out.any() else None
        score = others and (lambda: self._score(in_pieces, others, training.scoring))
        judge = others and (lambda: self._score(in_pieces, others, None))
        some = pieces(mine.x, mine.present, self.width)
        network.start(some, mine, log_odds, rng, generator, judge)
        mine.share = mine.share / mine.share.mean()
        first, rest = network.groups()
        rates = [(rest, 1.0), (first, float(self.attention_rate))]
        n = int(is_training.sum())
        return self._train(X, y, network, rates, n, batch_loss, score, training, generator, reason)

    def _read(self, X):
        """Return the streams as they were fitted, in the place of experts."""
        return [NamedStream(*one) for one in streams_as_fitted(self, X).items()], None

    def _network(self, device):
        """Return the fitted network."""
        network = CrossNetwork(self.network_shape_)
        network.load_state_dict(
            {name: torch.as_tensor(value) for name, value in self.weights_.items()}
        )
        return network.to(device)

    def _outputs(self, X, method="forward", modality=None, **options):
        """Yield what the network says of some rows at a time, and these rows, (x, present).

        Of the model without a stream, given by number, if there is a `modality`.
        """
        check_is_fitted(self)
        streams = streams_as_fitted(self, X)
        device = resolve_device(self.device, self)
        x, present = scaled_rows(self, streams.values(), device)
        for name in self._masked:
            present[:, list(self.streams_).index(name)] = False
        if modality is not None:
            present[:, modality] = False
        network = self._network(device)
        with torch.no_grad():
            for some in pieces(x, present, self.network_shape_.width):
                yield getattr(network, method)(*some, **options), some

    def _class_logits(self, X):
        """Return logits (n, K) at the class frequencies of training."""
        parts = [
            (logits.cpu().numpy(), present.cpu().numpy())
            for (logits, _), (_, present) in self._outputs(X)
        ]
        logits, present = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if self._n_outputs == 1:
            logits = two_columns(logits)
        return self._fill_absent(logits, present)

    def _logits_without(self, X, *, expert=None, modality=None):
        """Return the decision (n, K') of the model, or of what is left of it."""
        parts = [
            torch.where(present.any(1)[:, None], logits, torch.nan).cpu().numpy()
            for (logits, _), (_, present) in self._outputs(X, modality=modality, without=expert)
        ]
        logits = np.concatenate(parts)
        return np.where(np.isnan(logits), self._log_odds(), logits) + self._constant_logits()

    def _routing(self, X):
        """Return what a `RoutingExplanation` is made of."""
        weights, present = [], []
        for (logits, routings), (_, there) in self._outputs(X):
            own = routings[0].weights if routings else torch.ones_like(logits[:, :1])
            weights.append((own * there.any(1, keepdim=True)).cpu().numpy()[:, None])
            present.append(there.cpu().numpy())
        weights, present = np.concatenate(weights), np.concatenate(present)
        return {
            "weights": weights,
            "seen": present.any(axis=1, keepdims=True),
            "modality_present": present,
            "router_names": ["all"],
            "expert_names": [f"expert {e}" for e in range(weights.shape[2])],
        }

    def routing_weights(self, X):
        """Return how much each expert counts in each row.

        Parameters
        ----------
        X : TokenFeatures, DataFrame or array of shape (n, m)

        Returns
        -------
        ndarray of shape (n, 1, E), float64
            In [0, 1], zero for experts that were not chosen; of the one router. With ``moe=False``
            one expert of weight 1.
        """
        return self._routing(X)["weights"]

    def stream_weights(self, X):
        """Return how much each stream counts in each row.

        Parameters
        ----------
        X : TokenFeatures, DataFrame or array of shape (n, m)

        Returns
        -------
        ndarray of shape (n, M), float64
            In [0, 1], columns as in `streams_`; zero for a stream that the row lacks. Rows sum to 1
            (to 0 where a row lacks all).
        """
        return np.concatenate([f.shares.cpu().numpy() for f, _ in self._outputs(X, "fuse")])

    def attention(self, X):
        """Return how much each token is looked at by the other stream.

        Parameters
        ----------
        X : TokenFeatures, DataFrame or array of shape (n, m)

        Returns
        -------
        dict of str to list of length n
            By stream, for each row an ndarray of shape (T_i,), float64: shares of the attention of
            the other stream (of a stream alone, its own), which sum to 1: patches that the report
            looks at, words that the image looks at. None where either is missing.

        Raises
        ------
        InputError
            If the model was fitted with ``fusion="concat"``, which has no attention.
        """
        check_is_fitted(self)
        if self.network_shape_.fusion != "attention":
            raise InputError("A model of fusion='concat' has no attention. Fit one of 'attention'.")
        found = {name: [] for name in self.streams_}
        for fused, (x, present) in self._outputs(X, "fuse"):
            looked = dict(zip(reversed(self.streams_), fused.looked_at, strict=True))
            for m, name in enumerate(self.streams_):
                shares, both = looked[name].cpu().numpy().astype(np.float64), present.all(1)
                found[name] += [
                    row[:length] if there else None
                    for row, length, there in zip(
                        shares, x[m].stream.lengths, both.tolist(), strict=True
                    )
                ]
        return found
