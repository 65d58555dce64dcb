"""Nodes of estimators that are not of this package: what their bytes hold, in words."""

from typing import Annotated, Literal

from pydantic import Field, StrictFloat

from skmoecbm._schema_parts import Flag, Name, Part, Size, Text

__all__ = ["ForeignHeadNode", "ForeignNode", "PassthroughNode"]


class ForeignNode(Part):
    """A fitted estimator of another library; its bytes, made by skops, are an array of uint8.

    `class_name` and `trusted_types` say what the bytes hold: all types, but for Python's own and
    numpy's. They are compared with the bytes and grant nothing.
    """

    kind: Literal["foreign"] = "foreign"
    class_name: Name
    trusted_types: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1024)]
    sklearn_version: Annotated[Name, Field(max_length=64)]
    n_bytes: Size


class PassthroughNode(Part):
    """Columns that go through as they are, or a step that does nothing."""

    kind: Literal["passthrough"] = "passthrough"
    n_features_in: Size | None = None
    feature_names_in: tuple[Name, ...] | None = None


class ForeignHeadNode(Part):
    """The head of an expert that is a classifier of another library."""

    kind: Literal["foreign head"] = "foreign head"
    expert_name: Name
    concept_names: Annotated[tuple[Text, ...], Field(min_length=1)]
    n_features_in: Size
    # probability of a class that it never saw
    floor: Annotated[StrictFloat, Field(gt=0, le=0.5)]
    # of each label 1 where all rows had it, 0 where none had; absent where all are None
    constant: Annotated[tuple[Literal[0, 1] | None, ...], Field(max_length=100_000)] = Field(
        default=(), exclude_if=lambda values: not values
    )
    # whether rows of which some columns are NaN may be shown to it
    sees_gaps: Flag = False
    estimator: ForeignNode

    @property
    def prior_used(self):
        """A head of another library knows no prior."""
        return None
