"""Names of backbones that a saved model may have: names, never paths or addresses."""

import re
from pathlib import Path

from skmoecbm._model_source import DEMO_NAMES

__all__ = ["LOCAL", "is_portable_name", "is_portable_revision", "portable_name"]

LOCAL, _HUB = "local-dir:", "hf-hub:"

_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_WORD}/{_WORD}")
# open_clip's registry: "ViT-B-16/openai", or with a slash in the architecture "ViT-B/16/openai"
_REGISTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9._-]{1,128}){1,2}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9._-]{1,128}){0,3}")
# what parts a path, a drive or a line, or stands for a home folder
_PATH_MARKS = re.compile(r"[/\\:\x00-\x1f\x7f]|^~|^\.{1,2}$")


def portable_name(backbone):
    """Return the name to save a backbone under: of a folder of this machine its last part."""
    if not backbone.startswith(LOCAL):
        return backbone
    # a path says where, on one machine; the fingerprint says what
    name = Path(backbone.removeprefix(LOCAL).replace("\\", "/")).expanduser().resolve().name
    return LOCAL + (_PATH_MARKS.sub("_", name) or "folder")


def is_portable_name(name):
    """Return whether a saved model may name its backbone so.

    A demo name, open_clip's "model/pretrained", "hf-hub:org/repo", or "local-dir:" and the bare
    name of a folder.
    """
    if name in DEMO_NAMES:
        return True
    if name.startswith(LOCAL):
        folder = name.removeprefix(LOCAL)
        return 0 < len(folder) <= 255 and not _PATH_MARKS.search(folder)
    pattern = _REPOSITORY if name.startswith(_HUB) else _REGISTRY
    bare = name.removeprefix(_HUB)
    return bool(pattern.fullmatch(bare)) and not re.search(r"\.\.|/\.|--.*/.*--|\.git$", bare)


def is_portable_revision(revision):
    """Return whether a saved model may ask for this commit, tag or branch.

    The Hugging Face cache keeps what a revision stands for in a file of that name, so that
    "../.." in it would be a path.
    """
    if revision is None:
        return True
    return (
        isinstance(revision, str)
        and bool(_REVISION.fullmatch(revision))
        and not re.search(r"\.\.|/\.", revision)
    )
