"""`skmoecbm audit`: its options, and what it does.

Only argparse is needed for the options; the rest is imported when the command is run.
"""

import json
from pathlib import Path

from skmoecbm._audit_names import CHECK_NAMES, check_names

__all__ = ["add_options", "add_training_options", "audit", "read_rows"]


def add_training_options(parser):
    """Add the options that name the rows of the fit, and the columns of subgroups."""
    parser.add_argument(
        "--train-rows",
        action="append",
        default=[],
        metavar="COLUMN=VALUE[,VALUE...]",
        help="the rows that the model was fitted on, such as split=train; repeat to narrow further",
    )
    parser.add_argument(
        "--train-labels", help="another CSV file, of the same columns, with the rows of the fit"
    )
    parser.add_argument(
        "--subgroups",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns of --labels to look at subgroups by: age sex site",
    )


def add_options(parser, whole_number):
    """Add the options of the command to its parser."""
    add_training_options(parser)
    parser.add_argument(
        "--checks", nargs="+", metavar="CHECK", help=f"only these of {', '.join(CHECK_NAMES)}"
    )
    parser.add_argument(
        "--n-random",
        type=whole_number(1),
        default=5,
        help="draws of random directions (%(default)s)",
    )
    parser.add_argument(
        "--n-bootstrap",
        type=whole_number(0),
        default=500,
        help="resamples for the intervals (%(default)s)",
    )
    parser.add_argument("--json", help="JSON file to write everything to")
    parser.add_argument("--html", help="HTML file to write everything to")
    parser.set_defaults(run="skmoecbm._audit_command:audit")


def read_rows(args, outputs):
    """Read a saved model, the rows to look at, and those of its fit where they are named.

    Parameters
    ----------
    args : Namespace
        With the options of a table, of `add_training_options` and of a run.
    outputs : dict of str to path or None
        Option -> file that will be written; checked before the work.

    Returns
    -------
    model : Pipeline
    data : LabelledImages
    labels : ndarray of shape (n,)
    learned : tuple (images, y, groups) or None
    metadata : DataFrame of n rows or None
    """
    from skmoecbm._command_model import encoders_of, load_model
    from skmoecbm._commands import read_labelled, rows_by_line
    from skmoecbm._folder import rename_labels, unify_labels
    from skmoecbm._last_step import refuse_networks
    from skmoecbm._model_folder import ARRAYS, CARD, CONFIG, read_config_bytes
    from skmoecbm._outputs import keep_inputs, output_path

    for option, path in outputs.items():
        if path is not None:
            output_path(path, option=option)
    read_config_bytes(args.model)
    data, train = read_labelled(args, more_columns=args.subgroups), None
    if args.train_rows or args.train_labels:
        table = args.train_labels or args.labels
        train = read_labelled(args, table=table, select_rows=args.train_rows)
    inputs = [args.labels, *data.images, *([] if train is None else train.images)]
    inputs += [Path(args.model) / name for name in (CONFIG, ARRAYS, CARD)]
    inputs += [args.train_labels] if args.train_labels else []
    for option, path in outputs.items():
        if path is not None:
            keep_inputs([path], inputs, option=option)

    from skmoecbm.hub import read_config

    label_map = read_config(args.model).label_map
    model = load_model(args)
    refuse_networks(f"skmoecbm {args.command}", model[-1])
    classes, bank = model[-1].classes_.tolist(), encoders_of(model)[0][1].bank_

    def labels_of(part):
        labels = part.labels
        if args.label_map is None and label_map is not None:
            labels = rename_labels(labels, label_map)
        return unify_labels(labels, bank, known=classes, places=part.places)

    labels, learned = labels_of(data), None
    if train is not None:
        learned = (train.images, labels_of(train), train.groups)
        with rows_by_line(train.places):
            features = model[:-1].transform(train.images)
        del features  # the embeddings are in the store now; an error had the line of its table
    return model, data, labels, learned, _table(data.more)


def audit(args):
    """Check a saved model on labelled images."""
    from skmoecbm._commands import note, rows_by_line
    from skmoecbm._outputs import open_output

    check_names(args.checks or ())
    if not (args.train_rows or args.train_labels):
        note("note: no --train-rows: the checks that need the rows of the fit are not made")
    outputs = {"--json": args.json, "--html": args.html}
    model, data, labels, learned, metadata = read_rows(args, outputs)

    from skmoecbm._audit import audit as audit_model

    with rows_by_line(data.places):
        result = audit_model(
            model,
            data.images,
            labels,
            train=learned,
            groups=data.groups,
            metadata=metadata,
            checks=args.checks,
            n_random=args.n_random,
            n_bootstrap=args.n_bootstrap,
            random_state=args.seed,
        )
    print(result)
    if args.json is not None:
        with open_output(args.json) as file:
            file.write(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n")
        print(f"audit written to {args.json}")
    if args.html is not None:
        with open_output(args.html) as file:
            file.write(_PAGE.format(audit=result.to_html()))
        print(f"audit written to {args.html}")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Audit</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.9em }}
th, td {{ text-align: left; padding: 0.15rem 0.6rem; border-bottom: 1px solid #8885 }}
</style></head><body>
<h1>Audit</h1>
{audit}
</body></html>
"""


def _table(columns):
    """Return a DataFrame of the columns, numbers where all cells are; None without columns."""
    if not columns:
        return None
    import pandas as pd

    table = pd.DataFrame(columns, dtype=str).map(str.strip).replace("", None)
    for name in table.columns:
        numbers = pd.to_numeric(table[name], errors="coerce")
        if not (numbers.isna() & table[name].notna()).any():
            table[name] = numbers
    return table
