"""The command line: `skmoecbm demo | fit | predict | explain | evaluate | push | ...`.

Only the parser lives here; the commands and what they need are imported when one is run, so that
``skmoecbm --help`` answers at once.
"""

import argparse
import os
import sys
from importlib import import_module

from skmoecbm import (
    __version__,
    _app_command,
    _audit_command,
    _explain_command,
    _generate_command,
    _push_command,
    _report_command,
)
from skmoecbm._cli_notes import in_options, warnings_and_logs_as_notes
from skmoecbm._command_model import add_model_options, fetch_named_model
from skmoecbm.exceptions import SkmoecbmError

__all__ = ["build_parser", "main"]


def _whole_number(low, high=2**32 - 1):
    """Return what turns an option's text into an integer from `low` to `high`."""

    def convert(text):
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            words = f"of at least {low}" if high == 2**32 - 1 else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"must be an integer {words}, got {text!r}")
        return number

    return convert


def _share(text):
    """Return an option's text as a number between 0 and 1."""
    try:
        number = float(text)
    except ValueError:
        number = None
    if number is None or not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, such as 0.9, got {text!r}")
    return number


def _add_seed(parser):
    parser.add_argument(
        "--seed", type=_whole_number(0), default=0, help="source of all chance (%(default)s)"
    )


def _add_overwrite(parser, what):
    parser.add_argument(
        "--overwrite", action="store_true", help=f"replace {what} that is already in --out"
    )


def _add_demo(commands):
    parser = commands.add_parser(
        "demo",
        help="run everything on the bundled demo experts and drawn images (about a minute)",
        description="Encode drawn skin lesions with the two bundled demo experts, fit the single "
        "experts, their plain average and the gated mixture, compare them on held-out images, "
        "and draw four explanations. Needs no network and no data.",
    )
    parser.add_argument("--out", default="skmoecbm-demo", help="folder to write (%(default)s)")
    _add_overwrite(parser, "an earlier demo")
    parser.add_argument(
        "--n-train", type=_whole_number(50), default=2000, help="training images (%(default)s)"
    )
    parser.add_argument(
        "--n-test", type=_whole_number(50), default=1000, help="held-out images (%(default)s)"
    )
    _add_seed(parser)
    parser.set_defaults(run="skmoecbm._demo_run:demo")


def _add_table_options(parser, *, labelled=True):
    parser.add_argument(
        "--images", required=True, help="folder of images, searched with sub-folders"
    )
    parser.add_argument("--labels", required=labelled, help="CSV file, one row per image")
    parser.add_argument(
        "--image-column",
        required=labelled,
        help="column naming the image: a file name with or without its ending, or a path",
    )
    parser.add_argument(
        "--label-column", required=labelled, help="column with the label: a code, name or synonym"
    )
    parser.add_argument(
        "--group-column", help="column of what must stay together: the lesion, the patient"
    )
    parser.add_argument("--label-map", help="JSON or two-column CSV that renames labels")
    parser.add_argument(
        "--select-rows",
        action="append",
        default=[],
        metavar="COLUMN=VALUE[,VALUE...]",
        help="use only these rows, e.g. split=train or dx=mel,nv; repeat to narrow further",
    )


def _add_encoding_options(parser):
    parser.add_argument(
        "--experts",
        nargs="+",
        required=True,
        metavar="[NAME=]MODEL",
        help="image-text models: demo-general, demo-structures, ViT-B-16/openai, "
        "hf-hub:org/repo, local-dir:path",
    )
    parser.add_argument(
        "--concepts",
        required=True,
        help="name of a bundled bank ('skmoecbm concepts list') or a JSON file",
    )
    parser.add_argument(
        "--resize",
        choices=["crop", "pad", "squash"],
        default="crop",
        help="how an image that is not square is fitted (%(default)s)",
    )


def _add_run_options(parser):
    # The defaults are None where a saved model brings its own setting.
    parser.add_argument("--cache-dir", help="folder for embeddings; 'none' keeps them in memory")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--on-error",
        choices=["raise", "missing"],
        help="what an unreadable or missing image does: stop, or be left out",
    )


def _add_prevalence(parser):
    parser.add_argument(
        "--target-prevalence",
        choices=["train"],
        help="probabilities at the class frequencies of the training images, which --class-weight "
        "balanced leaves aside",
    )


def _add_fit(commands):
    parser = commands.add_parser("fit", help="fit a model on a folder of images")
    _add_table_options(parser)
    _add_encoding_options(parser)
    parser.add_argument("--out", required=True, help="folder to write the model to")
    _add_overwrite(parser, "a model")
    parser.add_argument(
        "--gate",
        choices=["linear", "constant", "uniform", "mlp", "laplace", "gaussian"],
        default="linear",
        help="how the experts are weighed (%(default)s)",
    )
    parser.add_argument(
        "--no-guard",
        action="store_true",
        help="keep this gate even where it is not clearly better than the plain average",
    )
    parser.add_argument(
        "--class-weight",
        choices=["balanced"],
        help="give rare classes as much weight as frequent ones",
    )
    _add_seed(parser)
    _add_run_options(parser)
    parser.set_defaults(run="skmoecbm._commands:fit")


def _add_predict(commands):
    parser = commands.add_parser("predict", help="predict with a fitted model")
    add_model_options(parser)
    parser.add_argument("images", nargs="+", help="image files or folders of images")
    parser.add_argument("--out", default="-", help="CSV file to write; default: the screen")
    parser.add_argument(
        "--coverage",
        type=_share,
        help="write the classes too that hold the true one so often, such as 0.9; needs a model "
        "that calibrate_sets made",
    )
    _add_prevalence(parser)
    _add_run_options(parser)
    parser.set_defaults(run="skmoecbm._commands:predict")


def _add_explain(commands):
    parser = commands.add_parser("explain", help="draw why a fitted model decides as it does")
    add_model_options(parser)
    parser.add_argument("images", nargs="+", help="image files or folders of images")
    _explain_command.add_options(parser, _whole_number)
    _add_prevalence(parser)
    _add_run_options(parser)


def _add_evaluate(commands):
    parser = commands.add_parser("evaluate", help="metrics with intervals, on labelled images")
    add_model_options(parser)
    _add_table_options(parser)
    parser.add_argument("--out", help="JSON file to write the metrics to")
    parser.add_argument(
        "--n-bootstrap",
        type=_whole_number(0),
        default=1000,
        help="resamples for the intervals (%(default)s)",
    )
    _add_seed(parser)
    _add_prevalence(parser)
    _add_run_options(parser)
    parser.set_defaults(run="skmoecbm._commands:evaluate")


def _add_audit(commands):
    parser = commands.add_parser(
        "audit",
        help="can this model be trusted? Concepts against random directions, leaks, calibration",
        description="Seven checks of a fitted model on labelled images. Name the rows that it was "
        "fitted on too (--train-rows): controls are fitted on them.",
    )
    add_model_options(parser)
    _add_table_options(parser)
    _audit_command.add_options(parser, _whole_number)
    _add_seed(parser)
    _add_prevalence(parser)
    _add_run_options(parser)


def _add_report(commands):
    parser = commands.add_parser(
        "report",
        help="one HTML file: metrics, experts, concepts, explained cases, audit",
        description="What a fitted model does on some images, as one HTML file that needs no "
        "network. With --labels it has metrics and errors, with --train-rows too an audit.",
    )
    add_model_options(parser)
    _add_table_options(parser, labelled=False)
    _report_command.add_options(parser, _whole_number)
    _add_seed(parser)
    _add_prevalence(parser)
    _add_run_options(parser)


def _add_app(commands):
    parser = commands.add_parser(
        "app", help="a local page: drop an image, move its concepts, switch experts off"
    )
    add_model_options(parser)
    _app_command.add_options(parser, _whole_number)
    _add_prevalence(parser)
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")


def _add_encode(commands):
    parser = commands.add_parser(
        "encode", help="write how similar each image is to each concept, as CSV"
    )
    parser.add_argument("images", nargs="+", help="image files or folders of images")
    _add_encoding_options(parser)
    parser.add_argument("--out", default="-", help="CSV file to write; default: the screen")
    _add_run_options(parser)
    parser.set_defaults(run="skmoecbm._commands:encode")


def _add_cache(commands):
    parser = commands.add_parser("cache", help="show, check or empty the store of embeddings")
    parser.add_argument("action", choices=["info", "verify", "clear"])
    parser.add_argument("--cache-dir", help="the folder; default: the user's cache folder")
    parser.set_defaults(run="skmoecbm._commands:cache")


def _add_concepts(commands):
    parser = commands.add_parser(
        "concepts", help="list the bundled concept banks; show, check or generate one"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="names of the bundled banks, and what is in them")
    show = actions.add_parser("show", help="classes and concepts of one bank")
    show.add_argument("name", help="name of a bundled bank, or a JSON file")
    show.add_argument("--backbone", help="mark the concepts that this model does not know")
    lint = actions.add_parser(
        "lint",
        help="look for phrases that a bank should not have",
        description="Look for phrases that name a class, that no picture shows, that speak of the "
        "person, that negate or repeat. Exit code 1 where there is an error.",
    )
    lint.add_argument("name", help="name of a bundled bank, or a JSON file")
    lint.add_argument(
        "--backbone", help="model whose tokens and similarities count too, such as ViT-B-16/openai"
    )
    lint.add_argument(
        "--rules", nargs="+", metavar="RULE", help="only these rules, or JSON files of your own"
    )
    lint.add_argument("--strict", action="store_true", help="exit code 1 for warnings too")
    lint.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run="skmoecbm._commands:concepts")
    _generate_command.add_options(
        actions.add_parser("generate", help="have a language model write phrases for each class")
    )


def build_parser():
    """Return the parser of the command line.

    Returns
    -------
    argparse.ArgumentParser
    """
    parser = argparse.ArgumentParser(
        prog="skmoecbm",
        description="Image classifiers that explain themselves: a gated mixture of concept "
        "bottlenecks over image-text models. A research tool, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"skmoecbm {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show where in the code an error came from"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        _add_demo,
        _add_fit,
        _add_predict,
        _add_explain,
        _add_evaluate,
        _add_audit,
        _add_report,
        _add_app,
        _push_command.add_command,
        _add_encode,
        _add_concepts,
        _add_cache,
    ):
        add(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments after the program's name; by default those of the process.

    Returns
    -------
    int
        0 when all went well, 1 where `concepts lint` finds fault, 2 after an error that one
        sentence explains, 130 when interrupted.
    """
    args = build_parser().parse_args(argv)
    module, _, function = args.run.partition(":")
    with warnings_and_logs_as_notes(args):
        try:
            fetch_named_model(args)
            code = getattr(import_module(module), function)(args)
            sys.stdout.flush()
        except (SkmoecbmError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                # The reader, such as `head`, has seen enough; keep the exit from flushing again.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 0
            if args.debug:
                raise
            print(
                f"skmoecbm {args.command}: error: {in_options(str(error), args)}", file=sys.stderr
            )
            return 2
        except KeyboardInterrupt:
            print("\nInterrupted. Embeddings and answers made so far are kept.", file=sys.stderr)
            return 130
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
