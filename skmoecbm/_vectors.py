"""Directions of concepts learned from annotated images, where words are weak."""

import warnings
from dataclasses import dataclass, field, replace

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils import check_random_state

from skmoecbm._blocks import unit_rows, value_rows
from skmoecbm._metrics import group_of_rows
from skmoecbm._presence import annotation_table, ranking_table
from skmoecbm._validation import check_number
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.features import ExpertFeatures

__all__ = ["ConceptVectors", "fit_concept_vectors"]

# Inverse strengths of the penalty, on embeddings of unit variance per dimension.
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, eq=False)
class ConceptVectors:
    """Directions of concepts in an encoder's embedding space; immutable.

    Attributes
    ----------
    names : tuple of str, length m
    vectors : ndarray of shape (m, d), float32
        Of unit length.
    offsets : ndarray of shape (m,), float64
        ``X @ vector + offset`` is above 0 where the concept is more likely there than not, were
        it in half of the images.
    mix : ndarray of shape (m,), float64
        Share of the vector beside the words, in [0, 1]; 1 (the start) uses it instead of them.
    table : pandas.DataFrame
        AUROC and average precision out of fold, with intervals, of every concept tried.
    dropped : dict of str to str
        Concepts that could not be learned or seen -> the reason.
    fingerprint : str or None
        Of the backbone whose embeddings these are.
    """

    names: tuple
    vectors: np.ndarray
    offsets: np.ndarray
    mix: np.ndarray
    table: object = field(repr=False)
    dropped: dict = field(default_factory=dict)
    fingerprint: str | None = None

    def __deepcopy__(self, memo=None):
        """Return the object itself, so that `sklearn.base.clone` costs nothing."""
        return self

    def __repr__(self):
        """Return one line."""
        return f"ConceptVectors({len(self.names)} concepts, {len(self.dropped)} dropped)"

    def with_mix(self, share):
        """Return the same vectors, to be mixed with words.

        Parameters
        ----------
        share : float in [0, 1], or dict of str to float
            Of the vector; concepts that a dict does not name keep theirs.

        Raises
        ------
        InputError
            If a share is out of range, or a concept is not here.
        """
        shares = share if isinstance(share, dict) else dict.fromkeys(self.names, share)
        mix = self.mix.copy()
        for name, value in shares.items():
            if name not in self.names:
                raise InputError(f"There is no vector for {name!r}; there are {list(self.names)}.")
            check_number("with_mix", "share", value, low=0, high=1)
            mix[self.names.index(name)] = value
        return replace(self, mix=mix)

    def into(self, names, texts, has_words):
        """Return the embeddings of concepts, words and vectors mixed as `mix` says.

        Parameters
        ----------
        names : list of str, length k
        texts : ndarray of shape (k, d)
            L2-normalised embeddings of the words.
        has_words : sequence of bool, length k
            False where the model does not know the words, and the vector stands alone.

        Returns
        -------
        ndarray of shape (k, d), float32
            L2-normalised.
        """
        out = np.array(texts, dtype=np.float64)
        for name, vector, share in zip(self.names, self.vectors, self.mix, strict=True):
            if name in names:
                row = names.index(name)
                words = (1 - share) * out[row] if has_words[row] else 0.0
                out[row] = words + (share if has_words[row] else 1.0) * vector
        return unit_rows(out)


def fit_concept_vectors(
    encoder,
    images,
    annotations,
    *,
    groups=None,
    n_splits=5,
    min_present=10,
    n_bootstrap=200,
    confidence=0.95,
    random_state=0,
):
    """Learn the direction of each concept from images that people annotated.

    Per concept a logistic regression on the embeddings, classes balanced, its ridge penalty
    chosen by log-loss out of fold. What is reported is out of fold as well: the penalty for a fold
    is chosen on the other folds. A concept whose AUROC's interval reaches 0.5 is dropped, as the
    embeddings do not show it.

    Parameters
    ----------
    encoder : ConceptEncoder, fitted or not, or None
        None where `images` are features already.
    images : sequence of n images, or ExpertFeatures with one block of embeddings
        Of the training part alone, where a classifier is evaluated later.
    annotations : DataFrame of n rows, or dict of str to sequence of length n
        Concept -> 1 present, 0 absent, NaN not judged. Concepts need not be in a bank.
    groups : array of shape (n,), default=None
        Rows of a patient or lesion stay in one fold; intervals are over groups.
    n_splits : int, default=5
    min_present : int, default=10
        Groups that must show the concept, and that must not; else it is dropped.
    n_bootstrap : int, default=200
    confidence : float, default=0.95
    random_state : int, RandomState or None, default=0

    Returns
    -------
    ConceptVectors
        For `ConceptEncoder(..., concept_vectors=)`.

    Warns
    -----
    SkmoecbmWarning
        Once, with the concepts that were dropped.

    Raises
    ------
    InputError
        If annotations or lengths are bad, or no concept is left.

    References
    ----------
    Kim et al., "Interpretability beyond feature attribution: quantitative testing with concept
    activation vectors", ICML 2018; Yuksekgonul et al., "Post-hoc concept bottleneck models",
    ICLR 2023, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm import ExpertFeatures, fit_concept_vectors
    >>> rng = np.random.default_rng(0)
    >>> veil = np.tile([0, 1], 100)
    >>> X = rng.normal(size=(200, 4)) + 4 * veil[:, None] * np.eye(4)[2]
    >>> features = ExpertFeatures.from_embeddings({"clip": (X, np.eye(4)[:1], ["red"])})
    >>> vectors = fit_concept_vectors(None, features, {"blue-white veil": veil})
    >>> int(np.abs(vectors.vectors[0]).argmax())
    2
    """
    owner = "fit_concept_vectors"
    check_number(owner, "n_splits", n_splits, low=2, integer=True)
    check_number(owner, "min_present", min_present, low=1, integer=True)
    check_number(owner, "n_bootstrap", n_bootstrap, low=1, integer=True)
    check_number(owner, "confidence", confidence, low=0, high=1, low_open=True)
    X, present, fingerprint = _embeddings(encoder, images)
    names, truth = annotation_table(annotations, len(X))
    truth[~present] = np.nan
    group_of_row = group_of_rows(groups, len(X))
    rng = check_random_state(random_state)
    center = X[present].mean(axis=0)
    scale = max(float(np.sqrt(X[present].var(axis=0).mean())), 1e-12)
    X = (X - center) / scale  # one scale for all dimensions: directions stay what they are

    dropped, fits, scores = {}, {}, np.full(truth.shape, np.nan)
    for j, name in enumerate(names):
        rows = np.flatnonzero(~np.isnan(truth[:, j]))
        y, own = truth[rows, j] == 1, group_of_row[rows]
        counts = {word: len(set(own[part])) for word, part in (("with", y), ("without", ~y))}
        few = [f"{n} {word} it" for word, n in counts.items() if n < max(min_present, n_splits)]
        if few:
            dropped[name] = f"too few images or groups ({', '.join(few)})"
            continue
        folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=rng.randint(2**31 - 1))
        fits[name], scores[rows, j] = _fit_one(X[rows], y, list(folds.split(X[rows], y, own)))
    order = check_random_state(rng.randint(2**31 - 1))
    table = ranking_table(
        names,
        np.where(np.isnan(scores), np.nan, truth),
        {"probe": scores},
        groups,
        n_bootstrap,
        confidence,
        order,
    )
    table = table.drop(columns=["mean_present", "mean_absent"])
    for row in table.itertuples():
        if row.concept in fits and not row.auroc_low > 0.5:
            dropped[row.concept] = (
                f"cannot be seen (AUROC {row.auroc:.2f}, interval from {row.auroc_low:.2f})"
            )
    kept = [name for name in names if name not in dropped]
    told = "; ".join(f"{name!r}: {reason}" for name, reason in dropped.items())
    if not kept:
        raise InputError(
            f"No concept can be learned from these {len(X)} images: {told}. "
            "Annotate more images, or keep to words."
        )
    if dropped:
        warnings.warn(
            f"{len(dropped)} of {len(names)} concepts are dropped: {told}.",
            SkmoecbmWarning,
            stacklevel=2,
        )
    weights = np.stack([fits[name][0] for name in kept])
    lengths = np.linalg.norm(weights, axis=1)
    intercepts = np.array([fits[name][1] for name in kept])
    return ConceptVectors(
        names=tuple(kept),
        vectors=(weights / lengths[:, None]).astype(np.float32),
        offsets=(intercepts * scale - weights @ center) / lengths,
        mix=np.ones(len(kept)),
        table=table,
        dropped=dropped,
        fingerprint=fingerprint,
    )


def _fit_one(X, y, folds):
    """Return (weights, intercept) on all rows, and each row's logit out of fold."""
    logits = np.empty((len(_PENALTIES), len(y)))
    for train, test in folds:
        for i, penalty in enumerate(_PENALTIES):
            model = _regression(penalty).fit(X[train], y[train])
            logits[i, test] = model.decision_function(X[test])
    balance = np.where(y, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    losses = balance * np.logaddexp(0, np.where(y, -logits, logits))
    out = np.empty(len(y))
    for _, test in folds:
        others = np.ones(len(y), dtype=bool)
        others[test] = False
        out[test] = logits[losses[:, others].mean(axis=1).argmin(), test]
    best = _regression(_PENALTIES[losses.mean(axis=1).argmin()]).fit(X, y)
    return (best.coef_[0], best.intercept_[0]), out


def _regression(penalty):
    return LogisticRegression(C=penalty, class_weight="balanced", max_iter=1000)


def _embeddings(encoder, images):
    """Return embeddings as float64, which rows are there, and the backbone's fingerprint."""
    if isinstance(images, ExpertFeatures):
        if len(images.blocks) != 1 or images.blocks[0].embeddings is None:
            raise InputError(
                "fit_concept_vectors learns for one expert at a time, from embeddings: give "
                "ExpertFeatures with one block of them (features.select(name))."
            )
        block = images.blocks[0]
        return np.nan_to_num(block.embeddings.astype(np.float64)), block.present, None
    if not hasattr(encoder, "embed_images"):
        raise InputError(
            "encoder must be a ConceptEncoder where images are not ExpertFeatures. "
            f"Got {encoder!r:.60} instead."
        )
    rows, fingerprint = encoder.embed_images(images)
    rows, present = value_rows("encoder", "image embeddings", rows)
    return np.nan_to_num(rows), present, fingerprint
