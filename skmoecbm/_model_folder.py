"""The folder of a saved model and its files, known before anything heavy is imported."""

from pathlib import Path

from skmoecbm.exceptions import FormatError, InputError

__all__ = [
    "ARRAYS",
    "CARD",
    "CONFIG",
    "read_bytes",
    "read_config_bytes",
    "refuse_earlier_model",
    "refuse_other_files",
]

CONFIG, ARRAYS, CARD = "config.json", "model.safetensors", "README.md"
_MAX_CONFIG_BYTES = 64 * 2**20


def read_bytes(folder, name, limit):
    """Return the bytes of one of a model's files, or say what is wrong with the folder."""
    folder = Path(folder)
    path = folder / name
    if folder.is_file():
        raise FormatError(f"'{folder}' is a file; a saved model is a folder. Give the folder.")
    if not folder.is_dir():
        raise FormatError(
            f"There is no folder '{folder}'. Give the folder that 'save' or 'skmoecbm fit --out' "
            "wrote."
        )
    try:
        if path.stat().st_size > limit:
            raise FormatError(f"'{path}' is larger than {limit / 2**20:.0f} MB; it is not loaded.")
        return path.read_bytes()
    except FileNotFoundError:
        raise FormatError(
            f"'{folder}' is not a saved model: it has no {name}. Give the folder that 'save' or "
            "'skmoecbm fit --out' wrote."
        ) from None
    except OSError as error:
        raise FormatError(f"'{path}' cannot be read: {error.strerror}.") from error


def read_config_bytes(folder):
    """Return the bytes of `config.json`; where there are none, the folder is no saved model."""
    return read_bytes(folder, CONFIG, _MAX_CONFIG_BYTES)


def refuse_other_files(folder):
    """Raise `InputError` where a model saved to `folder` would take the place of other things."""
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"'{folder}' is a file; a saved model is a folder. Give the folder.")
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(inside - {CONFIG, ARRAYS, CARD})
    if foreign:
        raise InputError(
            f"The folder '{folder}' holds files that are not of a saved model ({foreign[0]!r}). "
            "Choose a new folder, so that nothing else is lost."
        )


def refuse_earlier_model(folder):
    """Raise `InputError` where a model is in `folder` already."""
    if any((Path(folder) / name).exists() for name in (CONFIG, ARRAYS, CARD)):
        raise InputError(
            f"--out '{folder}' holds a model already. Add --overwrite to replace it, or give "
            "another --out."
        )
