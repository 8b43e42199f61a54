"""A run whose images are matched in processes of its own writes what it would write without them."""

from __future__ import annotations

import psutil
import pytest

import fiftyone_ntt as ntt
from fiftyone_ntt.runs import match_processes
from fiftyone_ntt.runs.match_processes import MatchProcesses


@pytest.fixture
def beside(monkeypatch):
    """Two processes, for which the first image waits; the number of images that they matched."""
    monkeypatch.setenv(match_processes.PROCESSES_VARIABLE, "2")
    monkeypatch.setattr(match_processes, "_LOOK_AFTER", 1)
    monkeypatch.setattr(match_processes, "_LEFT", 0)
    ready, match, matched = MatchProcesses._ready, MatchProcesses.match, []

    def wait(self):
        ready(self)
        self._up.result(300)
        return ready(self)

    def counted(self, image):
        found = match(self, image)
        matched.append(found is not None)
        return found

    monkeypatch.setattr(MatchProcesses, "_ready", wait)
    monkeypatch.setattr(MatchProcesses, "match", counted)
    return matched


def written(dataset, field):
    """All that is in the field, but for ids."""
    documents = [found.to_dict() for found in dataset.exists(field).values(field)]
    for document in documents:
        for label in document["detections"]:
            del label["_id"]
    return documents


@pytest.mark.parametrize("mode", ["generic", "referring"])
def test_labels_are_those_of_a_run_without(mode, pictures, bank, preset, index_dir, beside, monkeypatch):
    given = {"preset": preset, "index_dir": index_dir, "mode": mode}
    report = ntt.segment(pictures, bank, "beside", **given)
    assert beside and all(beside) and report.failed == 0
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [command for command in commands if "loky" in command and "resource_tracker" not in command]
    monkeypatch.undo()
    monkeypatch.setattr("fiftyone_ntt.runs.segment.STARTING", None)
    alone = ntt.segment(pictures, bank, "alone", **given)
    assert report.instances == alone.instances > 0 and alone.from_index == len(beside)
    assert written(pictures, "beside") == written(pictures, "alone")
