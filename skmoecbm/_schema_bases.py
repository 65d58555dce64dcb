"""What the nodes of fitted models share: parameters, labels, sets of classes, edits."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, JsonValue, StrictBool, StrictInt, StrictStr, model_validator

from skmoecbm._schema_parts import Flag, Label, Name, Number, Part, Size, Text
from skmoecbm._schema_provenance import ClassifierTraining

__all__ = ["ClassifierNode", "EditNode", "EstimatorNode", "Labels", "Many", "SetsNode", "is_none"]

# Of a million bad entries one is told, not a million findings made.
Many = Field(fail_fast=True)
_MAX_LABEL_BYTES = 2**24  # 100,000 labels of 40 letters


def is_none(value):
    return value is None


class Labels(Part):
    """The classes in their order, with the numpy dtype that predictions have."""

    dtype: Annotated[StrictStr, Field(pattern=r"^(<U\d{1,5}|\|O|\|b1|[<|][iu][1248]|<f[248])$")]
    values: Annotated[tuple[Label, ...], Field(min_length=1, max_length=100_000), Many]

    @model_validator(mode="after")
    def _values_fit_dtype(self):
        kinds = {"U": (str,), "b": (bool,), "i": (int,), "u": (int,), "f": (float, int)}
        dtype = np.dtype(self.dtype)
        if dtype.itemsize * len(self.values) > _MAX_LABEL_BYTES:
            raise ValueError(f"{len(self.values)} labels of dtype {self.dtype} are too large")
        wanted = kinds.get(dtype.kind, (str, bool, int, float))
        for value in self.values:
            if type(value) not in wanted:
                raise ValueError(f"label {value!r:.80} is not of dtype {self.dtype}")
        if len(set(self.values)) < len(self.values):
            raise ValueError("labels must differ")
        if self.array().tolist() != list(self.values):
            raise ValueError(f"labels do not fit into dtype {self.dtype}")
        return self

    @classmethod
    def of(cls, classes):
        """Return the labels of a fitted `classes_`."""
        return cls(dtype=classes.dtype.newbyteorder("<").str, values=tuple(classes.tolist()))

    def array(self):
        """Return the labels as `classes_` had them."""
        try:
            return np.array(self.values, dtype=self.dtype)
        except OverflowError as error:
            raise ValueError(f"labels do not fit into dtype {self.dtype}") from error


class EstimatorNode(Part):
    """What every estimator has: constructor parameters, and the names of those left out."""

    parameters: Annotated[dict[Name, JsonValue], Field(max_length=64)]
    not_saved: Annotated[tuple[Name, ...], Field(max_length=64)] = ()


class SetsNode(Part):
    """What sets of classes need; scores, weights, classes and shift are arrays."""

    method: Literal["lac", "aps"]
    class_conditional: Flag = False
    n_rows: Annotated[StrictInt, Field(ge=1, le=2**31)]


class EditNode(Part):
    """One line of a model's `edit_log_`: what was done to a concept after training."""

    action: Literal["forbid", "pin"]
    expert: Name
    concept: Text
    label: Label | None
    sign: Literal["+", "-"] | None
    before: Number
    after: Number
    refit: StrictBool

    @model_validator(mode="after")
    def _a_pin_is_whole(self):
        if (self.label is None, self.sign is None) != ((self.action == "forbid"),) * 2:
            raise ValueError("a pin has a label and a sign, a forbidden concept has neither")
        return self


class ClassifierNode(EstimatorNode):
    """What every classifier has."""

    classes: Labels
    multilabel: Flag = False
    alpha: Number
    alpha_path: Annotated[dict[Name, Annotated[tuple[Number, ...], Many]], Field(max_length=1000)]
    n_features_in: Size
    feature_names_in: Annotated[tuple[Name, ...], Many] | None = None
    n_iter: Size
    # absent unless `calibrate_sets` was called
    sets: SetsNode | None = Field(default=None, exclude_if=is_none)
    edits: Annotated[tuple[EditNode, ...], Field(max_length=100_000), Many] = Field(
        default=(), exclude_if=lambda edits: not edits
    )
    # absent from models of format version 0, and from a mixture's heads: it has one for all
    training_summary: ClassifierTraining | None = Field(default=None, exclude_if=is_none)

    @model_validator(mode="after")
    def _at_least_two_classes(self):
        if len(self.classes.values) < 2:
            raise ValueError("a classifier has at least two classes")
        seen = self.training_summary
        if seen is not None and len(seen.rows_per_class) != len(self.classes.values):
            raise ValueError("rows_per_class does not have one number per class")
        return self
