"""A first model, from images to an explanation
============================================

Two experts look at drawn skin lesions: one knows colours and shapes, one structures and vessels.
We fit each alone, their plain average and the gated mixture, and look at one decision closely.

Everything runs on the bundled demo experts, trained on drawings and not for clinical use.
"""

# %%
# Images and concepts
# -------------------
# The drawings come with their class. The concept bank says which words matter, and for which
# classes each was written.

from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    GatedConceptBottleneckClassifier,
    evaluate,
    explain,
    load_concepts,
)
from skmoecbm.datasets import make_lesions

lesions = make_lesions(1500, random_state=0)
train, test = slice(0, 1000), slice(1000, None)
concepts = load_concepts("lesions")
print(f"{len(concepts.texts)} concepts for {len(concepts.class_keys)} classes")

# %%
# Encode
# ------
# Each expert turns an image into its similarity to each concept. This is the slow step; it is done
# once.

experts = ExpertUnion(
    [
        ("general", ConceptEncoder("demo-general", concepts, cache_dir=None)),
        ("structures", ConceptEncoder("demo-structures", concepts, cache_dir=None)),
    ]
)
features = experts.fit_transform(lesions.images[train])
held_out = experts.transform(lesions.images[test])

# %%
# Fit and compare
# ---------------
# All four are evaluated on the same held-out images. Mind the width of the intervals.

arms = {
    "general": (ConceptBottleneckClassifier(random_state=0), ["general"]),
    "structures": (ConceptBottleneckClassifier(random_state=0), ["structures"]),
    "plain average": (
        GatedConceptBottleneckClassifier(gate="uniform", random_state=0),
        ["general", "structures"],
    ),
    "gated mixture": (
        GatedConceptBottleneckClassifier(random_state=0),
        ["general", "structures"],
    ),
}
for arm, (classifier, names) in arms.items():
    classifier.fit(features.select(names), lesions.target[train])
    result = evaluate(
        classifier, held_out.select(names), lesions.target[test], n_bootstrap=200, random_state=0
    )
    value, low, high = result["balanced_accuracy"]
    print(f"{arm:<14} balanced accuracy {value:.2f} [{low:.2f}, {high:.2f}]")

# %%
# Explain
# -------
# The bars are what each concept adds to the logit of the predicted class; they sum to it.

model = make_pipeline(experts, arms["gated mixture"][0])
explanation = explain(model, lesions.images[test][:1])
print(explanation.top(5)[["concept", "contribution", "percentile"]])
figure = explanation.plot(k=8)
figure.savefig("explained.png", dpi=110)
