"""Train the two demonstration experts from scratch and write them as package data.

    python tools/train_demo_experts.py --out skmoecbm/_demo

Each expert is an open_clip model of about a million weights, trained on drawings of
`skmoecbm.datasets.make_lesions`. First an image tower learns to name all attributes; then, from
that start, each expert learns its own concepts with a sigmoid loss over many true texts per image:
for each concept one phrase and one "no ..." phrase, and conjunctions of both. The course of
training is written to `training_log.json` beside the weights. Only drawings are used; no
photograph is read.
"""

import argparse
import gzip
import hashlib
import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from skmoecbm.datasets import _lesion_text as text
from skmoecbm.datasets import make_lesions
from skmoecbm.datasets._lesion_attributes import ATTRIBUTES, GENERAL, STRUCTURES

NOTICE = "synthetic demonstration encoders, trained on drawings, not for clinical use"
EXPERTS = {"general": GENERAL, "structures": STRUCTURES}
IMAGE_SIZE = 64
N_MERGES = 1274
TOKEN_STD = 0.3
TEMPLATES = ("{}", "a lesion with {}", "{} in dermoscopy", "skin lesion showing {}", "there is {}")
EXTRA_WORDS = (
    "a photo of the an and with without no in there is are dermoscopy dermatoscopy dermoscopic "
    "skin lesion image showing pattern melanoma nevus melanocytic mole basal cell carcinoma benign "
    "keratosis actinic vascular dermatofibroma seborrheic intraepithelial "
    "akiec bcc bkl df mel nv vasc"
)


def model_config():
    """Return the open_clip configuration of an expert."""
    return {
        "model_cfg": {
            "embed_dim": 64,
            "init_logit_scale": math.log(10),
            "init_logit_bias": 0.0,
            "vision_cfg": {
                "image_size": IMAGE_SIZE,
                "layers": [1, 1, 1, 1],
                "width": 12,
                "patch_size": None,
            },
            "text_cfg": {
                "context_length": 24,
                "vocab_size": 512 + N_MERGES + 2,
                "width": 64,
                "heads": 4,
                "layers": 2,
            },
        },
        "preprocess_cfg": {
            "mean": [0.68, 0.50, 0.46],
            "std": [0.24, 0.22, 0.22],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def write_vocabulary(path):
    """Cut CLIP's merges to the first 1,000 and those that the lexicon's words need."""
    lines = gzip.open(default_bpe()).read().decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    rank = {merge: index for index, merge in enumerate(merges)}
    words = set(EXTRA_WORDS.split())
    for name in ATTRIBUTES:
        for phrase in text.known_phrases(name):
            words |= set(phrase.replace("-", " ").split())
    kept = set(range(1000))
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(range(len(pairs)), key=lambda i: rank.get(pairs[i], math.inf))
            if pairs[best] not in rank:
                break
            kept.add(rank[pairs[best]])
            parts[best : best + 2] = ["".join(pairs[best])]
    for index in range(1000, len(merges)):
        if len(kept) >= N_MERGES:
            break
        kept.add(index)
    if len(kept) != N_MERGES:
        raise RuntimeError(f"the lexicon needs {len(kept)} merges, more than {N_MERGES}")
    body = "\n".join(["#version: 0.2", *(" ".join(merges[index]) for index in sorted(kept))])
    # mtime=0 and no name: the same bytes on every run.
    path.write_bytes(gzip.compress(body.encode("utf-8"), 9, mtime=0))


def tokenizer_of(folder):
    """Return the tokenizer of an expert's folder."""
    return SimpleTokenizer(str(folder / "bpe.txt.gz"), context_length=24)


def build_model(seed):
    """Return an untrained expert in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.model.CLIP(**model_config()["model_cfg"])
        # CLIP's start (0.02) gives all phrases nearly one embedding, and a tower this small needs
        # a thousand steps to part them.
        torch.nn.init.normal_(model.token_embedding.weight, std=TOKEN_STD)
        torch.nn.init.normal_(model.positional_embedding, std=0.3 * TOKEN_STD)
    return model.to(memory_format=torch.channels_last)


def to_pixels(images):
    """Return uint8 (n, s, s, 3) as the model's input (n, 3, s, s)."""
    cfg = model_config()["preprocess_cfg"]
    x = torch.as_tensor(images).permute(0, 3, 1, 2).float().div_(255)  # channels last in memory
    return (x - torch.tensor(cfg["mean"])[:, None, None]) / torch.tensor(cfg["std"])[:, None, None]


def embed_images(model, images, batch_size=250):
    """Return unit embeddings of uint8 images, float32 (n, 64)."""
    model.eval()
    with torch.inference_mode():
        parts = [
            model.encode_image(to_pixels(images[i : i + batch_size]), normalize=True)
            for i in range(0, len(images), batch_size)
        ]
    return torch.cat(parts).numpy()


def embed_texts(model, tokenizer, phrases):
    """Return unit embeddings of phrases, float32 (n, 64)."""
    model.eval()
    with torch.inference_mode():
        return model.encode_text(tokenizer(list(phrases)), normalize=True).numpy()


def presence_auroc(model, tokenizer, concepts, images, present):
    """Return zero-shot AUROCs of presence, one array per way to score.

    "name" is the cosine to the concept's name, "contrast" that less the cosine to its "no ..."
    phrase, "held out" the mean over phrases never trained of the AUROC of the cosine.
    """
    x = embed_images(model, images)
    out = {"name": [], "contrast": [], "held_out": []}
    for column, name in enumerate(concepts):
        truth = present[:, column]
        pair = embed_texts(model, tokenizer, [name, text.negate(name)])
        unseen = embed_texts(model, tokenizer, text.held_out_phrases(name))
        out["name"].append(roc_auc_score(truth, x @ pair[0]))
        out["contrast"].append(roc_auc_score(truth, x @ (pair[0] - pair[1])))
        out["held_out"].append(np.mean([roc_auc_score(truth, x @ row) for row in unseen]))
    return {key: np.array(value) for key, value in out.items()}


class TextSampler:
    """Draws the texts of a training step with their truth for every image of the batch."""

    def __init__(self, concepts, tokenizer, n_conjunctions, rng):
        self.concepts, self.tokenizer = concepts, tokenizer
        self.n_conjunctions, self.rng = n_conjunctions, rng
        self.phrases = [text.training_phrases(name) for name in concepts]
        self.cache = {}

    def _words(self, column, positive):
        options = self.phrases[column]
        # Its name half of the time: the phrase most used later.
        pick = 0 if self.rng.random_sample() < 0.4 else self.rng.randint(len(options))
        return options[pick] if positive else text.negate(options[pick])

    def _tokens(self, phrase):
        if phrase not in self.cache:
            self.cache[phrase] = self.tokenizer([phrase])[0]
        return self.cache[phrase]

    def draw(self, present):
        """Return tokens (t, 24), truth (batch, t) and the concept of each text (-1: several)."""
        rng, m = self.rng, len(self.concepts)
        texts, truth, owner = [], [], []
        for positive in (True, False):
            for column in range(m):
                template = TEMPLATES[rng.randint(len(TEMPLATES))] if rng.rand() < 0.5 else "{}"
                texts.append(template.format(self._words(column, positive)))
                truth.append(present[:, column] == positive)
                owner.append(column)
        for _ in range(self.n_conjunctions):
            image = rng.randint(len(present))
            columns = rng.permutation(m)[: rng.randint(2, 4)]
            words = [self._words(c, bool(present[image, c])) for c in columns]
            texts.append(", ".join(words[:-1]) + " and " + words[-1])
            truth.append((present[:, columns] == present[image, columns]).all(axis=1))
            owner.append(-1)
        tokens = torch.stack([self._tokens(phrase) for phrase in texts])
        return tokens, torch.as_tensor(np.stack(truth, axis=1)), torch.tensor(owner)


def augment(x, rng):
    """Turn and mirror a batch: the eight symmetries of a square, one per batch half."""
    half = len(x) // 2
    parts = []
    for part in (x[:half], x[half:]):
        part = torch.rot90(part, rng.randint(4), (2, 3))
        parts.append(part.flip(3) if rng.randint(2) else part)
    return torch.cat(parts)


def draw_training_images(n_images, photographic, seed):
    """Return uint8 images and bool attributes of a third each: by class, independent, sparse."""
    rng = np.random.RandomState(seed)
    n_photo = round(n_images * photographic)
    parts = [
        make_lesions(size, mode="mixed", photographic=photo, random_state=rng.randint(2**31 - 1))
        for size, photo in ((n_images - n_photo, False), (n_photo, True))
        if size
    ]
    images = torch.as_tensor(np.concatenate([part.images for part in parts]))
    return images, np.concatenate([part.attributes for part in parts])


def _optimizer(parameters, peak_lr, total_steps):
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=peak_lr)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak_lr, total_steps=total_steps, pct_start=0.15
    )


def train_tower(
    images, attributes, *, epochs=6, seed=0, batch_size=64, peak_lr=2e-3, n_check=1000, log=None
):
    """Teach an image tower to name all 25 attributes by a linear head, which is thrown away.

    A tower that knows what lies on top of a colour finds the colour sooner: taught on the concepts
    of one expert alone, with texts from the first step, it takes several times as long.

    Parameters
    ----------
    images : uint8 tensor of shape (n, 64, 64, 3)
    attributes : bool array of shape (n, 25)
    epochs, seed, batch_size : int
    peak_lr : float
        Peak of the one-cycle schedule of AdamW.
    n_check : int
        New drawings on which each epoch is scored.
    log : callable or None
        Called with one dict per epoch.

    Returns
    -------
    dict
        The state of the tower.
    list of dict
        What `log` was called with.
    """
    rng = np.random.RandomState(seed)
    check = make_lesions(n_check, mode="independent", random_state=rng.randint(2**31 - 1))
    tower = build_model(rng.randint(2**31 - 1)).visual
    head = torch.nn.Linear(64, attributes.shape[1])
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    steps = len(images) // batch_size
    optimizer, schedule = _optimizer(
        [*tower.parameters(), *head.parameters()], peak_lr, steps * epochs
    )
    truth = torch.as_tensor(attributes).float()
    history, started = [], time.perf_counter()
    for epoch in range(epochs):
        tower.train()
        order, total = rng.permutation(len(images)), 0.0
        for step in range(steps):
            rows = order[step * batch_size : (step + 1) * batch_size]
            logits = head(tower(augment(to_pixels(images[rows]), rng)))
            loss = F.binary_cross_entropy_with_logits(logits, truth[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        tower.eval()
        with torch.inference_mode():
            out = torch.cat(
                [head(tower(to_pixels(part))) for part in np.array_split(check.images, 4)]
            )
        score = [
            roc_auc_score(check.attributes[:, k], out[:, k].numpy()) for k in range(len(ATTRIBUTES))
        ]
        entry = {
            "tower_epoch": epoch + 1,
            "loss": round(total / steps, 4),
            "seconds": round(time.perf_counter() - started, 1),
            "auroc_general": round(float(np.mean(score[: len(GENERAL)])), 4),
            "auroc_structures": round(float(np.mean(score[len(GENERAL) :])), 4),
            "auroc_worst": round(float(min(score)), 4),
            "worst": ATTRIBUTES[int(np.argmin(score))],
        }
        history.append(entry)
        if log is not None:
            log(entry)
    return tower.state_dict(), history


def train_expert(
    expert,
    images,
    attributes,
    tokenizer,
    *,
    tower=None,
    epochs=3,
    seed=0,
    batch_size=64,
    peak_lr=1.5e-3,
    n_conjunctions=16,
    n_check=1000,
    log=None,
):
    """Train one expert on its own concepts and return ``(model, history)``.

    Parameters
    ----------
    expert : {"general", "structures"}
    images : uint8 tensor of shape (n, 64, 64, 3)
    attributes : bool array of shape (n, 25)
    tokenizer : SimpleTokenizer
    tower : dict or None
        State of an image tower to start from.
    epochs, seed, batch_size : int
    peak_lr : float
        Peak of the one-cycle schedule of AdamW.
    n_conjunctions : int
        Texts of several concepts per step.
    n_check : int
        New drawings on which each epoch is scored.
    log : callable or None
        Called with one dict per epoch.
    """
    concepts = EXPERTS[expert]
    columns = [ATTRIBUTES.index(name) for name in concepts]
    rng = np.random.RandomState(seed)
    present = attributes[:, columns]
    check = make_lesions(n_check, mode="independent", random_state=rng.randint(2**31 - 1))
    model = build_model(rng.randint(2**31 - 1))
    if tower is not None:
        model.visual.load_state_dict(tower)
    steps = len(images) // batch_size
    optimizer, schedule = _optimizer(model.parameters(), peak_lr, steps * epochs)
    sampler = TextSampler(concepts, tokenizer, n_conjunctions, rng)
    weight = np.ones(len(concepts))
    history, started = [], time.perf_counter()
    for epoch in range(epochs):
        model.train()
        order, total = rng.permutation(len(images)), 0.0
        for step in range(steps):
            rows = order[step * batch_size : (step + 1) * batch_size]
            tokens, truth, owner = sampler.draw(present[rows])
            image = model.encode_image(augment(to_pixels(images[rows]), rng), normalize=True)
            words = model.encode_text(tokens, normalize=True)
            logits = model.logit_scale.exp() * image @ words.T + model.logit_bias
            column_weight = torch.as_tensor(np.append(weight, 0.5), dtype=torch.float32)[owner]
            loss = F.binary_cross_entropy_with_logits(
                logits, truth.float(), weight=column_weight.expand_as(logits)
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        score = presence_auroc(
            model, tokenizer, concepts, check.images, check.attributes[:, columns]
        )
        # Concepts that lag weigh more in the next epoch; the extra weight fades to nothing.
        share = 1 - (epoch + 1) / max(epochs - 1, 1)
        weight = 1 + max(share, 0.0) * np.clip(0.97 - score["name"], 0, 0.4) * 8
        entry = {
            "epoch": epoch + 1,
            "loss": round(total / steps, 4),
            "seconds": round(time.perf_counter() - started, 1),
            **{f"auroc_{key}": round(float(value.mean()), 4) for key, value in score.items()},
            "auroc_worst": round(float(score["name"].min()), 4),
            "worst": concepts[int(score["name"].argmin())],
        }
        history.append(entry)
        if log is not None:
            log(entry)
    return model, history


def write_expert(folder, expert, model, tokenizer, history, settings, n_exam=4000):
    """Write weights, configuration, lexicon, log, card and checksums."""
    concepts = EXPERTS[expert]
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    weights = folder / "open_clip_model.safetensors"
    save_file(state, weights, metadata={"format": "pt", "notice": NOTICE})
    (folder / "open_clip_config.json").write_text(json.dumps(model_config(), indent=2) + "\n")
    lexicon = {
        "notice": NOTICE,
        "concepts": {
            name: {
                "phrases": list(text.known_phrases(name)),
                "negative": text.negate(name),
                "held_out": text.held_out_phrases(name),
            }
            for name in concepts
        },
        "phrases": [
            phrase
            for name in concepts
            for known in text.known_phrases(name)
            for phrase in (known, text.negate(known))
        ],
    }
    (folder / "lexicon.json").write_text(json.dumps(lexicon, indent=1) + "\n")

    exam = make_lesions(n_exam, mode="independent", random_state=10_000 + settings["seed"])
    columns = [ATTRIBUTES.index(name) for name in concepts]
    half = build_model(0)
    half.load_state_dict({key: value.float() for key, value in state.items()})
    score = presence_auroc(half, tokenizer, concepts, exam.images, exam.attributes[:, columns])
    result = {
        "notice": NOTICE,
        "expert": expert,
        "settings": settings,
        "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
        "history": history,
        "test": {
            "images": f"{n_exam:,} of mode='independent', not seen in training",
            "mean": {key: round(float(value.mean()), 4) for key, value in score.items()},
            "name": dict(zip(concepts, score["name"].round(4).tolist(), strict=True)),
            "held_out": dict(zip(concepts, score["held_out"].round(4).tolist(), strict=True)),
        },
    }
    (folder / "training_log.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "README.md").write_text(_card(expert, result))
    lines = []
    for path in sorted(folder.iterdir()):
        if path.name != "SHA256SUMS":
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))
    for path in folder.iterdir():
        path.chmod(0o644)
    return result


def _card(expert, result):
    test = result["test"]
    table = "\n".join(
        f"| {name} | {value:.3f} | {test['held_out'][name]:.3f} |"
        for name, value in test["name"].items()
    )
    mean = test["mean"]
    return f"""---
library_name: open_clip
license: bsd-3-clause
tags: [zero-shot-image-classification, clip, demonstration]
---
# synthderm-tiny-{expert}

**{NOTICE[0].upper() + NOTICE[1:]}.**

An open_clip model (ResNet image tower, 64 px; two-layer text tower; 64 dimensions) trained from
scratch on procedural drawings of skin lesions by `tools/train_demo_experts.py` of skmoecbm.
Its image tower first learned all 25 attributes of the drawings; then image and text towers learned
the {len(test["name"])} concepts below. It knows the phrases of `lexicon.json`; any other word is a
random direction. It exists so that examples and tests run with no download.

Zero-shot AUROC of presence (cosine to the phrase) on {test["images"].split(" ")[0]} new drawings
whose attributes are drawn independently of the class:

| concept | its name | phrases not trained |
|---|---|---|
{table}
| **mean** | **{mean["name"]:.3f}** | **{mean["held_out"]:.3f}** |

`training_log.json` holds settings, versions and the course of training; `SHA256SUMS` the
checksums.
"""


def main():
    """Train the tower, then both experts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("skmoecbm/_demo"))
    parser.add_argument("--images", type=int, default=24_000)
    parser.add_argument("--tower-epochs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--photographic", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    def log(entry):
        print(json.dumps(entry), flush=True)

    settings = {key: value for key, value in vars(args).items() if key != "out"}
    images, attributes = draw_training_images(args.images, args.photographic, args.seed)
    tower, first = train_tower(
        images, attributes, epochs=args.tower_epochs, seed=args.seed + 1, log=log
    )
    for index, expert in enumerate(EXPERTS):
        folder = args.out / expert
        folder.mkdir(parents=True, exist_ok=True)
        write_vocabulary(folder / "bpe.txt.gz")
        tokenizer = tokenizer_of(folder)
        model, second = train_expert(
            expert,
            images,
            attributes,
            tokenizer,
            tower=tower,
            epochs=args.epochs,
            seed=args.seed + 2 + index,
            log=log,
        )
        result = write_expert(folder, expert, model, tokenizer, [*first, *second], settings)
        log(result["test"])


if __name__ == "__main__":
    main()
