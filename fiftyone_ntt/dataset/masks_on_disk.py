"""Masks too large for the database: PNG files in a folder of the run, as FiftyOne reads them.

MongoDB takes 16 MB a document, and a sample is one document with all its fields.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container
from pathlib import Path
from typing import Any

import fiftyone as fo

from fiftyone_ntt.dataset.banks import check_name

FOLDER_VARIABLE = "FIFTYONE_NTT_MASKS"
LARGEST_DOCUMENT = 16 * 2**20 - 2**17
"""What a sample may take in all; some bytes less than MongoDB allows."""
COMFORTABLE_DOCUMENT = 12 * 2**20
"""Masks go to files above this, so that a sample keeps room for what comes later (evaluations, tags, a second run)."""


def masks_folder(dataset: fo.Dataset, run_key: str, number: int) -> Path:
    """Where a pass of a run keeps its mask files; not made yet.

    ``$FIFTYONE_NTT_MASKS`` is the root, or else a folder beside FiftyOne's datasets; every machine that runs the App
    or a worker must see it under the same path.

    Args:
        dataset: the dataset.
        run_key: key of the run.
        number: of the pass.

    Raises:
        InputError: if the key is no key of a run.
    """
    check_name(run_key)  # letters, digits and underscores: nothing that leads out of the root
    root = os.environ.get(FOLDER_VARIABLE) or os.path.join(fo.config.default_dataset_dir, "ntt_masks")
    # A hundred letters that are not ASCII could be more bytes than a file name may have.
    name = run_key if run_key.isascii() else hashlib.sha256(run_key.encode()).hexdigest()[:32]
    return Path(root).expanduser().absolute() / str(dataset._doc.id) / name / str(number)


def move_masks(labels: list[dict[str, Any]], excess: int, folder: Path) -> int:
    """Moves masks from labels to files, the largest first, until the labels are ``excess`` bytes smaller.

    Args:
        labels: documents of detections; changed in place.
        excess: bytes to get rid of.
        folder: where the files go; made if absent.

    Returns:
        The bytes that the labels are smaller now: fewer than ``excess`` if that was all there was.

    Raises:
        OSError: if a file cannot be written.
    """
    moved = 0
    for label in sorted(labels, key=lambda one: len(one.get("mask") or b""), reverse=True):
        if moved >= excess or not label.get("mask"):
            break
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{label['_id']}.png"  # an ObjectId: 24 hexadecimal digits
        fo.Detection.from_dict(label).export_mask(str(path))
        moved += len(label["mask"]) - len(str(path))
        label["mask"], label["mask_path"] = None, str(path)
    return moved


def remove_masks(folder: Path, in_use: Container[str]) -> int:
    """Removes a run's mask files, and its folder once it is empty.

    Args:
        folder: see ``masks_folder``.
        in_use: paths of files that must stay.

    Returns:
        Number of files removed.
    """
    unused = [path for path in folder.glob("*.png") if str(path) not in in_use]
    for path in unused:
        path.unlink(missing_ok=True)
    for empty in (folder, *list(folder.parents)[:2]):  # the pass, the run, the dataset
        try:
            empty.rmdir()
        except OSError:  # absent, or something is left in it
            break
    return len(unused)
