"""Small image-text models with random but saved weights, written to disk in open_clip's layout."""

import gzip
import json
from copy import deepcopy

import open_clip
import torch
from open_clip.tokenizer import default_bpe
from safetensors.torch import save_file

CLIP_CFG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8,
    },
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}  # fmt: skip
PREPROCESS = {
    "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear",
}  # fmt: skip
BERT_WORDS = "a skin lesion with hair border blue white veil red dots no".split()


def randomise(network, seed):
    """Give a network weights that no default initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.15)
    return network.eval()


def write_config(folder, model_cfg, preprocess=PREPROCESS):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))


def write_weights(folder, network, name="open_clip_model.safetensors"):
    state = {key: value.contiguous().clone() for key, value in network.state_dict().items()}
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)


def write_clip(folder, *, seed=0, name="open_clip_model.safetensors", **model_cfg):
    """Write a tiny CLIP; return the network whose weights lie in the folder."""
    model_cfg = {**deepcopy(CLIP_CFG), **model_cfg}
    write_config(folder, model_cfg)
    network = randomise(open_clip.CLIP(**deepcopy(model_cfg)), seed)
    write_weights(folder, network, name)
    return network


def write_cut_clip(folder, n_merges=100, *, seed=0):
    """Write a tiny CLIP whose vocabulary holds the first merges only; return the network."""
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as handle:
        lines = handle.read().split("\n")[: n_merges + 1]
    text_cfg = {**CLIP_CFG["text_cfg"], "vocab_size": 512 + n_merges + 2}
    network = write_clip(folder, seed=seed, text_cfg=text_cfg)
    with gzip.open(folder / "bpe.txt.gz", "wt", encoding="utf-8") as handle:
        handle.write("\n".join(lines))
    return network


def write_biomedclip(folder, *, text_config=True, bin_weights=True, heads=2, width=128):
    """Write a model shaped like BiomedCLIP: timm ViT, HF BERT, HF tokenizer, .bin weights.

    Like the original, its config names a text model on the Hub that the folder does not hold.
    `text_config` puts that model's config.json beside the weights as text_config.json.

    Returns
    -------
    network : CustomTextCLIP
        The network whose weights lie in the folder.
    """
    import transformers

    bert = {
        "model_type": "bert", "vocab_size": 5 + len(BERT_WORDS), "hidden_size": width,
        "num_hidden_layers": 2, "num_attention_heads": heads, "intermediate_size": 96,
        "max_position_embeddings": 40, "type_vocab_size": 2,
    }  # fmt: skip
    model_cfg = {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "test_vit", "timm_model_pretrained": False,
            "timm_pool": "", "timm_proj": "linear", "image_size": 160,
        },
        "text_cfg": {
            "hf_model_name": "someone/a-bert-on-the-hub",
            "hf_tokenizer_name": "someone/a-bert-on-the-hub",
            "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 20,
        },
    }  # fmt: skip
    write_config(folder, model_cfg)
    source = folder / "made-of"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(bert))
    local = deepcopy(model_cfg)
    local["text_cfg"].update(hf_model_name=str(source), hf_model_pretrained=False)
    network = randomise(open_clip.CustomTextCLIP(**local), 3)
    if text_config:
        (source / "config.json").rename(folder / "text_config.json")
    else:
        (source / "config.json").unlink()
    source.rmdir()
    name = "open_clip_pytorch_model.bin" if bin_weights else "open_clip_model.safetensors"
    write_weights(folder, network, name)

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *BERT_WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = transformers.BertTokenizerFast(
        vocab={word: row for row, word in enumerate(vocabulary)}
        if int(transformers.__version__.split(".")[0]) >= 5
        else None,
        **({} if int(transformers.__version__.split(".")[0]) >= 5
           else {"vocab_file": str(folder / "vocab.txt")}),
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return network
