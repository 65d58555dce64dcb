"""The classifiers of networks in a saved model's `config.json`."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from skmoecbm._schema_bases import ClassifierNode, EditNode, Many, is_none
from skmoecbm._schema_parts import Name, Number, Part, Size, Text

__all__ = ["HistoryNode", "ShapeNode", "SparseNode"]

# Of a tensor: as many float64 as fit into the largest file that is read.
_MAX_NUMBERS = 2**29
_Positive = Annotated[StrictInt, Field(ge=1, le=2**31)]


class HistoryNode(Part):
    """How the training went; `early_stopping` is true, or why there was none."""

    train_loss: Annotated[tuple[Number, ...], Field(min_length=1, max_length=1_000_000), Many]
    validation_score: Annotated[tuple[Number, ...], Field(max_length=1_000_000), Many]
    best_epoch: _Positive
    early_stopping: StrictBool | Text

    @model_validator(mode="after")
    def _epochs_fit(self):
        n = len(self.train_loss)
        if len(self.validation_score) not in (0, n) or self.best_epoch > n:
            raise ValueError("scores and best_epoch are not of the epochs of train_loss")
        return self


class ShapeNode(Part):
    """What fixes the tensors of a sparse network beside its modalities and classes."""

    n_experts: _Positive
    top_k: _Positive
    hidden: _Positive
    router: Literal["joint", "per_modality", "disjoint"]
    gating: Literal["softmax", "laplace", "gaussian"]
    noisy: StrictBool
    learned_missing: StrictBool


class SparseNode(ClassifierNode):
    """A fitted `SparseMoEClassifier`; its tensors, means and scales are arrays."""

    kind: Literal["SparseMoEClassifier"] = "SparseMoEClassifier"
    # networks have no penalty, and nothing in them is edited
    alpha: Annotated[None, Field(exclude_if=is_none)] = None
    alpha_path: dict[Name, Number] = Field({}, max_length=0, exclude_if=lambda path: not path)
    edits: Annotated[
        tuple[EditNode, ...], Field(max_length=0, exclude_if=lambda edits: not edits)
    ] = ()
    modality_names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=256), Many]
    modality_columns: Annotated[tuple[Annotated[tuple[Size, ...], Many], ...], Many]
    column_names: Annotated[tuple[Annotated[tuple[Text, ...], Many], ...], Many]
    shape: ShapeNode
    history: HistoryNode

    @model_validator(mode="after")
    def _modalities_fit(self):
        widths = [len(columns) for columns in self.modality_columns]
        columns = [column for part in self.modality_columns for column in part]
        if len(set(self.modality_names)) < len(self.modality_names):
            raise ValueError("modality names must differ")
        if len(widths) != len(self.modality_names) or min(widths, default=0) < 1:
            raise ValueError("modality_columns are not of the modalities")
        if [len(part) for part in self.column_names] != widths:
            raise ValueError("column_names do not fit modality_columns")
        if len(set(columns)) < len(columns) or max(columns) >= self.n_features_in:
            raise ValueError("modality_columns are not distinct features")
        seen = self.training_summary
        if seen is not None and list(seen.rows_per_expert) != list(self.modality_names):
            raise ValueError("rows_per_expert is not of the modalities")
        return self

    @model_validator(mode="after")
    def _network_fits(self):
        shape = self.shape
        if shape.top_k > shape.n_experts:
            raise ValueError("top_k is more than n_experts")
        if shape.learned_missing and len(self.modality_names) == 1:
            raise ValueError("of one modality none can be missing")
        if self.n_iter != len(self.history.train_loss):
            raise ValueError("n_iter is not the number of epochs")
        widest = max(shape.hidden, sum(map(len, self.modality_columns)))
        seen = len(self.modality_names) * (shape.hidden + 1)
        if shape.n_experts * max(shape.hidden * widest, seen) > _MAX_NUMBERS:
            raise ValueError("a tensor of the network is larger than any file")
        return self
