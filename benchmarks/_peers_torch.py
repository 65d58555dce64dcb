"""Peers that are trained by gradient steps: LaBo's association, and a bottleneck of PyC."""

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler

__all__ = ["LaBoHead", "PyCBottleneck"]


class _Stopped(ClassifierMixin, BaseEstimator):
    """Adam on mini-batches; the epoch of the least loss on held-out training rows is kept."""

    def _train(self, parameters, loss_of, n_rows, y):
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(n_rows, generator=generator).numpy()
        held = _stratified(y, order, 0.2)
        rest = np.setdiff1d(np.arange(n_rows), held)
        optimizer = torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)
        best, kept, waited = np.inf, None, 0
        for _ in range(self.max_epochs):
            shuffled = rest[torch.randperm(len(rest), generator=generator).numpy()]
            for start in range(0, len(shuffled), self.batch_size):
                optimizer.zero_grad()
                loss_of(torch.as_tensor(shuffled[start : start + self.batch_size])).backward()
                optimizer.step()
            with torch.no_grad():
                loss = float(loss_of(torch.as_tensor(held), judged=True))
            waited += 1
            if loss < best - 1e-5:
                best, waited = loss, 0
                kept = [parameter.detach().clone() for parameter in parameters]
            if waited >= self.patience:
                break
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)

    def _class_weights(self, y):
        counts = np.bincount(y)
        weights = len(y) / (len(counts) * counts) if self.class_weight else np.ones(len(counts))
        return torch.as_tensor(weights, dtype=torch.float32)


def _stratified(y, order, share):
    held = []
    for label in np.unique(y):
        mine = order[y[order] == label]
        held.append(mine[: max(1, round(share * len(mine)))])
    return np.concatenate(held)


class LaBoHead(_Stopped):
    """LaBo's head: logits 100 D softmax(A)', A started at the concepts written for the class.

    Written anew from Yang et al., Language in a Bottle, CVPR 2023, equations 5 and 6. Optimiser and
    batches are those of its public settings for HAM10000 with all images (Adam, 5e-4, 256).

    Parameters
    ----------
    incidence : ndarray of shape (m, K) or None
        None: each concept goes to the class in whose training rows it is the highest, of what is
        usual for it.
    """

    def __init__(
        self,
        incidence=None,
        *,
        class_weight=None,
        lr=5e-4,
        weight_decay=0.0,
        batch_size=256,
        max_epochs=2000,
        patience=50,
    ):
        self.incidence = incidence
        self.class_weight = class_weight
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience

    def fit(self, X, y):
        """Fit on similarities X (n, m)."""
        self.classes_, codes = np.unique(y, return_inverse=True)
        D = torch.as_tensor(100 * np.asarray(X), dtype=torch.float32)
        start = self.incidence
        if start is None:
            Z = StandardScaler().fit_transform(X)
            means = np.stack([Z[codes == k].mean(axis=0) for k in range(len(self.classes_))])
            start = np.eye(len(self.classes_))[means.argmax(axis=0)]
        A = torch.tensor(np.asarray(start, dtype=np.float32).T, requires_grad=True)
        labels, weights = torch.as_tensor(codes), self._class_weights(codes)

        def loss_of(rows, judged=False):
            logits = D[rows] @ torch.softmax(A, dim=1).T
            return torch.nn.functional.cross_entropy(logits, labels[rows], weights)

        self._train([A], loss_of, len(D), codes)
        self.association_ = torch.softmax(A, dim=1).detach().numpy().astype(np.float64)
        return self

    def predict_proba(self, X):
        """Return probabilities (n, K)."""
        logits = 100 * np.asarray(X) @ self.association_.T
        logits -= logits.max(axis=1, keepdims=True)
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    def predict(self, X):
        """Return classes (n,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class PyCBottleneck(_Stopped):
    """The concept bottleneck of pytorch-concepts: embedding -> concepts -> class, both linear.

    Concepts are taught together with the class. X holds the embeddings and, behind them, the
    concept labels (0, 1, NaN where unknown), which are used in `fit` alone.
    """

    def __init__(
        self,
        n_concepts,
        *,
        class_weight=None,
        lr=1e-2,
        weight_decay=1e-4,
        batch_size=256,
        max_epochs=300,
        patience=20,
    ):
        self.n_concepts = n_concepts
        self.class_weight = class_weight
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience

    def fit(self, X, y):
        """Fit on X (n, d + n_concepts)."""
        from torch_concepts import Annotations
        from torch_concepts.nn import ConceptBottleneckModel

        torch.manual_seed(0)
        m = self.n_concepts
        self.classes_, codes = np.unique(y, return_inverse=True)
        self.scaler_ = StandardScaler().fit(X[:, :-m])
        inputs = torch.as_tensor(self.scaler_.transform(X[:, :-m]), dtype=torch.float32)
        truth = torch.as_tensor(np.nan_to_num(X[:, -m:]), dtype=torch.float32)
        known = torch.as_tensor(np.isfinite(X[:, -m:]), dtype=torch.float32)
        names = [f"c{j}" for j in range(m)]
        K = len(self.classes_)
        annotations = Annotations(
            labels=[*names, "task"],
            cardinalities=[1] * m + [K],
            types=["binary"] * m + ["categorical"],
        )
        self.model_ = ConceptBottleneckModel(
            input_size=inputs.shape[1], annotations=annotations, task_names=["task"]
        )
        self.query_ = [*names, "task"]
        labels, weights = torch.as_tensor(codes), self._class_weights(codes)

        def loss_of(rows, judged=False):
            logits = self.model_(query=self.query_, input=inputs[rows]).logits.tensor
            task = torch.nn.functional.cross_entropy(logits[:, m:], labels[rows], weights)
            if judged:
                return task
            cells = torch.nn.functional.binary_cross_entropy_with_logits(
                logits[:, :m], truth[rows], reduction="none"
            )
            return task + (cells * known[rows]).sum() / known[rows].sum().clamp(min=1)

        trained = [p for p in self.model_.parameters() if p.requires_grad]
        self._train(trained, loss_of, len(inputs), codes)
        return self

    def predict_proba(self, X):
        """Return probabilities (n, K)."""
        m = self.n_concepts
        inputs = torch.as_tensor(self.scaler_.transform(X[:, :-m]), dtype=torch.float32)
        self.model_.eval()
        with torch.no_grad():
            logits = self.model_(query=self.query_, input=inputs).logits.tensor
        return torch.softmax(logits[:, m:].double(), dim=1).numpy()

    def predict(self, X):
        """Return classes (n,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
