"""What every backend must do, with small random weights: the checks, the backends, and the table of both in the docs.

``python -m support.conformance`` (in ``tests/``) writes that table; a test holds it to the checks that are run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fiftyone_ntt.method.backends import FeatureModel, MaskPromptDecoder, ProposalModel, TextEncoder
from fiftyone_ntt.method.pooling import pool
from fiftyone_ntt.method.proposals import Candidates
from fiftyone_ntt.models.hub_features import HubFeatures
from fiftyone_ntt.models.hub_hq import HubSamHq
from fiftyone_ntt.models.hub_masks import HubSam2
from fiftyone_ntt.models.hub_text import HubTextFeatures
from fiftyone_ntt.pixels.frames import ImageFrame
from support import hub_models
from support.stand_in_device import elsewhere
from support.tiny_checkpoints import SAM2_CONFIG, SAM2_OVERRIDES, tiny_dinov2_folder, tiny_sam2_checkpoint

DOCS = Path(__file__).resolve().parents[2] / "docs" / "custom-models.md"
BEGIN, END = "<!-- conformance table: made by tests/support/conformance.py -->", "<!-- end of the conformance table -->"
IMAGE_SIZE = (480, 640)


@dataclass(frozen=True, eq=False)
class Backend:
    """A backend under test.

    Attributes:
        name: as the table calls it.
        save: writes random weights of a seed into a folder.
        load: makes the model of them; takes ``device``, ``precision`` and the backend's settings.
        setting: settings that change what the model gives.
        masks: whether it is a mask model.
        package: what must be installed besides.
        processor: class in transformers that prepares images for it; empty where there is none of its own.
        reads: whether it is a feature model that reads class names.
    """

    name: str
    save: Callable[..., Path]
    load: Callable[..., Any]
    setting: dict[str, Any]
    masks: bool
    package: str = ""
    processor: str = ""
    reads: bool = False


def _sam2(path: Path, **options: Any) -> Any:
    from fiftyone_ntt.models.sam2 import Sam2

    return Sam2(path, SAM2_CONFIG, overrides=SAM2_OVERRIDES, **options)


def _dinov2(path: Path, **options: Any) -> Any:
    from fiftyone_ntt.models.dinov2 import Dinov2

    return Dinov2(path, **{"input_size": 112, **options})


def _features(patch: int) -> Callable[..., Any]:
    return lambda path, **options: HubFeatures(path, **{"input_size": 10 * patch, **options})


def _tips(path: Path, **options: Any) -> Any:
    return HubTextFeatures(path, **{"input_size": 140, **options})


def _tips_folder(folder: Path, seed: int = 0) -> Path:
    return hub_models.with_tokenizer(hub_models.tiny_hub_features(folder, "tipsv2", seed=seed))


def _kind(kind: str) -> Callable[..., Path]:
    return lambda folder, seed=0: hub_models.tiny_hub_features(folder, kind, seed=seed)


_MEMORY = {"add_no_mem_embed": True}
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("SAM2 (package sam2)", tiny_sam2_checkpoint, _sam2, _MEMORY, True, "", "Sam2ImageProcessor"),
        Backend("SAM2 (transformers)", hub_models.tiny_hub_sam2, HubSam2, _MEMORY, True, "", "Sam2ImageProcessor"),
        Backend("EdgeTAM", hub_models.tiny_hub_edgetam, HubSam2, _MEMORY, True, "timm", "Sam2ImageProcessor"),
        Backend("SAM3 tracker", hub_models.tiny_hub_sam3, HubSam2, _MEMORY, True, "", "Sam3ImageProcessor"),
        Backend("SAM-HQ", hub_models.tiny_hub_hq, HubSamHq, {}, True, "", "SamImageProcessor"),
        Backend("DINOv2", tiny_dinov2_folder, _dinov2, {"input_size": 140}, False, "", "BitImageProcessor"),
        Backend(
            "DINOv2 with registers",
            lambda folder, seed=0: tiny_dinov2_folder(folder, registers=4, seed=seed),
            _dinov2,
            {"input_size": 140},
            False,
            "",
            "BitImageProcessor",
        ),
        *(
            Backend(name, _kind(kind), _features(patch), {"positions_removed": 4}, False, "", processor)
            for name, kind, patch, processor in (
                ("DINOv3 ViT", "dinov3_vit", 16, "DINOv3ViTImageProcessor"),
                ("DINOv3 ConvNeXt", "dinov3_convnext", 32, "DINOv3ViTImageProcessor"),
                ("C-RADIO", "radio", 16, ""),
                ("SigLIP", "siglip", 16, "SiglipImageProcessor"),
                ("SigLIP2", "siglip2", 16, "Siglip2ImageProcessor"),
            )
        ),
        Backend("TIPSv2", _tips_folder, _tips, {"positions_removed": 4}, False, "", "Tipsv2ImageProcessor", reads=True),
    )
}


@cache
def saved(backend: Backend, folder: Path, seed: int = 0) -> Path:
    """The weights of a seed, written once."""
    return backend.save(folder / str(seed), seed=seed)


@lru_cache(maxsize=4)
def loaded(backend: Backend, folder: Path) -> Any:
    """The model of seed 0 as it is without settings, loaded once; checks do not change it."""
    return backend.load(saved(backend, folder))


# ---- Inputs ----


def noise(*shape: int, seed: int = 1) -> Tensor:
    """float32 in 0..1."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pixels_of(model: Any, seed: int = 1) -> Tensor:
    """Noise ``[3, side, side]`` in the frame of a mask model, zero outside its content."""
    frame = model.frame(IMAGE_SIZE)
    pixels = noise(3, frame.side, frame.side, seed=seed)
    pixels[:, int(frame.content[0]) :] = 0
    pixels[:, :, int(frame.content[1]) :] = 0
    return pixels


def images_of(model: Any, count: int = 1, seed: int = 1) -> Tensor:
    """Noise for a feature model."""
    return noise(count, 3, model.input_size, model.input_size, seed=seed)


def points_of(model: Any) -> Tensor:
    """Three points ``[3, 2]`` in the content of a mask model's frame."""
    height, width = model.frame(IMAGE_SIZE).content
    return torch.tensor([[0.1, 0.2], [0.5, 0.5], [0.9, 0.7]]) * torch.tensor([width, height])


def outputs(model: Any, pixels: Tensor) -> list[Tensor]:
    """What a mask model decodes of an image: masks and IoUs of points, of boxes, and of sets of points."""
    points = points_of(model)
    embedding = model.encode(pixels, model.frame(IMAGE_SIZE))
    boxes = torch.cat([points[:2], points[1:] + 20.0], dim=1)
    labels = torch.tensor([[1, 0], [1, 1]])
    return [
        *model.decode_points(embedding, points),
        *model.decode_boxes(embedding, boxes),
        *model.decode_prompts(embedding, torch.stack([points[:2], points[1:]]), labels),
    ]


def all_of(backend: Backend, model: Any, seed: int = 1) -> list[Tensor]:
    """Everything that a model gives for one image."""
    return outputs(model, pixels_of(model, seed)) if backend.masks else [model.encode(images_of(model, seed=seed))]


def image_features(backend: Backend, model: Any, image: Tensor) -> Tensor:
    """What the encoder makes of an image, by place: ``[h, w, C]``."""
    if backend.masks:
        features: Tensor = model.encode(image, model.frame((image.shape[-2], image.shape[-1]))).image[0]
        return features.permute(1, 2, 0)
    tokens: Tensor = model.encode(image[None])[0]
    return tokens


# ---- The checks ----


def fulfils_its_protocol(backend: Backend, folder: Path) -> None:
    """Attributes, shapes and types are those of ``method/backends.py``."""
    model = loaded(backend, folder)
    assert isinstance(model, ProposalModel if backend.masks else FeatureModel) and len(model.weights_hash) == 64
    results = all_of(backend, model)
    assert all(part.dtype == torch.float32 for part in results)
    if backend.masks:
        sides = [tuple(part.shape) for part in results]
        assert sides == [(3, 3, 256, 256), (3, 3), (2, 256, 256), (2,), (2, 4, 256, 256), (2, 4)]
    else:
        assert results[0].shape == (1, *model.grid, model.dim)


def puts_a_disc_where_it_is(backend: Backend, folder: Path) -> None:
    """A disc painted on a grey image changes the features of its own place most, and rows are not columns."""
    model = loaded(backend, folder)
    side = model.frame(IMAGE_SIZE).side if backend.masks else model.input_size
    grey = torch.full((3, side, side), 0.5)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = (x - 0.72 * side) ** 2 + (y - 0.28 * side) ** 2 < (0.12 * side) ** 2
    painted = torch.where(inside, noise(3, side, side), grey)
    change = (image_features(backend, model, painted) - image_features(backend, model, grey)).norm(dim=-1)
    rows, columns = change.shape
    weights = torch.where(change >= change.flatten().quantile(0.97), change, 0.0)
    centre_y = ((torch.arange(rows) + 0.5) / rows * weights.sum(dim=1)).sum() / weights.sum()
    centre_x = ((torch.arange(columns) + 0.5) / columns * weights.sum(dim=0)).sum() / weights.sum()
    assert abs(centre_x - 0.72) < 0.12 and abs(centre_y - 0.28) < 0.12, (float(centre_x), float(centre_y))


def keeps_the_order_of_its_masks(backend: Backend, folder: Path) -> None:
    """The single mask, then the three others: the same ones whichever way they are asked for."""
    model = loaded(backend, folder)
    points, embedding = points_of(model), model.encode(pixels_of(model), model.frame(IMAGE_SIZE))
    three, ious = model.decode_points(embedding, points)
    four, all_ious = model.decode_prompts(embedding, points[:, None], torch.ones(3, 1, dtype=torch.long))
    torch.testing.assert_close(four[:, 1:], three, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(all_ious[:, 1:], ious, rtol=0, atol=1e-5)
    for wanted in range(3):
        kept, masks, best = model.decode_among(embedding, points, -1e6, (wanted,))
        assert kept.tolist() == [0, 1, 2]
        torch.testing.assert_close(masks, three[:, wanted], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(best, ious[:, wanted], rtol=0, atol=1e-5)
    apart = [(three[:, i] - three[:, j]).abs().max() for i in range(3) for j in range(i)]
    assert min(apart) > 1e-3, "the three masks are one"


def takes_masks_as_prompts(backend: Backend, folder: Path) -> None:
    """A box, points and a mask: four masks each, whoever else is asked for; another mask is another answer."""
    model = loaded(backend, folder)
    assert isinstance(model, MaskPromptDecoder)
    embedding, points = model.encode(pixels_of(model), model.frame(IMAGE_SIZE)), points_of(model)
    boxes = torch.cat([points[:2], points[1:] + 20.0], dim=1)
    sets, labels = torch.stack([points[:2], points[1:]]), torch.tensor([[1, 0], [1, 1]])
    masks = torch.full((2, 256, 256), -10.0)
    masks[0, 40:90, 30:80], masks[1, 100:180, 60:200] = 10.0, 10.0
    logits, ious = model.decode_refined(embedding, boxes, sets, labels, masks)
    assert logits.shape == (2, 4, 256, 256) and ious.shape == (2, 4)
    alone, alone_ious = model.decode_refined(embedding, boxes[1:], sets[1:], labels[1:], masks[1:])
    torch.testing.assert_close(logits[1:], alone, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ious[1:], alone_ious, rtol=0, atol=1e-4)
    for changed in ((boxes + 40.0, sets, labels, masks), (boxes, sets, 1 - labels, masks),
                    (boxes, sets, labels, -masks)):  # fmt: skip
        other, _ = model.decode_refined(embedding, *changed)
        assert (other - logits).abs().max() > 1e-4


def reads_class_names(backend: Backend, folder: Path) -> None:
    """Vectors as long as tokens, one a name, whoever else is asked for; another name or other weights are others."""
    model = loaded(backend, folder)
    assert isinstance(model, TextEncoder)
    both = model.encode_text(["cat", "red_car"])
    assert both.shape == (2, model.dim) and both.dtype == torch.float32 and torch.isfinite(both).all()
    torch.testing.assert_close(model.encode_text(["red car"]), both[1:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-3)
    other = backend.load(saved(backend, folder, seed=1)).encode_text(["cat"])
    assert not torch.allclose(other, both[:1], atol=1e-3)


def is_finite_on_a_constant_image(backend: Backend, folder: Path) -> None:
    """Black, white and grey images give numbers."""
    model = loaded(backend, folder)
    for value in (0.0, 1.0, 0.5):
        if backend.masks:
            results = outputs(model, torch.full_like(pixels_of(model), value))
        else:
            results = [model.encode(torch.full_like(images_of(model), value))]
        assert all(torch.isfinite(part).all() for part in results)


def gives_the_same_in_a_batch(backend: Backend, folder: Path) -> None:
    """Three images at once give what each gives alone, and so do prompts."""
    model = loaded(backend, folder)
    if backend.masks:
        points, embedding = points_of(model), model.encode(pixels_of(model), model.frame(IMAGE_SIZE))
        masks, ious = model.decode_points(embedding, points)
        for i in range(3):
            alone_masks, alone_ious = model.decode_points(embedding, points[i : i + 1])
            torch.testing.assert_close(masks[i : i + 1], alone_masks, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(ious[i : i + 1], alone_ious, rtol=0, atol=1e-5)
        images = [pixels_of(model, seed) for seed in (1, 2, 3)]
        frame = model.frame(IMAGE_SIZE)
        together = [item.image for item in model.encode_batch(torch.stack(images), [frame] * 3)]
        alone = [model.encode(image, frame).image for image in images]
    else:
        images = torch.cat([images_of(model, seed=seed) for seed in (1, 2, 3)])
        together, alone = list(model.encode(images)), [model.encode(image[None])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    assert (alone[0] - alone[1]).abs().max() > 1e-2


def has_a_signature(backend: Backend, folder: Path) -> None:
    """Other weights are another hash; another setting is another name, size or grid; the same ones are the same."""

    def signature(model: Any) -> tuple[object, ...]:
        return model.name, model.weights_hash, getattr(model, "input_size", None), getattr(model, "grid", None)

    path, first = saved(backend, folder), loaded(backend, folder)
    assert signature(first) == signature(backend.load(path))
    other = backend.load(saved(backend, folder, 5))
    assert other.weights_hash != first.weights_hash
    before, after = all_of(backend, first)[0], all_of(backend, other)[0]
    assert (before - after).abs().max() > 1e-4, "other weights gave the same"
    if backend.setting:
        assert signature(backend.load(path, **backend.setting)) != signature(first)


def is_fed_as_by_its_processor(backend: Backend, folder: Path) -> None:
    """The network is given the pixels that the model's own processor makes of an image that needs no resizing."""
    import transformers

    model = loaded(backend, folder)
    side = model.frame(IMAGE_SIZE).side if backend.masks else model.input_size
    padded = backend.processor == "SamImageProcessor"
    image = np.random.default_rng(0).integers(0, 256, (3 * side // 4 if padded else side, side, 3), dtype=np.uint8)
    options: dict[str, Any] = {} if backend.masks else {"size": {"height": side, "width": side}}
    if backend.processor == "BitImageProcessor":  # as preprocessor_config.json of DINOv2's repositories sets it up
        published = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
        options = {"do_resize": False, "do_center_crop": False, **published}
    if backend.processor == "Siglip2ImageProcessor":
        options = {"patch_size": model.patch, "max_num_patches": model.grid[0] ** 2}
    given = getattr(transformers, backend.processor)(**options)(image, return_tensors="pt")["pixel_values"]
    if given.ndim == 3:  # SigLIP2's patches [1, N, P * P * 3]
        cells = given.reshape(1, *model.grid, model.patch, model.patch, 3)
        given = cells.permute(0, 5, 1, 3, 2, 4).reshape(1, 3, side, side)
    torch.testing.assert_close(_fed(backend, model, image), given, rtol=0, atol=1e-5)


def _fed(backend: Backend, model: Any, image: Any) -> Tensor:
    """What a model's network is given for an image uint8 ``[H, W, 3]``: ``[1, 3, side, side]``."""
    seen = []
    name = "_forward" if hasattr(model, "_forward") else "_forward_image"
    forward = getattr(model, name)

    def watched(batch: Tensor) -> Any:
        seen.append(batch)
        return forward(batch)

    setattr(model, name, watched)
    try:
        if backend.masks:
            frame = model.frame(image.shape[:2])
            model.encode(frame.render(image), frame)
        else:
            model.encode(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    finally:
        setattr(model, name, forward)
    (batch,) = seen
    return batch


def computes_in_each_precision(backend: Backend, folder: Path) -> None:
    """Inputs of any float type are taken; bf16 gives float32 near those of float32; a network stays float32."""
    model, half = loaded(backend, folder), backend.load(saved(backend, folder), precision="bf16")
    assert half.precision == "bf16" and {part.dtype for part in half.model.parameters()} == {torch.float32}
    image = pixels_of(model) if backend.masks else images_of(model)[0]
    plain = image_features(backend, model, image)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        taken = image_features(backend, model, image.to(dtype))
        assert (
            taken.dtype == torch.float32 and torch.nn.functional.cosine_similarity(taken, plain, dim=-1).mean() > 0.98
        )
    rounded = image_features(backend, half, image)
    similar = torch.nn.functional.cosine_similarity(rounded, plain, dim=-1).mean()
    assert rounded.dtype == torch.float32 and similar > 0.9 and not torch.equal(rounded, plain)


def stays_on_its_device(backend: Backend, folder: Path) -> None:
    """Inputs come on the CPU; from there on nothing mixes devices, through encoding, decoding and pooling.

    ``decode_among`` is left out: which masks are kept depends on values, and there are none.
    """
    model = backend.load(saved(backend, folder), device="meta")
    tokens = torch.zeros(37, 37, 8)
    with elsewhere():
        results = all_of(backend, model)
        assert {part.device.type for part in results} == {"meta"}, "something came back to the CPU"
        if backend.masks:
            vectors = pool(Candidates(results[2], results[3], model.frame(IMAGE_SIZE)), tokens)
        else:
            masks, ious = torch.zeros(2, 256, 256).to("meta"), torch.ones(2).to("meta")
            vectors = pool(Candidates(masks, ious, ImageFrame.squash(IMAGE_SIZE)), results[0][0])
        assert vectors.device.type == "meta"


CHECKS = {
    check.__name__: check
    for check in (
        fulfils_its_protocol,
        puts_a_disc_where_it_is,
        keeps_the_order_of_its_masks,
        takes_masks_as_prompts,
        is_finite_on_a_constant_image,
        gives_the_same_in_a_batch,
        has_a_signature,
        is_fed_as_by_its_processor,
        computes_in_each_precision,
        stays_on_its_device,
        reads_class_names,
    )
}


def applies(check: str, backend: Backend) -> bool:
    """Whether a check is about that kind of backend."""
    if check == "is_fed_as_by_its_processor":
        return bool(backend.processor)
    if check == "reads_class_names":
        return backend.reads
    return backend.masks or check not in ("keeps_the_order_of_its_masks", "takes_masks_as_prompts")


# ---- The table in the docs ----


def table() -> str:
    """Backends in rows, checks in columns."""
    heads = [name.replace("_", " ") for name in CHECKS]
    rows = [["backend", *heads], ["---"] * (len(heads) + 1)]
    for backend in BACKENDS.values():
        marks = ["yes" if applies(check, backend) else "–" for check in CHECKS]
        rows.append([backend.name + (f" (with {backend.package})" if backend.package else ""), *marks])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Writes the table into the docs."""
    text = DOCS.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    DOCS.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
