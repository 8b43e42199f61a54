"""Specs of models that come through ``transformers``, and what is to be known of weights before they are fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, TypeVar

import torch

from fiftyone_ntt.errors import InputError, MissingWeightsError
from fiftyone_ntt.method.backends import FeatureModel, ProposalModel
from fiftyone_ntt.models.devices import Precision
from fiftyone_ntt.pixels.files import expanded

SpecT = TypeVar("SpecT")


@dataclass(frozen=True)
class Card:
    """What is to be known of a model before its weights are fetched.

    Attributes:
        licence: of the weights, as declared by their authors.
        parameters: millions, as published; 0 where nobody says.
        gated: whether the hub gives them only to who has accepted terms.
        transformers: the oldest version that has the model; empty where it needs none.
        packages: what else must be installed.
    """

    licence: str
    parameters: int = 0
    gated: bool = False
    transformers: str = ""
    packages: tuple[str, ...] = ()

    def problem(self) -> str:
        """What keeps the model from running here and what to do about it, as one sentence's end; empty if nothing."""
        for package in self.packages:
            if _installed(package) is None:
                return f"needs the package {package}, which is not installed: run `pip install {package}`"
        have = _installed("transformers") if self.transformers else None
        if self.transformers and (have is None or release_of(have) < release_of(self.transformers)):
            return (
                f"needs transformers {self.transformers} or newer, and {have or 'none'} is installed: "
                "run `pip install --upgrade transformers`"
            )
        return ""


def _installed(package: str) -> str | None:
    """Its version, ``None`` if it is not there; SAM2 as Meta's own repository installs it has another name, SAM-2."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None if find_spec(package.replace("-", "_")) is None else "unknown"


def release_of(text: str) -> tuple[int, int, int]:
    """The three numbers that a version begins with, those that lack as 0: ``"5.0rc1"`` is (5, 0, 0)."""
    begin = re.match(r"\d+(?:\.\d+)*", text.strip())
    first, second, third, *_ = [*(int(number) for number in begin[0].split(".")), 0, 0, 0] if begin else [0, 0, 0]
    return first, second, third


_APACHE, _DINOV3 = "Apache-2.0", "DINOv3 License"

CARDS = {
    "sam2_hiera_large.pt": Card(_APACHE, 224, packages=("sam2",)),
    "sam2.1_hiera_tiny.pt": Card(_APACHE, 39, packages=("sam2",)),
    "sam2.1_hiera_small.pt": Card(_APACHE, 46, packages=("sam2",)),
    "sam2.1_hiera_base_plus.pt": Card(_APACHE, 81, packages=("sam2",)),
    "sam2.1_hiera_large.pt": Card(_APACHE, 224, packages=("sam2",)),
    "facebook/sam2.1-hiera-large": Card(_APACHE, 224, transformers="4.56"),
    "yonigozlan/EdgeTAM-hf": Card(_APACHE, 14, transformers="4.57", packages=("timm",)),
    "syscv-community/sam-hq-vit-base": Card(_APACHE, 94, transformers="4.52"),
    "facebook/sam3": Card("SAM License", 848, gated=True, transformers="5.0"),
    "facebook/dinov2-small": Card(_APACHE, 22, transformers="4.48"),
    "facebook/dinov2-base": Card(_APACHE, 86, transformers="4.48"),
    "facebook/dinov2-large": Card(_APACHE, 304, transformers="4.48"),
    "facebook/dinov2-with-registers-large": Card(_APACHE, 304, transformers="4.48"),
    "facebook/dinov3-vitl16-pretrain-lvd1689m": Card(_DINOV3, 300, gated=True, transformers="4.56"),
    "nvidia/C-RADIOv4-H": Card("NVIDIA Open Model License", 653, transformers="5.24"),
    "google/tipsv2-b14": Card(_APACHE, 86, transformers="5.13"),
    "MiniSamSpec": Card("MIT (as declared)", 10, packages=("onnx", "onnxruntime")),
    "EfficientNetSpec": Card(_APACHE, 5, packages=("efficientnet-lite-pytorch",)),
    # Weights of one's own.
    "Sam2Spec": Card("?", packages=("sam2",)),
    "Dinov2Spec": Card("?", transformers="4.48"),
    "HubMaskSpec": Card("?", transformers="4.52"),
    "HubFeatureSpec": Card("?", transformers="4.48"),
}
"""By the repository, the weights file, or the kind of spec; sizes as their authors state them."""


def card_of(spec: object) -> Card | None:
    """What is known of a spec's model; its own ``card`` first. ``None`` for what nobody has described."""
    own = getattr(spec, "card", None)
    file = getattr(spec, "checkpoint", None)
    names = (getattr(spec, "repo", None), getattr(file, "name", None), type(spec).__name__)
    return own or next((CARDS[name] for name in names if name in CARDS), None)


def check_runnable(preset: str, *specs: object) -> None:
    """Raises MissingWeightsError, in one sentence, where packages or versions that models need are not here."""
    problems = dict.fromkeys(card.problem() for card in map(card_of, specs) if card is not None)
    if said := "; it ".join(problem for problem in problems if problem):
        raise MissingWeightsError(f"the preset {preset!r} {said}")


def gated_first(specs: Iterable[SpecT]) -> list[SpecT]:
    """Specs in the order in which their weights are fetched: no gigabyte for one that waits behind a gate."""
    cards = [(card_of(spec), spec) for spec in specs]
    return [spec for card, spec in sorted(cards, key=lambda item: item[0] is None or not item[0].gated)]


def _source(spec: HubMaskSpec | HubFeatureSpec, preset: str) -> Path:
    """The folder of the weights. Gated ones that are nowhere get a sentence that says how to come by them."""
    from fiftyone_ntt.models.hub_folders import find_folder

    if spec.path is not None:
        return find_folder(expanded(spec.path))
    card = card_of(spec)
    try:
        return find_folder(spec.repo)
    except MissingWeightsError as error:
        if card is None or not card.gated:
            raise
        raise MissingWeightsError(
            f"the preset {preset!r} needs {spec.repo}, which is gated and not on this machine: accept its terms at "
            f"https://huggingface.co/{spec.repo}, run `hf auth login`, and load the preset again"
        ) from error


def _check_given(spec: HubMaskSpec | HubFeatureSpec) -> None:
    if not spec.repo and spec.path is None:
        raise InputError(f"expected a Hugging Face repository or a folder for a {type(spec).__name__}, got neither")


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

        source = self.repo if self.path is None else expanded(self.path)
        return Dinov2(source, device=device, input_size=self.input_size, precision=precision, compile=compile)


@dataclass(frozen=True)
class HubMaskSpec:
    """A mask model of ``transformers``: SAM2, SAM2.1, EdgeTAM, SAM3's tracker or SAM-HQ, as the folder says.

    Attributes:
        repo: Hugging Face repository.
        path: explicit folder with config.json and model.safetensors; ``repo`` then only names it.
        add_no_mem_embed: see ``HubSam2``; SAM-HQ has no such thing.
        card: what is known of the model, where ``CARDS`` does not have it.
    """

    repo: str = ""
    path: str | Path | None = None
    add_no_mem_embed: bool = False
    card: Card | None = None
    cpu_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_given(self)

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> ProposalModel:
        """Finds the folder and loads it."""
        from fiftyone_ntt.models import hub_hq, hub_masks
        from fiftyone_ntt.models.hub_folders import kind_of

        check_runnable(preset, self)
        folder = _source(self, preset)
        name = Path(self.repo or str(self.path)).name
        if kind_of(folder, {**hub_masks.KINDS, **hub_hq.KINDS}) in hub_hq.KINDS:
            return hub_hq.HubSamHq(folder, device=device, name=name, precision=precision, compile=compile)
        return hub_masks.HubSam2(
            folder,
            device=device,
            add_no_mem_embed=self.add_no_mem_embed,
            name=name,
            precision=precision,
            compile=compile,
        )


@dataclass(frozen=True)
class HubFeatureSpec:
    """A feature model of ``transformers``: DINOv3, C-RADIO, TIPSv2, SigLIP or SigLIP2, as the folder says.

    Attributes:
        repo: Hugging Face repository.
        path: explicit folder with config.json and model.safetensors; ``repo`` then only names it.
        input_size: side of the square input in pixels; that of the kind where ``None``.
        normalisation: see ``HubFeatures``.
        positions_removed: see ``HubFeatures``.
        card: what is known of the model, where ``CARDS`` does not have it.
    """

    repo: str = ""
    path: str | Path | None = None
    input_size: int | None = None
    normalisation: str | None = None
    positions_removed: int = 0
    card: Card | None = None
    cpu_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_given(self)

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> FeatureModel:
        """Finds the folder and loads it."""
        from fiftyone_ntt.models.hub_features import KINDS, HubFeatures
        from fiftyone_ntt.models.hub_folders import kind_of
        from fiftyone_ntt.models.hub_text import READERS, HubTextFeatures

        check_runnable(preset, self)
        folder = _source(self, preset)
        features = HubTextFeatures if kind_of(folder, KINDS) in READERS else HubFeatures
        return features(
            folder,
            device=device,
            input_size=self.input_size,
            normalisation=self.normalisation,
            positions_removed=self.positions_removed,
            name=Path(self.repo or str(self.path)).name,
            precision=precision,
            compile=compile,
        )
