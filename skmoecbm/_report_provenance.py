"""Where a report comes from: versions, models, concepts, settings."""

import os
import platform
from importlib import metadata

from sklearn.pipeline import Pipeline

from skmoecbm.encoder import ConceptEncoder, ExpertUnion

__all__ = ["class_names", "encoders_in", "provenance"]

_PACKAGES = ("skmoecbm", "scikit-learn", "numpy", "torch", "open_clip_torch", "pillow")
_SETTINGS = ("gate", "pool", "training", "calibrate", "guard", "class_weight", "random_state")


def encoders_in(model):
    """Return (name, fitted `ConceptEncoder`) of each expert of a pipeline that has one."""
    first = model.steps[0][1] if isinstance(model, Pipeline) else None
    pairs = first.experts_ if isinstance(first, ExpertUnion) else [("expert", first)]
    return [pair[:2] for pair in pairs if isinstance(pair[1], ConceptEncoder)]


def class_names(encoders, classes):
    """Return the full name of each class in the concept banks, a dict; only where it has one."""
    names = {}
    for _, encoder in encoders:
        for entry in encoder.bank_.classes:
            # Not by synonym: who wrote "mel-like" did not mean melanoma.
            if entry.key in classes and entry.name != entry.key:
                names.setdefault(entry.key, entry.name)
    return names


def provenance(model, classifier, encoders, date):
    """Return where a model comes from, as (title, [(name, value)]) pairs of text.

    Places on this machine are left out: of a path only its last part is told.
    """
    sections = [("Software", [*_versions(), ("report made", date)])]
    sections.append(("Classifier", _classifier(classifier)))
    seen = {}
    for name, encoder in encoders:
        sections.append((f"Expert {name}", _encoder(encoder)))
        seen.setdefault((encoder.bank_.name, encoder.bank_.provenance), encoder.bank_)
    sections += [(f"Concept bank {bank.name}", _bank(bank)) for bank in seen.values()]
    return sections


def _versions():
    return [(name, metadata.version(name)) for name in _PACKAGES] + [
        ("Python", platform.python_version())
    ]


def _classifier(classifier):
    found = [("kind", type(classifier).__name__)]
    settings = classifier.get_params(deep=False)
    found += [
        (name.replace("_", " "), _plain(settings[name])) for name in _SETTINGS if name in settings
    ]
    told = {
        "selected_": "kept by the guard",
        "fallback_": "why no gate was fitted",
        "alpha_": "alpha",
        "masked_experts_": "experts switched off",
    }
    for attribute, name in told.items():
        value = getattr(classifier, attribute, None)
        if value is not None and value != ():
            found.append((name, f"{value:.4g}" if isinstance(value, float) else _plain(value)))
    if getattr(classifier, "target_prevalence", None) is not None:
        found.append(("class frequencies", f"set to {_plain(classifier.target_prevalence)}"))
    return found


def _encoder(encoder):
    identity = encoder.backbone_identity_
    found = [
        ("model", _model_name(encoder.backbone)),
        ("revision", identity.get("revision") or encoder.revision),
        ("fingerprint", encoder.fingerprint_),
        ("precision", identity.get("precision")),
        ("images fitted by", encoder.resize if encoder.modality == "image" else None),
        ("concepts used", f"{encoder.n_concepts_:,} of bank {encoder.bank_.name}"),
        ("notice", encoder.notice_),
    ]
    return [(name, str(value)) for name, value in found if value]


def _model_name(backbone):
    kind, colon, place = backbone.partition(":")
    if colon and kind.startswith("local"):
        return f"{kind}:{os.path.basename(place.rstrip('/'))}"
    return backbone


def _bank(bank):
    source = bank.provenance
    found = [
        ("description", bank.description),
        ("concepts and classes", f"{len(bank.concepts):,} and {len(bank.classes):,}"),
        ("author", source.author),
        ("language model", source.model),
        ("date", source.date),
        ("licence", source.licence or "not stated"),
        ("note", source.note),
    ]
    found += [("reference", reference) for reference in source.references]
    return [(name, value) for name, value in found if value]


def _plain(value):
    """Return a setting as text without the addresses of objects."""
    if value is None or isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, dict | list | tuple):
        return ", ".join(map(str, value)) if not isinstance(value, dict) else str(value)
    return " ".join(repr(value).split()) if hasattr(value, "get_params") else type(value).__name__
