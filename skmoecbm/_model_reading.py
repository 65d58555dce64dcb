"""From the files of a saved model back to arrays and a fitted model, every step checked."""

from contextlib import contextmanager

from skmoecbm._model_arrays import stored_arrays
from skmoecbm._model_backbones import encoders_of
from skmoecbm._model_folder import ARRAYS, read_config_bytes
from skmoecbm._packing import unpack
from skmoecbm.exceptions import FormatError
from skmoecbm.schema import parse_config

__all__ = ["read_folder_config", "read_model"]


def read_folder_config(folder):
    """Return the checked `ModelConfig` of a folder."""
    content = read_config_bytes(folder)
    with _named(folder):
        return parse_config(content)


def read_model(folder, *, trusted=()):
    """Return the fitted model of a folder; `trusted` are types of others, by name."""
    config = read_folder_config(folder)
    with stored_arrays(folder, config) as arrays:
        with _named(folder):
            model = unpack(config.model, arrays, trusted=trusted)
        if arrays:
            raise FormatError(
                f"'{folder / ARRAYS}' has an array {min(arrays)!r} that its model does not use; "
                "the file is damaged, fetch or save it again."
            )
    for name, encoder in encoders_of(model).items():
        encoder._loaded_as = name  # what an error calls it
    return model


@contextmanager
def _named(folder):
    """Put the folder before what is wrong in it: of many models the error tells which."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"'{folder}': {error}") from error.__cause__
