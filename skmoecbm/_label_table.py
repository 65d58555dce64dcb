"""A table of labels, whose cells are text and whose rows know their line in the file."""

import csv
from dataclasses import dataclass
from pathlib import Path

from skmoecbm.exceptions import InputError

__all__ = ["Table", "list_some", "read_table", "rows_have"]


def list_some(names, limit=5):
    """Return the first of some names in quotes, and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def rows_have(n):
    """Return "1 row has" or "3 rows have"."""
    return f"{n:,} row has" if n == 1 else f"{n:,} rows have"


@dataclass(frozen=True)
class Table:
    """Rows of text under a header.

    Attributes
    ----------
    path : Path
    columns : list of str
        The header.
    rows : list of list of str
        One cell per column.
    lines : list of int
        The line of the file that each row begins in, as an editor counts: the header is line 1.
    """

    path: Path
    columns: list
    rows: list
    lines: list

    def column(self, name, option=None):
        """Return the cells of the column of that name, list of str.

        Parameters
        ----------
        name : str
        option : str, default=None
            The option of the command line that gave the name, for the error.

        Raises
        ------
        InputError
            If there is no such column, or several.
        """
        n_found = self.columns.count(name)
        if n_found != 1:
            there = "no column" if n_found == 0 else f"{n_found} columns named"
            other = "Name one with" if n_found == 0 else "Rename them, or name another one with"
            remedy = f" {other} {option}." if option else ""
            raise InputError(
                f"The table {str(self.path)!r} has {there} {name!r}. "
                f"Its columns are {list_some(self.columns, 20)}.{remedy}"
            )
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def take(self, keep):
        """Return the table of the rows where `keep`, a sequence of bool, is true."""
        kept = [row for row, wanted in enumerate(keep) if wanted]
        return Table(
            self.path,
            self.columns,
            [self.rows[row] for row in kept],
            [self.lines[row] for row in kept],
        )


def read_table(path):
    """Read a CSV file, separated by commas, semicolons or tabs, in UTF-8.

    Everything stays text: an identifier "007" is no number, a class "None" is no gap. Empty lines
    are passed over, and cells that are lacking at the end of a row are empty.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Table

    Raises
    ------
    InputError
        If the file cannot be read, is empty, or a row has more cells than the header.
    """
    path = Path(path)
    rows, lines, begin = [], [], 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
            for row in reader:
                if len(row) > 1 or any(map(str.strip, row)):
                    rows.append(row)
                    lines.append(begin)
                begin = reader.line_num + 1
    except FileNotFoundError:
        raise InputError(f"The table {str(path)!r} does not exist. Check the path.") from None
    except csv.Error as error:
        raise InputError(
            f"The table {str(path)!r} cannot be read as CSV: {path.name} line {begin}: {error}. "
            "Look for a quotation mark there that is not closed."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The table {str(path)!r} cannot be read as CSV: {error}. "
            "Give a text file in UTF-8 whose first line names the columns."
        ) from error
    if not rows:
        raise InputError(f"The table {str(path)!r} is empty. It needs a header line.")
    columns, rows, lines = rows[0], rows[1:], lines[1:]
    n = len(columns)
    for row, line in zip(rows, lines, strict=True):
        if any(cell.strip() for cell in row[n:]):
            raise InputError(
                f"{path.name} line {line} has {len(row)} cells, but the header of "
                f"{str(path)!r} has {n} columns. A cell that holds the separator must stand in "
                "quotation marks."
            )
        row[n:] = []
        row += [""] * (n - len(row))
    return Table(path, columns, rows, lines)
