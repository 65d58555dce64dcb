"""Sparse mixtures: small networks of which each row uses a few."""

from skmoecbm.moe._multi_time import MultiTimeAttention
from skmoecbm.moe._sparse import SparseMoEClassifier
from skmoecbm.moe._time_series import pack_series
from skmoecbm.moe._training import Balancing, MiniBatches

__all__ = [
    "Balancing",
    "MiniBatches",
    "MultiTimeAttention",
    "SparseMoEClassifier",
    "pack_series",
]
