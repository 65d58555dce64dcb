"""What an encoder makes of the rows it can see, and which rows are missing for it."""

from dataclasses import replace

import numpy as np
from sklearn.utils import get_tags

from skmoecbm._blocks import ExpertBlock, check_expert_name, concept_names, matrix_rows
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures

__all__ = ["encoder_concepts", "fitted", "transformed"]


def fitted(name, encoder, X, y, *, transform):
    """Fit an encoder on the rows that it can see.

    One that does not take NaN, by its tags, sees no row with nothing in it: such a row is missing.

    Returns
    -------
    ExpertBlock or None
        Of all rows of `X`; None without `transform`.
    """
    hidden = _hidden_rows(encoder, X)
    if hidden.any():
        if hidden.all():
            raise InputError(
                f"Expert {name!r} has nothing to learn from: all {len(hidden)} rows of its columns "
                "are empty. Leave the expert out, or give it rows."
            )
        X, y = _rows(X, ~hidden), None if y is None else _rows(y, ~hidden)
    if not transform:
        encoder.fit(X, y)
        return None
    return _block(name, encoder, encoder.fit_transform(X, y), hidden)


def transformed(name, encoder, X):
    """Return the `ExpertBlock` of a fitted encoder."""
    hidden = _hidden_rows(encoder, X)
    if hidden.size and hidden.all():
        return _block(name, encoder, np.empty((0, len(encoder_concepts(encoder)))), hidden)
    X = _rows(X, ~hidden) if hidden.any() else X
    return _block(name, encoder, encoder.transform(X), hidden)


def _hidden_rows(encoder, X):
    """Return which rows an encoder must not see: those of nothing, if it takes no NaN."""
    takes_nan = not hasattr(encoder, "__sklearn_tags__") or get_tags(encoder).input_tags.allow_nan
    # not looked at where it does not matter: there may be millions
    return np.zeros(0, dtype=bool) if takes_nan else _empty_rows(X)


def _empty_rows(X):
    """Return which rows of a table, or entries of a sequence, have nothing in them."""
    import pandas as pd

    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) == 2:
        if hasattr(X, "iloc"):
            return X.isna().to_numpy().all(axis=1)
        if isinstance(X, np.ndarray) and X.dtype.kind in "fO":
            return pd.isna(X).all(axis=1)
        return np.zeros(shape[0], dtype=bool)
    if (shape is not None and len(shape) != 1) or not hasattr(X, "__len__"):
        return np.zeros(0, dtype=bool)
    return np.array([_is_nothing(one, pd) for one in X], dtype=bool)


def _is_nothing(value, pd):
    if value is None or isinstance(value, str):
        return not (value and value.strip())
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _rows(X, keep):
    if hasattr(X, "iloc"):
        return X.iloc[keep]
    return (
        X[keep] if hasattr(X, "shape") else [one for one, kept in zip(X, keep, strict=True) if kept]
    )


def _block(name, encoder, output, hidden):
    """Return the block of what an encoder gave for the rows that are not hidden."""
    if isinstance(output, ExpertFeatures):
        block = _only_block(name, output)
    else:
        values = _numbers(name, output)
        block = ExpertBlock(
            name=check_expert_name(name),
            concepts=concept_names(name, encoder_concepts(encoder)),
            present=~np.isnan(values).all(axis=1),
            similarities=values.astype(np.float32),
        )
        if values.shape[1] != len(block.concepts):
            raise InputError(
                f"Expert {name!r} gives {values.shape[1]} columns and names "
                f"{len(block.concepts)}. Mend its get_feature_names_out."
            )
    if hidden.any():
        block = _spread(block, ~hidden)
    return block


def _only_block(name, features):
    """Return the one block of an expert's features under the expert's name."""
    if len(features.blocks) > 1:
        raise InputError(
            f"Expert {name!r} is itself a union of {list(features.expert_names)}; "
            "list these experts in one ExpertUnion."
        )
    return features.blocks[0].rename(name)


def _numbers(name, output):
    """Return the output of a transformer as float64; gaps stay for a head that may take them."""
    output = output.toarray() if hasattr(output, "toarray") else output
    try:
        if hasattr(output, "iloc"):
            output = output.to_numpy(dtype=np.float64, na_value=np.nan)
        output = np.asarray(output, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Expert {name!r}: its columns are not all numbers ({error}). Give it an encoder that "
            "makes numbers of them, such as OneHotEncoder(), or choose other columns."
        ) from error
    return matrix_rows(name, "columns", output, nan_rows=True)


def encoder_concepts(encoder):
    """Return the concept names of a fitted encoder, or the feature names of any transformer."""
    bank = getattr(encoder, "bank_", None)
    return bank.texts if bank is not None else [str(n) for n in encoder.get_feature_names_out()]


def _spread(block, seen):
    """Return the block with the rows that were not shown put back, missing."""
    parts = {}
    for part in ("embeddings", "similarities"):
        values = getattr(block, part)
        if values is not None:
            parts[part] = np.full((len(seen), values.shape[1]), np.nan, dtype=np.float32)
            parts[part][seen] = values
    present = np.zeros(len(seen), dtype=bool)
    present[seen] = block.present
    return replace(block, present=present, **parts)
