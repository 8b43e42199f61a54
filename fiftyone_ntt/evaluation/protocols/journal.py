"""What a run has done so far, a line an item: a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fiftyone_ntt.errors import InputError


def stamp_of(*paths: Path) -> str:
    """What changes when one of some files is replaced: bytes and times."""
    stats = [path.stat() if path.is_file() else None for path in paths]
    return " ".join("-" if one is None else f"{one.st_size}:{one.st_mtime_ns}" for one in stats)


class Journal:
    """Lines of JSON in a file: first what the run is, then its items. Items stay on disk; only their keys are kept.

    Args:
        path: the file; made with the first line.
        header: what decides the items. A file with another one is not gone on with.

    Attributes:
        done: keys of the items that are there.
        stamps: key -> what the item's files were like.
        failed: key -> why there is no item; to be tried again.
        seconds: that all processes spent on it.

    Raises:
        InputError: if the file is of another run.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.done: set[str] = set()
        self.stamps: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.seconds = 0.0
        self._lock = threading.Lock()
        wanted, first = json.loads(json.dumps(header)), True
        for line in self._lines():
            if first and line.get("run") != wanted:
                raise InputError(
                    f"expected the journal of this run in {path}, got that of one with other models or settings; "
                    "choose another folder, or delete the file"
                )
            first = False
            self._note(line)
        if first:
            self._append({"run": wanted})

    def _note(self, line: Mapping[str, Any]) -> None:
        self.seconds += line.get("seconds", 0.0)
        if "item" in line:
            self.done.add(line["key"])
            self.stamps[line["key"]] = line.get("stamp", "")
            self.failed.pop(line["key"], None)
        elif "error" in line:  # an item of before is of another file
            self.done.discard(line["key"])
            self.failed[line["key"]] = line["error"]

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The whole lines; what a killed process left of a last one is cut off."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            for data in file:
                if not data.endswith(b"\n"):
                    os.truncate(self.path, file.tell() - len(data))
                    return
                try:
                    line = json.loads(data)
                except ValueError as error:
                    raise InputError(f"expected lines of JSON in {self.path}, got others; delete the file") from error
                if not isinstance(line, dict):
                    raise InputError(f"expected the journal of a run in {self.path}, got other lines; delete the file")
                yield line

    def items(self) -> dict[str, Any]:
        """Key -> item, read from the file."""
        items: dict[str, Any] = {}
        for line in self._lines():
            if "item" in line:
                items[line["key"]] = line["item"]
            elif "error" in line:
                items.pop(line["key"], None)
        return items

    def has(self, key: str, stamp: str) -> bool:
        """Whether an item is there, and of files that are as they were."""
        return key in self.done and self.stamps[key] == stamp

    def put(self, key: str, item: Any, stamp: str = "") -> None:
        """Keeps what became of an item; ``stamp``: see ``stamp_of``."""
        self._append({"key": key, "item": item, "stamp": stamp})

    def fail(self, key: str, why: str) -> None:
        """Keeps why there is no item."""
        self._append({"key": key, "error": why})

    def spent(self, seconds: float) -> None:
        """Adds to the time of the run."""
        self._append({"seconds": seconds})

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self._note(line)  # only what was written is done
