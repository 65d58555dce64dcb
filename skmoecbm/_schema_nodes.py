"""The parts of a saved model's `config.json`: a fitted model as a tree of nodes."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
    StrictBool,
    StrictStr,
    field_validator,
    model_validator,
)

from skmoecbm._schema_bases import (
    ClassifierNode,
    EditNode,
    EstimatorNode,
    Labels,
    Many,
    SetsNode,
    is_none,
)
from skmoecbm._schema_foreign import ForeignHeadNode, ForeignNode, PassthroughNode
from skmoecbm._schema_networks import CrossNode, SparseNode
from skmoecbm._schema_parts import Flag, Label, Name, Number, Part, Size, Text
from skmoecbm._schema_provenance import BackboneIdentity, EncoderTraining
from skmoecbm._schema_tokens import TextTokenEncoderNode, TokenEncoderNode, TokenUnionNode
from skmoecbm.concepts import Concept, ConceptBank, ConceptClass
from skmoecbm.exceptions import InputError

__all__ = [
    "ArrayEntry",
    "CrossNode",
    "EditNode",
    "EncoderNode",
    "GatedNode",
    "HeadNode",
    "Label",
    "Labels",
    "Name",
    "Part",
    "PipelineNode",
    "SetsNode",
    "SparseNode",
    "Step",
    "TableNode",
    "Text",
    "UnionExpert",
    "UnionNode",
    "VectorsNode",
]


class ArrayEntry(Part):
    """Shape and dtype that an array of `model.safetensors` must have."""

    shape: Annotated[tuple[Size, ...], Field(max_length=4)]
    dtype: Literal["float64", "float32", "int64", "bool", "uint8"]


class TableNode(Part):
    """A small table: the names of its columns, and its rows; null is NaN."""

    columns: Annotated[tuple[Name, ...], Field(max_length=64)]
    rows: Annotated[
        tuple[Annotated[tuple[StrictStr | Number | None, ...], Many], ...],
        Field(max_length=100_000),
        Many,
    ]

    @model_validator(mode="after")
    def _rows_fit(self):
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("columns must differ")
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("a row does not have one cell per column")
        return self


class VectorsNode(Part):
    """The `concept_vectors` of an encoder; the vectors, offsets and shares are arrays."""

    names: Annotated[tuple[Text, ...], Field(min_length=1, max_length=100_000), Many]
    dropped: Annotated[dict[Name, Text], Field(max_length=100_000)]
    fingerprint: Name | None
    table: TableNode | None

    @model_validator(mode="after")
    def _names_differ(self):
        if len(set(self.names)) < len(self.names):
            raise ValueError("names must differ")
        return self


class _StoredBank(ConceptBank):
    """A bank of which one bad entry is told, where a user's own is told several."""

    classes: tuple[ConceptClass, ...] = Field(default=(), fail_fast=True)
    concepts: tuple[Concept, ...] = Field(min_length=1, fail_fast=True)


class EncoderNode(EstimatorNode):
    """A fitted `ConceptEncoder`.

    `bank` holds the concepts in use, `all_concepts` those given to the constructor where they
    are others. The backbone is named and fingerprinted, never contained.
    """

    kind: Literal["ConceptEncoder"] = "ConceptEncoder"
    output: Literal["default", "pandas", "polars"] | None = None
    bank: dict[Name, JsonValue]
    all_concepts: dict[Name, JsonValue] | None = None
    has_class_embeddings: StrictBool
    dim: Size
    backbone_identity: BackboneIdentity
    fingerprint: Name
    notice: Text | None = None
    # absent from models of format version 0
    training_summary: EncoderTraining | None = Field(default=None, exclude_if=is_none)
    # absent where there are none: models without them are written as they always were
    concept_vectors: VectorsNode | None = Field(default=None, exclude_if=is_none)

    @field_validator("bank", "all_concepts")
    @classmethod
    def _is_a_bank(cls, data):
        if data is not None:
            try:
                _StoredBank(**data)
            except (InputError, TypeError) as error:
                raise ValueError(f"not a bank of concepts: {error}") from None
        return data

    @model_validator(mode="after")
    def _counts_fit(self):
        seen = self.training_summary
        if seen is not None and seen.concepts.kept != len(self.bank["concepts"]):
            raise ValueError("the concepts kept are not those of the bank")
        return self


class UnionExpert(Part):
    """One expert of an `ExpertUnion`; `columns` is packed as a parameter is, absent where all."""

    name: Name
    encoder: Annotated[EncoderNode | ForeignNode | PassthroughNode, Field(discriminator="kind")]
    columns: JsonValue = None
    has_columns: StrictBool = False


class UnionNode(EstimatorNode):
    """A fitted `ExpertUnion`."""

    kind: Literal["ExpertUnion"] = "ExpertUnion"
    output: Literal["default", "pandas", "polars"] | None = None
    experts: Annotated[tuple[UnionExpert, ...], Field(min_length=1, max_length=256), Many]


class HeadNode(ClassifierNode):
    """A fitted `ConceptBottleneckClassifier`."""

    kind: Literal["ConceptBottleneckClassifier"] = "ConceptBottleneckClassifier"
    concept_names: Annotated[tuple[Text, ...], Field(min_length=1), Many]
    expert_name: Name
    prior_used: Text | None


class GatedNode(ClassifierNode):
    """A fitted `GatedConceptBottleneckClassifier`; one head per expert, in order."""

    kind: Literal["GatedConceptBottleneckClassifier"] = "GatedConceptBottleneckClassifier"
    # a mixture of heads of others alone has no penalty
    alpha: Number | None
    heads: Annotated[
        tuple[Annotated[HeadNode | ForeignHeadNode, Field(discriminator="kind")], ...],
        Field(min_length=1, max_length=256),
        Many,
    ]
    # what `experts` names that is not of this package, as it was before it was fitted
    templates: Annotated[tuple[ForeignNode, ...], Field(max_length=256), Many] = Field(
        default=(), exclude_if=lambda nodes: not nodes
    )
    expert_columns: Annotated[tuple[Annotated[tuple[Size, ...], Many], ...], Many]
    gate_columns: Annotated[tuple[Size, ...], Many] = ()
    masked_experts: Annotated[tuple[Name, ...], Many] = ()
    gate: Literal["uniform", "expert", "constant", "linear", "gaussian", "laplace", "mlp"]
    gate_hidden: Size = 0
    gate_components: Size | None
    selected: Text
    fallback: Text | None
    oof_log_loss: Annotated[dict[Name, Number], Field(max_length=1000)]
    routing_information: Number
    specialized: Flag = False

    @model_validator(mode="after")
    def _parts_fit(self):
        names = [head.expert_name for head in self.heads]
        columns = [column for part in self.expert_columns for column in part]
        if len(set(names)) < len(names):
            raise ValueError("expert names must differ")
        if [len(part) for part in self.expert_columns] != [h.n_features_in for h in self.heads]:
            raise ValueError("expert_columns do not fit the heads")
        columns = [*columns, *self.gate_columns]  # of some columns nothing may be made
        if len(set(columns)) < len(columns) or max(columns) >= self.n_features_in:
            raise ValueError("expert_columns and gate_columns are not distinct features")
        if not set(self.masked_experts) < set(names):
            raise ValueError("masked_experts are not some of the experts")
        own = [head for head in self.heads if head.kind != "foreign head"]
        if any(head.classes != self.classes for head in own):
            raise ValueError("heads have other classes than the mixture")
        if any(getattr(head, "training_summary", None) is not None for head in self.heads):
            raise ValueError("a head of a mixture has a training of its own")
        seen = self.training_summary
        if seen is not None and list(seen.rows_per_expert) != names:
            raise ValueError("rows_per_expert is not of the experts")
        if any(head.multilabel != self.multilabel for head in own):
            raise ValueError("heads and mixture differ in how many labels a row may have")
        return self


class Step(Part):
    """One step of a pipeline."""

    name: Name
    node: Annotated[
        EncoderNode
        | UnionNode
        | TokenEncoderNode
        | TextTokenEncoderNode
        | TokenUnionNode
        | HeadNode
        | GatedNode
        | SparseNode
        | CrossNode
        | ForeignNode
        | PassthroughNode,
        Field(discriminator="kind"),
    ]


class PipelineNode(EstimatorNode):
    """A fitted `sklearn.pipeline.Pipeline` of an encoder or union and a classifier."""

    kind: Literal["Pipeline"] = "Pipeline"
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=16), Many]

    @model_validator(mode="after")
    def _steps_follow(self):
        names = [step.name for step in self.steps]
        if len(set(names)) < len(names) or any("__" in name for name in names):
            raise ValueError("names of steps must differ and be without '__'")
        if any(isinstance(step.node, ClassifierNode) for step in self.steps[:-1]):
            raise ValueError("a classifier can only be the last step")
        return self
