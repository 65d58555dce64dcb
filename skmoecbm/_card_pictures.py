"""Pictures beside a model card: concept weights, and images that its author gives to show."""

import io

import numpy as np
from PIL import Image

from skmoecbm._card_words import Inert, code
from skmoecbm._explanation_tables import summarise_rows
from skmoecbm._model_folder import image_name, weights_name
from skmoecbm.display import AssociationDisplay
from skmoecbm.exceptions import InputError
from skmoecbm.explanation import explain
from skmoecbm.images import load_image

__all__ = ["example_files", "weights_files"]

_SIDE = 512  # pixels of an image's longer side
_SHOWN_CLASSES, _LEAST_ROWS, _MOST_ROWS = 20, 16, 42
_SAID = 4  # concepts told of an image


def weights_files(associations, labels):
    """Return a picture of the weights of each expert.

    Parameters
    ----------
    associations : list of Association
    labels : sequence of label, length K

    Returns
    -------
    files : dict of str to bytes
        PNGs by their names; the same weights give the same bytes.
    named : list of (expert, file name)
    """
    files, named = {}, []
    for number, one in enumerate(associations, start=1):
        name = weights_name(number)
        files[name] = _draw(one, labels)
        named.append((one.expert, name))
    return files, named


def example_files(model, images, value_range=None):
    """Return images to show, with nothing in them but their pixels, and what the model says.

    Parameters
    ----------
    model : fitted Pipeline that takes images, or None
        None says nothing.
    images : sequence of what `load_image` takes
    value_range : (low, high), default=None

    Returns
    -------
    files : dict of str to bytes
        JPEGs by their names, which are numbers: neither names nor EXIF data of the files remain.
    shown : list of (file name, words)

    Raises
    ------
    InputError
        If an image cannot be read.
    """
    pictures = []
    for number, image in enumerate(images, start=1):
        try:
            pictures.append(load_image(image, value_range=value_range))
        except InputError as error:
            raise InputError(
                f"The card cannot show number {number} of CardDetails(images=[...]): {error}"
            ) from error
    said = [Inert("")] * len(pictures)
    if model is not None and pictures:
        said = [_in_words(row) for row in summarise_rows(explain(model, pictures), _SAID)]
    files, shown = {}, []
    for number, (picture, words) in enumerate(zip(pictures, said, strict=True), start=1):
        name = image_name(number)
        files[name] = _jpeg(picture)
        shown.append((name, words))
    return files, shown


def _draw(association, labels):
    """Return the PNG of an expert's strongest concepts, some for every class."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = association.table
    if table.shape[1] > 1:
        table, labels = table[:, :_SHOWN_CLASSES], labels[:_SHOWN_CLASSES]
    rows = _chosen(table)
    rest = np.delete(np.abs(table).max(axis=1), rows)
    # the user's own style of figures must not change the bytes
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        size = (max(6.6, 4.6 + 0.6 * table.shape[1]), 1.5 + 0.22 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
        display = AssociationDisplay(
            table[rows],
            [association.concepts[j] for j in rows],
            list(labels) if table.shape[1] > 1 else [labels[-1]],
            n_concepts=len(table),
            left_out=float(rest.max()) if len(rest) else 0.0,
            unit=association.unit,
        ).plot(figure.add_subplot())
        for text in display.texts_:
            text.set_in_layout(False)  # inside their cells; measuring them takes twice as long
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _chosen(table):
    """Return the concepts to draw: the strongest of each class in turn, grouped by class."""
    n_columns = table.shape[1]
    wanted = min(len(table), max(_LEAST_ROWS, min(_MOST_ROWS, 6 * n_columns)))
    if n_columns == 1:  # of two classes: the strongest of both
        order = [np.argsort(-table[:, 0], kind="stable"), np.argsort(table[:, 0], kind="stable")]
    else:
        order = [np.argsort(-column, kind="stable") for column in table.T]
    in_turn = dict.fromkeys(int(j) for place in zip(*order, strict=True) for j in place)
    rows = np.array(list(in_turn)[:wanted])
    return rows[np.lexsort((-table[rows].max(axis=1), table[rows].argmax(axis=1)))]


def _jpeg(picture):
    """Return the pixels alone, at most `_SIDE` on a side."""
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    plain = Image.new("RGB", picture.size)
    plain.paste(picture)
    buffer = io.BytesIO()
    plain.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _in_words(row):
    parts = [
        f"{code(one['concept'])} " + f"{one['contribution']:+.2f}".replace("-", "\N{MINUS SIGN}")
        for one in row["contributions"]
    ]
    about = f"The model says {code(row['class'])} with probability {row['probability']:.2f}"
    if row["threshold"] is not None:
        about = f"Likeliest is {code(row['class'])} with probability {row['probability']:.2f}"
    unit = {"logit": "parts of the logit", "probability": "parts of the probability"}[row["unit"]]
    return Inert(f"{about}. Largest {unit}: {', '.join(parts)}.")
