"""Small random models in the folders that ``save_pretrained`` writes, one of each kind that ``transformers`` has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def saved(folder: Path, make: Any, name: str, seed: int = 0, backbone: float = 1.0) -> Path:
    """Makes a model with random weights, none of them left at zero, and saves it; weights of a backbone are scaled."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        # As they start, most are so small that mistakes would drown in rounding.
        for named, parameter in model.named_parameters():
            if parameter.ndim > 1:
                factor = backbone if "backbone" in named else 1.0
                torch.nn.init.normal_(parameter, std=factor * parameter[0].numel() ** -0.5)
            elif not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    path = Path(folder) / name
    model.save_pretrained(path, safe_serialization=True)
    return path


def tiny_hub_sam2(folder: Path, *, seed: int = 0) -> Path:
    """SAM2 cut down as ``tiny_checkpoints.SAM2_OVERRIDES`` cuts Meta's: 32 channels, one block a stage, 1024 pixels."""
    import transformers as t

    def make() -> Any:
        return t.Sam2Model(t.Sam2Config(vision_config=_sam2_vision(), **_prompting()))

    return saved(folder, make, "tiny_sam2", seed)


def tiny_hub_sam3(folder: Path, *, seed: int = 0) -> Path:
    """SAM3's tracker with 32 channels and two blocks: 1008 pixels, patches of 14, masks of 288 pixels."""
    import transformers as t

    def make() -> Any:
        return t.Sam3TrackerModel(t.Sam3TrackerConfig(vision_config=_sam3_vision(), **_prompting(1008, 14)))

    return saved(folder, make, "tiny_sam3", seed)


def tiny_hub_hq(folder: Path, *, seed: int = 0) -> Path:
    """SAM-HQ with 32 channels and two blocks, one of them global: 1024 pixels."""
    import transformers as t

    def make() -> Any:
        vision = {
            "hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "global_attn_indexes": [1], "mlp_dim": 64, "num_pos_feats": 16,
        }  # fmt: skip
        parts = _prompting()
        parts["mask_decoder_config"] |= {"vit_dim": 32}
        return t.SamHQModel(t.SamHQConfig(vision_config=vision, **parts))

    return saved(folder, make, "tiny_hq", seed)


def tiny_hub_edgetam(folder: Path, *, seed: int = 0) -> Path:
    """EdgeTAM with 32 channels behind its own backbone RepViT, which needs timm; 1024 pixels."""
    import transformers as t

    def make() -> Any:
        return t.EdgeTamModel(t.EdgeTamConfig(vision_config=_edgetam_vision(), **_prompting()))

    # Its norms know nothing of random weights: features would be so large that a mask prompt changes nothing.
    return saved(folder, make, "tiny_edgetam", seed, backbone=0.5)


# ---- As the hub's repositories have them: the model for videos, of which the model for images is a part ----


def tiny_video(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """A tiny ``"sam2_video"``, ``"edgetam_video"`` or ``"sam3_video"``, with the weights' names of the hub."""
    import transformers as t

    def make() -> Any:
        if kind == "sam2_video":
            return t.Sam2VideoModel(t.Sam2VideoConfig(vision_config=_sam2_vision(), **_prompting(), **_MEMORY))
        if kind == "edgetam_video":
            memory = {name: value for name, value in _MEMORY.items() if name.startswith("memory_attention_hidden")}
            config = {"memory_encoder_hidden_size": 32, "perceiver_resampler_hidden_size": 64, **memory}
            return t.EdgeTamVideoModel(t.EdgeTamVideoConfig(vision_config=_edgetam_vision(), **_prompting(), **config))
        tracker = t.Sam3TrackerVideoConfig(vision_config=_sam3_vision(), **_prompting(1008, 14), **_MEMORY)
        return t.Sam3VideoModel(t.Sam3VideoConfig(detector_config=_detector(), tracker_config=tracker.to_dict()))

    path = saved(folder, make, f"tiny_{kind}", seed)
    if kind == "sam3_video":  # transformers 5.24 saves a prefix twice, which the hub's weights have once
        file = path / "model.safetensors"
        state = load_file(file)
        renamed = {name.replace("tracker_model.tracker_model.", "tracker_model."): state[name] for name in state}
        save_file(renamed, file, metadata={"format": "pt"})
    return path


_MEMORY = {
    "memory_attention_hidden_size": 32,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 32,
    "memory_encoder_hidden_size": 32,
    "memory_encoder_output_channels": 64,
    "mask_downsampler_embed_dim": 32,
    "memory_fuser_embed_dim": 32,
    "memory_fuser_intermediate_dim": 64,
}


def _detector() -> dict[str, Any]:
    """SAM3's detector, which the tracker takes its image encoder from."""
    import transformers as t

    small = {"hidden_size": 32, "intermediate_size": 64, "num_layers": 1, "num_attention_heads": 2}
    text = {**VIT, "intermediate_size": 64, "vocab_size": 100, "projection_dim": 32}
    config = t.Sam3Config(
        vision_config=_sam3_vision(),
        text_config={**text, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        detr_encoder_config=small,
        detr_decoder_config={**small, "num_queries": 5},
        geometry_encoder_config=small,
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    return dict(config.to_dict())


def _sam2_vision() -> Any:
    import transformers as t

    backbone = t.Sam2HieraDetConfig(
        hidden_size=16,
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        global_attention_blocks=[],
    )
    return t.Sam2VisionConfig(backbone_config=backbone, **_neck([128, 64, 32, 16]))


def _sam3_vision() -> Any:
    import transformers as t

    backbone = t.Sam3ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=1008,
        pretrain_image_size=336,
        window_size=24,
        global_attn_indexes=[],
    )
    sizes = [[288, 288], [144, 144], [72, 72]]
    return t.Sam3VisionConfig(backbone_config=backbone, fpn_hidden_size=32, backbone_feature_sizes=sizes)


def _edgetam_vision() -> Any:
    import transformers as t

    options = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    backbone = t.TimmWrapperConfig(architecture="repvit_m1", model_args=options)
    return t.EdgeTamVisionConfig(backbone_config=backbone, **_neck([384, 192, 96, 48]))


VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_hub_features(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """A tiny feature model of one of ``hub_features.KINDS``; 32 channels, two blocks."""
    import transformers as t

    text = {**VIT, "intermediate_size": 64, "vocab_size": 16}
    vision = {**VIT, "intermediate_size": 64}

    def make() -> Any:
        if kind == "dinov3_vit":
            return t.DINOv3ViTModel(t.DINOv3ViTConfig(**vision, num_register_tokens=4))
        if kind == "dinov3_convnext":
            return t.DINOv3ConvNextModel(t.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]))
        if kind == "radio":
            return t.RadioModel(t.RadioConfig(**VIT, max_img_size=1024))
        if kind == "tipsv2_vision_model":
            return t.Tipsv2VisionModel(t.Tipsv2VisionConfig(**VIT))
        if kind == "tipsv2":
            return t.Tipsv2Model(t.Tipsv2Config(vision_config=VIT, text_config=text))
        if kind == "siglip_vision_model":
            return t.SiglipVisionModel(t.SiglipVisionConfig(**vision))
        if kind == "siglip":
            return t.SiglipModel(t.SiglipConfig(vision_config=vision, text_config=text))
        if kind == "siglip2_vision_model":
            return t.Siglip2VisionModel(t.Siglip2VisionConfig(**vision))
        return t.Siglip2Model(t.Siglip2Config(vision_config=vision, text_config=text))

    return saved(folder, make, f"tiny_{kind}", seed)


WORDS = ("<pad>", "<unk>", "a", "photo", "of", "cat", "dog", "red", "car")
"""What the tokenizer of ``with_tokenizer`` knows."""


def with_tokenizer(folder: Path) -> Path:
    """Puts a tokenizer of a few whole words into the folder of a model that reads; returns the folder."""
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    t.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=64
    ).save_pretrained(folder)
    return folder


def _neck(channels: list[int]) -> dict[str, Any]:
    return {"backbone_channel_list": channels, "fpn_hidden_size": 32}


def _prompting(side: int = 1024, patch: int = 16) -> dict[str, Any]:
    prompt = {"hidden_size": 32, "image_size": side, "patch_size": patch}
    decoder = {"hidden_size": 32, "iou_head_hidden_dim": 256, "mlp_dim": 2048}
    return {"prompt_encoder_config": prompt, "mask_decoder_config": decoder}
