"""The training loop that published code runs, to be timed against.

Written anew from what is published: LaBo's association (Yang et al., CVPR 2023, and the settings of
its public configuration for HAM10000 with all images) under the gate of a mixture of two experts
that was built on it.

* The similarities of each expert are computed once, times 100, in float32.
* W = softmax over concepts of each row of A; logits D W', without intercept. A starts at 1 where
  a concept was written for the class, else at 0.
* The gate is sigmoid(W2 LeakyReLU(W1 LayerNorm(x))) on the generalist's embedding x, with 256
  hidden units, and weighs the two experts' logits. Its LayerNorm is applied to each batch anew.
* The loss is the cross-entropy plus 0.02 times the entropy of the gate, with the published sign.
* Adam on everything with one learning rate, 5e-4; batches of 256; up to 10,000 epochs, no early
  stopping; the validation rows are looked at after each epoch, and the best epoch is kept.

Nothing here is slow on purpose: a DataLoader hands out whole batches, cut from tensors by index,
and no row is ever handled alone. Only the time of training steps counts, not that of looking at
the validation rows.
"""

import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

__all__ = ["OriginalMixture", "train", "written_for"]


class OriginalMixture(nn.Module):
    """Two softmax associations and a sigmoid gate.

    Parameters
    ----------
    starts : list of two arrays of shape (K, m_e)
    width : int
        Dimensions of the generalist's embedding.
    hidden : int, default=256
    """

    def __init__(self, starts, width, hidden=256):
        super().__init__()
        tensors = (torch.as_tensor(start, dtype=torch.float32) for start in starts)
        self.associations = nn.ParameterList(nn.Parameter(tensor.clone()) for tensor in tensors)
        self.gate = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.LeakyReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, similarities, embedding):
        """Return the mixed logits (b, K) and the gate (b, 1)."""
        gate = torch.sigmoid(self.gate(embedding))
        first, second = (
            values @ torch.softmax(association, dim=1).T
            for values, association in zip(similarities, self.associations, strict=True)
        )
        return gate * second + (1 - gate) * first, gate


def loss_of(logits, gate, labels, entropy=0.02):
    """Return cross-entropy plus the gate's entropy, as published."""
    gate = gate.clamp(1e-6, 1 - 1e-6)
    uncertain = -(gate * gate.log() + (1 - gate) * (1 - gate).log()).mean()
    return nn.functional.cross_entropy(logits, labels) + entropy * uncertain


def written_for(features, y):
    """Return a start (K, m_e) for each expert: 1 where a concept stands out for a class, else 0.

    The drawn concepts were written for no class; as LaBo picks a class's concepts by its training
    images, each goes to the class in whose images it is the highest, of what is usual for it.
    """
    starts = []
    for block in features.blocks:
        values, classes = block.values(), np.unique(y)
        means = np.stack([values[y == c].mean(axis=0) for c in classes])
        starts.append(np.eye(len(classes))[means.argmax(axis=0)].T)
    return starts


def train(features, y, train_rows, held_out, *, epochs, patience, seed=0, lr=5e-4, batch=256):
    """Run the loop and return its curve.

    Parameters
    ----------
    features : ExpertFeatures
        Of two experts with embeddings, the first the generalist.
    y : ndarray of int
    train_rows, held_out : ndarray of int
    epochs : int
    patience : int
        Epochs without a better validation accuracy after which it is not waited for longer; they
        count no more than those after the best do anyway.

    Returns
    -------
    dict
        "seconds" spent in training until the end of each epoch (processor time of this process),
        "accuracy" and "log_loss" on the held-out rows, "steps" per epoch.
    """
    torch.manual_seed(seed)
    values = [torch.as_tensor(100 * block.values()) for block in features.blocks]
    embedding = torch.as_tensor(np.array(features.blocks[0].embeddings))
    labels = torch.as_tensor(y)
    rows = torch.as_tensor(train_rows)
    table = TensorDataset(*(part[rows] for part in (*values, embedding, labels)))
    # With whole batches as indices the loader cuts each tensor once.
    sampler = BatchSampler(RandomSampler(table), batch, drop_last=False)
    loader = DataLoader(table, sampler=sampler, batch_size=None)
    validation = [part[torch.as_tensor(held_out)] for part in (*values, embedding, labels)]
    model = OriginalMixture(written_for(features[train_rows], y[train_rows]), embedding.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    curve = {"seconds": [], "accuracy": [], "log_loss": [], "steps": len(sampler)}
    spent, best = 0.0, 0
    for epoch in range(epochs):
        start = time.process_time()
        for *parts, truth in loader:
            logits, gate = model(parts[:-1], parts[-1])
            optimizer.zero_grad()
            loss_of(logits, gate, truth).backward()
            optimizer.step()
        spent += time.process_time() - start
        with torch.no_grad():
            logits, _ = model(validation[:-2], validation[-2])
        curve["seconds"].append(spent)
        curve["accuracy"].append(float((logits.argmax(1) == validation[-1]).double().mean()))
        curve["log_loss"].append(float(nn.functional.cross_entropy(logits, validation[-1])))
        if curve["accuracy"][-1] > curve["accuracy"][best]:
            best = epoch
        elif epoch - best >= patience:
            break
    return curve
