"""The files of a model card: README.md, and what it shows beside it."""

from skmoecbm._card_details import checked_details
from skmoecbm._card_model import (
    SHOWN_EXPERTS,
    associations,
    classifier_of,
    encoders_of,
    takes_images_alone,
)
from skmoecbm._card_pictures import example_files, weights_files
from skmoecbm._model_folder import CARD
from skmoecbm._parameters import unpack_value
from skmoecbm.card import model_card

__all__ = ["card_files"]


def card_files(
    model, config, arrays, *, metrics=None, audit=None, card=None, repo_id=None, revision=None
):
    """Return the card of a model and the pictures beside it, name -> bytes.

    Parameters
    ----------
    model : fitted estimator
        Asked what it says of the images in `card`.
    config : ModelConfig
    arrays : dict of str to ndarray
    card : CardDetails, default=None
    repo_id : str, default=None
        Where the model will be on the Hub; then its weights are drawn unless `card` says no.
    metrics, audit, revision
        As `model_card` takes them.

    Raises
    ------
    InputError
        If an argument is not of its kind, or an image cannot be read.
    """
    details = checked_details(card)
    files, pictures, examples = {}, [], []
    node, prefix = classifier_of(config)
    draws = repo_id is not None if details.pictures is None else details.pictures
    if node is not None and draws:
        found = associations(node, prefix, arrays)[:SHOWN_EXPERTS]
        files, pictures = weights_files(found, node.classes.values)
    if details.images:
        first = next((e for _, e in encoders_of(config) if hasattr(e, "backbone_identity")), None)
        reads = node is not None and takes_images_alone(config)
        value_range = getattr(first, "parameters", {}).get("value_range")
        shown, examples = example_files(
            model if reads else None, details.images, unpack_value(value_range, {})
        )
        files |= shown
    text = model_card(
        config,
        arrays,
        card=details,
        repo_id=repo_id,
        pictures=pictures,
        examples=examples,
        metrics=metrics,
        audit=audit,
        revision=revision,
    )
    return {CARD: text.encode(), **files}
