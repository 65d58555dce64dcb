"""Fitted models as a tree of JSON nodes with arrays beside it, and back."""

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skmoecbm._foreign_steps import pack_step, passthrough, unpack_passthrough, unpack_step
from skmoecbm._packed_arrays import take
from skmoecbm._packed_classifiers import pack_gated, pack_head, unpack_gated, unpack_head
from skmoecbm._packed_common import OBJECTS, build, checked
from skmoecbm._packed_networks import pack_cross, pack_sparse, unpack_cross, unpack_sparse
from skmoecbm._packed_tokens import (
    check_fingerprint,
    check_place,
    pack_text_tokens,
    pack_token_union,
    pack_tokens,
    placed_parameters,
    unpack_text_tokens,
    unpack_token_union,
    unpack_tokens,
)
from skmoecbm._parameters import pack_parameters, pack_value, unpack_value
from skmoecbm._schema_foreign import ForeignNode, PassthroughNode
from skmoecbm._schema_nodes import (
    CrossNode,
    EncoderNode,
    GatedNode,
    HeadNode,
    PipelineNode,
    SparseNode,
    Step,
    TableNode,
    UnionExpert,
    UnionNode,
    VectorsNode,
)
from skmoecbm._schema_tokens import TextTokenEncoderNode, TokenEncoderNode, TokenUnionNode
from skmoecbm._vectors import ConceptVectors
from skmoecbm.classifier import ConceptBottleneckClassifier, GatedConceptBottleneckClassifier
from skmoecbm.concepts import ConceptBank, as_bank
from skmoecbm.encoder import ConceptEncoder, ExpertUnion
from skmoecbm.exceptions import FormatError, InputError
from skmoecbm.moe import (
    CrossModalMoEClassifier,
    MultiTimeAttention,
    SparseMoEClassifier,
    TextTokenEncoder,
    TokenEncoder,
    TokenUnion,
)

__all__ = ["pack", "unpack"]


def pack(model, arrays, prefix="model", trusted=()):
    """Return the node of a fitted estimator and put its arrays into `arrays`.

    Parameters
    ----------
    model : fitted estimator
    arrays : dict of str to ndarray
        Filled here; names start with `prefix`.
    prefix : str
    trusted : collection of str
        Types of other libraries that the user vouches for, by name.

    Raises
    ------
    InputError
        If the model, or a part of it, has no safe form.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    for cls, function in _PACKERS.items():
        if type(model) is cls:
            check_is_fitted(model)
            return function(model, arrays, prefix, trusted)
    _refuse_series(model)
    raise InputError(
        f"A {type(model).__name__} cannot be saved: only a Pipeline with a ConceptEncoder, an "
        "ExpertUnion or a classifier of this package, or one of these alone, has a safe form here. "
        "Keep the model with skops, or with joblib for use on your own machine."
    )


def unpack(node, arrays, prefix="model", trusted=()):
    """Return the fitted estimator of a node, taking its arrays out of `arrays`.

    Parameters
    ----------
    node : node of `skmoecbm.schema`
    arrays : dict of str to ndarray
        What is used is removed.
    prefix : str
    trusted : collection of str

    Raises
    ------
    FormatError
        If parameters or arrays are missing, malformed or of another shape than the node says.
    """
    return _UNPACKERS[type(node)](node, arrays, prefix, trusted)


def _refuse_series(part):
    if isinstance(part, MultiTimeAttention):
        raise InputError(
            "A MultiTimeAttention of its own is not saved in this format yet. Keep it inside "
            "SparseMoEClassifier(time_series={name: MultiTimeAttention(...)}), which is saved with "
            "it, or use joblib on your own machine."
        )


def _pack_pipeline(model, arrays, prefix, trusted):
    for _, step in model.steps:
        _refuse_series(step)
    if not any(type(step) in _PACKERS and type(step) is not Pipeline for _, step in model.steps):
        raise InputError(
            "The pipeline has no step of this package, so there is nothing here to save. Keep it "
            "with skops."
        )
    steps = [
        Step(
            name=name,
            node=_pack_part(f"Step {name!r}", step, arrays, f"{prefix}.{i}", trusted),
        )
        for i, (name, step) in enumerate(model.steps)
    ]
    parameters, left_out = pack_parameters(model, OBJECTS, skip=("steps", "memory"))
    return PipelineNode(parameters=parameters, not_saved=left_out, steps=steps)


def _pack_part(what, part, arrays, prefix, trusted):
    """Return the node of a step or expert, of this package or of another."""
    _refuse_series(part)
    if type(part) in _PACKERS and type(part) is not Pipeline:
        return pack(part, arrays, prefix, trusted)
    return pack_step(what, part, arrays, prefix, trusted)


def _unpack_pipeline(node, arrays, prefix, trusted):
    for step in node.steps:
        check_fingerprint(f"step {step.name!r:.80}", step.node)
    steps = [
        (step.name, unpack(step.node, arrays, f"{prefix}.{i}", trusted))
        for i, step in enumerate(node.steps)
    ]
    return build(Pipeline, node, steps=steps)


def _pack_union(model, arrays, prefix, trusted):
    experts = []
    # the columns as fit found them: a callable has no safe form, and a mask is of one table
    for e, ((name, encoder), columns) in enumerate(
        zip(model.experts_, model.columns_, strict=True)
    ):
        given = dict(entry[:2] for entry in model.experts).get(name)
        if isinstance(encoder, ExpertUnion):
            raise InputError(
                f"Expert {name!r} is itself an ExpertUnion, which cannot be saved. List its "
                "experts in the outer one."
            )
        node = (
            passthrough(encoder)
            if isinstance(given, str)
            else _pack_part(f"Expert {name!r}", encoder, arrays, f"{prefix}.{e}", trusted)
        )
        experts.append(
            UnionExpert(
                name=name,
                encoder=node,
                columns=pack_value(columns, OBJECTS),
                has_columns=columns is not None,
            )
        )
    parameters, left_out = pack_parameters(model, OBJECTS, skip=("experts",))
    return UnionNode(
        parameters=parameters, not_saved=left_out, output=_output(model), experts=experts
    )


def _unpack_union(node, arrays, prefix, trusted):
    experts = []
    for e, expert in enumerate(node.experts):
        check_fingerprint(f"expert {expert.name!r:.80}", expert.encoder)
        encoder = unpack(expert.encoder, arrays, f"{prefix}.{e}", trusted)
        columns = [_columns_of(expert)] if expert.has_columns else []
        experts.append((expert.name, encoder, *columns))
    given = [
        (name, "passthrough" if expert.encoder.kind == "passthrough" else encoder, *columns)
        for expert, (name, encoder, *columns) in zip(node.experts, experts, strict=True)
    ]
    model = build(ExpertUnion, node, experts=given)
    checked(model._check_experts)
    model.experts_ = [(name, encoder) for name, encoder, *_ in experts]
    model.columns_ = [columns[0] if columns else None for _, _, *columns in experts]
    return _with_output(model, node)


def _columns_of(expert):
    """Return what an expert sees of a table: a name, a number, or a list of either."""
    columns = unpack_value(expert.columns, OBJECTS)
    kinds = {type(one) for one in (columns if isinstance(columns, list) else [columns])}
    if not (kinds <= {str} or kinds <= {int}):
        raise FormatError(
            f"config.json gives the expert {expert.name!r:.80} columns that are neither names nor "
            "numbers; the file is damaged, fetch or save it again."
        )
    return columns


def _pack_encoder(model, arrays, prefix, trusted):
    skipped = ["backbone", "cache_dir", "concepts"]
    skipped += [] if model.concept_vectors is None else ["concept_vectors"]
    parameters, left_out = pack_parameters(model, OBJECTS, skip=skipped)
    parameters |= placed_parameters(model)
    try:
        given = as_bank(model.concepts)
    except (FormatError, InputError):  # a file that is gone; what was fitted is still here
        given = model.bank_
    arrays[f"{prefix}.concept_embeddings"] = model.concept_embeddings_
    if model.class_embeddings_ is not None:
        arrays[f"{prefix}.class_embeddings"] = model.class_embeddings_
    return EncoderNode(
        parameters=parameters,
        not_saved=left_out,
        output=_output(model),
        bank=model.bank_.model_dump(mode="json"),
        all_concepts=None if given == model.bank_ else given.model_dump(mode="json"),
        has_class_embeddings=model.class_embeddings_ is not None,
        dim=model.concept_embeddings_.shape[1],
        backbone_identity=model.backbone_identity_,
        fingerprint=model.fingerprint_,
        notice=model.notice_,
        training_summary=getattr(model, "training_summary_", None),
        concept_vectors=_pack_vectors(model.concept_vectors, arrays, f"{prefix}.concept_vectors"),
    )


def _unpack_encoder(node, arrays, prefix, trusted):
    bank = ConceptBank(**node.bank)
    given = bank if node.all_concepts is None else ConceptBank(**node.all_concepts)
    vectors = {}
    if node.concept_vectors is not None:
        vectors["concept_vectors"] = _unpack_vectors(node, arrays, f"{prefix}.concept_vectors")
    model = build(ConceptEncoder, node, concepts=given, **vectors)
    checked(model._check_parameters)
    check_place(model)
    model.bank_ = bank
    model.n_concepts_ = len(bank)
    model.concept_embeddings_ = take(
        arrays, f"{prefix}.concept_embeddings", (len(bank), node.dim), "float32"
    )
    model.class_embeddings_ = None
    if node.has_class_embeddings:
        model.class_embeddings_ = take(
            arrays, f"{prefix}.class_embeddings", (len(bank.classes), node.dim), "float32"
        )
    model.backbone_identity_ = node.backbone_identity.model_dump(mode="json")
    check_fingerprint("the encoder", node)
    model.fingerprint_ = node.fingerprint
    model.notice_ = node.notice
    if node.training_summary is not None:
        model.training_summary_ = node.training_summary.model_dump(mode="json")
    model.select_ = None
    model._fitted_source = (model.backbone, model.revision)
    return _with_output(model, node)


def _pack_vectors(vectors, arrays, prefix):
    if vectors is None:
        return None
    arrays[f"{prefix}.vectors"] = np.asarray(vectors.vectors, dtype=np.float32)
    arrays[f"{prefix}.offsets"] = np.asarray(vectors.offsets, dtype=np.float64)
    arrays[f"{prefix}.mix"] = np.asarray(vectors.mix, dtype=np.float64)
    table = vectors.table
    if table is not None:
        cells = table.astype(object).where(table.notna(), None).to_numpy()
        rows = [[getattr(cell, "item", lambda cell=cell: cell)() for cell in row] for row in cells]
        table = TableNode(columns=table.columns.tolist(), rows=rows)
    return VectorsNode(
        names=vectors.names,
        dropped=vectors.dropped,
        fingerprint=vectors.fingerprint,
        table=table,
    )


def _unpack_vectors(node, arrays, prefix):
    import pandas as pd

    stored = node.concept_vectors
    m = len(stored.names)
    mix = take(arrays, f"{prefix}.mix", (m,), "float64")
    if (mix < 0).any() or (mix > 1).any():
        raise FormatError(f"The array '{prefix}.mix' must lie in [0, 1]; save the model again.")
    table = stored.table
    if table is not None:
        rows = [[np.nan if cell is None else cell for cell in row] for row in table.rows]
        table = pd.DataFrame(rows, columns=list(table.columns))
    return ConceptVectors(
        names=stored.names,
        vectors=take(arrays, f"{prefix}.vectors", (m, node.dim), "float32"),
        offsets=take(arrays, f"{prefix}.offsets", (m,), "float64"),
        mix=mix,
        table=table,
        dropped=dict(stored.dropped),
        fingerprint=stored.fingerprint,
    )


def _output(model):
    return getattr(model, "_sklearn_output_config", {}).get("transform")


def _with_output(model, node):
    return model if node.output is None else model.set_output(transform=node.output)


_PACKERS = {
    ConceptBottleneckClassifier: pack_head,
    ConceptEncoder: _pack_encoder,
    ExpertUnion: _pack_union,
    GatedConceptBottleneckClassifier: pack_gated,
    Pipeline: _pack_pipeline,
    CrossModalMoEClassifier: pack_cross,
    SparseMoEClassifier: pack_sparse,
    TextTokenEncoder: pack_text_tokens,
    TokenEncoder: pack_tokens,
    TokenUnion: pack_token_union,
}
_UNPACKERS = {
    EncoderNode: _unpack_encoder,
    ForeignNode: unpack_step,
    GatedNode: unpack_gated,
    HeadNode: unpack_head,
    PassthroughNode: unpack_passthrough,
    PipelineNode: _unpack_pipeline,
    CrossNode: unpack_cross,
    SparseNode: unpack_sparse,
    TextTokenEncoderNode: unpack_text_tokens,
    TokenEncoderNode: unpack_tokens,
    TokenUnionNode: unpack_token_union,
    UnionNode: _unpack_union,
}
