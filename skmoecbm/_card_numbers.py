"""The numbers of a model card: an `Evaluation`, its JSON, or bare numbers, in one form."""

import math
import numbers
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skmoecbm._evaluation import Evaluation
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["numbers_of"]


class _Estimate(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    value: float | None
    low: float | None = None
    high: float | None = None


class _Numbers(BaseModel):
    """What `Evaluation.to_dict` returns."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    n: int | None = Field(ge=1)
    n_groups: int | None = Field(ge=1)
    n_bootstrap: int = Field(ge=0)
    confidence: float = Field(gt=0, lt=1)
    classes: list[str | int | float | bool]
    absent_classes: list[str | int | float | bool]
    metrics: dict[str, _Estimate] = Field(min_length=1, max_length=64)
    per_class: list[dict[str, _Estimate | str | int | float | bool]]
    notes: list[str]


def numbers_of(evaluation):
    """Return numbers in the form of `Evaluation.to_dict`; of bare ones `n` is None.

    Raises
    ------
    InputError
        If it is nothing of the kind.
    """
    if isinstance(evaluation, Evaluation):
        return evaluation.to_dict()
    if not isinstance(evaluation, Mapping) or not evaluation:
        wanted = "what evaluate() returned, its to_dict(), or a dict of metric to number"
        raise parameter_error("ReportedMetrics", "evaluation", wanted, evaluation)
    if "metrics" in evaluation:
        try:
            return _Numbers.model_validate(dict(evaluation)).model_dump()
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(
                f"The metrics are not what Evaluation.to_dict() gives: {where}: {first['msg']}. "
                "Give what evaluate() returned."
            ) from None
    for name, value in evaluation.items():
        good = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not isinstance(name, str) or not good or not math.isfinite(value):
            wanted = "a dict of metric to finite number"
            raise parameter_error("ReportedMetrics", "evaluation", wanted, dict(evaluation))
    return {
        "n": None,
        "n_groups": None,
        "n_bootstrap": 0,
        "confidence": 0.95,
        "classes": [],
        "absent_classes": [],
        "metrics": {
            name: {"value": float(value), "low": None, "high": None}
            for name, value in evaluation.items()
        },
        "per_class": [],
        "notes": [],
    }
