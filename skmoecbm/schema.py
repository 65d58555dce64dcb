"""The `config.json` of a saved model, format version 1: what may stand in it and nothing else."""

import json
import platform
import re
from importlib import metadata
from typing import Annotated, Literal

from pydantic import Field, StrictStr, ValidationError

from skmoecbm._config_bytes import read_object
from skmoecbm._conversions import convert
from skmoecbm._schema_nodes import (
    ArrayEntry,
    CrossNode,
    EncoderNode,
    GatedNode,
    HeadNode,
    Label,
    Labels,
    Name,
    Part,
    PipelineNode,
    SparseNode,
    Text,
    UnionNode,
)
from skmoecbm._schema_tokens import TextTokenEncoderNode, TokenEncoderNode, TokenUnionNode
from skmoecbm.exceptions import FormatError

__all__ = [
    "FORMAT_VERSION",
    "ArrayEntry",
    "Labels",
    "ModelConfig",
    "library_versions",
    "parse_config",
    "tell",
]

FORMAT_VERSION = 1
# the first release that reads this version
_NEEDS = "0.1"
_RELEASE = r"^[0-9]{1,4}(\.[0-9]{1,4}){1,2}$"
_MAX_FINDINGS = 1000  # pydantic makes a dict of each


class ModelConfig(Part):
    """A whole `config.json`."""

    format_version: Literal[1] = FORMAT_VERSION
    needs_skmoecbm: Annotated[StrictStr, Field(pattern=_RELEASE)] = _NEEDS
    library_versions: Annotated[dict[Name, Name], Field(max_length=32)]
    notices: Annotated[tuple[Text, ...], Field(max_length=64)] = ()
    label_map: Annotated[dict[Name, Label], Field(max_length=100_000)] | None = None
    model: Annotated[
        PipelineNode
        | EncoderNode
        | UnionNode
        | TokenEncoderNode
        | TextTokenEncoderNode
        | TokenUnionNode
        | HeadNode
        | GatedNode
        | SparseNode
        | CrossNode,
        Field(discriminator="kind"),
    ]
    arrays: Annotated[dict[Name, ArrayEntry], Field(max_length=10_000)]
    arrays_sha256: Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]

    def to_json(self):
        """Return the text of `config.json`; the same config gives the same text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def library_versions():
    """Return the versions that a model is saved under, package -> version."""
    packages = ("scikit-learn", "numpy", "torch", "open_clip_torch", "safetensors")
    return {
        "skmoecbm": _own_version(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def parse_config(text):
    """Return the `ModelConfig` that the text of a `config.json` holds.

    Parameters
    ----------
    text : str or bytes
        UTF-8.

    Raises
    ------
    FormatError
        If it is not JSON, of a newer format version, or not as the format says.
    """
    data = read_object(text, "config.json")
    version = data.get("format_version")
    if "format_version" in data and type(version) is not int:
        raise FormatError(
            f"config.json gives 'format_version' as {_shown(version)}; it must be a whole number "
            f"such as {FORMAT_VERSION}, without quotes. The file was edited or is damaged; fetch "
            "or save it again."
        )
    if version is None:
        raise FormatError(
            "config.json has no 'format_version', so it is not of a model saved by skmoecbm. "
            "Load the model with the library that saved it."
        )
    if version > FORMAT_VERSION:
        raise FormatError(_too_new(version, data.get("needs_skmoecbm")))
    if version < 0:
        raise FormatError(f"There is no format version {str(version)[:20]}; the file is damaged.")
    try:
        return ModelConfig.model_validate(convert(data, FORMAT_VERSION))
    except ValidationError as error:
        raise FormatError(
            f"config.json does not follow format version {version}: {tell(error)}. The file is "
            "damaged; fetch or save it again."
        ) from None


def tell(error):
    """Return pydantic's first findings as one line, without long values.

    Parameters
    ----------
    error : pydantic.ValidationError

    Returns
    -------
    str
    """
    if error.error_count() > _MAX_FINDINGS:
        return f"{error.error_count():,} parts of it are not as they should be"
    findings = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}"[:300] for one in findings[:3]]
    more = f", and {len(findings) - 3} more" if len(findings) > 3 else ""
    return "; ".join(told) + more


def _shown(value):
    """Return a JSON value in a few words, without walking through a large one."""
    kind = {list: "a list", dict: "an object", type(None): "null"}.get(type(value))
    return kind or f"{json.dumps(value, ensure_ascii=False):.40}"


def _too_new(version, needed):
    """Return the sentence for a model that only a later release can read."""
    if isinstance(needed, str) and re.fullmatch(_RELEASE, needed):
        which, update = f"needs skmoecbm {needed} or newer", f"'skmoecbm>={needed}'"
    else:
        which, update = "needs a newer skmoecbm", "skmoecbm"
    return (
        f"The model is of format version {str(version)[:20]}, which {which}; this is "
        f"skmoecbm {_own_version()}, which reads up to version {FORMAT_VERSION}. Update it: pip "
        f"install --upgrade {update}."
    )


def _own_version():
    import skmoecbm  # by then whole; at the top of this file it would import itself

    return skmoecbm.__version__
