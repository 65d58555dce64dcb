"""The words of the synthetic lesions: phrases for each attribute, and captions."""

import functools
from itertools import product

from skmoecbm.datasets._lesion_attributes import ATTRIBUTES, GENERAL

__all__ = ["caption", "held_out_phrases", "known_phrases", "negate", "training_phrases"]

# Each concept: groups of words whose combinations are its phrases. A concept's name comes first.
_WORDS = {
    "asymmetric shape": (("asymmetric", "asymmetrical", "lopsided"), ("shape", "lesion", "form")),
    "irregular border": (
        ("irregular", "jagged", "ragged", "notched"),
        ("border", "edge", "margin", "outline"),
    ),
    "blurred border": (
        ("blurred", "fuzzy", "ill-defined", "fading"),
        ("border", "edge", "margin", "outline"),
    ),
    "large size": (("large", "big", "wide"), ("size", "lesion", "diameter")),
    "light brown color": (("light brown", "tan", "pale brown"), ("color", "area", "pigment")),
    "dark brown color": (("dark brown", "deep brown"), ("color", "area", "pigment")),
    "black color": (("black", "jet black", "ink black"), ("color", "area", "pigment")),
    "red color": (("red", "pink red", "reddish"), ("color", "area", "patch")),
    "blue-gray color": (("blue-gray", "slate blue", "bluish gray"), ("color", "area", "patch")),
    "yellow color": (("yellow", "yellowish", "orange yellow"), ("color", "area", "patch")),
    "hair": (("hair", "hairs", "dark hair", "body hair"), ("", "on the skin", "across the lesion")),
    "dark corners": (("dark", "shaded", "vignetted"), ("corners", "image corners", "frame")),
    "pigment network": (
        ("pigment", "reticular", "honeycomb", "brown"),
        ("network", "mesh", "grid pattern"),
    ),
    "globules": (("", "brown", "dark", "clustered"), ("globules", "round globules", "clods")),
    "streaks": (("", "radial", "peripheral", "dark"), ("streaks", "streaming", "pseudopods")),
    "blue-white veil": (("blue-white", "blue whitish", "bluish-white"), ("veil", "haze", "film")),
    "arborizing vessels": (
        ("arborizing", "branching", "tree-like"),
        ("vessels", "blood vessels", "telangiectasia"),
    ),
    "dotted vessels": (
        ("dotted", "pinpoint", "red dot"),
        ("vessels", "capillaries", "vascular pattern"),
    ),
    "lacunae": (("", "red", "purple", "vascular"), ("lacunae", "lagoons", "lakes")),
    "milia-like cysts": (
        ("milia-like", "white", "bright", "tiny milia"),
        ("cysts", "dots", "pinheads"),
    ),
    "comedo-like openings": (
        ("comedo-like", "crypt", "keratin"),
        ("openings", "plugs", "pores"),
    ),
    "scale": (("", "white", "surface", "dry"), ("scale", "scaling", "flakes")),
    "ulceration": (("", "bloody", "central", "raw"), ("ulceration", "ulcer", "erosion")),
    "white center": (("white", "scar-like", "pale"), ("center", "central patch", "middle")),
    "ovoid nests": (("ovoid", "oval", "large oval"), ("nests", "blue-gray nests", "pigment nests")),
}
_CLEAN = ("{}", "a lesion with {}", "{} in dermoscopy", "skin lesion showing {}", "there is {}")


@functools.cache
def _combine(name):
    pairs = [" ".join(part for part in pair if part) for pair in product(*_WORDS[name])]
    rest = [phrase for phrase in pairs if phrase != name]
    return (name, *dict.fromkeys(rest))


def held_out_phrases(name):
    """Return the phrases of a concept that are never trained: new pairs of known words."""
    heads, tails = _WORDS[name]
    kept = []
    for i, head in enumerate(heads):
        # A diagonal, so that each word of a held-out pair is trained in other pairs.
        phrase = " ".join(part for part in (head, tails[-1 - i % len(tails)]) if part)
        if phrase != name and i > 0:
            kept.append(phrase)
    return kept[:2]


@functools.cache
def training_phrases(name):
    """Return the phrases of a concept that the demonstration experts are trained on."""
    held_out = set(held_out_phrases(name))
    return tuple(phrase for phrase in _combine(name) if phrase not in held_out)


def known_phrases(name):
    """Return all phrases of a concept, its name first."""
    return _combine(name)


def negate(phrase):
    """Return the phrase that says the concept is absent."""
    return f"no {phrase}"


def caption(present, rng):
    """Return a sentence about one lesion.

    Parameters
    ----------
    present : bool array of shape (25,)
    rng : numpy.random.RandomState
    """
    shown = [name for name, here in zip(ATTRIBUTES, present, strict=True) if here]
    chosen = [shown[i] for i in rng.permutation(len(shown))[: rng.randint(2, 6)]]
    # The general words first, as in a report.
    chosen.sort(key=lambda name: name not in GENERAL)
    words = []
    for name in chosen:
        phrases = training_phrases(name)
        words.append(phrases[rng.randint(len(phrases))])
    text = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
    return _CLEAN[1].format(text)
