"""What all checks of an audit share: features, labels, refits, and the words for a gain."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed

from skmoecbm._blocks import unit_rows
from skmoecbm._columns import own_heads
from skmoecbm._evaluate import evaluate_scores, is_indicator
from skmoecbm._evaluation import estimate
from skmoecbm._single import ConceptBottleneckClassifier
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures

__all__ = ["Gain", "Problem", "Training", "drop_priors", "judge_gain", "show", "words_of"]


@dataclass
class Training:
    """The rows that refits learn from.

    Attributes
    ----------
    X : ExpertFeatures, DataFrame or array of shape (n, m)
    y : array-like of shape (n,) or (n, K)
    groups : ndarray of shape (n,) or None
    images : list of length n, or None where features were given
    """

    X: object
    y: object
    groups: object = None
    images: object = None


@dataclass
class Problem:
    """A fitted classifier with the rows it is audited on.

    Attributes
    ----------
    classifier : fitted classifier of this package
    X : ExpertFeatures, DataFrame or array of shape (n, m)
    y : array-like of shape (n,) or (n, K)
    groups : array-like of shape (n,) or None
    train : Training or None
    images : list of length n or None
    metadata : DataFrame of n rows or None
    banks : dict of str to ConceptBank
        By expert, of a pipeline with encoders.
    n_random, n_bootstrap : int
    confidence : float
    margin : float
        The smallest gain, in macro-AUROC, that is called one.
    near : float
        The cosine from which on images are near-duplicates.
    seed : int
    n_jobs : int or None
        Refits at the same time, in threads.
    """

    classifier: object
    X: object
    y: object
    groups: object
    train: object
    images: object
    metadata: object
    banks: dict
    n_random: int
    n_bootstrap: int
    confidence: float
    margin: float
    near: float
    seed: int
    n_jobs: object = None
    warned: list = field(default_factory=list)

    @property
    def multilabel(self):
        """Whether a row may have several labels."""
        return is_indicator(self.y)

    @property
    def metrics(self):
        """The metrics that gains are told in, the first one the judge."""
        second = "macro_average_precision" if self.multilabel else "balanced_accuracy"
        return ("macro_auroc", second)

    @cached_property
    def proba(self):
        """Probabilities of the fitted model, shape (n, K)."""
        return self.classifier.predict_proba(self.X)

    @cached_property
    def scores(self):
        """Evaluation of the fitted model."""
        return self.evaluate(self.proba)

    def evaluate(self, proba, rows=None):
        """Return the `Evaluation` of probabilities; the same resamples for all of the same rows."""
        y, groups = self.y, self.groups
        if rows is not None:
            y = y[rows] if not hasattr(y, "iloc") else y.iloc[rows]
            groups = None if groups is None else np.asarray(groups)[rows]
        return evaluate_scores(
            y,
            proba,
            self.classifier.classes_,
            groups=groups,
            n_bootstrap=self.n_bootstrap,
            confidence=self.confidence,
            random_state=self.seed,
        )

    @property
    def is_mixture(self):
        """Whether the classifier has a gate."""
        return hasattr(self.classifier, "heads_")

    @property
    def heads(self):
        """The fitted heads, one per expert."""
        return self.classifier.heads_ if self.is_mixture else [self.classifier]

    def refit(self, X, *, prior="keep", **params):
        """Fit a clone of the classifier on training features with the classes as before.

        Parameters
        ----------
        X : as `train.X`
        prior : "keep" or None, default="keep"
            None takes the language prior from every concept head.
        **params
            Parameters to set.
        """
        if getattr(self.classifier, "edit_log_", None):
            raise InputError(
                "the model was edited after its fit, and one that is fitted again has no edits. "
                "Audit the model as it was before, or evaluate the edited one."
            )
        new = clone(self.classifier)
        if prior is None:
            drop_priors(new)
        new.set_params(**params)
        new.fit(X, self.train.y, groups=self.train.groups)
        if list(new.classes_) != list(self.classifier.classes_):
            raise InputError(
                f"the training rows have the classes {list(new.classes_)} and the model "
                f"{list(self.classifier.classes_)}; give training rows of all its classes."
            )
        for name in getattr(self.classifier, "masked_experts_", ()):
            new = new.without(name)
        return new

    def refits(self, pairs, *, prior="keep"):
        """Return the evaluations of refits on (train, test) pairs of features, a list."""

        def one(train, test):
            return self.evaluate(self.refit(train, prior=prior).predict_proba(test))

        parallel = Parallel(n_jobs=self.n_jobs, prefer="threads")
        return parallel(delayed(one)(train, test) for train, test in pairs)

    @cached_property
    def own(self):
        """Evaluation of the classifier refitted on the training rows, concepts as they are."""
        return self.evaluate(self.refit(self.train.X).predict_proba(self.X))

    @property
    def replaceable(self):
        """Names of the blocks whose concepts can be exchanged for random directions."""
        if not isinstance(self.X, ExpertFeatures):
            return []
        frozen = set()
        if self.is_mixture:
            heads = own_heads(self.classifier.experts)
            names, columns = self.classifier.expert_names_, self.classifier.expert_columns_
            for name, mine in zip(names, columns, strict=True):
                if isinstance(heads.get(name), FrozenEstimator):
                    frozen |= set(np.asarray(mine).tolist())
        start, found = 0, []
        for block in self.X.blocks:
            columns = set(range(start, start + len(block.concepts)))
            start += len(block.concepts)
            if block.texts is not None and not columns & frozen:
                found.append(block.name)
        return found

    @cached_property
    def random_draws(self):
        """(train, test) features with random unit vectors for concepts, `n_random` times."""
        rng = check_random_state(self.seed)
        names, draws = self.replaceable, []
        for _ in range(self.n_random):
            texts = {
                block.name: unit_rows(rng.normal(size=block.texts.shape))
                for block in self.X.blocks
                if block.name in names
            }
            draws.append([_with_texts(X, texts) for X in (self.train.X, self.X)])
        return draws

    def mean_gain(self, ours, others, metric):
        """Return our metric less the mean of the others', a `Gain`.

        Its interval is one over rows and draws: each resample of the groups takes its own resample
        of the draws, so that few draws do not look like many.
        """
        values = np.array([one[metric].value for one in others])
        k = len(values)
        rng = np.random.default_rng(self.seed)
        picks = rng.integers(k, size=(self.n_bootstrap, k))
        drawn = np.stack([one.draws[metric] for one in others], axis=1)
        mean = np.take_along_axis(drawn, picks, axis=1).mean(axis=1)
        gain = ours[metric].value - values.mean()
        luck = np.nan
        if k > 1:
            luck = stats.t.ppf((1 + self.confidence) / 2, k - 1) * values.std(ddof=1)
            luck *= np.sqrt(1 + 1 / k)
        return Gain(*estimate(gain, ours.draws[metric] - mean, self.confidence), float(luck))

    @contextmanager
    def quietly(self):
        """Collect warnings of the fits as notes; the result says them once."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for one in caught:
            if issubclass(one.category, DeprecationWarning | FutureWarning):  # not of the data
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
            else:
                self.warned.append(" ".join(str(one.message).split()))

    def take_notes(self):
        """Return the distinct warnings since the last call, each with how often it came."""
        counts = {}
        for text in self.warned:
            counts[text] = counts.get(text, 0) + 1
        self.warned.clear()
        return [text if n == 1 else f"{text} ({n} times)" for text, n in counts.items()]


def _with_texts(X, texts):
    return ExpertFeatures(
        replace(block, texts=texts[block.name]) if block.name in texts else block
        for block in X.blocks
    )


def drop_priors(classifier):
    """Take the language prior from every concept head of an unfitted classifier."""
    if isinstance(classifier, ConceptBottleneckClassifier):
        classifier.set_params(prior=None)
        return
    head = ConceptBottleneckClassifier() if classifier.head is None else clone(classifier.head)
    experts = classifier.experts
    if not isinstance(experts, str):
        experts = [
            (entry[0], clone(entry[1]).set_params(prior=None), entry[2])
            if len(entry) == 3 and isinstance(entry[1], ConceptBottleneckClassifier)
            else entry
            for entry in experts
        ]
    classifier.set_params(head=head.set_params(prior=None), experts=experts)


class Gain(NamedTuple):
    """How much a bank of concepts gains over the average of several random ones.

    Attributes
    ----------
    value, low, high : float
        The gain and its interval.
    luck : float
        How far one more random bank lies from that average, at the same confidence (Student's t);
        NaN where there was one draw.
    """

    value: float
    low: float
    high: float
    luck: float


def judge_gain(gain, margin):
    """Return how a gain is to be called: "better", "little", "none", "worse" or "unclear".

    A bank that is no better than random is not the average of random ones either: with ever more
    rows its gain is surely not zero. So a `Gain` must also go beyond luck to be "better" or
    "worse". "none": it does not, or its interval holds zero, and the interval lies below `margin`,
    so that a gain worth speaking of is ruled out; "unclear": neither is known.
    """
    luck = getattr(gain, "luck", 0.0)
    if np.isnan(luck):
        return "unclear"
    if gain.high < 0 and gain.value < -luck:
        return "worse"
    if gain.low > 0 and gain.value > luck:
        return "better" if gain.value >= margin else "little"
    return "none" if gain.high < margin else "unclear"


def words_of(metric):
    """Return the name of a metric as prose has it."""
    return metric.replace("macro_", "macro-").replace("_", " ").replace("auroc", "AUROC")


def show(found):
    """Return an estimate in words: value and interval."""
    value, low, high = (round(float(x), 3) + 0.0 for x in (found.value, found.low, found.high))
    return f"{value:+.3f}" if np.isnan(low) else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
