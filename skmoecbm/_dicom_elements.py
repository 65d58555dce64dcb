"""The elements of a DICOM data set: found within bounds, and read as numbers, text or bytes.

Not by pydicom, which warns and logs where a value is odd, and quotes it: a patient's name may
stand where a number should. Warnings cannot be held back in one thread alone.
"""

import struct

__all__ = ["Header", "Walk", "is_vr"]

_MOST_DEPTH = 32  # of sequences in sequences; enhanced images have four
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA = 0x7FE00010
# Representations whose length has four bytes, after two that are empty (PS3.5, 7.1.2)
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}


def is_vr(two):
    """Return whether two bytes look like a value representation: two capitals."""
    return len(two) == 2 and two.isalpha() and two.isupper()


class Header:
    """The wanted elements of a data set or of an item of a sequence, read when they are asked for.

    Parameters
    ----------
    elements : dict
        Keyword to (value representation, bytes), or to ("SQ", list of Header).
    walk : Walk
        Where they come from.
    """

    def __init__(self, elements, walk):
        self._elements = elements
        self._walk = walk

    def __contains__(self, name):
        return name in self._elements

    def vr(self, name):
        """Return the value representation of an element that is there."""
        return self._elements[name][0]

    def get(self, name):
        """Return a list of numbers, texts or `Header`, or bytes; None where there is nothing."""
        vr, content = self._elements.get(name, ("", b""))
        if not content:
            return None
        if isinstance(content, list) or vr.startswith("O"):
            return content
        if vr in _NUMBERS:
            one = struct.Struct(self._walk.order + _NUMBERS[vr])
            return [number for (number,) in one.iter_unpack(content)]
        return [text.strip(" \0") for text in self.decode(content).split("\\")]

    def decode(self, content):
        return content.decode(self._walk.encoding, errors="replace")

    def items(self, name):
        """Return the items of a sequence, none where it is absent."""
        items = self.get(name) or []
        if self._elements.get(name, ("SQ",))[0] != "SQ":
            raise ValueError("no sequence")
        return items


class Walk:
    """Reads the elements of a file, so many and no more.

    Parameters
    ----------
    content : bytes
    little_endian : bool
    wanted : dict
        Tag to (keyword, value representation). All others are stepped over.
    encodings : dict
        Specific Character Set to the name of a codec of Python's.
    n_steps : int
        Most elements and items.
    """

    def __init__(self, content, little_endian, wanted, encodings, n_steps):
        self.content = content
        self.order = "<" if little_endian else ">"
        self.encoding = "iso8859"
        self.steps_left = n_steps
        self._wanted = wanted
        self._encodings = encodings
        self._tag = struct.Struct(self.order + "HHI")

    def header(self, at):
        """Return the `Header` of the data set that begins at a byte."""
        # what the transfer syntax says of this is not always so
        implicit = not is_vr(self.content[at + 4 : at + 6])
        header = Header(self._elements(at, len(self.content), implicit, 0)[0], self)
        names = header.get("SpecificCharacterSet") or []
        known = [self._encodings[name] for name in names if name and name in self._encodings]
        self.encoding = known[0] if known else self.encoding
        return header

    def _head(self, at):
        self.steps_left -= 1
        if self.steps_left < 0:
            raise EOFError("too many elements")
        group, element, length = self._tag.unpack_from(self.content, at)
        return group << 16 | element, length

    def _elements(self, at, end, implicit, depth):
        """Return the wanted elements up to `end` or the end of the item, and where that is."""
        found = {}
        while at + 8 <= end:
            tag, length = self._head(at)
            if tag == _ITEM_END:
                return found, at + 8
            start, vr = at + 8, self.content[at + 4 : at + 6]
            if implicit or not is_vr(vr):  # some writers leave it out within sequences only
                vr = b""
            elif vr in _LONG:
                length, start = (
                    struct.unpack_from(self.order + "I", self.content, start)[0],
                    at + 12,
                )
            else:
                length = struct.unpack_from(self.order + "H", self.content, at + 6)[0]
            name, known = self._wanted.get(tag, (None, ""))
            vr = vr.decode("ascii")
            if vr in ("", "UN") or (known.startswith("O") and not vr.startswith("O")):
                vr = known
            if length == _UNDEFINED:
                value, at = self._undefined(start, end, implicit, depth, vr, tag)
            else:
                at = start + length
                value = self.content[start : min(at, end)] if name else None
                if name and vr == "SQ":
                    value = self._items(start, min(at, end), implicit, depth)[0]
            if name:
                found[name] = ("SQ" if isinstance(value, list) else vr), value
        return found, at

    def _undefined(self, start, end, implicit, depth, vr, tag):
        """Return the value of an element without a length, and where the next one begins."""
        if tag != _PIXEL_DATA and not vr.startswith("O"):
            return self._items(start, end, implicit, depth, delimited=True)
        at = start
        while at + 8 <= end:  # fragments of compressed pixels
            group, element, length = self._tag.unpack_from(self.content, at)
            if (group << 16 | element) == _SEQUENCE_END:
                return self.content[start:at], at + 8
            if (group << 16 | element) != _ITEM:
                break
            at += 8 + length
        raise EOFError("no end")

    def _items(self, at, end, implicit, depth, delimited=False):
        if depth >= _MOST_DEPTH:
            raise ValueError("sequences in sequences")
        items = []
        while at + 8 <= end:
            tag, length = self._head(at)
            at += 8
            if tag == _SEQUENCE_END:
                return items, at
            if tag != _ITEM:
                raise ValueError("no item")
            stop = end if length == _UNDEFINED else min(end, at + length)
            found, after = self._elements(at, stop, implicit, depth + 1)
            at = after if length == _UNDEFINED else at + length
            items.append(Header(found, self))
        if delimited:
            raise EOFError("no end")
        return items, at
