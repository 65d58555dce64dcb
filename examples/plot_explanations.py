"""Reading decisions: one image, many images, and whom the gate trusts
===================================================================

Three questions to a fitted mixture. Why this class and not the next? What would it say if it
listened to one expert alone? And over many images: which concepts carry which class, and is an
expert trusted more on some classes than on others?

Everything runs on the bundled demo experts, trained on drawings and not for clinical use.
"""

# %%
# A model
# -------
# ``guard=False`` keeps the learned gate whether or not it is better than the plain average, so that
# there is something to see.

from matplotlib import pyplot
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    AssociationDisplay,
    ConceptContributionDisplay,
    ConceptEncoder,
    ExpertUnion,
    ExpertUsageDisplay,
    GatedConceptBottleneckClassifier,
    GateDisplay,
    ReliabilityDisplay,
    explain,
    load_concepts,
)
from skmoecbm.datasets import make_lesions

lesions = make_lesions(600, random_state=0)
train, test = slice(0, 400), slice(400, None)
concepts = load_concepts("lesions")
names = ["demo-general", "demo-structures"]
model = make_pipeline(
    ExpertUnion([(name, ConceptEncoder(name, concepts, cache_dir=None)) for name in names]),
    GatedConceptBottleneckClassifier(guard=False, random_state=0),
)
model.fit(lesions.images[train], lesions.target[train])

# %%
# One image
# ---------
# The strongest concepts, with the percentile of each among the training images; then what
# separates the class from its runner-up. The lines of each sum to a logit, and to a difference of
# logits.

explanation = explain(model, lesions.images[test])
labels = lesions.target[test]
right = balanced_accuracy_score(labels, explanation.predicted)
print(f"balanced accuracy {right:.2f} on {len(labels)} held-out drawings")
print(explanation.top(4, row=0)[["concept", "contribution", "percentile"]])
print(explanation[0].separating(3)[["class", "other", "concept", "contribution"]])

# %%
# Other weights of the experts
# ----------------------------
# Without each expert, with each alone, and as the plain average.

print(explanation[0].what_if()[["case", "probability", "change", "predicted"]])

# %%
# Many images
# -----------
# Concepts by class with intervals, and whether the gate's weights differ by class: the p-values
# compare with labels that were exchanged at random, and are corrected for all cells.

found = explanation.summary(labels, n_bootstrap=300, n_permutations=300, random_state=0)
print(found.top(1)[["class", "concept", "contribution", "low", "high"]])
print(f"weights differ by class: p = {found.p_overall:.3f}")
print(found.frequency)

# %%
# In pictures
# -----------
# Each display can draw into axes that are given to it.

figure, axes = pyplot.subplots(3, 2, figsize=(14, 13), layout="constrained")
ConceptContributionDisplay.from_explanation(explanation, row=0, ax=axes[0, 0])
ConceptContributionDisplay.from_explanation(found, class_="mel-like", ax=axes[0, 1])
GateDisplay.from_explanation(explanation, labels, ax=axes[1, 0])
ExpertUsageDisplay.from_explanation(found, ax=axes[1, 1])
AssociationDisplay.from_estimator(model, k=16, ax=axes[2, 0])
ReliabilityDisplay.from_explanation(explanation, labels, n_bins=8, ax=axes[2, 1])
figure.savefig("explanations.png", dpi=80)
