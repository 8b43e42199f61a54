"""Which process is at work, and whether it is still there, whatever becomes of the clock meanwhile."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


def process_facts(pid: int | None = None) -> dict[str, Any]:
    """What identifies a process, this one where ``None``, until the machine starts again."""
    process = psutil.Process(pid)
    return {
        "machine": _machine(),
        "pid": process.pid,
        "born": process.create_time(),
        "ticks": _ticks_at_start(process.pid),
    }


def has_died(owner: dict[str, Any]) -> bool:
    """Whether the process is known to be gone: after a crash nobody has to wait for its lease to run out.

    Args:
        owner: its ``process_facts``; those of earlier versions are without ``ticks``.
    """
    if owner["machine"] != _machine():
        return False
    try:
        process = psutil.Process(owner["pid"])
        return process.status() == psutil.STATUS_ZOMBIE or _is_another(process, owner)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _is_another(process: psutil.Process, owner: dict[str, Any]) -> bool:
    """Whether a process has only the number of the one that is meant."""
    before, now = owner.get("ticks"), _ticks_at_start(process.pid)
    if before is not None and now is not None:
        return bool(before != now)
    return bool(abs(process.create_time() - owner["born"]) > 1)


def _ticks_at_start(pid: int) -> int | None:
    """Clock ticks between the start of the machine and that of a process; ``None`` where the system does not say.

    A clock that is set does not change them. The time of day at which a process started is worked out from the time of
    day at which the machine did, and moves with the clock.
    """
    with suppress(OSError, ValueError, IndexError):
        # Behind the name, which may hold blanks and brackets, comes the third field; this is the 22nd.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    return None


def _machine() -> str:
    """Where process ids mean the same: a container has its own, and copies of a machine may share a name."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')} {boot}"
    return platform.node()
