"""Break the library on purpose, one line at a time, and see whether the tests notice.

    python tools/mutants.py --jobs 2              # all
    python tools/mutants.py entropy guard         # those whose name holds one of these words

Each mutant is a mistake that somebody made, or could: a flipped sign, a forgotten renormalisation,
logits of rows that an expert learned from. It lives in a copy of the checkout; the tests of the
mixture run there until the first failure. A mutant that survives is a test that is missing. The
log of the last full run is `mutants.log` beside this file.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# name, file, [(what is there, what is put in its place), ...], tests that should notice
MUTANTS = [
    (
        "entropy added instead of subtracted",
        "_pooling.py",
        [
            ("loss = loss - self.entropy *", "loss = loss + self.entropy *"),
            ("slope = slope - self.entropy *", "slope = slope + self.entropy *"),
        ],
        "gating gates",
    ),
    (
        "balance with the wrong sign",
        "_pooling.py",
        [
            ("loss = loss + self.balance *", "loss = loss - self.balance *"),
            ("by_weight = by_weight + self.balance *", "by_weight = by_weight - self.balance *"),
        ],
        "gating gates",
    ),
    (
        "entropy of the joint loss added",
        "_joint.py",
        [("- self.gate_entropy * terms", "+ self.gate_entropy * terms")],
        "joint",
    ),
    (
        "diversity of the joint loss as a penalty",
        "_joint.py",
        [("- self.diversity * terms", "+ self.diversity * terms")],
        "joint",
    ),
    (
        "diversity over the rows",
        "_joint_loss.py",
        [
            (
                "diversity=share @ mixed.var(dim=1, correction=0)",
                "diversity=share.sum() * mixed.var(dim=0, correction=0).mean()",
            )
        ],
        "joint",
    ),
    (
        "best weights not restored",
        "_joint_fit.py",
        [("tensor.copy_(value)", "value.copy_(tensor)")],
        "joint",
    ),
    (
        "no warm-up of the joint gate",
        "_joint_fit.py",
        [("len(model.experts) if epoch <= training.gate_warmup else None", "None")],
        "joint",
    ),
    (
        "groups cut by the early-stopping split",
        "_joint_fit.py",
        [("np.arange(len(rows)) if groups is None else groups[rows]", "np.arange(len(rows))")],
        "joint",
    ),
    (
        "weights of the present not renormalised",
        "_gating.py",
        [
            (
                "    weights = np.exp(masked - np.where(np.isfinite(top), top, 0.0))\n"
                "    total = weights.sum(1, keepdims=True)",
                "    weights = np.exp(masked - np.where(np.isfinite(top), top, 0.0))\n"
                "    total = np.exp(logits - np.where(np.isfinite(top), top, 0.0))"
                ".sum(1, keepdims=True)",
            )
        ],
        "mixture gating",
    ),
    (
        "absent experts listened to",
        "_gating.py",
        [("masked = np.where(present, logits, -np.inf)", "masked = logits.copy()")],
        "mixture gating",
    ),
    (
        "experts swapped at prediction",
        "_mixing.py",
        [
            (
                "weights = gate_weights(self.gate_state_, inputs, present)",
                "weights = gate_weights(self.gate_state_, inputs, present)[:, ::-1]",
            )
        ],
        "classifier mixture",
    ),
    (
        "missing similarities filled with zeros",
        "_single.py",
        [
            (
                "np.where(present, z @ self.association_.T + self.intercept_, 0.0)",
                "z @ self.association_.T + self.intercept_",
            ),
            (
                "present = expert.present[:, None]\n        z = ",
                "present = np.ones((len(expert.present), 1), dtype=bool)\n"
                "        expert.present[:] = True\n"
                "        expert.values = np.nan_to_num(expert.values)\n        z = ",
            ),
        ],
        "classifier mixture",
    ),
    (
        "logits of rows that the fold trained on",
        "_association.py",
        [("own = logits[fold.clamp_min(0)", "own = logits[(fold.clamp_min(0) + 1) % len(logits)")],
        "classifier mixture association",
    ),
    (
        "no guard",
        "_mixture.py",
        [("if mean > 2.0 * error:", "if True:")],
        "mixture",
    ),
    (
        "guard of one standard error",
        "_mixture.py",
        [("if mean > 2.0 * error:", "if mean > error:")],
        "mixture",
    ),
    (
        "guard blind to groups",
        "_mixture.py",
        [
            (
                "        if groups is None:\n            n = counts",
                "        if True:\n            n = counts",
            )
        ],
        "mixture",
    ),
    (
        "guard that counts class weights as rows",
        "_mixture.py",
        [
            (
                "counts = np.ones(len(weights)) if counts is None else counts",
                "counts = np.maximum(weights, 1e-12)",
            )
        ],
        "mixture",
    ),
    (
        "guard judged on training rows",
        "_mixture.py",
        [("test = held_out == f\n", "test = held_out == (f + 1) % len(folds)\n")],
        "mixture classifier",
    ),
    (
        "shares without the temperatures",
        "_mixing.py",
        [("voices = weights * self.expert_scale_", "voices = weights")],
        "classifier mixture explanation",
    ),
    (
        "temperatures forgotten at prediction",
        "_mixing.py",
        [("stacked = stacked * self.expert_scale_[:, None]", "stacked = stacked * 1.0")],
        "classifier mixture explanation",
    ),
    (
        "post-pool scale of all experts where one is present",
        "_mixture.py",
        [
            (
                "return pool_scale[np.maximum(present.sum(1), 1) - 1]",
                "return pool_scale[np.full(len(present), -1)]",
            )
        ],
        "classifier mixture",
    ),
    (
        "temperature without its prior",
        "_calibration.py",
        [("+ 2.0 * kappa * u / total", "")],
        "mixture gating classifier",
    ),
    (
        "prior not scaled",
        "_association.py",
        [
            (
                "return torch.where(spoken, strength / torch.where(spoken, deviation, 1.0), 0.0)",
                "return torch.where(spoken, strength, 0.0)",
            )
        ],
        "association priors",
    ),
    (
        "pull towards zero instead of the prior",
        "_association.py",
        [("away = association - self.prior\n", "away = association\n")],
        "association priors",
    ),
    (
        "penalty by rows instead of weights",
        "_association.py",
        [
            (
                "        self.totals = weights.sum(1)\n",
                "        self.totals = (weights > 0).sum(1).to(weights.dtype)\n",
            ),
            (
                "self.share = weights / self.totals[:, None]",
                "self.share = weights / weights.sum(1, keepdim=True)",
            ),
        ],
        "association sklearn_checks classifier",
    ),
    (
        "standardised on all rows, held-out ones included",
        "_similarities.py",
        [
            (
                "    share = weights / total\n    mean = similarities.transposed_times(share.T)",
                "    share = torch.ones_like(weights) / weights.shape[1]\n"
                "    mean = similarities.transposed_times(share.T)",
            )
        ],
        "association classifier mixture",
    ),
    (
        "class that a fold never saw sinks without a floor",
        "_association.py",
        [
            (
                "Anchor.needed(self, base_rate) if base_rate is not None else None",
                "None",
            )
        ],
        "association multilabel classifier",
    ),
    (
        "Laplace distance squared",
        "_gating.py",
        [
            (
                'arrays["scale"] * np.stack(distances, axis=1)',
                'arrays["scale"] * np.square(np.stack(distances, axis=1))',
            )
        ],
        "gates",
    ),
    (
        "top k: of equal experts the last",
        "_gating.py",
        [
            (
                'np.argsort(behind, axis=1, kind="stable")[:, :k]',
                'behind.shape[1] - 1 - np.argsort(behind[:, ::-1], axis=1, kind="stable")[:, :k]',
            )
        ],
        "gates",
    ),
    (
        "bias of the gate shrunk as its slopes",
        "_gating.py",
        [("strength[-1] *= bias_penalty\n", "strength[-1] *= 1.0\n")],
        "gating mixture",
    ),
    (
        "routing information of the wrong sign",
        "_gating.py",
        [
            (
                "max(entropy(share @ weights) - share @ entropy(weights), 0.0)",
                "max(share @ entropy(weights) - entropy(share @ weights), 0.0)",
            )
        ],
        "gating mixture gates",
    ),
    (
        "no indicator of a missing expert",
        "_gate_inputs.py",
        [("(~present).astype(float)], axis=1)", "(~present) * 0.0], axis=1)")],
        "mixture gating classifier gates",
    ),
    (
        "folds that cut groups",
        "_folds.py",
        [("groups = None if groups is None else groups[rows]", "groups = rows")],
        "folds classifier",
    ),
    (
        "all experts missing: every class alike",
        "_base.py",
        [("logits[lost] = self.class_log_prior_", "logits[lost] = 0.0")],
        "classifier mixture multilabel",
    ),
    (
        "sum of all experts, absent ones too",
        "_pooling.py",
        [
            (
                "mixed *= (weights > 0).sum(1, keepdims=True)",
                "mixed *= weights.shape[1]",
            )
        ],
        "gating mixture classifier gates",
    ),
    (
        "contributions without the gate",
        "_mixing.py",
        [
            (
                "scale[:, None] * weights * self.expert_scale_)",
                "scale[:, None] * (weights > 0) * self.expert_scale_ / weights.shape[1])",
            )
        ],
        "explanation classifier mixture",
    ),
    (
        "without() that listens on",
        "_mixing.py",
        [("view.masked_experts_ = (*masked, name)", "view.masked_experts_ = masked")],
        "classifier mixture",
    ),
    (
        "balanced classes blind to sample weights",
        "_targets.py",
        [
            (
                "per_class = counts.sum() / (len(counts) * counts)",
                "counts = np.bincount(codes, minlength=len(classes))\n"
                "        per_class = counts.sum() / (len(counts) * counts)",
            )
        ],
        "classifier sklearn_checks association",
    ),
    (
        "specialists without the gate's trust",
        "_second_stage.py",
        [("return trust * present.sum(axis=1, keepdims=True)", "return (trust > 0) * 1.0")],
        "first_stage",
    ),
    (
        "specialists kept whatever they do",
        "_second_stage.py",
        [
            (
                'if choose(losses, judged, ground.groups, ground.counts) == "before":',
                "if False:",
            )
        ],
        "first_stage",
    ),
    (
        "alpha of an expert alone by its calibrated loss",
        "_single.py",
        [("[direction], folds, calibrated=False", "[direction], folds, calibrated=True")],
        "first_stage",
    ),
]


def changed(mutant):
    """Return the text of the mutant's file with its changes."""
    name, file, changes, _ = mutant
    text = (ROOT / "skmoecbm" / file).read_text()
    for old, new in changes:
        if old not in text:
            raise SystemExit(f"{name}: {file} no longer has {old!r}. Write the mutant anew.")
        text = text.replace(old, new)
    return text


def run(mutant, number):
    """Return whether a test noticed, the seconds it took, and the test."""
    name, file, _, tests = mutant
    with tempfile.TemporaryDirectory(prefix=f"mutant-{number}-") as folder:
        folder = Path(folder)
        for part in ("skmoecbm", "tests"):
            shutil.copytree(
                ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        for part in ("conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / part, folder)
        (folder / "skmoecbm" / file).write_text(changed(mutant))
        files = [f"tests/test_{part}.py" for part in tests.split()]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        seconds = time.perf_counter() - began
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    # 2: a test file that cannot even be imported has noticed nothing.
    if done.returncode not in (0, 1):
        raise SystemExit(f"{name}: pytest ended with {done.returncode}.\n{done.stdout[-2000:]}")
    told = failed[0].split(" - ")[0] if failed else done.stdout.strip().splitlines()[-1]
    return done.returncode != 0, seconds, told


def main():
    """Run the mutants and say which survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutants whose name holds one of these")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at the same time")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.words or any(w in m[0] for w in options.words)]
    for mutant in chosen:
        changed(mutant)  # what no longer fits is told before the first hour
    killed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(run, chosen, range(len(chosen)))
        for mutant, (noticed, seconds, test) in zip(chosen, results, strict=True):
            killed += noticed
            word = "killed  " if noticed else "SURVIVED"
            print(f"{word} {mutant[0]:<58} {seconds:5.0f} s  {test}", flush=True)
    print(f"{killed} of {len(chosen)} killed ({killed / len(chosen):.0%})")


if __name__ == "__main__":
    main()
