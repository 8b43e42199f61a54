"""References -> bank -> labels in a real dataset, with small random models loaded like real ones."""

from dataclasses import replace

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from support.pictures import SIZE

import fiftyone_ntt as ntt
from fiftyone_ntt.core import MemoryBank, compact, read_image
from fiftyone_ntt.dataset.geometry import full_mask
from fiftyone_ntt.errors import BadReferenceError, InputError, PresetMismatchError, WrongTypeError

pytestmark = pytest.mark.pictures(count=6, references=2)


def test_masks_and_boxes_both_become_references(pictures, bank, preset):
    assert bank.classes == ("square",)
    assert bank.shots == {"square": 2}
    assert bank.preset == preset.name
    ids = pictures.limit(2).values("id")
    assert [reference.split("/")[0] for reference in bank.reference_ids] == ids


def test_a_bank_is_found_again_by_name(pictures, preset):
    view = pictures.match_tags("ntt:reference")
    bank = ntt.build_memory_bank(view, "truth", preset=preset, name="squares")
    again = ntt.load_bank(fo.load_dataset(pictures.name), "squares")
    assert again.content_hash == bank.content_hash
    assert ntt.list_banks(pictures) == ["squares"]
    with pytest.raises(InputError, match="'circles'.*'squares'"):
        ntt.segment(pictures, "circles", preset=preset)


def test_labels_statuses_and_provenance_are_written(pictures, bank, preset):
    seen = []
    report = ntt.segment(pictures, bank, "found", preset=preset, progress=lambda *step: seen.append(step))
    assert (report.done, report.failed, report.references_skipped) == (4, 0, 2)
    assert report.instances == pictures.count("found.detections") > 0
    assert pictures.limit(2).count("found.detections") == 0, "references are left alone"
    assert pictures.count_values("found_status.state") == {"ok": 4, None: 2}
    label = pictures.skip(2).first().found.detections[0]
    assert label.label == "square"
    assert 0 < label.confidence <= 1
    assert 0.4 < label.predicted_iou <= 1
    assert pictures.get_field("found").info["ntt"]["bank_hash"] == bank.content_hash
    assert [run["run_key"] for run in ntt.list_runs(pictures)] == [report.run_key]
    assert [step[:2] for step in seen] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(pictures.filter_labels("found", F("predicted_iou") > 0.4)) == 4, "the attribute is declared"


def test_written_masks_are_the_instances_bit_for_bit(pictures, bank, preset):
    from fiftyone_ntt.models import load_preset

    sample = pictures.last()
    ntt.segment(pictures, bank, "found", preset=preset)
    segmenter = load_preset(preset).segmenter()
    instances = segmenter.match(compact(segmenter.candidates(read_image(sample.filepath))), bank)
    sample.reload()
    written = np.stack([full_mask(label, SIZE) for label in sample.found.detections])
    np.testing.assert_array_equal(written, instances.masks)
    np.testing.assert_allclose([label.confidence for label in sample.found.detections], instances.scores, atol=1e-6)


def test_one_bad_image_costs_one_image(pictures, bank, preset, tmp_path):
    broken = pictures.skip(3).first()
    with open(broken.filepath, "wb") as file:
        file.write(b"no image")
    gone = fo.Sample(filepath=str(tmp_path / "gone.png"))
    pictures.add_sample(gone)
    report = ntt.segment(pictures, bank, "found", preset=preset)
    assert (report.done, report.failed) == (5, 2)
    assert set(report.errors) == {broken.id, gone.id}
    broken.reload()
    assert broken["found_status"]["state"] == "error"
    assert "not a readable image" in broken["found_status"]["error"]
    assert pictures.match(F("found_status.state") == "error").values("id") == [broken.id, gone.id]


def test_the_same_call_resumes_and_retries_what_failed(pictures, bank, preset):
    first = ntt.segment(pictures.limit(4), bank, "found", preset=preset)
    ids = pictures.limit(4).values("found.detections.id", unwind=True)
    second = ntt.segment(pictures, bank, "found", preset=preset)
    assert (first.done, second.done, second.resumed) == (2, 2, 2)
    assert pictures.limit(4).values("found.detections.id", unwind=True) == ids, "what was done is left alone"


def test_an_interrupted_run_keeps_what_it_computed(pictures, bank, preset):
    def stop_after_two(done, total, message):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ntt.segment(pictures, bank, "found", preset=preset, progress=stop_after_two)
    assert pictures.count_values("found_status.state") == {"ok": 2, None: 4}
    assert ntt.segment(pictures, bank, "found", preset=preset).done == 2


def test_others_labels_are_not_overwritten_unasked(pictures, bank, preset):
    with pytest.raises(InputError, match="label_field"):
        ntt.segment(pictures, bank, "truth", preset=preset)
    ntt.segment(pictures, bank, "found", preset=preset)
    with pytest.raises(InputError, match="other points_per_side"):
        ntt.segment(pictures, bank, "found", preset=preset, points_per_side=3)
    with pytest.raises(InputError, match="already"):
        ntt.segment(pictures, bank, "found", preset=preset, resume=False)


def test_a_run_key_names_one_run_only(pictures, bank, preset):
    ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset, name="squares")
    ntt.segment(pictures.limit(3), bank, "found", preset=preset, run_key="mine")
    for key in ("mine", "squares"):
        with pytest.raises(InputError, match=f"run key '{key}'.*belongs"):
            ntt.segment(pictures, bank, "elsewhere", preset=preset, run_key=key)
    assert ntt.undo_run(pictures, "mine") > 0


def test_overwriting_replaces_all_but_what_a_person_decided(pictures, bank, preset):
    ntt.segment(pictures, bank, "found", preset=preset)
    sample = pictures.last()
    sample.found.detections[0].tags = ["ntt:accepted"]
    kept = sample.found.detections[0].id
    sample.save()
    before = set(pictures.values("found.detections.id", unwind=True))
    report = ntt.segment(pictures, bank, "found", preset=preset, points_per_side=3, overwrite=True)
    assert report.done == 4
    assert before & set(pictures.values("found.detections.id", unwind=True)) == {kept}


def test_undo_takes_back_everything(pictures, bank, preset):
    fields = set(pictures.get_field_schema())
    report = ntt.segment(pictures, bank, "found", preset=preset)
    assert ntt.undo_run(pictures, report.run_key) == report.instances
    assert set(pictures.get_field_schema()) == fields
    assert ntt.list_runs(pictures) == []
    with pytest.raises(InputError, match="labelling run"):
        ntt.undo_run(pictures, report.run_key)


def test_undo_leaves_accepted_labels(pictures, bank, preset):
    report = ntt.segment(pictures, bank, "found", preset=preset)
    sample = pictures.last()
    sample.found.detections[0].tags = ["ntt:accepted"]
    sample.save()
    assert ntt.undo_run(pictures, report.run_key) == report.instances - 1
    assert pictures.values("found.detections.id", unwind=True) == [sample.found.detections[0].id]


def test_score_threshold_and_references_on_request(pictures, bank, preset):
    everything = ntt.segment(pictures, bank, "everything", preset=preset, include_references=True)
    assert everything.done == 6
    scores = sorted(pictures.values("everything.detections.confidence", unwind=True))
    middle = scores[len(scores) // 2]
    ntt.segment(pictures, bank, "best", preset=preset, include_references=True, score_threshold=middle)
    assert pictures.count("best.detections") == sum(score > middle for score in scores)


def test_another_preset_or_other_weights_are_refused(pictures, bank, preset, tmp_path):
    with pytest.raises(PresetMismatchError, match="preset 'tiny-test'.*'lite'"):
        ntt.segment(pictures, bank, preset="lite")
    with pytest.raises(PresetMismatchError, match="'renamed'"):
        ntt.segment(pictures, bank, preset=replace(preset, name="renamed"))
    changed = MemoryBank(
        bank.classes, bank.vectors, bank.class_index, bank.reference_ids, None, bank.preset, {"other": "0" * 64}
    )
    with pytest.raises(PresetMismatchError, match="weights"):
        ntt.segment(pictures, changed, preset=preset)


def empty_the_mask(dataset):
    sample = dataset.first()
    sample.truth.detections[0].mask = np.zeros((40, 40), bool)
    sample.save()


def box_in_pixels(dataset):
    sample = dataset.first()
    sample.truth.detections[0].bounding_box = [200, 20, 40, 40]
    sample.save()


def nan_box(dataset):
    sample = dataset.first()
    sample.truth.detections[0].bounding_box = [float("nan"), 0.1, 0.2, 0.2]
    sample.save()


def missing_mask_file(dataset):
    sample = dataset.first()
    sample.truth.detections[0].mask = None
    sample.truth.detections[0].mask_path = "/nowhere/mask.png"
    sample.save()


def missing_image(dataset):
    sample = dataset.first()
    sample.filepath = sample.filepath + ".gone.png"
    sample.save()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (empty_the_mask, "mask.*empty"),
        (box_in_pixels, "boxes.*relative"),
        (nan_box, "relative box"),
        (missing_mask_file, "mask file.*mask.png"),
        (missing_image, "image.*not found"),
    ],
)
def test_references_that_cannot_be_used_are_named(pictures, preset, spoil, text):
    spoil(pictures)
    with pytest.raises(BadReferenceError, match=text) as caught:
        ntt.build_memory_bank(pictures.match_tags("ntt:reference").limit(1), "truth", preset=preset)
    assert pictures.first().id in str(caught.value)


def add_number_field(dataset):
    dataset.add_sample_field("number", fo.FloatField)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"label_field": "nothing"}, InputError, "field 'nothing'.*'truth'"),
        (
            {"label_field": "number"},
            WrongTypeError,
            "Detections.*Segmentation.*FloatField",
        ),
        ({"classes": ["square", "circle"]}, BadReferenceError, "'circle'"),
        ({"classes": []}, InputError, "list.*class names"),
        ({"name": "my bank"}, InputError, "letters.*underscores"),
        ({"name": "../bank"}, InputError, "letters.*underscores"),
    ],
)
def test_wrong_arguments_are_explained(pictures, preset, arguments, error, text):
    add_number_field(pictures)
    with pytest.raises(error, match=text):
        ntt.build_memory_bank(
            pictures.match_tags("ntt:reference"), **{"label_field": "truth", "preset": preset, **arguments}
        )


def test_no_references_are_explained(pictures, preset):
    with pytest.raises(InputError, match="empty view"):
        ntt.build_memory_bank(pictures.match_tags("nothing"), "truth", preset=preset)


def test_a_patches_view_can_be_the_references(pictures, preset):
    patches = pictures.match_tags("ntt:reference").to_patches("truth")
    bank = ntt.build_memory_bank(patches, "truth", preset=preset)
    assert bank.shots == {"square": 2}
    assert {reference.split("/")[0] for reference in bank.reference_ids} == set(pictures.limit(2).values("id"))


def test_masks_in_files_are_read(pictures, preset, tmp_path):
    plain = ntt.build_memory_bank(pictures.limit(1), "truth", preset=preset)
    sample = pictures.first()
    sample.truth.detections[0].export_mask(str(tmp_path / "mask.png"), update=True)
    sample.save()
    from_file = ntt.build_memory_bank(pictures.limit(1), "truth", preset=preset)
    np.testing.assert_allclose(from_file.vectors, plain.vectors, atol=1e-6)
