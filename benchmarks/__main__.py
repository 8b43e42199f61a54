"""``python -m benchmarks``: names the benchmarks there are."""

import importlib
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("*.py")):
    text = path.read_text(encoding="utf-8")
    if path.stem != "__main__" and "def main(" in text:
        first = (importlib.import_module(f"benchmarks.{path.stem}").__doc__ or "").splitlines()[0]
        print(f"python -m benchmarks.{path.stem:10s} {first}")
