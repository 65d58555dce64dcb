"""Whether an encoder sees a concept where people saw it: AUROCs against annotated images."""

from collections.abc import Mapping

import numpy as np
from scipy.special import expit
from sklearn.base import clone
from sklearn.utils import check_random_state

from skmoecbm._metrics import group_of_rows, weighted_auroc
from skmoecbm._validation import check_number
from skmoecbm.concepts._parsing import meant
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures

__all__ = ["annotation_table", "concept_presence", "ranking_table"]


def concept_presence(
    encoder,
    images,
    annotations,
    *,
    reference=None,
    temperature=0.01,
    groups=None,
    n_bootstrap=1000,
    confidence=0.95,
    random_state=0,
):
    """Measure how well concepts are seen, against what people annotated.

    Parameters
    ----------
    encoder : ConceptEncoder, fitted or not, or None
        Its bank must hold the annotated concepts. None where `images` are features already.
    images : sequence of n images, or ExpertFeatures with one block of embeddings
    annotations : DataFrame of n rows, or dict of str to sequence of length n
        Concept (its text in the bank) -> 1 present, 0 absent, NaN not judged.
    reference : str, array of shape (d,), or None, default=None
        A prompt that says nothing of the concept ("a dermatoscopic image"), or its embedding. With
        one, presence is also scored as MONET does: the softmax of the cosines to the concept and
        to the reference, ``1 / (1 + exp((cos_ref - cos) / temperature))``. Unlike the plain cosine
        it takes away what all prompts share in an image.
    temperature : float, default=0.01
        CLIP's is 1/100.
    groups : array of shape (n,), default=None
        Rows of a patient or lesion: intervals are from a bootstrap over groups.
    n_bootstrap : int, default=1000
        0 leaves the intervals out (NaN).
    confidence : float, default=0.95
    random_state : int, RandomState or None, default=0

    Returns
    -------
    pandas.DataFrame
        One row per concept and score: concept, score ("cosine", "contrast"), n and n_present
        (rows judged), auroc with auroc_low and auroc_high, average_precision with its own,
        prevalence (the average precision of guessing). In the order of the annotations. AUROCs
        are NaN where all judged rows agree. For "contrast" also mean_present and mean_absent, the
        mean score in [0, 1] of either kind of row; NaN for "cosine", whose level means nothing.

    Raises
    ------
    InputError
        If an annotated concept is not in the bank, a value is not 0, 1 or NaN, or lengths differ.

    References
    ----------
    Kim et al., "Transparent medical image AI via an image-text foundation model grounded in
    medical literature", Nature Medicine 2024 (MONET), methods, "concept annotation".

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm import ExpertFeatures, concept_presence
    >>> X = np.array([[1.0, 0.1], [0.9, 0.3], [0.2, 1.0], [0.1, 0.8]])
    >>> features = ExpertFeatures.from_embeddings({"clip": (X, np.eye(2), ["red", "round"])})
    >>> table = concept_presence(None, features, {"red": [1, 1, 0, 0]}, n_bootstrap=0)
    >>> table["score"][0], float(table["auroc"][0])
    ('cosine', 1.0)
    """
    check_number("concept_presence", "temperature", temperature, low=0, low_open=True)
    check_number("concept_presence", "n_bootstrap", n_bootstrap, low=0, integer=True)
    check_number("concept_presence", "confidence", confidence, low=0, high=1, low_open=True)
    features, reference = _encoded(encoder, images, reference)
    block = features.blocks[0]
    names, truth = annotation_table(annotations, len(block))
    unknown = [name for name in names if name not in block.concepts]
    if unknown:
        near = meant(unknown[0], block.concepts)
        raise InputError(
            f"The annotated concept(s) {unknown[:5]} are not among the {len(block.concepts)} of "
            f"the encoder ({', '.join(block.concepts[:5])}, ...).{near} Name annotations as the "
            "bank does, or give the encoder a bank that holds them."
        )
    columns = [block.concepts.index(name) for name in names]
    cosine = block.values()[:, columns].astype(np.float64)
    scores = {"cosine": cosine}
    if reference is not None:
        X = block.embeddings.astype(np.float64)
        scores["contrast"] = expit((cosine - (X @ reference)[:, None]) / temperature)
    truth = np.where(block.present[:, None], truth, np.nan)
    table = ranking_table(
        names, truth, scores, groups, n_bootstrap, confidence, check_random_state(random_state)
    )
    order = {name: i for i, name in enumerate(names)}
    return table.sort_values("concept", key=lambda c: c.map(order), kind="stable").reset_index(
        drop=True
    )


def annotation_table(annotations, n_rows):
    """Return the concepts, a list of str, and what was judged: float64 (n, m) of 0, 1 and NaN.

    Raises
    ------
    InputError
        Names the concept and the row at fault.
    """
    columns = getattr(annotations, "columns", None)
    if columns is None and not isinstance(annotations, Mapping):
        raise InputError(
            "annotations must be a DataFrame or a dict of concept -> 0/1 per image. "
            f"Got {type(annotations).__name__}."
        )
    names = list(annotations if columns is None else columns)
    if not names:
        raise InputError("annotations must hold at least one concept. Got none.")
    bad = [name for name in names if not isinstance(name, str) or name != name.strip() or not name]
    if bad or len({name.lower() for name in names}) < len(names):
        raise InputError(
            "annotations must be named by concepts: str without spaces around them, that differ "
            f"in more than case. Got {bad or names}."
        )
    out = np.empty((n_rows, len(names)))
    for j, name in enumerate(names):
        try:
            column = np.asarray(annotations[name], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"The annotations of {name!r} must be 0, 1 or NaN.") from error
        if column.shape != (n_rows,):
            raise InputError(
                f"The annotations of {name!r} must have one entry per image, ({n_rows},). "
                f"Got shape {column.shape}."
            )
        bad = np.flatnonzero(~np.isnan(column) & (column != 0) & (column != 1))
        if bad.size:
            raise InputError(
                f"The annotations of {name!r} must be 0, 1 or NaN. Got {column[bad[0]]:g} in row "
                f"{bad[0]}."
            )
        out[:, j] = column
    return names, out


def ranking_table(names, truth, scores, groups, n_bootstrap, confidence, rng):
    """Return AUROC and average precision per concept and score, with bootstrap intervals.

    Parameters
    ----------
    names : list of str, length m
    truth : ndarray of shape (n, m) of 0, 1 and NaN
    scores : dict of str to ndarray of shape (n, m)
    groups : array of shape (n,) or None
    n_bootstrap : int
    confidence : float
    rng : RandomState

    Returns
    -------
    pandas.DataFrame
        As of `concept_presence`; all scores see the same resamples.
    """
    import pandas as pd

    group_of_row = group_of_rows(groups, len(truth))
    n_groups = int(group_of_row.max()) + 1
    draws = np.stack(
        [np.ones(n_groups, dtype=np.int64)]  # the sample itself
        + [
            np.bincount(rng.randint(n_groups, size=n_groups), minlength=n_groups)
            for _ in range(n_bootstrap)
        ]
    )
    tail = 50 * (1 - confidence)
    rows = []
    for j, name in enumerate(names):
        judged = ~np.isnan(truth[:, j])
        positive = truth[judged, j] == 1
        weights = draws[:, group_of_row[judged]].astype(np.float64)
        for kind, values in scores.items():
            score = values[judged, j]
            row = {"concept": name, "score": kind, "n": len(score), "n_present": positive.sum()}
            nothing = np.full(len(draws), np.nan)
            measured = {"auroc": nothing, "average_precision": nothing}
            with np.errstate(invalid="ignore", divide="ignore"):
                if len(score):
                    measured = {
                        "auroc": weighted_auroc(positive, score, weights),
                        "average_precision": weighted_precision(positive, score, weights),
                    }
            for what, drawn in measured.items():
                kept = drawn[1:][np.isfinite(drawn[1:])]
                low, high = np.percentile(kept, [tail, 100 - tail]) if kept.size else (np.nan,) * 2
                row |= {what: drawn[0], f"{what}_low": low, f"{what}_high": high}
            row["prevalence"] = positive.mean() if len(score) else np.nan
            for word, part in (("present", positive), ("absent", ~positive)):
                known = kind == "contrast" and part.any()
                row[f"mean_{word}"] = score[part].mean() if known else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def weighted_precision(positive, score, weights):
    """Return the average precision under each row of weights (B, n), shape (B,).

    The sum over thresholds of precision times the recall gained there, ties together, as
    scikit-learn has it.
    """
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) < 0])
    hits = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    seen = np.cumsum(np.add.reduceat(weights[:, order], starts, axis=1), axis=1)
    found = np.cumsum(hits, axis=1)
    precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
    return (hits * precision).sum(axis=1) / hits.sum(axis=1)


def _encoded(encoder, images, reference):
    """Return features of one block, and the unit embedding of the reference or None."""
    if isinstance(images, ExpertFeatures):
        features = images
    elif not hasattr(encoder, "embed_images"):
        raise InputError(
            "encoder must be a ConceptEncoder where images are not ExpertFeatures. "
            f"Got {encoder!r:.60} instead."
        )
    else:
        features = (
            encoder.transform(images)
            if hasattr(encoder, "bank_")
            else clone(encoder).fit_transform(images)
        )
    if not isinstance(features, ExpertFeatures) or len(features.blocks) != 1:
        raise InputError(
            "concept_presence looks at one expert at a time: give a ConceptEncoder without "
            "set_output, or ExpertFeatures with one block (features.select(name))."
        )
    if isinstance(reference, str):
        if encoder is None:
            raise InputError("reference must be an embedding, not a str, where encoder is None.")
        reference = encoder.embed_texts([reference])[0]
    if reference is None:
        return features, None
    width = None if features.blocks[0].texts is None else features.blocks[0].texts.shape[1]
    reference = np.asarray(reference, dtype=np.float64)
    if width is None or reference.shape != (width,) or not np.any(reference):
        raise InputError(
            f"reference must be a nonzero embedding of shape ({width},), and the features must "
            f"carry embeddings. Got shape {reference.shape}."
        )
    return features, reference / np.linalg.norm(reference)
