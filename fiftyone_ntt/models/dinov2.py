"""DINOv2, with and without registers, as a feature model, through ``transformers``."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fiftyone_ntt.errors import InputError, MissingWeightsError, WeightsMismatchError, counted
from fiftyone_ntt.models.devices import Compiled, Precision, autocast
from fiftyone_ntt.models.specs import hub_reachable, sha256_of
from fiftyone_ntt.pixels.files import read_file
from fiftyone_ntt.pixels.frames import imagenet_normalize

logger = logging.getLogger(__name__)

INPUT_SIZE = 518
CROP_SIZE = 256
"""About the side of the input that crops are encoded at; the patch grid decides it."""
FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
CLASSES = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
"""``model_type`` of a folder's config.json -> class in transformers."""


class Dinov2:
    """A ``FeatureModel``: the patch tokens of a DINOv2 vision transformer after its final LayerNorm.

    Args:
        path_or_repo: folder written by ``save_pretrained``, or a repository of the Hugging Face hub, e.g.
            ``"facebook/dinov2-large"``; only ``config.json`` and safetensors files are used.
        device: where to run.
        input_size: side of the square input in pixels; a multiple of the patch size.
        name: name for provenance; by default the last part of ``path_or_repo``.
        precision: in which the transformer runs; tokens are float32 in any case.
        compile: run it through ``torch.compile``.

    Raises:
        MissingWeightsError: neither a folder, nor in the hub's cache, nor to be had from the hub.
        WeightsMismatchError: the folder holds another kind of model, or not all of its weights.
        InputError: ``input_size`` does not suit the model.
    """

    def __init__(
        self,
        path_or_repo: str | Path,
        *,
        device: str | torch.device = "cpu",
        input_size: int = INPUT_SIZE,
        name: str | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
    ) -> None:
        folder = find_folder(path_or_repo)
        self.device = torch.device(device)
        self.precision = precision
        self.name = name or Path(path_or_repo).name
        self.weights_hash = hash_of_folder(folder)
        self.model = load_model(folder)
        self.model.requires_grad_(False).to(self.device)
        self.input_size = input_size
        self.grid = _grid(input_size, self.model.config.patch_size)
        self.crop_size = min(
            input_size, max(1, CROP_SIZE // self.model.config.patch_size) * self.model.config.patch_size
        )
        self.dim: int = self.model.config.hidden_size
        # the class token and the registers come before the patches
        self._skip = 1 + int(getattr(self.model.config, "num_register_tokens", 0))
        self._forward = Compiled(self._hidden_state, self.name) if compile else self._hidden_state
        logger.info("loaded %s on %s", self.name, self.device)
        logger.debug("%s is from %s", self.name, folder)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encodes float32 ``[B, 3, input_size, input_size]`` RGB in 0..1.

        Returns:
            Patch tokens float32 ``[B, rows, columns, dim]``, row-major, not l2-normalised, on the model's device.
        """
        side = self.input_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise InputError(f"expected images [B, 3, {side}, {side}], got {list(images.shape)}")
        return self._tokens(images, self._forward)

    @torch.no_grad()
    def encode_crops(self, images: Tensor) -> Tensor:
        """See ``CropEncoder.encode_crops``; position embeddings are interpolated, and nothing is compiled."""
        side = self.crop_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise InputError(f"expected crops [B, 3, {side}, {side}], got {list(images.shape)}")
        return self._tokens(images, self._hidden_state)

    def _tokens(self, images: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        pixels = imagenet_normalize(images.to(self.device, torch.float32, non_blocking=True))
        with autocast(self.device, self.precision):
            tokens: Tensor = forward(pixels)[:, self._skip :].float()
        rows, columns = _grid(images.shape[-1], self.model.config.patch_size)
        return tokens.reshape(len(images), rows, columns, self.dim)

    def _hidden_state(self, pixels: Tensor) -> Tensor:
        hidden: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return hidden


def find_folder(path_or_repo: str | Path) -> Path:
    """Finds the model's folder: an explicit path, else the hub's cache, else a download from the hub."""
    if Path(path_or_repo).is_dir():
        return Path(path_or_repo)
    repo = str(path_or_repo)
    if isinstance(path_or_repo, Path) or repo.count("/") != 1 or repo.startswith((".", "/", "~")):
        raise MissingWeightsError(_missing_text(repo, "there is no such folder"))
    folder = _from_hub(repo, local=True) or _from_hub(repo, local=False)
    if folder is None:
        raise MissingWeightsError(_missing_text(repo, "not in the Hugging Face cache, and the hub did not give it"))
    return folder


def find_local_folder(repo: str) -> Path | None:
    """The repository in the Hugging Face cache; opens no connection."""
    return _from_hub(repo, local=True)


def _from_hub(repo: str, *, local: bool) -> Path | None:
    """The snapshot of a repository in the hub's cache, downloaded first if not ``local``; None if there is none."""
    from huggingface_hub import constants, snapshot_download

    if not local and (constants.HF_HUB_OFFLINE or not hub_reachable(constants.ENDPOINT)):
        return None
    try:
        folder = Path(snapshot_download(repo, allow_patterns=list(FILES), local_files_only=local))
    except Exception as error:  # the client raises its own, its transport's and the system's errors
        level = logging.DEBUG if local else logging.WARNING
        logger.log(level, "%s is not to be had from the hub: %s", repo, error)
        return None
    # a cache may hold a snapshot of which only the config was ever fetched
    complete = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return folder if complete else None


def hash_of_folder(folder: Path) -> str:
    """sha256 of the weights: of the one safetensors file, or of the list of hashes where there are several."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MissingWeightsError(_missing_text(str(folder), "the folder holds no *.safetensors file"))
    hashes = [sha256_of(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def load_model(folder: Path) -> Any:
    """Loads the model in float32 and evaluation mode; refuses one with missing or misshapen weights."""
    import transformers

    try:
        kind = json.loads(read_file(folder / "config.json", 1 << 20)).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise MissingWeightsError(_missing_text(str(folder), "its config.json cannot be read")) from error
    if not isinstance(kind, str) or kind not in CLASSES:
        raise WeightsMismatchError(f"expected a model of type {' or '.join(CLASSES)} in {folder}, found {kind!r}")
    loader = getattr(transformers, CLASSES[kind])
    try:
        model, report = loader.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsMismatchError(f"the weights in {folder} do not fit its config.json: {error}") from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise WeightsMismatchError(
            f"{folder} lacks {counted(len(report['missing_keys']), 'weight')} of its model, among them {missing}; "
            "fetch the files again"
        )
    return model.float().eval()


def _grid(input_size: int, patch_size: int) -> tuple[int, int]:
    if input_size < patch_size or input_size % patch_size:
        raise InputError(f"expected an input size that is a multiple of the patch size {patch_size}, got {input_size}")
    return input_size // patch_size, input_size // patch_size


def _missing_text(what: str, reason: str) -> str:
    return (
        f"DINOv2 weights {what!r} are not on this machine and could not be fetched ({reason}). Put config.json and "
        "model.safetensors of that Hugging Face repository into a folder and name the folder in the preset "
        "(dataclasses.replace(preset, features=Dinov2Spec(path=...))), or use the preset 'lite', which needs no hub"
    )
