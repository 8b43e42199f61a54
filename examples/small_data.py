"""What ``small_model.py`` learns from: the export, its split, and the folder that remembers a training."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from safetensors import SafetensorError

from fiftyone_ntt.dataset.documents import single_documents, tags_of
from fiftyone_ntt.dataset.fields import dataset_of, every_image
from fiftyone_ntt.dataset.labels import is_changed
from fiftyone_ntt.dataset.storage import in_parts, raw_values
from fiftyone_ntt.errors import InputError, as_text, counted, listing
from fiftyone_ntt.evaluation.left_out import SeenImages
from fiftyone_ntt.pixels.files import expanded, write_file
from fiftyone_ntt.pixels.images import content_key, read_bytes

NOTE = "small_model.json"
"""The file that says what a folder holds."""
MARK = "small_model"
"""The key in a field's info that says who wrote it."""
UNFINISHED = "unfinished"
"""The key beside it while images are still to be labelled."""


# ---- The export ----


@dataclass(frozen=True)
class Picture:
    """An image of the export.

    Attributes:
        path: the file.
        annotations: of COCO, with run lengths in the frame of the upright image.
    """

    path: Path
    annotations: tuple[dict[str, Any], ...]

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What to learn: a crowd, or what is marked as to be ignored, is no object of its class."""
        return [label for label in self.annotations if not label["iscrowd"] and not label.get("ignore")]


def mask_of(annotation: dict[str, Any]) -> NDArray[np.bool_]:
    """bool ``[H, W]`` of an annotation."""
    mask: NDArray[np.uint8] = mask_utils.decode(annotation["segmentation"])
    return mask.astype(bool)


def read_export(folder: Path) -> tuple[list[str], dict[str, Picture]]:
    """Classes in the order of their numbers, and name -> image."""
    path, labels = folder / "labels.json", defaultdict(list)
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        for label in coco["annotations"]:
            labels[label["image_id"]].append(label)
        pictures = {
            image["file_name"]: Picture(folder / "data" / image["file_name"], tuple(labels[image["id"]]))
            for image in coco["images"]
        }
        return [category["name"] for category in coco["categories"]], pictures
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{path} is damaged ({as_text(error)}); choose another --out") from error


def truth_of(annotation: dict[str, Any], classes: Sequence[str]) -> fo.Detection:
    """A label of the export, as FiftyOne has it."""
    marks = {"iscrowd": annotation["iscrowd"], "ignore": annotation.get("ignore", 0)}
    return fo.Detection.from_mask(mask_of(annotation), label=classes[annotation["category_id"] - 1], **marks)


# ---- The folder ----


@dataclass
class Training:
    """One training, which lies in a folder of its own.

    Attributes:
        folder: where.
        settings: what decides about the result; another call must have the same.
        classes: names of the export's classes.
        train: names of the images to learn from.
        validation: names of those set aside.
        epochs: how many are done.
    """

    folder: Path
    settings: dict[str, Any]
    classes: list[str] = field(default_factory=list)
    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    epochs: int = 0

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any]) -> Training:
        """The training in a folder, or a new one; a folder that holds anything else is refused."""
        if not (folder / NOTE).is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise InputError(f"expected a new or empty folder, {folder} holds something else; choose another --out")
            training = cls(folder, settings)
            training.write()
            return training
        try:
            training = cls(folder, **json.loads((folder / NOTE).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{folder / NOTE} is damaged ({error}); choose another --out") from error
        other = [name for name, value in settings.items() if training.settings.get(name) != value]
        if other:
            raise InputError(
                f"{folder} holds a training with other settings ({listing(other)}); choose another --out, or the same "
                f"settings: {listing(f'{name}={training.settings.get(name)}' for name in other)}"
            )
        return training

    @property
    def network(self) -> Path:
        """Where the network of the last epoch lies, as ``save_pretrained`` writes it."""
        return self.folder / f"epoch-{self.epochs}"

    def write(self) -> None:
        """Keeps all but the folder's own name."""
        facts = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_file(self.folder / NOTE, json.dumps(facts, indent=2, ensure_ascii=False))

    def keep(self, network: Any) -> None:
        """One epoch more. The note names the network once all of it is there: whoever stops us loses an epoch."""
        before, after = self.network, self.folder / f"epoch-{self.epochs + 1}"
        try:
            network.save_pretrained(after)
        except (OSError, SafetensorError) as error:  # a full disk, mostly; safetensors has an exception of its own
            shutil.rmtree(after, ignore_errors=True)
            raise InputError(
                f"cannot keep the network in {after} ({as_text(error)}); make room there, the same call goes on"
            ) from error
        self.epochs += 1
        self.write()
        shutil.rmtree(before, ignore_errors=True)


# ---- The field ----


def touched_by_people(images: SampleCollection, name: str) -> int:
    """How many labels of a field are not, or no longer, what the script wrote, or have a tag; in every group slice."""
    images = every_image(dataset_of(images))
    return sum(
        not isinstance(label.get("written"), str) or is_changed(label) or bool(tags_of(label))
        for ids in in_parts(images.values("id"), 1000)  # their masks come along
        for document in raw_values(images.select(ids), name)
        for label in single_documents(document)
    )


def check_target(images: SampleCollection, name: str, options: argparse.Namespace) -> None:
    """Raises unless labels may be written to a field: a new one, or an unfinished one of the same folder.

    If asked for, any one of an earlier call.
    """
    if name in (options.field, options.truth):
        raise InputError(f"expected a field of its own for the small model, got {name!r}; choose another --into")
    if not name.isidentifier() or name.startswith("_"):
        raise InputError(f"expected the name of a field for --into, got {name!r}; use letters, digits and _")
    if not images.has_field(name):
        return
    about = (images.get_field(name).info or {}).get(MARK)
    if not about:
        raise InputError(f"field {name!r} is there and was not written by this script; choose another --into")
    is_ours = about.get(UNFINISHED) and about.get("folder") == str(expanded(options.out))
    if not (is_ours or options.overwrite):
        raise InputError(f"field {name!r} is there from an earlier call; choose another --into, or pass --overwrite")
    if touched := touched_by_people(images, name):
        raise InputError(
            f"field {name!r} holds {counted(touched, 'label')} that a person drew, changed, tagged or decided on; "
            "choose another --into"
        )


def make_field(dataset: fo.Dataset, name: str, about: dict[str, Any]) -> None:
    """A field of detections that says where they come from, and that it is unfinished.

    One that was left so by the same network and settings stays, any other of an earlier call is replaced.
    """
    info = {MARK: {**about, UNFINISHED: True}}
    if dataset.has_field(name):
        if dataset.get_field(name).info == info:
            return
        dataset.delete_sample_field(name)
    dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections, info=info)


def finish_field(dataset: fo.Dataset, name: str, about: dict[str, Any]) -> None:
    """Says that nothing is to be labelled any more: only --overwrite replaces the field now."""
    field = dataset.get_field(name)
    field.info = {MARK: about}
    field.save()


# ---- The split ----


def copies_of(images: SampleCollection, pictures: dict[str, Picture]) -> dict[str, list[str]]:
    """Name -> ids of the samples whose file has the same content: what was learned may lie there twice."""
    names = defaultdict(list)
    for name, picture in pictures.items():
        with suppress(OSError, InputError):  # whoever trains with the image will say so
            names[content_key(read_bytes(picture.path))].append(name)
    lengths = {int(key.partition("-")[0]) for key in names}
    copies: dict[str, list[str]] = {name: [] for name in pictures}
    for sample_id, path in zip(*images.values(["id", "filepath"]), strict=True):
        with suppress(OSError, InputError):  # whoever labels the image will say so
            if os.stat(path).st_size in lengths:  # files of another length need not be read
                for name in names.get(content_key(read_bytes(path)), ()):
                    copies[name].append(sample_id)
    return copies


def fresh_images(images: SampleCollection, label_field: str) -> SampleCollection:
    """The images that no reference comes from and nothing was learned from, by the rule of ``ntt.evaluate``."""
    seen, notes = SeenImages.of(images, label_field), list[str]()
    try:
        return seen.without_copies(seen.without(images, notes), notes)
    except InputError:  # there are no others
        return images.select([])


def split(
    pictures: dict[str, Picture], copies: dict[str, list[str]], fresh: set[str], share: float, seed: int
) -> tuple[list[str], list[str]]:
    """Names to train with, and names to set aside: a share of all by chance, the same in every call."""
    groups = defaultdict(list)
    for name in sorted(pictures):
        if copies[name] and fresh.issuperset(copies[name]):
            groups[tuple(copies[name])].append(name)  # of images of the same content all or none
    order = sorted(groups.values(), key=lambda names: hashlib.sha256(f"{seed} {names[0]}".encode()).digest())
    validation = sorted(name for names in order[: round(share * len(pictures))] for name in names)
    train = sorted(set(pictures) - set(validation))
    if not any(pictures[name].objects for name in train):
        raise InputError(
            f"expected reviewed objects to train with, got none in {counted(len(train), 'image')} beside the "
            f"{len(validation)} set aside; review more images, or lower --validation"
        )
    return train, validation
