"""Concept bottleneck classifiers over a gated mixture of image-text experts."""

from skmoecbm._gates import ConstantGate, LinearGate, MLPGate, UniformGate
from skmoecbm.classifier import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier
from skmoecbm.concepts import ConceptBank, list_concepts, load_concepts
from skmoecbm.encoder import ConceptEncoder, ExpertUnion
from skmoecbm.exceptions import (
    BackboneError,
    FormatError,
    InputError,
    SkmoecbmError,
    SkmoecbmWarning,
)
from skmoecbm.features import ExpertFeatures

__all__ = [
    "BackboneError",
    "ConceptBank",
    "ConceptBottleneckClassifier",
    "ConceptEncoder",
    "ConstantGate",
    "ExpertFeatures",
    "ExpertUnion",
    "FormatError",
    "GatedConceptBottleneckClassifier",
    "InputError",
    "LinearGate",
    "MLPGate",
    "SkmoecbmError",
    "SkmoecbmWarning",
    "UniformGate",
    "list_concepts",
    "load_concepts",
]

__version__ = "0.1.0.dev0"
