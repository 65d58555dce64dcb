"""What the local app does with a model: see one image, change concepts, leave out experts."""

import copy
import html
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.pipeline import Pipeline

from skmoecbm._concept_cells import quantiles_of
from skmoecbm._decoding import n_pixels
from skmoecbm._intervene import explained, intervene_features, read_rows
from skmoecbm._intervention import Intervention
from skmoecbm._last_step import best_of, refuse_networks
from skmoecbm._ranges import percentiles
from skmoecbm._report_provenance import class_names
from skmoecbm.encoder import ConceptEncoder, ExpertUnion
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.features import ExpertFeatures

__all__ = ["MAX_PIXELS", "Desk", "Seen", "decision_html"]

#: Larger images are refused before they are decoded: a file of 20 kB can hold 500 MB of white.
MAX_PIXELS = 64_000_000


@dataclass
class Seen:
    """One image as the experts saw it.

    Attributes
    ----------
    features : ExpertFeatures of one row
    result : Intervention
        That changes nothing: the decision on the image as it is.
    start : dict of str to float
        ``"expert__concept"`` -> percentile among the training images, rounded to the 0.1 that a
        slider moves by; of the concepts whose training range is known.
    strongest : list of str
        The same names, those that decide most first.
    """

    features: ExpertFeatures
    result: Intervention
    start: dict
    strongest: list


class Desk:
    """A fitted model of images, ready to be asked what if.

    Embeddings of the images shown to it stay in memory: nothing of them is written.

    Parameters
    ----------
    model : fitted Pipeline of a `ConceptEncoder` or `ExpertUnion` and a classifier
        It is copied.
    max_bytes : int
        Larger files are refused.

    Raises
    ------
    InputError
        If the model does not take images alone.
    """

    def __init__(self, model, max_bytes=20 * 2**20):
        model = best_of(model)
        first = model.steps[0][1] if isinstance(model, Pipeline) and len(model.steps) == 2 else None
        encoders = [first]
        if isinstance(first, ExpertUnion):
            encoders = [encoder for _, encoder in first.experts_]
            if any(columns is not None for columns in first.columns_):
                encoders = [None]
        if not all(isinstance(e, ConceptEncoder) and e.modality == "image" for e in encoders):
            raise InputError(
                "The app shows one image to a pipeline of image encoders and a classifier. This "
                "model takes something else (features, texts, or a table); use intervene from "
                "Python."
            )
        refuse_networks("The app", model.steps[-1][1])
        self.max_bytes = max_bytes
        self._model = copy.deepcopy(model)
        first = self._model.steps[0][1]
        for _, encoder in getattr(first, "experts_", [(None, first)]):
            encoder.set_params(cache_dir=None, verbose=0)
        self.classifier = self._model.steps[-1][1]
        masked = getattr(self.classifier, "masked_experts_", ())
        self.expert_names = [n for n in self.classifier._layout.names if n not in masked]
        experts = getattr(first, "experts_", [(None, first)])
        self.class_names = class_names(experts, self.classifier.classes_.tolist())
        self.notices = list(dict.fromkeys(e.notice_ for _, e in experts if e.notice_))

    def see(self, path):
        """Return what the experts see in an image file.

        Raises
        ------
        InputError
            If it is too large or no image.
        """
        size = Path(path).stat().st_size
        if size > self.max_bytes:
            raise InputError(
                f"This file has {size / 2**20:.1f} MB; the app takes images of at most "
                f"{self.max_bytes / 2**20:g} MB. Save it smaller, or start the app with a larger "
                "--max-mb."
            )
        pixels = n_pixels(path)
        if pixels is not None and pixels > MAX_PIXELS:
            raise InputError(
                f"This image has {pixels / 1e6:.0f} million pixels; the app takes at most "
                f"{MAX_PIXELS / 1e6:.0f}. Save it smaller."
            )
        try:
            features = self._model.steps[0][1].transform([str(path)])
        except InputError as error:  # the name of a temporary file tells a reader nothing
            told = str(error).replace(str(path), Path(path).name)
            # there is one image, and no call in Python to change
            told = re.sub(r"^image 0 \(('.*?')\) cannot", r"The image \1 cannot", told)
            told = told.replace("Remove it, or pass on_error='missing'.", "Choose another one.")
            raise InputError(told) from None
        if not any(block.present[0] for block in features.blocks):
            raise InputError("This file cannot be read as an image. Choose another one.")
        shown = explained(self.classifier, read_rows(self.classifier, features))
        start, strength = {}, {}
        for e, name in enumerate(shown.expert_names):
            ranges = quantiles_of(self.classifier, e)
            if ranges is None or not shown.present[0, e] or name not in self.expert_names:
                continue
            places = percentiles(features.blocks[e].values().astype(np.float64), ranges)[0]
            sizes = np.abs(shown.contributions[e][0]).max(axis=1)
            for concept, place, own in zip(shown.concept_names[e], places, sizes, strict=True):
                if not np.isnan(place):
                    start[f"{name}__{concept}"] = round(float(place), 1)
                    strength[f"{name}__{concept}"] = float(own)
        strongest = sorted(start, key=lambda column: -strength[column])
        return Seen(features, self.decide(features, {}, ()), start, strongest)

    def decide(self, features, percentiles, off):
        """Return the `Intervention` with concepts at percentiles, and some experts left out.

        Parameters
        ----------
        features : ExpertFeatures of one row
        percentiles : dict of str to float
            ``"expert__concept"`` -> percentile in [0, 100]; those of experts left out are ignored.
        off : sequence of str
            Experts not to listen to.

        Raises
        ------
        InputError
            If no expert is left.
        """
        classifier = self.classifier
        if set(off) >= set(self.expert_names):
            raise InputError("Every expert is switched off. Leave one at least.")
        for name in off:
            classifier = classifier.without(name)
        left = tuple(f"{name}__" for name in self.expert_names if name not in off)
        changes = {
            column: f"p{place:g}"
            for column, place in percentiles.items()
            if column.startswith(left)
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkmoecbmWarning)  # an absent expert is shown as such
            return intervene_features(classifier, features, changes)


def decision_html(seen, now, off=(), k=12, *, names=None):
    """Return the decision and its concepts as HTML: no script, every name escaped.

    Parameters
    ----------
    seen, now : Intervention of one row
        On the image as it is, and with what was changed.
    off : sequence of str
        Experts that are switched off.
    k : int
        Concepts listed.
    names : dict of label to str or None
        Full names of classes, where they have one.
    """

    def shown(label):
        name = (names or {}).get(label)
        return str(label) if name is None else f"{name} ({label})"

    before, after = seen.probabilities[0], now.probabilities[0]
    order = np.argsort(-after, kind="stable")
    label = now.classes[order[0]]
    was = seen.classes[int(seen.probabilities[0].argmax())]
    said = shown(label) if was == label else f"{shown(was)} \N{RIGHTWARDS ARROW} {shown(label)}"
    lines = [f"<p class='said'>{_text(said)}, probability {after[order[0]]:.3f}</p>"]
    if off:
        lines.append(f"<p>Switched off: {_text(', '.join(off))}</p>")
    lines.append(_table_head("class"))
    for i in order:
        lines.append(
            f"<tr data-class='{_text(now.classes[i])}' data-before='{float(before[i])!r}' "
            f"data-now='{float(after[i])!r}'><td>{_text(shown(now.classes[i]))}</td>"
            f"<td>{before[i]:.3f}</td><td>{after[i]:.3f}</td>{_bar(after[i])}</tr>"
        )
    lines.append(f"</table><p>What speaks for {_text(shown(label))}, and against it:</p>")
    frame = now.to_frame(label).assign(seen=seen.to_frame(label)["after"])
    frame = frame.iloc[np.argsort(-frame["after"].abs(), kind="stable")][:k]
    largest = frame["after"].abs().max() or 1.0
    lines.append(_table_head("concept"))
    for line in frame.itertuples():
        name = line.concept if line.concept == "(bias)" else f"{line.concept} ({line.expert})"
        lines.append(
            f"<tr><td>{_text(name)}</td><td>{line.seen:+.2f}</td><td>{line.after:+.2f}</td>"
            f"{_bar(line.after / largest)}</tr>"
        )
    lines.append("</table>")
    return f"<div class='decision'>{''.join(lines)}</div>"


def _table_head(name):
    return f"<table><tr><th>{name}</th><th>as seen</th><th>now</th><th></th></tr>"


def _bar(share):
    # blue for, orange against: told apart with any colour vision
    colour = "#0072B2" if share >= 0 else "#D55E00"
    return (
        f"<td><div style='background:{colour};height:0.8em;width:{100 * abs(share):.0f}px'></div>"
        "</td>"
    )


def _text(value):
    return html.escape(str(value), quote=True)
