"""The FiftyOne format of an export: samples with the chosen labels, and mask files that come along."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.documents import single_documents
from fiftyone_ntt.pixels.files import naming
from fiftyone_ntt.pixels.images import read_bytes
from fiftyone_ntt.review.export_formats import IMAGES, save

_OF_GROUPS: dict[str, Any] = {"group_media_types": {}, "group_field": None, "default_group_slice": None}
"""What the facts of a dataset say of its groups where it has none."""


def write_fiftyone(
    chosen: SampleCollection, label_field: str, folder: Path, names: Mapping[str, str], *, export_media: bool,
    unusable: Collection[str],
) -> None:  # fmt: skip
    """Writes FiftyOne's own format. Files of masks come along, whether or not the images do.

    Args:
        chosen: the samples with the labels to write.
        label_field: their field.
        folder: of the export.
        names: id of each sample to write -> name of its image in the export.
        export_media: whether the images lie in the folder.
        unusable: ids of labels that cannot be written.
    """
    with naming(folder / "samples.json"):
        chosen.select_fields(label_field).export(
            export_dir=str(folder), dataset_type=fo.types.FiftyOneDataset, export_media=False, use_dirs=True,
            ordered=True, progress=False,
        )  # fmt: skip
        _ungroup(folder / "metadata.json")
        # A file a sample, in their order: they become one, which FiftyOne reads sooner, without all in memory at once.
        parts, count = folder / "samples", 0
        with (folder / "samples.json").open("w", encoding="utf-8") as file:
            file.write('{"samples": [')
            for part in sorted(parts.iterdir()):
                sample = json.loads(part.read_text(encoding="utf-8"))
                if (name := names.get(sample["_id"]["$oid"])) is not None:
                    if export_media:
                        sample["filepath"] = f"{IMAGES['fiftyone']}/{name}"
                    _make_portable(sample, label_field, folder, unusable)
                    file.write((",\n" if count else "\n") + json.dumps(sample))
                    count += 1
                part.unlink()
            file.write("\n]}\n")
        parts.rmdir()


def _ungroup(path: Path) -> None:
    """Of a grouped dataset one slice is written, which is no group any more: FiftyOne would find no sample in it."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    field = facts.get("group_field")
    if not field:
        return
    facts |= {"media_type": fo.core.media.IMAGE, **_OF_GROUPS}
    facts["sample_fields"] = [entry for entry in facts["sample_fields"] if entry["name"] != field]
    save(path, json.dumps(facts))


def _make_portable(sample: dict[str, Any], label_field: str, folder: Path, unusable: Collection[str]) -> None:
    """Takes the labels out of a sample's document that cannot be written, and mask files into the export."""
    value = sample.get(label_field) or {}
    labels = [label for label in single_documents(value) if _id_of(label) not in unusable]
    root = f"{label_field}.detections" if "detections" in value else label_field
    for number, label in enumerate(labels):
        if label.get("mask_path"):  # copies of samples have labels of the same ids
            place = f"fields/{root}/{sample['_id']['$oid']}-{number}.png"
            save(folder / place, read_bytes(label["mask_path"]))
            label["mask_path"] = place
    if "detections" in value:
        value["detections"] = labels
    elif not labels:  # a field of single labels
        sample[label_field] = None


def _id_of(label: Any) -> str | None:
    """The id of a label in a JSON document; ``None`` without one."""
    key = label.get("_id") if isinstance(label, dict) else None
    return str(key.get("$oid")) if isinstance(key, dict) else key and str(key)
