"""SAM2's weights by the names of ``transformers``, from Meta's: for a comparison of both on the same weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_RENAMED = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"^(vision_encoder\..*)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"\.out_proj\.", ".o_proj."),
    (r"^(mask_decoder\.transformer.*)\.norm(\d|_final_attn)\b", r"\1.layer_norm\2"),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (
        r"^sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
    ),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^no_mem_embed$", "no_memory_embedding"),
)
_UNUSED = ("memory_", "maskmem", "obj_ptr", "no_obj", "no_mem_pos", "mask_downsample")


def transformers_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights that ``Sam2Model`` has, and no other."""
    named = {}
    for name, value in state.items():
        if name.startswith(_UNUSED):
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        named[name] = value
    named["prompt_encoder.shared_embedding.positional_embedding"] = named["shared_image_embedding.positional_embedding"]
    # Four embeddings of one row each are one table there.
    kinds = [named.pop(f"prompt_encoder.point_embeddings.{i}.weight")[0] for i in range(4)]
    named["prompt_encoder.point_embed.weight"] = kinds[0].new_empty(4, len(kinds[0]))
    for i, kind in enumerate(kinds):
        named["prompt_encoder.point_embed.weight"][i] = kind
    return {_with_perceptron(name, named): value for name, value in named.items()}


def _with_perceptron(name: str, names: Mapping[str, Tensor]) -> str:
    """Of a perceptron's layers the first is ``proj_in`` there, the last ``proj_out``, and those between begin at 0."""
    match = re.match(r"(.*(?:mlp|_head|_mlps\.\d))\.layers\.(\d)\.(weight|bias)$", name)
    if match is None:
        return name
    head, number, kind = match.group(1), int(match.group(2)), match.group(3)
    last = max(
        int(other.split(".")[-2]) for other in names if re.fullmatch(rf"{re.escape(head)}\.layers\.\d\.weight", other)
    )
    if number in (0, last):
        return f"{head}.proj_{'in' if number == 0 else 'out'}.{kind}"
    return f"{head}.layers.{number - 1}.{kind}"
