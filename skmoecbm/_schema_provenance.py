"""Nodes of a saved model that say where it comes from: its backbone, and what it learned from."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, StrictBool, StrictInt, StrictStr, model_validator

from skmoecbm._schema_parts import Name, Number, Part, Sha256, Size, Text

__all__ = ["BackboneIdentity", "ClassifierTraining", "EncoderTraining"]

_Side = Annotated[StrictInt, Field(ge=1, le=2**16)]
_Channels = Annotated[tuple[Number, ...], Field(min_length=1, max_length=16)]
_Count = Annotated[StrictInt, Field(ge=0, le=2**53)]


class PreprocessingNode(Part):
    """How an image meets the network, in open_clip's terms."""

    size: Annotated[tuple[_Side, ...], Field(min_length=2, max_length=2)]
    mode: Name
    mean: _Channels
    std: _Channels
    interpolation: Name
    resize_mode: Name
    fill_color: Number | _Channels


class BackboneIdentity(Part):
    """What decides the numbers of an image-text model; nothing local, nothing of a device."""

    model: Name
    # the commit that the Hub resolved, whatever branch or tag was asked for
    revision: Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{40}$")] | None
    weights_sha256: Sha256
    architecture_sha256: Sha256
    tokenizer_sha256: Sha256 | None  # null is CLIP's own
    preprocessing: PreprocessingNode
    precision: Literal["fp32", "fp32-medium", "bf16", "fp16"]


class DataNode(Part):
    """Digests of what `fit` saw, made by `skmoecbm._provenance`; no number can be had back."""

    features: Sha256
    targets: Sha256 | None
    sample_weight: Sha256 | None
    groups: Sha256 | None


class SelectionNode(Part):
    """How concepts were chosen; `parameters` is null where they have no form in JSON."""

    selector: Name
    parameters: Annotated[dict[Name, JsonValue], Field(max_length=64)] | None


class ConceptCounts(Part):
    """How many concepts there were: given, known to the backbone, and kept by the selector."""

    given: Size
    known: Size
    kept: Size

    @model_validator(mode="after")
    def _none_appears(self):
        if not self.kept <= self.known <= self.given:
            raise ValueError("more concepts are kept than there were")
        return self


class EncoderTraining(Part):
    """What a `ConceptEncoder` learned from: rows only where concepts were selected on them."""

    device: Literal["cpu", "cuda"]
    concepts: ConceptCounts
    selection: SelectionNode | None
    n_rows: _Count | None
    n_missing_rows: _Count | None
    data_sha256: DataNode | None


class RefitNode(Part):
    """A refit of some experts after the training, by `edit`."""

    experts: Annotated[tuple[Name, ...], Field(min_length=1, max_length=256, fail_fast=True)]
    n_rows: _Count
    n_used_rows: _Count
    data_sha256: DataNode


class JointNode(Part):
    """How joint training went; `early_stopping` is true, or why there was none."""

    epochs: _Count
    best_epoch: _Count
    early_stopping: StrictBool | Text


class ClassifierTraining(Part):
    """What a classifier learned from, and how: counts, never rows; classes in their order."""

    n_rows: _Count
    n_used_rows: _Count
    n_missing_rows: _Count
    rows_per_class: Annotated[tuple[_Count, ...], Field(max_length=100_000, fail_fast=True)]
    rows_per_expert: Annotated[dict[Name, _Count], Field(max_length=256)]
    sample_weight: StrictBool
    n_groups: _Count | None
    n_folds: Size
    no_folds: Text | None
    joint: JointNode | None
    device: Literal["cpu", "cuda"]
    dtype: Literal["float64"]
    data_sha256: DataNode
    refits: Annotated[tuple[RefitNode, ...], Field(max_length=10_000, fail_fast=True)]
