"""The first sheet of an Excel file as rows of text, without a library for it."""

import re
import zipfile
from xml.etree import ElementTree

from skmoecbm.exceptions import InputError

__all__ = ["read_xlsx"]

_NS = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LARGEST = 64 * 2**20  # bytes of one part, unpacked: a table of file names is far smaller


def read_xlsx(path):
    """Return the rows of the first sheet, list of list of str; "" where a cell is empty.

    Parameters
    ----------
    path : path-like
        Of a plain table: formulas give their last value, dates their number.

    Raises
    ------
    InputError
        If it does not exist, or is no such file.
    """
    try:
        with zipfile.ZipFile(path) as book:
            texts = []  # cells of text hold the number of one of these
            if "xl/sharedStrings.xml" in book.namelist():
                root = _parse(book, "xl/sharedStrings.xml")
                texts = [_text(node) for node in root.iter(f"{_NS}si")]
            sheet = _parse(book, "xl/worksheets/sheet1.xml")
            return [_row(row, texts) for row in sheet.iter(f"{_NS}row")]
    except FileNotFoundError:
        raise InputError(f"The table {str(path)!r} does not exist. Check the path.") from None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise InputError(
            f"The table {str(path)!r} cannot be read as an Excel file: {error}. Get it anew, or "
            "remove it."
        ) from error


def _parse(book, name):
    if book.getinfo(name).file_size > _LARGEST:
        raise ValueError(f"{name} is larger than a table should be")
    return ElementTree.fromstring(book.read(name))


def _row(row, texts):
    cells = []
    for cell in row.iter(f"{_NS}c"):
        column = _column(cell.get("r")) if cell.get("r") else len(cells)
        cells += [""] * (column - len(cells))
        value = cell.find(f"{_NS}v")
        if cell.get("t") == "inlineStr":
            cells.append(_text(cell))
        elif value is None or value.text is None:
            cells.append("")
        else:
            cells.append(texts[int(value.text)] if cell.get("t") == "s" else value.text)
    return cells


def _text(node):
    return "".join(part.text or "" for part in node.iter(f"{_NS}t"))


def _column(place):
    """Return the position, from 0, of a place such as "AB12"."""
    position = 0
    for letter in re.match(r"[A-Z]{1,3}", place)[0]:
        position = position * 26 + ord(letter) - 64
    return position - 1
