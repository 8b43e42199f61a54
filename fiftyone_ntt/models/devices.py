"""Where and how the networks run: device, number format, threads. The only place where that is decided.

The defaults change nothing: the best device here, float32, eager. On the CPU prompts run in parallel, each on one
thread from start to end, none waiting for another: torch splits every single operation among its threads instead, and
they wait for each other after each. The decoder's operations are too small for that: it gains less with two threads,
nothing with many, and beside any other busy process the waiting makes it several times slower.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError

# ---- Devices ----


def choose_device(device: str | None = None) -> torch.device:
    """Picks the device the models run on.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` ..., or ``None`` for the best one here: CUDA, else
            MPS, else CPU.

    Raises:
        InputError: the named device is unknown or not on this machine.
    """
    if device is None:
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if _count(kind)))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"expected a device such as 'cpu', 'cuda', 'cuda:0' or 'mps', got {device!r}") from error
    if (chosen.index or 0) >= _count(chosen.type):
        here = ", ".join(_available())
        raise InputError(
            f"device {device!r} was asked for, but this machine offers: {here}. Choose one of those, or leave the "
            "device out to let it be picked"
        )
    return chosen


def choose_devices(device: str | None = None) -> list[torch.device]:
    """Picks one device or several, to share the images among them.

    Args:
        device: what ``choose_device`` takes; several of those with commas between, ``"cuda:0,cuda:1"``; or ``"all"``
            for every CUDA device, where there is none the best other one.

    Returns:
        At least one device, none of them twice.

    Raises:
        InputError: a named device is unknown or not on this machine.
    """
    if device == "all":
        return [torch.device("cuda", index) for index in range(_count("cuda"))] or [choose_device()]
    names = device.split(",") if isinstance(device, str) else [device]
    chosen = [choose_device(name.strip() if name else name) for name in names]
    return list({(device.type, device.index or 0): device for device in reversed(chosen)}.values())[::-1]


def free_memory(device: torch.device) -> int | None:
    """Bytes that models may still take on a CUDA device, torch's own unused ones included; ``None`` elsewhere."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def fitting_now(device: torch.device, bytes_each: float, most: int, otherwise: int) -> int:
    """The power of two that half of the free memory has room for; ``otherwise`` where memory cannot be asked."""
    free = free_memory(device)
    if free is None:
        return otherwise
    return 1 << (int(min(most, max(1, free / 2 / bytes_each))).bit_length() - 1)


fitting_once = lru_cache(fitting_now)
"""The same answer for a whole process: what is compiled is for one size, and free memory changes from run to run."""


def device_name(device: torch.device) -> str:
    """A device for people: of a CUDA device also what card it is."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Bytes that were taken at most since the process began, and of which memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "of the device"
    try:
        import resource
    except ImportError:  # Windows has no such thing
        return 0, "unknown here"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most, "of the process"


def _available() -> list[str]:
    """Names of the devices that could be asked for."""
    names = [f"cuda:{index}" for index in range(_count("cuda"))]
    return ["cpu", *names, *(["mps"] if _count("mps") else [])]


def _count(kind: str) -> int:
    """How many devices of a kind there are; 0 for kinds this package was never tried on."""
    if kind == "cpu":
        return 1
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return 0


# ---- Precision ----

Precision = Literal["fp32", "bf16", "fp16"]
AnyPrecision = Literal["fp32", "bf16", "fp16", "auto"]
"""What may be asked for; ``"auto"`` is never what a model computes in."""
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str) -> None:
    """Raises InputError unless it is a known precision, or ``"auto"``."""
    if precision not in (*_TYPES, "auto"):
        raise InputError(f"expected a precision of {', '.join(_TYPES)}, auto, got {precision!r}")


def settled_precision(precision: AnyPrecision, devices: Sequence[torch.device]) -> Precision:
    """What a precision comes to on some devices, which share the images: ``"auto"`` is bf16 if all of them have it.

    fp16 it never is: activations of large encoders may leave its range.

    Raises:
        InputError: it is unknown.
    """
    check_precision(precision)
    if precision != "auto":
        return precision
    return "bf16" if all(map(has_bf16, devices)) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16 itself: CUDA of compute capability 8.0 (Ampere) or higher.

    Others emulate it, or have it and gain nothing that was measured: the CPU and MPS count as without.
    """
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Runs a network in that precision, whatever its caller has switched on, as notebooks do for all that follows.

    Its weights stay float32, and so do the sums that need it.
    """
    if precision != "fp32":
        return torch.autocast(device.type, _TYPES[precision])
    return torch.autocast(device.type, enabled=False) if is_autocast(device) else nullcontext()


def is_autocast(device: torch.device) -> bool:
    """Whether autocast is on for a device; there are kinds that have none, and torch raises where asked about those."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


_tf32_users = 0
_tf32_before = False
_tf32_lock = threading.Lock()


@contextmanager
def matmul(device: torch.device, precision: Precision) -> Iterator[None]:
    """Lets float32 products of a CUDA device use TF32 inside, unless the precision is float32.

    The switch is the process's: it goes back when the last of all threads inside has left.
    """
    global _tf32_users, _tf32_before
    if device.type != "cuda" or precision == "fp32":
        yield
        return
    with _tf32_lock:
        if _tf32_users == 0:
            _tf32_before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = True
        _tf32_users += 1
    try:
        yield
    finally:
        with _tf32_lock:
            _tf32_users -= 1
            if _tf32_users == 0:
                torch.backends.cuda.matmul.allow_tf32 = _tf32_before


# ---- Threads of the CPU ----

T = TypeVar("T")
R = TypeVar("R")

_lock = threading.Lock()
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The function's results, in order, from as many threads as torch uses; torch is single-threaded in each."""
    work = list(items)
    count = torch.get_num_threads()
    if count == 1 or len(work) < 2:
        return [function(item) for item in work]
    return list(_pool(count).map(function, work))


def _pool(count: int) -> ThreadPoolExecutor:
    """The pool of this process; a forked child has none of its parent's threads."""
    with _lock:
        key = (os.getpid(), count)
        if key not in _pools:
            _pools[key] = _single_threaded(count)
        return _pools[key]


def _single_threaded(count: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(count, thread_name_prefix="ntt-decoder")
    together = threading.Barrier(count)

    def prepare() -> None:
        use_torch_threads(1)  # in effect for this thread alone ...
        together.wait()

    for future in [pool.submit(prepare) for _ in range(count)]:
        future.result()
    use_torch_threads(count)  # also for threads that start later
    return pool


def use_torch_threads(count: int) -> None:
    """Torch operators called from this thread use ``count`` threads; other threads that have begun keep theirs.

    Threads that begin later take over the number set last, by whichever thread: put it right when all have begun.
    """
    torch.get_num_threads()  # a thread's first question makes it take over the process's number; then ours stays
    torch.set_num_threads(count)


def fetched(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors as arrays in the CPU's memory; all those on a device come in one transfer.

    Args:
        tensors: by name; those that are not on the CPU are all on one device.
    """
    away = {name: tensor for name, tensor in tensors.items() if tensor.device.type != "cpu"}
    here = {name: tensor.numpy() for name, tensor in tensors.items() if name not in away}
    return {**here, **(_together(away) if away else {})}


def _together(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors of one device as arrays, by way of one row of bytes."""
    # The widest first, so that each begins at a multiple of its size.
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
    parts = [tensors[name].contiguous().flatten().view(torch.uint8) for name in names]
    row, ends = torch.cat(parts).cpu().numpy(), np.cumsum([len(part) for part in parts])
    arrays = {}
    for name, part in zip(names, np.split(row, ends[:-1]), strict=True):
        kind = torch.empty(0, dtype=tensors[name].dtype).numpy().dtype
        arrays[name] = part.view(kind).reshape(tuple(tensors[name].shape))
    return arrays
