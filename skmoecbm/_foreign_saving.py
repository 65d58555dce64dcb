"""Estimators of other libraries as bytes of skops, and back: never a pickle, no type unasked."""

import importlib
import warnings

import numpy as np
import sklearn
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils import check_random_state

from skmoecbm._foreign_numbers import check_numbers, rows_within
from skmoecbm._schema_foreign import ForeignNode
from skmoecbm._skops_archive import normal_form, read_archive, write_archive
from skmoecbm._skops_gate import Gate
from skmoecbm._skops_types import NEIGHBOUR_TREES, VOUCHED, hint
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import FormatError, InputError, SkmoecbmWarning

__all__ = ["check_trusted", "pack_foreign", "unpack_foreign"]

_PLAIN = ("builtins.", "collections.", "numpy.")


def check_trusted(owner, trusted):
    """Return the types that a user vouches for, by name, as a tuple."""
    good = isinstance(trusted, list | tuple | set | frozenset)
    if not good or not all(isinstance(one, str) and "." in one for one in trusted):
        raise parameter_error(
            owner, "trusted", "a list of names of types, such as ['mypkg.MyTransformer']", trusted
        )
    return tuple(trusted)


def pack_foreign(what, estimator, arrays, name, trusted=()):
    """Return the `ForeignNode` of an estimator and put its bytes into `arrays`.

    Parameters
    ----------
    what : str
        The estimator in an error: "Expert 'age'".
    estimator : estimator
    arrays : dict of str to ndarray
    name : str
        Of its array.
    trusted : collection of str

    Raises
    ------
    InputError
        If skops is not installed, or cannot hold the estimator, or it has a type that nobody
        vouches for.

    Warns
    -----
    SkmoecbmWarning
        If it holds rows that it was trained on.
    """
    skops_io = _skops(f"{what} is a {type(estimator).__name__}; to save one")
    otherwise = "or keep the model with joblib for use on your own machine."
    try:
        content = normal_form(_dumps(skops_io, estimator), _unseeded(skops_io))
        gate = Gate(*read_archive(content), trusted)
    except FormatError as error:
        raise InputError(
            f"{what} is a {type(estimator).__name__}, which has no safe form: {error} "
            f"Give it an estimator of scikit-learn, {otherwise}"
        ) from error
    untrusted = sorted(gate.untrusted | _audit(skops_io, content, trusted))
    if untrusted:
        hints = dict.fromkeys(filter(None, map(hint, untrusted)))
        problem = (
            f"{what} is a {type(estimator).__name__} with {', '.join(untrusted)}, which is not "
            "known to be harmless where it is loaded. "
        )
        if all(name.startswith(NEIGHBOUR_TREES) for name in untrusted):
            raise InputError(f"{problem}Give it algorithm='brute', {otherwise}")
        raise InputError(
            problem
            + "".join(f"For one of them: {one}. " for one in hints)
            + f"If it is yours, name it: save(..., trusted={untrusted}), and the same in load; "
            + otherwise
        )
    rows = rows_within(estimator)
    if rows:
        warnings.warn(
            f"{what} keeps rows that it was trained on ({', '.join(rows)[:200]}), and a saved "
            "model has them inside. Give the model only to those who may have these rows, or take "
            "a head that keeps none, such as LogisticRegression.",
            SkmoecbmWarning,
            stacklevel=2,
        )
    arrays[name] = np.frombuffer(content, dtype=np.uint8)
    return ForeignNode(
        class_name=type(estimator).__name__,
        trusted_types=_named(gate),
        sklearn_version=sklearn.__version__,
        n_bytes=len(content),
    )


def unpack_foreign(node, array, trusted=()):
    """Return the estimator of a `ForeignNode`.

    Nothing that the bytes name is imported before all of it is known to be trusted.

    Parameters
    ----------
    node : ForeignNode
    array : ndarray of uint8
    trusted : collection of str

    Raises
    ------
    FormatError
        If the bytes are not what the node says, have another form than skops gives them, hold a
        type that neither this package nor `trusted` vouches for, or numbers that point out of
        their arrays.
    InputError
        If skops is not installed.
    """
    skops_io = _skops(f"The model holds a {node.class_name:.80}; to load it")
    try:
        schema, members = read_archive(array.tobytes())
        gate = Gate(schema, members, trusted)
        if (gate.class_name, _named(gate)) != (node.class_name, node.trusted_types):
            raise FormatError("an estimator has other types than config.json lists for it.")
        content = write_archive(schema, members)  # what was looked at, and not a byte more
        untrusted = sorted(gate.untrusted or _audit(skops_io, content, trusted))
        if untrusted:
            raise FormatError(
                f"a {node.class_name} is made of {', '.join(untrusted)[:500]}, which could do "
                "anything. If you know and trust what that is and where the model comes from, name "
                f"it: load(..., trusted={untrusted[:20]})."
            )
        _check_imports(gate.types & set(trusted))
        estimator = _construct(skops_io, content, gate.types & (VOUCHED | set(trusted)))
        check_numbers(estimator)
    except FormatError as error:
        raise FormatError(f"The model is not loaded: {error}") from error.__cause__
    if node.sklearn_version != sklearn.__version__:
        warnings.warn(
            f"The {node.class_name} of this model was saved with scikit-learn "
            f"{node.sklearn_version}, and this is {sklearn.__version__}: what it predicts may "
            f"differ. Compare before use, or install scikit-learn=={node.sklearn_version}.",
            SkmoecbmWarning,
            stacklevel=2,
        )
    return estimator


def _skops(why):
    try:
        return importlib.import_module("skops.io")
    except ImportError:
        raise InputError(
            f"{why}, the package skops is needed. Run: pip install 'skmoecbm[skops]'"
        ) from None


def _dumps(skops_io, estimator):
    try:
        return skops_io.dumps(estimator)
    # It raises whatever the objects in an estimator raise when they are asked for their state.
    except Exception as error:
        raise FormatError(f"skops cannot write it: {str(error)[:300]}") from error


def _audit(skops_io, content, trusted):
    """Return the types that skops itself does not trust, but for those vouched for."""
    try:
        found = skops_io.get_untrusted_types(data=content)
    # skops raises anything on a schema that it does not expect: KeyError, TypeError, ...
    except Exception as error:
        raise FormatError(f"skops cannot read an estimator: {str(error)[:200]}.") from error
    return set(found) - VOUCHED - set(trusted)


def _construct(skops_io, content, trusted):
    """Return what skops makes of bytes that passed the gate."""
    try:
        with warnings.catch_warnings():
            # the caller says it, once for the model
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            return skops_io.loads(content, trusted=sorted(trusted))
    # The types are trusted, their attributes are anything: __setstate__ may raise what it likes.
    except Exception as error:
        raise FormatError(f"skops cannot make an estimator: {str(error)[:200]}.") from error


def _check_imports(names):
    """Raise `InputError` where a type that the user vouches for is not there."""
    for name in sorted(names):
        module, _, own = name.rpartition(".")
        try:
            getattr(importlib.import_module(module), own)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"The model needs {name}, which is not installed here ({error}). Install it."
            ) from error


def _named(gate):
    """Return the types that stand in config.json: of Python and numpy only what is unusual."""
    named = {name for name in gate.types if not name.startswith(_PLAIN)}
    return tuple(sorted(named | gate.unusual))


def _unseeded(skops_io):
    """Return a fixed state for numpy's own random state, which an unseeded estimator refers to.

    Its true state is that of the process, and would make each save different.
    """
    fixed = skops_io.dumps(np.random.RandomState(0))
    schema, members = read_archive(normal_form(fixed))
    for name in ("protocol", "_skops_version"):
        del schema[name]
    schema["content"]["content"]["state"]["content"]["key"]["file"] = "unseeded.npy"
    (key,) = members.values()
    return {id(check_random_state(None)): (schema, {"unseeded.npy": key})}
