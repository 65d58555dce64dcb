"""The encoders of a model: where their backbones lie, on which device, and whether they are it."""

from sklearn.pipeline import Pipeline

from skmoecbm._validation import resolve_device
from skmoecbm.encoder import ConceptEncoder
from skmoecbm.exceptions import InputError

__all__ = ["check_backbones", "encoders_of", "set_backbones", "set_device"]


def encoders_of(model):
    """Return the fitted `ConceptEncoder`s of a model, expert's name -> encoder."""
    if isinstance(model, Pipeline):
        return {key: one for name, step in model.steps for key, one in _inside(step, name).items()}
    return _inside(model, type(model).__name__)


def set_backbones(model, backbones):
    """Give encoders of a model backbones that lie elsewhere on this machine, expert -> name."""
    encoders = encoders_of(model)
    unknown = sorted(set(backbones) - set(encoders))
    if unknown:
        raise InputError(
            f"The 'backbones' parameter of load names {unknown[0]!r}; the model's experts are "
            f"{list(encoders)}."
        )
    for name, backbone in backbones.items():
        encoders[name].set_params(backbone=backbone)


def set_device(model, device):
    """Let every encoder and classifier of a model compute on a device; None leaves it as it is."""
    if device is None:
        return
    resolve_device(device, "load")
    steps = [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    for part in [*steps, *encoders_of(model).values()]:
        if hasattr(part, "device"):
            part.set_params(device=str(device))


def check_backbones(model):
    """Load every backbone of a model now, and raise unless each is the one that was recorded."""
    for name, encoder in encoders_of(model).items():
        backbone = encoder._load()
        if backbone.identity["weights_sha256"] != encoder.backbone_identity_["weights_sha256"]:
            raise InputError(
                f"Expert {name!r}: {encoder.backbone!r} has other weights than at the fit."
            )


def _inside(part, name):
    if isinstance(part, ConceptEncoder):
        return {name: part}
    experts = getattr(part, "experts_", ())
    return {key: one for key, one in experts if isinstance(one, ConceptEncoder)}
