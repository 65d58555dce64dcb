"""Damage scikit-learn estimators inside saved models: each must be refused, or open and not crash.

    python tools/fuzz_estimators.py [N] [FIRST_SEED]

`tools/fuzz_models.py` damages whole folders; here N (10,000) archives of estimators are changed
from within, so that checksums and names are right: values, nodes and arrays of the archive,
swapped, reshaped, out of range. Each case runs the methods of what was opened: compiled code that
follows a wrong number ends the process, so blocks of cases run in processes of their own. An error
that an estimator itself raises when asked is no finding; any other than a FormatError at opening,
a crash or more than three seconds is. What was found is printed and written to
`tools/fuzz_estimators.log`.
"""

import copy
import io
import os
import platform
import random
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import sklearn
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomTreesEmbedding,
)
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from skmoecbm import FormatError  # noqa: E402
from skmoecbm._skops_archive import read_archive, write_archive  # noqa: E402
from tests.test_hostile_estimators import opened, packed  # noqa: E402

BLOCK, MAX_SECONDS, MAX_BYTES = 250, 3.0, 8 * 2**30
CONTENTS = ["0", "1", "-1", "2", "7", "1000000", "4294967296", "1.5", "null", "true", '"x"']
NUMBERS = [0, 1, -1, 7, 1e6, 1e18, 1e-300, np.nan]
METHODS = ("predict_proba", "decision_function", "transform", "predict")


def estimators():
    """Return small fitted estimators, each with rows it can be asked about."""
    X, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
    texts = ["one two three", "four five", "one six seven"] * 5
    tables = [
        GradientBoostingClassifier(n_estimators=3),
        HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=3),
        RandomForestClassifier(3),
        SVC(),
        KNeighborsClassifier(algorithm="brute"),
        make_pipeline(KMeans(2, n_init=1), BaggingClassifier(n_estimators=2)),
        IsolationForest(n_estimators=3),
        AdaBoostClassifier(n_estimators=2),
        ExtraTreesClassifier(2),
        RandomTreesEmbedding(2, max_depth=2),
    ]
    found = [(one.fit(X, y), X) for one in tables]
    return found + [(one.fit(texts), texts) for one in (TfidfVectorizer(), HashingVectorizer())]


def nodes(part):
    """Return (parent, key) of every node of a schema."""
    children = part.items() if isinstance(part, dict) else enumerate(part)
    found = []
    for key, child in children:
        if isinstance(child, dict | list):
            found += [(part, key)] if isinstance(child, dict) and "__loader__" in child else []
            found += nodes(child)
    return found


def damaged(schema, members, rng):
    """Return a schema and members with one to three changes."""
    schema, members = copy.deepcopy(schema), dict(members)
    for _ in range(rng.choice([1, 1, 2, 3])):
        places, how = nodes(schema), rng.random()
        of_kind = {
            kind: [(p, k) for p, k in places if p[k]["__loader__"] == kind and key in p[k]]
            for kind, key in (("JsonNode", "content"), ("NdArrayNode", "file"))
        }
        if how < 0.35 and of_kind["JsonNode"]:
            parent, key = rng.choice(of_kind["JsonNode"])
            parent[key] = {**parent[key], "content": rng.choice(CONTENTS)}
        elif how < 0.5:
            (parent, key), (other, there) = rng.choice(places), rng.choice(places)
            parent[key] = copy.deepcopy(other[there])
        elif how < 0.6 and len(of_kind["NdArrayNode"]) > 1:
            (a, i), (b, j) = rng.sample(of_kind["NdArrayNode"], 2)
            a[i]["file"], b[j]["file"] = b[j]["file"], a[i]["file"]
        else:
            arrays = sorted(name for name in members if name.endswith(".npy"))
            if arrays:
                name = rng.choice(arrays)
                members[name] = damaged_array(members[name], rng)
    return schema, members


def damaged_array(content, rng):
    """Return the bytes of an array with a number, its shape or its type changed."""
    array = np.load(io.BytesIO(content)).copy()
    if array.size and array.dtype.names:
        field = rng.choice(array.dtype.names)
        array[field].reshape(-1)[rng.randrange(array.size)] = rng.choice([0, 1, 2, 5, 60, 127])
    elif array.size and rng.random() < 0.4:
        forms = [array.reshape(-1), array.T]
        forms += [array[:1], np.concatenate([array, array])] if array.ndim else []
        forms += [array.astype(np.float64)] if array.dtype.kind in "iuf" else []
        array = rng.choice(forms)
    elif array.size and array.dtype.kind in "iuf":
        array = np.ascontiguousarray(array)
        with np.errstate(all="ignore"):
            value = np.array(rng.choice(NUMBERS)).astype(array.dtype)
        array.reshape(-1)[rng.randrange(array.size)] = value
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def outcome(bases, seed):
    """Open one damaged estimator and ask it; return what came of it."""
    rng = random.Random(seed)
    node, (schema, members), rows = rng.choice(bases)
    content = write_archive(*damaged(schema, members, rng))
    start = time.process_time()
    try:
        estimator = opened(node, content)
    except FormatError:
        told = "refused"
    except Exception as error:
        return f"FINDING {type(error).__name__} {str(error)[:80]!r}"
    else:
        told = "opened"
        for method in METHODS:
            try:
                if hasattr(estimator, method):
                    getattr(estimator, method)(rows)
            except Exception:  # its own refusal: a wrong shape, a class that is not there
                told = "opened, then refused"
    return told if time.process_time() - start < MAX_SECONDS else "FINDING slow"


def run_block(bases, seeds):
    """Run cases in a process of their own; return (seed, outcome) of each, the last may crash."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
        for seed in seeds:
            os.write(writer, f"{seed}\t".encode())
            os.write(writer, (outcome(bases, seed).replace("\n", " ") + "\n").encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        lines = file.read().decode().split("\n")
    status = os.waitpid(child, 0)[1]
    found = [tuple(line.split("\t")) for line in lines if "\t" in line and not line.endswith("\t")]
    if status:
        found.append((lines[-1].strip() or "?", f"FINDING crash, status {status}"))
    return found


def main():
    """Run all cases and write the log."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    warnings.simplefilter("ignore")
    bases = []
    for estimator, rows in estimators():
        node, content = packed(estimator)
        bases.append((node, read_archive(content), rows))
    counts, findings, start = Counter(), [], time.perf_counter()
    for low in range(first, first + n, BLOCK):
        for seed, told in run_block(bases, range(low, min(low + BLOCK, first + n))):
            counts[told.partition(" ")[0] if told.startswith("FINDING") else told] += 1
            if told.startswith("FINDING"):
                findings.append(f"seed {seed}: {told}")
    lines = [
        f"scikit-learn {sklearn.__version__}, python {platform.python_version()}, {n:,} damaged "
        f"estimators of {len(bases)} kinds, seeds from {first}",
        *(f"{told}: {number:,}" for told, number in sorted(counts.items())),
        f"wall time: {time.perf_counter() - start:.0f} s",
        f"findings: {len(findings)}",
        *findings,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    (ROOT / "tools" / "fuzz_estimators.log").write_text(text, encoding="utf-8")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
