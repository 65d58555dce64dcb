"""`skmoecbm explain`: its options, and what it does.

Only argparse is needed for the options; the rest is imported when the command is run.
"""

from skmoecbm.exceptions import InputError

__all__ = ["add_options", "explain"]

_SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".jpeg")


def add_options(parser, whole_number):
    """Add the options of the command to its parser."""
    parser.add_argument(
        "--out",
        required=True,
        help="picture to write; several images are numbered: explained-1.png, explained-2.png, ...",
    )
    parser.add_argument(
        "--limit",
        type=whole_number(1),
        default=20,
        help="most images to explain, the first ones of those named (%(default)s)",
    )
    parser.add_argument(
        "--top", type=whole_number(1), default=8, help="concepts to show (%(default)s)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="CONCEPT=VALUE",
        help="explain the decision with this concept 'present', 'absent', at a percentile such as "
        "p80 or at a similarity; repeat for more concepts",
    )
    parser.set_defaults(run="skmoecbm._explain_command:explain")


def explain(args):
    """Draw explanations of a saved model's decisions."""
    from skmoecbm._command_model import load_model
    from skmoecbm._commands import model_files, note
    from skmoecbm._folder import list_images
    from skmoecbm._label_table import list_some
    from skmoecbm._model_folder import read_config_bytes
    from skmoecbm._outputs import draw_explanations, keep_inputs, output_path, picture_paths

    out = output_path(args.out)
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--out must end in one of {', '.join(_SUFFIXES)}. Got {args.out!r}.")
    read_config_bytes(args.model)
    named = list_images(args.images)
    images = named[: args.limit]
    paths = picture_paths(out, len(images))
    keep_inputs(paths, [*named, *model_files(args)])
    changes = dict(map(_change, args.set))
    if len(images) < len(named):
        note(
            f"note: only the first {len(images):,} of {len(named):,} images are explained, "
            f"{len(named) - len(images):,} are left out; --limit {len(named)} explains all"
        )

    from skmoecbm._cli_notes import without_notices, without_warning
    from skmoecbm._intervene import intervene
    from skmoecbm._last_step import fitted_classifier
    from skmoecbm.explanation import explain as explain_images

    model = load_model(args)
    _, classifier = fitted_classifier("skmoecbm explain", model)
    if not getattr(classifier, "_sums_concepts", True):
        raise InputError(
            "skmoecbm explain draws decisions as sums over concepts, and those of a "
            f"{type(classifier).__name__} come out of networks. Use `skmoecbm.explain` in Python, "
            "which tells whom rows are sent to."
        )
    with without_notices(), without_warning("have no expert at all"):
        if changes:
            told = intervene(model, images, changes)
            print(told, end="\n\n")
            explanation = told.after
        else:
            explanation = explain_images(model, images)
    seen = explanation.present.any(axis=1)
    if not seen.any():
        raise InputError(
            f"None of the {len(images):,} images could be read, so there is nothing to explain "
            f"and no picture: {list_some(images)}. Give images that can be opened."
        )
    explanation = explanation[seen]
    print(explanation)
    drawn = [path for path, there in zip(paths, seen, strict=True) if there]
    draw_explanations(explanation, drawn, top=args.top)
    for image, path, there in zip(images, paths, seen, strict=True):
        if there:
            print(f"picture written to {path}: {image.name}")
        else:
            print(f"no picture for {image.name}: it could not be read")


def _change(text):
    """Return the concept and the value that CONCEPT=VALUE means."""
    concept, sign, value = (part.strip() for part in text.rpartition("="))
    if not sign or not concept or not value:
        raise InputError(
            f"--set must be CONCEPT=VALUE, such as 'blue-white veil=present'. Got {text!r}."
        )
    try:
        return concept, float(value)
    except ValueError:
        return concept, value
