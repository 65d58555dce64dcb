"""`skmoecbm app`: serve the local page of a saved model."""

import ipaddress
import signal
import sys

from skmoecbm._command_model import load_model
from skmoecbm._model_folder import read_config_bytes

__all__ = ["app"]


def app(args):
    """Serve the page until interrupted."""
    read_config_bytes(args.model)

    from skmoecbm.app import serve_app

    # stopped by whatever started it, it clears up as after Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    if not _is_loopback(args.host):
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


def _is_loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
