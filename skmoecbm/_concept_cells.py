"""Which cells a person means who names a concept, and the values that words stand for."""

import difflib
import numbers
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from skmoecbm._ranges import percentiles, values_at
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = [
    "LEVELS",
    "Cell",
    "find_concept",
    "list_of_names",
    "quantiles_of",
    "replace_cells",
    "wanted_cells",
]

#: The percentiles of the training images that "absent" and "present" stand for.
LEVELS = {"absent": 5.0, "present": 95.0}

_PERCENTILE = re.compile(r"p(\d{1,3}(?:\.\d+)?)")


@dataclass(frozen=True)
class Cell:
    """A concept of one expert, and the value that it is set to.

    Attributes
    ----------
    expert, concept : int
        Positions.
    names : tuple of str
        Expert and concept.
    value : float
        Similarity, as it comes from the encoder.
    percentile : float
        Where it stands among the training images, in [0, 100]; NaN where that is not known.
    """

    expert: int
    concept: int
    names: tuple
    value: float
    percentile: float

    def __str__(self):
        """Return the cell in words."""
        expert, concept = self.names
        place = "" if np.isnan(self.percentile) else f", percentile {self.percentile:.0f}"
        return f"{concept} ({expert}) set to {self.value:.3g}{place}"


def concepts_of(classifier):
    """Return the concepts of each expert that may speak: (number, name, concepts)."""
    layout, masked = classifier._layout, getattr(classifier, "masked_experts_", ())
    parts = zip(layout.names, layout.concepts, strict=True)
    return [(e, name, list(c)) for e, (name, c) in enumerate(parts) if name not in masked]


def quantiles_of(classifier, expert):
    """Return the quantiles (m, 101) of an expert's concepts, or None if they are not known."""
    found = getattr(classifier, "concept_quantiles_", None)
    return found if found is None or isinstance(found, np.ndarray) else found[expert]


def list_of_names(owner, parameter, names):
    """Return one name or several as a list."""
    if isinstance(names, str):
        return [names]
    if not isinstance(names, Iterable):
        raise parameter_error(owner, parameter, "a name or a list of names", names)
    return list(names)


def find_concept(classifier, concept, experts=None):
    """Return the places of a concept, as (number of the expert, number of the concept).

    Parameters
    ----------
    classifier : fitted classifier of this package
    concept : str
        Its name, or ``"expert__concept"`` for that of one expert.
    experts : list of str or None
        Only in these; None is in all.

    Raises
    ------
    InputError
        If none has it; the message tells the nearest names.
    """
    known = concepts_of(classifier)
    names = [name for _, name, _ in known]
    for name in experts or ():
        if name not in names:
            raise InputError(f"There is no expert {name!r} here; there are {names}.")
    asked = [part for part in known if experts is None or part[1] in experts]
    found = [(e, own.index(concept)) for e, _, own in asked if concept in own]
    found = found or [
        (e, own.index(concept.removeprefix(f"{name}__")))
        for e, name, own in asked
        if isinstance(concept, str)
        and concept.startswith(f"{name}__")
        and concept.removeprefix(f"{name}__") in own
    ]
    if found:
        return found
    elsewhere = [name for _, name, own in known if concept in own]
    if elsewhere:
        raise InputError(
            f"Of the experts asked for, {list(experts)}, none has the concept {concept!r}; "
            f"{elsewhere} has it. Name that expert, or leave out experts for all that have it."
        )
    there = list(dict.fromkeys(c for _, _, own in asked for c in own))
    by_case = {name.lower(): name for name in there}
    near = difflib.get_close_matches(str(concept).lower(), list(by_case), 3, cutoff=0.5)
    nearest = f"The nearest are {[by_case[name] for name in near]}" if near else "None is near it"
    raise InputError(
        f"There is no concept {concept!r} among the {len(there)} of this model. {nearest}; "
        "concept_names_ of the classifier lists all."
    )


def wanted_cells(owner, classifier, changes, experts=None):
    """Return the cells that a dict of concept -> value means, as a list of `Cell`.

    One warning tells all values that lay outside the training range, and what is used instead.

    Raises
    ------
    InputError
        For a concept or expert that is not there, a value that means nothing, or one cell that is
        set twice.
    """
    if not hasattr(changes, "items"):
        wanted = "a dict of concept -> 'present', 'absent', a percentile such as 'p80', or a number"
        raise parameter_error(owner, "changes", wanted, changes)
    experts = None if experts is None else list_of_names(owner, "experts", experts)
    cells, clipped, slips = {}, [], []
    for concept, asked in changes.items():
        for e, j in find_concept(classifier, concept, experts):
            names = (classifier._layout.names[e], classifier._layout.concepts[e][j])
            if (e, j) in cells:
                raise InputError(
                    f"Concept {names[1]!r} of expert {names[0]!r} is set twice. Name it once."
                )
            ranges = quantiles_of(classifier, e)
            own = np.full(101, np.nan) if ranges is None else ranges[j]
            value = _value(owner, asked, own, names)
            if value < own[0] or value > own[-1]:
                kept = float(np.clip(value, own[0], own[-1]))
                if 1 <= value <= 100 and value - own[-1] > own[-1] - own[0]:
                    slips.append(value)
                clipped.append(f"{names[1]!r} of {names[0]!r}: {value:.4g} became {kept:.4g}")
                value = kept
            place = float(percentiles(np.array([[value]]), own[None])[0, 0])
            cells[e, j] = Cell(e, j, names, value, place)
    if clipped:
        more = f"; and {len(clipped) - 5} more" if len(clipped) > 5 else ""
        warnings.warn(
            "Values outside the range of the training images were moved to its end, since nothing "
            f"is known of what lies beyond: {'; '.join(clipped[:5])}{more}."
            # far from any similarity: whoever writes 95 means a percentile
            + (f" For the {_ordinal(slips[0])} percentile give 'p{slips[0]:g}'." if slips else ""),
            SkmoecbmWarning,
            stacklevel=4,
        )
    return list(cells.values())


def _ordinal(number):
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:g}{ending}"


def _value(owner, asked, quantiles, names):
    """Return the similarity that a word, a percentile or a number means for one concept."""
    if isinstance(asked, numbers.Real) and not isinstance(asked, bool | np.bool_):
        if np.isfinite(asked):
            return float(asked)
    level = None
    if isinstance(asked, str):
        level = LEVELS.get(asked)
        if level is None and (match := _PERCENTILE.fullmatch(asked)):
            level = float(match[1])
    if level is None or level > 100:
        raise InputError(
            f"Concept {names[1]!r} cannot be set to {asked!r}. Give 'present', 'absent', a "
            "percentile of the training images from 'p0' to 'p100', or a similarity, a number."
        )
    if np.isnan(quantiles).any():
        raise InputError(
            f"{asked!r} needs the training range of concept {names[1]!r} of expert {names[0]!r}, "
            "which this model does not know (an older version fitted it, or no training image had "
            "a value). Give a number, or fit the model again."
        )
    return float(values_at(level, quantiles))


def replace_cells(data, cells, rows=None):
    """Return experts with cells replaced, where the expert is present.

    Parameters
    ----------
    data : list of ExpertData
    cells : list of Cell
    rows : list of ndarray of int, or None
        The rows of each cell; None is all rows for each.

    Returns
    -------
    list of ExpertData
        The given arrays are left as they were.
    """
    data = list(data)
    for c, cell in enumerate(cells):
        expert = data[cell.expert]
        own = np.arange(expert.shape[0]) if rows is None else rows[c]
        own = own[expert.present[own]]
        values = expert.values.copy("K")  # products round alike in the same layout alone
        values[own, cell.concept] = cell.value
        data[cell.expert] = expert.with_values(values)
    return data
