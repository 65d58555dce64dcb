"""What every node of a saved model's `config.json` is made of: bounded names, texts and numbers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

__all__ = ["Flag", "Label", "Name", "Number", "Part", "Sha256", "Size", "Text"]

Label = StrictBool | StrictInt | StrictFloat | StrictStr
Name = Annotated[StrictStr, Field(min_length=1, max_length=4096)]
Text = Annotated[StrictStr, Field(max_length=65536)]
Size = Annotated[StrictInt, Field(ge=0, le=2**31)]
Number = StrictFloat | StrictInt
Sha256 = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
# Absent unless it is true: models without it are written as they always were.
Flag = Annotated[StrictBool, Field(exclude_if=lambda value: not value)]


class Part(BaseModel):
    """A node: what it does not name may not stand in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
