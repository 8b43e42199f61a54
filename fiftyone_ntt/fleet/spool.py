"""The labels of all units in one local file, found by the image's id: a run asks for its images in an order of its own.

Read once from the store, front to back; then each image is one read of a local disk. In memory there is a table of ids.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.fleet.bucket import FleetError, read_many
from fiftyone_ntt.fleet.label_parts import ImageLabels, LabelFolder
from fiftyone_ntt.params.base import Progress
from fiftyone_ntt.pixels.files import write_problem


class Spool:
    """The labels of some units. Look-ups are safe in any thread; ``close`` removes the file.

    Args:
        labels: where they are.
        units: names of the units, those of the newest manifest last: of an image in several, the newest that did not
            fail counts.
        progress: called with (done, total, message).
        folder: where the file goes; that of temporary files where ``None``.

    Raises:
        FleetError: if the file cannot be written, or labels cannot be read.
    """

    def __init__(
        self, labels: LabelFolder, units: Sequence[str], progress: Progress | None = None, folder: str | None = None
    ) -> None:
        self._lock, place = threading.Lock(), folder or tempfile.gettempdir()
        try:
            self._file = tempfile.TemporaryFile(prefix="fiftyone-ntt-labels-", dir=place)  # noqa: SIM115 - see ``close``
        except OSError as error:
            raise FleetError(f"{write_problem(error, place)}; spool_dir (--spool-dir) names another one") from error
        try:
            self._ids, self._offsets, self._lengths = self._filled(labels, units, progress)
        except OSError as error:
            self.close()
            trouble = write_problem(error, f"the labels of {len(units):,} units in {place}")
            raise FleetError(f"{trouble}; spool_dir (--spool-dir) names another folder") from error
        except BaseException:
            self.close()
            raise

    def _filled(
        self, labels: LabelFolder, units: Sequence[str], progress: Progress | None
    ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """Copies the labels into the file; returns ids in order, and where their rows are."""
        columns: list[list[NDArray[Any]]] = [[], [], [], []]
        end = 0
        for done, rows in enumerate(read_many(labels.rows, units), start=1):
            texts = [json.dumps(row, separators=(",", ":")).encode() for row in rows]
            self._file.write(b"".join(texts))
            lengths = np.array([len(text) for text in texts], np.int64)
            ends = end + np.cumsum(lengths)
            end += int(lengths.sum())
            ids = np.array([row["id"].encode() for row in rows], np.bytes_)
            good = np.array([row["instances"] is not None for row in rows], np.bool_)
            for column, values in zip(columns, (ids, good, ends - lengths, lengths), strict=True):
                column.append(values)
            if progress is not None:
                progress(done, len(units), "reading labels")
        self._file.flush()
        return _sorted(columns)

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, image: str) -> ImageLabels | None:
        """The labels of an image; ``None`` where no unit has it."""
        place = self._place(image)
        if place is None:
            return None
        with self._lock:  # one place in the file for all threads
            self._file.seek(int(self._offsets[place]))
            data = self._file.read(int(self._lengths[place]))
        return ImageLabels.from_row(json.loads(data))

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of some images that no unit has."""
        return [image for image in images if self._place(image) is None]

    def close(self) -> None:
        """Removes the file."""
        with suppress(OSError):  # what a full disk did not take is tried once more
            self._file.close()

    def _place(self, image: str) -> int | None:
        place = int(np.searchsorted(self._ids, image.encode()))
        return place if place < len(self._ids) and self._ids[place] == image.encode() else None


def _sorted(columns: list[list[NDArray[Any]]]) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Ids in order, each once, and where their rows are."""
    if not columns[0]:
        return np.zeros(0, np.bytes_), np.zeros(0, np.int64), np.zeros(0, np.int64)
    ids, good, offsets, lengths = (np.concatenate(column) for column in columns)
    order = np.lexsort((np.arange(len(ids)), good, ids))  # by id; then what failed; then what is older
    ordered = ids[order]
    last = order[np.append(ordered[1:] != ordered[:-1], True)]
    return ids[last], offsets[last], lengths[last]
