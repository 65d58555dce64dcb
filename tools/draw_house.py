"""Draw an image's way through the house, with the numbers of one: `docs/images/house.svg`.

The picture is a light card with dark ink, so that it reads in the light and in the dark. It is
high rather than wide, so that its letters can be read on a phone.
"""

import argparse
import base64
import io
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.pipeline import make_pipeline

from skmoecbm import ConceptEncoder, ExpertUnion, GatedConceptBottleneckClassifier, explain
from skmoecbm.datasets import make_lesions

DEST = Path(__file__).resolve().parents[1] / "docs" / "images" / "house.svg"
WIDTH, COLUMN, GAP = 640, 296, 16
COLOURS = ("#1f6f8b", "#b3541e")  # one per expert, apart also to those who do not see red or green
INK, SOFT, CARD, BOX = "#1d2433", "#5a6478", "#f4f6fa", "#ffffff"


def measure(row):
    """Fit the demo and return what it makes of a held-out drawing.

    Parameters
    ----------
    row : int
        Which of the 100 drawings that the fit has not seen.
    """
    lesions = make_lesions(700, random_state=0)
    names = ["demo-general", "demo-structures"]
    model = make_pipeline(
        ExpertUnion([(n, ConceptEncoder(n, "lesions", cache_dir=None)) for n in names]),
        # unguarded: here the guard would keep the plain average, and there were no gate to show
        GatedConceptBottleneckClassifier(guard=False, random_state=0),
    )
    model.fit(lesions.images[:600], lesions.target[:600])
    image = lesions.images[600 + row]
    features = model[:-1].transform(image[None])
    classifier = model[-1]
    decision = model.decision_function(image[None])[0]
    best = np.argsort(-decision)[:3]
    table = explain(model, image[None]).to_frame()
    table = table[table["class"] == classifier.classes_[best[0]]]
    return {
        "image": image,
        "experts": names,
        "classes": [str(name) for name in classifier.classes_[best]],
        "weights": classifier.gate_weights(features)[0],
        "logits": classifier.expert_logits(features)[0][:, best],
        "decision": decision[best],
        "probability": model.predict_proba(image[None])[0].max(),
        "dimensions": [block.embeddings.shape[1] for block in features.blocks],
        "concepts": [table[table["expert"] == name].nlargest(4, "contribution") for name in names],
    }


class Drawing:
    """Lines of SVG, from top to bottom."""

    def __init__(self):
        self.parts = []

    def text(self, x, y, words, *, size=17, fill=INK, anchor="start", weight="normal"):
        """Write words with their baseline at y."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(words)}</text>'
        )

    def box(self, x, y, width, height, *, fill=BOX, stroke="#c5ccd9", radius=8):
        """Draw a rectangle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" '
            f'fill="{fill}" stroke="{stroke}"/>'
        )

    def arrow(self, x1, y1, x2, y2):
        """Draw an arrow."""
        self.parts.append(
            f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" stroke="{SOFT}" stroke-width="2" '
            'fill="none" marker-end="url(#tip)"/>'
        )

    def bar(self, x, y, value, scale, fill):
        """Draw a bar from x, to the right where the value is positive."""
        width = max(abs(value) * scale, 1)
        left = x if value >= 0 else x - width
        self.box(left, y - 12, width, 14, fill=fill, stroke="none", radius=2)


def rows_of(drawing, left, top, rows, *, zero, scale, fill):
    """Draw a line for each (name, value): the name, a bar from `zero`, and the number."""
    for index, (name, value) in enumerate(rows):
        y = top + 24 * index
        drawing.text(left, y, name, size=16)
        drawing.bar(left + zero, y, value, scale, fill)
        drawing.text(left + COLUMN - 24, y, f"{value:+.1f}", size=16, fill=SOFT, anchor="end")


def draw(seen):
    """Return the SVG of what `measure` gave."""
    d = Drawing()
    picture = io.BytesIO()
    Image.fromarray(seen["image"]).save(picture, "PNG", optimize=True)
    data = base64.b64encode(picture.getvalue()).decode()
    d.parts.append(
        f'<image x="264" y="20" width="112" height="112" href="data:image/png;base64,{data}"/>'
    )
    d.text(392, 72, "one image", weight="bold")
    d.text(392, 94, "embedded once, ever", size=15, fill=SOFT)
    lefts = (GAP, WIDTH - GAP - COLUMN)
    for e, left in enumerate(lefts):
        middle, colour = left + COLUMN / 2, COLOURS[e]
        d.arrow(300 + 40 * e, 136, middle, 164)
        d.box(left, 170, COLUMN, 66)
        d.text(left + 12, 196, seen["experts"][e], weight="bold", fill=colour)
        d.text(left + 12, 222, f"X: {seen['dimensions'][e]} numbers", size=16)
        d.arrow(middle, 238, middle, 262)
        d.box(left, 268, COLUMN, 140)
        d.text(left + 12, 294, "D: how similar to each word,", size=16, fill=SOFT)
        d.text(left + 12, 314, "in standard deviations (Z)", size=16, fill=SOFT)
        words = [
            (f"{row.concept}"[:21], row.value) for row in seen["concepts"][e].head(3).itertuples()
        ]
        rows_of(d, left + 12, 344, words, zero=178, scale=17, fill=colour)
        d.arrow(middle, 410, middle, 434)
        d.text(middle + 12, 428, "A, b", size=15, fill=SOFT)
        d.box(left, 440, COLUMN, 116)
        d.text(left + 12, 466, "S: logits of this expert", size=16, fill=SOFT)
        logits = list(zip(seen["classes"], seen["logits"][e], strict=True))
        rows_of(d, left + 12, 496, logits, zero=146, scale=13, fill=colour)
        d.arrow(middle, 558, 300 + 40 * e, 604)
    d.box(GAP, 610, WIDTH - 2 * GAP, 84)
    d.text(GAP + 12, 636, "G: the gate trusts, for this image", size=16, fill=SOFT)
    across = WIDTH - 2 * GAP - 24
    first = across * seen["weights"][0]
    d.box(GAP + 12, 650, first, 30, fill=COLOURS[0], stroke="none", radius=4)
    d.box(GAP + 12 + first, 650, across - first, 30, fill=COLOURS[1], stroke="none", radius=4)
    for x, e in ((GAP + 22, 0), (GAP + 22 + first, 1)):
        share = f"{seen['experts'][e]} {seen['weights'][e]:.0%}".replace("%", " %")
        d.text(x, 671, share, size=16, fill="#ffffff", weight="bold")
    d.arrow(WIDTH / 2, 696, WIDTH / 2, 722)
    d.box(GAP, 728, WIDTH - 2 * GAP, 116)
    d.text(GAP + 12, 754, "logits: the weighted sum, calibrated (τ Σ G τₑ S)", size=16, fill=SOFT)
    logits = list(zip(seen["classes"], seen["decision"], strict=True))
    rows_of(d, GAP + 12, 784, logits, zero=146, scale=13, fill=INK)
    d.text(WIDTH - GAP - 14, 784, f"p = {seen['probability']:.2f}", anchor="end", weight="bold")
    d.arrow(WIDTH / 2, 846, WIDTH / 2, 872)
    d.box(GAP, 878, WIDTH - 2 * GAP, 164)
    d.text(GAP + 12, 904, f"explanation: parts of the logit of {seen['classes'][0]}", fill=SOFT)
    parts = sorted(
        (
            (row.contribution, row.concept, e)
            for e, table in enumerate(seen["concepts"])
            for row in table.itertuples()
        ),
        reverse=True,
    )
    shown = 0.0
    for index, (value, concept, e) in enumerate(parts[:4]):
        y = 932 + 24 * index
        shown += value
        d.text(GAP + 12, y, concept, size=16)
        d.bar(GAP + 212, y, value, 90, COLOURS[e])
        d.text(WIDTH - GAP - 14, y, f"{value:+.2f}", size=16, fill=SOFT, anchor="end")
    rest = seen["decision"][0] - shown
    d.text(GAP + 12, 1028, "all other words, and the bias", size=16, fill=SOFT)
    d.text(WIDTH - GAP - 14, 1028, f"{rest:+.2f}", size=16, fill=SOFT, anchor="end")
    label = "An image's way through two experts, their gate and the sum to an explained decision"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 1060" width="{WIDTH}" '
        f'role="img" aria-label="{escape(label)}" '
        'font-family="system-ui, Helvetica, Arial, sans-serif">\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{SOFT}"/>'
        "</marker></defs>\n"
        f'<rect width="{WIDTH}" height="1060" rx="14" fill="{CARD}"/>\n'
        + "\n".join(d.parts)
        + "\n</svg>\n"
    )


def main(arguments=None):
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DEST)
    asked = parser.parse_args(arguments)
    asked.out.write_text(draw(measure(asked.row)), encoding="utf-8")


if __name__ == "__main__":
    main()
