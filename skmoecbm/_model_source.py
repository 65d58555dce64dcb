"""Where an image-text model comes from: names, folders and the Hub become files on disk."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import open_clip

from skmoecbm._hub_access import access_of
from skmoecbm._hub_errors import forget_token, hub_reason
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import BackboneError

__all__ = [
    "DEMO_NAMES",
    "DEMO_NOTICE",
    "ModelSource",
    "local_folder",
    "locate",
    "read_json",
    "tokenizer_files",
]

DEMO_NOTICE = "synthetic demonstration encoders, trained on drawings, not for clinical use"
DEMO_NAMES = ("demo-general", "demo-structures")

CONFIG_NAME = "open_clip_config.json"
# open_clip's own order of preference; safetensors first.
SAFE_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
TORCH_NAMES = ("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth")
OTHER_NAMES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
TOKENIZER_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
VOCABULARY_NAMES = ("tokenizer.json", "vocab.txt", "vocab.json")
TEXT_CONFIG_NAMES = ("text_config.json", "config.json")
FOLDER_PATTERNS = (
    CONFIG_NAME,
    *TEXT_CONFIG_NAMES,
    *TOKENIZER_PATTERNS,
    "bpe.txt.gz",
    "lexicon.json",
)
WAY_ON = (
    "Check the name and the network; or download the files where there is a network "
    "(`hf download REPO --local-dir FOLDER`) and load 'local-dir:FOLDER'; "
    "with HF_HUB_OFFLINE=1 only what the Hugging Face cache already holds is found."
)


@dataclass(frozen=True, eq=False)
class ModelSource:
    """The files and settings of one model, all of them on this machine.

    Attributes
    ----------
    name : str
        The name as it was given, for messages.
    model : str
        The same without anything local in it.
    revision : str or None
        The commit that the Hub resolved, None where there is none.
    model_cfg, preprocess_cfg : dict
        Architecture and preprocessing in open_clip's terms.
    weights : Path
        The one file of weights.
    folder : Path or None
        The model's folder, where lexicon, notice and a cut BPE vocabulary may lie.
    tokenizer : Path or None
        The folder of a Hugging Face tokenizer; None for CLIP's own.
    text_config : Path or None
        A transformers `config.json` for the text tower.
    """

    name: str
    model: str
    revision: str | None
    model_cfg: dict
    preprocess_cfg: dict
    weights: Path
    folder: Path | None = None
    tokenizer: Path | None = None
    text_config: Path | None = None

    @property
    def bpe(self):
        """Path of the folder's own BPE merges, or None."""
        path = self.folder / "bpe.txt.gz" if self.folder else None
        return path if path and path.is_file() else None


def locate(name, revision=None):
    """Return the `ModelSource` that `name` stands for, downloading what is missing.

    Parameters
    ----------
    name : str
        "model/pretrained", "hf-hub:org/repo", "local-dir:path" or a demo name.
    revision : str or None
        Commit, tag or branch of a Hub repository.

    Raises
    ------
    InputError
        If `revision` is given where there is no Hub repository.
    BackboneError
        If the name is unknown, or a file is missing or cannot be downloaded.
    """
    if name in DEMO_NAMES or name.startswith("local-dir:"):
        if revision is not None:
            raise parameter_error(
                "load_backbone", "revision", f"None for {name!r}, which is not on the Hub", revision
            )
        return from_folder(local_folder(name), name)
    if name.startswith("hf-hub:"):
        repo, access = name.removeprefix("hf-hub:"), access_of(name)
        folder = snapshot(repo, revision, [*FOLDER_PATTERNS, *SAFE_NAMES], access)
        if not any((folder / candidate).is_file() for candidate in SAFE_NAMES):
            folder = snapshot(repo, folder.name, [*FOLDER_PATTERNS, *TORCH_NAMES], access)
        return from_folder(folder, name, revision=folder.name, access=access)
    return from_tag(name, revision)


def local_folder(name):
    """Return the folder of a demo or "local-dir:" name."""
    if name in DEMO_NAMES:
        return Path(__file__).parent / "_demo" / name.removeprefix("demo-")
    path = name.removeprefix("local-dir:")
    if not path:
        raise BackboneError("'local-dir:' names no folder. Write 'local-dir:PATH'.")
    return Path(path).expanduser().resolve()


def from_folder(folder, name, revision=None, access=None):
    """Read a folder in open_clip's local-dir layout; only with an `access` may it ask the Hub."""
    if not folder.is_dir():
        raise BackboneError(
            f"The model folder {str(folder)!r} does not exist. "
            "Give the path of a folder that holds open_clip_config.json and the weights."
        )
    config = read_json(folder / CONFIG_NAME)
    if "model_cfg" not in config:
        raise BackboneError(
            f"{str(folder / CONFIG_NAME)!r} has no 'model_cfg'. Expected open_clip's layout: "
            "{'model_cfg': {...}, 'preprocess_cfg': {...}}."
        )
    text_cfg = config["model_cfg"].get("text_cfg", {})
    text_config = find_text_config(folder)
    if access is not None and text_config is None and text_cfg.get("hf_model_name"):
        text_config = fetch_text_config(text_cfg["hf_model_name"], access)
    return ModelSource(
        name=name,
        model="local-dir" if name.startswith("local-dir:") else name,
        revision=revision,
        model_cfg=config["model_cfg"],
        preprocess_cfg=config.get("preprocess_cfg", {}),
        weights=find_weights(folder),
        folder=folder,
        tokenizer=folder if text_cfg.get("hf_tokenizer_name") else None,
        text_config=text_config,
    )


def from_tag(name, revision=None):
    """Resolve open_clip's "model/pretrained" through its registry."""
    architecture, _, tag = name.rpartition("/")
    architecture = architecture.replace("/", "-")
    model_cfg = open_clip.get_model_config(architecture) if architecture else None
    tag_cfg = open_clip.get_pretrained_cfg(architecture, tag)
    if not tag_cfg or model_cfg is None:
        raise unknown_name(name)
    # The registry only warns where a tag was trained with another activation than the
    # architecture of that name says ("ViT-B-16/openai" was): the tag decides.
    model_cfg["quick_gelu"] = bool(tag_cfg.get("quick_gelu", False))
    repository, _, filename = tag_cfg.get("hf_hub", "").rpartition("/")
    access = access_of(name)
    if repository:
        weights, revision = fetch_weights(repository, filename, revision, access)
    elif revision is not None:
        raise parameter_error(
            "load_backbone",
            "revision",
            f"None for {name!r}, whose weights come from {tag_cfg.get('url')} and not the Hub",
            revision,
        )
    else:
        weights = fetch_url_weights(name, tag_cfg, access)
    text_cfg = model_cfg["text_cfg"]
    text_config = tokenizer = None
    if text_cfg.get("hf_model_name"):
        text_config = fetch_text_config(text_cfg["hf_model_name"], access)
    if text_cfg.get("hf_tokenizer_name"):
        tokenizer = snapshot(
            text_cfg["hf_tokenizer_name"], None, [*TOKENIZER_PATTERNS, "config.json"], access
        )
    return ModelSource(
        name=name,
        model=name,
        revision=revision,
        model_cfg=model_cfg,
        preprocess_cfg={key: value for key, value in tag_cfg.items() if value is not None},
        weights=weights,
        tokenizer=tokenizer,
        text_config=text_config,
    )


def unknown_name(name):
    """Return the error for a name that stands for nothing, with its nearest neighbours."""
    known = ["/".join(pair) for pair in open_clip.list_pretrained()] + list(DEMO_NAMES)
    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    near = [f"{name}/{tag}" for tag in tags] or difflib.get_close_matches(name, known, 5, 0.5)
    if tags:
        problem = f"The backbone {name!r} names an architecture without weights"
    else:
        problem = f"The backbone {name!r} is unknown"
    hint = f" Near it: {', '.join(map(repr, near))}." if near else ""
    return BackboneError(
        f"{problem}.{hint} Names are 'model/pretrained' as in open_clip.list_pretrained(), "
        "'hf-hub:org/repo', 'local-dir:path', 'demo-general' and 'demo-structures'."
    )


def snapshot(repository, revision, patterns, access):
    """Return the folder of a Hub repository's files at `revision`; its name is the commit."""
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=list(patterns), **access.options
            )
        )
    except Exception as error:
        forget_token(error)
        at = f" at revision {revision!r}" if revision else ""
        reason = hub_reason(error, local_files_only=access.local_files_only)
        raise BackboneError(
            f"Could not get {repository!r}{at} from the Hugging Face Hub: {reason}. {WAY_ON}"
        ) from error


def fetch_url_weights(name, tag_cfg, access):
    """Return the weights of a registry entry that no Hub repository has, but a URL."""
    if access.local_files_only:
        folder = Path(access.cache_dir or "~/.cache/clip").expanduser()  # open_clip's own
        path = folder / Path(tag_cfg.get("url", "")).name
        if path.is_file():
            return path
        raise BackboneError(
            f"The weights of {name!r} are not in {str(folder)!r}, and local_files_only=True asks "
            "nobody for them. Load the backbone once without it, where there is a network."
        )
    try:
        return Path(open_clip.download_pretrained(tag_cfg, cache_dir=access.cache_dir))
    except Exception as error:
        raise BackboneError(
            f"Could not download the weights of {name!r}: {hub_reason(error)}. {WAY_ON}"
        ) from error


def fetch_weights(repository, filename, revision, access):
    """Return (weights file, commit) of a registry entry; no `filename` means the default."""
    names = [filename] if filename else [*SAFE_NAMES, *TORCH_NAMES]
    stem = filename.rpartition(".")[0]
    if filename.endswith((".bin", ".pth")):
        names.insert(0, f"{stem}.safetensors")
    # One name at a time: a repository often holds the same weights in two formats.
    for candidate in names:
        folder = snapshot(repository, revision, [candidate], access)
        revision = folder.name
        if (folder / candidate).is_file():
            return folder / candidate, revision
    raise BackboneError(
        f"The Hub repository {repository!r} holds none of {', '.join(names)} at {revision!r}, "
        f"or they are not in the local cache. {WAY_ON}"
    )


def fetch_text_config(repository, access):
    """Return the Hub's `config.json` of a transformers model, or None where it cannot be had."""
    try:
        return Path(huggingface_hub.hf_hub_download(repository, "config.json", **access.options))
    except (OSError, ValueError):
        return None  # build_text_config reads the shapes instead, and warns


def find_text_config(folder):
    """Return the folder's transformers config for the text tower, or None."""
    for name in TEXT_CONFIG_NAMES:
        path = folder / name
        # timm writes a config.json too; only transformers' says its model_type.
        if path.is_file() and "model_type" in read_json(path):
            return path
    return None


def find_weights(folder):
    """Return the one weights file of a folder.

    Raises
    ------
    BackboneError
        If there is none, or several and none has a name that open_clip prefers.
    """
    for name in (*SAFE_NAMES, *TORCH_NAMES, *OTHER_NAMES):
        if (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pth"))
    if len(found) == 1:
        return found[0]
    listed = f"several weights ({', '.join(p.name for p in found)})" if found else "no weights"
    raise BackboneError(
        f"The model folder {str(folder)!r} holds {listed}. "
        f"Put the trained weights there as '{SAFE_NAMES[0]}'; "
        "without weights open_clip would go on with random numbers."
    )


def read_json(path):
    """Return the JSON object in a file of a model folder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BackboneError(
            f"The model folder {str(path.parent)!r} holds no {path.name}. "
            "A folder in open_clip's layout has open_clip_config.json beside the weights."
        ) from error
    except ValueError as error:
        raise BackboneError(f"{str(path)!r} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise BackboneError(f"{str(path)!r} must hold a JSON object. Got {type(content).__name__}.")
    return content


def tokenizer_files(folder):
    """Return the tokenizer's files in a folder, sorted by name, and no code.

    Raises
    ------
    BackboneError
        If no vocabulary is among them: transformers would go on with an empty one, to which
        every word is unknown.
    """
    paths = {path for pattern in TOKENIZER_PATTERNS for path in folder.glob(pattern)}
    paths = sorted(path for path in paths if path.is_file() and path.suffix != ".py")
    if not any(p.name in VOCABULARY_NAMES or p.suffix == ".model" for p in paths):
        raise BackboneError(
            f"{str(folder)!r} holds no vocabulary for its Hugging Face tokenizer. "
            "Put tokenizer.json (or vocab.txt) and tokenizer_config.json there."
        )
    return paths
