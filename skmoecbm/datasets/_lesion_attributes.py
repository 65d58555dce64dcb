"""The attributes of the synthetic lesions, their classes, and how both are drawn at random."""

import numpy as np

__all__ = [
    "ATTRIBUTES",
    "CLASSES",
    "CLASS_PROBABILITIES",
    "COLOURS",
    "GENERAL",
    "MODES",
    "STRUCTURES",
    "sample_attributes",
]

GENERAL = (
    "asymmetric shape",
    "irregular border",
    "blurred border",
    "large size",
    "light brown color",
    "dark brown color",
    "black color",
    "red color",
    "blue-gray color",
    "yellow color",
    "hair",
    "dark corners",
)
STRUCTURES = (
    "pigment network",
    "globules",
    "streaks",
    "blue-white veil",
    "arborizing vessels",
    "dotted vessels",
    "lacunae",
    "milia-like cysts",
    "comedo-like openings",
    "scale",
    "ulceration",
    "white center",
    "ovoid nests",
)
ATTRIBUTES = GENERAL + STRUCTURES
COLOURS = tuple(name for name in GENERAL if name.endswith("color"))
CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
MODES = ("class", "independent", "sparse", "mixed")

# P(attribute | class) in per cent, columns in the order of ATTRIBUTES. Written after the textbook
# descriptions of the seven diagnoses of HAM10000, then flattened until a logistic regression on the
# true attributes reaches a balanced accuracy of about 0.84 and colour statistics alone under 0.45.
_PER_CENT = (
    # asymmetric irregular blurred large, light brown, dark brown, black, red, blue-gray, yellow,
    # hair, corners; then network globules streaks veil arborizing dotted lacunae milia comedo scale
    # ulceration white-center nests
    # akiec
    45,
    65,
    65,
    40,
    35,
    15,
    8,
    60,
    8,
    50,
    35,
    35,
    9,
    9,
    5,
    4,
    10,
    52,
    4,
    13,
    12,
    68,
    29,
    9,
    5,
    # bcc
    55,
    35,
    45,
    50,
    20,
    20,
    20,
    50,
    50,
    15,
    35,
    35,
    7,
    15,
    5,
    11,
    65,
    13,
    8,
    9,
    5,
    15,
    43,
    9,
    61,
    # bkl
    35,
    30,
    10,
    60,
    55,
    45,
    20,
    12,
    14,
    55,
    35,
    35,
    20,
    20,
    4,
    4,
    7,
    11,
    4,
    65,
    60,
    29,
    7,
    5,
    5,
    # df
    12,
    14,
    75,
    20,
    60,
    28,
    6,
    35,
    8,
    18,
    35,
    35,
    52,
    13,
    5,
    3,
    9,
    20,
    5,
    5,
    5,
    16,
    5,
    74,
    5,
    # mel
    82,
    80,
    25,
    60,
    30,
    55,
    60,
    25,
    40,
    8,
    35,
    35,
    39,
    44,
    54,
    59,
    11,
    29,
    4,
    13,
    5,
    9,
    25,
    13,
    11,
    # nv
    12,
    12,
    25,
    30,
    45,
    68,
    25,
    12,
    12,
    10,
    35,
    35,
    71,
    56,
    9,
    5,
    4,
    7,
    3,
    7,
    7,
    5,
    2,
    3,
    3,
    # vasc
    20,
    16,
    10,
    20,
    8,
    12,
    25,
    75,
    42,
    6,
    35,
    35,
    4,
    9,
    4,
    11,
    11,
    12,
    74,
    4,
    4,
    8,
    15,
    4,
    12,
)
CLASS_PROBABILITIES = np.reshape(_PER_CENT, (len(CLASSES), len(ATTRIBUTES))) / 100.0
INDEPENDENT_RATE = 0.22
SPARSE_RATE = 0.10


def sample_attributes(n_samples, mode, rng):
    """Draw classes and attributes.

    Parameters
    ----------
    n_samples : int
    mode : {"class", "independent", "sparse", "mixed"}
        "class" draws each attribute with its probability in the image's class; "independent" and
        "sparse" draw it with one rate (0.22, 0.10) whatever the class; "mixed" takes one of the
        three for each image, equally often.
    rng : numpy.random.RandomState

    Returns
    -------
    target : int array of shape (n_samples,)
        Index into `CLASSES`, uniform.
    attributes : bool array of shape (n_samples, 25)
        Every lesion has a colour: where none was drawn, one is added.
    """
    n_attributes = len(ATTRIBUTES)
    target = rng.randint(len(CLASSES), size=n_samples)
    rates = np.empty((3, n_samples, n_attributes))
    rates[0] = CLASS_PROBABILITIES[target]
    rates[1] = INDEPENDENT_RATE
    rates[2] = SPARSE_RATE
    if mode == "mixed":
        source = rng.randint(3, size=n_samples)
    else:
        source = np.full(n_samples, MODES.index(mode))
    rate = rates[source, np.arange(n_samples)]
    attributes = rng.random_sample((n_samples, n_attributes)) < rate

    colours = np.array([ATTRIBUTES.index(name) for name in COLOURS])
    # Gumbel trick: one colour per row, with probability proportional to its rate.
    fallback = np.log(rate[:, colours]) + rng.gumbel(size=(n_samples, len(colours)))
    without = np.flatnonzero(~attributes[:, colours].any(axis=1))
    attributes[without, colours[fallback[without].argmax(axis=1)]] = True
    return target, attributes
