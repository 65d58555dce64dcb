"""Lookup tables of DICOM: modality, VOI and palette, plain and segmented."""

from dataclasses import dataclass

import numpy as np

from skmoecbm.exceptions import Unreadable

__all__ = ["Table", "read_palette", "read_table"]

_MOST_ENTRIES = 65_536  # what the descriptor can say
_MOST_DEPTH = 64  # indirect segments that point to indirect segments


@dataclass(frozen=True)
class Table:
    """Entries for the values from `first` on; values outside get the nearest entry.

    Attributes
    ----------
    first : int
    bits : int
        Of an entry: the highest is 2 ** bits - 1.
    entries : tuple of int
        Plain numbers, so that the `repr` of a table is its whole content.
    """

    first: int
    bits: int
    entries: tuple

    def look_up(self, values):
        """Return the entries of an array of numbers, as float64 of the same shape."""
        place = np.rint(np.asarray(values, dtype=np.float64)) - self.first
        place = place.clip(0, len(self.entries) - 1).astype(np.intp)
        return np.array(self.entries, dtype=np.float64)[place]


def read_table(item, little_endian, signed):
    """Return the `Table` of an item of a Modality or VOI LUT Sequence (PS3.3, C.11.1 and C.11.2).

    Parameters
    ----------
    item : Header
    little_endian : bool
        Of the file.
    signed : bool
        Whether what goes in can be negative; decides how the first value is read.
    """
    return _table(item.get("LUTDescriptor"), item.get("LUTData"), little_endian, signed)


def read_palette(dataset, little_endian):
    """Return the three tables of a palette (PS3.3, C.7.6.3.1.5, C.7.9.2), red, green and blue."""
    tables = []
    for colour in ("Red", "Green", "Blue"):
        descriptor = dataset.get(f"{colour}PaletteColorLookupTableDescriptor")
        data = dataset.get(f"{colour}PaletteColorLookupTableData")
        if data is None:
            data = dataset.get(f"Segmented{colour}PaletteColorLookupTableData")
            wide = int(descriptor[2]) > 8
            data = _expand(_numbers(data, 2 if wide else 1, little_endian), wide)
        tables.append(_table(descriptor, data, little_endian, signed=False))
    return tuple(tables)


def _table(descriptor, data, little_endian, signed):
    n, first, bits = (int(number) for number in descriptor)
    n = n % _MOST_ENTRIES or _MOST_ENTRIES  # 0 stands for 65,536, which 16 bits cannot say
    first = (first + 32_768) % 65_536 - 32_768 if signed else first % 65_536
    if not 8 <= bits <= 16:
        raise Unreadable(f"a lookup table has entries of {bits} bits; 8 to 16 are possible.")
    if isinstance(data, bytes) and len(data) < 2 * n:  # 8-bit entries, whatever is announced
        data, bits = _numbers(data, 1, little_endian), 8
    entries = data if isinstance(data, list) else _numbers(data, 2, little_endian)
    if len(entries) < n:
        raise Unreadable(f"a lookup table has {len(entries):,} of the {n:,} entries it announces.")
    return Table(first, bits, tuple(int(entry) for entry in entries[:n]))


def _numbers(data, size, little_endian):
    if not isinstance(data, bytes):
        return [int(number) for number in np.atleast_1d(data)]
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little_endian else ">u2")
    # bytes lie two to a word, the first in its lower half
    return (words.astype("<u2").view("u1") if size == 1 else words).tolist()


def _expand(data, wide):
    """Return the entries that the segments of a segmented palette stand for.

    At most as many as a table may have, in as many steps: a few bytes of segments can stand for
    any number.
    """
    entries, steps_left = [], _MOST_ENTRIES

    def run(start, n_segments, depth):
        nonlocal steps_left
        at = start
        while at + 1 < len(data) and n_segments != 0:
            kind, length = data[at], data[at + 1]
            at += 2
            steps_left -= 1
            if kind == 0:
                entries.extend(data[at : at + length])
                at += length
            elif kind == 1 and entries and length:
                steps = np.arange(1, length + 1) / length
                entries.extend(np.rint(entries[-1] + steps * (data[at] - entries[-1])).tolist())
                at += 1
            elif kind == 2 and entries and depth < _MOST_DEPTH:
                words = data[at : at + (2 if wide else 4)]
                at += len(words)
                run(_offset(words, wide), length, depth + 1)
            else:
                raise Unreadable("a segmented palette holds a segment that stands for nothing.")
            if len(entries) > _MOST_ENTRIES or steps_left < 0:
                raise Unreadable(f"a segmented palette has more than {_MOST_ENTRIES:,} entries.")
            n_segments -= 1
        return entries

    return run(0, -1, 0)


def _offset(words, wide):
    """Return the entry that an indirect segment points to, by an offset in bytes (C.7.9.2.3)."""
    if wide:
        return (words[0] | words[1] << 16) // 2
    return int.from_bytes(bytes(words), "little")
