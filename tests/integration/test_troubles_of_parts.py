"""Patches, frames, clips and videos: refused where whole images are needed, before anything is written."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.params.review import DecisionParams
from fiftyone_ntt.review.decisions import undo_last_decision
from fiftyone_ntt.review.in_sight import InSight


@pytest.fixture
def parts(dataset, tmp_path):
    """Kind -> a view of parts of pictures with labels, or of a video whose frames have labels."""
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path in paths:
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    dataset.add_samples([fo.Sample(path, ntt=labels(), truth=labels()) for path in paths])
    video = fo.Dataset(persistent=True)
    sample = fo.Sample(str(tmp_path / "a.mp4"))
    for number, path in enumerate(paths, start=1):
        sample.frames[number] = fo.Frame(filepath=path, ntt=labels(), truth=labels())
    video.add_sample(sample)
    yield {
        "patches": dataset.to_patches("truth"),
        "frames": video.to_frames(),
        "clips": video.to_clips([[[1, 2]]]),
        "video": video.view(),
    }
    video.delete()


def labels():
    box = {"bounding_box": [0.1, 0.1, 0.5, 0.5], "mask": np.ones((10, 15), bool), "confidence": 0.9}
    return fo.Detections(detections=[fo.Detection(label="fig", **box)])


def contents(view):
    """Everything that the database holds of the samples and frames behind a view, and of the view's own."""
    datasets = [view._root_dataset, view._dataset]
    collections = [dataset._sample_collection for dataset in datasets]
    collections += [dataset._frame_collection for dataset in datasets if dataset._frame_collection is not None]
    return sorted(str(document) for collection in collections for document in collection.find())


SERVICES = {
    "segment": lambda view, folder: ntt.segment(view, "no bank", "found"),
    "preview": lambda view, folder: ntt.preview(view, "no bank"),
    "index": lambda view, folder: ntt.index(view, index_dir=folder / "index"),
    "evaluate": lambda view, folder: ntt.evaluate(view, "ntt", "truth"),
    "export": lambda view, folder: ntt.export_labels(view, folder / "out", "ntt", only="all"),
    "maps": lambda view, folder: ntt.to_segmentation(view, "ntt", "maps"),
    "learn": lambda view, folder: ntt.learn(view, "ntt"),
    "presence": lambda view, folder: ntt.judge_presence(view, "ntt"),
    "doubtful": lambda view, folder: ntt.doubtful(view, "ntt"),
}


# voxel51/fiftyone-brain#132: what does not support videos is to say so; voxel51/fiftyone#2427: the App
# hung on what cannot be shown as patches
@pytest.mark.parametrize("kind", ["patches", "frames", "clips", "video"])
def test_parts_are_refused_before_anything_is_written(parts, tmp_path, kind):
    view, said = parts[kind], {}
    before = contents(view)
    for service, call in SERVICES.items():
        try:
            said[service] = f"done: {call(view, tmp_path)}"
        except NttError as error:
            said[service] = str(error)
    assert {service: text for service, text in said.items() if "images, got" not in text} == {}
    assert contents(view) == before and not (tmp_path / "out").exists()


# voxel51/fiftyone#1910, #2113: tags set on patches did not reach the dataset
@pytest.mark.parametrize("kind", ["patches", "frames"])
def test_decisions_and_references_are_taken_on_parts(parts, kind):
    view, field = parts[kind], "truth"
    count = len(view)
    assert ntt.accept_labels(view, field) == count and ntt.reject_labels(view, field) == count
    assert ntt.clear_decisions(view, field) == count
    assert ntt.use_as_references(view, field).labels + ntt.use_as_references(view, field).samples
    assert ntt.remove_references(view, field) is not None


@pytest.mark.parametrize("kind", ["clips", "video"])
def test_decisions_on_videos_are_refused(parts, kind):
    before = contents(parts[kind])
    for call in (ntt.accept_labels, ntt.reject_labels, ntt.use_as_references, ntt.remove_references):
        with pytest.raises(NttError):
            call(parts[kind], "truth")
    assert contents(parts[kind]) == before


@pytest.fixture
def compared(dataset, tmp_path):
    """Patches of an evaluation: on one picture a hit, a label on nothing, and an object that was missed."""
    path = str(tmp_path / "a.png")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    hit, missed, nothing = [0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.3, 0.3], [0.6, 0.1, 0.3, 0.3]
    truth = [fo.Detection(label="fig", bounding_box=box) for box in (hit, missed)]
    found = [fo.Detection(label="fig", bounding_box=box, confidence=0.9) for box in (hit, nothing)]
    sample = fo.Sample(path, truth=fo.Detections(detections=truth), ntt=fo.Detections(detections=found))
    dataset.add_sample(sample)
    dataset.evaluate_detections("ntt", "truth", eval_key="again", progress=False)
    return dataset, dataset.to_evaluation_patches("again")


def tags_by_field(dataset):
    sample = dataset.first()
    return {field: [label.tags for label in sample[field].detections] for field in ("truth", "ntt")}


# voxel51/fiftyone#2113, of the patches that an evaluation makes
@pytest.mark.parametrize("decide", [ntt.accept_labels, ntt.reject_labels])
def test_a_patch_of_an_evaluation_is_its_prediction(compared, decide):
    dataset, patches = compared
    sight = InSight(patches, patches.values("id"))
    assert sight.decide(decide, DecisionParams(label_field="ntt")) == 2
    tag = "ntt:accepted" if decide is ntt.accept_labels else "ntt:rejected"
    assert tags_by_field(dataset) == {"truth": [[], []], "ntt": [[tag], [tag]]}


def test_missed_objects_of_an_evaluation_become_references(compared):
    dataset, patches = compared
    missed = patches.match({"type": "fn"})
    assert ntt.use_as_references(patches, "truth", sample_ids=missed.values("id")).labels == 1
    assert tags_by_field(dataset) == {"truth": [[], ["ntt:reference"]], "ntt": [[], []]}
    assert ntt.remove_references(patches, "truth", sample_ids=missed.values("id")).labels == 1
    assert tags_by_field(dataset) == {"truth": [[], []], "ntt": [[], []]}
    with pytest.raises(NttError, match="no field 'ntt'"):
        ntt.use_as_references(dataset.to_patches("truth"), "ntt")


def test_a_decision_on_patches_can_be_taken_back(compared):
    """The button that takes a decision back is about the last one, wherever it was made."""
    dataset, _ = compared
    assert ntt.accept_labels(dataset, "ntt") == 2
    patches = dataset.to_patches("ntt")
    assert ntt.reject_labels(patches.limit(1), "ntt") == 1
    assert undo_last_decision(dataset, "ntt") == 1
    assert tags_by_field(dataset)["ntt"] == [["ntt:accepted"], ["ntt:accepted"]]
