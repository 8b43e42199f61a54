"""Answers episodes: where is this class in the query, given supports that show it? The class is known to be there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.candidates.source import CandidateSource, describe_error
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.base import Case, EpisodeProtocol
from fiftyone_ntt.evaluation.protocols.episode_scores import Overlap, episode_scores, overlap
from fiftyone_ntt.evaluation.protocols.episodes import Episode
from fiftyone_ntt.evaluation.protocols.journal import Journal, stamp_of
from fiftyone_ntt.evaluation.protocols.scorers import Scored
from fiftyone_ntt.evaluation.protocols.shelf import Shelf
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.results import IndexedImage, Instances
from fiftyone_ntt.method.starting_threshold import starting_thresholds
from fiftyone_ntt.params.base import Progress


@dataclass(frozen=True)
class Support:
    """All pixels of a class in an image, as a reference.

    Attributes:
        path: the image file.
        map_path: the file of class numbers, PNG.
        value: of the class in it.
        label: class name.
    """

    path: Path
    map_path: Path
    value: int
    label: str
    size: tuple[int, int] | None = None
    box: tuple[float, float, float, float] | None = None

    @property
    def key(self) -> str:
        """Where it came from, for people."""
        return f"{self.path.name}/{self.label}"

    @property
    def identity(self) -> str:
        """Tells it apart from all others."""
        return f"{self.path} {self.value}"

    def read_mask(self) -> NDArray[np.bool_]:
        """bool ``[H, W]``."""
        return np.asarray(read_map(self.map_path) == self.value, bool)


def read_map(path: Path) -> NDArray[np.uint8]:
    """Class numbers uint8 ``[H, W]`` of a PNG, 0 for none."""
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except OSError as error:
        raise InputError(f"expected class numbers as PNG in {path}, got none ({error}); get the file again") from error
    if values.ndim != 2 or values.dtype != np.uint8:
        raise InputError(f"expected class numbers as PNG with one value a pixel in {path}, got colours; get it again")
    return values


class EpisodeWork:
    """The episodes of one case.

    Args:
        protocol: where images and maps are.
        case: fold and shots.
        shelf: encodes supports.
        config: settings of stage two.
        size: side to which masks are resized before they are compared; the image's own where ``None``.
    """

    def __init__(
        self, protocol: EpisodeProtocol, case: Case, shelf: Shelf, config: MatchConfig, size: int | None
    ) -> None:  # fmt: skip
        self._protocol, self._case, self._shelf, self._config, self._size = protocol, case, shelf, config, size

    def answer(
        self,
        episodes: Sequence[Episode],
        source: CandidateSource,
        journal: Journal,
        progress: Progress,
        *,
        whole: bool = False,
    ) -> None:
        """Answers episodes and notes the overlaps; each query goes through stage one once, each support too."""
        supports = {one.number: self._supports(one) for one in episodes}
        by_query: dict[str, list[Episode]] = {}
        for done, one in enumerate(episodes, start=1):
            try:
                self._shelf.add(supports[one.number])
                by_query.setdefault(one.query, []).append(one)
            except Exception as error:  # as with a query: a damaged file costs its episodes, not the fold
                journal.fail(str(one.number), describe_error(str(one.number), error))
            progress(done, len(episodes), f"supports of episode {one.number}")

        def finish(query: str, found: CompactImage | IndexedImage) -> None:
            for one in by_query[query]:
                bank = self._shelf.bank(supports[one.number], (self._name(one),))
                instances = Matcher(bank, self._config).match(found)
                mask = painted(instances, starting_thresholds(bank).suggested[0])
                journal.put(str(one.number), asdict(self._overlap(one, mask)), self.stamp(one))

        paths = ((query, str(self._protocol.paths(self._case.data, query)[0])) for query in by_query)
        with closing(source.outcomes(paths, finish, whole=whole)) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                if outcome.error is not None:
                    for one in (
                        one for one in by_query[outcome.key] if not journal.has(str(one.number), self.stamp(one))
                    ):
                        journal.fail(str(one.number), describe_error(outcome.key, outcome.error))
                progress(done, len(by_query), outcome.key)

    def stamp(self, episode: Episode) -> str:
        """What changes when one of the episode's files is replaced."""
        names = (episode.query, *episode.supports)
        return stamp_of(*(path for name in names for path in self._protocol.paths(self._case.data, name)))

    def _name(self, episode: Episode) -> str:
        return self._protocol.class_names[episode.label]

    def _supports(self, episode: Episode) -> list[Support]:
        pairs = (self._protocol.paths(self._case.data, name) for name in episode.supports)
        return [Support(image, numbers, episode.label + 1, self._name(episode)) for image, numbers in pairs]

    def _overlap(self, episode: Episode, answer: NDArray[np.bool_]) -> Overlap:
        numbers = read_map(self._protocol.paths(self._case.data, episode.query)[1])
        if numbers.shape != answer.shape:
            raise InputError(f"the map of {episode.query} is {numbers.shape}, its image {answer.shape}; get it again")
        if self._size is not None:
            numbers, answer = resized(numbers, self._size), resized(answer.astype(np.uint8), self._size) > 0
        return overlap(episode.label, answer, numbers == episode.label + 1, numbers == self._protocol.ignored)

    def score(self, episodes: Sequence[Episode], journal: Journal) -> Scored:
        """mIoU and FB-IoU of what was answered."""
        items = journal.items()
        overlaps = [Overlap(**items[str(one.number)]) for one in episodes if str(one.number) in items]
        classes = self._protocol.fold_classes(int(self._case.part))
        return episode_scores(overlaps, classes, self._protocol.class_names)


def painted(instances: Instances, threshold: float) -> NDArray[np.bool_]:
    """Where the class is, bool ``[H, W]``: the best instance, as it is known to be there, and all above a threshold."""
    mask = np.zeros(instances.image_size, bool)
    for i in range(len(instances)):
        if i == 0 or instances.scores[i] > threshold:
            mask |= instances.mask(i)
    return mask


def resized(values: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """uint8 ``[side, side]``, the nearest value of each pixel."""
    return np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.NEAREST))
