"""What reports tell of a diagnosis, before and after its words are masked.

    python -m benchmarks.masked_reports --data $SKMOECBM_TEST_DATA

211 chest radiographs with clinical notes, of which 183 have a finding. The question is COVID-19
or not, which the notes often answer outright. Each text classifier is scored out of fold, five
folds with the notes of a patient together, mean and standard deviation over draws of the folds.
Masks: the classes of the bank `covid_radiography`; the same and the other findings of the table;
and these and the words for tests, places and treatments that a reader of the notes would add.
"""

import argparse
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from skmoecbm import (
    ConceptBottleneckClassifier,
    ConceptEncoder,
    ExpertUnion,
    mask_terms,
)

BANK = "covid_radiography"
FINDINGS = (
    "ARDS acute-respiratory-distress-syndrome Pneumocystis PCP PJP Streptococcus Klebsiella E.Coli "
    "Varicella Mycoplasma Legionella Lipoid Bacterial Influenza"
).split()
CIRCUMSTANCES = (
    "RT-PCR PCR RNA swab Wuhan China Italy Iran travel trip contact pandemic epidemic HIV HAART "
    "antigen sputum culture acyclovir lopinavir ritonavir hydroxychloroquine azithromycin"
).split()
# by hand, not by the code that masks
NAMED = re.compile(r"covid|ncov|cov-?2|sars|corona|pneumoni|viral|normal|healthy", re.IGNORECASE)
COVID = re.compile(r"covid|ncov|cov-?2|sars|corona", re.IGNORECASE)


def models():
    """Return name -> classifier of a list of reports."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    concepts = ConceptEncoder("demo-general", "lesions", modality="text", cache_dir=None)
    return {
        "TF-IDF, logistic": make_pipeline(
            words, LogisticRegression(C=10, class_weight="balanced", max_iter=1000)
        ),
        "demo text expert": make_pipeline(
            ExpertUnion([("text", concepts)]),
            ConceptBottleneckClassifier(prior=None, class_weight="balanced"),
        ),
    }


def score(model, texts, y, groups, draws):
    """Return (AUROC, balanced accuracy) of each draw of folds, (draws, 2)."""
    rows = []
    for seed in range(draws):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        p = cross_val_predict(model, texts, y, groups=groups, cv=folds, method="predict_proba")
        rows.append([roc_auc_score(y, p[:, 1]), balanced_accuracy_score(y, p[:, 1] > 0.5)])
    return np.array(rows)


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args(argv)
    table = pd.read_csv(options.data / "covid_chestxray_notes" / "metadata.csv")
    notes = table["clinical_notes"]
    extras = {"bank": [], "+ findings": FINDINGS, "+ circumstances": FINDINGS + CIRCUMSTANCES}
    texts = {"as written": notes}
    for name, extra in extras.items():
        texts[name], counts = mask_terms(notes, BANK, extra=extra, return_counts=True)
        left = [sum(map(bool, map(p.search, texts[name]))) for p in (NAMED, COVID)]
        print(
            f"{name}: {counts.sum()} masks in {(counts > 0).sum()} of {len(notes)} notes; "
            f"named in {left[0]}, COVID-19 in {left[1]}"
        )
    print(
        f"as written: named in {notes.str.contains(NAMED).sum()}, "
        f"COVID-19 in {notes.str.contains(COVID).sum()}"
    )
    known = (table["finding"] != "todo").to_numpy()
    y = table.loc[known, "finding"].str.contains("COVID").to_numpy().astype(int)
    groups = table.loc[known, "patientid"].to_numpy()
    says_so = notes[known].str.contains(COVID).to_numpy()
    print(
        f"COVID-19 is named in {says_so[y == 1].sum()} of its {y.sum()} notes as written and in "
        f"{says_so[y == 0].sum()} of the {(1 - y).sum()} others"
    )
    print(f"{len(y)} notes, {y.sum()} of COVID-19, {len(set(groups))} patients")
    texts["+ circumstances, no trace"] = mask_terms(
        notes, BANK, extra=FINDINGS + CIRCUMSTANCES, mask=""
    )
    warnings.filterwarnings("ignore", message=".*longer than")
    print(f"{'model':24}{'notes':26}{'AUROC':>16}{'balanced acc.':>16}")
    for what in ("as written", "+ circumstances"):
        print(what, *_words(texts[what][known].tolist(), y))
    for name, model in models().items():
        for what, all_notes in texts.items():
            scores = score(model, all_notes[known].tolist(), y, groups, options.draws)
            cells = [
                f"{m:.3f} ± {s:.3f}"
                for m, s in zip(scores.mean(axis=0), scores.std(axis=0), strict=True)
            ]
            print(f"{name:24}{what:26}{cells[0]:>16}{cells[1]:>16}")


def _words(texts, y):
    model = models()["TF-IDF, logistic"].fit(texts, y)
    names, weights = model[0].get_feature_names_out(), model[1].coef_[0]
    order = np.argsort(weights)
    return names[order[-12:][::-1]].tolist(), names[order[:12]].tolist()


if __name__ == "__main__":
    main()
