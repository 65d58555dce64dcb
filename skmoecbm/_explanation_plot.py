"""The picture of an `Explanation`: image, expert weights, signed concept bars and their sum."""

import io
import textwrap

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skmoecbm._display_parts import COLOURS, GREY, INK, PALE, signed
from skmoecbm._explanation_tables import bias_decides, seen_by_any, summarise_rows
from skmoecbm._explanation_text import (
    before_the_class,
    instead,
    rank_in_words,
    said_or_not,
    shown_class,
    sum_in_words,
    value_in_words,
)
from skmoecbm.exceptions import InputError
from skmoecbm.images import load_image

__all__ = ["ExplanationFigure", "draw_panels", "panel_of", "plot_explanation"]

# inches
_WIDTH, _MARGIN, _GAP = 11.8, 0.25, 0.45
_SIDE = 2.35  # image and weights
_LABELS = 3.55  # concept names
_VALUES = 0.62  # what the image has of each
_RANKS = 0.72  # and its percentile
_BARS = 3.5  # what all these leave for bars and their numbers
_LINE, _HEAD, _FOOT, _SMALL = 0.225, 0.62, 0.34, 0.2
_WRAP = 46  # characters of a concept name per line, two lines at most


class ExplanationFigure(Figure):
    """A matplotlib figure that notebooks show whether or not pyplot is in use."""

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def plot_explanation(explanation, k, class_, same_scale):
    """Return the figure of all rows of an explanation; see `Explanation.plot`."""
    panels = [
        panel_of(_picture(explanation, i), summary, _lines(summary), _below(summary))
        for i, summary in enumerate(summarise_rows(explanation, k, class_))
    ]
    return draw_panels(panels, explanation, same_scale)


def panel_of(picture, summary, lines, below):
    """Return what is drawn of a row: all that was given, and the height of it in inches.

    `summary` is as of `summarise_rows`; `lines` are dicts of kind, text, value and colour, one per
    bar; `below` are words below the bars, each with whether it is bold.
    """
    for line in lines:
        line["height"] = {"expert": 1.25, "logit": 1.3}.get(line["kind"], 1)
        line["height"] += 0.75 * line["text"].count("\n")
    side = _side_of(picture) + 0.55 + 0.19 * len(summary["experts"])
    told = [2 if instead(case, summary) else 1 for case in _cases(summary)]
    side += 0.19 * (sum(told) + 2) if told else 0.0
    bars = sum(line["height"] for line in lines) * _LINE
    height = _HEAD + max(side, bars + _FOOT + _SMALL * (len(below) - 1))
    return picture, summary, lines, below, height


def draw_panels(panels, explanation, same_scale):
    """Return the figure of panels, one below the other, with the notices of the explanation."""
    foot = _MARGIN + 0.22 * bool(explanation.notices)
    total = sum(height for *_, height in panels) + _GAP * (len(panels) - 1) + _MARGIN + foot
    figure = ExplanationFigure(figsize=(_WIDTH, total), facecolor="white")
    FigureCanvasAgg(figure)
    top = total - _MARGIN
    scales = [_scale(lines) for _, _, lines, _, _ in panels]
    if same_scale:
        scales = [_scale([line for _, _, lines, _, _ in panels for line in lines])] * len(panels)
    for number, (picture, summary, lines, below, height) in enumerate(panels):
        page = _Page(figure, total)
        if number:
            page.rule(top + _GAP / 2)
        page.heading(summary, explanation, top)
        page.image(picture, top - _HEAD)
        page.weights(summary, top - _HEAD - _side_of(picture))
        page.bars(summary, lines, top - _HEAD, scales[number], below)
        top -= height + _GAP
    if explanation.notices:
        page.text(
            _WIDTH / 2,
            0.14,
            " · ".join(explanation.notices),
            size=8,
            style="italic",
            color=GREY,
            ha="center",
        )
    return figure


def _scale(lines):
    """Return the range (low, high) of the bars of some rows, with 0 in it and room for numbers."""
    values = [line["value"] for line in lines if line["value"] is not None]
    low, high = min(0.0, *values), max(0.0, *values)
    span = (high - low) or 1.0
    room = min(0.1 + 0.085 * max(len(signed(value)) for value in values), 1.2)  # inches, of bold
    room *= span / (_BARS - room * (1 + (low < 0)))
    return low - room * (low < 0), high + room


def _cases(summary):
    """Return what other weights of the experts would give, where that is known."""
    return [case for case in (summary["what_if"] or [])[1:] if case["probability"] is not None]


def _below(summary):
    """Return the lines of words below the bars: (text, whether it is bold)."""
    shown = sum(entry["contribution"] for entry in summary["contributions"])
    rest = sum(expert["rest"] for expert in summary["experts"])
    parts = f"shown {signed(shown)}   others {signed(rest)}   bias {signed(summary['bias'])}"
    lines = [(f"{parts}   =   {sum_in_words(summary)} {signed(summary['sum'])}", False)]
    if summary["against"] is not None:
        lines.append((f"bars: parts of a {sum_in_words(summary)}", False))
    elif summary["unit"] == "probability":
        lines.append(("bars: parts of the probability, not logits", False))
    else:
        which = "that is a" if summary["threshold"] is not None else "beside the other classes' a"
        p = f"probability of {summary['probability']:.2f}"
        lines.append((f"bars: logits (log-odds); {which} {p}", False))
    other = summary["runner_up"]
    if other is not None:
        parts = [
            f"{_cut(e['concept'], 34)} {signed(e['contribution'])}"
            for e in other["contributions"][:2]
        ]
        name = _cut(str(other["class"]), 20)
        lines.append(
            (f"over {name} by {signed(other['difference'])}, most by {'; '.join(parts)}", False)
        )
    if bias_decides(summary):
        says = _cut(str(summary["without_bias"]), 40)
        lines.append((f"The bias decides: without it, the concepts say {says}.", True))
    return lines


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
        colour = COLOURS[number % len(COLOURS)]
        text = expert["expert"] + (
            f", in total {signed(expert['total'])}"
            if expert["present"]
            else " did not see this image"
        )
        lines.append({"kind": "expert", "text": text, "value": None, "colour": colour})
        lines += [
            {
                "kind": "concept",
                "text": _wrap(entry["concept"]),
                "seen": value_in_words(entry),
                "rank": rank_in_words(entry),
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
    lines.append({"kind": "bias", "text": "bias", "value": summary["bias"], "colour": GREY})
    words = f"sum = {sum_in_words(summary)}"
    lines.append({"kind": "logit", "text": words, "value": summary["sum"], "colour": INK})
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
        style = {"va": "center", "color": INK, "size": 9, **style}
        return self.figure.text(x / _WIDTH, y / self.height, text, parse_math=False, **style)

    def rule(self, y):
        """Draw a pale line across the page."""
        axes = self.axes(_MARGIN, y, _WIDTH - 2 * _MARGIN, 0.01)
        axes.axhline(0, color=PALE, linewidth=1)

    def heading(self, summary, explanation, top):
        """Write the class, its probability and the next classes."""
        name = _cut(shown_class(explanation, summary["class"]), 60)
        title = f"{name}, probability {summary['probability']:.2f}"
        if summary["against"] is not None:
            title = f"{_cut(name, 34)} against {_cut(str(summary['against']), 24)}"
        if not seen_by_any(summary):
            title = "No expert saw this: class frequencies alone"
        title = before_the_class(explanation) + title
        self.text(_MARGIN, top - 0.12, title, size=14, weight="bold")
        ranked = zip(summary["probabilities"], explanation.classes, strict=True)
        ranked = sorted(ranked, key=lambda p: -p[0])
        others = [f"{_cut(str(c), 24)} {p:.2f}" for p, c in ranked if c != summary["class"]][:3]
        kind = (
            said_or_not(summary)
            if summary["threshold"] is not None
            else "predicted"
            if summary["class"] == summary["predicted"]
            else f"not predicted ({_cut(str(summary['predicted']), 24)} is)"
        )
        which = _cut_amid(summary["image"] or f"image {summary['row']}", 40)
        self.text(
            _MARGIN,
            top - 0.38,
            _cut(f"{which} · {kind} · others: {', '.join(others)}", 130),
            color=GREY,
        )

    def image(self, picture, top):
        """Draw the image in the side column, or say that it cannot be read."""
        if picture == "unreadable":
            self.text(_MARGIN, top - 0.12, "(image cannot be shown)", color=GREY, size=8.5)
        elif picture is not None:
            height = _side_of(picture) - 0.12
            axes = self.axes(_MARGIN, top - height, _SIDE, height)
            axes.imshow(picture, interpolation="lanczos", aspect="equal")
            axes.set_anchor("NW")

    def weights(self, summary, top):
        """Draw the weights of the experts as one stacked bar, and what others would give."""
        experts = summary["experts"]
        words = summary.get("shares", "share of each expert (gate × scale)")
        self.text(_MARGIN, top - 0.09, words, color=GREY, size=8.5)
        axes = self.axes(_MARGIN, top - 0.42, _SIDE, 0.2)
        left = 0.0
        for number, expert in enumerate(experts):
            colour = COLOURS[number % len(COLOURS)]
            axes.barh(0, expert["weight"], left=left, color=colour, edgecolor="white", height=1)
            left += expert["weight"]
            y = top - 0.56 - 0.19 * number
            share = f"{100 * expert['weight']:.0f} %" if expert["present"] else "missing"
            self.text(_MARGIN, y, "■", color=colour)
            self.text(_MARGIN + 0.18, y, _cut(expert["expert"], 28), size=8.5)
            self.text(_MARGIN + _SIDE, y, share, size=8.5, ha="right")
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.5, 0.5)
        y = top - 0.56 - 0.19 * len(experts) - 0.19
        if _cases(summary):
            words = f"probability of {_cut(str(summary['class']), 22)} …"
            self.text(_MARGIN, y, words, color=GREY, size=8.5)
        for case in _cases(summary):
            y -= 0.19
            self.text(_MARGIN, y, _cut(case["case"], 31), size=8.5)
            self.text(_MARGIN + _SIDE, y, f"{case['probability']:.2f}", size=8.5, ha="right")
            if turned := instead(case, summary):
                y -= 0.17
                words = turned if len(turned) <= 32 else f"({_cut(turned[1:-9], 21)} instead)"
                self.text(_MARGIN + 0.18, y, words, size=8, color=GREY, style="italic")

    def bars(self, summary, lines, top, scale, below):
        """Draw one bar per line, signed, on one scale, and the sum in words below."""
        left = _MARGIN + _SIDE + 0.3
        seen_at = left + _LABELS + _VALUES
        ranked_at = seen_at + _RANKS * any(line.get("rank") for line in lines)
        start, height = ranked_at + 0.25, sum(line["height"] for line in lines) * _LINE
        axes = self.axes(start, top - height, _WIDTH - _MARGIN - start, height)
        low, high = scale
        axes.set_xlim(low, high)
        axes.set_ylim(-height / _LINE, 0)
        axes.axvline(0, color=INK, linewidth=0.8, zorder=3)
        zero = start + (0 - low) / (high - low) * (_WIDTH - _MARGIN - start)
        towards = f"for {_cut(str(summary['class']), 18)} →"
        # beside the zero line, or as far left as the words need
        middle = min(zero, _WIDTH - _MARGIN - 0.08 - 0.075 * len(towards))
        self.text(middle + 0.08, top + 0.1, towards, size=8, color=GREY)
        if low < 0:
            self.text(middle - 0.08, top + 0.1, "← against", size=8, color=GREY, ha="right")
        seen = [line["seen"] for line in lines if "seen" in line]
        if seen:
            self.text(seen_at, top + 0.1, "value", size=8, color=GREY, ha="right")
        if ranked_at > seen_at:
            self.text(ranked_at, top + 0.1, "percentile", size=8, color=GREY, ha="right")
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
            at, style = top - middle * _LINE, {"size": 8.5, "color": GREY, "ha": "right"}
            if "seen" in line:
                self.text(seen_at, at, line["seen"], **style)
            if line.get("rank"):
                self.text(ranked_at, at, line["rank"], **style)
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
                    signed(value),
                    (value, -middle),
                    (4 if value >= 0 else -4, 0),
                    textcoords="offset points",
                    va="center",
                    ha="left" if value >= 0 else "right",
                    size=8.5,
                    weight="bold" if strong else "normal",
                    color=INK,
                )
            y += line["height"]
        axes.axhline(-(y - lines[-1]["height"]), color=INK, linewidth=0.8)
        for number, (words, strong) in enumerate(below):
            style = {"color": INK if strong else GREY, "weight": "bold" if strong else "normal"}
            y = top - height - 0.2 - _SMALL * number
            self.text(_WIDTH - _MARGIN, y, words, ha="right", size=9, **style)
        legend = ["sd: standard deviations above the training mean"]
        legend *= any(text.endswith("sd") for text in seen)
        if ranked_at > seen_at:
            legend.append("percentile: so many of 100 training images have less")
        for number, words in enumerate(legend):
            self.text(left, top - height - 0.2 - 0.16 * number, words, size=8, color=GREY)


def _cut(text, length):
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _cut_amid(text, length):
    """Return a name without its middle where it is too long: frames and endings stand behind."""
    half = length // 2
    return text if len(text) <= length else f"{text[: length - half - 1]}…{text[-half:]}"


def _wrap(text):
    """Return the text on at most two lines; what is longer ends in an ellipsis."""
    return "\n".join(
        textwrap.wrap(text, _WRAP, max_lines=2, placeholder=" …", break_long_words=True) or [""]
    )
