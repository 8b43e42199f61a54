"""Parameters that several services have in common, and how a parameter is declared; see ``config.py``."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any

GRANULARITIES = ("best", "whole", "part", "auto")


def param(
    default: Any = MISSING,
    *,
    label: str,
    help: str,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A field of a parameter dataclass; see ``ParamInfo`` for what it says."""
    metadata = {"label": label, "help": help, "choices": choices, "minimum": minimum, "maximum": maximum}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def device_param() -> Any:
    """Where the models run."""
    return param(
        None,
        label="Device",
        help="'cuda', 'cuda:1', 'mps' or 'cpu', or several: 'cuda:0,cuda:1', 'all'; the best there is where left empty",
    )


def points_per_side_param() -> Any:
    """How dense the grid of prompts is."""
    return param(
        None,
        label="Points per side",
        help="prompt points along each side of an image: more find smaller objects and take longer; the preset's "
        "number where left empty",
        minimum=1,
        maximum=128,
    )


def points_param() -> Any:
    """Which points of the grid are prompted."""
    return param(
        "grid",
        label="Points",
        help="'grid' prompts the whole grid; 'guided' only the half of it that looks least like the image's border: "
        "nearly twice as fast, and hardly less accurate where it was measured",
        choices=("grid", "guided"),
    )


def precision_param() -> Any:
    """Of the image encoders."""
    return param(
        "fp32",
        label="Precision",
        help="of the image encoders: 'bf16' or 'fp16' are faster on CUDA, and give slightly other labels",
        choices=("fp32", "bf16", "fp16"),
    )


def compile_param() -> Any:
    """Whether the encoders are compiled."""
    return param(
        False,
        label="Compile the models",
        help="faster on CUDA once they are compiled, which takes minutes: for many images",
    )


def index_dir_param() -> Any:
    """Where the candidate index lies."""
    return param(
        None,
        label="Folder of the candidate index",
        help="where the index lies; FIFTYONE_NTT_INDEX, or else a cache folder, where left empty",
    )


def granularity_param(choices: tuple[str, ...] = GRANULARITIES) -> Any:
    """Which of the mask model's masks become candidates."""
    auto = (
        "; 'auto' takes what the references chose when the bank was built (ask_granularity)"
        if "auto" in choices
        else "; what runs will ask for"
    )
    return param(
        "best",
        label="Granularity",
        help="a point on a wheel may mean the wheel or the car, and the mask model offers three masks: 'best' takes "
        "the one that it is surest of, 'whole' prefers the larger, 'part' the smaller ones" + auto,
        choices=choices,
    )


def second_look_param() -> Any:
    """Whether candidates are encoded again, cut out."""
    return param(
        False,
        label="Second look",
        help="cuts out what was found and encodes it alone, which tells small and similar things apart better; takes "
        "up to 80 small encoder passes more an image, and is kept in an index of its own",
    )
