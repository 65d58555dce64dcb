"""The picture of an `Explanation`: image, expert weights, signed concept bars and their sum."""

import io
import textwrap

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skmoecbm._explanation_tables import (
    bias_decides,
    said_or_not,
    seen_by_any,
    summarise_row,
    value_in_words,
)
from skmoecbm.exceptions import InputError
from skmoecbm.images import load_image

__all__ = ["ExplanationFigure", "plot_explanation"]

# Okabe and Ito's palette: told apart with any colour vision, and in grey
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_INK, _GREY, _PALE = "#1A1A1A", "#6B6B6B", "#D9D9D9"

# inches
_WIDTH, _MARGIN, _GAP = 11.2, 0.25, 0.45
_SIDE = 2.35  # image and weights
_LABELS = 3.55  # concept names
_VALUES = 0.62  # what the image has of each
_LINE, _HEAD, _FOOT = 0.225, 0.62, 0.34
_WRAP = 46  # characters of a concept name per line, two lines at most


class ExplanationFigure(Figure):
    """A matplotlib figure that notebooks show whether or not pyplot is in use."""

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def plot_explanation(explanation, rows, k, class_):
    """Return the figure of some rows; see `Explanation.plot`."""
    panels = []
    for i in rows:
        summary = summarise_row(explanation, i, k, class_)
        lines = _lines(summary)
        picture = _picture(explanation, i)
        side = _side_of(picture) + 0.55 + 0.19 * len(summary["experts"])
        foot = _FOOT + 0.2 * bias_decides(summary)
        height = _HEAD + max(side, sum(line["height"] for line in lines) * _LINE + foot)
        panels.append((picture, summary, lines, height))
    foot = _MARGIN + 0.22 * bool(explanation.notices)
    total = sum(height for *_, height in panels) + _GAP * (len(panels) - 1) + _MARGIN + foot
    figure = ExplanationFigure(figsize=(_WIDTH, total), facecolor="white")
    FigureCanvasAgg(figure)
    top = total - _MARGIN
    for number, (picture, summary, lines, height) in enumerate(panels):
        page = _Page(figure, total)
        if number:
            page.rule(top + _GAP / 2)
        page.heading(summary, explanation.classes, top)
        page.image(picture, top - _HEAD)
        page.weights(summary["experts"], top - _HEAD - _side_of(picture))
        page.bars(summary, lines, top - _HEAD)
        top -= height + _GAP
    if explanation.notices:
        page.text(
            _WIDTH / 2,
            0.14,
            " · ".join(explanation.notices),
            size=8,
            style="italic",
            color=_GREY,
            ha="center",
        )
    return figure


def _picture(explanation, i):
    """Return the RGB image of a row, None without images, "unreadable" where it fails."""
    if explanation.images is None:
        return None
    try:
        return load_image(explanation.images[i], value_range=explanation.value_range)
    except InputError:
        return "unreadable"


def _side_of(picture):
    """Return the height in inches that the image and the space below it take."""
    if picture is None:
        return 0.0
    if picture == "unreadable":
        return 0.35
    return min(_SIDE, _SIDE * picture.height / picture.width) + 0.12


def _lines(summary):
    """Return what is drawn line by line: expert headers, concepts, rests, bias and logit."""
    lines = []
    for number, expert in enumerate(summary["experts"]):
        colour = _COLOURS[number % len(_COLOURS)]
        text = expert["expert"] + (
            f", in total {_signed(expert['total'])}"
            if expert["present"]
            else " did not see this image"
        )
        lines.append({"kind": "expert", "text": text, "value": None, "colour": colour})
        lines += [
            {
                "kind": "concept",
                "text": _wrap(entry["concept"]),
                "seen": value_in_words(entry),
                "value": entry["contribution"],
                "colour": colour,
            }
            for entry in summary["contributions"]
            if entry["expert"] == expert["expert"]
        ]
        if expert["rest_concepts"]:
            n = expert["rest_concepts"]
            words = f"{n:,} {'other ' if len(lines) and lines[-1]['kind'] == 'concept' else ''}"
            lines.append(
                {
                    "kind": "rest",
                    "text": f"{words}concept{'s' * (n != 1)}",
                    "value": expert["rest"],
                    "colour": colour,
                }
            )
    lines.append({"kind": "bias", "text": "bias", "value": summary["bias"], "colour": _GREY})
    lines.append(
        {"kind": "logit", "text": "sum = logit", "value": summary["logit"], "colour": _INK}
    )
    for line in lines:
        line["height"] = {"expert": 1.25, "logit": 1.3}.get(line["kind"], 1)
        line["height"] += 0.75 * line["text"].count("\n")
    return lines


class _Page:
    """Draws in inches from the lower left corner of a figure."""

    def __init__(self, figure, height):
        self.figure = figure
        self.height = height

    def axes(self, left, bottom, width, height):
        """Return axes without frame or ticks."""
        axes = self.figure.add_axes(
            (left / _WIDTH, bottom / self.height, width / _WIDTH, height / self.height)
        )
        axes.set_axis_off()
        return axes

    def text(self, x, y, text, **style):
        """Write text; a dollar sign in a name is a dollar sign."""
        style = {"va": "center", "color": _INK, "size": 9, **style}
        return self.figure.text(x / _WIDTH, y / self.height, text, parse_math=False, **style)

    def rule(self, y):
        """Draw a pale line across the page."""
        axes = self.axes(_MARGIN, y, _WIDTH - 2 * _MARGIN, 0.01)
        axes.axhline(0, color=_PALE, linewidth=1)

    def heading(self, summary, classes, top):
        """Write the class, its probability and the next classes."""
        title = f"{_cut(str(summary['class']), 60)}, probability {summary['probability']:.2f}"
        if not seen_by_any(summary):
            title = "No expert saw this: class frequencies alone"
        self.text(_MARGIN, top - 0.12, title, size=14, weight="bold")
        ranked = sorted(zip(summary["probabilities"], classes, strict=True), key=lambda p: -p[0])
        others = [f"{_cut(str(c), 24)} {p:.2f}" for p, c in ranked if c != summary["class"]][:3]
        kind = (
            said_or_not(summary)
            if summary["threshold"] is not None
            else "predicted"
            if summary["class"] == summary["predicted"]
            else f"not predicted ({_cut(str(summary['predicted']), 24)} is)"
        )
        which = _cut(summary["image"] or f"image {summary['row']}", 40)
        self.text(
            _MARGIN,
            top - 0.38,
            _cut(f"{which} · {kind} · others: {', '.join(others)}", 130),
            color=_GREY,
        )

    def image(self, picture, top):
        """Draw the image in the side column, or say that it cannot be read."""
        if picture == "unreadable":
            self.text(_MARGIN, top - 0.12, "(image cannot be shown)", color=_GREY, size=8.5)
        elif picture is not None:
            height = _side_of(picture) - 0.12
            axes = self.axes(_MARGIN, top - height, _SIDE, height)
            axes.imshow(picture, interpolation="lanczos", aspect="equal")
            axes.set_anchor("NW")

    def weights(self, experts, top):
        """Draw the weights of the experts as one stacked bar with a legend."""
        self.text(_MARGIN, top - 0.09, "share of each expert (gate × scale)", color=_GREY, size=8.5)
        axes = self.axes(_MARGIN, top - 0.42, _SIDE, 0.2)
        left = 0.0
        for number, expert in enumerate(experts):
            colour = _COLOURS[number % len(_COLOURS)]
            axes.barh(0, expert["weight"], left=left, color=colour, edgecolor="white", height=1)
            left += expert["weight"]
            y = top - 0.56 - 0.19 * number
            share = f"{100 * expert['weight']:.0f} %" if expert["present"] else "missing"
            self.text(_MARGIN, y, "■", color=colour)
            self.text(_MARGIN + 0.18, y, _cut(expert["expert"], 28), size=8.5)
            self.text(_MARGIN + _SIDE, y, share, size=8.5, ha="right")
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.5, 0.5)

    def bars(self, summary, lines, top):
        """Draw one bar per line, signed, on one scale, and the sum in words below."""
        left = _MARGIN + _SIDE + 0.3
        seen_at = left + _LABELS + _VALUES
        start, height = seen_at + 0.25, sum(line["height"] for line in lines) * _LINE
        axes = self.axes(start, top - height, _WIDTH - _MARGIN - start, height)
        values = [line["value"] for line in lines if line["value"] is not None]
        low, high = min(0.0, *values), max(0.0, *values)
        span = (high - low) or 1.0
        # room for the numbers beside the bars
        low, high = low - 0.16 * span * (low < 0), high + 0.16 * span
        axes.set_xlim(low, high)
        axes.set_ylim(-height / _LINE, 0)
        axes.axvline(0, color=_INK, linewidth=0.8, zorder=3)
        zero = start + (0 - low) / (high - low) * (_WIDTH - _MARGIN - start)
        towards = f"for {_cut(str(summary['class']), 18)} →"
        # beside the zero line, or as far left as the words need
        middle = min(zero, _WIDTH - _MARGIN - 0.08 - 0.075 * len(towards))
        self.text(middle + 0.08, top + 0.1, towards, size=8, color=_GREY)
        if low < 0:
            self.text(middle - 0.08, top + 0.1, "← against", size=8, color=_GREY, ha="right")
        seen = [line["seen"] for line in lines if "seen" in line]
        if seen:
            self.text(seen_at, top + 0.1, "value", size=8, color=_GREY, ha="right")
        y = 0.0
        for line in lines:
            middle, value = y + line["height"] / 2, line["value"]
            strong = line["kind"] in ("expert", "logit")
            header = line["kind"] == "expert"
            if header:
                self.text(left, top - middle * _LINE, "■", color=line["colour"], size=10)
            self.text(
                left + (0.18 if header else _LABELS),
                top - middle * _LINE,
                line["text"],
                ha="left" if header else "right",
                size=9.5 if strong else 9,
                weight="bold" if strong else "normal",
                style="italic" if line["kind"] in ("rest", "bias") else "normal",
                linespacing=1.0,
            )
            if "seen" in line:
                self.text(
                    seen_at,
                    top - middle * _LINE,
                    line["seen"],
                    size=8.5,
                    color=_GREY,
                    ha="right",
                )
            if value is not None:
                axes.barh(
                    -middle,
                    value,
                    height=0.68,
                    color=line["colour"],
                    alpha=0.35 if line["kind"] in ("rest", "bias") else 1.0,
                    zorder=2,
                    label=line["text"],
                )
                axes.annotate(
                    _signed(value),
                    (value, -middle),
                    (4 if value >= 0 else -4, 0),
                    textcoords="offset points",
                    va="center",
                    ha="left" if value >= 0 else "right",
                    size=8.5,
                    weight="bold" if strong else "normal",
                    color=_INK,
                )
            y += line["height"]
        axes.axhline(-(y - lines[-1]["height"]), color=_INK, linewidth=0.8)
        shown = sum(entry["contribution"] for entry in summary["contributions"])
        rest = sum(expert["rest"] for expert in summary["experts"])
        self.text(
            _WIDTH - _MARGIN,
            top - height - 0.2,
            f"shown {_signed(shown)}   others {_signed(rest)}   bias {_signed(summary['bias'])}"
            f"   =   logit {_signed(summary['logit'])}",
            ha="right",
            size=9,
            color=_GREY,
        )
        if any(text.endswith("sd") for text in seen):
            words = "sd: standard deviations from the mean (below 0: less than usual)"
            self.text(left, top - height - 0.2, words, size=8, color=_GREY)
        if bias_decides(summary):
            words = (
                f"The bias decides: without it, the concepts say "
                f"{_cut(str(summary['without_bias']), 40)}."
            )
            self.text(
                _WIDTH - _MARGIN, top - height - 0.42, words, size=9, weight="bold", ha="right"
            )


def _signed(value):
    shown = f"{value:+.2f}"
    return "0.00" if float(shown) == 0 else shown.replace("-", "\N{MINUS SIGN}")


def _cut(text, length):
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _wrap(text):
    """Return the text on at most two lines; what is longer ends in an ellipsis."""
    return "\n".join(
        textwrap.wrap(text, _WRAP, max_lines=2, placeholder=" …", break_long_words=True) or [""]
    )
