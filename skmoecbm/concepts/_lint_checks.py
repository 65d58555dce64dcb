"""What the linter's rules compare: each check yields the wordings at fault, and why."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from skmoecbm.concepts._bank import ConceptBank
from skmoecbm.concepts._lint_rules import pattern
from skmoecbm.concepts._lint_words import spelled, stem, words_of
from skmoecbm.exceptions import InputError

__all__ = ["Reader", "Sheet", "faults", "plain_words"]

NEEDED = ("name", "context_length", "count_tokens", "embed_texts")


class Reader:
    """A backbone, or the name of one that is loaded when a rule first asks for it."""

    def __init__(self, backbone):
        missing = [name for name in NEEDED if not hasattr(backbone, name)]
        if missing and not isinstance(backbone, str):
            raise InputError(
                "The 'backbone' parameter of lint_concepts must be a Backbone, its name or None. "
                f"Got {type(backbone).__name__} without {', '.join(missing)} instead."
            )
        self._backbone = backbone

    @property
    def model(self):
        """The backbone itself."""
        if isinstance(self._backbone, str):
            from skmoecbm.backbones import load_backbone

            self._backbone = load_backbone(self._backbone)
        return self._backbone


@dataclass(frozen=True)
class Wording:
    """A text of a concept: its own (`number` 0) or one of its other phrases."""

    concept: int
    number: int
    text: str
    words: tuple[str, ...]

    @property
    def rank(self):
        """What decides which of two equals stays; the order of the bank does not."""
        return self.number > 0, len(self.text), self.text.casefold(), self.text


@dataclass(frozen=True)
class Sheet:
    """The wordings of a bank, and who reads them."""

    bank: ConceptBank
    reader: Reader | None = None
    wordings: tuple[Wording, ...] = field(init=False)

    def __post_init__(self):
        rows = [
            Wording(i, number, text, tuple(words_of(text)))
            for i, concept in enumerate(self.bank.concepts)
            for number, text in enumerate((concept.text, *concept.phrases))
        ]
        object.__setattr__(self, "wordings", tuple(rows))

    @property
    def texts(self):
        """The wordings that are the texts of concepts, those first that stay of equals."""
        return sorted((w for w in self.wordings if w.number == 0), key=lambda w: w.rank)

    @property
    def templates(self):
        """All prompts of the bank."""
        return (*self.bank.templates, *sum(self.bank.modality_templates.values(), ()))

    @property
    def subject(self):
        """The words that tell what the images are of."""
        bank = self.bank
        return words_of(
            " ".join([bank.name, bank.description, *self.templates, *bank.modality_templates])
        )


def faults(kind, sheet):
    """Yield (wording, what fills the blanks of `kind.why`), each wording at most once."""
    if pattern(kind.not_for).first(sheet.subject) is None:
        yield from _CHECKS[kind.check](kind, sheet)


def _words(kind, sheet):
    found, but = pattern(kind.words), pattern(kind.but)
    for wording in sheet.wordings:
        words = but.masked(wording.words)
        if kind.all_words:
            if words and all(word and found.first([word]) for word in words):
                yield wording, {"found": wording.text}
        elif place := found.first(words):
            yield wording, {"found": " ".join(wording.words[slice(*place)])}


def _spellings(bank):
    """Yield (class key, words of a spelling of it); numbers and single letters are left out."""
    for one in bank.classes:
        for spelling in dict.fromkeys((one.name, one.key, *one.synonyms)):
            words = words_of(spelling)
            if len("".join(words)) > 1 and not all(word.isdigit() for word in words):
                yield one.key, words


def _each_is(patterns, words):
    return all(patterns.first([word]) is not None for word in words)


def _class_name(kind, sheet):
    plain = pattern(kind.words)
    names = [(key, words) for key, words in _spellings(sheet.bank) if not _each_is(plain, words)]
    return _naming(sheet, names, stem)


def _class_initials(kind, sheet):
    names = []
    for key, words in _spellings(sheet.bank):
        initials = "".join(word[0] for word in words if not word.isdigit())
        if len(initials) > 1 and initials not in kind.words:
            names.append((key, [initials]))
    return _naming(sheet, names, spelled)


def _class_part(kind, sheet):
    plain, names = pattern(kind.words), []
    for key, words in _spellings(sheet.bank):
        if _each_is(plain, words):
            names.append((key, words))
        else:
            # the noun comes last in English: "keratosis" of "benign keratosis-like lesions"
            telling = [w for w in words if plain.first([w]) is None and not w.isdigit()]
            names += [(key, [word]) for word in telling[-1:] if len(words) > 1 and len(word) > 2]
    return _naming(sheet, names, stem)


def _naming(sheet, names, form):
    """Yield the wordings that hold one of the names, words compared by their `form`."""
    wanted = defaultdict(list)
    for key, words in names:
        forms = tuple(form(word) for word in words)
        wanted[forms[0]].append((forms, key))
    for wording in sheet.wordings:
        forms = tuple(form(word) for word in wording.words)
        hits = (
            (start, len(name), key)
            for start, first in enumerate(forms)
            for name, key in wanted.get(first, ())
            if forms[start : start + len(name)] == name
        )
        if hit := next(hits, None):
            start, length, key = hit
            found = " ".join(wording.words[start : start + length])
            yield wording, {"found": found, "class_key": key}


def _same(wordings, key):
    """Yield (wording, the one that stays) of those with the same key; a key of None is none."""
    stays = {}
    for wording in wordings:
        same = key(wording)
        if same and stays.setdefault(same, wording) is not wording:
            yield wording, stays[same]


def plain_words(text):
    """Return what is left of a text but for case, hyphens, punctuation and kind of English."""
    return tuple(spelled(word) for word in words_of(text)) or text


def _same_words(kind, sheet):
    ranked = sorted(sheet.wordings, key=lambda w: w.rank)
    for wording, other in _same(ranked, lambda w: plain_words(w.text)):
        yield wording, {"other": other.text}


def _same_stems(kind, sheet):
    small = pattern(kind.words)

    def key(wording):
        stems = [stem(word) for word in wording.words if small.first([word]) is None]
        # of few words the order means nothing: "small, round, raised"; of many it may
        return tuple(sorted(stems) if len(stems) < 4 else stems)

    for wording, other in _same(sheet.texts, key):
        if plain_words(wording.text) != plain_words(other.text):
            yield wording, {"other": other.text}


def _same_embedding(kind, sheet):
    if sheet.reader is None:
        return
    texts, model = sheet.texts, sheet.reader.model
    rows = np.asarray(model.embed_texts([w.text for w in texts]), dtype=np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    stay = []
    for row, wording in enumerate(texts):
        similarity = rows[stay] @ rows[row] if stay else np.array([-1.0])
        nearest = int(similarity.argmax())
        if similarity[nearest] < kind.threshold:
            stay.append(row)
        elif plain_words(wording.text) != plain_words((other := texts[stay[nearest]]).text):
            blanks = {"other": other.text, "similarity": similarity[nearest]}
            yield wording, {**blanks, "backbone": model.name}


def _context(kind, sheet):
    if sheet.reader is None:
        return
    model = sheet.reader.model
    longest = np.zeros(len(sheet.wordings), dtype=int)
    for template in sheet.templates:
        filled = [template.replace("{}", wording.text) for wording in sheet.wordings]
        longest = np.maximum(longest, model.count_tokens(filled))
    for wording, tokens in zip(sheet.wordings, longest.tolist(), strict=True):
        if tokens > model.context_length:
            blanks = {"tokens": tokens, "limit": model.context_length, "backbone": model.name}
            yield wording, blanks


def _classes(kind, sheet):
    for wording in sheet.wordings:
        keys = sheet.bank.concepts[wording.concept].classes
        if wording.number == 0 and len(keys) > 1:
            blanks = {"n": len(keys), "n_classes": len(sheet.bank.classes)}
            yield wording, {**blanks, "class_keys": ", ".join(keys)}


_CHECKS = {
    "words": _words,
    "class-name": _class_name,
    "class-initials": _class_initials,
    "class-part": _class_part,
    "same-words": _same_words,
    "same-stems": _same_stems,
    "same-embedding": _same_embedding,
    "context": _context,
    "classes": _classes,
}
