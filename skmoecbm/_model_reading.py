"""From the files of a saved model back to arrays and a fitted model, every step checked."""

from skmoecbm._model_arrays import stored_arrays
from skmoecbm._model_folder import ARRAYS, read_config_bytes
from skmoecbm._packing import unpack
from skmoecbm.exceptions import FormatError, InputError
from skmoecbm.schema import parse_config

__all__ = ["read_folder_config", "read_model", "set_backbones"]


def read_folder_config(folder):
    """Return the checked `ModelConfig` of a folder."""
    return parse_config(read_config_bytes(folder))


def read_model(folder):
    """Return the fitted model of a folder."""
    config = read_folder_config(folder)
    with stored_arrays(folder, config) as arrays:
        model = unpack(config.model, arrays)
        if arrays:
            raise FormatError(
                f"'{folder / ARRAYS}' has an array {min(arrays)!r} that its model does not use; "
                "the file is damaged, fetch or save it again."
            )
    return model


def set_backbones(model, backbones):
    """Give encoders of a model backbones that lie elsewhere on this machine, expert -> name."""
    first = model.steps[0][1] if hasattr(model, "steps") else model
    encoders = dict(getattr(first, "experts_", [])) or (
        {model.steps[0][0] if hasattr(model, "steps") else first.__class__.__name__: first}
        if hasattr(first, "backbone")
        else {}
    )
    unknown = sorted(set(backbones) - set(encoders))
    if unknown:
        raise InputError(
            f"The 'backbones' parameter of load names {unknown[0]!r}; the model's experts are "
            f"{list(encoders)}."
        )
    for name, backbone in backbones.items():
        encoders[name].set_params(backbone=backbone)
