"""Thresholds of the C library's malloc: set once, only in glibc, only where nobody else did."""

import platform
import subprocess
import sys

import pytest

from skmoecbm import _allocator

GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.fixture
def calls(monkeypatch):
    """What mallopt was called with; it refuses thresholds above `limit`, as old versions do."""

    class Library(list):
        limit = 2**40

        def mallopt(self, parameter, value):
            self.append((parameter, value))
            return int(parameter != -3 or value <= self.limit)

    library = Library()
    monkeypatch.setattr(_allocator.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(_allocator.platform, "libc_ver", lambda: ("glibc", "2.39"))
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return library


keep = _allocator.keep_freed_memory.__wrapped__


def test_thresholds_are_set(calls):
    assert keep()
    assert calls == [(-3, 64 * 2**20), (-1, 256 * 2**20)]


def test_an_older_library_gets_what_it_takes(calls):
    calls.limit = 32 * 2**20
    assert keep()
    assert calls == [(-3, 64 * 2**20), (-3, 32 * 2**20), (-1, 256 * 2**20)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    ],
)
def test_the_users_own_thresholds_stay(calls, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not keep()
    assert not calls


def test_other_libraries_are_left_alone(calls, monkeypatch):
    monkeypatch.setattr(_allocator.platform, "libc_ver", lambda: ("", ""))
    assert not keep()
    assert not calls


@pytest.mark.skipif(not GLIBC, reason="only glibc has these thresholds")
def test_freed_memory_is_used_again():
    script = (
        "import ctypes, resource, sys\n"
        "from skmoecbm._allocator import keep_freed_memory\n"
        "def faults():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "print(keep_freed_memory() if sys.argv[1] == 'keep' else None)\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        "def use():\n"
        "    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(40_000_000)))\n"
        "    libc.memset(block, 1, ctypes.c_size_t(40_000_000))\n"
        "    libc.free(block)\n"
        "use()\n"
        "before = faults()\n"
        "for _ in range(10):\n"
        "    use()\n"
        "print(faults() - before)\n"
    )

    def run(mode):
        done = subprocess.run(
            [sys.executable, "-c", script, mode], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    told, kept = run("keep")
    _, returned = run("default")
    assert told == "True"
    assert int(kept) < 1000 < int(returned)  # ten times 9,766 pages


def test_freed_memory_is_given_back_only_where_the_c_library_can(monkeypatch):
    trimmed = []
    for trim in (None, trimmed.append):
        monkeypatch.setattr(_allocator, "_trim", lambda trim=trim: trim)
        _allocator.return_freed_memory()
    assert trimmed == [0]
    monkeypatch.undo()
    _allocator._trim.cache_clear()
    assert (_allocator._trim() is not None) == GLIBC
