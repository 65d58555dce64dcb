"""The fourteen labels that the CheXpert labeller reads from reports, and its uncertain ones."""

import numpy as np

from skmoecbm._label_table import list_some
from skmoecbm._validation import check_choice, parameter_error
from skmoecbm.exceptions import InputError

__all__ = [
    "COMPETITION",
    "LABELS",
    "POLICIES",
    "chosen_labels",
    "indicator_of",
    "known_rows",
    "rows_of_view",
]

LABELS = {
    "No Finding": "no finding",
    "Enlarged Cardiomediastinum": "enlarged cardiomediastinum",
    "Cardiomegaly": "cardiomegaly",
    "Lung Opacity": "lung opacity",
    "Lung Lesion": "lung lesion",
    "Edema": "pulmonary edema",
    "Consolidation": "consolidation",
    "Pneumonia": "pneumonia",
    "Atelectasis": "atelectasis",
    "Pneumothorax": "pneumothorax",
    "Pleural Effusion": "pleural effusion",
    "Pleural Other": "other pleural abnormality",
    "Fracture": "fracture",
    "Support Devices": "support devices",
}
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
POLICIES = ("ones", "zeros", "ignore")


def chosen_labels(labels, owner):
    """Return the columns of the table that are meant, list of str.

    Parameters
    ----------
    labels : None, "competition", or sequence of str
        All, the five of the competition, or some by the name of their column or their readable one.
    owner : str
        The function, for the error.
    """
    if labels is None:
        return list(LABELS)
    if isinstance(labels, str) and labels == "competition":
        return list(COMPETITION)
    codes = {name.casefold(): code for code, name in LABELS.items()}
    codes |= {code.casefold(): code for code in LABELS}
    given = [] if isinstance(labels, str) else list(labels)
    chosen = [codes.get(str(label).casefold()) for label in given]
    if not chosen or None in chosen or len(set(chosen)) < len(chosen):
        listed = ", ".join(map(repr, LABELS))
        raise parameter_error(
            owner, "labels", f"None, 'competition', or different ones of {listed}", labels
        )
    return chosen


def indicator_of(frame, codes, uncertain, *, name, ids):
    """Return 1, 0 and, with `uncertain="ignore"`, NaN, shape (n, n_labels); and what is uncertain.

    Parameters
    ----------
    frame : pandas.DataFrame of n rows
        1 is said to be there, 0 said not to be there, -1 uncertain; what is empty was not mentioned
        and counts as not there, as in the paper.
    codes : list of str
        The columns.
    uncertain : {"ones", "zeros", "ignore"}
    name : str
        The data set, for errors.
    ids : sequence of str, length n

    Returns
    -------
    indicator : ndarray of shape (n, n_labels), int64, or float64 with NaN
    n_uncertain : int ndarray of shape (n,)
    """
    if lacking := [code for code in codes if code not in frame.columns]:
        raise InputError(
            f"The table of {name} has no column {lacking[0]!r}; it has "
            f"{list_some(frame.columns, 20)}. Get it anew."
        )
    values = frame[codes].apply(_as_number).to_numpy(dtype=np.float64)
    odd = ~(np.isnan(values) | np.isin(values, (-1.0, 0.0, 1.0)))
    if odd.any():
        row, column = np.argwhere(odd)[0]
        raise InputError(
            f"The labels of {name} are 1, 0, -1 or empty. {str(ids[row])!r} has "
            f"{frame[codes[column]].iloc[row]!r} in column {codes[column]!r}; get the table anew."
        )
    unsure = values == -1.0
    indicator = np.nan_to_num(values)
    if uncertain == "ignore":
        return np.where(unsure, np.nan, indicator), unsure.sum(axis=1)
    indicator[unsure] = uncertain == "ones"
    return indicator.astype(np.int64), unsure.sum(axis=1)


def _as_number(column):
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    # text that is no number must be found, and not pass for what was not mentioned
    return numbers.mask(numbers.isna() & column.notna(), np.inf)


def known_rows(indicator, splits):
    """Return splits without the rows of which a label is not known: classifiers take none."""
    known = ~np.isnan(indicator.astype(float)).any(axis=1)
    return {
        split: {part: rows[known[rows]] for part, rows in parts.items()}
        for split, parts in splits.items()
    }


def rows_of_view(views, view, *, owner, name):
    """Return which films show a view, shape (n,), bool.

    Parameters
    ----------
    views : sequence of str
        "PA", "AP", "frontal", "lateral", or something else.
    view : {"frontal", "lateral", "PA", "AP", "all"}
    owner, name : str
        The function and the data set, for errors.
    """
    check_choice(owner, "view", view, ("frontal", "lateral", "PA", "AP", "all"))
    wanted = {"frontal": {"PA", "AP", "frontal"}, "all": set(views)}.get(view, {view})
    rows = np.array([one in wanted for one in views], dtype=bool)
    if not rows.any():
        raise InputError(f"{name} has no film of view {view!r} here. Choose view='all'.")
    return rows
