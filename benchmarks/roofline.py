"""What this machine is, and the best it does: ``python -m benchmarks.roofline [--device cuda]``.

Two roofs, both measured: operations a second of a large matrix product at the precision in use, and bytes a second of
a copy (or of ``a + 2 b``, if that is faster). A stage needs at least the longer of (its FLOP / the first roof) and (its
bytes / the second); the percentage is that time over the measured one. Bytes are those of eager execution without
caches (see ``benchmarks.work``): on a CPU, whose caches hold whole tensors, a stage bound by them can pass 100 %.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.clock import settle
from benchmarks.tables import number, table, write_json

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PACKAGES = ("torch", "numpy", "onnxruntime", "transformers", "sam2")


@dataclass(frozen=True)
class Roofline:
    """The two roofs of one device.

    Attributes:
        device: where it was measured.
        precision: of the matrix product: fp32, tf32 (float32 numbers, shortened in the product; CUDA), bf16 or fp16.
        flops: operations a second.
        bytes: bytes a second.
        threads: torch's threads while measuring.
    """

    device: str
    precision: str
    flops: float
    bytes: float
    threads: int

    def bound(self, flops: float, moved: float) -> tuple[float, str]:
        """The least seconds for that work, and which roof says so: ``"FLOP"`` or ``"bytes"``."""
        by_flops, by_bytes = flops / self.flops, moved / self.bytes
        return max((by_flops, "FLOP"), (by_bytes, "bytes"))


def measure(device: torch.device, precision: str = "fp32", *, seconds: float = 0.5) -> Roofline:
    """Measures both roofs, for about ``seconds`` each."""
    cuda = device.type == "cuda"
    side, amount = (8192, 1 << 28) if cuda else (2048, 1 << 25)  # 1 GB and 128 MB: beyond any cache
    dtype = DTYPES[precision]
    with torch.inference_mode():
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        with _tf32(precision == "tf32"):
            product = _best(lambda: torch.mm(left, right), device, seconds)
        a, b, c = (torch.ones(amount, device=device) for _ in range(3))
        copied = _best(lambda: c.copy_(a), device, seconds / 2)
        triad = _best(lambda: torch.add(a, b, alpha=2, out=c), device, seconds / 2)
    moved = max(2 * a.nbytes / copied, 3 * a.nbytes / triad)
    return Roofline(str(device), precision, 2 * side**3 / product, moved, torch.get_num_threads())


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _best(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The shortest of as many runs as fit, after one to warm up. The best, because a roof is what is possible."""
    work()
    settle(device)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        work()
        settle(device)
        times.append(time.perf_counter() - started)
    return min(times)


def machine(device: torch.device) -> dict[str, str]:
    """What the figures were measured on, for people."""
    facts = {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "load": f"{os.getloadavg()[0]:.1f} processes in the last minute (this benchmark included)",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["GPU"] = (
            f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 1e9:.0f} GB, compute "
            f"capability {properties.major}.{properties.minor}, driver {_driver()}, CUDA {torch.version.cuda}"
        )
    return facts


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.splitlines()[0].strip()


def describe(facts: dict[str, str]) -> str:
    """The machine as a table."""
    return table(["machine", ""], [[name, value] for name, value in facts.items()])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    roofs = [measure(device, precision) for precision in (DTYPES if device.type == "cuda" else ["fp32", "bf16"])]
    facts = machine(device)
    print(describe(facts) + "\n")
    rows = [[roof.precision, number(roof.flops / 1e9), number(roof.bytes / 1e9)] for roof in roofs]
    print(table(["roofs", "GFLOP/s", "GB/s"], rows))
    write_json(args.json, {"machine": facts, "roofs": [asdict(roof) for roof in roofs]})


if __name__ == "__main__":
    main()
