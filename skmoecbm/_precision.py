"""Which number format a forward pass runs in, and the process-wide switch that goes with it."""

import contextlib
import threading

import numpy as np
import torch

__all__ = [
    "HALF_TYPES",
    "MIN_COSINE",
    "MIN_SPEEDUP",
    "N_PROBES",
    "SMALL_NETWORK",
    "candidates",
    "precision_context",
    "probe_images",
]

HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
MIN_COSINE = 0.999
# Wide enough that two timings on a busy machine seldom choose differently.
MIN_SPEEDUP = 1.25
# Images timed: on a processor each costs a good part of a second, on a GPU few keep it busy.
N_PROBES = {"cpu": 4, "cuda": 32}
# Below this many parameters speed hardly matters, and float32 gives every machine the same rows.
SMALL_NETWORK = 20_000_000


class _MatmulMode:
    """Hold torch's process-wide float32 matmul switch at a value while anyone needs it there.

    Threads that want the same value run together; one that wants another waits.
    """

    def __init__(self):
        self._condition = threading.Condition()
        self._mode = None
        self._restore = None
        self._users = 0

    @contextlib.contextmanager
    def __call__(self, mode):
        with self._condition:
            self._condition.wait_for(lambda: self._mode in (None, mode))
            if self._users == 0:
                self._restore = _set_matmul(mode)
                self._mode = mode
            self._users += 1
        try:
            yield
        finally:
            with self._condition:
                self._users -= 1
                if self._users == 0:
                    self._restore()
                    self._mode = None
                    self._condition.notify_all()


def _set_matmul(mode):
    """Set the switch; return the function that puts it back. Untouched where it is right."""
    try:
        previous = torch.get_float32_matmul_precision()
    except RuntimeError:
        # torch refuses its old switch once the user has turned the new ones.
        switches = [torch.backends.mkldnn.matmul, torch.backends.cuda.matmul]
        values = [switch.fp32_precision for switch in switches]
        switches[0].fp32_precision = "bf16" if mode == "medium" else "ieee"
        switches[1].fp32_precision = "ieee"

        def restore():
            for switch, value in zip(switches, values, strict=True):
                switch.fp32_precision = value

        return restore
    if previous == mode:
        return lambda: None
    torch.set_float32_matmul_precision(mode)
    return lambda: torch.set_float32_matmul_precision(previous)


_matmul_mode = _MatmulMode()


def candidates(device, n_parameters):
    """Return the formats that may be faster than float32 on this device.

    Parameters
    ----------
    device : torch.device
    n_parameters : int
        Number of weights; small networks stay in float32.

    Returns
    -------
    list of {"fp16", "bf16", "fp32-medium"}
    """
    if n_parameters < SMALL_NETWORK:
        return []
    if device.type == "cuda":
        return ["fp16", "bf16"] if torch.cuda.is_bf16_supported() else ["fp16"]
    found = []
    # Before torch 2.10 there is no public word on the processor: float32 then.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    if any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16")):
        found.append("bf16")
    # "medium" hands float32 products to oneDNN, which takes them with AVX-512 only.
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        found.append("fp32-medium")
    return found


@contextlib.contextmanager
def precision_context(precision, device):
    """Run a block without gradients in the given format, and leave every switch as it was.

    Parameters
    ----------
    precision : {"fp32", "fp32-medium", "bf16", "fp16"}
    device : torch.device
    """
    dtype = HALF_TYPES.get(precision)
    mode = "medium" if precision == "fp32-medium" else "highest"
    with (
        torch.inference_mode(),
        _matmul_mode(mode),
        torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
    ):
        yield


def probe_images(size, n):
    """Return smooth coloured fields with some grain, float32 (n, 3, h, w), about N(0, 1)."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.standard_normal((n, 3, 6, 6)))
    fields = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    grain = torch.from_numpy(rng.standard_normal((n, 3, *size)))
    return (fields + 0.1 * grain).float()
