"""Texts without the words that name a class: reports that do not tell the diagnosis outright."""

import re
import unicodedata
from functools import lru_cache

import numpy as np

from skmoecbm._validation import parameter_error
from skmoecbm.concepts._library import as_bank
from skmoecbm.concepts._lint_rules import bundled_rules, pattern
from skmoecbm.concepts._lint_words import spelled, stem
from skmoecbm.exceptions import InputError

__all__ = ["mask_terms"]

# A word may hold combining accents, soft hyphens and zero-width characters; letters and digits
# are words of their own, so that "COVID-19", "covid 19" and "COVID19" are the same two.
_HIDDEN = "\u0300-\u036f\u00ad\u200b-\u200d\u2060"
_TOKEN = re.compile(rf"(?P<s>['’][sS]\b)|(?:[^\W\d_][{_HIDDEN}]*)+|\d+")
# What may part the words of one name: space, hyphens and dashes of any kind, "_", "/".
_PART = r"\s\-_/\u2010-\u2015\u2212"
_GAP = re.compile(rf"(?:['’][sS]?)?[{_PART}{_HIDDEN}]*")
# "-2" and "2019" right behind a masked name are the rest of it, and after a space if a name has it.
_TAIL = re.compile(r"[-_\u2010-\u2015\u2212]?\d+|\s(?P<apart>\d{2,})\b")
# Words of class names that tell no class, beside those of the linter's rule.
_PLAIN = "and apparent associated by colon* device* due enlarged from in or pulmonary rib smooth"
_PLAIN = (*_PLAIN.split(), "support", "the", "to")
# Shorter words are found in too many others: "mass" in "massive", "cov" in "recover".
_MIN_INSIDE = 5
_MIN_JOINED = 6


def mask_terms(texts, bank, *, mask="___", extra=(), return_counts=False):
    """Replace the words that name a class of the bank, in reports that go into a model.

    Found are names, keys and synonyms of the classes in any case and in the forms of their words
    ("nevus", "naevi"), with hyphen, space or neither ("COVID-19", "covid 19", "COVID19"), cut at
    the end of a line, inside longer words ("bronchopneumonia", "non-COVID"); the telling words of
    a name alone ("pneumonia" of "viral pneumonia"); and its first letters ("BCC"; two of them only
    as capitals). The longest match counts, and neighbours become one mask.

    Not found are words that the bank does not have: other diseases, tests and treatments that
    give the diagnosis away ("RT-PCR", "antiviral"), misspellings. Name them in `extra`, and look
    at what is left. A mask still tells that something was named, also after "no" or "suspected";
    `mask=""` leaves a gap instead.

    Parameters
    ----------
    texts : list, tuple, 1-D array or Series of n str; None, NaN or blank where missing
    bank : ConceptBank, dict of class to phrases, or str
        As the `concepts` of `ConceptEncoder`; its classes are masked, not its concepts.
    mask : str, default="___"
    extra : str or list of str, default=()
        Further terms, found in the same way but for first letters.
    return_counts : bool, default=False
        Return also how many masks each text got.

    Returns
    -------
    masked : list of length n, or Series with the same index
        Missing texts are as they were.
    counts : ndarray of shape (n,), int
        Only if `return_counts`.

    Raises
    ------
    InputError
        If the texts are no sequence of str, a parameter is bad, or there is nothing to mask.

    Examples
    --------
    >>> from skmoecbm import mask_terms
    >>> reports = ["Suspected covid 19; no viral pneumonias.", None, "RT-PCR positive."]
    >>> mask_terms(reports, "covid_radiography", extra=["RT-PCR"])
    ['Suspected ___; no ___.', None, '___ positive.']
    """
    from skmoecbm._encoder_rows import as_text_list  # brings the store, which concepts do not need

    if not isinstance(mask, str):
        raise parameter_error("mask_terms", "mask", "a str", mask)
    extra = [extra] if isinstance(extra, str) else extra
    if not isinstance(extra, list | tuple | set | frozenset) or not all(
        isinstance(term, str) and _tokens(term) for term in extra
    ):
        raise parameter_error("mask_terms", "extra", "a str or a list of str with words", extra)
    given = as_text_list(texts)
    bank = as_bank(bank)
    terms = _Terms(bank, extra)
    if not terms.forms:
        raise InputError(
            f"The bank {bank.name!r} has no classes whose names could be masked. Give a bank with "
            "classes, or the terms themselves in `extra`."
        )
    originals = np.asarray(texts, dtype=object).ravel().tolist()
    masked, counts = [], np.zeros(len(given), dtype=int)
    for row, text in enumerate(given):
        spans = [] if text is None else terms.spans(text)
        counts[row] = len(spans)
        masked.append(originals[row] if text is None else _replaced(text, spans, mask))
    if hasattr(texts, "iloc") and texts.ndim == 1:
        masked = type(texts)(masked, index=texts.index, name=texts.name)
    return (masked, counts) if return_counts else masked


class _Terms:
    """The terms to mask, in the forms that words of a text are compared with."""

    def __init__(self, bank, extra):
        kinds = {kind.name: kind for kind in bundled_rules()["leak"].kinds}
        plain = pattern((*kinds["part"].words, *_PLAIN))
        common = set(kinds["abbreviation"].words)
        self.forms, self.letters, self.capitals = set(), set(), set()
        self.inside, self.numbers = set(), set()
        names = [n for one in bank.classes for n in (one.name, one.key, *one.synonyms)]
        for name, is_extra in [(n, False) for n in names] + [(n, True) for n in extra]:
            words = [word for word, _, _ in _tokens(name)]
            if len("".join(words)) < 2 or all(word.isdigit() for word in words):
                continue  # a grade "3" or a class "a" would mask half of a report
            telling = [w for w in words if not w.isdigit() and plain.first([w]) is None]
            self._add(words, is_extra or bool(telling))
            self.numbers |= {word for word in words if word.isdigit()}
            if is_extra or len(words) == 1:
                continue
            if telling:  # "sars cov 2" of "sars-cov-2 infection"
                start, stop = words.index(telling[0]), len(words)
                while words[stop - 1] not in telling and not words[stop - 1].isdigit():
                    stop -= 1
                if stop - start > 1:
                    self._add(words[start:stop])
            for word in telling:
                if len(word) > 2:
                    self._add([word])
                else:
                    self.capitals.add(word)
            initials = "".join(w[0] for w in words if not w.isdigit() and w != "like")
            if len(initials) > 1 and initials not in common:
                (self.capitals if len(initials) == 2 else self.letters).add(initials)
        self.forms |= {(stem(form),) for form in self.letters}
        self.starts = {"".join(form)[:2] for form in self.forms if isinstance(form, tuple)}
        self.longest = 1 + max((len(f) for f in self.forms if isinstance(f, tuple)), default=0)
        self.within = lru_cache(maxsize=100_000)(self._within)

    def _add(self, words, is_telling=True):
        """Add a name as a tuple of stems and, for other hyphens, as the stem of all in one."""
        self.forms.add(tuple(stem(word) for word in words))
        joined = "".join(words)
        self.forms.add(stem(joined))
        if len(joined) <= 3:
            self.letters.add(joined)
        if len(words) == 1:
            # "healthy" is in "unhealthy"; its stem is in "healthcare", too
            forms = {spelled(joined), stem(joined)} if is_telling else {spelled(joined)}
            self.inside |= {form for form in forms if len(form) >= _MIN_INSIDE}

    def _within(self, word):
        return any(form in word for form in self.inside)

    def spans(self, text):
        """Return (start, stop) of what must be masked, in order; neighbours are one."""
        tokens = _tokens(text)
        spans, i = [], 0
        while i < len(tokens):
            length = self._match(text, tokens, i)
            if not length:
                i += 1
                continue
            start, stop = tokens[i][1], tokens[i + length - 1][2]
            i += length
            tail = _TAIL.match(text, stop)
            if tail and tail["apart"] in {None, *self.numbers}:
                stop = tail.end()
                while i < len(tokens) and tokens[i][1] < stop:
                    i += 1
            if spans and _GAP.fullmatch(text, spans[-1][1], start):
                start = spans.pop()[0]
            spans.append((start, stop))
        return spans

    def _match(self, text, tokens, i):
        """Return how many words from the i-th on are a term, the most that are; 0 if none."""
        window = 1
        dotted = len(tokens[i][0]) == 1
        while i + window < len(tokens) and window < max(self.longest, 4):
            word, start, _ = tokens[i + window]
            before = tokens[i + window - 1][2]
            dotted = dotted and len(word) == 1
            if not (_GAP.fullmatch(text, before, start) or (dotted and text[before:start] == ".")):
                break
            window += 1
        for length in range(window, 0, -1):
            if self._is_term(text, tokens[i : i + length]):
                return length
        return 0

    def _is_term(self, text, tokens):
        words = [word for word, _, _ in tokens]
        joined = "".join(words)
        if all(len(word) == 1 for word in words) and len(words) > 1:
            if "." not in text[tokens[0][2] : tokens[1][1]]:
                return False
            return joined in self.letters or (
                joined in self.capitals and text[tokens[0][1]].isupper()
            )
        if len(words) == 1:
            _, start, stop = tokens[0]
            # "CD" may be a coronavirus disease, "CD4" is not
            if joined in self.capitals and text[start:stop].isupper():
                return not text[stop : stop + 1].isdigit()
            if self.within(spelled(joined)):
                return True
        if spelled(joined)[:2] not in self.starts:
            return False
        if tuple(stem(word) for word in words) in self.forms:
            return True
        return (len(words) == 1 or len(joined) >= _MIN_JOINED) and stem(joined) in self.forms


def _tokens(text):
    """Return (word as it is compared, start, stop) of each word and each number of a text."""
    return [
        (_plain_letters(found[0]), *found.span())
        for found in _TOKEN.finditer(text)
        if found["s"] is None
    ]


@lru_cache(maxsize=100_000)
def _plain_letters(word):
    letters = unicodedata.normalize("NFKD", word.casefold())
    return re.sub(f"[{_HIDDEN}]", "", letters)


def _replaced(text, spans, mask):
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], mask]
        end = stop
    return "".join([*parts, text[end:]])
