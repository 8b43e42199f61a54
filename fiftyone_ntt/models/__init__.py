"""The models behind the method, as presets. Importing this loads no model and no model library."""

from fiftyone_ntt.models.preset_registry import register_preset
from fiftyone_ntt.models.presets import PRESETS, LoadedPreset, Preset, load_preset, load_segmenters

__all__ = ["PRESETS", "LoadedPreset", "Preset", "load_preset", "load_segmenters", "register_preset"]
