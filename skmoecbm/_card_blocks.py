"""Which columns of a table are which modality of a sparse classifier, as its card says it."""

from skmoecbm._card_words import Inert, code

__all__ = ["SHOWN_BLOCKS", "block_lines"]

SHOWN_BLOCKS = 40
_SHOWN_COLUMNS = 24  # of one modality


def block_lines(node):
    """Return a line for each modality of a `SparseNode`: its columns, or the form of its series."""
    series = node.shape.series or (None,) * len(node.modality_names)
    lines = []
    parts = zip(node.modality_names, node.modality_columns, series, strict=True)
    for name, columns, one in list(parts)[:SHOWN_BLOCKS]:
        told = _columns(node, columns) if one is None else _series(columns, one.n_variables)
        lines.append(Inert(f"{code(name)}: {told}"))
    return lines


def _columns(node, columns):
    """Return columns by their names, or in an array by their places as people count."""
    if node.feature_names_in is None:
        first, last = columns[0] + 1, columns[-1] + 1
        if len(columns) > 1 and list(columns) == list(range(columns[0], columns[-1] + 1)):
            return f"columns {first:,} to {last:,}"
        names = [f"{column + 1:,}" for column in columns[:_SHOWN_COLUMNS]]
    else:
        names = [code(node.feature_names_in[column]) for column in columns[:_SHOWN_COLUMNS]]
    more = len(columns) - len(names)
    tail = f", and {more:,} more" if more else ""
    return f"column{'s' * (len(columns) != 1)} {', '.join(names)}{tail}"


def _series(columns, n_variables):
    """Return how the columns of a time series were packed, and where they stand."""
    n_slots = len(columns) // (1 + 2 * n_variables)
    variables = f"{n_variables:,} variable{'s' * (n_variables != 1)}"
    return (
        f"{len(columns):,} columns, from column {columns[0] + 1:,} on: a time series of "
        f"{variables} in {n_slots:,} slot{'s' * (n_slots != 1)}, as "
        f"`pack_series(series, n_slots={n_slots})` writes it"
    )
