"""Sparse mixtures: small networks of which each row uses a few."""

from skmoecbm.moe._routing_explanation import RoutingExplanation
from skmoecbm.moe._routing_summary import RoutingSummary
from skmoecbm.moe._sparse import SparseMoEClassifier
from skmoecbm.moe._training import Balancing, MiniBatches

__all__ = [
    "Balancing",
    "MiniBatches",
    "RoutingExplanation",
    "RoutingSummary",
    "SparseMoEClassifier",
]
