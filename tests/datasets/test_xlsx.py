"""Excel files: odd, broken and malicious ones."""

import tracemalloc
import zipfile

import pytest

from skmoecbm.datasets import _xlsx
from skmoecbm.datasets._xlsx import read_xlsx
from skmoecbm.exceptions import InputError

NS = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


@pytest.fixture
def book(tmp_path):
    def write(rows, shared=None, head=""):
        path = tmp_path / "t.xlsx"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            sheet = f"{head}<worksheet {NS}><sheetData>{rows}</sheetData></worksheet>"
            archive.writestr("xl/worksheets/sheet1.xml", sheet)
            if shared is not None:
                archive.writestr("xl/sharedStrings.xml", f"<sst {NS}>{shared}</sst>")
        return path

    return write


def test_cells_of_every_kind(book):
    shared = "<si><t>a &amp; b</t></si><si><r><t>bo</t></r><r><t>ld</t></r></si><si/>"
    rows = (
        '<row><c r="A1" t="s"><v>0</v></c><c r="C1" t="s"><v>1</v></c></row><row/>'
        '<row><c t="inlineStr"><is><t>in</t></is></c><c><f>1+1</f><v>2</v></c><c/><c t="s"/></row>'
        '<row><c r="B4"><v>b</v></c><c r="A4"><v>a</v></c><c r="D4" t="s"><v>2</v></c></row>'
    )
    assert read_xlsx(book(rows, shared)) == [["a & b", "", "bold"], [], ["in", "2"], ["a", "b"]]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('<c t="s"><v>5</v></c>', "a cell names text '5', and there are 1, from 0"),
        ('<c t="s"><v>-1</v></c>', "a cell names text '-1'"),
        ('<c t="s"><v>x</v></c>', "a cell names text 'x'"),
        ('<c r="1A"><v>5</v></c>', "a cell is at '1A', which is no place such as 'B7'"),
        ('<c r=""><v>5</v></c>', "a cell is at ''"),
        ('<c r="XFE1"><v>5</v></c>', "more than 16,384 columns"),
        ("<c/>" * 16_385, "more than 16,384 columns"),
    ],
)
def test_what_is_broken_is_said(book, row, said):
    with pytest.raises(InputError, match=f"cannot be read as an Excel file: .*{said}"):
        read_xlsx(book(f"<row>{row}</row>", "<si><t>x</t></si>"))


def test_the_last_column_of_excel_is_one(book):
    assert len(read_xlsx(book('<row><c r="XFD1"><v>5</v></c></row>'))[0]) == 16_384


FAR = '<row><c r="XFD1"><v>5</v></c></row>'


@pytest.mark.parametrize(
    ("rows", "said", "most"),
    [
        (FAR * 3000, "more than 8,000,000 cells", 100e6),
        ('<row><c r="A1"><v>5</v></c></row>' * 500 + FAR, "more than 8,000,000 cells", 5e6),
        ("<row/>" * 1001, "more than 1,000 rows", 5e6),
        ("<x/>" * 150_000, None, 5e6),
    ],
)
def test_a_small_file_takes_little(book, rows, said, most, monkeypatch):
    monkeypatch.setattr(_xlsx, "_MOST_ROWS", 1000 if said and "rows" in said else 10**6)
    path = book(rows)
    assert path.stat().st_size < 10_000
    tracemalloc.start()
    try:
        if said is None:
            assert read_xlsx(path) == []
        else:
            with pytest.raises(InputError, match=said):
                read_xlsx(path)
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def test_entities_are_not_expanded(book):
    head = "<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]>"
    with pytest.raises(InputError, match="has a document type"):
        read_xlsx(book("<row><c><v>&b;</v></c></row>", head=head))


def test_what_zip_cannot_open_is_said(book):
    path = book("<row/>")
    content = bytearray(path.read_bytes())
    for mark, flag in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # "encrypted", at both places
        content[content.find(mark) + flag] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as an Excel file: .*password"):
        read_xlsx(path)
