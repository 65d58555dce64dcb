"""One list of concepts from many answers."""

import re
import unicodedata
from collections import Counter

from skmoecbm.concepts._parsing import folded

__all__ = ["merged", "tidy"]


def tidy(phrase):
    """Return a phrase in the form that banks have: no bullet, quotes, full stop or capital.

    Words written in capitals (RPE, CT) stay as they are, unless all are.
    """
    phrase = " ".join(unicodedata.normalize("NFC", phrase).split())
    phrase = re.sub(r"^(?:[-*•–]|\d+[.)])\s+", "", phrase)
    phrase = phrase.strip(" .;,:\"'`“”‘’«»")
    words = phrase.split(" ")
    if len(words) > 1 and all(word.isupper() for word in words if word.isalpha()):
        return phrase.lower()
    return " ".join(w if len(w) > 1 and w.isupper() else w.lower() for w in words)


def _names_the_class(phrase, one):
    """Whether a phrase has the name, the key or a synonym of a class in it, as whole words."""
    # "1 mm dots" does not name the class 1, nor "a dark rim" the class a
    names = [s for s in (one.key, one.name, *one.synonyms) if len(s) > 1 and not s.isdigit()]
    return any(re.search(rf"(?<!\w){re.escape(s)}(?!\w)", phrase, re.IGNORECASE) for s in names)


def merged(answers, classes, facets):
    """Return the fields of the concepts in the answers, and what of them was dropped.

    Parameters
    ----------
    answers : iterable of Answer
        Subject (class, facet), value {"phrases": list of str} or None.
    classes : list of ConceptClass
    facets : list of str

    Returns
    -------
    (list of dict, list of (class, phrase, reason))
    """
    classes = {one.key: one for one in classes}
    seen, asked, spellings, dropped = {}, Counter(), {}, {}
    for answer in answers:
        if answer.value is None:
            continue
        asked[answer.subject] += 1
        told = set()  # a phrase counts once for each answer
        for raw in answer.value["phrases"]:
            phrase, reason = tidy(raw), None
            if not re.search(r"\w", phrase):
                reason = "no words"
            elif _names_the_class(phrase, classes[answer.subject[0]]):
                reason = "names the class"
            if reason:
                dropped.setdefault((answer.subject[0], raw, reason))
            elif folded(phrase) not in told:
                told.add(folded(phrase))
                seen.setdefault(folded(phrase), Counter())[answer.subject] += 1
                spellings.setdefault(folded(phrase), Counter())[phrase] += 1
    keys = list(classes)
    entries = []
    for phrase, counts in seen.items():
        # of each class the facet under which it was said most often, the earlier one in a draw
        best = {}
        for (key, facet), count in counts.items():
            rank = (-count, facets.index(facet))
            best[key] = min(best.get(key, (rank, facet)), (rank, facet))
        ordered = sorted(best, key=keys.index)
        shares = [
            f"{-best[key][0][0]} of {asked[key, best[key][1]]} answers"
            + (f" for {key}" if len(ordered) > 1 else "")
            for key in ordered
        ]
        facet, first = min(best.values())[1], ordered[0]
        place = (keys.index(first), facets.index(facet), best[first][0][0], phrase)
        text = min(spellings[phrase].items(), key=lambda item: (-item[1], item[0]))[0]
        note = "in " + ", ".join(shares)
        entries.append((place, {"text": text, "facet": facet, "classes": ordered, "note": note}))
    return [fields for _, fields in sorted(entries, key=lambda entry: entry[0])], list(dropped)
