"""Presets: which mask model goes with which feature model, and the settings that belong to the pair.

Nothing heavy is imported before a preset is loaded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

import torch

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.backends import FeatureModel, ProposalModel
from fiftyone_ntt.method.config import Granularity, ProposalConfig
from fiftyone_ntt.method.references import ReferenceSettings
from fiftyone_ntt.models.compiling import cuda_graphs
from fiftyone_ntt.models.devices import (
    AnyPrecision,
    Precision,
    choose_devices,
    fitting_now,
    fitting_once,
    settled_precision,
)
from fiftyone_ntt.models.hub_specs import Dinov2Spec, HubFeatureSpec, HubMaskSpec, check_runnable, gated_first
from fiftyone_ntt.models.specs import WEIGHTS, EfficientNetSpec, MiniSamSpec, ModelSpec, Sam2Spec

__all__ = [
    "PRESETS",
    "Dinov2Spec",
    "EfficientNetSpec",
    "LoadedPreset",
    "MiniSamSpec",
    "Preset",
    "Sam2Spec",
    "clear_loaded",
    "load_preset",
    "load_segmenters",
    "resolve_preset",
]

if TYPE_CHECKING:
    from fiftyone_ntt.method.segmenter import Segmenter

MODELS_KEPT = 4
"""Loaded models that stay in memory, on each device: those of two presets."""

POINTS_PER_BATCH, IMAGES_PER_BATCH = 64, 1
"""Prompts decoded and images encoded at once where memory is not asked (CPU, MPS)."""
_MOST_POINTS, _POINT_BYTES = 256, 40e6
_MOST_IMAGES, _IMAGE_BYTES = 8, 3e9
"""On CUDA: at most so many at once, and what one of them takes at the size of ``large`` in float32. Rough, computed and
not measured, and on the safe side: only half of the free memory is given away."""


@dataclass(frozen=True)
class Preset:
    """A pair of models and its settings. Change one with ``dataclasses.replace``.

    Attributes:
        name: kept with every memory bank and run; banks of one preset do not fit another.
        proposal: the mask model.
        features: the feature model.
        references: how references are shown to the feature model.
        points_per_side: the grid prompts this many points along each side of the image.
        points_per_batch: prompts decoded at once; ``None`` takes 64, on CUDA as many as free memory allows.
        grid: where the outer points lie, see ``ProposalConfig``.
        target_via: targets are squashed to this many pixels before the feature model's own size, as published;
            ``None`` goes there directly.
        summary: one line for people.
    """

    name: str
    proposal: ModelSpec[ProposalModel]
    features: ModelSpec[FeatureModel]
    references: ReferenceSettings = ReferenceSettings()
    points_per_side: int = 32
    points_per_batch: int | None = None
    grid: Literal["edge", "centre"] = "edge"
    target_via: int | None = 1024
    summary: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, most in (("points_per_side", 512), ("points_per_batch", 65_536), ("target_via", 16_384)):
            value = getattr(self, name)
            if value is None and name != "points_per_side":
                continue
            if type(value) is not int or not 1 <= value <= most:
                raise InputError(f"expected {name} of a preset to be a whole number from 1 to {most:,}, got {value!r}")

    def proposals(
        self,
        points_per_side: int | None = None,
        points: Literal["grid", "guided"] = "grid",
        granularity: Granularity = "best",
    ) -> ProposalConfig:
        """The settings of stage one, with another grid density if one is given; see ``ProposalConfig``."""
        return ProposalConfig(
            points_per_side=self.points_per_side if points_per_side is None else points_per_side,
            points_per_batch=self.points_per_batch or POINTS_PER_BATCH,
            grid=self.grid,
            points=points,
            granularity=granularity,
        )


@dataclass(frozen=True, eq=False)
class LoadedPreset:
    """A preset whose models are in memory.

    Attributes:
        preset: what was loaded.
        proposal_model: the mask model.
        feature_model: the feature model.
        device: where they run.
        compiled: whether they were to be compiled, which needs shapes that do not change.
    """

    preset: Preset
    proposal_model: ProposalModel
    feature_model: FeatureModel
    device: torch.device
    compiled: bool = False

    @property
    def weights(self) -> dict[str, str]:
        """Model name -> sha256 of its weights."""
        return {model.name: model.weights_hash for model in (self.proposal_model, self.feature_model)}

    def segmenter(
        self,
        points_per_side: int | None = None,
        points: Literal["grid", "guided"] = "grid",
        granularity: Granularity = "best",
        second_look: bool = False,
    ) -> Segmenter:
        """The method with these models and the preset's settings, but for those given (``ProposalConfig``)."""
        from fiftyone_ntt.method.segmenter import Segmenter

        proposals = self.preset.proposals(points_per_side, points, granularity)
        fitting = fitting_once if self.compiled else fitting_now
        if self.preset.points_per_batch is None:
            points_per_batch = fitting(self.device, _POINT_BYTES, _MOST_POINTS, POINTS_PER_BATCH)
            proposals = replace(proposals, points_per_batch=points_per_batch)
        return Segmenter(
            self.proposal_model,
            self.feature_model,
            references=self.preset.references,
            proposals=proposals,
            target_via=self.preset.target_via,
            images_per_batch=fitting(self.device, _IMAGE_BYTES, _MOST_IMAGES, IMAGES_PER_BATCH),
            static_shapes=self.compiled,
            second_look=second_look,
            preset=self.preset.name,
        )


def _sam2(version: str, size: str) -> Sam2Spec:
    letter = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}[size]
    return Sam2Spec(f"configs/{version}/{version}_hiera_{letter}.yaml", WEIGHTS[f"{version}_hiera_{size}.pt"])


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        # Its encoder is supervised on whole photographs and knows one scale only: hence the reference settings.
        Preset(
            "lite",
            MiniSamSpec(),
            EfficientNetSpec(),
            references=ReferenceSettings(context="image", weights="area", centre=True),
            points_per_side=16,
            grid="centre",
            summary="MobileSAM-like masks and EfficientNet-Lite0 features on the CPU; needs no model hub",
        ),
        Preset(
            "tiny",
            _sam2("sam2.1", "tiny"),
            Dinov2Spec("facebook/dinov2-small"),
            summary="SAM2.1 tiny and DINOv2 small",
        ),
        Preset(
            "base",
            _sam2("sam2.1", "base_plus"),
            Dinov2Spec("facebook/dinov2-base"),
            summary="SAM2.1 base+ and DINOv2 base",
        ),
        Preset(
            "large",
            _sam2("sam2.1", "large"),
            Dinov2Spec("facebook/dinov2-large"),
            summary="SAM2.1 large and DINOv2 large",
        ),
        # All that the publication used is spelt out here, whatever the defaults become.
        Preset(
            "paper",
            Sam2Spec("configs/sam2/sam2_hiera_l.yaml", WEIGHTS["sam2_hiera_large.pt"], add_no_mem_embed=False),
            Dinov2Spec("facebook/dinov2-large", input_size=518),
            references=ReferenceSettings(context="crop", context_ratio=0.2, weights="corner", centre=False),
            points_per_side=32,
            grid="edge",
            target_via=1024,
            summary="the published pair: SAM2 large of July 2024 and DINOv2 large without registers",
        ),
        # Further models, each beside one that is measured; none of these pairs has been measured here.
        Preset(
            "edge",
            HubMaskSpec("yonigozlan/EdgeTAM-hf"),
            Dinov2Spec("facebook/dinov2-small"),
            summary="EdgeTAM and DINOv2 small",
        ),
        Preset(
            "hq",
            HubMaskSpec("syscv-community/sam-hq-vit-base"),
            Dinov2Spec("facebook/dinov2-base"),
            summary="SAM-HQ base and DINOv2 base",
        ),
        Preset(
            "sam3",
            HubMaskSpec("facebook/sam3"),
            Dinov2Spec("facebook/dinov2-large"),
            summary="SAM3's tracker and DINOv2 large",
        ),
        Preset(
            "dinov3",
            _sam2("sam2.1", "large"),
            HubFeatureSpec("facebook/dinov3-vitl16-pretrain-lvd1689m", positions_removed=500),
            summary="SAM2.1 large and DINOv3 large without 500 directions of position",
        ),
        Preset(
            "radio",
            _sam2("sam2.1", "large"),
            HubFeatureSpec("nvidia/C-RADIOv4-H"),
            summary="SAM2.1 large and C-RADIOv4 H",
        ),
        Preset(
            "tips",
            _sam2("sam2.1", "large"),
            HubFeatureSpec("google/tipsv2-b14"),
            summary="SAM2.1 large and TIPSv2 base",
        ),
    )
}
"""The presets by name."""


def load_preset(
    preset: str | Preset = "lite", device: str | None = None, *, precision: AnyPrecision = "fp32", compile: bool = False
) -> LoadedPreset:
    """Loads a preset's models, or takes them from memory where they were loaded before.

    Args:
        preset: one of ``PRESETS``, or a ``Preset`` of one's own.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` ...; by default the best there is, the first one of several. A preset
            that runs on the CPU only stays there, in float32.
        precision: of the encoders: ``"fp32"``, or autocast to ``"bf16"`` or ``"fp16"``, which is faster on CUDA and
            changes the results a little: compare by AP, not by equality. ``"auto"`` is bf16 on CUDA devices that
            have it, and fp32 on all others.
        compile: run the networks through ``torch.compile``. That takes minutes, once a process: ``Segmenter.warm_up``
            does it ahead of the first image; the log says how long it took.

    Raises:
        InputError: unknown preset, device or precision.
        MissingWeightsError: weights are not on this machine and cannot be fetched.
        WeightsMismatchError: weights are not the expected ones.
    """
    chosen, targets = resolve_preset(preset), choose_devices(device)[:1]
    return _load_on(chosen, targets[0], settled_precision(precision, targets), compile)


def load_segmenters(
    preset: str | Preset = "lite",
    device: str | None = None,
    points_per_side: int | None = None,
    *,
    points: Literal["grid", "guided"] = "grid",
    granularity: Granularity = "best",
    second_look: bool = False,
    precision: AnyPrecision = "fp32",
    compile: bool = False,
) -> list[Segmenter]:
    """One segmenter a device, for ``fiftyone_ntt.candidates.stream``.

    Args:
        preset: one of ``PRESETS``, or a ``Preset`` of one's own.
        device: as in ``load_preset``; ``"all"`` or ``"cuda:0,cuda:1"`` for several.
        points_per_side: prompt points along each side of the image; the preset's number where ``None``.
        points: ``"guided"`` prompts only the most promising part of the grid, see ``ProposalConfig``.
        granularity: which of a point's three masks becomes a candidate, see ``ProposalConfig``.
        second_look: encode groups of candidates again, cropped.
        precision: see ``load_preset``; ``"auto"`` is the same on all devices.
        compile: see ``load_preset``.

    Returns:
        At least one segmenter; a preset that runs on the CPU only has one whatever the devices.

    Raises:
        NttError: see ``load_preset``.
    """
    chosen = resolve_preset(preset)
    targets = choose_devices(device)
    settled = settled_precision(precision, targets)
    loaded = [_load_on(chosen, target, settled, compile) for target in targets]
    return [
        preset.segmenter(points_per_side, points, granularity, second_look)
        for preset in {preset.device: preset for preset in loaded}.values()
    ]


def _load_on(chosen: Preset, target: torch.device, precision: Precision, compile: bool) -> LoadedPreset:
    options = _Options(chosen.name, precision, compile, compile and cuda_graphs())
    specs: tuple[ModelSpec[Any], ...] = (chosen.proposal, chosen.features)
    check_runnable(chosen.name, *specs)  # before anything is fetched
    models = {spec: _loaded(spec, target, options) for spec in gated_first(specs)}
    for_cpu = chosen.proposal.cpu_only and chosen.features.cpu_only
    used = torch.device("cpu") if for_cpu else target
    return LoadedPreset(chosen, models[specs[0]], models[specs[1]], used, compile and not for_cpu)


def resolve_preset(preset: str | Preset) -> Preset:
    """The preset of a name; a ``Preset`` is returned as it is.

    Raises:
        InputError: there is no preset of that name.
    """
    from fiftyone_ntt.models.preset_registry import find_preset

    return preset if isinstance(preset, Preset) else find_preset(preset)


def precision_of(preset: Preset, precision: AnyPrecision, device: str | None = None) -> Precision:
    """What a precision comes to for a preset on devices as ``load_segmenters`` takes them: never ``"auto"``.

    Raises:
        InputError: unknown device or precision.
    """
    if precision == "auto" and preset.proposal.cpu_only and preset.features.cpu_only:
        return "fp32"
    return settled_precision(precision, choose_devices(device) if precision == "auto" else [])


def clear_loaded() -> None:
    """Forgets the models kept in memory, e.g. after a weights file was replaced."""
    with _lock:
        _models.clear()
        fitting_once.cache_clear()


@dataclass(frozen=True)
class _Options:
    """How models are loaded, besides what and where. The preset's name is for messages only."""

    preset: str = field(compare=False)
    precision: Precision = "fp32"
    compile: bool = False
    graphs: bool = False

    def arguments(self) -> dict[str, Any]:
        """Those that a loader must understand: specs of one's own need not know what is not asked of them."""
        given = {"precision": self.precision, "compile": self.compile}
        return {name: value for name, value in given.items() if value not in ("fp32", False)}


_Key: TypeAlias = tuple[object, torch.device, _Options]
_models: OrderedDict[_Key, object] = OrderedDict()
_lock = threading.RLock()

ModelT = TypeVar("ModelT")


def _loaded(spec: ModelSpec[ModelT], device: torch.device, options: _Options) -> ModelT:
    """Loads a model once per spec, device and options; presets that share a model share it in memory."""
    if spec.cpu_only:
        device, options = torch.device("cpu"), _Options(options.preset)
    key = (spec, torch.device(device.type, device.index or 0), options)  # "cuda" is "cuda:0"
    return cast(ModelT, _kept(key, lambda: spec.load(device, preset=options.preset, **options.arguments())))


def _kept(key: _Key, make: Callable[[], object]) -> object:
    with _lock:
        if key not in _models:
            model = make()
            others = [other for other in _models if other[1] == key[1]]
            for oldest in others[: max(0, len(others) - MODELS_KEPT + 1)]:
                del _models[oldest]
            _models[key] = model
        _models.move_to_end(key)
        return _models[key]
