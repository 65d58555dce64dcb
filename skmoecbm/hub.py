"""Save and load models as JSON and safetensors: nothing that is loaded can run code."""

import hashlib
import os
import platform
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import ValidationError

from skmoecbm._model_folder import (
    ARRAYS,
    CARD,
    CONFIG,
    read_bytes,
    read_config_bytes,
    refuse_other_files,
)
from skmoecbm._packing import pack, unpack
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import FormatError, InputError
from skmoecbm.schema import ArrayEntry, ModelConfig, parse_config, tell

__all__ = ["load", "read_config", "save"]

_MAX_ARRAYS_BYTES = 4 * 2**30
_DTYPES = {"F64": "float64", "F32": "float32", "I64": "int64", "BOOL": "bool"}


def save(model, folder, *, label_map=None):
    """Save a fitted model as `config.json`, `model.safetensors` and a `README.md`.

    The backbones are named and fingerprinted, not contained; neither are images, training rows,
    file paths or groups. The same model gives the same bytes.

    Parameters
    ----------
    model : fitted Pipeline, classifier or encoder
        A pipeline of `ConceptEncoder` or `ExpertUnion` and a classifier of this package, or one
        of these alone.
    folder : path
        Made if it is not there. A model saved there before is replaced, in one step at the end:
        a save that fails leaves it as it was.
    label_map : dict of str to label, default=None
        Codes in the user's table -> class, kept beside the model; see `read_config`.

    Raises
    ------
    InputError
        If the model is not fitted, has a step or parameter without a safe form, or the folder
        holds other files.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skmoecbm import ConceptBottleneckClassifier
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> model = ConceptBottleneckClassifier(alpha=1.0).fit(X, X[:, 0] > 0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, folder)
    ...     again = load(folder)
    >>> bool((again.predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    folder = _folder_of("save", folder)
    refuse_other_files(folder)
    arrays = {}
    try:
        node = pack(model, arrays)
        arrays = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
        content = safetensors.numpy.save(arrays)
        config = ModelConfig(
            library_versions=_versions(),
            notices=_notices(node),
            label_map=label_map,
            model=node,
            arrays={
                name: ArrayEntry(shape=array.shape, dtype=array.dtype.name)
                for name, array in arrays.items()
            },
            arrays_sha256=hashlib.sha256(content).hexdigest(),
        )
    except ValidationError as error:
        raise InputError(f"The model cannot be saved: {tell(error)}.") from None
    text = config.to_json()
    unpack(parse_config(text).model, dict(arrays))  # what cannot be loaded is not saved
    _replace_folder(folder, {CONFIG: text.encode(), ARRAYS: content, CARD: _card(config).encode()})


def load(folder, *, backbones=None):
    """Load a model that `save` wrote, ready to predict, explain and evaluate.

    Only JSON and safetensors are read: no pickle, no import by name, no download. Backbones are
    loaded when they are first used, and compared then with what the model was fitted with.

    Parameters
    ----------
    folder : path
    backbones : dict of str to str, default=None
        Expert name -> backbone, for experts whose backbone lies elsewhere here, such as
        `{"biomedclip": "local-dir:/models/biomedclip"}`. A single encoder's name is its step's.

    Returns
    -------
    model : as it was saved

    Raises
    ------
    FormatError
        If the folder is not a saved model, is damaged, or is of a newer version.
    InputError
        If `backbones` names an expert that the model does not have.

    Notes
    -----
    Embeddings are cached in the default folder of this machine, wherever the saved model had its
    own: `set_params(cache_dir=...)` on an encoder changes that.
    """
    folder = _folder_of("load", folder)
    config = read_config(folder)
    arrays = _read_arrays(folder, config)
    model = unpack(config.model, arrays)
    if arrays:
        raise FormatError(
            f"'{folder / ARRAYS}' has an array {min(arrays)!r} that its model does not use; the "
            "file is damaged, fetch or save it again."
        )
    _set_backbones(model, backbones or {})
    return model


def read_config(folder):
    """Return the checked `config.json` of a saved model, without its arrays.

    Parameters
    ----------
    folder : path

    Returns
    -------
    ModelConfig
        With `format_version`, `library_versions`, `notices`, `label_map`, `model` and `arrays`.

    Raises
    ------
    FormatError
        If the folder is not a saved model, or of a newer version.
    """
    folder = _folder_of("read_config", folder)
    return parse_config(read_config_bytes(folder))


def _folder_of(owner, folder):
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise parameter_error(owner, "folder", "the path of a folder", folder)
    return Path(folder)


def _read_arrays(folder, config):
    """Return the arrays, each as the manifest says."""
    path = folder / ARRAYS
    content = read_bytes(folder, ARRAYS, _MAX_ARRAYS_BYTES)
    if hashlib.sha256(content).hexdigest() != config.arrays_sha256:
        raise FormatError(
            f"'{path}' is not the file that config.json was saved with (cut short, damaged or "
            "replaced). Fetch or save the model again."
        )
    try:
        found = {name: entry for name, entry in safetensors.deserialize(content)}
    except safetensors.SafetensorError as error:
        raise FormatError(f"'{path}' is not a safetensors file: {error}.") from None
    for name, entry in config.arrays.items():
        is_there = name in found
        shape, dtype = (
            (tuple(found[name]["shape"]), _DTYPES.get(found[name]["dtype"]))
            if is_there
            else (None, None)
        )
        if (shape, dtype) != (entry.shape, entry.dtype):
            got = f"{dtype} of shape {shape}" if is_there else "nothing"
            raise FormatError(
                f"'{path}' must have an array {name!r} of {entry.dtype} and shape {entry.shape}. "
                f"Got {got}; fetch or save the model again."
            )
    extra = sorted(set(found) - set(config.arrays))
    if extra:
        raise FormatError(
            f"'{path}' has an array {extra[0]!r} that config.json does not list; fetch or save "
            "the model again."
        )
    return {
        name: np.frombuffer(entry["data"], dtype=config.arrays[name].dtype)
        .reshape(entry["shape"])
        .copy()
        for name, entry in found.items()
    }


def _set_backbones(model, backbones):
    first = model.steps[0][1] if hasattr(model, "steps") else model
    encoders = dict(getattr(first, "experts_", [])) or (
        {model.steps[0][0] if hasattr(model, "steps") else first.__class__.__name__: first}
        if hasattr(first, "backbone")
        else {}
    )
    unknown = sorted(set(backbones) - set(encoders))
    if unknown:
        raise InputError(
            f"The 'backbones' parameter of load names {unknown[0]!r}; the model's experts are "
            f"{list(encoders)}."
        )
    for name, backbone in backbones.items():
        encoders[name].set_params(backbone=backbone)


def _replace_folder(folder, contents):
    """Write files into a new folder beside, then put it in the place of `folder`."""
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    old = new.with_name(new.name + "-old")
    try:
        for name, content in contents.items():
            (new / name).write_bytes(content)
            (new / name).chmod(0o644)
        new.chmod(0o755)
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _versions():
    import skmoecbm  # by then whole; at the top of this file it would import itself

    packages = ("scikit-learn", "numpy", "torch", "open_clip_torch", "safetensors")
    return {
        "skmoecbm": skmoecbm.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _notices(node):
    """Return the distinct notices of the backbones in a node."""
    if node.kind == "Pipeline":
        found = [notice for step in node.steps for notice in _notices(step.node)]
    elif node.kind == "ExpertUnion":
        found = [notice for expert in node.experts for notice in _notices(expert.encoder)]
    else:
        found = [node.notice] if node.kind == "ConceptEncoder" and node.notice else []
    return tuple(dict.fromkeys(found))


def _card(config):
    """Return the text of a first `README.md`: what the model is, and what it is not."""
    parts = [config.model]
    if config.model.kind == "Pipeline":
        parts = [step.node for step in config.model.steps]
    lines = [
        "---",
        "library_name: skmoecbm",
        "tags: [skmoecbm, concept-bottleneck, interpretability]",
        "---",
        "",
        "# A concept bottleneck model",
        "",
        "**Not a medical device.** For research: not for diagnosis or treatment.",
    ]
    lines += [f"\n**Notice:** {_inline(notice)}" for notice in config.notices]
    for part in parts:
        encoders = [part] if part.kind == "ConceptEncoder" else []
        if part.kind == "ExpertUnion":
            encoders = [expert.encoder for expert in part.experts]
        lines += [
            f"\nBackbone `{_inline(encoder.parameters['backbone'])}`, "
            f"{len(encoder.bank['concepts'])} concepts"
            for encoder in encoders
        ]
        if hasattr(part, "classes"):
            names = ", ".join(f"`{_inline(str(label))}`" for label in part.classes.values)
            lines.append(f"\nClasses: {names}")
        if hasattr(part, "heads"):
            names = ", ".join(
                f"`{_inline(head.expert_name)}` ({len(head.concept_names)} concepts)"
                for head in part.heads
            )
            lines.append(f"\nExperts: {names}; mixed by: `{_inline(part.selected)}`")
        if getattr(part, "edits", ()):
            lines.append("\nEdited after training:\n")
            lines += [f"- {_edit_in_words(edit)}" for edit in part.edits]
    lines += [
        "",
        "```python",
        "import skmoecbm",
        "",
        'model = skmoecbm.load("path/to/this/folder")',
        "```",
        "",
        f"Saved with skmoecbm {config.library_versions['skmoecbm']}, format version "
        f"{config.format_version}.",
    ]
    return "\n".join(lines) + "\n"


def _edit_in_words(edit):
    """Return one line of a model's log of edits, for its card."""
    concept = f"`{_inline(edit.concept)}` of `{_inline(edit.expert)}`"
    how = "the expert fitted again" if edit.refit else "nothing fitted again"
    if edit.action == "forbid":
        return f"{concept}: forbidden (its largest weight was {edit.before:.3g}), {how}"
    wanted = "positive" if edit.sign == "+" else "negative"
    return (
        f"{concept}: may only be {wanted} for `{_inline(str(edit.label))}` "
        f"(weight {edit.before:.3g}, now {edit.after:.3g}), {how}"
    )


def _inline(text):
    """Return text that stays on its line and inside its back-ticks, and is no HTML."""
    return " ".join(text.replace("`", "'").replace("<", "‹").replace(">", "›").split())
