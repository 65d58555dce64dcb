"""`skmoecbm app`: its options, and the serving of the local page of a saved model.

Only argparse is needed for the options; the rest is imported when the command is run.
"""

import signal
import sys

__all__ = ["add_options", "app"]


def add_options(parser, whole_number):
    """Add the options of the command to its parser."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve at; others can reach any other one"
    )
    parser.add_argument(
        "--port", type=whole_number(1, 65535), default=7860, help="port to serve at (%(default)s)"
    )
    parser.add_argument(
        "--max-mb", type=whole_number(1), default=20, help="largest image file (%(default)s)"
    )
    parser.add_argument(
        "--sliders", type=whole_number(1), default=10, help="concepts to move (%(default)s)"
    )
    parser.set_defaults(run="skmoecbm._app_command:app", cache_dir="none", on_error=None)


def app(args):
    """Serve the page until interrupted."""
    from skmoecbm._app_address import check_address, is_loopback
    from skmoecbm._command_model import load_model
    from skmoecbm._model_folder import read_config_bytes

    read_config_bytes(args.model)
    check_address(args.host, args.port)

    from skmoecbm.app import serve_app

    # stopped by whatever started it, it clears up as after Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    if not is_loopback(args.host):
        print(
            f"note: everyone who reaches this machine at {args.host} can use the page and upload "
            "images to it",
            file=sys.stderr,
        )
    serve_app(
        load_model(args),
        host=args.host,
        port=args.port,
        n_sliders=args.sliders,
        max_mb=args.max_mb,
        on_ready=lambda address: print(f"open {address}\nstop with Ctrl-C", flush=True),
    )
