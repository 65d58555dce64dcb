"""The model card: what a saved model is, and what it is not."""

__all__ = ["model_card"]


def model_card(config):
    """Return the text of a first `README.md`: what the model is, and what it is not."""
    parts = [config.model]
    if config.model.kind == "Pipeline":
        parts = [step.node for step in config.model.steps]
    lines = [
        "---",
        "library_name: skmoecbm",
        "tags: [skmoecbm, concept-bottleneck, interpretability]",
        "---",
        "",
        "# A concept bottleneck model",
        "",
        "**Not a medical device.** For research: not for diagnosis or treatment.",
    ]
    lines += [f"\n**Notice:** {_inline(notice)}" for notice in config.notices]
    for part in parts:
        encoders = [part] if part.kind == "ConceptEncoder" else []
        if part.kind == "ExpertUnion":
            encoders = [expert.encoder for expert in part.experts]
        lines += [
            f"\nBackbone `{_inline(encoder.parameters['backbone'])}`, "
            f"{len(encoder.bank['concepts'])} concepts"
            for encoder in encoders
            if encoder.kind == "ConceptEncoder"
        ]
        if hasattr(part, "classes"):
            names = ", ".join(f"`{_inline(str(label))}`" for label in part.classes.values)
            lines.append(f"\nClasses: {names}")
        if hasattr(part, "heads"):
            names = ", ".join(
                f"`{_inline(head.expert_name)}` ({len(head.concept_names)} concepts)"
                for head in part.heads
            )
            lines.append(f"\nExperts: {names}; mixed by: `{_inline(part.selected)}`")
        if getattr(part, "edits", ()):
            lines.append("\nEdited after training:\n")
            lines += [f"- {_edit_in_words(edit)}" for edit in part.edits]
    lines += [
        "",
        "```python",
        "import skmoecbm",
        "",
        'model = skmoecbm.load("path/to/this/folder")',
        "```",
        "",
        f"Saved with skmoecbm {config.library_versions['skmoecbm']}, format version "
        f"{config.format_version}.",
    ]
    return "\n".join(lines) + "\n"


def _edit_in_words(edit):
    """Return one line of a model's log of edits, for its card."""
    concept = f"`{_inline(edit.concept)}` of `{_inline(edit.expert)}`"
    how = "the expert fitted again" if edit.refit else "nothing fitted again"
    if edit.action == "forbid":
        return f"{concept}: forbidden (its largest weight was {edit.before:.3g}), {how}"
    wanted = "positive" if edit.sign == "+" else "negative"
    return (
        f"{concept}: may only be {wanted} for `{_inline(str(edit.label))}` "
        f"(weight {edit.before:.3g}, now {edit.after:.3g}), {how}"
    )


def _inline(text):
    """Return text that stays on its line and inside its back-ticks, and is no HTML."""
    return " ".join(text.replace("`", "'").replace("<", "‹").replace(">", "›").split())
