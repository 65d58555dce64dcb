"""Concept files in the wild, read into the fields of a `ConceptBank`."""

import csv
from collections.abc import Mapping
from pathlib import Path

from skmoecbm.concepts._parsing import class_key, folded, read_json
from skmoecbm.exceptions import FormatError, InputError

__all__ = ["csv_fields", "dict_fields", "knobo_fields", "labo_fields", "list_fields"]

_ANSWERS = {"yes": 1, "no": -1, "unknown": 0}
_CSV_COLUMNS = ("concept", "class", "facet", "phrases", "negative", "source", "note")


def dict_fields(concepts, name):
    """Return the fields of a bank from class -> phrases; see `ConceptBank.from_dict`."""
    if not isinstance(concepts, Mapping) or not concepts:
        raise InputError(
            f"Concepts must be a non-empty dict of class -> phrases. Got {concepts!r:.80}."
        )
    merged = {}
    for key, phrases in concepts.items():
        if isinstance(phrases, str) or not isinstance(phrases, list | tuple):
            raise InputError(f"The concepts of class {key!r} must be a list of str.")
        for phrase in phrases:
            if not isinstance(phrase, str) or not phrase.strip():
                raise InputError(f"Class {key!r} has an empty phrase ({phrase!r}); remove it.")
            _, keys = merged.setdefault(folded(phrase), (phrase, []))
            if class_key(key) not in keys:
                keys.append(class_key(key))
    return {
        "name": name,
        "classes": [{"key": class_key(key)} for key in concepts],
        "concepts": [{"text": text, "classes": keys} for text, keys in merged.values()],
    }


def list_fields(phrases, name):
    """Return the fields of a bank from phrases that belong to no class."""
    bad = next((p for p in phrases if not isinstance(p, str) or not p.strip()), None)
    if not phrases or bad is not None:
        got = f"{bad!r} in it" if phrases else "an empty list"
        raise InputError(f"Concepts must be a non-empty list of non-empty str. Got {got}.")
    return {"name": name, "concepts": [{"text": phrase} for phrase in phrases]}


def labo_fields(path):
    """Return the fields of a bank from a file of LaBo; see `ConceptBank.from_labo`."""
    path, data = Path(path), read_json(path)
    if not isinstance(data, dict) or not all(isinstance(v, list) for v in data.values()):
        raise FormatError(f"'{path}' is not a LaBo file: a JSON object of class -> phrases.")
    try:
        return dict_fields(
            {key: [p for p in phrases if p != ""] for key, phrases in data.items()}, path.stem
        )
    except InputError as error:
        raise FormatError(f"'{path}' is not a LaBo file: {error}") from error


def knobo_fields(answers, questions=None):
    """Return the fields of a bank from files of KnoBo; see `ConceptBank.from_knobo`."""
    answers, table = Path(answers), read_json(answers)
    if not isinstance(table, dict) or not all(isinstance(v, dict) for v in table.values()):
        raise FormatError(
            f"'{answers}' is not a KnoBo file: a JSON object of class -> question -> answer."
        )
    wanted = None
    if questions is not None:
        wanted = [folded(line) for line in _lines(questions) if line.strip()]
    merged = {}
    for key, told in table.items():
        for question, answer in told.items():
            value = _ANSWERS.get(str(answer).strip().lower())
            if value is None:
                raise FormatError(
                    f"'{answers}': the answer for class {key!r} to {question!r} must be one of "
                    f"{list(_ANSWERS)}. Got {answer!r}."
                )
            merged.setdefault(folded(question), (question.strip(), {}))[1][str(key)] = value
    if wanted is not None:
        unknown = [q for q in wanted if q not in merged]
        if unknown:
            raise FormatError(
                f"'{questions}': {len(unknown)} question(s) have no answers in '{answers}', the "
                f"first {unknown[0]!r}."
            )
        merged = {q: merged[q] for q in dict.fromkeys(wanted)}
    return {
        "name": answers.stem,
        "classes": _classes_by_spelling(table),
        "concepts": [
            {
                "text": text,
                "classes": [key for key, value in values.items() if value == 1],
                "against": [key for key, value in values.items() if value == -1],
            }
            for text, values in _joined(merged, table)
        ],
    }


def _classes_by_spelling(table):
    """Return the classes; keys that differ in case alone are one class."""
    first = {}
    for key in table:
        first.setdefault(folded(key), str(key))
    return [{"key": key} for key in first.values()]


def _joined(merged, table):
    """Yield (question, class -> answer); two spellings of a class that disagree give unknown."""
    first = {}
    for key in table:
        first.setdefault(folded(key), str(key))
    for text, values in merged.values():
        joined = {}
        for key, value in values.items():
            key = first[folded(key)]
            joined[key] = value if joined.get(key, value) == value else 0
        yield text, joined


def csv_fields(path):
    """Return the fields of a bank from a table; see `ConceptBank.from_csv`."""
    path = Path(path)
    rows = list(csv.reader(_lines(path)))
    header = [name.strip().lower() for name in rows[0]] if rows else []
    unknown = sorted(set(header) - set(_CSV_COLUMNS))
    if "concept" not in header or unknown or len(set(header)) < len(header):
        raise FormatError(
            f"'{path}' must have the column 'concept', and may have {list(_CSV_COLUMNS[1:])}, each "
            f"once. Got {header}."
        )
    keys, merged = {}, {}
    for line, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise FormatError(
                f"'{path}' line {line} has {len(row)} cells where the header has {len(header)}; "
                "put a text that holds commas in double quotes."
            )
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
        if not cells["concept"]:
            raise FormatError(f"'{path}' line {line} has no concept; fill it or remove the line.")
        entry = {
            name: cells[name] for name in ("facet", "negative", "source", "note") if cells.get(name)
        }
        entry["phrases"] = _parts(cells.get("phrases", ""))
        known = merged.setdefault(folded(cells["concept"]), {"text": cells["concept"], **entry})
        for name, value in entry.items():
            if value and known.setdefault(name, value) != value and name != "phrases":
                raise FormatError(
                    f"'{path}' line {line}: concept {cells['concept']!r} has the {name} {value!r} "
                    f"here and {known[name]!r} on an earlier line; make them agree."
                )
        known["phrases"] = list(dict.fromkeys([*known["phrases"], *entry["phrases"]]))
        for key in _parts(cells.get("class", "")):
            keys.setdefault(key)
            written_for = known.setdefault("classes", [])
            if key not in written_for:
                written_for.append(key)
    return {
        "name": path.stem,
        "classes": [{"key": key} for key in keys],
        "concepts": list(merged.values()),
    }


def _parts(cell):
    return [part.strip() for part in cell.split("|") if part.strip()]


def _lines(path):
    try:
        # utf-8-sig: spreadsheets put a byte-order mark before the header
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"'{path}' is not text in UTF-8: {error}.") from error
