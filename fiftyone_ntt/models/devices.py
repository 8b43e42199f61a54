"""The one place where the computing device is chosen."""

from __future__ import annotations

import torch

from fiftyone_ntt.errors import InputError


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
    return list({(one.type, one.index or 0): one for one in reversed(chosen)}.values())[::-1]


def free_memory(device: torch.device) -> int | None:
    """Bytes that models may still take on a CUDA device, torch's own unused ones included; ``None`` elsewhere."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


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
