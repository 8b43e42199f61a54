"""What a protocol is: files, classes, references, targets and scorers under one name."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.coco_files import Reference, Targets
from fiftyone_ntt.evaluation.protocols.episodes import Episode

Presence = Literal["unknown", "given"]
"""``"unknown"``: every class may or may not be in an image. ``"given"``: it is said which class to look for."""


@dataclass(frozen=True)
class Needed:
    """A file or folder that a protocol reads.

    Attributes:
        path: where it belongs.
        source: where to get it.
        folder: whether it is a folder, with at least one file in it.
        optional: whether the protocol can do without; ``source`` then says what is lost.
    """

    path: Path
    source: str
    folder: bool = False
    optional: bool = False

    @property
    def there(self) -> bool:
        """Whether it is in its place."""
        return any(self.path.iterdir()) if self.folder and self.path.is_dir() else self.path.is_file()


@dataclass(frozen=True)
class Case:
    """One row of a table: which part of a protocol, how many references, which draw.

    Attributes:
        data: the data folder.
        part: a split, set or fold of the protocol.
        shots: references a class.
        seed: of the draw; what it does to fixed references is nothing.
        paper: copy also what the published code loses.
    """

    data: Path
    part: str
    shots: int
    seed: int = 33
    paper: bool = False


@dataclass(frozen=True)
class Protocol:
    """A published way to measure.

    Attributes:
        name: what it is called on the command line.
        summary: one line for people.
        parts: its splits, sets or folds; the first is the default.
        shots: those of the published tables.
        seeds: those of the published tables; empty where references are fixed.
        scorers: names of the scorers of a run, the main one first.
        files: data folder and part -> what must be there.
        presence: whether it is said which class to look for.
        mask_ap: whether the data set has masks of its objects; where not, polygons in its files are those of boxes.
        max_instances: labels an image that count; the method's default is the same.
        published_instances: so many the published code keeps, where these are fewer; ``--match paper`` does the same.
        default_part: chooses the part where none is named.
        mean_of_parts: whether tables have a mean over the parts.
    """

    name: str
    summary: str
    parts: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    scorers: tuple[str, ...]
    files: Callable[[Path, str], list[Needed]]
    presence: Presence = "unknown"
    mask_ap: bool = True
    max_instances: int = 100
    published_instances: int | None = None
    default_part: Callable[[Path], str] | None = None
    mean_of_parts: bool = False

    def checked_part(self, part: str | None, data: Path) -> str:
        """A part that there is; the default where ``None``."""
        if part is None:
            return self.parts[0] if self.default_part is None else self.default_part(data)
        if part not in self.parts:
            raise InputError(f"expected a part of {self.name} ({', '.join(self.parts)}), got {part!r}")
        return part

    def missing(self, data: Path, part: str) -> list[Needed]:
        """Files that are not there and must be."""
        return [needed for needed in self.files(data, part) if not (needed.there or needed.optional)]

    def check(self, data: Path, part: str) -> None:
        """Raises InputError if something is missing; the first files are named."""
        missing = self.missing(data, part)
        if missing:
            raise InputError(
                f"expected the files of {self.name} {part} below {data}, {len(missing)} are missing, e.g. "
                f"{missing[0].path}; `fiftyone-ntt protocol prepare {self.name} --data {data}` names all of them"
            )


@dataclass(frozen=True)
class DetectionProtocol(Protocol):
    """A protocol of objects: references and images of a data set, boxes and masks in return.

    Attributes:
        targets: data folder and part -> images and truth.
        references: the references of a case, class by class in the order of the draw.
        usual_cases: data folder and part -> the cases that ``prepare`` looks at; those of the tables where ``None``.
        most_labels: scorer -> labels an image that it sees, the best ones, where these are fewer than all.
    """

    targets: Callable[[Path, str], Targets] = NotImplemented
    references: Callable[[Case], list[Reference]] = NotImplemented
    most_labels: Mapping[str, int] = field(default_factory=dict)
    usual_cases: Callable[[Path, str], list[Case]] | None = None

    def read_targets(self, data: Path, part: str) -> Targets:
        """Images and truth of a part; boxes only where the data set has no masks of its objects."""
        targets = self.targets(data, part)
        return targets if self.mask_ap else targets.without_masks()

    def read_references(self, case: Case) -> list[Reference]:
        """The references of a case; boxes only where the data set has no masks of its objects."""
        references = self.references(case)
        return references if self.mask_ap else [replace(one, segmentation=None) for one in references]

    def checked_references(self, case: Case, targets: Targets) -> list[Reference]:
        """The references of a case.

        Raises:
            InputError: if one of them is among the images to label, which the scores would then know.
        """
        references = self.read_references(case)
        by_name: dict[str, list[Path]] = {}  # several folders may have an image of one name
        for image in targets.images:
            by_name.setdefault(image.path.name, []).append(image.path)
        paths = {one.path for one in references}
        seen = {path.name for path in paths if any(_is_same(path, other) for other in by_name.get(path.name, ()))}
        if seen:
            raise InputError(
                f"expected references that are not among the images to label, got {len(seen)} that are, e.g. "
                f"{min(seen)}; check that train and test of the data set are not mixed up"
            )
        return references


def _is_same(path: Path, other: Path) -> bool:
    """Whether two files of one name are one image; some sets number the files of train and test alike."""
    if path == other or not (path.is_file() and other.is_file()):
        return True
    return filecmp.cmp(path, other, shallow=False)


@dataclass(frozen=True)
class EpisodeProtocol(Protocol):
    """A protocol of questions "where is this class?", answered by a mask.

    Attributes:
        episodes: those of a case, in order.
        fold_classes: fold -> class indices that are asked for.
        digests: ``(part, shots)`` -> sha256, its first 16 digits, of the published episodes.
        short: an image's name as the published lists of episodes have it.
        paths: data folder and an image's name -> image file and file of class numbers.
        class_names: of the class numbers.
        ignored: value of the class maps that counts neither way; -1 where there is none.
    """

    episodes: Callable[[Case], Iterator[Episode]] = NotImplemented
    fold_classes: Callable[[int], list[int]] = NotImplemented
    digests: dict[tuple[str, int], str] | None = None
    short: Callable[[str], str] = str
    paths: Callable[[Path, str], tuple[Path, Path]] = NotImplemented
    class_names: tuple[str, ...] = ()
    ignored: int = -1


def needed_images(folder: Path, source: str) -> Needed:
    """A folder of images."""
    return Needed(folder, source, folder=True)
