"""A data set of one's own in COCO json, and the small sets that this repository is measured on.

DIR/annotations/test.json                  what to label, and what is in it (voc20: instances_val2017_voc20.json)
DIR/annotations/train.json                 where references are drawn from, unless
DIR/refs/{classes}_{n}shot_seed{S}.json    holds ready reference sets
DIR/{train2017,val2017} or DIR/images      the image files; also DIR/{train,test}
"""

from __future__ import annotations

from pathlib import Path

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.base import Case, DetectionProtocol, Needed, needed_images
from fiftyone_ntt.evaluation.protocols.coco_files import CocoFile, Reference, Targets
from fiftyone_ntt.evaluation.protocols.samplers import draw, is_single, references_of

_TARGETS = {"voc20": "instances_val2017_voc20.json", "all80": "instances_val2017.json", "all": "test.json"}
_SPLITS = {"train": ("train2017", "train", "images"), "test": ("val2017", "test", "images")}


def known_classes(root: Path) -> list[str]:
    """The class lists that a folder has reference sets for, e.g. ``["all80", "voc20"]``."""
    return sorted({path.name.split("_")[0] for path in (root / "refs").glob("*_*shot_seed*.json")})


def default_classes(root: Path) -> str:
    """The only class list of a folder, or ``voc20``, the one of the published protocol; ``all`` without any."""
    known = known_classes(root)
    if "voc20" in known or len(known) == 1:
        return "voc20" if "voc20" in known else known[0]
    if not known and (root / "annotations" / "train.json").is_file():
        return "all"
    raise InputError(f"expected reference sets refs/<classes>_<n>shot_seed<s>.json in {root}, got those of {known}")


def image_folder(root: Path, split: str) -> Path:
    """COCO keeps its images in a folder a split, the other sets in ``images``."""
    names = _SPLITS[split]
    return next((root / name for name in names if (root / name).is_dir()), root / names[-1])


def target_file(root: Path, classes: str) -> CocoFile:
    """The json of the images to label."""
    if classes not in _TARGETS:
        raise InputError(f"expected classes to be one of {', '.join(_TARGETS)}, got {classes!r}")
    return CocoFile.read(root / "annotations" / _TARGETS[classes], image_folder(root, "test"))


def reference_path(root: Path, classes: str, shots: int, seed: int) -> Path:
    """Where a ready reference set lies."""
    return root / "refs" / f"{classes}_{shots}shot_seed{seed}.json"


def ready_references(root: Path, classes: str, shots: int, seed: int) -> tuple[tuple[str, ...], list[Reference]]:
    """Classes and references of a ready set, those of one image after each other."""
    file = CocoFile.read(reference_path(root, classes, shots, seed), image_folder(root, "train"))
    by_image: dict[int, list[Reference]] = {number: [] for number in file.images}
    for annotation in filter(is_single, file.content["annotations"]):
        by_image[annotation["image_id"]].append(file.reference(annotation))
    return tuple(file.names.values()), [one for group in by_image.values() for one in group]


def _files(data: Path, part: str) -> list[Needed]:
    own = "a COCO json of your own"
    needed = [
        Needed(data / "annotations" / _TARGETS.get(part, "test.json"), f"{own}: the images to label and their objects"),
        needed_images(image_folder(data, "test"), "the images to label"),
        needed_images(image_folder(data, "train"), "the images with references"),
    ]
    if part not in known_classes(data):
        needed.insert(1, Needed(data / "annotations" / "train.json", f"{own}: images to draw references from"))
    return needed


def _targets(data: Path, part: str) -> Targets:
    return target_file(data, part).targets()


def _references(case: Case) -> list[Reference]:
    if case.part in known_classes(case.data):
        found, references = ready_references(case.data, case.part, case.shots, case.seed)
        names = tuple(target_file(case.data, case.part).names.values())
        if found != names:
            path = reference_path(case.data, case.part, case.shots, case.seed)
            raise InputError(f"the classes of {path.name} differ from those of the targets: {found} and {names}")
        return references
    file = CocoFile.read(case.data / "annotations" / "train.json", image_folder(case.data, "train"))
    classes = tuple(target_file(case.data, case.part).names.values())
    return references_of(file, draw(file, classes, case.shots, case.seed))


PROTOCOL = DetectionProtocol(
    "folder",
    "COCO json of your own: annotations/train.json and annotations/test.json",
    parts=tuple(_TARGETS),
    shots=(1, 3, 5, 10),
    seeds=(33, 42, 13),
    scorers=("coco", "boundary"),
    files=_files,
    default_part=default_classes,
    targets=_targets,
    references=_references,
)
