"""Images of a report: small JPEGs inside the page, without anything but their pixels."""

import base64
import io

from PIL import Image

from skmoecbm.exceptions import InputError
from skmoecbm.images import load_image

__all__ = ["data_uri"]


def data_uri(image, side, *, value_range=None):
    """Return an image as a ``data:`` address, or None where it cannot be read.

    The pixels alone are written anew: no EXIF, no colour profile, no name.

    Parameters
    ----------
    image : what `load_image` takes
    side : int
        Pixels of the longer side, at most.
    value_range : (low, high), default=None

    Returns
    -------
    uri : str or None
    size : (width, height) or None
    """
    try:
        picture = load_image(image, value_range=value_range)
    except InputError:
        return None, None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    plain = Image.new("RGB", picture.size)
    plain.paste(picture)
    buffer = io.BytesIO()
    plain.save(buffer, "JPEG", quality=82, optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{code}", plain.size
