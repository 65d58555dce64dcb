"""What the commands of the command line do, but for the demo.

Paths, tables and columns are checked first, before the import of torch, which takes seconds.
"""

import json
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from skmoecbm._cli_notes import without_warning
from skmoecbm._command_model import encoders_of, load_model, make_experts, tell_concepts
from skmoecbm._folder import (
    list_images,
    read_label_map,
    read_labelled_images,
    rename_labels,
    unify_labels,
)
from skmoecbm._model_folder import (
    ARRAYS,
    CARD,
    CONFIG,
    read_config_bytes,
    refuse_earlier_model,
    refuse_other_files,
)
from skmoecbm._outputs import (
    csv_writer,
    keep_inputs,
    open_output,
    output_path,
)
from skmoecbm.exceptions import InputError

__all__ = [
    "cache",
    "concepts",
    "encode",
    "evaluate",
    "fit",
    "model_files",
    "note",
    "predict",
    "read_labelled",
    "rows_by_line",
]


def note(text):
    """Tell the user something that is not the result: on standard error."""
    print(text, file=sys.stderr)


def read_labelled(args, *, table=None, select_rows=None, more_columns=()):
    """Read the images and labels that the options name, or those of the fit (`select_rows`)."""
    label_map = None if args.label_map is None else read_label_map(args.label_map)
    data = read_labelled_images(
        args.images,
        table or args.labels,
        image_column=args.image_column,
        label_column=args.label_column,
        group_column=args.group_column,
        label_map=label_map,
        select_rows=args.select_rows if select_rows is None else select_rows,
        select_option="--select-rows" if select_rows is None else "--train-rows",
        skip_missing=args.on_error == "missing",
        more_columns=more_columns,
    )
    if data.n_without_file:
        note(f"note: {data.n_without_file:,} rows without an image file are left out")
    return data


@contextmanager
def rows_by_line(places):
    """Put the line of the table into an error that counts the images; None is no table."""
    try:
        yield
    except InputError as error:
        found = re.match(r"image ([\d,]+) (?=\()", str(error))
        if places is None or not found:
            raise
        place = places[int(found[1].replace(",", ""))]
        raise InputError(f"{place}: image {str(error)[found.end() :]}") from error


def fit(args):
    """Fit a gated mixture on a folder of images and save it."""
    out = output_path(args.out, folder=True)
    refuse_other_files(out)
    if not args.overwrite:
        refuse_earlier_model(out)
    data = read_labelled(args)

    from sklearn.pipeline import Pipeline

    from skmoecbm.classifier import GatedConceptBottleneckClassifier
    from skmoecbm.concepts import as_bank
    from skmoecbm.hub import save

    bank = as_bank(args.concepts)
    labels = unify_labels(data.labels, bank, places=data.places)
    classes = sorted(set(labels.tolist()))
    if len(classes) < 2:
        raise InputError(
            f"All {len(labels):,} images have the label {classes[0]!r}. A classifier needs two at "
            "least; check --label-column, --label-map and --select-rows."
        )
    experts = make_experts(args, bank)
    grouped = "" if data.groups is None else f" in {len(set(data.groups)):,} groups"
    note(f"{len(labels):,} images{grouped}, {len(classes)} classes: {', '.join(classes)}")
    start = time.perf_counter()
    # All models are loaded and all concepts embedded first: a wrong name costs no encoding.
    with rows_by_line(data.places):
        features = experts.fit(data.images).transform(data.images)
    encoded = time.perf_counter()
    classifier = GatedConceptBottleneckClassifier(
        gate=args.gate,
        guard=not args.no_guard,
        class_weight=args.class_weight,
        device=args.device or "auto",
        random_state=args.seed,
    )
    with without_warning("No gate could be fitted"):  # the lines below say it
        classifier.fit(features, labels, groups=data.groups)
    fitted = time.perf_counter()
    label_map = None if args.label_map is None else read_label_map(args.label_map)
    save(Pipeline([("experts", experts), ("classifier", classifier)]), out, label_map=label_map)
    print(tell_concepts(experts, bank))
    print(f"encoded in {encoded - start:.1f} s, fitted in {fitted - encoded:.1f} s")
    print(f"chosen: {classifier.selected_} ({_reason(classifier)})")
    for candidate, loss in classifier.oof_log_loss_.items():
        print(f"  {candidate:<24} out-of-fold log-loss {loss:.4f}")
    print(f"model written to {out}")


def _reason(classifier):
    if len(classifier.expert_names_) == 1:
        return "there is one expert"
    if classifier.fallback_:
        return classifier.fallback_
    if not classifier.guard:
        return "as --gate says, with --no-guard"
    return "the simplest that none beats by more than twice the standard error"


def predict(args):
    """Predict images with a saved model, as CSV."""
    import numpy as np

    if args.out != "-":
        output_path(args.out)
    read_config_bytes(args.model)
    images = list_images(args.images)
    keep_inputs([args.out], [*images, *model_files(args)])
    model = load_model(args)
    if args.coverage is not None and not hasattr(model[-1], "set_calibration_"):
        raise InputError(
            f"The model in {args.model!r} has no calibration for sets of classes. Make one in "
            "Python: calibrate_sets returns a model to save. Or leave --coverage out."
        )
    features, classifier = model[:-1].transform(images), model[-1]
    with without_warning(" at all (rows "):
        probabilities = classifier.predict_proba(features)
    if classifier.multilabel_:
        said = classifier.predict(features) == 1
        names = [str(name) for name in classifier.classes_]
        predictions = ["|".join(np.array(names)[row]) for row in said]
    else:
        predictions = classifier.classes_[probabilities.argmax(axis=1)]
    said = [[prediction] for prediction in predictions]
    columns = ["image", "prediction"]
    if args.coverage is not None:
        from skmoecbm._conformal import sets_to_lists

        with without_warning(" at all (rows "):
            sets = classifier.predict_set(features, args.coverage)
        said = [
            [*cells, "|".join(map(str, names))]
            for cells, names in zip(said, sets_to_lists(sets, classifier.classes_), strict=True)
        ]
        columns.append("set")
    columns += [f"probability_{name}" for name in classifier.classes_]
    numbers = [probabilities]
    # An image that no expert can see has the class frequencies; a table must not call that a
    # prediction.
    parts = getattr(features, "blocks", None) or features.streams.values()
    seen = np.any([part.present for part in parts], axis=0)
    if hasattr(classifier, "gate_weights"):
        columns += [f"gate_{name}" for name in classifier.expert_names_]
        numbers.append(classifier.gate_weights(features))
    with csv_writer(args.out) as writer:
        writer.writerow(columns)
        for image, there, words, *row in zip(images, seen, said, *numbers, strict=True):
            cells = [*words, *(f"{x:.6f}" for part in row for x in part)]
            writer.writerow([image, *(cells if there else [""] * len(cells))])
    if not seen.all():
        note(
            f"note: {(~seen).sum():,} of {len(images):,} images could not be read: their cells in "
            "the table are empty"
        )
    if args.out != "-":
        rows = "" if seen.all() else f" ({len(images):,} rows)"
        print(f"{seen.sum():,} predictions written to {args.out}{rows}")


def model_files(args):
    """Return the files of the saved model, which no output may take the place of."""
    return [Path(args.model) / name for name in (CONFIG, ARRAYS, CARD)]


def evaluate(args):
    """Score a saved model on labelled images."""
    if args.out is not None:
        output_path(args.out)
    read_config_bytes(args.model)
    data = read_labelled(args)
    if args.out is not None:
        keep_inputs([args.out], [args.labels, *data.images, *model_files(args)])

    from skmoecbm._evaluate import evaluate as evaluate_model
    from skmoecbm.hub import read_config

    labels, label_map = data.labels, read_config(args.model).label_map
    if args.label_map is None and label_map is not None:
        labels = rename_labels(labels, label_map)
    model = load_model(args)
    classifier = model[-1]
    labels = unify_labels(
        labels,
        getattr(encoders_of(model)[0][1], "bank_", None),  # an encoder of tokens has none
        known=classifier.classes_.tolist(),
        places=data.places,
    )
    with rows_by_line(data.places):
        result = evaluate_model(
            model,
            data.images,
            labels,
            groups=data.groups,
            n_bootstrap=args.n_bootstrap,
            random_state=args.seed,
        )
    print(result)
    if args.out is not None:
        with open_output(args.out) as file:
            file.write(json.dumps(result.to_dict(), indent=2) + "\n")
        print(f"metrics written to {args.out}")


def encode(args):
    """Write the similarity of images to concepts, as CSV."""
    if args.out != "-":
        output_path(args.out)
    images = list_images(args.images)
    keep_inputs([args.out], images)

    from skmoecbm.concepts import as_bank

    features = make_experts(args, as_bank(args.concepts)).fit_transform(images)
    with csv_writer(args.out) as writer:
        writer.writerow(["image", *features.columns])
        for image, row in zip(images, features, strict=True):
            writer.writerow([image, *(f"{number:.6f}" for number in row)])
    if args.out != "-":
        print(f"{len(images):,} rows written to {args.out}")


def _size(n_bytes):
    for unit in ("bytes", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def cache(args):
    """Show, check or empty the embedding store."""
    from skmoecbm.store import EmbeddingStore

    store = EmbeddingStore(args.cache_dir or "auto")
    result = getattr(store, args.action)()
    if args.action == "info":
        print(f"{result['folder']}: {_size(result['bytes'])} of {_size(result['max_bytes'])}")
        for entry in result["backbones"]:
            name = entry["label"] or entry["fingerprint"]
            print(f"  {name:<40} {entry['embeddings']:>9,} x {entry['dim']} numbers")
    elif args.action == "verify":
        print(f"{result['embeddings']:,} embeddings in {result['files']:,} files are intact")
        for path in result["removed"]:
            print(f"removed, damaged or unfinished: {path}")
    else:
        print(f"{result['files']:,} files removed, {_size(result['bytes'])}")


def concepts(args):
    """List the bundled concept banks, show or lint one."""
    from skmoecbm.concepts import as_bank, lint_concepts, list_concepts, load_concepts

    if args.action == "list":
        width = max(map(len, list_concepts()))
        for name in list_concepts():
            bank = load_concepts(name)
            print(f"{name:<{width}} {len(bank.texts):>4} concepts, {len(bank.class_keys)} classes")
        return 0
    bank = as_bank(args.name)
    if args.action == "lint":
        report = lint_concepts(bank, backbone=args.backbone, rules=args.rules)
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if args.json else report)
        at_fault = {"error", "warning"} if args.strict else {"error"}
        return int(any(finding.severity in at_fault for finding in report))
    print(f"{bank.name}: {bank.description}" if bank.description else bank.name)
    print(f"\n{len(bank.classes)} classes")
    for entry in bank.classes:
        name = "" if entry.name == entry.key else f": {entry.name}"
        print(f"  {entry.key}{name}")
        if entry.synonyms:
            print(f"    also {', '.join(entry.synonyms)}")
    known = None if args.backbone is None else _known_texts(bank, args.backbone)
    of = "" if known is None else f", {args.backbone} knows {len(known)}"
    print(f"\n{len(bank.concepts)} concepts{of}")
    for concept in bank.concepts:
        written_for = f"  [{', '.join(concept.classes)}]" if concept.classes else ""
        mark = "" if known is None or concept.text in known else "  (not known)"
        print(f"  {concept.text}{written_for}{mark}")
    return 0


def _known_texts(bank, backbone):
    """Return the concepts of the bank, set of str, that a model would use."""
    import warnings

    from skmoecbm._encoder_texts import known_concepts
    from skmoecbm.backbones import load_backbone
    from skmoecbm.exceptions import UnknownConceptsWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownConceptsWarning)
        return set(known_concepts(bank, load_backbone(backbone)).texts)
