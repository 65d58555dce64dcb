"""What a gate looks at: principal components of all similarities, and columns the user names."""

import numpy as np
from scipy.linalg import eigh

__all__ = ["fit_gate_inputs", "gate_inputs", "input_parts", "join_inputs"]

#: Components kept by default (MATHS section 2).
N_COMPONENTS = 16


def fit_gate_inputs(data, gate_values, weights, kind):
    """Learn how similarities become gate inputs.

    Parameters
    ----------
    data : list of ExpertData
    gate_values : ndarray of shape (n, g)
        Columns that only the gate sees; NaN where unknown.
    weights : ndarray of shape (n,)
    kind : {"components", "similarities"}

    Returns
    -------
    dict of str to ndarray
        mean, scale (Σm,) of the similarities; components (q, Σm), divided by the standard
        deviation of their scores (absent for ``"similarities"``); gate_mean, gate_scale (g,).
    """
    z, mean, scale = [], [], []
    for expert in data:
        row_weights = weights * expert.present
        m, s = _moments(expert.values, row_weights)
        z.append(np.where(expert.present[:, None], (expert.values - m) / s, 0.0))
        mean.append(m)
        scale.append(s)
    state = {"mean": np.concatenate(mean), "scale": np.concatenate(scale)}
    if kind == "components":
        state["components"] = _components(np.concatenate(z, axis=1), weights)
    known = ~np.isnan(gate_values)
    columns = [
        _moments(gate_values[:, [j]], weights * known[:, j]) for j in range(gate_values.shape[1])
    ]
    state["gate_mean"] = np.array([float(m[0]) for m, _ in columns])
    state["gate_scale"] = np.array([float(s[0]) for _, s in columns])
    return state


def gate_inputs(state, data, gate_values, present):
    """Return the standardised inputs of shape (n, q), zero where unknown, then the indicators.

    An absent expert counts as average in all its similarities and sets its indicator to 1.

    Parameters
    ----------
    state : dict
        From `fit_gate_inputs`.
    data : list of ExpertData
    gate_values : ndarray of shape (n, g)
    present : ndarray of shape (n, E), bool
    """
    return join_inputs(state, *input_parts(state, data, gate_values, present), present)


def input_parts(state, data, gate_values, present):
    """Return what each expert adds to the inputs, and the columns that only the gate sees.

    Both are apart from the experts' presence, so that inputs with experts masked need not be
    computed anew.

    Returns
    -------
    list of ndarray of shape (n, q), or (n, m_e) for ``"similarities"``
    ndarray of shape (n, 2 g)
    """
    start, parts = 0, []
    for e, expert in enumerate(data):
        width = expert.values.shape[1]
        mine = slice(start, start + width)
        z = (expert.values - state["mean"][mine]) / state["scale"][mine]
        z = np.where(present[:, [e]], z, 0.0)
        parts.append(z @ state["components"][:, mine].T if "components" in state else z)
        start += width
    extra = (gate_values - state["gate_mean"]) / state["gate_scale"]
    unknown = np.isnan(extra)
    return parts, np.concatenate([np.where(unknown, 0.0, extra), unknown.astype(float)], axis=1)


def join_inputs(state, parts, extra, present):
    """Return the inputs of rows in which `present` (n, E) tells the experts that count."""
    parts = [np.where(present[:, [e]], part, 0.0) for e, part in enumerate(parts)]
    if "components" in state:
        parts = [sum(parts)]
    return np.concatenate([*parts, extra, (~present).astype(float)], axis=1)


def _moments(values, weights):
    total = weights.sum()
    if total == 0:
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    rows = weights > 0
    share = weights[rows] / total
    mean = share @ values[rows]
    scale = np.sqrt(share @ (values[rows] - mean) ** 2)
    return mean, np.where(scale > 1e-10 * np.maximum(np.abs(mean), 1e-6), scale, 1.0)


def _components(z, weights):
    """Leading principal axes of weighted rows, each scaled to give unit-variance scores."""
    rows = z * np.sqrt(weights / weights.sum())[:, None]
    n, m = rows.shape
    size = min(n, m)
    kept = min(N_COMPONENTS, size)
    gram = rows.T @ rows if m <= n else rows @ rows.T
    values, vectors = eigh(gram, subset_by_index=[size - kept, size - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    real = values > 1e-8 * max(values[0], 1e-300)
    values, vectors = values[real], vectors[:, real]
    axes = vectors.T if m <= n else (vectors / np.sqrt(values)).T @ rows
    # A sign for each axis, so that the same data always give the same numbers.
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return axes * (signs / np.sqrt(values))[:, None]
