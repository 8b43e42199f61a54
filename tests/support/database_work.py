"""How much of a collection the database looks at, by its own count: what a clock would only guess."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fiftyone.core.odm import get_db_conn


@dataclass
class Work:
    """What the database did inside ``watched``.

    Attributes:
        operations: its profile of each operation on the samples.
    """

    operations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def documents(self) -> int:
        """Samples that were looked at, each as often as that happened."""
        return sum(operation.get("docsExamined", 0) for operation in self.operations)


@contextmanager
def watched(dataset, *others: str) -> Iterator[Work]:
    """The work on a dataset's samples, and on other collections, inside is there afterwards."""
    database, work = get_db_conn(), Work()
    database.drop_collection("system.profile")
    database.command("profile", 2)
    try:
        yield work
    finally:
        database.command("profile", 0)
        names = [f"{database.name}.{name}" for name in (dataset._sample_collection_name, *others)]
        work.operations = list(database["system.profile"].find({"ns": {"$in": names}}))
        database.drop_collection("system.profile")
