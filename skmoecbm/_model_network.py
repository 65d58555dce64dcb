"""From files to a network with its trained weights and its tokenizer, and never without."""

import hashlib
import importlib.util
import inspect
import json
import shutil
import tempfile
import warnings
from copy import deepcopy
from pathlib import Path

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer

from skmoecbm._model_source import read_json, tokenizer_files
from skmoecbm.exceptions import BackboneError, SkmoecbmWarning

__all__ = ["build_network", "file_sha256", "tokenizer_sha256"]


def build_network(source):
    """Return the network and tokenizer of a `ModelSource`, weights loaded, in eval mode.

    The classes are built directly, since `open_clip.create_model` may hand out random
    weights with only a warning and ask the Hub for the text tower's config.

    Returns
    -------
    network : torch.nn.Module
        float32, on the CPU, with `encode_image` and `encode_text`.
    tokenizer : callable
        list of str -> int64 tensor of shape (n, context_length).
    text_config : dict
        The transformers config of the text tower, {} for open_clip's own tower.

    Raises
    ------
    BackboneError
        If the weights do not fit the architecture, or something is missing.
    """
    model_cfg = deepcopy(source.model_cfg)
    text_cfg = model_cfg.get("text_cfg", {})
    vision_cfg = model_cfg.get("vision_cfg", {})
    timm_name = vision_cfg.get("timm_model_name")
    if timm_name:
        if ":" in timm_name:
            raise BackboneError(
                f"timm_model_name {timm_name!r} of {source.name!r} points outside the folder. "
                "Write the bare name of a timm architecture."
            )
        vision_cfg["timm_model_pretrained"] = False
    needs_transformers = text_cfg.get("hf_model_name") or source.tokenizer
    if needs_transformers and importlib.util.find_spec("transformers") is None:
        raise BackboneError(
            f"{source.name!r} has a Hugging Face text tower or tokenizer, which needs the "
            "package transformers. Run: pip install 'skmoecbm[biomed]'"
        )
    text_config = {}
    with tempfile.TemporaryDirectory(prefix="skmoecbm-") as folder:
        if text_cfg.get("hf_model_name"):
            text_config = read_text_config(source)
            text_cfg["hf_model_name"] = folder
            text_cfg["hf_model_pretrained"] = False
            (Path(folder) / "config.json").write_text(json.dumps(text_config), encoding="utf-8")
        tokenizer = build_tokenizer(source, Path(folder))
        custom = model_cfg.pop("custom_text", False) or bool(text_config)
        if "multimodal_cfg" in model_cfg:
            model_class = open_clip.CoCa
        else:
            model_class = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        try:
            # Initial weights are thrown away; the user's stream of random numbers is not.
            with torch.random.fork_rng(devices=[]):
                network = model_class(**model_cfg)
        except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
            raise BackboneError(
                f"The architecture of {source.name!r} cannot be built by "
                f"open_clip {open_clip.__version__}: {error}"
            ) from error
    load_weights(network, source)
    return network.eval().requires_grad_(False), tokenizer, text_config


def load_weights(network, source):
    """Load every weight of the network from the file, or raise."""
    try:
        open_clip.load_checkpoint(network, str(source.weights), strict=True, weights_only=True)
    except Exception as error:
        hint = ""
        if "weights_only" in str(error).lower() or "weights only" in str(error).lower():
            hint = (
                " The file is a pickle that asks to run code, which is refused: "
                "convert it to safetensors where it is trusted."
            )
        raise BackboneError(
            f"The weights in {source.weights.name!r} cannot be loaded into {source.name!r}: "
            f"{str(error)[:500]}.{hint}"
        ) from error


def build_tokenizer(source, folder):
    """Return the tokenizer; `folder` collects the files of a Hugging Face one."""
    text_cfg = source.model_cfg.get("text_cfg", {})
    context_length = text_cfg.get("context_length", 77)
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    if source.tokenizer is None:
        if source.bpe is not None:
            options["bpe_path"] = str(source.bpe)
        options.pop("reduction_mask", None)  # drops words at random: for training only
        check_options(source, options, open_clip.SimpleTokenizer)
        tokenizer = open_clip.SimpleTokenizer(context_length=context_length, **options)
        expected = text_cfg.get("vocab_size", 49408)
        if tokenizer.vocab_size > expected or (source.bpe and tokenizer.vocab_size != expected):
            raise BackboneError(
                f"The tokenizer of {source.name!r} has {tokenizer.vocab_size} tokens, its text "
                f"tower {expected}. Put the BPE file the model was trained with into the "
                "folder as 'bpe.txt.gz'."
            )
        return tokenizer
    check_options(source, options, HFTokenizer)
    for path in tokenizer_files(source.tokenizer):
        shutil.copyfile(path, folder / path.name)
    if source.text_config is not None and not (folder / "config.json").exists():
        (folder / "config.json").write_bytes(source.text_config.read_bytes())
    try:
        return HFTokenizer(
            str(folder),
            context_length=context_length,
            tokenizer_mode=text_cfg.get("tokenizer_mode"),
            **options,
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise BackboneError(
            f"The tokenizer of {source.name!r} cannot be read from {str(source.tokenizer)!r}: "
            f"{str(error)[:300]}. Put tokenizer.json and tokenizer_config.json beside the weights."
        ) from error


def check_options(source, options, tokenizer_class):
    """Refuse tokenizer options of a config file that the class does not name (remote code)."""
    known = inspect.signature(tokenizer_class.__init__).parameters
    strange = sorted(set(options) - set(known))
    if strange:
        raise BackboneError(
            f"The config of {source.name!r} passes {', '.join(strange)} to the tokenizer, "
            f"which is refused. Remove it from 'tokenizer_kwargs' in open_clip_config.json."
        )


def read_text_config(source):
    """Return the transformers config of the text tower, from a file or from the shapes."""
    if source.text_config is None:
        return bert_config_from_shapes(source)
    config = read_json(source.text_config)
    config.pop("auto_map", None)  # would name code to run
    return config


def bert_config_from_shapes(source):
    """Build a BERT config from the shapes of the weights; only the heads are assumed."""
    remedy = (
        f"Put the config.json of {source.model_cfg['text_cfg']['hf_model_name']!r} into the model "
        "folder as 'text_config.json'."
    )
    shapes = weight_shapes(source.weights)
    embeddings = "text.transformer.embeddings."
    try:
        vocabulary, width = shapes[embeddings + "word_embeddings.weight"]
        positions = shapes[embeddings + "position_embeddings.weight"][0]
        types = shapes[embeddings + "token_type_embeddings.weight"][0]
        inner = shapes["text.transformer.encoder.layer.0.intermediate.dense.weight"][0]
    except (KeyError, ValueError) as error:
        raise BackboneError(
            f"The text tower of {source.name!r} is not a BERT, and its config is not at hand. "
            f"{remedy}"
        ) from error
    # RoBERTa has BERT's names but one token type and positions counted from 2.
    if types != 2 or width % 64:
        raise BackboneError(
            f"The config of the text tower of {source.name!r} cannot be read from its weights "
            f"(width {width}, {types} token types). {remedy}"
        )
    prefix = "text.transformer.encoder.layer."
    layers = {key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)}
    warnings.warn(
        f"The text config of {source.name!r} is not at hand: built from the shapes of the "
        f"weights, with {width // 64} attention heads of 64. {remedy}",
        SkmoecbmWarning,
        stacklevel=2,
    )
    return {
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // 64,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
    }


def weight_shapes(path):
    """Return {name: shape} of a weights file without reading the numbers."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as handle:
            return {key: tuple(handle.get_slice(key).get_shape()) for key in handle.keys()}
    content = torch.load(path, map_location="meta", weights_only=True)
    content = content.get("state_dict", content)
    return {key.removeprefix("module."): tuple(value.shape) for key, value in content.items()}


def file_sha256(path):
    """Return the sha256 of a file in hex, the number that the Hub shows for it."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def tokenizer_sha256(source):
    """Return one sha256 over the tokenizer's files, None for CLIP's own."""
    if source.tokenizer is None:
        return file_sha256(source.bpe) if source.bpe else None
    digest = hashlib.sha256()
    for path in tokenizer_files(source.tokenizer):
        digest.update(f"{path.name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()
