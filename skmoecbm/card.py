"""The model card: what a saved model is, what it was measured to do, and what it is not."""

import re

from huggingface_hub import ModelCardData

from skmoecbm._audit_result import Audit
from skmoecbm._card_details import (
    CardDetails,
    ReportedMetrics,
    checked_details,
    reported_metrics,
)
from skmoecbm._card_inputs import input_columns, input_words, mixture_lines, plain_experts
from skmoecbm._card_licences import may_need_transformers
from skmoecbm._card_metrics import eval_results, metric_sections
from skmoecbm._card_model import (
    SHOWN_EXPERTS,
    association_rows,
    associations,
    banks,
    class_rows,
    classifier_of,
    encoders_of,
    expert_rows,
    foreign_classes,
    network_words,
    takes_images,
    takes_images_alone,
    token_nodes,
    token_records,
    token_rows,
    token_words,
)
from skmoecbm._card_words import Inert, code, fenced, one_line, prose
from skmoecbm._validation import parameter_error

__all__ = ["CardDetails", "ReportedMetrics", "model_card", "with_repository"]

_TITLE = "A concept bottleneck model"
_NETWORK_TITLE = "A sparse mixture of networks"
_SEEN_BY = "rows that an expert saw"
_SEEN = {
    "SparseMoEClassifier": "rows that have a modality",
    "CrossModalMoEClassifier": "rows that have a stream",
}
_PARTS = ("description", "intended_use", "out_of_scope", "training_data", "limits")


def model_card(
    config,
    arrays,
    *,
    metrics=None,
    audit=None,
    card=None,
    repo_id=None,
    revision=None,
    pictures=(),
    examples=(),
):
    """Return the text of a model's `README.md`: the same arguments give the same text.

    Parameters
    ----------
    config : ModelConfig
    arrays : dict of str to ndarray
        All of the model, by the names in `config.arrays`.
    metrics : Evaluation, ReportedMetrics, mapping, or list of these, default=None
    audit : Audit, default=None
    card : CardDetails, default=None
    repo_id : str, default=None
        Where on the Hub the model will be, for the lines that load it.
    revision : str, default=None
        The tag it will have there.
    pictures : list of (expert, file name), default=()
        Pictures of the concepts' weights beside the card.
    examples : list of (file name, words), default=()
        Images beside the card, and what the model says of them.

    Raises
    ------
    InputError
        If an argument is not of its kind.
    """
    details = checked_details(card)
    if audit is not None and not isinstance(audit, Audit):
        raise parameter_error("save", "audit", "an Audit that audit() returned", audit)
    reported = reported_metrics(metrics)
    encoders = encoders_of(config)
    node, prefix = classifier_of(config)
    experts, tokens = expert_rows(config, node), token_rows(config)
    title = one_line(details.title or _title(node, tokens), 200)
    version = config.library_versions.get("skmoecbm", "")
    view = {
        "front_matter": _front_matter(
            details,
            repo_id.rpartition("/")[2] if repo_id else title,
            experts + tokens,
            encoders,
            node,
            reported,
        ),
        "title": title,
        "notices": [prose(notice) for notice in config.notices],
        "said": {name: _paragraphs(getattr(details, name)) for name in _PARTS},
        "author": [prose(one) for one in details.authors],
        "license": details.license,
        "datasets": [code(one) for one in details.datasets],
        "kind": config.model.kind if node is None else node.kind,
        "has_images": takes_images(encoders),
        "columns": input_columns(config),
        "what_comes_in": token_words(config) or input_words(config, takes_images(encoders)),
        "mixed": mixture_lines(config, node),
        "plain_experts": plain_experts(config),
        "experts": experts,
        "tokens": tokens,
        "token_records": token_records(config),
        "backed": [expert for expert in experts if "weights" in expert] + tokens,
        "banks": banks(encoders),
        "classifier": node,
        "n_concepts": sum(expert.get("n_concepts", 0) for expert in experts),
        "metrics": metric_sections(reported, has_leaks=_has_leaks(audit)),
        "audit": audit and _audit(audit),
        "label_map": [(code(k), code(v)) for k, v in (config.label_map or {}).items()][:100],
        "load": fenced(_loading(repo_id, revision, _using(config, node)), "python"),
        "install": Inert(_install_line(config, encoders)),
        "needs": Inert(re.sub(r"[^0-9.]", "", config.needs_skmoecbm)),
        "versions": [code(f"{k} {v}") for k, v in config.library_versions.items()],
        "format_version": config.format_version,
        "package_version": Inert(re.sub(r"[^\w.+-]", "", version)),
        "citation": None if details.citation is None else fenced(details.citation, "bibtex"),
        "pictures": {code(expert): Inert(name) for expert, name in pictures},
        "examples": [(Inert(name), words) for name, words in examples],
        "tables": [],
        "without_table": [],
        "network": None,
        "foreign": [code(name) for name in foreign_classes(config)][:20],
    }
    if node is not None:
        view |= _of_classifier(node, prefix, arrays, encoders)
    return _render(view)


def _of_classifier(node, prefix, arrays, encoders):
    """Return what the template needs of a classifier."""
    labels = node.classes.values
    rows, n_hidden = class_rows(node, prefix, arrays, encoders)
    told = associations(node, prefix, arrays)
    tables = []
    for one in told[:SHOWN_EXPERTS]:
        lines, left_out = association_rows(one, labels)
        tables.append(
            {
                "expert": code(one.expert),
                "n_concepts": len(one.concepts),
                "unit": one.unit,
                "rows": lines,
                "n_hidden": left_out,
            }
        )
    own = (node,) if hasattr(node, "expert_name") else ()  # a network has no heads
    kinds = ("masked_experts", "masked_modalities", "masked_streams")
    masked = next((getattr(node, kind) for kind in kinds if hasattr(node, kind)), ())
    heads = getattr(node, "heads", own)
    shown = {one.expert for one in told[:SHOWN_EXPERTS]}
    hidden = [_without_table(head) for head in heads if head.expert_name not in shown]
    return {
        "classes": rows,
        "n_hidden_classes": n_hidden,
        "tables": tables,
        "without_table": hidden[:100],
        "head_names": [code(head.expert_name) for head in heads],
        "selected": code(getattr(node, "selected", "")),
        "fallback": prose(getattr(node, "fallback", None) or ""),
        "masked": [code(name) for name in masked],
        "edits": [_edit_in_words(edit) for edit in getattr(node, "edits", ())],
        "sets": getattr(node, "sets", None),
        "gate": getattr(node, "gate", None),
        "network": network_words(node),
        "training": _training(
            getattr(node, "training_summary", None), _SEEN.get(node.kind, _SEEN_BY)
        ),
    }


def _title(node, tokens):
    """Return what a card is called that nobody has named."""
    if node is not None and hasattr(node, "history"):
        cross = node.kind == "CrossModalMoEClassifier"
        return "A cross-modal mixture of networks" if cross else _NETWORK_TITLE
    return "Encoders of tokens" if tokens else _TITLE


def _front_matter(details, name, experts, encoders, node, reported):
    """Return the YAML block of the card, as the Hub reads it."""
    images = takes_images(encoders)
    task = "image-classification" if images else "tabular-classification"
    bases = list(dict.fromkeys(e["repository"] for e in experts if e["repository"]))
    is_network = node is not None and hasattr(node, "history")
    concepts = [] if experts and not encoders else ["concept-bottleneck"]
    tags = ["skmoecbm", *([] if is_network else [*concepts, "interpretability"])]
    if is_network or (node is not None and node.kind == "GatedConceptBottleneckClassifier"):
        tags.append("mixture-of-experts")
    results = eval_results(reported, task)
    data = ModelCardData(
        language=list(details.language),
        license=details.license,
        library_name="skmoecbm",
        pipeline_tag=task if images and node is not None else None,
        tags=tags,
        base_model=bases or None,
        datasets=list(details.datasets) or None,
        metrics=list(dict.fromkeys(one.metric_type for one in results)) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return Inert(f"---\n{data.to_yaml()}\n---")


def with_repository(text, repo_id, revision=None):
    """Return a card that was made for a folder as one of a repository of the Hub.

    Only the line that loads the folder is another then; in a card written by hand, none is.

    Parameters
    ----------
    text : str
    repo_id : str
    revision : str, default=None
        The tag it will have there.
    """
    lines = text.split("\n")
    return "\n".join(
        _load_line(repo_id, revision) if line == _load_line(None, None) else line for line in lines
    )


def _load_line(repo_id, revision):
    if repo_id is None:
        return 'model = skmoecbm.load("path/to/this/folder")'
    line = f'model = skmoecbm.from_pretrained("{repo_id}", revision="{revision or "main"}")'
    if revision is None:
        line += "  # better a tag or commit: what it names does not change"
    return line


def _install_line(config, encoders):
    """Return what installs skmoecbm, in a checkout of it, with the extras that a model needs."""
    nodes = [node for _, node in encoders] + token_nodes(config)
    backbones = [getattr(node, "parameters", {}).get("backbone") for node in nodes]
    extras = [
        ("biomed", any(may_need_transformers(name) for name in backbones if name)),
        ("skops", bool(foreign_classes(config))),
    ]
    wanted = ",".join(name for name, is_needed in extras if is_needed)
    return f"pip install '.[{wanted}]'" if wanted else "pip install ."


def _loading(repo_id, revision, using):
    """Return the lines that load the model, and those that use it."""
    return "\n".join(["import skmoecbm", "", _load_line(repo_id, revision), *using])


def _using(config, node):
    """Return the lines that show what a model is asked, where images are all that it takes."""
    if not takes_images_alone(config):
        if not input_columns(config)[0]:
            return []
        asked = "similarities = model.transform" if node is None else "answers = model.predict"
        return [f"{asked}(table)  # a DataFrame or array with the columns named above"]
    if node is None:
        return ['similarities = model.transform(["photo.jpg"])']
    return [
        'probabilities = model.predict_proba(["photo.jpg"])  # a column for each of model.classes_',
        'skmoecbm.explain(model, ["photo.jpg"]).plot()'
        if not hasattr(node, "history")
        else 'skmoecbm.explain(model, ["photo.jpg"])  # whom it was sent to',
    ]


def _without_table(head):
    """Return the name of an expert whose weights are not shown, and why where they cannot be."""
    name = code(head.expert_name)
    if head.kind != "foreign head":
        return name
    return Inert(f"{name} (a {code(head.estimator.class_name)})")


def _has_leaks(audit):
    return audit is not None and any(
        check.name == "leaks" and check.status == "concern" for check in audit.checks.values()
    )


def _audit(audit):
    """Return what an audit says, in words; never its tables, which may name patients."""
    by_status = {}
    # a verdict that nothing was found out tells its author how, and a reader nothing
    made = [check for check in audit.checks.values() if check.status != "not made"]
    for check in made:
        by_status.setdefault(check.status, []).append(check.name)
    units = "" if audit.n_groups == audit.n else f" in {audit.n_groups:,} groups"
    return {
        "about": f"On {audit.n:,} row{'s' * (audit.n != 1)}{units}.",
        "concerns": by_status.get("concern", []),
        "checks": [
            (check.name, check.question, check.status, prose(check.verdict)) for check in made
        ],
        "not_checked": [
            check.name for check in audit.checks.values() if check.status == "not made"
        ],
    }


def _training(summary, seen=_SEEN_BY):
    """Return the counts of a recorded training as lines; its digests are for machines.

    `seen` is what rows of an expert, or of what stands in its place, are called.
    """
    if summary is None:
        return []
    told = summary if isinstance(summary, dict) else summary.model_dump(mode="json")
    lines = []
    if isinstance(told.get("n_rows"), int):
        groups = told.get("n_groups")
        inside = f" in {groups:,} groups" if isinstance(groups, int) else ", no groups given"
        lines.append(Inert(f"{told['n_rows']:,} rows{inside}"))
    rows = told.get("rows_per_expert") or {}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{code(name)} {count:,}" for name, count in rows.items())
        lines.append(Inert(f"{seen}: {counts}"))
    if told.get("n_folds"):
        lines.append(Inert(f"{told['n_folds']} folds, to weigh what was not fitted on"))
    return lines


def _paragraphs(text):
    """Return each paragraph of an author's text as a line of prose."""
    parts = (text or "").replace("\r\n", "\n").split("\n\n")
    return [prose(part) for part in parts if part.strip()]


def _edit_in_words(edit):
    """Return one line of a model's log of edits, for its card."""
    concept = f"{code(edit.concept)} of {code(edit.expert)}"
    how = "the expert fitted again" if edit.refit else "nothing fitted again"
    if edit.action == "forbid":
        return Inert(f"{concept}: forbidden (its largest weight was {edit.before:.3g}), {how}")
    wanted = "positive" if edit.sign == "+" else "negative"
    return Inert(
        f"{concept}: may only be {wanted} for {code(edit.label)} "
        f"(weight {edit.before:.3g}, now {edit.after:.3g}), {how}"
    )


def _render(view):
    """Return the card; what a template prints is escaped unless it is `Inert` or a number."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("skmoecbm", "templates"),
        autoescape=False,
        finalize=lambda v: v if isinstance(v, Inert | int) else prose(v, 10**6),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["listed"] = lambda parts: Inert(", ".join(map(_shown, parts)))
    environment.filters["thousands"] = lambda number: Inert(f"{number:,}")
    return environment.get_template("card.md.j2").render(view).strip() + "\n"


def _shown(part):
    return part if isinstance(part, Inert) else prose(part)
