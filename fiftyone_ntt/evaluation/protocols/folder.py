"""A data set of one's own in COCO json, and the small sets that this repository is measured on.

DIR/annotations/test.json                  what to label, and what is in it (voc20: instances_val2017_voc20.json)
DIR/annotations/train.json                 where references are drawn from, unless
DIR/refs/{classes}_{n}shot_seed{S}.json    holds ready reference sets
DIR/{train2017,val2017} or DIR/images      the image files; also DIR/{train,test}
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from fiftyone_ntt.errors import InputError, counted, listing
from fiftyone_ntt.evaluation.protocols.base import Case, DetectionProtocol, Needed, needed_images
from fiftyone_ntt.evaluation.protocols.coco_files import CocoFile, Reference, Targets
from fiftyone_ntt.evaluation.protocols.oracles import SEED
from fiftyone_ntt.evaluation.protocols.samplers import draw, is_single, references_of

_TARGETS = {"voc20": "instances_val2017_voc20.json", "all80": "instances_val2017.json", "all": "test.json"}
_SPLITS = {"train": ("train2017", "train", "images"), "test": ("val2017", "test", "images")}


def known_classes(root: Path) -> list[str]:
    """The class lists that a folder has reference sets for, e.g. ``["all80", "voc20"]``."""
    return sorted({path.name.split("_")[0] for path in (root / "refs").glob("*_*shot_seed*.json")})


def default_classes(root: Path) -> str:
    """The only class list that a folder has reference sets for, or ``voc20``, the one of the published protocol."""
    known = known_classes(root)
    if "voc20" in known or len(known) == 1:
        return "voc20" if "voc20" in known else known[0]
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


def ready_sets(root: Path, classes: str) -> list[tuple[int, int]]:
    """Shots and seed of each reference set of a class list, in ascending order."""
    names = (path.name for path in (root / "refs").glob(f"{classes}_*shot_seed*.json"))
    found = (re.fullmatch(rf"{classes}_(\d+)shot_seed(\d+)\.json", name) for name in names)
    return sorted((int(match[1]), int(match[2])) for match in found if match is not None)


def ready_references(root: Path, classes: str, shots: int, seed: int) -> tuple[tuple[str, ...], list[Reference]]:
    """Classes and references of a ready set, those of one image after each other."""
    path = reference_path(root, classes, shots, seed)
    if not path.is_file():
        there = ", ".join(f"{counted(k, 'shot')} of seed {one}" for k, one in ready_sets(root, classes)) or "none"
        raise InputError(f"expected the reference set {path}, got no such file; there are {there}")
    file = CocoFile.read(path, image_folder(root, "train"))
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
        source = f"{own}: images to draw references from; or ready sets, refs/{part}_<n>shot_seed<s>.json"
        needed.insert(1, Needed(data / "annotations" / "train.json", source))
    return needed


def _default_part(data: Path) -> str:
    """``voc20``, or the only class list with reference sets; ``all``, to draw from ``train.json``, without any."""
    known = known_classes(data)
    usable = [name for name in known if name in _TARGETS]
    if "voc20" in usable or len(usable) == 1:
        return "voc20" if "voc20" in usable else usable[0]
    if usable:
        raise InputError(f"expected one class list in {data / 'refs'}, got {', '.join(usable)}; choose one as part")
    if known:
        raise InputError(
            f"expected reference sets of {', '.join(_TARGETS)} in {data / 'refs'}, got those of {', '.join(known)}; "
            "call them all_<n>shot_seed<s>.json, or choose the part 'all' to draw references from train.json"
        )
    return "all"


def _cases(data: Path, part: str) -> list[Case]:
    """The ready sets, or one draw."""
    ready = ready_sets(data, part)
    return [Case(data, part, *one) for one in ready or [(1, SEED)]]


def _train_file(data: Path) -> CocoFile:
    return CocoFile.read(data / "annotations" / "train.json", image_folder(data, "train"))


def _targets(data: Path, part: str) -> Targets:
    """Without the classes that no object is of: exporters list parents of classes too, and a class 0 of none."""
    file = target_file(data, part)
    if part in known_classes(data):
        return file.targets()
    train = _train_file(data)
    used = [name for name in file.names.values() if name in file.used or name in train.used]
    if not used:
        raise InputError(f"expected objects in {file.path} and {train.path}, got none; annotate some")
    bare = [name for name in file.names.values() if name not in used]
    notes = (f"left out, no object in train.json and test.json: {listing(bare)}",) if bare else ()
    return replace(file.targets(used), notes=notes)


def _references(case: Case) -> list[Reference]:
    if case.part in known_classes(case.data):
        found, references = ready_references(case.data, case.part, case.shots, case.seed)
        names = tuple(target_file(case.data, case.part).names.values())
        if found != names:
            path = reference_path(case.data, case.part, case.shots, case.seed)
            raise InputError(f"the classes of {path.name} differ from those of the targets: {found} and {names}")
        return references
    file, classes = _train_file(case.data), _targets(case.data, case.part).classes
    return references_of(file, draw(file, classes, case.shots, case.seed, unclear=True))


PROTOCOL = DetectionProtocol(
    "folder",
    "COCO json of your own: annotations/train.json and annotations/test.json",
    parts=tuple(_TARGETS),
    shots=(1, 3, 5, 10),
    seeds=(33, 42, 13),
    scorers=("coco", "boundary"),
    files=_files,
    default_part=_default_part,
    usual_cases=_cases,
    targets=_targets,
    references=_references,
)
