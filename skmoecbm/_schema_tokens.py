"""Nodes of a saved model for encoders of tokens: of images, of texts, and of both."""

from typing import Annotated, Literal

from pydantic import Field, StrictInt, StrictStr, model_validator

from skmoecbm._schema_bases import EstimatorNode, Many
from skmoecbm._schema_parts import Name, Part, Sha256, Size, Text
from skmoecbm._schema_provenance import BackboneIdentity

__all__ = ["TextTokenEncoderNode", "TokenEncoderNode", "TokenUnionNode"]

_Count = Annotated[StrictInt, Field(ge=1, le=2**20)]


class ImageTokensNode(Part):
    """What of a backbone's tokens is kept; `version` is of the rule that makes them."""

    kind: Literal["tokens of images"]
    version: Size
    grid: _Count | None


class TextTokensNode(Part):
    """What of a text is read; `version` is of the rule that makes its tokens."""

    kind: Literal["tokens of texts"]
    version: Size
    max_length: _Count


class ImageTokenIdentity(BackboneIdentity):
    """What decides the numbers of an image's tokens."""

    tokens: ImageTokensNode


class TextTokenIdentity(Part):
    """What decides the numbers of a text's tokens."""

    model: Name
    revision: Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{40}$")] | None
    weights_sha256: Sha256
    architecture_sha256: Sha256
    tokenizer_sha256: Sha256 | None  # null is CLIP's own
    tokens: TextTokensNode


class _TokenNode(EstimatorNode):
    width: _Count
    fingerprint: Name
    notice: Text | None = None


class TokenEncoderNode(_TokenNode):
    """A fitted `TokenEncoder`; the backbone is named and fingerprinted, never contained."""

    kind: Literal["TokenEncoder"] = "TokenEncoder"
    backbone_identity: ImageTokenIdentity
    n_tokens: _Count
    grid: Annotated[tuple[_Count, ...], Field(min_length=2, max_length=2)] | None

    @model_validator(mode="after")
    def _patches_fill_the_grid(self):
        if self.grid is not None and self.n_tokens != 1 + self.grid[0] * self.grid[1]:
            raise ValueError("n_tokens is not that of the grid")
        return self


class TextTokenEncoderNode(_TokenNode):
    """A fitted `TextTokenEncoder`."""

    kind: Literal["TextTokenEncoder"] = "TextTokenEncoder"
    backbone_identity: TextTokenIdentity


class StreamNode(Part):
    """One stream of a `TokenUnion`."""

    name: Name
    encoder: Annotated[TokenEncoderNode | TextTokenEncoderNode, Field(discriminator="kind")]


class TokenUnionNode(EstimatorNode):
    """A fitted `TokenUnion`."""

    kind: Literal["TokenUnion"] = "TokenUnion"
    streams: Annotated[tuple[StreamNode, ...], Field(min_length=1, max_length=256), Many]
