"""Whether a preset works on this machine: its weights, a drawn disc, and the demo's photographs from start to end.

What is asked holds for every pair of models that works, whatever its accuracy; a broken device, a damaged file or a
version of a library that computes something else shows here first. No FiftyOne is needed.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt import __version__
from fiftyone_ntt.demo.data import DemoImage, load_images
from fiftyone_ntt.errors import NttError, as_text, counted
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.references import ReferenceItem
from fiftyone_ntt.method.results import Instances
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.models.devices import AnyPrecision, choose_device, device_name, peak_memory
from fiftyone_ntt.models.presets import LoadedPreset, Preset, load_preset, resolve_preset
from fiftyone_ntt.pixels.packed_masks import masks_at_image_size

POINTS_PER_SIDE = 8
"""Enough for what is asked here; the presets' own grids take four to sixteen times as long."""
LEAST_IOU, LEAST_SIMILARITY = 0.8, 0.9
"""Of a drawn disc's mask with the disc, and of an object's vector with the prototype that it alone made."""
FOUND_IOU = 0.5
_LONGEST_REASON = 1500
T = TypeVar("T")
_HOLDS = {"motorcycle_left": ("motorcycle",), "motorcycle_right": ("motorcycle",), "coins_2": ("coin",)}
_PACKAGES = ("torch", "transformers", "sam2", "timm", "onnxruntime")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Step:
    """One thing that was asked.

    Attributes:
        name: what.
        ok: whether it holds.
        found: what was found.
    """

    name: str
    ok: bool
    found: str


@dataclass
class SelfCheck:
    """What came of it.

    Attributes:
        preset: name of the preset.
        steps: everything that was asked, in order.
        facts: what a maintainer wants to know: versions, device, memory, times, hashes.
    """

    preset: str
    steps: list[Step] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether everything holds."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    @property
    def verdict(self) -> str:
        """One line for people."""
        right = sum(step.ok for step in self.steps)
        where = f"preset {self.preset} on {self.facts.get('device', 'no device')}: {right} of {len(self.steps)} checks"
        if self.sound:
            return f"sound: {where}, {self.facts.get('time an image', '')}"
        wrong = next((step for step in self.steps if not step.ok), None)
        return f"not sound: {where}; {wrong.name}: {wrong.found}" if wrong else f"not sound: {where}"


def run_selfcheck(
    preset: str | Preset = "lite",
    device: str | None = None,
    *,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> SelfCheck:
    """Loads a preset and asks it what every pair of models that works can answer.

    Args:
        preset: its name, or a ``Preset``.
        device: as in ``load_preset``.
        precision: as in ``load_preset``.
        progress: called with steps done, steps in all, and what comes next.

    Returns:
        What came of it; what breaks down, on the way from weights to labels, is a step that does not hold.

    Raises:
        InputError: if there is no preset of that name, no such device, or no photographs (scikit-image has them).
    """
    preset = resolve_preset(preset)
    choose_device(device)
    images = {image.name: image for image in load_images()}  # ahead of weights, which may have to be fetched
    check = SelfCheck(preset.name, facts={"fiftyone-ntt": __version__, **_versions(), "system": _system()})
    tell = progress or (lambda done, total, message: None)
    tell(0, 4, "loading the models")
    started = time.perf_counter()
    loaded = _asked(
        check, "the models load", lambda: load_preset(preset, device, precision=cast(AnyPrecision, precision))
    )
    if loaded is None:
        return check
    check.facts["loading"] = f"{time.perf_counter() - started:.1f} s"
    _weights(check, loaded)
    segmenter = loaded.segmenter(POINTS_PER_SIDE)
    tell(1, 4, "a drawn disc")
    _asked(check, "a drawn disc is looked at", lambda: _disc(check, segmenter))
    tell(2, 4, "references")
    references = [images["coins_1"], images["motorcycle_left"]]
    bank = _asked(check, "references become a memory bank", lambda: _bank(check, segmenter, references))
    if bank is not None:
        tell(3, 4, "photographs")
        _asked(check, "photographs are labelled", lambda: _photographs(check, segmenter, bank, images))
    memory, kind = peak_memory(loaded.device)
    check.facts["memory"] = f"{memory / 1e6:,.0f} MB at most ({kind})"
    tell(4, 4, "done")
    return check


def _asked(check: SelfCheck, what: str, ask: Callable[[], T]) -> T | None:
    """What came of a step; ``None`` where it broke down, which is then something that does not hold."""
    try:
        return ask()
    except Exception as error:  # a device that does not work, and models of other packages, raise what they like
        reason = str(error) if isinstance(error, NttError) else f"{type(error).__name__}: {error}"
        check.steps.append(Step(what, False, as_text(" ".join(reason.split()), _LONGEST_REASON)))
        return None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _system() -> str:
    return f"{platform.platform()}, Python {platform.python_version()}, {counted(os.cpu_count() or 1, 'core')}"


def _weights(check: SelfCheck, loaded: LoadedPreset) -> None:
    check.facts["device"] = device_name(loaded.device)
    for name, digest in loaded.weights.items():
        check.facts[f"sha256 of {name}"] = digest
    # Files of known hashes are verified while they are loaded: who is here has the right ones.
    check.steps.append(Step("the models load", True, ", ".join(loaded.weights)))


# ---- A drawn disc ----


def _disc(check: SelfCheck, segmenter: Segmenter) -> None:
    """A red disc on green, off the middle of an image that is no square: rows for columns would show."""
    y, x = np.mgrid[:480, :640]
    inside = (x - 440) ** 2 + (y - 150) ** 2 < 90**2
    image = np.full((480, 640, 3), (90, 110, 90), np.uint8)
    image[inside] = (210, 60, 50)
    boxed = segmenter.box_masks(image, np.array([[350.0, 60.0, 530.0, 240.0]]))[0]
    prompted = _iou(boxed, inside)
    check.steps.append(Step("a box around a disc gives the disc", prompted >= LEAST_IOU, f"mask IoU {prompted:.2f}"))
    candidates = segmenter.candidates(image).candidates
    masks = (mask.full(inside.shape) for mask in masks_at_image_size(candidates, range(len(candidates))))
    best = max((_iou(mask, inside) for mask in masks), default=0.0)
    check.steps.append(Step("the disc is among the candidates", best >= LEAST_IOU, f"best mask IoU {best:.2f}"))


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 0.0


# ---- Photographs ----


def _bank(check: SelfCheck, segmenter: Segmenter, images: list[DemoImage]) -> MemoryBank:
    """A memory bank of the demo's references."""
    items = [
        ReferenceItem(image.pixels, item.mask, item.label, f"{image.name}/{number}")
        for image in images
        for number, item in enumerate(image.objects)
    ]
    bank = segmenter.build_bank(items, preset=check.preset, crops=False)
    check.steps.append(Step("references become a memory bank", len(bank.classes) == 2, ", ".join(bank.classes)))
    return bank


def _photographs(check: SelfCheck, segmenter: Segmenter, bank: MemoryBank, images: dict[str, DemoImage]) -> None:
    """References are found in themselves, and what holds a class scores above what does not."""
    started = time.perf_counter()
    results = {name: segmenter.segment(images[name].pixels, bank) for name in _HOLDS}
    seconds = (time.perf_counter() - started) / len(results)
    check.facts["time an image"] = (
        f"{1000 * seconds:,.0f} ms an image with {POINTS_PER_SIDE} x {POINTS_PER_SIDE} points"
    )
    finite = all(np.isfinite(result.scores).all() and np.isfinite(result.boxes).all() for result in results.values())
    check.steps.append(Step("every number is finite", finite, counted(sum(map(len, results.values())), "label")))
    _in_itself(check, results["motorcycle_left"], images["motorcycle_left"], bank)
    for label, positive in (("motorcycle", "motorcycle_right"), ("coin", "coins_2")):  # neither is a reference
        best = {name: _best(result, bank, label) for name, result in results.items()}
        others = {name: score for name, score in best.items() if label not in _HOLDS[name]}
        ok = all(best[positive] > score for score in others.values())
        found = ", ".join(f"{name} {score:.2f}" for name, score in {positive: best[positive], **others}.items())
        check.steps.append(Step(f"a {label} scores highest where there is one", ok, found))


def _in_itself(check: SelfCheck, result: Instances, image: DemoImage, bank: MemoryBank) -> None:
    """The motorcycle is the only reference of its class: its own vector is the class's prototype."""
    (item,) = image.objects
    of_class = np.flatnonzero(result.labels == bank.classes.index(item.label))
    places = [i for i in of_class if _iou(result.mask(int(i)), item.mask) > FOUND_IOU]
    similarity = 0.0 if result.similarity is None else float(result.similarity[places].max(initial=0.0))
    found = f"similarity {similarity:.2f}" if places else "no label on it"
    check.steps.append(Step("a reference is found in itself", similarity >= LEAST_SIMILARITY, found))


def _best(result: Instances, bank: MemoryBank, label: str) -> float:
    """The highest score of a class in an image; 0 where it has none."""
    of_class = result.labels == bank.classes.index(label)
    return float(result.scores[of_class].max(initial=0.0))
