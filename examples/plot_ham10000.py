"""Seven diagnoses on real photographs, no lesion on both sides
============================================================

HAM10000 in two lines, with the split that does not fool: a model that has seen a lesion from
another angle has an easy test. The experts here are the bundled ones, which were trained on
drawings; what they reach on photographs is the point where real experts begin.
"""

# %%
# The data set
# ------------
# A folder with the images and their table, or nothing: then it is downloaded (3 GB). Part of the
# photographs will do here.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    evaluate,
    explain,
    load_concepts,
)
from skmoecbm.datasets import check_leak, fetch_ham10000

# Your own copy: `fetch_ham10000("HAM10000/")`. Without one it is downloaded, 3 GB. The variable is
# that of this project's tests.
folder = os.environ.get("SKMOECBM_TEST_DATA")
data = fetch_ham10000(Path(folder) / "ham10000" if folder else None)
rng = np.random.default_rng(0)
train, test = (
    data.take(rng.permutation(data.splits["group"][part])[:n])
    for part, n in {"train": 1200, "test": 500}.items()
)
names, counts = np.unique(train.target, return_counts=True)
print(dict(zip(names.tolist(), counts.tolist(), strict=True)))
print(check_leak(data))

# %%
# The model
# ---------
# Moles are two thirds of the images, so classes are balanced in training. Folds keep lesions
# together.

experts = ["demo-general", "demo-structures"]
model = make_pipeline(
    ExpertUnion([(name, ConceptEncoder(name, load_concepts("lesions"))) for name in experts]),
    GatedConceptBottleneckClassifier(class_weight="balanced", random_state=0),
)
model.fit(train.images, train.target, gatedconceptbottleneckclassifier__groups=train.groups)
told = evaluate(model, test.images, test.target, groups=test.groups, n_bootstrap=200)
print(told)
print(f"balanced accuracy {told['balanced_accuracy'].value:.2f}; chance is {1 / 7:.2f}")

# %%
# What it confuses
# ----------------
# Each row sums to one: of the lesions of a class, how many are called what.

figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
ConfusionMatrixDisplay.from_predictions(
    test.target,
    model.predict(test.images),
    normalize="true",
    values_format=".2f",
    xticks_rotation=45,
    cmap="Blues",
    ax=axes,
)
figure.savefig("ham10000_confusion.png", dpi=100)

# %%
# Why
# ---
# The first melanoma of the test and the first mole, and the concepts that spoke for what was said.

rows = [np.flatnonzero(test.target == name)[0] for name in ("melanoma", "melanocytic nevus")]
explanation = explain(model, test.images[rows])
explanation.plot(k=6).savefig("ham10000.png", dpi=100)
