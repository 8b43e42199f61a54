"""The parameters of the services around references; see ``base.py`` for what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fiftyone_ntt.params.base import (
    DEFAULT_BANK_NAME,
    MODELS,
    Params,
    PresetObject,
    StageOneSettings,
    param,
    param_of,
)

WHICH = "Which references"
"""A group of settings."""
_MODELS = "which pair of mask model and feature model to use"
MADE_FIELD = "ntt_references"
"""Where the masks of references go that were made from boxes, points and scribbles."""


@dataclass(frozen=True)
class BuildBankParams(Params):
    """Arguments of ``fiftyone_ntt.build_memory_bank``."""

    label_field: str = param(
        "ground_truth",
        label="Reference labels",
        help="field with the labels to learn from: detections (masks, or just boxes), keypoints, polylines, "
        "semantic segmentation masks",
    )
    classes: tuple[str, ...] | None = param(
        None, label="Classes", help="the classes wanted, in this order; every label found where left empty"
    )
    preset: str | PresetObject = param_of(StageOneSettings, "preset", "lite", help=_MODELS, advanced=False)
    name: str | None = param(
        None,
        label="Name of the bank",
        help="keeps the bank with the dataset under this name, replacing one of that name",
    )
    ask_granularity: bool = param(
        False,
        label="Let the references choose the granularity",
        help="finds out which masks fit the references best, for granularity 'auto': the mask model is prompted within "
        "each, which takes about as long as labelling the reference images",
        group=MODELS,
    )
    large_images: str = param_of(
        StageOneSettings,
        "large_images",
        help="references in large images are shown as tiles show objects there: 'auto', 'on' or 'off', as runs are",
    )
    text_weight: float = param(
        0.0,
        label="Weight of the names",
        help="how much the names of the classes count beside their references, 0 to 1: only with models that can read, "
        "as those of the preset 'tips'; names must be words for what the classes are",
        minimum=0,
        maximum=1,
        group=MODELS,
    )
    device: str | None = param_of(StageOneSettings, "device", advanced=False)


@dataclass(frozen=True)
class TaggedBankParams(BuildBankParams):
    """What a form or a command line asks for: the arguments above, and which samples are the references.

    The bank must have a name here: the caller holds no object to pass on.
    """

    name: str = param(
        DEFAULT_BANK_NAME,
        label="Name of the bank",
        help="keeps the bank with the dataset under this name, replacing one of that name",
    )
    more_fields: tuple[str, ...] | None = param(
        None, label="More fields", help="other fields with labels to learn from: a bank may mix kinds of labels",
        group=WHICH,
    )  # fmt: skip
    reference_tag: str = param(
        "ntt:reference",
        label="Reference tag",
        help="only samples (or else labels) with this tag are references; cleared, every sample of the target is one",
        group=WHICH,
    )
    negative_tag: str = param(
        "ntt:negative",
        label="Negative tag",
        help="labels with this tag show what their class is not, samples with it none of the classes; cleared, only "
        "those among the references count",
        group=WHICH,
    )

    def split(self) -> tuple[dict[str, Any], list[str], str, str]:
        """Arguments of ``build_memory_bank`` besides the fields; the fields; the tags of references and negatives."""
        arguments = self.to_mapping()
        fields = _pop_fields(arguments)
        return arguments, fields, arguments.pop("reference_tag"), arguments.pop("negative_tag")


@dataclass(frozen=True)
class MakeMasksParams(Params):
    """Arguments of ``fiftyone_ntt.make_reference_masks``."""

    label_field: str = param("ground_truth", label="Reference labels", help="field with the boxes, points or scribbles")
    out_field: str = param(
        MADE_FIELD, label="Write to", help="field for the masks, which can be corrected there; created if absent"
    )
    classes: tuple[str, ...] | None = param(
        None, label="Classes", help="the classes wanted; every label found where left empty"
    )
    preset: str | PresetObject = param_of(StageOneSettings, "preset", "lite", help=_MODELS, advanced=False)
    overwrite: bool = param(
        False, label="Overwrite", help="also rebuild masks that a person accepted or edited; drawn ones always stay"
    )
    device: str | None = param_of(StageOneSettings, "device", advanced=False)


@dataclass(frozen=True)
class MakeMasksFormParams(MakeMasksParams):
    """What the form asks for besides: which samples are the references."""

    more_fields: tuple[str, ...] | None = param(
        None, label="More fields", help="other fields with boxes, points or scribbles"
    )
    reference_tag: str = param(
        "ntt:reference",
        label="Reference tag",
        help="only samples (or else labels) with this tag are references; cleared, every sample of the target is one",
    )

    def split(self) -> tuple[dict[str, Any], list[str], str]:
        """Arguments of ``make_reference_masks`` besides the fields; the fields; the tag of references."""
        arguments = self.to_mapping()
        fields = _pop_fields(arguments)
        return arguments, fields, arguments.pop("reference_tag")


def _pop_fields(arguments: dict[str, Any]) -> list[str]:
    """Takes the fields with labels out of the arguments: the first, then the others, each once."""
    return list(dict.fromkeys([arguments.pop("label_field"), *arguments.pop("more_fields", ())]))
