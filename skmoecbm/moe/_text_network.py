"""Language models of transformers, with their trained weights and never without."""

import contextlib
import hashlib
import json
import shutil
import tempfile
import threading
from pathlib import Path

import torch

from skmoecbm._model_cache import json_sha256
from skmoecbm._model_network import file_sha256
from skmoecbm._model_source import tokenizer_files
from skmoecbm._precision import SMALL_NETWORK
from skmoecbm.exceptions import BackboneError
from skmoecbm.moe._text_source import locate_text

__all__ = ["TextNetwork"]

_loading = threading.Lock()
# models of which an encoder counts positions from behind the padding
_OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "roberta-prelayernorm",
)

_MOST = 2**20  # what is beyond says that there is no limit
_UNSTATED = 512  # tokens of a text under a model that states none


class TextNetwork:
    """A language model with its tokenizer; see `NetworkCache`."""

    def __init__(self, name, revision, device):
        try:
            import transformers
        except ImportError as error:
            raise BackboneError(
                f"{name!r} is a language model of the package transformers, which is not "
                "installed. Run: pip install 'skmoecbm[biomed]'"
            ) from error
        self.source = locate_text(name, revision)
        self.device = device
        self.tokenizer = _tokenizer(transformers, self.source)
        self.tokenizer_lock = threading.Lock()
        with _loading, _quiet(transformers):
            self.module = _model(transformers, self.source).to(device)
        self.n_parameters = sum(weight.numel() for weight in self.module.parameters())
        self.is_small = self.n_parameters < SMALL_NETWORK
        self.n_tokens, self.width, self.is_causal = self._probe()
        self.max_length = self._max_length()
        self.content = {
            "model": self.source.model,
            "revision": self.source.revision,
            "weights_sha256": _files_sha256(self.source.weights),
            "architecture_sha256": json_sha256(self.source.config),
            "tokenizer_sha256": _files_sha256(tokenizer_files(self.source.folder)),
        }
        self.notice = None
        self.variants = {}
        self.lock = threading.Lock()

    def states(self, ids):
        """Return the last hidden states (n, T, d) of token ids (n, T), all of them real."""
        ids = ids.to(self.device)
        return self.module(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state

    def _probe(self):
        """Return tokens known, width of one, and whether it sees only those before it."""
        special = set(self.tokenizer.all_special_ids)
        try:
            n_tokens = self.module.get_input_embeddings().num_embeddings
            words = [i for i in range(n_tokens) if i not in special][:4]
            if len(words) < 4:
                raise ValueError(f"its vocabulary has {len(words)} words")
            ids = torch.tensor([words[:3], [*words[:2], words[3]]])
            with torch.inference_mode():
                states = self.states(ids).float()
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise BackboneError(
                f"{self.source.name!r} (model_type {self.source.config['model_type']!r}) does not "
                f"read texts as a language model does: {str(error)[:300]}. Take the encoder or "
                "decoder of a text model, such as 'microsoft/biogpt'."
            ) from error
        first, other = states[:, 0]
        change = (first - other).abs().max().item()
        return n_tokens, states.shape[2], change <= 1e-6 * max(states.abs().max().item(), 1e-30)

    def _max_length(self):
        """Return the most tokens that a text may have."""
        config = self.source.config
        limits = [self.tokenizer.model_max_length]
        for key in ("max_position_embeddings", "n_positions"):
            if isinstance(config.get(key), int):
                taken = config.get("pad_token_id") or 0
                offset = taken + 1 if config["model_type"] in _OFFSET_POSITIONS else 0
                limits.append(config[key] - offset)
        most = min(limits)
        return int(most) if most <= _MOST else _UNSTATED


def _tokenizer(transformers, source):
    with tempfile.TemporaryDirectory(prefix="skmoecbm-") as folder:
        # a copy without code; the config tells which class it is
        for path in tokenizer_files(source.folder):
            shutil.copyfile(path, Path(folder) / path.name)
        (Path(folder) / "config.json").write_text(json.dumps(source.config), encoding="utf-8")
        try:
            return transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except ImportError as error:
            raise BackboneError(
                f"The tokenizer of {source.name!r} needs a package that is not installed: "
                f"{' '.join(str(error).split())[:200]}. Run: pip install 'skmoecbm[biomed]'"
            ) from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BackboneError(
                f"The tokenizer of {source.name!r} cannot be read: {str(error)[:300]}. Put "
                "tokenizer.json and tokenizer_config.json beside the weights."
            ) from error


def _model(transformers, source):
    """Return the network, float32, every weight of it that is read from the files."""
    kind = source.config["model_type"]
    try:
        # not in the format of training: float32 weights would be rounded to it
        given = {k: v for k, v in source.config.items() if k not in ("dtype", "torch_dtype")}
        config = transformers.AutoConfig.for_model(**given)
        model_class = transformers.MODEL_MAPPING.get(type(config), None)
        if isinstance(model_class, tuple | list):
            model_class = model_class[0]
        if model_class is None:
            raise ValueError(f"there is no base model of type {kind!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise BackboneError(
            f"The model of {source.name!r} (model_type {kind!r}) is none that transformers "
            f"{transformers.__version__} has itself: {str(error)[:200]}. Code that comes with a "
            "model is not run; take another model, or a newer transformers."
        ) from error
    try:
        state = _state(source)
        # Initial weights are thrown away; the user's stream of random numbers is not.
        with torch.random.fork_rng(devices=[]):
            model, info = model_class.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True
            )
    except Exception as error:
        raise BackboneError(
            f"The weights of {source.name!r} cannot be loaded: {str(error)[:300]}. They do not fit "
            "its config.json, or are damaged; get the files again."
        ) from error
    # a pooler stands behind the hidden states, which are all that is used
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise BackboneError(
            f"The files of {source.name!r} lack {len(missing)} of the weights of a {kind!r} model, "
            f"the first of them {missing[0]!r}: without them there would be random numbers. Get "
            "the files again, or take a model that was trained."
        )
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    return model.eval().requires_grad_(False)


def _state(source):
    """Return all weights by name; no file may run code."""
    from safetensors.torch import load_file

    state = {}
    for path in source.weights:
        if path.suffix == ".safetensors":
            state.update(load_file(path))
        else:
            state.update(torch.load(path, map_location="cpu", weights_only=True))
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


@contextlib.contextmanager
def _quiet(transformers):
    """Let a model be loaded without a bar and a table of its weights: what matters is an error."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _files_sha256(paths):
    if len(paths) == 1:
        return file_sha256(paths[0])
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()
