"""What a model card tells of the model itself, from its config and arrays alone."""

import numpy as np

from skmoecbm._card_blocks import SHOWN_BLOCKS, block_lines
from skmoecbm._card_licences import hub_repository, licence_of
from skmoecbm._card_words import Inert, code

__all__ = [
    "SHOWN_EXPERTS",
    "Association",
    "association_rows",
    "associations",
    "banks",
    "class_rows",
    "classifier_of",
    "encoders_of",
    "expert_rows",
    "foreign_classes",
    "network_words",
    "takes_images",
    "takes_images_alone",
    "token_nodes",
    "token_records",
    "token_rows",
    "token_words",
]

SHOWN_EXPERTS = 8  # with a table and a picture
_SHOWN_CLASSES, _SHOWN_IN_TABLES = 200, 40
_FOR, _AGAINST = 5, 3
_LEAST = 0.005  # a weight that would be shown as 0.00 says nothing


class Association:
    """What each concept of one expert adds to the logits.

    Attributes
    ----------
    expert : str
    concepts : tuple of str, length m
    table : ndarray of shape (m, K'), float64
        Logits that one `unit` more of a concept adds where this expert decides alone; of two
        classes one column, for the second.
    unit : str
    """

    def __init__(self, expert, concepts, table, unit):
        self.expert, self.concepts, self.table, self.unit = expert, concepts, table, unit

    def strongest(self, k, n_classes, *, against=False):
        """Return the (concept, weight) that speak most for class `k`, or against it, if any."""
        column = self.table[:, k] if self.table.shape[1] > 1 else self.table[:, 0] * (2 * k - 1)
        order = np.argsort(column if against else -column, kind="stable")
        order = order[: _AGAINST if against else _FOR]
        return [
            (self.concepts[j], float(column[j]))
            for j in order
            if (column[j] <= -_LEAST if against else column[j] >= _LEAST)
        ]


def _parts_of(config):
    """Return the nodes of a model with the prefix of their arrays: [(node, prefix)]."""
    if config.model.kind != "Pipeline":
        return [(config.model, "model")]
    return [(step.node, f"model.{i}") for i, step in enumerate(config.model.steps)]


def encoders_of(config):
    """Return (name, node) of each expert that has an encoder; without a name it is None."""
    found = []
    for node, _ in _parts_of(config):
        if node.kind == "ConceptEncoder":
            found.append((None, node))
        elif node.kind == "ExpertUnion":
            found += [(expert.name, expert.encoder) for expert in node.experts]
    return found


def classifier_of(config):
    """Return the node of a model's classifier and the prefix of its arrays, or (None, None)."""
    found = [(node, prefix) for node, prefix in _parts_of(config) if hasattr(node, "classes")]
    return found[-1] if found else (None, None)


def takes_images(encoders):
    """Return whether an image-text model among the experts is given images."""
    return any(
        getattr(node, "parameters", {}).get("modality", "image") == "image"
        and hasattr(node, "backbone_identity")
        for _, node in encoders
    )


def takes_images_alone(config):
    """Return whether images are all that a model asks for: no column of a table beside them."""
    encoders = encoders_of(config)
    first = _parts_of(config)[0][0]
    mixed = any(expert.has_columns for expert in getattr(first, "experts", ()))
    return bool(encoders) and not mixed and all(takes_images([one]) for one in encoders)


def associations(node, prefix, arrays):
    """Return the `Association` of each expert of a classifier that has one.

    Heads of other kinds have no weights of concepts and are left out.
    """
    heads = getattr(node, "heads", None)
    scales = arrays.get(f"{prefix}.expert_scale")
    placed = (
        [(node, prefix)]
        if heads is None
        else [(head, f"{prefix}.heads.{e}") for e, head in enumerate(heads)]
    )
    found = []
    for e, (head, place) in enumerate(placed):
        table = arrays.get(f"{place}.association")
        if table is None:
            continue
        scale = 1.0 if scales is None else float(scales[e])
        raw = head.parameters.get("activation") == "softmax"
        unit = "unit of similarity" if raw else "standard deviation"
        found.append(Association(head.expert_name, head.concept_names, scale * table.T, unit))
    return found


def association_rows(association, labels):
    """Return the rows of an expert's table: (class, for, against), and how many are left out."""

    def cell(pairs):
        shown = [f"{code(concept)} {_signed(weight)}" for concept, weight in pairs]
        return Inert(", ".join(shown) or "none")

    two = association.table.shape[1] == 1
    rows = [
        (
            code(label),
            cell(association.strongest(k, len(labels))),
            None if two else cell(association.strongest(k, len(labels), against=True)),
        )
        for k, label in enumerate(labels[:_SHOWN_IN_TABLES])
    ]
    return rows, max(0, len(labels) - _SHOWN_IN_TABLES)


def class_rows(node, prefix, arrays, encoders):
    """Return (class, name, share, threshold, rows) of each class, None what is not known.

    Parameters
    ----------
    node : node of a classifier
    prefix : str
    arrays : dict of str to ndarray
    encoders : list of (name, node)
        Their banks know the names of classes.

    Returns
    -------
    rows : list of tuple
    n_hidden : int
    """
    names = {}
    for _, encoder in encoders:
        for entry in getattr(encoder, "bank", {}).get("classes", ()):
            # not by synonym: who wrote "mel-like" did not mean melanoma
            if entry["name"] != entry["key"]:
                names.setdefault(entry["key"], entry["name"])
    shares = arrays.get(f"{prefix}.class_prevalence")
    limits = arrays.get(f"{prefix}.thresholds")
    counts = getattr(getattr(node, "training_summary", None), "rows_per_class", None)
    rows = [
        (
            code(label),
            names.get(label),
            None if shares is None else Inert(f"{100 * shares[k]:.1f} %"),
            None if limits is None else Inert(f"{limits[k]:.3f}"),
            None if counts is None else Inert(f"{counts[k]:,}"),
        )
        for k, label in enumerate(node.classes.values[:_SHOWN_CLASSES])
    ]
    return rows, max(0, len(node.classes.values) - _SHOWN_CLASSES)


def expert_rows(config, classifier):
    """Return one dict of text for each expert, in order."""
    encoders = encoders_of(config)
    alone = getattr(classifier, "expert_name", None)
    return [_expert(name or alone or "expert", encoder) for name, encoder in encoders]


def token_nodes(config):
    """Return the node of each encoder of tokens."""
    return [node for _, node in _token_encoders(config)]


def token_records(config):
    """Return the names of what a record has for a union of encoders of tokens."""
    return [code(name) for name, _ in _token_encoders(config) if name is not None]


def token_words(config):
    """Return what the rows of a model with encoders of tokens are called; None without such."""
    words = {"TokenEncoder": "images", "TextTokenEncoder": "texts"}
    kinds = {words[node.kind]: None for node in token_nodes(config)}
    return " and ".join(kinds) or None


def token_rows(config):
    """Return one dict of text for each encoder of tokens, as `expert_rows` does for experts."""
    return [_expert(name or "tokens", node) for name, node in _token_encoders(config)]


def _token_encoders(config):
    found = []
    for node, _ in _parts_of(config):
        if node.kind == "TokenUnion":
            found += [(stream.name, stream.encoder) for stream in node.streams]
        elif node.kind in ("TokenEncoder", "TextTokenEncoder"):
            found.append((None, node))
    return found


def foreign_classes(config):
    """Return the classes of other libraries that a model holds by way of skops, sorted."""
    found, level = set(), [config.model.model_dump(mode="json")]
    while level:
        node = level.pop()
        if isinstance(node, dict) and node.get("kind") == "foreign":
            found.add(str(node.get("class_name")))
        if isinstance(node, dict | list):
            level += node.values() if isinstance(node, dict) else node
    return sorted(found)


def network_words(node):
    """Return what a classifier of networks is, in words; None of another."""
    shape = getattr(node, "shape", None)
    if shape is None:
        return None
    if node.kind == "CrossModalMoEClassifier":
        return _cross_words(node)
    names = [code(name) for name in node.modality_names]
    few = f"{shape.top_k:,} of {shape.n_experts:,}"
    if len(names) == 1:
        routed = f"A router sends each row to {few}"
    elif shape.router == "joint":
        routed = f"One router sees all modalities and sends each row to {few}"
    elif shape.router == "disjoint":
        routed = f"Each modality has a router and experts of its own, and goes to {few}"
    else:
        routed = f"Each modality has a router of its own over the same experts, and goes to {few}"
    missing = (
        "a learned vector stands for it" if shape.learned_missing else "it has no weight there"
    )
    return {
        "title": Inert("A sparse mixture of networks"),
        "routed": Inert(f"{routed} small networks of {shape.hidden:,} hidden units"),
        "beside": Inert("a linear part that sees every column"),
        "kinds": Inert("Modalities"),
        "modalities": names[:_SHOWN_CLASSES],
        "absent": Inert("Where one is missing from a row (all its columns NaN)"),
        "missing": missing if len(names) > 1 else None,
        "takes": Inert(f"a table of {node.n_features_in:,} columns"),
        "blocks": block_lines(node),
        "n_hidden_blocks": max(0, len(names) - SHOWN_BLOCKS),
        "epochs": _epochs(node),
    }


def _cross_words(node):
    """Return what a cross-modal classifier is, in words."""
    shape, names = node.shape, [code(name) for name in node.stream_names]
    looking = "Tokens attend to each other and are pooled"
    if len(names) == 2:
        looking = "Tokens of each stream attend to those of the other, streams are pooled"
    if shape.fusion == "concat":
        looking = "Tokens are pooled"
    sent = f"{shape.top_k:,} of {shape.n_experts:,} small networks" if shape.moe else "one network"
    widths = ", ".join(
        f"{name} of width {width:,}" for name, width in zip(names, node.stream_widths, strict=True)
    )
    takes = f"streams of tokens (TokenFeatures): {widths}"
    if node.reading != "tokens":
        takes = f"a table of {node.n_features_in:,} columns"
    hidden = shape.hidden * (1 if shape.moe else shape.top_k)
    return {
        "title": Inert("A cross-modal mixture of networks"),
        "routed": Inert(f"{looking}, and each row goes to {sent} of {hidden:,} hidden units"),
        "beside": Inert("what was pooled"),
        "kinds": Inert("Streams"),
        "modalities": names,
        "absent": Inert("Where one is missing from a row"),
        "missing": "it has no weight there" if len(names) > 1 else None,
        "takes": Inert(takes),
        "blocks": [],
        "n_hidden_blocks": 0,
        "epochs": _epochs(node),
    }


def _epochs(node):
    return f"{node.history.best_epoch:,} of {len(node.history.train_loss):,}"


def _expert(name, encoder):
    parameters = getattr(encoder, "parameters", {})
    backbone = parameters.get("backbone")
    if not isinstance(backbone, str):  # no image-text model: an estimator of another library
        kind = getattr(encoder, "class_name", None) or encoder.kind
        return {"name": code(name), "backbone": code(kind), "repository": None}
    identity = encoder.backbone_identity
    identity = identity if isinstance(identity, dict) else identity.model_dump(mode="json")
    settings = identity.get("preprocessing")
    settings = settings if isinstance(settings, dict) else {}
    size = settings.get("size")
    without = "fp32" if encoder.kind == "TextTokenEncoder" else "not recorded"
    told = []
    if isinstance(size, list) and len(size) == 2:
        told.append(f"{size[0]} × {size[1]} pixels")
    told += [parameters.get("resize"), settings.get("interpolation")]
    if parameters.get("modality", "image") != "image":
        told = [parameters["modality"]]
    if encoder.kind == "TokenEncoder":
        told.append(f"{encoder.n_tokens} tokens of width {encoder.width}")
    if encoder.kind == "TextTokenEncoder":
        told = [f"texts of up to {identity['tokens']['max_length']} tokens"]
    return {
        "name": code(name),
        "backbone": code(backbone),
        "repository": hub_repository(backbone) if identity.get("revision") else None,
        "revision": _short(identity.get("revision")),
        "weights": _short(identity.get("weights_sha256")),
        "preprocessing": code(", ".join(str(one) for one in told if one)),
        "precision": code(identity.get("precision") or without),
        "licence": licence_of(backbone),
        "n_concepts": len(getattr(encoder, "bank", {}).get("concepts", ())),
    }


def banks(encoders):
    """Return the different concept banks of encoders, as the template shows them."""
    found = {}
    for _, encoder in encoders:
        bank = getattr(encoder, "bank", None)
        if bank is not None:
            found.setdefault((bank["name"], repr(bank.get("provenance"))), bank)
    shown = []
    for bank in found.values():
        source = bank.get("provenance") or {}
        told = [("author", "author"), ("model", "language model"), ("licence", "licence")]
        about = [f"{word} {code(source[key])}" for key, word in told if source.get(key)]
        if not source.get("licence"):
            about.append("licence not stated")
        shown.append(Inert(f"{code(bank['name'])} ({', '.join(about)})"))
    return shown


def _short(digest):
    return "none" if not digest else code(str(digest)[:12])


def _signed(value):
    shown = f"{value:+.2f}"
    return "0.00" if float(shown) == 0 else shown.replace("-", "\N{MINUS SIGN}")
