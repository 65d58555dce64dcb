"""Where the local page is served: an address of this machine, and a port that nothing else has."""

import errno
import ipaddress
import os
import socket

from skmoecbm.exceptions import InputError

__all__ = ["check_address", "is_loopback"]


def is_loopback(host):
    """Return whether an address is of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host, port):
    """Raise `InputError` where nothing can be served at an address: before a model is loaded.

    Parameters
    ----------
    host : str
    port : int in [1, 65535]
    """
    try:
        family, place = _place(host, port)
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            if os.name == "posix":  # else a page that was stopped just now holds its port
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
            tried.listen(1)  # Linux refuses a port in use here, where the other may be shared
    except (OSError, UnicodeError) as error:  # the latter of a name with empty parts
        raise InputError(_reason(error, host, port)) from error


def _place(host, port):
    """Return the family and the place of an address; only a name is looked up."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return found[0][0], found[0][4]
    return {4: socket.AF_INET, 6: socket.AF_INET6}[version], (host, port)


def _reason(error, host, port):
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use. Give another one with --port."
    if code in (errno.EACCES, errno.EPERM):
        return f"You may not serve at port {port} of {host}. Give one above 1023 with --port."
    if code == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror | UnicodeError):
        return (
            f"{host!r} is no address of this machine. Give one that is with --host: 127.0.0.1 for "
            "this machine alone, 0.0.0.0 for all that reach it."
        )
    return (
        f"Nothing can be served at port {port} of {host}: {getattr(error, 'strerror', error)}. "
        "Give another --port or --host."
    )
