"""Which part of a backbone is another than was recorded, in words."""

from skmoecbm.exceptions import InputError

__all__ = ["check_same_backbone", "identity_differences"]

# where a backbone came from, and in which format it computes; the other parts say what it is
_NOT_CONTENT = ("model", "revision", "precision")
_NAMED = 5  # differences that an error tells before it counts the others
_SHOWN = 60  # characters of a value


def identity_differences(recorded, found):
    """Return what differs between two identities of backbones, a sentence a part.

    Nothing where weights, architecture, tokenizer and preprocessing are the same: the network may
    lie elsewhere, or its repository have a new README. Precision is never told: a model fitted on
    a GPU is used on a CPU.

    Parameters
    ----------
    recorded, found : dict
        As `Backbone.identity`.

    Returns
    -------
    list of str
        Such as "weights (sha256 ab12cd34ef56 was recorded, 0123456789ab is here)" and
        "preprocessing.mean ([0.5, 0.5, 0.5] was recorded, [0.48, 0.46, 0.41] is here)".
    """
    before, now = _leaves(recorded), _leaves(found)
    paths = [p for p in before | now if before.get(p, _NOTHING) != now.get(p, _NOTHING)]
    if all(path in _NOT_CONTENT for path in paths):
        return []
    return [
        _told(path, before.get(path, _NOTHING), now.get(path, _NOTHING))
        for path in paths
        if path != "precision"
    ]


def check_same_backbone(encoder, backbone):
    """Raise `InputError` unless a backbone is the one that an encoder was fitted with.

    Of a loaded model the error names the expert, and how to give it the right backbone.
    """
    differences = identity_differences(encoder.backbone_identity_, backbone.identity)
    if not differences:
        return
    more = f"; and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
    expert = getattr(encoder, "_loaded_as", None)
    who, way_on = (
        f"This {type(encoder).__name__}",
        "Fit it again, set its parameters back, or give the backbone that it was fitted with.",
    )
    if expert is not None:
        revision = encoder.backbone_identity_.get("revision")
        which = "" if revision is None else f", {revision[:12]},"
        who, way_on = (
            f"Expert {expert!r}",
            f"Get the revision that was recorded{which} or load the model with "
            f"backbones={{{expert!r}: ...}} that names the backbone it was fitted with.",
        )
    raise InputError(
        f"{who} was fitted with another model than {encoder.backbone!r} is now: "
        f"{'; '.join(differences[:_NAMED])}{more}. {way_on}"
    )


_NOTHING = object()


def _leaves(content, way=""):
    """Return dotted path -> value of all that is no object."""
    found = {}
    for key, value in content.items():
        path = f"{way}{key}"
        found |= _leaves(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


def _told(path, before, now):
    is_hash = path.endswith("_sha256")
    values = ["nothing" if value is _NOTHING else _short(value, is_hash) for value in (before, now)]
    what, kind = (path.removesuffix("_sha256"), "sha256 ") if is_hash else (path, "")
    return f"{what} ({kind}{values[0]} was recorded, {values[1]} is here)"


def _short(value, is_hash):
    if is_hash and isinstance(value, str):
        return value[:12]
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."
