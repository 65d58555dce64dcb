"""What language models are asked, word for word."""

__all__ = ["MAX_PHRASES", "answers_prompt", "phrases_prompt", "reask"]

MAX_PHRASES = 10

_PHRASES = """\
You help to describe images so that someone who has never seen them can tell them apart by sight.

Images: {domain}
Class: {name}
Aspect: {facet}

List phrases for what can be seen in images of this class as to this aspect, the most typical first.

- At most {count} phrases of two to eight words each; no sentences.
- Fewer are better than invented ones; an empty list is right where this aspect says nothing.
- Each phrase must be something that one image can show or not show.
- {vocabulary}
- Do not write the name of the class, its abbreviation or a synonym.
- Nothing about cause, course, treatment, tests or danger.
- Nothing about the age, sex, origin or history of a person.

Answer with one JSON object and nothing else, in this form:
{{"phrases": ["first phrase", "second phrase"]}}"""

_PLAIN = "Use plain words that anyone understands: colours, shapes, textures, sizes, places."
_TECHNICAL = "Use the established descriptive terms of specialists who read such images."

_ANSWERS = """\
You help to describe images so that someone who has never seen them can tell them apart by sight.

Images: {domain}
Class: {name}

For each of these features, is it typically seen in images of this class?

{features}

Answer "yes" if it is typical of the class, "no" if it speaks against the class, and "unknown" if
it may be there or not, or you are not sure. "unknown" is better than a guess.

Answer with one JSON object and nothing else, with one entry for each feature, in this form:
{{"answers": [{{"number": 1, "answer": "yes"}}, {{"number": 2, "answer": "unknown"}}]}}"""


def phrases_prompt(domain, name, facet, technical):
    """Return the question for the phrases of one class and one facet."""
    return _PHRASES.format(
        domain=domain,
        name=name,
        facet=facet,
        count=MAX_PHRASES,
        vocabulary=_TECHNICAL if technical else _PLAIN,
    )


def answers_prompt(domain, name, features):
    """Return the question whether each feature is seen in images of one class."""
    lines = "\n".join(f"{i}. {' '.join(text.split())}" for i, text in enumerate(features, start=1))
    return _ANSWERS.format(domain=domain, name=name, features=lines)


def reask(finding):
    """Return what is said after an answer that cannot be used."""
    return (
        f"That answer cannot be used. {finding} Answer again, with one JSON object in the form "
        "asked for and nothing else."
    )
