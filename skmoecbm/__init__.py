"""Concept bottleneck classifiers over a gated mixture of image-text experts."""

from importlib import import_module

# Public names are looked up when first used, so that `skmoecbm --help` loads no torch.
_ROOMS = {
    "_aggregate": ("aggregate_predictions",),
    "_audit": ("Audit", "audit"),
    "_card_details": ("CardDetails", "ReportedMetrics"),
    "_conformal": ("calibrate_sets", "predict_set", "sets_to_lists"),
    "_editing": ("edit",),
    "_evaluate": ("Evaluation", "evaluate"),
    "_gates": (
        "ConstantGate",
        "GaussianGate",
        "LaplaceGate",
        "LinearGate",
        "MLPGate",
        "UniformGate",
    ),
    "_intervene": ("intervene",),
    "_intervention": ("Intervention",),
    "_intervention_curve": ("InterventionCurve", "intervention_curve"),
    "_joint": ("JointTraining",),
    "_presence": ("concept_presence",),
    "_thresholds": ("tune_thresholds",),
    "_vectors": ("ConceptVectors", "fit_concept_vectors"),
    "classifier": ("ConceptBottleneckClassifier", "GatedConceptBottleneckClassifier"),
    "concepts": (
        "ConceptBank",
        "answer_concepts",
        "generate_concepts",
        "lint_concepts",
        "list_concepts",
        "load_concepts",
        "mask_terms",
    ),
    "display": (
        "AssociationDisplay",
        "ConceptContributionDisplay",
        "ExpertUsageDisplay",
        "GateDisplay",
        "ReliabilityDisplay",
    ),
    "encoder": ("ConceptEncoder", "ExpertUnion"),
    "exceptions": (
        "BackboneError",
        "DownloadError",
        "FormatError",
        "HubError",
        "InputError",
        "LanguageModelError",
        "SkmoecbmError",
        "SkmoecbmWarning",
    ),
    "explanation": ("Explanation", "GlobalExplanation", "explain", "global_explanation"),
    "features": ("ExpertFeatures",),
    "hub": ("from_pretrained", "list_models", "load", "push_to_hub", "save"),
    "images": ("DicomFrame",),
    "moe": ("CrossModalMoEClassifier", "SparseMoEClassifier"),
    "report": ("model_report",),
    "search": ("GatedConceptBottleneckClassifierCV",),
}

__all__ = sorted(name for names in _ROOMS.values() for name in names)

__version__ = "0.1.0.dev0"


def __getattr__(name):
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"skmoecbm.{room}"), name)
    raise AttributeError(f"module 'skmoecbm' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
