"""Constructor parameters as JSON and back: plain values, and small objects of this package."""

import inspect
import math
import numbers

import numpy as np

from skmoecbm.exceptions import FormatError, InputError

__all__ = ["MAX_JOBS", "pack_parameters", "pack_value", "unpack_parameters", "unpack_value"]

# What only `fit` reads may be left out, since a loaded model is fitted already.
_FIT_ONLY = {
    "balancing",
    "class_weight",
    "cv",
    "experts",
    "gate_input",
    "head",
    "memory",
    "modalities",
    "n_jobs",
    "prior",
    "random_state",
    "scoring",
    "select",
    "streams",
    "training",
    "transform_input",
    "validation_fraction",
    "verbose",
}


MAX_JOBS = 1024  # joblib would start as many threads as it is told to


class _NotJSON(Exception):
    """A value that has no form in JSON here."""


def pack_parameters(estimator, registry, *, skip=(), instead=None):
    """Return the constructor parameters as JSON, and the names of those left out.

    Parameters
    ----------
    estimator : estimator
    registry : dict of str to type
        Classes whose instances may be values, by the name they are stored under.
    skip : collection of str
        Parameters that the caller stores in another way.
    instead : dict of str to value, default=None
        Values to store in the place of the estimator's own; None is its own.

    Raises
    ------
    InputError
        If a parameter that prediction needs has no form in JSON.
    """
    packed, left_out = {}, []
    for name in _names(type(estimator)):
        if name in skip:
            continue
        if name in getattr(estimator, "_not_saved", ()) and _is_default(estimator, name):
            left_out.append(name)  # it was left out before; nobody has set it since
            continue
        value = (instead or {}).get(name)
        value = getattr(estimator, name) if value is None else value
        try:
            packed[name] = pack_value(value, registry)
        except _NotJSON as error:
            if name not in _FIT_ONLY:
                raise InputError(
                    f"{type(estimator).__name__} cannot be saved with {name}="
                    f"{getattr(estimator, name)!r:.80}: {error}. Use plain numbers, strings and "
                    "lists, or keep the model with joblib for use on your own machine."
                ) from None
            left_out.append(name)
    return packed, left_out


def unpack_parameters(cls, packed, registry):
    """Return the keyword arguments for `cls` that `pack_parameters` stored.

    Raises
    ------
    FormatError
        If a name is no parameter of the class, or a value is malformed.
    """
    unknown = sorted(set(packed) - set(_names(cls)))
    if unknown:
        raise FormatError(
            f"config.json has the parameter {unknown[0]!r}, which {cls.__name__} does not have; "
            "the file is damaged or of another version of skmoecbm."
        )
    parameters = {name: unpack_value(value, registry) for name, value in packed.items()}
    if parameters.get("memory") is not None:
        raise FormatError("config.json names a folder for a cache, which a saved model may not.")
    n_jobs = parameters.get("n_jobs")
    if n_jobs is not None and not (type(n_jobs) is int and 1 <= abs(n_jobs) <= MAX_JOBS):
        raise FormatError(
            f"config.json asks for n_jobs={n_jobs!r:.40}; a saved model may ask for at most "
            f"{MAX_JOBS} threads."
        )
    return parameters


def _is_default(estimator, name):
    default = inspect.signature(type(estimator).__init__).parameters[name].default
    value = getattr(estimator, name)
    return type(value) is type(default) and value == default


def _names(cls):
    if cls.__init__ is object.__init__:  # whose signature names *args and **kwargs
        return []
    return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]


def pack_value(value, registry):
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise _NotJSON(f"{value} is not a finite number")
        return float(value)
    if isinstance(value, list):
        return [pack_value(item, registry) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [pack_value(item, registry) for item in value]}
    if isinstance(value, slice):
        return {"$slice": [pack_value(v, registry) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, dict):
        return {
            "$pairs": [[pack_value(k, registry), pack_value(v, registry)] for k, v in value.items()]
        }
    for name, cls in registry.items():
        if type(value) is cls:
            packed, left_out = pack_parameters(value, registry)
            if left_out:
                raise _NotJSON(f"its {left_out[0]!r} has no form in JSON")
            return {"$object": name, "parameters": packed}
    raise _NotJSON(f"{type(value).__name__} has no form in JSON")


def unpack_value(value, registry):
    if isinstance(value, list):
        return [unpack_value(item, registry) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$tuple": [*items], **others} if not others:
            return tuple(unpack_value(item, registry) for item in items)
        case {"$slice": [start, stop, step], **others} if not others:
            return slice(*(_integer(part) for part in (start, stop, step)))
        case {"$pairs": [*pairs], **others} if not others:
            return dict(_pair(pair, registry) for pair in pairs)
        case {"$object": str(name), "parameters": dict(packed), **others} if not others:
            if name not in registry:
                raise FormatError(f"config.json asks for an object {name!r:.80}, which is unknown.")
            cls = registry[name]
            return cls(**unpack_parameters(cls, packed, registry))
    raise FormatError(f"config.json has a malformed parameter value: {value!r:.80}.")


def _pair(pair, registry):
    match pair:
        case [None | bool() | int() | float() | str() as key, value]:
            return key, unpack_value(value, registry)
    raise FormatError(f"config.json has a malformed parameter value: {pair!r:.80}.")


def _integer(part):
    if part is None or type(part) is int:
        return part
    raise FormatError(f"config.json has a slice with {part!r:.80}.")
