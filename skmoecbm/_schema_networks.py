"""The classifiers of networks in a saved model's `config.json`."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from skmoecbm._schema_bases import ClassifierNode, EditNode, Many, is_none
from skmoecbm._schema_parts import Flag, Name, Number, Part, Size, Text
from skmoecbm.moe._multi_time import MOST_FREQUENCIES, MOST_HEADS, MOST_POINTS

__all__ = [
    "CrossNode",
    "CrossShapeNode",
    "HistoryNode",
    "NetworkNode",
    "SeriesNode",
    "ShapeNode",
    "SparseNode",
]

# Of a tensor: as many float64 as fit into the largest file that is read.
_MAX_NUMBERS = 2**29
_Positive = Annotated[StrictInt, Field(ge=1, le=2**31)]


class HistoryNode(Part):
    """How the training went; `early_stopping` is true, or why there was none."""

    train_loss: Annotated[tuple[Number, ...], Field(min_length=1, max_length=1_000_000), Many]
    validation_score: Annotated[tuple[Number, ...], Field(max_length=1_000_000), Many]
    best_epoch: Annotated[StrictInt, Field(ge=0, le=2**31)]
    early_stopping: StrictBool | Text

    @model_validator(mode="after")
    def _epochs_fit(self):
        n = len(self.train_loss)
        if len(self.validation_score) not in (0, n) or self.best_epoch > n:
            raise ValueError("scores and best_epoch are not of the epochs of train_loss")
        return self


class SeriesNode(Part):
    """How a modality is read that is a time series; its means and scales are arrays."""

    n_variables: _Positive
    n_points: Annotated[StrictInt, Field(ge=1, le=MOST_POINTS)]
    n_frequencies: Annotated[StrictInt, Field(ge=1, le=MOST_FREQUENCIES)]
    sharpness: Annotated[tuple[Number, ...], Field(min_length=1, max_length=MOST_HEADS), Many]
    first: Number
    last: Number

    @model_validator(mode="after")
    def _reads_something(self):
        if self.first >= self.last or min(self.sharpness) < 0:
            raise ValueError("the last time must be after the first, and sharpness 0 or more")
        if self.n_outputs > _MAX_NUMBERS:
            raise ValueError("a time series is read at more points than any file has numbers")
        return self

    @property
    def n_outputs(self):
        """Numbers that the network gets of a row."""
        return 2 * len(self.sharpness) * self.n_points * self.n_variables


class ShapeNode(Part):
    """What fixes the tensors of a sparse network beside its modalities and classes."""

    n_experts: _Positive
    top_k: _Positive
    hidden: _Positive
    router: Literal["joint", "per_modality", "disjoint"]
    gating: Literal["softmax", "laplace", "gaussian"]
    noisy: StrictBool
    learned_missing: StrictBool
    # by modality; none where no modality is a time series
    series: Annotated[tuple[SeriesNode | None, ...], Many] = Field((), exclude_if=lambda s: not s)


class NetworkNode(ClassifierNode):
    """What the classifiers of networks have in common."""

    # networks have no penalty, and nothing in them is edited
    alpha: Annotated[None, Field(exclude_if=is_none)] = None
    alpha_path: dict[Name, Number] = Field({}, max_length=0, exclude_if=lambda path: not path)
    edits: Annotated[
        tuple[EditNode, ...], Field(max_length=0, exclude_if=lambda edits: not edits)
    ] = ()
    history: HistoryNode

    @model_validator(mode="after")
    def _epochs_are_those_of_the_history(self):
        if self.n_iter != len(self.history.train_loss):
            raise ValueError("n_iter is not the number of epochs")
        return self


class SparseNode(NetworkNode):
    """A fitted `SparseMoEClassifier`; its tensors, means and scales are arrays."""

    kind: Literal["SparseMoEClassifier"] = "SparseMoEClassifier"
    modality_names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=256), Many]
    modality_columns: Annotated[tuple[Annotated[tuple[Size, ...], Many], ...], Many]
    column_names: Annotated[tuple[Annotated[tuple[Text, ...], Many], ...], Many]
    masked_modalities: Annotated[tuple[Name, ...], Field(max_length=255)] = Field(
        default=(), exclude_if=lambda names: not names
    )
    shape: ShapeNode

    @model_validator(mode="after")
    def _modalities_fit(self):
        widths = [len(columns) for columns in self.modality_columns]
        columns = [column for part in self.modality_columns for column in part]
        if len(set(self.modality_names)) < len(self.modality_names):
            raise ValueError("modality names must differ")
        masked = set(self.masked_modalities)
        if len(masked) < len(self.masked_modalities) or not masked < set(self.modality_names):
            raise ValueError("masked_modalities must be some of modality_names, each once, not all")
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
        self._series_fit()
        widest = max(shape.hidden, sum(self.widths))
        seen = len(self.modality_names) * (shape.hidden + 1)
        if shape.n_experts * max(shape.hidden * widest, seen) > _MAX_NUMBERS:
            raise ValueError("a tensor of the network is larger than any file")
        return self

    def _series_fit(self):
        columns = list(map(len, self.modality_columns))
        if len(self.shape.series) not in (0, len(columns)):
            raise ValueError("series are not of the modalities")
        for width, one in zip(columns, self.shape.series, strict=False):
            if one is not None and width % (1 + 2 * one.n_variables):
                raise ValueError("columns of a time series are not of whole measurements")

    @property
    def widths(self):
        """Numbers that the network gets of each modality."""
        widths = list(map(len, self.modality_columns))
        for m, one in enumerate(self.shape.series):
            widths[m] = widths[m] if one is None else one.n_outputs
        return widths


class CrossShapeNode(Part):
    """What fixes the tensors of a cross-modal network beside its streams and classes."""

    width: _Positive
    n_experts: _Positive
    top_k: _Positive
    hidden: _Positive
    fusion: Literal["attention", "concat"]
    pooling: Literal["mean", "cls"]
    moe: StrictBool
    gating: Literal["softmax", "laplace", "gaussian"]


class CrossNode(NetworkNode):
    """A fitted `CrossModalMoEClassifier`; its tensors, means and scales are arrays."""

    kind: Literal["CrossModalMoEClassifier"] = "CrossModalMoEClassifier"
    stream_names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=2)]
    stream_widths: Annotated[tuple[_Positive, ...], Field(min_length=1, max_length=2)]
    stream_columns: Annotated[tuple[Annotated[tuple[Size, ...], Many], ...], Many] | None = None
    reading: Literal["tokens", "columns", "cut"]
    picked: Flag = False
    masked_streams: Annotated[tuple[Name, ...], Field(max_length=1)] = Field(
        default=(), exclude_if=lambda names: not names
    )
    shape: CrossShapeNode

    @model_validator(mode="after")
    def _streams_fit(self):
        names, widths, columns = self.stream_names, self.stream_widths, self.stream_columns
        if len(set(names)) < len(names) or len(widths) != len(names):
            raise ValueError("streams must have distinct names, and a width each")
        if not set(self.masked_streams) < set(names):
            raise ValueError("masked_streams must be some of stream_names, not all")
        if (columns is not None) != (self.reading == "cut"):
            raise ValueError("stream_columns are of streams that were cut, and of no others")
        if self.reading == "columns" and widths != (self.n_features_in,):
            raise ValueError("columns as tokens are one stream, as wide as there are features")
        if columns is not None:
            if len(columns) != len(names):
                raise ValueError("stream_columns are not of the streams")
            for width, own in zip(widths, columns, strict=True):
                if not own or len(own) % width or max(own) >= self.n_features_in:
                    raise ValueError("stream_columns are not tokens made of the features")
        seen = self.training_summary
        if seen is not None and list(seen.rows_per_expert) != list(names):
            raise ValueError("rows_per_expert is not of the streams")
        return self

    @model_validator(mode="after")
    def _network_fits(self):
        shape = self.shape
        if shape.top_k > shape.n_experts:
            raise ValueError("top_k is more than n_experts")
        seen = shape.width + len(self.stream_names)
        tensors = (
            shape.n_experts * shape.hidden * shape.width,
            shape.n_experts * seen,
            shape.width * max(2 * shape.width, *self.stream_widths, len(self.classes.values)),
        )
        if max(tensors) > _MAX_NUMBERS:
            raise ValueError("a tensor of the network is larger than any file")
        return self
