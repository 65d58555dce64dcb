"""What the `Display` objects share: colours, axes, names that fit, numbers that read."""

__all__ = ["COLOURS", "GREY", "INK", "PALE", "axes_for", "heat_map", "label_of", "signed"]

#: Okabe and Ito's palette: told apart with any colour vision, and in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
INK, GREY, PALE = "#1A1A1A", "#6B6B6B", "#D9D9D9"


def axes_for(ax, width, height):
    """Return the axes to draw into: those given, or those of a new pyplot figure in inches."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    figure, ax = pyplot.subplots(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)  # inches: no word touches the edge
    return ax


def label_of(name, width=38):
    """Return a name on one line; of a long one both ends, where names that are alike differ."""
    name = " ".join(str(name).split())
    if len(name) > width:
        tail = width // 3
        name = f"{name[: width - tail - 3].rstrip()} … {name[-tail:].lstrip()}"
    return name.replace("$", r"\$")


def signed(value):
    """Return +0.12, −0.12 or 0.00."""
    shown = f"{value:+.2f}"
    return "0.00" if float(shown) == 0 else shown.replace("-", "\N{MINUS SIGN}")


def heat_map(ax, values, words, *, cmap, low, high, size=8):
    """Draw a table of numbers as colours with a word in each cell; return image and texts.

    Parameters
    ----------
    ax : matplotlib axes
    values : ndarray of shape (r, c)
        NaN is left white.
    words : list of r lists of c str
    cmap : str
    low, high : float
        What the ends of the colours stand for.
    size : float, default=8
        Of the words.
    """
    image = ax.imshow(values, cmap=cmap, vmin=low, vmax=high, aspect="auto")
    texts = []
    for i, line in enumerate(words):
        for j, word in enumerate(line):
            red, green, blue, _ = image.cmap(image.norm(values[i, j]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 and values[i, j] == values[i, j]
            style = {"size": size, "color": "white" if dark else INK}
            texts.append(ax.text(j, i, word, ha="center", va="center", **style))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image, texts
