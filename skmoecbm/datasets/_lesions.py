"""`make_lesions`: drawings that look like dermoscopy, with every attribute known."""

import numpy as np
import torch
from sklearn.utils import check_random_state

from skmoecbm._validation import check_choice, check_number, one_thread, parameter_error
from skmoecbm.datasets import _lesion_attributes as known
from skmoecbm.datasets._bunch import image_bunch
from skmoecbm.datasets._lesion_canvas import Canvas, enlarge, noise, uniform
from skmoecbm.datasets._lesion_photo import add_camera, add_hair, add_vignette, draw_skin
from skmoecbm.datasets._lesion_structures import DRAWERS
from skmoecbm.datasets._lesion_text import caption
from skmoecbm.datasets._splits import PARTS

__all__ = ["draw_lesions", "make_lesions"]

BATCH = 128
PALETTE = torch.tensor(
    [
        [0.72, 0.51, 0.36],  # light brown
        [0.38, 0.22, 0.14],  # dark brown
        [0.10, 0.08, 0.09],  # black
        [0.83, 0.30, 0.32],  # red
        [0.40, 0.46, 0.58],  # blue-gray
        [0.88, 0.72, 0.34],  # yellow
    ]
)
_COLUMN = {name: index for index, name in enumerate(known.ATTRIBUTES)}


def _lesion_colours(generator, has_colour, size):
    """Return a mosaic of the colours each lesion has, of shape (n, 3, size, size)."""
    n, n_colours = has_colour.shape
    cells = 24
    palette = PALETTE + uniform(generator, -0.05, 0.05, n, n_colours, 3)
    palette = palette * uniform(generator, 0.88, 1.10, n, n_colours, 1)
    field = (
        noise(generator, n, 3, cells, n_colours) * 6 + noise(generator, n, 6, cells, n_colours) * 5
    )
    field = field.masked_fill_(~has_colour[:, :, None, None], -1e4)
    share = torch.softmax(field, dim=1).flatten(2)
    return enlarge(torch.bmm(palette.transpose(1, 2), share).view(n, 3, cells, cells), size)


def draw_lesions(attributes, size, generator, *, photographic=False):
    """Draw one batch of lesions.

    Parameters
    ----------
    attributes : bool array of shape (n, 25)
    size : int
        Side of the images in pixels.
    generator : torch.Generator
    photographic : bool, default=False

    Returns
    -------
    float32 tensor of shape (n, 3, size, size)
        RGB in [0, 1].
    """
    flags = torch.as_tensor(np.asarray(attributes))
    n = len(flags)

    def rows(name):
        return torch.nonzero(flags[:, _COLUMN[name]])[:, 0]

    shape = [flags[:, _COLUMN[name]] for name in known.GENERAL[:4]]
    canvas = Canvas(generator, size, *shape)
    image = draw_skin(generator, n, size)
    colours = _lesion_colours(generator, flags[:, [_COLUMN[name] for name in known.COLOURS]], size)
    patchy = 1 - uniform(generator, 0.0, 0.25, n, 1, 1, 1) * noise(generator, n, 10, size).clamp_(
        0, 1
    )
    depth = uniform(generator, 0.55 if photographic else 0.82, 1.0, n, 1, 1, 1)
    colours = colours * (1 + 0.05 * noise(generator, n, 24, size)) * canvas.shade[:, None]
    image = torch.lerp(image, colours, canvas.mask[:, None] * patchy * depth)
    bare = image.clone() if photographic else image
    for name, draw in DRAWERS.items():
        chosen = rows(name)
        if len(chosen):
            draw(image, canvas, chosen)
    if photographic:
        # On skin the structures are faint more often than not.
        image = torch.lerp(bare, image, uniform(generator, 0.45, 1.0, n, 1, 1, 1))
    for name, draw in (("hair", add_hair), ("dark corners", add_vignette)):
        chosen = rows(name)
        if len(chosen):
            draw(image, canvas, chosen)
    return add_camera(image, canvas, photographic)


def make_lesions(n, *, image_size=64, mode="class", photographic=False, random_state=None):
    """Draw synthetic skin lesions of seven overlapping classes, with all their attributes.

    The drawings train and test the demonstration experts. They are caricatures of dermoscopy:
    no conclusion about skin follows from them.

    Parameters
    ----------
    n : int
        Number of images.
    image_size : int, default=64
        Side of the square images in pixels, at least 16.
    mode : {"class", "independent", "sparse", "mixed"}, default="class"
        How attributes are drawn. "class": with the probabilities of the image's class.
        "independent": each with probability 0.22 whatever the class, so that no attribute foretells
        another. "sparse": each with probability 0.10. "mixed": one of the three for each image. A
        lesion always has at least one colour.
    photographic : bool, default=False
        Add what cameras add: uneven light, colour casts, ruler marks, gel bubbles, blur, sharpening
        and JPEG blocks. Hair and dark corners are attributes and come with or without it.
    random_state : int, RandomState instance or None, default=None
        Seed of every choice. The same seed gives the same images on the same machine.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        images : uint8 array of shape (n, image_size, image_size, 3)
            RGB.
        target : str array of shape (n,)
            The class, such as "mel-like".
        target_names : list of str
            The seven classes.
        attributes : bool array of shape (n, 25)
            Which structures were drawn.
        attribute_names : list of str
            Twelve of colour, shape, size and border, then thirteen structures and vessels.
        captions : list of str
            A sentence for each image that names some of its attributes.
        metadata : pandas.DataFrame of n rows
            The attributes under their names.
        groups : None
            Every drawing is a lesion of its own.
        splits : mapping with "random": part ("train", "val", "test") -> rows
            The first 70, the next 10 and the last 20 in 100.
        part, take : methods
            ``data.part("train")`` is a Bunch of the rows of that part.
        task, metric, scoring : str
            "multi-class"; "balanced_accuracy" of `evaluate` and scikit-learn.
        DESCR : str
            Licence, classes, traps.

    Raises
    ------
    InputError
        If a parameter is out of its range.

    Examples
    --------
    >>> from skmoecbm.datasets import make_lesions
    >>> data = make_lesions(3, random_state=0)
    >>> data.images.shape, data.attributes.shape
    ((3, 64, 64, 3), (3, 25))
    >>> sorted(set(data.target) - set(data.target_names))
    []
    >>> make_lesions(20, random_state=0).part("train").images.shape
    (14, 64, 64, 3)
    """
    owner = "make_lesions"
    check_number(owner, "n", n, low=1, integer=True)
    check_number(owner, "image_size", image_size, low=16, high=2048, integer=True)
    check_choice(owner, "mode", mode, known.MODES)
    if not isinstance(photographic, bool | np.bool_):
        raise parameter_error(owner, "photographic", "True or False", photographic)

    rng = check_random_state(random_state)
    target, attributes = known.sample_attributes(n, mode, rng)
    generator = torch.Generator().manual_seed(int(rng.randint(np.iinfo(np.int32).max)))
    images = np.empty((n, image_size, image_size, 3), dtype=np.uint8)
    with torch.inference_mode(), one_thread():
        for start in range(0, n, BATCH):
            part = slice(start, start + BATCH)
            drawn = draw_lesions(
                attributes[part], image_size, generator, photographic=bool(photographic)
            )
            pixels = drawn.mul_(255).add_(0.5).to(torch.uint8)
            images[part] = pixels.permute(0, 2, 3, 1).numpy()
    import pandas as pd

    names = np.array([f"{code}-like" for code in known.CLASSES])
    ends = [round(0.7 * n), round(0.8 * n)]  # whole at any n; what is drawn has no order
    parts = np.split(np.arange(n), ends)
    return image_bunch(
        name="lesions",
        images=images,
        target=names[target],
        target_names=names.tolist(),
        metadata=pd.DataFrame(attributes, columns=list(known.ATTRIBUTES)),
        splits={"random": dict(zip(PARTS, parts, strict=True))},
        more={
            "attributes": attributes,
            "attribute_names": list(known.ATTRIBUTES),
            "captions": [caption(row, rng) for row in attributes],
        },
    )
