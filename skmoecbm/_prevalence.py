"""What class weights did to the probabilities, undone: the shift of logits to other frequencies."""

import numpy as np

from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["prevalence_shift", "training_prevalence"]


def training_prevalence(model):
    """Return the frequency of each class or label in the training rows, (K,), or None.

    None where the model was saved before that was kept, and class weights hide it.
    """
    found = getattr(model, "class_prevalence_", None)
    if found is None and model.class_weight is None:
        log_prior = model.class_log_prior_
        found = np.exp(log_prior - (np.logaddexp(0, log_prior) if model.multilabel_ else 0.0))
    return found


def prevalence_shift(model, target):
    """Return what to add to the logits so that they are those of other class frequencies.

    Bayes: with the same images in each class, the odds between classes change by the ratio of
    their new to their trained frequencies, a constant on each logit.

    Parameters
    ----------
    model : fitted classifier
        With `classes_`, `multilabel_` and `class_log_prior_`, the (weighted) frequencies that it
        was trained at: log p, or log odds where a row may have several labels.
    target : None, "train" or dict of label to frequency
        ``"train"``: as in the training rows, without class weights. A dict: classes that it does
        not name share the rest in the ratio of their training frequencies; where a row may have
        several labels these keep that frequency itself.

    Returns
    -------
    ndarray of shape (K,), float64, or 0.0

    Raises
    ------
    InputError
        If `target` is none of these, or names unknown classes or impossible frequencies.

    References
    ----------
    Saerens, Latinne and Decaestecker, Adjusting the Outputs of a Classifier to New a Priori
    Probabilities (2002), eq. 2.4.
    """
    if target is None:
        return 0.0
    wanted = "'train', a dict of class to frequency, or None"
    if not isinstance(target, dict) and not (isinstance(target, str) and target == "train"):
        raise parameter_error(model, "target_prevalence", wanted, target)
    classes, named = model.classes_.tolist(), {} if target == "train" else target
    unknown = [label for label in named if label not in classes]
    if unknown or target == {}:
        raise InputError(
            f"target_prevalence must name classes of the model. It names {unknown[:5]}; there are "
            f"{classes[:20]}."
        )
    for label, frequency in named.items():
        if not isinstance(frequency, (int, float, np.number)) or not 0 < frequency < 1:
            raise parameter_error(
                model, "target_prevalence", f"between 0 and 1 for class {label!r}", frequency
            )
    frequency = _frequencies(model, named)
    log_odds = np.log(frequency)
    if model.multilabel_:
        log_odds = log_odds - np.log1p(-frequency)
    return log_odds - model.class_log_prior_


def _frequencies(model, named):
    """Return the frequency of each class that was asked for, shape (K,)."""
    given = np.array([label in named for label in model.classes_.tolist()])
    values = np.array([float(named.get(label, 0.0)) for label in model.classes_.tolist()])
    total = values.sum()
    if given.all():
        if not model.multilabel_ and abs(total - 1) > 1e-6:
            raise InputError(
                f"target_prevalence names every class, so its frequencies must sum to 1. They sum "
                f"to {total:g}."
            )
        return values if model.multilabel_ else values / total
    training = training_prevalence(model)
    if training is None:
        raise InputError(
            "This model was saved before training frequencies were kept, and its class_weight "
            "hides them. Give target_prevalence the frequency of every class."
        )
    if model.multilabel_:
        return np.where(given, values, training)
    if total >= 1:
        raise InputError(
            f"target_prevalence leaves nothing for the classes that it does not name: its "
            f"frequencies sum to {total:g}. Let them sum to less than 1, or name every class."
        )
    rest = np.where(given, 0.0, training)
    return values + (1 - total) * rest / rest.sum()
