"""`skmoecbm report`: its options, and what it does.

Only argparse is needed for the options; the rest is imported when the command is run.
"""

from pathlib import Path

from skmoecbm._audit_command import add_training_options, read_rows
from skmoecbm.exceptions import InputError

__all__ = ["add_options", "report"]

#: Options that say nothing without a table of labels.
_OF_A_TABLE = (
    "image_column",
    "label_column",
    "group_column",
    "label_map",
    "select_rows",
    "train_rows",
    "train_labels",
    "subgroups",
)


def add_options(parser, whole_number):
    """Add the options of the command to its parser."""
    parser.add_argument(
        "--out", required=True, help="HTML file to write; one that is there is replaced"
    )
    parser.add_argument("--title", default="Model report", help="its title (%(default)s)")
    add_training_options(parser)
    parser.add_argument(
        "--cases",
        type=whole_number(0),
        default=12,
        help="right, wrong and uncertain cases to show, each (%(default)s)",
    )
    parser.add_argument(
        "--top", type=whole_number(1), default=8, help="concepts to show (%(default)s)"
    )
    parser.add_argument(
        "--image-size",
        type=whole_number(16),
        default=320,
        help="pixels of the longer side of the images in the file (%(default)s)",
    )
    parser.add_argument(
        "--no-file-names",
        action="store_true",
        help="number the images, name neither them nor groups",
    )
    parser.add_argument(
        "--n-bootstrap",
        type=whole_number(0),
        default=1000,
        help="resamples for the intervals (%(default)s)",
    )
    parser.set_defaults(run="skmoecbm._report_command:report")


def report(args):
    """Write a report on a saved model as one HTML file."""
    from skmoecbm._commands import rows_by_line

    known = {"groups": None, "train": None, "metadata": None}
    if args.labels is None:
        model, images = _unlabelled(args)
        labels, places = None, None
    else:
        missing = [
            f"--{name.replace('_', '-')}"
            for name in ("image_column", "label_column")
            if getattr(args, name) is None
        ]
        if missing:
            raise InputError(f"--labels needs {' and '.join(missing)} beside it.")
        model, data, labels, learned, metadata = read_rows(args, {"--out": args.out})
        images, places = data.images, data.places
        known = {"groups": data.groups, "train": learned, "metadata": metadata}

    from skmoecbm._cli_notes import without_notices
    from skmoecbm.report import model_report

    with without_notices(), rows_by_line(places):
        path = model_report(
            model,
            images,
            labels,
            path=args.out,
            title=args.title,
            n_cases=args.cases,
            top=args.top,
            image_size=args.image_size,
            file_names=not args.no_file_names,
            n_bootstrap=args.n_bootstrap,
            random_state=args.seed,
            **known,
        )
    size = path.stat().st_size / 1e6
    print(f"report on {len(images):,} images written to {path} ({size:.1f} MB)")


def _unlabelled(args):
    """Return the model and the images of a folder without a table."""
    from skmoecbm._command_model import load_model
    from skmoecbm._folder import list_images
    from skmoecbm._model_folder import ARRAYS, CARD, CONFIG, read_config_bytes
    from skmoecbm._outputs import keep_inputs, output_path

    given = [option for option in _OF_A_TABLE if getattr(args, option)]
    if given:
        raise InputError(
            f"--{given[0].replace('_', '-')} is about a table of labels. Give that with --labels, "
            f"or leave --{given[0].replace('_', '-')} out."
        )
    output_path(args.out)
    read_config_bytes(args.model)
    images = list_images([args.images])
    keep_inputs([args.out], [*images, *(Path(args.model) / f for f in (CONFIG, ARRAYS, CARD))])
    return load_model(args), images
