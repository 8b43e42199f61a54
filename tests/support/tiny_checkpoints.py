"""Small random-weight models, saved in the file formats of the real ones and loaded through the same path.

They say nothing about accuracy: SAM2's sigmoid puts every predicted IoU near 0.5, above the 0.4 threshold, so
every prompt gives a candidate with a noisy mask.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fiftyone_ntt.models.presets import Dinov2Spec, Preset, Sam2Spec
from fiftyone_ntt.models.sam2 import build_sam2

SAM2_CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"
SAM2_OVERRIDES = (
    "model.image_encoder.trunk.embed_dim=16",
    "model.image_encoder.trunk.stages=[1,1,1,1]",
    "model.image_encoder.trunk.global_att_blocks=[]",
    "model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "model.image_encoder.neck.d_model=32",
    "model.image_encoder.neck.position_encoding.num_pos_feats=32",
    "model.memory_attention.num_layers=1",
    "model.memory_attention.layer.dim_feedforward=32",
)
"""SAM2.1 tiny cut down to 32 channels and one block a stage; the memory half is never run."""


def tiny_sam2_checkpoint(
    folder: Path, *, seed: int = 0, config: str = SAM2_CONFIG, overrides: tuple[str, ...] = SAM2_OVERRIDES
) -> Path:
    """Writes a random SAM2 checkpoint in Meta's format and returns its path."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_sam2(config, overrides)
        for parameter in model.parameters():  # some start as zeros, and would hide a mistake in their use
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    path = Path(folder) / "tiny_sam2.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict()}, path)
    return path


def tiny_dinov2_folder(folder: Path, *, registers: int = 0, seed: int = 0, dim: int = 32, side: int = 518) -> Path:
    """Writes a random DINOv2 (config.json, model.safetensors) and returns its folder."""
    import transformers

    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    settings = {
        "hidden_size": dim,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 14,
        **({"num_register_tokens": registers} if registers else {}),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings))
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    path = Path(folder) / f"tiny_dinov2_{registers}"
    model.save_pretrained(path, safe_serialization=True)
    return path


def tiny_preset(folder: Path, *, registers: int = 0, name: str = "tiny-test", points_per_side: int = 4) -> Preset:
    """Writes both models into ``folder`` and returns a preset of them, with the published settings and few points."""
    folder = Path(folder)
    return Preset(
        name,
        Sam2Spec(SAM2_CONFIG, path=tiny_sam2_checkpoint(folder), overrides=SAM2_OVERRIDES),
        Dinov2Spec(path=tiny_dinov2_folder(folder, registers=registers)),
        points_per_side=points_per_side,
        points_per_batch=16,
    )
