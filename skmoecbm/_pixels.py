"""From a PIL image to the numbers a network sees: open_clip's, bit for bit, in less time."""

import numpy as np
import torch
from open_clip.transform import MaybeConvertMode, MaybeToTensor, PreprocessCfg, image_transform_v2
from torchvision.transforms import CenterCrop, Normalize, Resize
from torchvision.transforms.functional import pil_modes_mapping

from skmoecbm.exceptions import Unreadable

__all__ = ["Preprocessing", "move_levels", "scale_levels"]


class Preprocessing:
    """open_clip's transform of an image for a network, in two parts.

    `shape` resizes one image, which may happen in a thread of its own; `scale_levels` makes
    float32 of a whole batch, on the network's device. Resizing is Pillow's: torch's own kernel for
    8-bit images takes a third of the time, but moves pixels by one level (two where it enlarges),
    and embeddings that are kept would no longer be those of the same image.

    Parameters
    ----------
    settings : dict
        What `open_clip.transform.PreprocessCfg` takes.

    Raises
    ------
    AssertionError, TypeError, ValueError
        From open_clip, where it knows no such setting.
    """

    def __init__(self, settings):
        steps = image_transform_v2(PreprocessCfg(**settings), is_train=False).transforms
        *self._shaping, convert, to_tensor, normalize = steps
        known = (type(convert), type(to_tensor), type(normalize))
        if known != (MaybeConvertMode, MaybeToTensor, Normalize):
            raise TypeError(f"open_clip's transform ends in {known}, which is not known here.")
        self.mean = tuple(float(value) for value in normalize.mean)
        self.std = tuple(float(value) for value in normalize.std)
        self._side = None
        if [type(step) for step in self._shaping] == [Resize, CenterCrop]:
            resize, crop = self._shaping
            side = resize.size
            if isinstance(side, int) and tuple(crop.size) == (side, side):
                self._side = side
                self._filter = pil_modes_mapping[resize.interpolation]

    def shape(self, image):
        """Return an image as an RGB one of the network's size; such a one as it is.

        Parameters
        ----------
        image : PIL.Image.Image
        """
        if self._side is not None and image.mode in ("RGB", "L"):
            image = _middle(image, self._side, self._filter)
        else:
            width, height = image.size
            try:
                for step in self._shaping:
                    image = step(image)
            except ValueError as error:
                raise Unreadable(
                    f"it has {width} x {height} pixels, too thin for this network: one side would "
                    "be fitted to nothing. Leave it out, or take resize='squash'."
                ) from error
        return image if image.mode == "RGB" else image.convert("RGB")

    def levels(self, image):
        """Return what the network sees of an image, uint8 (h, w, 3)."""
        return np.asarray(self.shape(image))


def move_levels(levels, device):
    """Return 8-bit images on a device; a copy to a GPU goes on while the next are made ready.

    Parameters
    ----------
    levels : tensor of shape (n, h, w, 3), uint8, on the CPU
        Bytes, a quarter of what float32 would cost to move.
    device : torch.device
    """
    if device.type == "cuda":  # only from pinned memory does a copy not hold up this thread
        return levels.pin_memory().to(device, non_blocking=True)
    return levels.to(device)


def scale_levels(levels, mean, std):
    """Return 8-bit images as the network takes them.

    Parameters
    ----------
    levels : tensor of shape (n, h, w, 3), uint8
    mean, std : sequences of 3 floats
        Of the channels, where black is 0 and white 1.

    Returns
    -------
    tensor of shape (n, 3, h, w), float32
        On the device of `levels`; the bits that torchvision's ToTensor and Normalize give.
    """
    pixels = levels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    mean, std = (
        torch.tensor(values, dtype=torch.float32).to(levels.device, non_blocking=True)[
            :, None, None
        ]
        for values in (mean, std)
    )
    return pixels.div_(255).sub_(mean).div_(std)


def _middle(image, side, resample):
    """Fit the short side of an image and cut out the middle, as Resize and CenterCrop do.

    Pillow fits the columns first and then the rows, so what is cut off the columns need not be
    carried through the rows. Cutting the input first (Pillow's `box`) would move pixels: the
    box is rounded to float32.
    """
    width, height = image.size
    short = min(width, height)
    # torchvision cuts the fraction off the longer side
    new_width = side if width == short else int(side * width / height)
    new_height = side if height == short else int(side * height / width)
    left = round((new_width - side) / 2.0)
    top = round((new_height - side) / 2.0)
    if new_width != width:
        image = image.resize((new_width, height), resample)
    if new_width != side:
        image = image.crop((left, 0, left + side, height))
    if new_height != height:
        image = image.resize((side, new_height), resample)
    if new_height != side:
        image = image.crop((0, top, side, top + side))
    return image
