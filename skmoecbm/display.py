"""Pictures in scikit-learn's form: computed by ``from_...``, drawn by ``plot(ax=None)``."""

from skmoecbm._display_association import AssociationDisplay
from skmoecbm._display_concepts import ConceptContributionDisplay
from skmoecbm._display_gate import ExpertUsageDisplay, GateDisplay
from skmoecbm._display_reliability import ReliabilityDisplay

__all__ = [
    "AssociationDisplay",
    "ConceptContributionDisplay",
    "ExpertUsageDisplay",
    "GateDisplay",
    "ReliabilityDisplay",
]
