"""Peak memory of a large image, beside the models: ``python -m benchmarks.memory [--megapixels 12] [--preset lite]``.

Two measurements, each in a fresh process, as the growth of the process' peak resident memory:

* ``match``: stage two on 1,024 synthetic candidates, all of one class and half of them large (the worst case);
* ``segment``: both stages with a real preset on a synthetic photograph, after the models are loaded and warm.

Beside them stands what the published code needs for its full-size stacks: 9 bytes for each pixel of up to 800 masks
(float32, bool, float32).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CANDIDATES = 1024
PUBLISHED_BYTES = 9 * 800


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def photograph(megapixels: float) -> np.ndarray:
    """A 4:3 picture with some hundred coloured ellipses: uint8 [H, W, 3]."""
    from PIL import Image, ImageDraw

    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    random = np.random.default_rng(0)
    image = Image.new("RGB", (width, height), (96, 120, 80))
    draw = ImageDraw.Draw(image)
    for _ in range(300):
        x, y = random.integers(0, width), random.integers(0, height)
        rx, ry = random.integers(width // 80, width // 10, 2)
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=tuple(random.integers(0, 256, 3).tolist()))
    return np.asarray(image)


def measure_match(megapixels: float) -> dict[str, float]:
    import torch
    import torch.nn.functional as F

    from fiftyone_ntt.core import Candidates, ImageFrame, MatchConfig, match_vectors

    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    frame = ImageFrame.squash((height, round(height * 4 / 3)))
    random = torch.Generator().manual_seed(0)
    coarse = (
        torch.randn(CANDIDATES, 1, 9, 9, generator=random) - torch.linspace(-1, 1.5, CANDIDATES)[:, None, None, None]
    )
    logits = F.interpolate(coarse, size=(256, 256), mode="bilinear")[:, 0]
    candidates = Candidates(logits, torch.rand(CANDIDATES, generator=random) * 0.5 + 0.5, frame)
    vectors = torch.rand(CANDIDATES, 1024, generator=random)
    match_vectors(candidates.select(torch.arange(2)), vectors[:2], vectors[:1])
    before, started = peak_gigabytes(), time.perf_counter()
    # No NMS: every candidate with a score reaches the merge, eight hundred of them as published.
    found = match_vectors(candidates, vectors, vectors[:1], MatchConfig(nms_threshold=1.0))
    return {"gigabytes": peak_gigabytes() - before, "seconds": time.perf_counter() - started, "instances": len(found)}


def measure_segment(megapixels: float, preset: str) -> dict[str, float]:
    from fiftyone_ntt.core import ReferenceItem
    from fiftyone_ntt.models import load_preset

    segmenter = load_preset(preset).segmenter()
    image, small = photograph(megapixels), photograph(0.3)
    mask = np.zeros(small.shape[:2], bool)
    mask[100:200, 100:200] = True
    bank = segmenter.build_bank([ReferenceItem(small, mask, "thing", "synthetic")], ["thing"])
    segmenter.segment(small, bank)
    before, started = peak_gigabytes(), time.perf_counter()
    found = segmenter.segment(image, bank)
    return {"gigabytes": peak_gigabytes() - before, "seconds": time.perf_counter() - started, "instances": len(found)}


def in_fresh_process(what: str, megapixels: float, preset: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", "--only", what, "--megapixels", str(megapixels)]
    result = subprocess.run([*command, "--preset", preset], capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=["match", "segment"], help="measure in this process (used internally)")
    args = parser.parse_args()
    if args.only == "match":
        print(json.dumps(measure_match(args.megapixels)))
        return
    if args.only == "segment":
        print(json.dumps(measure_segment(args.megapixels, args.preset)))
        return
    figures = {what: in_fresh_process(what, args.megapixels, args.preset) for what in ("match", "segment")}
    published = PUBLISHED_BYTES * args.megapixels * 1e6 / 1e9
    for what, row in figures.items():
        print(
            f"{what:8s} {args.megapixels:g} Mpx: {row['gigabytes']:.2f} GB beside the models, {row['seconds']:.1f} s, "
            f"{row['instances']:g} instances (published code's stacks: {published:.0f} GB, "
            f"{published / max(row['gigabytes'], 1e-3):.0f} times as much)"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
