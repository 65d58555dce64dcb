"""Concept bottleneck classifiers over a gated mixture of image-text experts."""

from skmoecbm._evaluate import Evaluation, evaluate
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
from skmoecbm.explanation import Explanation, explain
from skmoecbm.features import ExpertFeatures
from skmoecbm.hub import load, save

__all__ = [
    "BackboneError",
    "ConceptBank",
    "ConceptBottleneckClassifier",
    "ConceptEncoder",
    "ConstantGate",
    "Evaluation",
    "ExpertFeatures",
    "ExpertUnion",
    "Explanation",
    "FormatError",
    "GatedConceptBottleneckClassifier",
    "InputError",
    "LinearGate",
    "MLPGate",
    "SkmoecbmError",
    "SkmoecbmWarning",
    "UniformGate",
    "evaluate",
    "explain",
    "list_concepts",
    "load",
    "load_concepts",
    "save",
]

__version__ = "0.1.0.dev0"
