"""FiftyOne's own settings, read without FiftyOne, whose import starts its database."""

from __future__ import annotations

import json
import os
from pathlib import Path

_MOST_BYTES = 1 << 20


def fiftyone_setting(name: str) -> str | None:
    """A text setting of FiftyOne: from ``FIFTYONE_<NAME>``, else from its config file, else ``None``."""
    if value := os.environ.get(f"FIFTYONE_{name.upper()}"):
        return value
    path = Path(os.environ.get("FIFTYONE_CONFIG_PATH") or os.path.expanduser("~/.fiftyone/config.json"))
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        value = json.loads(path.read_bytes()).get(name)
    except (OSError, ValueError, AttributeError, RecursionError):  # no such file, or none that FiftyOne could read
        return None
    return value if isinstance(value, str) and value else None


def fiftyone_folder(name: str, otherwise: str) -> Path:
    """A folder of FiftyOne's; it need not exist.

    Args:
        name: of the setting, such as ``"model_zoo_dir"``.
        otherwise: where it is in FiftyOne's folder of datasets (``~/fiftyone``) if nobody has set it.
    """
    chosen = fiftyone_setting(name)
    if chosen is None:
        chosen = os.path.join(fiftyone_setting("default_dataset_dir") or os.path.join("~", "fiftyone"), otherwise)
    return Path(os.path.abspath(os.path.expanduser(chosen)))
