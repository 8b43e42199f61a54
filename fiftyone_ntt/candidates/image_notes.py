"""What a person should know of single images of a run: for their statuses, and as lines of its report."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from fiftyone_ntt.errors import counted
from fiftyone_ntt.method.options.tiled import TiledImage
from fiftyone_ntt.method.results import Instances, StageOneResult
from fiftyone_ntt.pixels.contrast import NO_CONTRAST
from fiftyone_ntt.pixels.frames import smallest_object
from fiftyone_ntt.pixels.images import notes_at_a_glance
from fiftyone_ntt.pixels.transparency import TRANSPARENT

_COARSE, _VERY_COARSE = 64, 200
"""Pixels between prompt points: below the first nobody misses objects that small, from the second on in any image."""
_TOO_SMALL = (
    "objects smaller than up to {} pixels can lie unseen between the prompt points: large_images='on' looks at tiles "
    "of them, or raise points_per_side"
)
_TOO_MANY = "the most labels that one may have are reached, there may be more: raise max_instances"


class ImageNotes:
    """Notes on images. Its methods may be called from several threads.

    Args:
        points_per_side: prompt points along each side of an image.

    Attributes:
        noted: key -> what a person should know of an image, e.g. that there is hardly any contrast in it.
    """

    def __init__(self, points_per_side: int) -> None:
        self._points_per_side = points_per_side
        self._lock = threading.Lock()
        self._unseen: dict[str, str] = {}  # images that were not decoded, as the index had their candidates
        self._limited: dict[str, list[str]] = {}  # a line of the report -> the images that it is about
        self._smallest = 0
        self.noted: dict[str, str] = {}

    def labelled(
        self, key: str, content: StageOneResult | TiledImage | Instances, labels: int, most: int | None
    ) -> None:
        """Notes what keeps labels from an image: no contrast, objects too small, and more labels than are allowed.

        Args:
            key: the image.
            content: what stage one found in it, or what a fleet has matched.
            labels: how many labels it gets.
            most: how many it may get, in each tile of a large image; ``None`` where there is no limit.
        """
        if not labels:
            self._look_at(key)
        if isinstance(content, TiledImage):  # what the grid of points is laid on
            size = content.finest
        else:
            size = content.image_size if isinstance(content, Instances) else content.candidates.frame.image_size
        most = None if isinstance(content, TiledImage) else most
        smallest = smallest_object(size, self._points_per_side)
        if smallest >= _COARSE and (smallest >= min(size) / 8 or smallest >= _VERY_COARSE):
            note = (
                f"objects smaller than {smallest} pixels can lie unseen between the prompt points in an image so large"
            )
            self._limit(key, note, _TOO_SMALL)
            with self._lock:
                self._smallest = max(self._smallest, smallest)
        if most is not None and labels >= most:
            self._limit(
                key, f"the most labels that an image may have ({most}) are reached: there may be more", _TOO_MANY
            )

    def _look_at(self, key: str) -> None:
        """Looks whether an image in which nothing was found could show anything, if the index spared decoding it."""
        with self._lock:
            filepath = self._unseen.pop(key, None)
        if filepath is not None:
            self.note(key, notes_at_a_glance(filepath))

    def _limit(self, key: str, note: str, line: str) -> None:
        with self._lock:
            self.noted[key] = f"{self.noted[key]}; {note}" if key in self.noted else note
            self._limited.setdefault(line, []).append(key)

    def not_decoded(self, key: str, filepath: str) -> None:
        """Remembers an image that was not decoded, as the index had its candidates."""
        self._unseen[key] = filepath

    def note(self, key: str, notes: Sequence[str]) -> None:
        """Notes what decoding an image told."""
        if notes:
            with self._lock:
                self.noted[key] = "; ".join(notes)

    def lines(self) -> list[str]:
        """A line for each kind of note on images."""
        with self._lock:
            limited = {line: list(keys) for line, keys in self._limited.items()}
            about = {key for keys in limited.values() for key in keys}
            noted = {key: note for key, note in self.noted.items() if key not in about or NO_CONTRAST in note}
        flat = [key for key, note in noted.items() if NO_CONTRAST in note]
        laid = [key for key, note in noted.items() if TRANSPARENT in note and NO_CONTRAST not in note]
        others = [key for key in noted if key not in {*flat, *laid}]
        lines = [f"{counted(len(flat), 'image')} with {NO_CONTRAST}, e.g. that of sample {flat[0]}"] if flat else []
        if laid:
            lines.append(
                f"{counted(len(laid), 'image')} with transparent parts, e.g. sample {laid[0]}: {noted[laid[0]]}"
            )
        if others:
            lines.append(f"{counted(len(others), 'image')} used in part, e.g. sample {others[0]}: {noted[others[0]]}")
        return lines + [
            f"in {counted(len(keys), 'image')} {line.format(self._smallest)}, e.g. sample {keys[0]}"
            for line, keys in limited.items()
        ]
