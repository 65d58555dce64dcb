"""What would change its mind: set a concept, put concepts right, forbid one
=========================================================================

A model whose decision is a sum over concepts can be asked what it would have said, had it seen
one of them otherwise; it can be told what is true; and it can be told to leave one alone.
"""

# %%
# A model
# -------
# Two demo experts on drawings of lesions, of which it is known what was drawn.

import numpy as np
import pandas as pd
from matplotlib import pyplot
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    edit,
    explain,
    intervene,
    intervention_curve,
)
from skmoecbm.datasets import make_lesions

lesions = make_lesions(1000, random_state=0)
names = ("demo-general", "demo-structures")
union = ExpertUnion([(name, ConceptEncoder(name, "lesions")) for name in names])
model = make_pipeline(union, GatedConceptBottleneckClassifier(random_state=0))
train, test = slice(0, 400), slice(400, 1000)
model.fit(lesions.images[train], lesions.target[train])

# %%
# Set a concept
# -------------
# The test image that the model is least sure of, and the concept that decides most there, gone
# or there. The gate's trust stays as it was.
images, target = lesions.images[test], lesions.target[test]
least = int(model.predict_proba(images).max(axis=1).argmin())
image = images[[least]]
concept = explain(model, image).top(1)["concept"][0]
for word in ("absent", "present"):
    print(intervene(model, image, {concept: word}), end="\n\n")

# %%
# Put concepts right
# ------------------
# Each image's concepts, one after the other, set to what was drawn; beside it to what was drawn in
# another image, which must not help.
truth = pd.DataFrame(lesions.attributes[test], columns=lesions.attribute_names)
shuffled = truth.sample(frac=1, random_state=0).reset_index(drop=True)
curve = intervention_curve(model, images, target, truth, n_repeats=3, random_state=0)
wrong = intervention_curve(model, images, target, shuffled, policies="random", random_state=0)
print(curve)

# %%
# Forbid a concept
# ----------------
# Hair is no sign of disease. The edited model cannot read it, and has learned the rest again.
told = balanced_accuracy_score(target, model.predict(images))
edited = edit(model, forbid="hair", refit=(lesions.images[train], lesions.target[train]))
after = balanced_accuracy_score(target, edited.predict(images))
print(f"balanced accuracy {told:.2f}, without hair {after:.2f}")
print(edited[-1].edit_log_[0])

# %%
# A picture
# ---------
# The curves, and how the probabilities of one image follow a slider.
figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
curve.plot(ax=axes[0])
axes[0].plot(
    wrong.n_corrected,
    wrong.balanced_accuracy["random"].mean(axis=0),
    color="#666666",
    linestyle=":",
    label="truth of another image",
)
axes[0].legend(frameon=False)
slider = np.arange(0, 101, 5)
path = [intervene(model, image, {concept: f"p{p}"}).probabilities[0] for p in slider]
likely = np.argsort(np.max(path, axis=0))[::-1][:4]
for k, mark in zip(likely, "osD^", strict=True):
    axes[1].plot(slider, np.array(path)[:, k], marker=mark, markersize=4, label=model.classes_[k])
axes[1].set(xlabel=f"{concept}, percentile of training images", ylabel="probability")
axes[1].legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8)
figure.savefig("intervene.png")
