"""The folder of a saved model and its files, known before anything heavy is imported."""

import json
import os
import re
import stat
from contextlib import contextmanager
from pathlib import Path

from skmoecbm.exceptions import FormatError, InputError

__all__ = [
    "ARRAYS",
    "CARD",
    "CONFIG",
    "image_name",
    "is_image",
    "is_of_a_model",
    "open_file",
    "read_bytes",
    "read_config_bytes",
    "refuse_earlier_model",
    "refuse_other_files",
    "weights_name",
]

CONFIG, ARRAYS, CARD = "config.json", "model.safetensors", "README.md"
_MAX_CONFIG_BYTES = 48 * 2**20

# Without O_NONBLOCK a named pipe in the folder would keep the caller waiting for ever. The path is
# resolved by then: no link is left in its last part.
_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK")
)
# What the card shows, beside it: see `weights_name` and `image_name`.
_WEIGHTS = re.compile(r"concept-weights-[1-8]\.png")
_IMAGE = re.compile(r"image-(0[1-9]|1[0-6])\.jpg")


def weights_name(number):
    """Return the name of the picture of an expert's weights, the first being 1."""
    return f"concept-weights-{number}.png"


def image_name(number):
    """Return the name of an image that the card shows, the first being 1."""
    return f"image-{number:02d}.jpg"


def is_image(name):
    """Return whether a file of this name is an image that the author of a card gave."""
    return _IMAGE.fullmatch(name) is not None


def is_of_a_model(name):
    """Return whether a file of this name is one that `save` writes."""
    return name in (CONFIG, ARRAYS, CARD) or is_image(name) or bool(_WEIGHTS.fullmatch(name))


@contextmanager
def open_file(folder, name, limit):
    """Open one of a model's files to read, and yield (file, its size).

    Raises
    ------
    FormatError
        If the folder is no saved model, or the file leads out of it, is no regular file or is
        larger than `limit` bytes.
    """
    folder = Path(folder)
    path = folder / name
    try:
        if folder.is_file():
            raise FormatError(f"'{folder}' is a file; a saved model is a folder. Give the folder.")
        if not folder.is_dir():
            raise FormatError(
                f"There is no folder '{folder}'. Give the folder that 'save' or 'skmoecbm fit "
                "--out' wrote."
            )
        descriptor = os.open(_inside(folder, name), _FLAGS)
    except FileNotFoundError:
        raise FormatError(
            f"'{folder}' is not a saved model: it has no {name}. Give the folder that 'save' or "
            "'skmoecbm fit --out' wrote."
        ) from None
    except OSError as error:
        raise FormatError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise FormatError(f"'{path}' is no regular file; fetch or save the model again.")
    with os.fdopen(descriptor, "rb") as file:
        if found.st_size > limit:
            raise FormatError(f"'{path}' is larger than {limit / 2**20:.0f} MB; it is not loaded.")
        try:
            yield file, found.st_size
        except OSError as error:
            raise FormatError(f"'{path}' cannot be read: {error.strerror or error}.") from error


def read_bytes(folder, name, limit):
    """Return the bytes of one of a model's files, or say what is wrong with the folder."""
    with open_file(folder, name, limit) as (file, size):
        content = file.read(size + 1)  # a file that grows is not followed
    if len(content) != size:
        raise FormatError(f"'{Path(folder) / name}' changed while it was read; load it again.")
    return content


def _inside(folder, name):
    """Return the real path of a file of the folder, which no link may lead out of it.

    The folder itself may be a link of the user's. The Hugging Face cache keeps its files beside
    the folder: repo/snapshots/commit/config.json is a link to repo/blobs/hash.
    """
    try:
        folder = folder.resolve(strict=True)
        real = (folder / name).resolve(strict=True)
    except RuntimeError as error:  # before Python 3.13 a circle of links is no OSError
        raise FormatError(f"'{folder / name}' is a circle of links: {error}.") from None
    blobs = folder.parent.parent / "blobs"
    in_cache = folder.parent.name == "snapshots" and real.parent == blobs
    if real.parent != folder and not in_cache:
        raise FormatError(
            f"'{folder / name}' is a link that leads out of its folder, to '{real}'; it is not "
            "followed. Put the file itself into the folder."
        )
    return real


def read_config_bytes(folder):
    """Return the bytes of `config.json`; where there are none, the folder is no saved model."""
    return read_bytes(folder, CONFIG, _MAX_CONFIG_BYTES)


def refuse_other_files(folder):
    """Raise `InputError` where a model saved to `folder` would take the place of other things."""
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"'{folder}' is a file; a saved model is a folder. Give the folder.")
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(name for name in inside if not is_of_a_model(name))
    if foreign:
        raise InputError(
            f"The folder '{folder}' holds files that are not of a saved model ({foreign[0]!r}). "
            "Choose a new folder, so that nothing else is lost."
        )
    # models of other libraries have files of the same names
    if inside and not _says_its_format(folder):
        raise InputError(
            f"The folder '{folder}' holds {min(inside)!r}, and no config.json that skmoecbm wrote: "
            "it may be of another library. Choose a new folder, so that nothing is lost."
        )


def _says_its_format(folder):
    """Return whether the `config.json` of a folder is of this package, of whatever version."""
    try:
        config = json.loads(read_config_bytes(folder))
    except (FormatError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "format_version" in config


def refuse_earlier_model(folder):
    """Raise `InputError` where a model is in `folder` already."""
    if any((Path(folder) / name).exists() for name in (CONFIG, ARRAYS, CARD)):
        raise InputError(
            f"--out '{folder}' holds a model already. Add --overwrite to replace it, or give "
            "another --out."
        )
