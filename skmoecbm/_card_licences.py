"""Licences of backbones, only where their makers state one; their names on the Hub and needs."""

import re

import open_clip

from skmoecbm._model_source import DEMO_NAMES

__all__ = ["hub_repository", "licence_of", "may_need_transformers"]

_UNKNOWN = "not known: see the model's page"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# By name on the Hub. The pages of Microsoft's and LAION's models state theirs (LAION's for the
# weights too: mlfoundations/open_clip, issue 177); OpenAI licensed its repository and says nothing
# of the weights alone, which is told as it is.
_STATED = (
    (re.compile(r"microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"), "MIT"),
    (re.compile(r"laion/CLIP-ViT-(B-16|B-32|L-14|H-14|g-14|bigG-14)-laion2B-[\w-]+"), "MIT"),
)
_OPENAI = "MIT for OpenAI's repository; nothing is stated for the weights alone"


def licence_of(backbone):
    """Return the licence of a backbone's weights, or that it is not known.

    Parameters
    ----------
    backbone : str
        As `ConceptEncoder` takes it.
    """
    if backbone in DEMO_NAMES:
        return "BSD-3-Clause, as this package"
    repository = hub_repository(backbone)
    # open_clip fetches OpenAI's weights from timm's copy, whose page may say something else
    is_tag = not backbone.startswith("hf-hub:")
    if is_tag and backbone.endswith("/openai") and repository is not None:
        return _OPENAI
    for pattern, licence in _STATED:
        if repository is not None and pattern.fullmatch(repository):
            return licence
    return _UNKNOWN


def may_need_transformers(backbone):
    """Return whether a backbone has a text tower of Hugging Face, as far as its name tells.

    Parameters
    ----------
    backbone : str
        As `ConceptEncoder` takes it; one that tells nothing may need it.
    """
    if backbone in DEMO_NAMES:
        return False
    repository = hub_repository(backbone)
    if repository is not None and _STATED[1][0].fullmatch(repository):  # LAION's: CLIP's own
        return False
    if ":" in backbone:  # open_clip would ask the Hub for its settings
        return True
    settings = open_clip.get_model_config(backbone.rpartition("/")[0]) or {}
    return any(key.startswith("hf_") for key in settings.get("text_cfg", {}))


def hub_repository(backbone):
    """Return the repository on the Hub that a backbone's weights come from, or None."""
    if backbone.startswith("hf-hub:"):
        repository = backbone.removeprefix("hf-hub:")
    else:
        architecture, _, tag = backbone.rpartition("/")
        found = open_clip.get_pretrained_cfg(architecture, tag) if architecture else {}
        repository = (found or {}).get("hf_hub", "").rpartition("/")[0]
    return repository if _REPOSITORY.fullmatch(repository) else None
