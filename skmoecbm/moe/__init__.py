"""Sparse mixtures: small networks of which each row uses a few."""

from skmoecbm.moe._cross import CrossModalMoEClassifier
from skmoecbm.moe._routing_explanation import RoutingExplanation
from skmoecbm.moe._routing_summary import RoutingSummary
from skmoecbm.moe._sparse import SparseMoEClassifier
from skmoecbm.moe._text_encoder import TextTokenEncoder
from skmoecbm.moe._token_encoder import TokenEncoder
from skmoecbm.moe._token_features import TokenFeatures, TokenStream
from skmoecbm.moe._token_union import TokenUnion
from skmoecbm.moe._training import Balancing, MiniBatches

__all__ = [
    "Balancing",
    "CrossModalMoEClassifier",
    "MiniBatches",
    "RoutingExplanation",
    "RoutingSummary",
    "SparseMoEClassifier",
    "TextTokenEncoder",
    "TokenEncoder",
    "TokenFeatures",
    "TokenStream",
    "TokenUnion",
]
