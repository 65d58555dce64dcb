"""What holds for every test and doctest: no network, no screen, and none of the user's caches.

This runs when pytest reads it, before anything of the package is imported, and stands at the root
so that the doctests in `skmoecbm/` are under it too. Child processes inherit the environment part.
"""

import atexit
import ipaddress
import os
import shutil
import socket
import tempfile
from importlib.util import find_spec

# An example that writes Parquet files cannot skip itself as a test can.
collect_ignore = [] if find_spec("pyarrow") else ["skmoecbm/distributed.py"]

NOWHERE = "http://127.0.0.1:9"  # the discard port: a proxy that refuses at once


class NetworkBlockedError(RuntimeError):
    """A test tried to leave the machine.

    Not an `OSError` on purpose: code that survives a broken network must not survive this.
    """


def _is_local(host):
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _guarded_connect(original):
    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise NetworkBlockedError(f"tests have no network; something connects to {address!r}")
        return original(self, address)

    return connect


def _guarded_lookup(original):
    def getaddrinfo(host, *args, **kwargs):
        if not _is_local(host):
            raise NetworkBlockedError(f"tests have no network; something looks up {host!r}")
        return original(host, *args, **kwargs)

    return getaddrinfo


def _block_network():
    socket.socket.connect = _guarded_connect(socket.socket.connect)
    socket.socket.connect_ex = _guarded_connect(socket.socket.connect_ex)
    socket.getaddrinfo = _guarded_lookup(socket.getaddrinfo)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ[name] = os.environ[name.lower()] = NOWHERE
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1,::1"
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"


def _use_private_caches():
    # Under pytest-xdist the workers inherit the controller's folder, which alone removes it.
    if "SKMOECBM_TEST_CACHE" not in os.environ:
        folder = tempfile.mkdtemp(prefix="skmoecbm-tests-")
        os.environ["SKMOECBM_TEST_CACHE"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder = os.environ["SKMOECBM_TEST_CACHE"]
    os.environ["SKMOECBM_CACHE"] = os.path.join(folder, "skmoecbm")
    os.environ.pop("SKMOECBM_DATA", None)
    os.environ["HF_HOME"] = os.path.join(folder, "huggingface")


_block_network()
_use_private_caches()
os.environ["MPLBACKEND"] = "Agg"
# Child processes, like this one, import the checkout (`pythonpath` in pyproject.toml).
os.environ["PYTHONPATH"] = os.pathsep.join(
    [os.path.dirname(os.path.abspath(__file__)), *filter(None, [os.environ.get("PYTHONPATH")])]
)
