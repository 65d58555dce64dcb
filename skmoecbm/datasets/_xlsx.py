"""The first sheet of an Excel file as rows of text, without a library for it."""

import re
import zipfile
import zlib
from xml.etree import ElementTree

from skmoecbm.exceptions import InputError

__all__ = ["read_xlsx"]

_NS = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LARGEST = 64 * 2**20  # bytes of one part, unpacked: a table of file names is far smaller
_MOST_COLUMNS = 16_384  # as many as Excel has
_MOST_ROWS = 1_048_576
_MOST_CELLS = 8_000_000  # rows times the widest: a few characters can name a far column
_CHUNK = 2**16
_FAULTS = (
    OSError,
    KeyError,
    ValueError,
    EOFError,
    RuntimeError,  # a password, or a compression that is not known
    zlib.error,
    zipfile.BadZipFile,
    ElementTree.ParseError,
)


def read_xlsx(path):
    """Return the rows of the first sheet, list of list of str; "" where a cell is empty.

    Empty cells at the end of a row are left out.

    Parameters
    ----------
    path : path-like
        Of a plain table: formulas give their last value, dates their number.

    Raises
    ------
    InputError
        If it does not exist, is no such file, or is larger than a table should be.
    """
    try:
        with zipfile.ZipFile(path) as book:
            texts = []  # cells of text hold the number of one of these
            if "xl/sharedStrings.xml" in book.namelist():
                texts = _parse(book, "xl/sharedStrings.xml", _Texts())
            return _parse(book, "xl/worksheets/sheet1.xml", _Rows(texts))
    except FileNotFoundError:
        raise InputError(f"The table {str(path)!r} does not exist. Check the path.") from None
    except _FAULTS as error:
        raise InputError(
            f"The table {str(path)!r} cannot be read as an Excel file: {error}. Get it anew, or "
            "remove it."
        ) from error


def _parse(book, name, target):
    """Let a target see the elements of a part one by one: a tree takes many times the file."""
    if book.getinfo(name).file_size > _LARGEST:
        raise ValueError(f"{name} is larger than a table should be")
    parser = ElementTree.XMLParser(target=target)
    with book.open(name) as part:
        while chunk := part.read(_CHUNK):
            parser.feed(chunk)
    return parser.close()


class _Target:
    """What text stands in elements that are listened to."""

    def __init__(self):
        self.found, self._held, self._listens = [], [], False

    def doctype(self, *_):
        raise ValueError("it has a document type, which no table needs")

    def data(self, text):
        if self._listens:
            self._held.append(text)

    def close(self):
        return self.found


class _Texts(_Target):
    def start(self, tag, attributes):
        if tag == f"{_NS}si":
            self._held = []
        self._listens = tag == f"{_NS}t"

    def end(self, tag):
        self._listens = False
        if tag == f"{_NS}si":
            self.found.append("".join(self._held))


class _Rows(_Target):
    def __init__(self, texts):
        super().__init__()
        self._texts, self._row, self._filled, self._widest = texts, [], 0, 0
        self._kind = self._place = None

    def start(self, tag, attributes):
        if tag == f"{_NS}row":
            self._row = []
            if len(self.found) >= _MOST_ROWS:
                raise ValueError(f"it has more than {_MOST_ROWS:,} rows")
        elif tag == f"{_NS}c":
            self._kind, self._place, self._held = attributes.get("t"), attributes.get("r"), []
        self._listens = tag == f"{_NS}{'t' if self._kind == 'inlineStr' else 'v'}"

    def end(self, tag):
        self._listens = False
        if tag == f"{_NS}c":
            self._take("".join(self._held))
        elif tag == f"{_NS}row":
            while self._row and not self._row[-1]:
                self._row.pop()
            self.found.append(self._row)
            self._filled += bool(self._row)
            self._widest = max(self._widest, len(self._row))
            if self._filled * self._widest > _MOST_CELLS:
                raise ValueError(f"it has more than {_MOST_CELLS:,} cells")

    def _take(self, value):
        column = len(self._row) if self._place is None else _column(self._place)
        if column >= _MOST_COLUMNS:
            raise ValueError(f"it has more than {_MOST_COLUMNS:,} columns")
        if self._kind == "s" and value:
            value = self._text(value)
        self._row += [""] * (column + 1 - len(self._row))
        self._row[column] = value

    def _text(self, number):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", number) or int(number) >= len(self._texts):
            raise ValueError(
                f"a cell names text {number[:20]!r}, and there are {len(self._texts):,}, from 0"
            )
        return self._texts[int(number)]


def _column(place):
    """Return the position, from 0, of a place such as "AB12"."""
    letters = re.fullmatch(r"([A-Z]{1,3})[0-9]*", place)
    if letters is None:
        raise ValueError(f"a cell is at {place[:20]!r}, which is no place such as 'B7'")
    position = 0
    for letter in letters[1]:
        position = position * 26 + ord(letter) - 64
    return position - 1
