"""CD-FSOD: six far domains with fixed reference files."""

from __future__ import annotations

from pathlib import Path

from fiftyone_ntt.evaluation.protocols.base import Case, DetectionProtocol, Needed, needed_images
from fiftyone_ntt.evaluation.protocols.coco_files import CocoFile, Reference, Targets
from fiftyone_ntt.evaluation.protocols.samplers import as_given, references_of

CLASSES: dict[str, tuple[str, ...]] = {
    "ArTaxOr": ("Araneae", "Coleoptera", "Diptera", "Hemiptera", "Hymenoptera", "Lepidoptera", "Odonata"),
    "clipart1k": (
        "sheep", "chair", "boat", "bottle", "diningtable", "sofa", "cow", "motorbike", "car", "aeroplane", "cat",
        "train", "person", "bicycle", "pottedplant", "bird", "dog", "bus", "tvmonitor", "horse",
    ),
    "DIOR": (
        "Expressway-Service-area", "Expressway-toll-station", "airplane", "airport", "baseballfield",
        "basketballcourt", "bridge", "chimney", "dam", "golffield", "groundtrackfield", "harbor", "overpass", "ship",
        "stadium", "storagetank", "tenniscourt", "trainstation", "vehicle", "windmill",
    ),
    "FISH": ("fish",),
    "NEU-DET": ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"),
    "UODD": ("seacucumber", "seaurchin", "scallop"),
}  # fmt: skip
SHOTS = (1, 5, 10)
_DEEPER = {"DIOR": {"train": "train/new_train", "test": "test/new_test"}}
"""Where a set's images lie one level deeper."""
_SOURCE = "the archive of CDFSOD-benchmark (CD-ViTO) on GitHub"


def _folder(data: Path, part: str, split: str) -> Path:
    return data / part / _DEEPER.get(part, {}).get(split, split)


def _files(data: Path, part: str) -> list[Needed]:
    annotations = data / part / "annotations"
    return [
        *(Needed(annotations / f"{shots}_shot.json", f"{_SOURCE}, {part}") for shots in SHOTS),
        Needed(annotations / "test.json", f"{_SOURCE}, {part}"),
        *(needed_images(_folder(data, part, split), f"{_SOURCE}, {part}") for split in ("train", "test")),
    ]


def _targets(data: Path, part: str) -> Targets:
    return CocoFile.read(data / part / "annotations" / "test.json", _folder(data, part, "test")).targets(CLASSES[part])


def _references(case: Case) -> list[Reference]:
    path = case.data / case.part / "annotations" / f"{case.shots}_shot.json"
    file = CocoFile.read(path, _folder(case.data, case.part, "train"))
    return references_of(file, as_given(file, CLASSES[case.part], case.shots, paper=case.paper))


PROTOCOL = DetectionProtocol(
    "cd-fsod",
    "CD-FSOD: ArTaxOr, clipart1k, DIOR, FISH (DeepFish), NEU-DET, UODD, with their own reference files",
    parts=tuple(CLASSES),
    shots=SHOTS,
    seeds=(),
    scorers=("coco",),
    files=_files,
    mask_ap=False,
    mean_of_parts=True,
    targets=_targets,
    references=_references,
)
