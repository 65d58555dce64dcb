"""The picture of a `RoutingExplanation`: what modalities and experts add, and their sum."""

from types import SimpleNamespace

import numpy as np

from skmoecbm._display_parts import COLOURS, GREY, INK, signed
from skmoecbm.exceptions import InputError
from skmoecbm.moe._routing_summary import chances_of

__all__ = ["plot_routing"]


def plot_routing(explanation, rows, k, class_, same_scale):
    """Return the figure of some rows of an explanation; see `RoutingExplanation.plot`."""
    # what draws is beside explanations of concepts, in a room further down
    from skmoecbm._explanation_plot import draw_panels, panel_of

    if class_ is not None and class_ not in explanation.classes:
        raise InputError(f"There is no class {class_!r}; there are {explanation.classes}.")
    panels = []
    for row in rows:
        label = explanation.predicted[row : row + 1].tolist()[0] if class_ is None else class_
        told = _Row(explanation, row, label)
        panels.append(panel_of(None, told.summary(k), told.lines(k), told.below()))
    named = SimpleNamespace(
        classes=explanation.classes, class_names={}, notices=explanation.notices
    )
    return draw_panels(panels, named, same_scale)


class _Row:
    """One row, and what speaks for one class in it."""

    def __init__(self, explanation, row, label):
        self.explanation, self.row, self.label = explanation, row, label
        # of two classes the one logit is for the second, and against the first
        column, sign = 0, -1.0
        if label in explanation.columns:
            column, sign = explanation.columns.index(label), 1.0
        self.of_modalities = sign * explanation.modality_parts[row, :, column]
        self.of_experts = sign * explanation.expert_parts[row, :, column]
        self.constant = sign * explanation.constant[row, column]
        self.logit = sign * explanation.logits[row, column]
        shares = explanation.expert_weights[row]
        self.asked = [e for e in np.argsort(-shares, kind="stable").tolist() if shares[e] > 0]

    def summary(self, k):
        """Return what the head and the side of a panel tell, as of an explanation of concepts."""
        told, k_of = self.explanation, self.explanation.classes.index(self.label)
        thresholds, shares = told.thresholds, told.expert_weights[self.row]
        predicted = told.predicted[self.row : self.row + 1].tolist()[0]
        experts = [
            {"expert": told.expert_names[e], "weight": shares[e], "present": True}
            for e in self.asked[:k]
        ]
        if len(self.asked) > k:
            left = shares[self.asked[k:]].sum()
            experts.append({"expert": self._others(k), "weight": left, "present": True})
        cases = [{"case": "", "predicted": predicted, "probability": None}]
        for m, name in enumerate(told.modality_names):
            effect = told.modality_effects[self.row, m]
            if np.isfinite(effect).all():
                left = chances_of(told.logits[self.row : self.row + 1] - effect, thresholds)[0]
                says = predicted if thresholds is not None else told.classes[left.argmax()]
                cases.append(
                    {"case": f"without {name}", "predicted": says, "probability": left[k_of]}
                )
        return {
            "row": self.row,
            "image": f"row {self.row}",
            "class": self.label,
            "predicted": predicted,
            "probability": told.probabilities[self.row, k_of],
            "probabilities": told.probabilities[self.row],
            "threshold": None if thresholds is None else thresholds[k_of],
            "against": None,
            "unit": "logit",
            "sum": self.logit,
            "shares": "share of each expert in what was sent",
            "experts": experts,
            "what_if": cases,
        }

    def lines(self, k):
        """Return what is drawn line by line: linear part, experts, constant and sum."""
        told = self.explanation
        lines = [_header(f"linear part, in total {signed(self.of_modalities.sum())}", GREY)]
        order = np.argsort(-np.abs(self.of_modalities), kind="stable")
        for m in sorted(order[:k].tolist()):
            there = "" if told.modality_present[self.row, m] else " (missing)"
            text = f"{told.modality_names[m]}{there}"
            lines.append(_bar("concept", text, self.of_modalities[m], GREY))
        if len(order) > k:
            text = _so_many(len(order) - k, "other modality", "other modalities")
            lines.append(_bar("rest", text, self.of_modalities[order[k:]].sum(), GREY))
        lines.append(_header(f"experts, in total {signed(self.of_experts.sum())}", INK))
        for number, e in enumerate(self.asked[:k]):
            share = told.expert_weights[self.row, e]
            text = f"{told.expert_names[e]} ({100 * share:.0f} %)"
            colour = COLOURS[number % len(COLOURS)]
            lines.append(_bar("concept", text, self.of_experts[e], colour))
        if len(self.asked) > k:
            rest = self.of_experts[self.asked[k:]].sum()
            lines.append(_bar("rest", self._others(k), rest, COLOURS[k % len(COLOURS)]))
        lines.append(_bar("bias", "constant", self.constant, GREY))
        lines.append(_bar("logit", "sum = logit", self.logit, INK))
        return lines

    def below(self):
        """Return the words below the bars."""
        parts = (self.of_modalities.sum(), self.of_experts.sum(), self.constant)
        words = ("linear part", "experts", "constant")
        told = "   ".join(f"{w} {signed(v)}" for w, v in zip(words, parts, strict=True))
        of = self.explanation.probabilities[self.row, self.explanation.classes.index(self.label)]
        alone = self.explanation.thresholds is not None or len(self.explanation.columns) == 1
        which = "that is a" if alone else "beside the other classes' a"
        return [
            (f"{told}   =   logit {signed(self.logit)}", False),
            (f"bars: logits (log-odds); {which} probability of {of:.2f}", False),
        ]

    def _others(self, k):
        return _so_many(len(self.asked) - k, "other expert", "other experts")


def _header(text, colour):
    return {"kind": "expert", "text": text, "value": None, "colour": colour}


def _bar(kind, text, value, colour):
    return {"kind": kind, "text": text, "value": float(value), "colour": colour}


def _so_many(n, one, more):
    return f"{n:,} {one if n == 1 else more}"
