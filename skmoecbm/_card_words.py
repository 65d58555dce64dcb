"""Text in a model card: what comes from a model or its author stays text in Markdown."""

import re
import unicodedata

__all__ = ["Inert", "code", "estimate_in_words", "fenced", "one_line", "prose"]

_LONGEST = 300
# What renderers turn into links by themselves, whatever is escaped: only a code span is safe.
_LINKED = re.compile(r"\S*(?:://|@|[\w-]\.[A-Za-z]{2,})\S*")
_MARKS = re.compile(r"([\\`*_{}\[\]#|~$^])")
_LINE_START = re.compile(r"^([-+=:]|\d{1,9}(?=[.)](\s|$)))")
_LOOK_ALIKES = str.maketrans({"`": "'", "<": "‹", ">": "›", "|": "¦"})


class Inert(str):
    """Markdown of the card's own making, which is not escaped again."""

    __slots__ = ()


def one_line(text, longest=_LONGEST):
    """Return text on one line, without control characters and turned directions, cut if long."""
    kept = []
    for char in str(text):
        kind = unicodedata.category(char)
        if kind in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif kind not in ("Cs", "Cn", "Co") and (kind != "Cf" or char in "\u200c\u200d"):
            kept.append(char)
    line = " ".join("".join(kept).split())
    return line if len(line) <= longest else line[: longest - 2].rstrip() + " …"


def code(text):
    """Return text in back-ticks: no Markdown, HTML, link or cell's end can be in there."""
    return Inert(f"`{one_line(text).translate(_LOOK_ALIKES) or ' '}`")


def prose(text, longest=5000):
    """Return a sentence with every mark escaped; what looks like an address is put in back-ticks.

    Parameters
    ----------
    text : str
    longest : int, default=5000
        Characters kept.
    """
    line, parts, at = one_line(text, longest), [], 0
    for found in _LINKED.finditer(line):
        word = found.group().rstrip(".,;:!?)")
        parts += [_escaped(line[at : found.start()]), code(word)]
        at = found.start() + len(word)
    parts.append(_escaped(line[at:]))
    joined = "".join(parts)
    return Inert(_LINE_START.sub(lambda m: _escaped_start(m.group(1)), joined))


def fenced(text, language=""):
    """Return lines, with their spaces, as a block of code that nothing in them can end."""
    lines = [
        "".join(
            part if part.isspace() else one_line(part)
            for part in re.split("( +)", line.replace("\t", "  ")[:500].rstrip())
        )
        for line in str(text).splitlines()
    ]
    return Inert("\n".join([f"```{language}", *(s.replace("`", "'") for s in lines), "```"]))


def estimate_in_words(value, low, high, digits=3):
    """Return "0.812 [0.790, 0.833]", without an interval where there is none."""
    if value is None:
        return Inert("undefined")
    if low is None or high is None:
        return Inert(f"{value:.{digits}f}")
    return Inert(f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")


def _escaped(text):
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\1", text)


def _escaped_start(mark):
    """Return what would begin a list or a rule so that it begins a sentence."""
    return f"{mark}\\" if mark[0].isdigit() else f"\\{mark}"
