"""Words, and when two of them are forms of one: the little that a linter needs."""

import re
from functools import cache
from importlib import resources

from pydantic import Field

from skmoecbm.concepts._parsing import read_json
from skmoecbm.concepts._parts import Part

__all__ = ["Pattern", "spelled", "stem", "words_of"]

Replacement = tuple[str, str]
Ending = tuple[str, str, int]


class _Spelling(Part):
    """How words are compared; see `rules/_spelling.json`."""

    about: str
    whole: tuple[str, ...] = ()
    letters: tuple[Replacement, ...]
    plurals: tuple[Ending, ...] = Field(min_length=1)
    endings: tuple[tuple[str, str, int], ...] = Field(min_length=1)

    # "" as a replacement is what most endings have
    model_config = Part.model_config | {"str_min_length": 0}


@cache
def _spelling():
    with resources.as_file(resources.files("skmoecbm.concepts") / "rules") as folder:
        return _Spelling(**read_json(folder / "_spelling.json"))


def words_of(text):
    """Return the words of a text, lower-case; hyphens part words, "n't" is "not"."""
    text = re.sub(r"n[’']t\b", " not", text.casefold()).replace("’", "'")
    return re.findall(r"[^\W_]+(?='s\b)|(?!(?<=')s\b)[^\W_]+|%", text)


@cache
def spelled(word):
    """Return the word in one spelling: "oedema" is "edema", "colour" is "color"."""
    for old, new in _spelling().letters:
        word = word.replace(old, new)
    return word


@cache
def stem(word):
    """Return what the forms of a word have in common.

    Examples
    --------
    >>> [stem(word) for word in ("nevus", "nevi", "naevi")]
    ['nev', 'nev', 'nev']
    >>> stem("keratoses") == stem("keratotic"), stem("basal") == stem("base")
    (True, False)
    """
    word = spelled(word)
    if word in _spelling().whole:
        return word
    for endings in (_spelling().plurals, _spelling().endings):
        for ending, new, left in endings:
            if word.endswith(ending) and len(word) - len(ending) >= left:
                word = word[: len(word) - len(ending)] + new
                break
    return word


class Pattern:
    """Several patterns of words, searched for at once.

    A pattern is words parted by spaces; `skin*` begins so, `fair|light` is one of several, `_` any
    word, `#` a number, `..` up to three words, `^` the beginning and `$` the end of the phrase.

    Examples
    --------
    >>> Pattern(["fair|light skin*"]).first(words_of("people with fair-skinned faces"))
    (2, 4)
    """

    def __init__(self, patterns):
        parts = ("".join(map(_part, pattern.split())) for pattern in patterns)
        self._regex = re.compile("(?<= )(?:" + "|".join(parts) + ")") if patterns else None

    def first(self, words):
        """Return the place (start, stop) of the first match, or None."""
        found = self._regex.search(_line(words)) if self._regex else None
        return _place(found, len(words)) if found else None

    def masked(self, words):
        """Return the words with None where the patterns match."""
        words = list(words)
        for found in self._regex.finditer(_line(words)) if self._regex else ():
            start, stop = _place(found, len(words))
            words[start:stop] = [None] * (stop - start)
        return words


def _line(words):
    return " ^ " + "".join(f"{'~' if w is None else spelled(w)} " for w in words) + "$ "


def _place(found, n):
    # the line begins with "^", which is no word
    start = found.string[: found.start()].count(" ") - 2
    stop = start + found[0].count(" ")
    return max(start, 0), min(stop, n)


def _part(word):
    if word == "..":
        return r"(?:[^ ^$~]+ ){0,3}?"
    choices = []
    for one in word.split("|"):
        if one == "_":
            choices.append(r"[^ ^$~]+")
        elif one == "#":
            choices.append(r"\d+")
        else:
            choices.append(
                re.escape(spelled(one.rstrip("*"))) + (r"[^ ]*" if one[-1] == "*" else "")
            )
    return f"(?:{'|'.join(choices)}) "
