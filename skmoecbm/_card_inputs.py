"""What a model card says of what goes in: which column feeds which expert, and what that is."""

from skmoecbm._card_model import encoders_of
from skmoecbm._card_words import Inert, code

__all__ = ["input_columns", "input_words", "mixture_lines", "plain_experts"]

_SHOWN = 100
_SHOWN_OF_ONE = 12  # columns of one expert that a sentence names


def input_columns(config):
    """Return (column, what is in it, experts) of a model that takes a table, else nothing.

    Returns
    -------
    rows : list of tuple of Inert
    n_hidden : int
    """
    union = _union(config)
    if union is None or not any(expert.has_columns for expert in union.experts):
        return [], 0
    found = {}
    for expert in union.experts:
        for column in _columns(expert) if expert.has_columns else [None]:
            contents, names = found.setdefault(column, ({}, []))
            contents[_content(expert.encoder)] = None
            names.append(code(expert.name))
    rows = [
        (
            Inert("all columns") if column is None else _column(column),
            Inert("; ".join(contents)),
            Inert(", ".join(names)),
        )
        for column, (contents, names) in found.items()
    ]
    return rows[:_SHOWN], max(0, len(rows) - _SHOWN)


def input_words(config, has_images):
    """Return what the rows of a model are called in a sentence about them."""
    if input_columns(config)[0]:
        return "rows of a table"
    if has_images:
        return "images"
    backed = [node for _, node in encoders_of(config) if _modality(node)]
    return "texts" if backed else "rows"


def mixture_lines(config, classifier):
    """Return what each expert of a mixture is, nothing where all are concept bottlenecks.

    Whose concepts are columns of a table is told as well.
    """
    union = _union(config)
    experts = {} if union is None else {expert.name: expert for expert in union.experts}
    heads = getattr(classifier, "heads", ())
    own = [
        head.kind != "foreign head"
        and (head.expert_name not in experts or _modality(experts[head.expert_name].encoder))
        for head in heads
    ]
    if all(own):
        return []
    return [
        Inert(f"{code(head.expert_name)}: {_head(head, experts.get(head.expert_name))}")
        for head in heads
    ]


def plain_experts(config):
    """Return a line for each expert that has no image-text model."""
    union = _union(config)
    return [
        Inert(f"{code(expert.name)}: {_source(expert)}{_unchanged(expert)}")
        for expert in (() if union is None else union.experts)
        if not _modality(expert.encoder)
    ][:_SHOWN]


def _union(config):
    steps = getattr(config.model, "steps", None)
    nodes = [config.model] if steps is None else [step.node for step in steps]
    return next((node for node in nodes if node.kind == "ExpertUnion"), None)


def _modality(encoder):
    """Return what an image-text model is given, "image" or "text"; of others None."""
    if encoder.kind != "ConceptEncoder":
        return None
    return encoder.parameters.get("modality", "image")


def _content(encoder):
    told = {"image": "an image: path, PIL image or array", "text": "a text"}
    if _modality(encoder):
        return told.get(_modality(encoder), "")
    if encoder.kind == "passthrough":
        return "a number"
    return f"what a {code(encoder.class_name)} takes"


def _head(head, expert):
    """Return what an expert of a mixture is, and on what."""
    if head.kind == "foreign head":
        kind = f"a {code(head.estimator.class_name)}"
        if expert is None:
            return f"{kind} on {_counted(head.n_features_in, 'feature')}"
        return f"{kind} on {_source(expert)}"
    if expert is None:
        return f"a concept bottleneck on {_counted(head.n_features_in, 'concept')}"
    if _modality(expert.encoder):
        return f"a concept bottleneck on {_source(expert)}"
    return f"a concept bottleneck whose concepts are {_source(expert)}"


def _source(expert):
    """Return what an expert's head is given."""
    kind = _modality(expert.encoder)
    seen = _in_words(expert) if expert.has_columns else "all that goes in"
    if kind:
        return f"what its image-text model sees in {seen}"
    if expert.encoder.kind == "passthrough":
        return seen
    return f"what a {code(expert.encoder.class_name)} makes of {seen}"


def _unchanged(expert):
    return ", unchanged" if expert.encoder.kind == "passthrough" else ""


def _in_words(expert):
    columns = _columns(expert)
    if len(columns) > _SHOWN_OF_ONE:
        return _counted(len(columns), "column")
    named = ", ".join(map(_column, columns))
    if all(isinstance(column, int) for column in columns):
        return named
    return f"the column{'s' * (len(columns) != 1)} {named}"


def _columns(expert):
    return expert.columns if isinstance(expert.columns, list) else [expert.columns]


def _column(column):
    """Return a column by its name, or by its place as people count."""
    return Inert(f"column {column + 1}") if isinstance(column, int) else code(column)


def _counted(count, what):
    return f"{count:,} {what}{'s' * (count != 1)}"
