"""What encoders of images and texts ask of their parameters, and which commit they load."""

from pathlib import Path

from skmoecbm._decoding import check_value_range
from skmoecbm._validation import check_choice, check_number, parameter_error

__all__ = ["check_encoder", "check_image_reading", "revision_of"]


def check_encoder(encoder):
    """Raise `InputError` unless the parameters that all encoders have are good."""
    check_number(encoder, "batch_size", encoder.batch_size, low=1, integer=True, auto=True)
    if not isinstance(encoder.verbose, bool):
        check_number(encoder, "verbose", encoder.verbose, low=0, integer=True)
    if not isinstance(encoder.backbone, str):
        raise parameter_error(encoder, "backbone", "the name of a model, a str", encoder.backbone)
    if encoder.cache_dir is not None and not isinstance(encoder.cache_dir, str | Path):
        raise parameter_error(encoder, "cache_dir", "a path, 'auto' or None", encoder.cache_dir)


def check_image_reading(encoder):
    """Raise `InputError` unless the parameters of an encoder of images are good."""
    check_choice(encoder, "resize", encoder.resize, ("crop", "pad", "squash"))
    check_choice(encoder, "precision", encoder.precision, ("auto", "fp32", "bf16", "fp16"))
    check_choice(encoder, "on_error", encoder.on_error, ("raise", "missing"))
    check_value_range(encoder.value_range, encoder)


def revision_of(encoder, *, to_fit):
    """Return the revision to load: once fitted that commit, whatever a branch has become since."""
    asked = (encoder.backbone, encoder.revision)
    fitted = not to_fit and asked == getattr(encoder, "_fitted_source", None)
    return encoder.backbone_identity_.get("revision") if fitted else encoder.revision
