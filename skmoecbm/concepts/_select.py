"""Which concepts to keep."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skmoecbm._validation import check_choice, check_number, parameter_error
from skmoecbm.concepts._greedy import greedy_cover
from skmoecbm.concepts._parsing import meant
from skmoecbm.concepts._scores import RELEVANCE, LabelledEmbeddings
from skmoecbm.concepts._threads import map_ahead, map_threads
from skmoecbm.exceptions import InputError

__all__ = ["SubmodularSelector", "TopKConcepts"]


class _Selector(BaseEstimator):
    """What the selectors share: scores per (class, concept written for it), spread, table."""

    needs_labels = True

    def fit(self, embeddings, y, concept_embeddings, incidence=None, *, bank=None):
        """Score the concepts and choose.

        Parameters
        ----------
        embeddings : array of shape (n, d)
            L2-normalised image embeddings; all-NaN rows (missing images) are left out with their
            labels.
        y : array of shape (n,), or indicator matrix of shape (n, C)
            Class labels; those that mean the same class of `bank` are one.
        concept_embeddings : array of shape (m, d)
            L2-normalised concept embeddings.
        incidence : array of shape (m, C), bool, default=None
            Whether a concept was written for a class. A concept of several classes is a candidate
            of each of them; those of no class are one more group, scored on all classes.
        bank : ConceptBank, default=None
            Tells which label means which column of `incidence`, and the texts for `to_frame`.
            Without it the columns are the sorted labels.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If a parameter is bad, shapes differ, a row of the embeddings is infinite or NaN in
            part, a label is none of the bank's classes, or fewer than two classes are left.
        """
        self._check_parameters()
        T = np.asarray(concept_embeddings)
        T = T if T.dtype == np.float32 else T.astype(np.float64)
        data = LabelledEmbeddings(embeddings, _joined_labels(y, bank), type(self).__name__)
        if T.ndim != 2 or T.shape[1] != data.embeddings.shape[1]:
            raise InputError(
                f"Concept embeddings must have shape (m, {data.embeddings.shape[1]}), the width of "
                f"the image embeddings. Got {T.shape}."
            )
        rng = check_random_state(self.random_state)
        # one draw for the random scores of every resample, another stream for the resamples
        streams = [np.random.RandomState(seed) for seed in rng.randint(2**31 - 1, size=2)]
        self._candidates = self._candidates_of(data, len(T), incidence, bank)
        self._texts = None if bank is None else tuple(bank.texts)
        self._pair_scores = self._scores_of_pairs(data, T, streams[0])
        self.scores_ = self._best_of_pairs(self._pair_scores, len(T))
        self.scores_std_ = None
        if self.n_bootstrap:
            draws = np.empty((self.n_bootstrap, len(T)))
            for b in range(self.n_bootstrap):
                parts = self._scores_of_pairs(data.resampled(streams[1]), T, streams[0])
                draws[b] = self._best_of_pairs(parts, len(T))
            self.scores_std_ = np.full(len(T), np.nan)
            scored = ~np.isnan(self.scores_)
            self.scores_std_[scored] = np.nanstd(draws[:, scored], axis=0)
        self.support_ = np.unique(self._choose(T)).astype(np.intp)
        return self

    def to_frame(self):
        """Return one row per concept and class it was written for, best first within a class.

        Returns
        -------
        pandas.DataFrame
            Columns class (None without classes), concept (its text, or its number without a
            bank), score, spread (standard deviation over bootstraps of the images, of the best
            of the concept's classes; NaN without), selected.
        """
        import pandas as pd

        check_is_fitted(self, "support_")
        kept = np.zeros(len(self.scores_), dtype=bool)
        kept[self.support_] = True
        frames = []
        for (label, _, rows), scores in zip(self._candidates, self._pair_scores, strict=True):
            order = np.argsort(-scores, kind="stable")
            chosen = rows[order]
            frames.append(
                pd.DataFrame(
                    {
                        "class": [label] * len(rows),
                        "concept": chosen
                        if self._texts is None
                        else [self._texts[i] for i in chosen],
                        "score": scores[order],
                        "spread": np.nan if self.scores_std_ is None else self.scores_std_[chosen],
                        "selected": kept[chosen],
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def _check_parameters(self):
        check_choice(self, "relevance", self.relevance, RELEVANCE)
        check_number(self, "n_bootstrap", self.n_bootstrap, low=0, integer=True)

    def _candidates_of(self, data, n_concepts, incidence, bank):
        """Return (label, its column in the data, candidate concepts) per class."""
        if incidence is None and bank is not None and bank.classes:
            incidence = bank.incidence
        whole = [(None, None, np.arange(n_concepts))]
        if incidence is None or not np.asarray(incidence).any():
            return whole
        incidence = np.asarray(incidence, dtype=bool)
        n_classes = len(data.labels)
        if bank is not None and bank.classes and incidence.shape == (n_concepts, len(bank.classes)):
            keys = bank.class_keys
            if data.indicator and len(data.labels) == len(keys):
                names = dict(zip(data.labels.tolist(), keys, strict=True))
            else:
                names = bank.match_labels(data.labels.tolist())
            lost = [label for label, key in names.items() if key is None]
            if lost:
                raise InputError(
                    f"The concepts were written for the classes {keys}, and the label(s) "
                    f"{lost[:10]} match none of their keys, names or synonyms."
                    f"{meant(lost[0], bank.class_synonyms)} Map the labels, or add synonyms to the "
                    "concept bank."
                )
            columns = [keys.index(names[label]) for label in data.labels.tolist()]
        elif incidence.shape == (n_concepts, n_classes):
            columns = range(n_classes)
        else:
            raise InputError(
                f"incidence must have shape (concepts, classes) = ({n_concepts}, {n_classes}). "
                f"Got {incidence.shape}; pass bank= where the bank has other classes than y."
            )
        # all ones of the matrix at once: column by column a large one would be read C times
        written, of = np.divmod(np.flatnonzero(incidence), incidence.shape[1])
        order = np.argsort(of, kind="stable")
        rows_of = np.split(written[order], np.searchsorted(of[order], range(1, len(incidence.T))))
        candidates = [
            (label, k, rows_of[column])
            for k, (label, column) in enumerate(zip(data.labels.tolist(), columns, strict=True))
            if rows_of[column].size
        ]
        free = np.flatnonzero(~_mask(n_concepts, rows_of))
        if free.size:  # of no class, such as vectors learned from images: one group of their own
            candidates.append((None, None, free))
        if not candidates:
            raise InputError(
                f"None of the {n_concepts} concepts was written for a class in y, "
                f"{data.labels.tolist()[:10]}. Choose another bank, or select=None."
            )
        return candidates

    def _scores_of_pairs(self, data, T, rng):
        """Return the scores of each class's candidates."""
        if self.relevance != "mi":

            def score(candidates):
                _, column, rows = candidates
                return data.score(self.relevance, T, column, rng, rows)

            # only the products of class means are small enough to stand beside each other
            each = map_threads if self.relevance == "similarity" else map
            return list(each(score, self._candidates))
        scores = np.full(len(T), np.nan)  # mutual information is the same for every class
        rows = np.flatnonzero(_mask(len(T), [rows for _, _, rows in self._candidates]))
        scores[rows] = data.score("mi", T, None, rng, rows)
        return [scores[rows] for _, _, rows in self._candidates]

    def _best_of_pairs(self, parts, n_concepts):
        """Return per concept the best score over its classes; NaN for those of no class in y."""
        best = np.full(n_concepts, np.nan)
        for (_, _, rows), scores in zip(self._candidates, parts, strict=True):
            best[rows] = np.fmax(best[rows], scores)
        return best


def _mask(n, parts):
    """Return which of n rows stand in any of the parts: sets of a million are slow to sort."""
    mask = np.zeros(n, dtype=bool)
    for rows in parts:
        mask[rows] = True
    return mask


def _joined_labels(y, bank):
    """Return the labels with one spelling for each class of the bank."""
    y = np.asarray(y)
    if bank is None or not bank.classes or y.ndim != 1:
        return y
    meant = bank.match_labels(sorted(set(y.tolist()), key=str))
    first = {key: label for label, key in reversed(meant.items()) if key is not None}
    one = {label: label if key is None else first[key] for label, key in meant.items()}
    if len(set(one.values())) == len(one):
        return y
    return np.array([one[label] for label in y.tolist()], dtype=y.dtype)


class TopKConcepts(_Selector):
    """Keep the concepts with the highest scores.

    Parameters
    ----------
    k : int, default=25
        How many to keep.
    per_class : bool, default=True
        Keep k for each class, among the concepts written for it; k in all where the bank has no
        classes, or if False.
    relevance : {"mi", "auroc", "welch", "similarity", "random"}, default="mi"
        The score; see `SubmodularSelector`.
    n_bootstrap : int, default=0
        Resamples of the images from which `scores_std_` is taken.
    random_state : int, RandomState or None, default=None
        For `relevance="random"` and the resamples.

    Attributes
    ----------
    scores_ : ndarray of shape (m,), float64
        The best over the classes that a concept was written for, over all with
        `per_class=False`; NaN where none of them is in y.
    scores_std_ : ndarray of shape (m,), float64, or None
        Its standard deviation over resamples.
    support_ : ndarray of int
        The concepts kept, ascending.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.concepts import TopKConcepts
    >>> X = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
    >>> TopKConcepts(1, per_class=False).fit(X, ["a", "a", "b", "b"], np.eye(2)).support_
    array([0])
    """

    def __init__(self, k=25, *, per_class=True, relevance="mi", n_bootstrap=0, random_state=None):
        self.k = k
        self.per_class = per_class
        self.relevance = relevance
        self.n_bootstrap = n_bootstrap
        self.random_state = random_state

    def _check_parameters(self):
        super()._check_parameters()
        check_number(self, "k", self.k, low=1, integer=True)
        if not isinstance(self.per_class, bool | np.bool_):
            raise parameter_error(self, "per_class", "True or False", self.per_class)

    def _candidates_of(self, data, n_concepts, incidence, bank):
        if not self.per_class:  # whatever they were written for
            return [(None, None, np.arange(n_concepts))]
        return super()._candidates_of(data, n_concepts, incidence, bank)

    def _choose(self, texts):
        if not self.per_class:
            ranked = np.where(np.isnan(self.scores_), -np.inf, self.scores_)
            return np.argsort(-ranked, kind="stable")[: self.k]
        return np.concatenate(
            [
                rows[np.argsort(-scores, kind="stable")][: self.k]
                for (_, _, rows), scores in zip(self._candidates, self._pair_scores, strict=True)
            ]
        )


class SubmodularSelector(_Selector):
    """Keep concepts that tell the classes apart and do not repeat one another.

    For a class with candidates C, the picks S maximise greedily

        relevance_weight · Σ_{c in S} r(c)  +  coverage · Σ_{i in C} max_{j in S} max(cos(i, j), 0)

    with r the score, cut at knowing nothing and divided by the largest of the class's candidates,
    so that it lies in [0, 1] whatever the kind of score.

    Parameters
    ----------
    n_per_class : int, default=25
        Picks for each class (in all, where the bank has no classes).
    relevance : {"mi", "auroc", "welch", "similarity", "random"}, default="mi"
        `"mi"`: bits by which the concept parts the classes: the divergence of P(class | concept)
        from uniform, P the softmax of the classes' mean similarities in standard deviations; in
        [0, log2 C]. `"auroc"`: of the class's images against the rest; looks at each image, the
        others at class means. `"welch"`: Welch's t of the same two groups. `"similarity"`: mean
        similarity of the class's images in standard deviations. All are defined for
        similarities of any sign; neither adding a constant to a concept's similarities nor
        scaling them changes one. `"random"`: uniform in [0, 1], the control.
    relevance_weight : float, default=10.0
    coverage : float, default=1.0
        0 picks by score alone.
    scope : {"class", "global"}, default="class"
        `"class"` picks for each class among its candidates; `"global"` picks over all candidates
        together, until each class has `n_per_class`: a concept counts for each class it was written
        for, and is left out once all of them are full. It holds the cosines of all pairs
        of candidates in memory.
    n_bootstrap : int, default=0
        Resamples of the images from which `scores_std_` is taken.
    random_state : int, RandomState or None, default=None
        For `relevance="random"` and the resamples.

    Attributes
    ----------
    scores_, scores_std_, support_
        As of `TopKConcepts`.

    References
    ----------
    Yang et al., "Language in a Bottle", CVPR 2023, section 3.2 and equations 2 and 3. Their score
    takes the logarithm of similarities and is not defined where one is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.concepts import SubmodularSelector
    >>> X = np.array([[1.0, 0.0], [0.8, 0.6], [-0.8, 0.6], [-1.0, 0.0]])
    >>> T = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])  # the second repeats the first
    >>> SubmodularSelector(2, coverage=10.0).fit(X, ["a", "a", "b", "b"], T).support_
    array([0, 2])
    """

    def __init__(
        self,
        n_per_class=25,
        *,
        relevance="mi",
        relevance_weight=10.0,
        coverage=1.0,
        scope="class",
        n_bootstrap=0,
        random_state=None,
    ):
        self.n_per_class = n_per_class
        self.relevance = relevance
        self.relevance_weight = relevance_weight
        self.coverage = coverage
        self.scope = scope
        self.n_bootstrap = n_bootstrap
        self.random_state = random_state

    def _check_parameters(self):
        super()._check_parameters()
        check_number(self, "n_per_class", self.n_per_class, low=1, integer=True)
        check_number(self, "relevance_weight", self.relevance_weight, low=0)
        check_number(self, "coverage", self.coverage, low=0)
        check_choice(self, "scope", self.scope, ("class", "global"))

    def _relevance(self, scores):
        nothing = 0.5 if self.relevance == "auroc" else 0.0
        useful = np.maximum(np.nan_to_num(scores, nan=nothing) - nothing, 0.0)
        return self.relevance_weight * useful / max(useful.max(), 1e-300)

    def _choose(self, texts):
        if self.scope == "global":
            rows = np.flatnonzero(_mask(len(texts), [rows for _, _, rows in self._candidates]))
            quotas = np.stack(
                [np.isin(rows, candidates) for _, _, candidates in self._candidates], axis=1
            )
            limits = np.full(quotas.shape[1], self.n_per_class)
            T = texts[rows]
            return rows[
                greedy_cover(
                    T @ T.T,
                    self._relevance(self.scores_[rows]),
                    self.coverage,
                    len(rows),
                    quotas,
                    limits,
                )
            ]

        def cosines(candidates):
            T = texts[candidates[2]]
            return T @ T.T

        picks = []
        ready = map_ahead(cosines, self._candidates)
        for (_, _, rows), scores, cosine in zip(
            self._candidates, self._pair_scores, ready, strict=True
        ):
            relevance = self._relevance(scores)
            picks.append(rows[greedy_cover(cosine, relevance, self.coverage, self.n_per_class)])
        return np.concatenate(picks)
