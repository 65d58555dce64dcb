"""What a gate looks at: similarities, embeddings or disagreement, and columns the user names."""

import numpy as np
from scipy.linalg import eigh

from skmoecbm._calibration import fit_inverse_temperature
from skmoecbm._disagreement import N_MEASURES, log_answers, measure_answers
from skmoecbm._gate_components import (
    folded,
    folded_components,
    folded_moments,
    tiled_scores,
)
from skmoecbm._labels import is_exclusive
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError

__all__ = [
    "fit_gate_inputs",
    "gate_inputs",
    "input_parts",
    "input_shapes",
    "join_inputs",
    "resolve_gate_input",
]

#: Components kept by default (MATHS section 2).
N_COMPONENTS = 16

_EMBEDDINGS = "embeddings:"


def resolve_gate_input(owner, gate_input):
    """Return the kind of inputs that `gate_input` asks for, and the columns beside them.

    Parameters
    ----------
    owner : estimator
    gate_input : str, list of columns or dict
        ``"auto"``, ``"similarities"``, ``"disagreement"`` or ``"embeddings:NAME"``; columns beside
        ``"auto"``; or ``{"kind": one of these, "columns": [...]}``.

    Returns
    -------
    kind : {"components", "similarities", "disagreement", "embeddings:NAME"}
    columns : sequence

    Raises
    ------
    InputError
        If it is none of these.
    """
    kind, columns = gate_input, None
    if isinstance(gate_input, dict) and set(gate_input) == {"kind", "columns"}:
        kind, columns = gate_input["kind"], gate_input["columns"]
    elif isinstance(gate_input, (list, tuple)):
        kind, columns = "auto", gate_input
    known = isinstance(kind, str) and (
        kind in ("auto", "similarities", "disagreement")
        or (kind.startswith(_EMBEDDINGS) and kind != _EMBEDDINGS)
    )
    listed = kind is gate_input or (isinstance(columns, (list, tuple)) and len(columns))
    if not known or not listed:
        wanted = (
            "'auto', 'similarities', 'disagreement', 'embeddings:' and an expert's name, a list "
            "of columns, or {'kind': one of these strings, 'columns': a list of columns}"
        )
        raise parameter_error(owner, "gate_input", wanted, gate_input)
    return ("components" if kind == "auto" else kind), (columns or ())


def fit_gate_inputs(data, gate_values, weights, kind, logits=None, codes=None):
    """Learn how rows become gate inputs.

    Parameters
    ----------
    data : list of ExpertData
    gate_values : ndarray of shape (n, g)
        Columns that only the gate sees; NaN where unknown.
    weights : ndarray of shape (n,)
    kind : {"components", "similarities", "disagreement", "embeddings:NAME"}
    logits : list of ndarray of shape (n, K), or None
        Each expert's logits, for ``"disagreement"``. Out-of-fold ones: an expert is surer of rows
        that it learned from than it will be of others.
    codes : ndarray of shape (n,), int, or LabelMatrix
        Labels, for the temperatures of ``"disagreement"``.

    Returns
    -------
    dict of str to ndarray
        gate_mean, gate_scale (g,) of the columns, and mean, scale of the rest: of the similarities
        (Σm,), beside components (q, Σm), divided by the standard deviation of their scores, unless
        the kind is ``"similarities"``; of the embeddings (d,), beside expert (), whose they are;
        of the measures of disagreement (3 E,), beside inverse_temperature (E,).
    """
    if kind == "disagreement":
        if logits is None:
            raise InputError(
                "gate_input='disagreement' is what experts say of rows that they did not learn "
                "from, and only training='staged' knows that. Use another gate_input."
            )
        state = _fit_disagreement(data, weights, logits, codes)
    elif kind.startswith(_EMBEDDINGS):
        state = _fit_embeddings(data, weights, kind.removeprefix(_EMBEDDINGS))
    else:
        state = _fit_similarities(data, weights, kind)
    known = ~np.isnan(gate_values)
    columns = [
        _moments(gate_values[:, [j]], weights * known[:, j]) for j in range(gate_values.shape[1])
    ]
    state["gate_mean"] = np.array([float(m[0]) for m, _ in columns])
    state["gate_scale"] = np.array([float(s[0]) for _, s in columns])
    return state


def _fit_similarities(data, weights, kind):
    if kind == "components" and all(expert.folds for expert in data):
        if any(expert.is_large for expert in data):
            return _fit_folded(data, weights)
    z, mean, scale = np.empty((len(weights), sum(e.shape[1] for e in data))), [], []
    start = 0
    for expert in data:
        own = z[:, start : start + expert.shape[1]]
        start += expert.shape[1]
        gaps = np.isnan(expert.values)
        if not gaps[expert.present].any():
            m, s = _moments(expert.values, weights * expert.present)
        else:  # a head of its own takes the gaps; here they count as average
            columns = enumerate(expert.values.T)
            columns = [_moments(part[:, None], weights * ~gaps[:, j]) for j, part in columns]
            m, s = (np.concatenate(part) for part in zip(*columns, strict=True))
        np.subtract(expert.values, m, out=own)
        own /= s
        if gaps.any():
            own[gaps] = 0.0
        mean.append(m)
        scale.append(s)
    state = {"mean": np.concatenate(mean), "scale": np.concatenate(scale)}
    if kind == "components":
        state["components"] = _components(z, weights)
    return state


def _fit_folded(data, weights):
    """Do what `_fit_similarities` does without ever making all similarities."""
    parts = [folded(expert) for expert in data]
    moments = [
        folded_moments(part, weights * expert.present)
        for part, expert in zip(parts, data, strict=True)
    ]
    means, scales = (list(part) for part in zip(*moments, strict=True))
    present = np.stack([expert.present for expert in data], axis=1)
    axes, values = folded_components(parts, means, scales, present, weights, N_COMPONENTS)
    components = _signed(axes, values)
    return {
        "mean": np.concatenate(means),
        "scale": np.concatenate(scales),
        "components": components,
    }


def _fit_embeddings(data, weights, name):
    names = [expert.name for expert in data]
    if name not in names:
        raise InputError(
            f"gate_input={_EMBEDDINGS + name!r} names an expert that is not there; there are "
            f"{names}. Name one of them."
        )
    expert = data[names.index(name)]
    mean, scale = _moments(_embeddings_of(expert), weights * expert.present)
    return {"mean": mean, "scale": scale, "expert": np.array(names.index(name))}


def _embeddings_of(expert):
    if expert.block is None or expert.block.embeddings is None:
        raise InputError(
            f"gate_input={_EMBEDDINGS + expert.name!r} needs the embeddings of expert "
            f"{expert.name!r}, and X does not have them. Pass ExpertFeatures as encoders and "
            "ExpertFeatures.from_embeddings make them, or use gate_input='similarities'."
        )
    return expert.block.embeddings.astype(np.float64)


def _fit_disagreement(data, weights, logits, codes):
    present = np.stack([expert.present for expert in data], axis=1)
    scales = [
        fit_inverse_temperature(own, codes, weights * present[:, e]) for e, own in enumerate(logits)
    ]
    state = {"inverse_temperature": np.array(scales)}
    measures = measure_answers(_answers(state, logits, is_exclusive(codes)), present)
    moments = [_moments(own, weights * present[:, e]) for e, own in enumerate(measures)]
    state["mean"] = np.concatenate([mean for mean, _ in moments])
    state["scale"] = np.concatenate([scale for _, scale in moments])
    return state


def _answers(state, logits, exclusive):
    scales = state["inverse_temperature"]
    return [log_answers(tau * own, exclusive) for tau, own in zip(scales, logits, strict=True)]


def gate_inputs(state, data, gate_values, present, logits=None, exclusive=True):
    """Return the standardised inputs of shape (n, q), zero where unknown, then the indicators.

    An absent expert counts as average in all that it would have told and sets its indicator to 1.

    Parameters
    ----------
    state : dict
        From `fit_gate_inputs`.
    data : list of ExpertData
    gate_values : ndarray of shape (n, g)
    present : ndarray of shape (n, E), bool
    logits : list of ndarray of shape (n, K)
        Each expert's logits, for ``"disagreement"``.
    exclusive : bool, default=True
        Whether each row has just one class.

    Raises
    ------
    InputError
        If embeddings are asked for and are not there.
    """
    parts, extra = input_parts(state, data, gate_values, present, logits, exclusive)
    return join_inputs(state, parts, extra, present)


def input_parts(state, data, gate_values, present, logits=None, exclusive=True):
    """Return what each expert adds to the inputs, and the columns that only the gate sees.

    Both are apart from the experts' presence, so that inputs with experts masked need not be
    computed anew. Parameters are those of `gate_inputs`.

    Returns
    -------
    list of ndarray of shape (n, ...)
        For `join_inputs`.
    ndarray of shape (n, 2 g)
    """
    extra = (gate_values - state["gate_mean"]) / state["gate_scale"]
    unknown = np.isnan(extra)
    extra = np.concatenate([np.where(unknown, 0.0, extra), unknown.astype(float)], axis=1)
    if "inverse_temperature" in state:
        return _answers(state, logits, exclusive), extra
    if "expert" in state:
        parts = [np.empty((len(extra), 0))] * len(data)
        e = int(state["expert"])
        embeddings = _embeddings_of(data[e])
        if embeddings.shape[1] != len(state["mean"]):
            raise InputError(
                f"The embeddings of expert {data[e].name!r} have {embeddings.shape[1]} dimensions; "
                f"those of the fit had {len(state['mean'])}. Use the encoder of the fit."
            )
        z = (embeddings - state["mean"]) / state["scale"]
        parts[e] = np.where(present[:, [e]], z, 0.0)
        return parts, extra
    start, parts = 0, []
    for e, expert in enumerate(data):
        width = expert.shape[1]
        mine = slice(start, start + width)
        start += width
        if "components" in state and expert.is_large:
            own = (state["mean"][mine], state["scale"][mine], state["components"][:, mine])
            parts.append(tiled_scores(expert, present[:, e], *own))
            continue
        z = expert.values - state["mean"][mine]
        z /= state["scale"][mine]
        z[~present[:, e]] = 0.0
        gaps = np.isnan(z)
        if gaps.any():
            z[gaps] = 0.0
        parts.append(z @ state["components"][:, mine].T if "components" in state else z)
    return parts, extra


def join_inputs(state, parts, extra, present):
    """Return the inputs of rows in which `present` (n, E) tells the experts that count."""
    if "inverse_temperature" in state:
        # How far an expert is from the others depends on which others there are.
        parts = [
            (measures - state["mean"][mine]) / state["scale"][mine]
            for e, measures in enumerate(measure_answers(parts, present))
            for mine in [slice(N_MEASURES * e, N_MEASURES * (e + 1))]
        ]
    parts = [np.where(present[:, [e]], part, 0.0) for e, part in enumerate(parts)]
    if "components" in state:
        parts = [sum(parts)]
    return np.concatenate([*parts, extra, (~present).astype(float)], axis=1)


def input_shapes(found, n_similarities, n_experts, n_columns, n_components):
    """Return the shapes that the arrays of a stored state must have, and the number of inputs.

    Parameters
    ----------
    found : dict of str to tuple of int
        The arrays there are and their shapes; the width of embeddings is known from nothing else.
    n_similarities, n_experts, n_columns : int
    n_components : int or None
    """
    shapes = {}
    if "inverse_temperature" in found:
        width = N_MEASURES * n_experts
        shapes["inverse_temperature"] = (n_experts,)
    elif "expert" in found:
        width = (*found.get("mean", ()), 0)[0]
        shapes["expert"] = ()
    else:
        width = n_similarities
    shapes |= {"mean": (width,), "scale": (width,)}
    if n_components is not None:
        shapes["components"] = (n_components, n_similarities)
        width = n_components
    shapes |= {"gate_mean": (n_columns,), "gate_scale": (n_columns,)}
    return shapes, width + 2 * n_columns + n_experts


def _moments(values, weights):
    total = weights.sum()
    if total == 0:
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    rows = weights > 0
    share, values = weights[rows] / total, values if rows.all() else values[rows]
    mean = share @ values
    scale = np.sqrt(share @ (values - mean) ** 2)
    return mean, np.where(scale > 1e-10 * np.maximum(np.abs(mean), 1e-6), scale, 1.0)


def _components(rows, weights):
    """Leading principal axes of weighted rows, scaled to unit-variance scores; uses up the rows."""
    rows *= np.sqrt(weights / weights.sum())[:, None]
    n, m = rows.shape
    size = min(n, m)
    kept = min(N_COMPONENTS, size)
    gram = rows.T @ rows if m <= n else rows @ rows.T
    values, vectors = eigh(gram, subset_by_index=[size - kept, size - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    real = values > 1e-8 * max(values[0], 1e-300)
    values, vectors = values[real], vectors[:, real]
    axes = vectors.T if m <= n else (vectors / np.sqrt(values)).T @ rows
    return _signed(axes, values)


def _signed(axes, values):
    """Return axes (q, m) that give scores of variance 1."""
    # A sign for each axis, so that the same data always give the same numbers.
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return axes * (signs / np.sqrt(values))[:, None]
