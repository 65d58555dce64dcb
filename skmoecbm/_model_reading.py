"""From the files of a saved model back to arrays and a fitted model, every step checked."""

from skmoecbm._model_arrays import stored_arrays
from skmoecbm._model_folder import ARRAYS, read_config_bytes
from skmoecbm._packing import unpack
from skmoecbm.exceptions import FormatError
from skmoecbm.schema import parse_config

__all__ = ["read_folder_config", "read_model"]


def read_folder_config(folder):
    """Return the checked `ModelConfig` of a folder."""
    return parse_config(read_config_bytes(folder))


def read_model(folder, *, trusted=()):
    """Return the fitted model of a folder; `trusted` are types of others, by name."""
    config = read_folder_config(folder)
    with stored_arrays(folder, config) as arrays:
        model = unpack(config.model, arrays, trusted=trusted)
        if arrays:
            raise FormatError(
                f"'{folder / ARRAYS}' has an array {min(arrays)!r} that its model does not use; "
                "the file is damaged, fetch or save it again."
            )
    return model
