"""Small language models of transformers with random but saved weights, written to disk."""

import json

import torch

WORDS = (
    "patchy consolidation in the left lower lobe no pleural effusion heart size is normal with "
    "ground glass opacity and fever cough since three days"
).split()
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _weights(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model.eval()


def _tokenizer(folder, *, begins_and_ends, max_length, **roles):
    """Write a tokenizer of whole words, which may add [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if begins_and_ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", model_max_length=max_length, **roles
    ).save_pretrained(folder)


def write_bert(folder, *, seed=0, **changes):
    """Write a BERT for masked words, [CLS] in front; return its base model."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=40, max_position_embeddings=20, **changes,
    )  # fmt: skip
    model = _weights(transformers.BertForMaskedLM(config), seed)
    model.save_pretrained(folder)
    _tokenizer(
        folder, begins_and_ends=True, max_length=20, pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    return model.bert


def write_gpt(folder, *, seed=0):
    """Write a GPT-2 for the next word, whose tokenizer adds nothing; return its base model."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=len(SPECIAL) + len(WORDS), n_embd=24, n_layer=2, n_head=2, n_positions=16,
        bos_token_id=3, eos_token_id=3,
    )  # fmt: skip
    model = _weights(transformers.GPT2LMHeadModel(config), seed)
    model.save_pretrained(folder)
    _tokenizer(folder, begins_and_ends=False, max_length=10**30, eos_token="[SEP]")
    return model.transformer


def write_t5(folder, *, seed=0):
    """Write a T5, whose encoder has no token that begins a text; return the encoder."""
    import transformers

    config = transformers.T5Config(
        vocab_size=len(SPECIAL) + len(WORDS), d_model=24, d_kv=12, d_ff=32, num_layers=2,
        num_heads=2,
    )  # fmt: skip
    model = _weights(transformers.T5ForConditionalGeneration(config), seed)
    model.save_pretrained(folder)
    _tokenizer(folder, begins_and_ends=False, max_length=12, pad_token="[PAD]")
    return model.encoder


def write_biogpt(folder, *, seed=0):
    """Write a BioGPT with its own kind of tokenizer, weights in a .bin; return its base model."""
    import transformers

    letters = sorted({letter for word in WORDS for letter in word})
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges = ["l o", "o w", "lo w", "low e", "lowe r</w>"]
    pieces += ["lo", "ow", "low", "lowe", "lower</w>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    (folder / "merges.txt").write_text("".join(f"{m} 1\n" for m in merges))
    config = transformers.BioGptConfig(
        vocab_size=len(pieces), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=40, max_position_embeddings=64,
    )  # fmt: skip
    model = _weights(transformers.BioGptForCausalLM(config), seed)
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    content = {"model_max_length": 64, "tokenizer_class": "BioGptTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return model.biogpt
