"""The suite's own promise: nothing leaves the machine, and the user's caches stay untouched."""

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest


def blocked(call, *args):
    with pytest.raises(RuntimeError, match="tests have no network"):
        call(*args)


def test_connecting_to_an_address_outside_is_refused():
    with socket.socket() as client:
        blocked(client.connect, ("192.0.2.1", 80))
        blocked(client.connect_ex, ("192.0.2.1", 80))


def test_looking_up_a_name_outside_is_refused():
    blocked(socket.getaddrinfo, "example.org", 443)
    blocked(socket.create_connection, ("example.org", 443))


def test_loopback_still_works():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            assert client.getpeername() == server.getsockname()


def test_a_child_process_is_sent_to_a_proxy_that_refuses():
    code = "import urllib.request as u; u.urlopen('https://example.org', timeout=5)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode != 0
    assert "Connection refused" in child.stderr
    assert urllib.request.getproxies()["https"].startswith("http://127.0.0.1")


def test_the_embedding_cache_is_private_to_the_run():
    from skmoecbm.store import default_cache_dir

    folder = Path(default_cache_dir()).resolve()
    assert folder.is_relative_to(Path(os.environ["SKMOECBM_TEST_CACHE"]).resolve())
    assert not folder.is_relative_to(Path.home())


def test_the_hub_is_offline_and_its_cache_private():
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    assert Path(constants.HF_HOME).is_relative_to(os.environ["SKMOECBM_TEST_CACHE"])
