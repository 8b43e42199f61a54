"""A field of one ``Detection`` a sample, as FiftyOne's own patches have: read as a list of one, never written to."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from support.exports import picture
from support.hostile import reference, small_models

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import WrongTypeError
from fiftyone_ntt.review.export import FORMATS
from fiftyone_ntt.review.label_table import summarise_scores


def detection(label, mask=True, **facts):
    shape = {"mask": np.ones((30, 40), bool)} if mask is True else {"mask_path": mask} if mask else {}
    return fo.Detection(label=label, bounding_box=[0.25, 0.25, 0.5, 0.5], confidence=0.4, **shape, **facts)


@pytest.fixture
def singles(dataset, tmp_path):
    """Three images: a label with a mask, one with a mask in a file, and none."""
    Image.fromarray(np.full((30, 40), 255, np.uint8)).save(tmp_path / "mask.png")
    values = [detection("a"), detection("b", str(tmp_path / "mask.png")), None]
    truth = [fo.Detections(detections=[detection(name)] if name else []) for name in ("a", "b", None)]
    for i, (one, many) in enumerate(zip(values, truth, strict=True)):
        dataset.add_sample(fo.Sample(picture(tmp_path / f"in/{i}.png", seed=i), one=one, truth=many))
    return dataset


@pytest.mark.parametrize("format", FORMATS)
def test_single_labels_are_exported(singles, tmp_path, format):
    report = ntt.export_labels(singles, tmp_path / "out", "one", format=format, only="all")
    assert (report.images, report.per_class) == (3, {"a": 1, "b": 1})
    if format == "fiftyone":
        (tmp_path / "mask.png").unlink()
        back = fo.Dataset.from_dir(str(tmp_path / "out"), dataset_type=fo.types.FiftyOneDataset)
        labels = back.values("one")
        back.delete()
        assert [label and label.label for label in labels] == ["a", "b", None]
        read = [labels[0].mask, np.asarray(Image.open(labels[1].mask_path))]
        assert all(mask.shape == (30, 40) and (mask > 0).all() for mask in read)


def test_a_single_label_that_cannot_be_written_is_left_out(singles, tmp_path):
    first = singles.first()
    singles._sample_collection.update_one({"_id": first._id}, {"$set": {"one.mask": b"broken"}})
    report = ntt.export_labels(singles, tmp_path / "out", "one", format="fiftyone", only="all")
    assert (report.images, report.per_class) == (2, {"b": 1}) and len(report.left_out) == 1


def test_single_labels_are_counted_and_reviewed(singles):
    assert [(row.name, row.labels, row.undecided) for row in summarise_scores(singles, "one")] == [
        ("a", 1, 1),
        ("b", 1, 1),
    ]
    assert ntt.doubtful(singles, "one").values("one.label") == ["a", "b"]
    assert ntt.accept_labels(singles, "one", classes=["a"]) == 1
    assert [(row.accepted, row.undecided) for row in summarise_scores(singles, "one")] == [(1, 0), (0, 1)]
    assert singles.values("one.tags") == [["ntt:accepted"], [], None]


def test_single_labels_are_scored(singles):
    results = ntt.evaluate(singles, "one", gt_field="truth")
    assert results.box.ap == results.mask.ap == pytest.approx(1.0)


def segment(singles, tmp_path, **options):
    sample = singles.first()
    sample.tags.append("ntt:reference")
    sample.save()
    with small_models():
        bank = ntt.build_memory_bank(singles.match_tags("ntt:reference"), "truth")
        return ntt.segment(singles, bank, "one", index_dir=tmp_path / "index", **options)


NEED_A_LIST = {
    "segment": segment,
    "segment over it": lambda *both: segment(*both, overwrite=True),
    "masks of references": lambda singles, _: ntt.make_reference_masks(singles, "truth", out_field="one"),
    "matches": lambda singles, _: ntt.evaluate(singles, "one", gt_field="truth", eval_key="key"),
    "matches with": lambda singles, _: ntt.evaluate(singles, "truth", gt_field="one", eval_key="key"),
}


@pytest.mark.parametrize("what", NEED_A_LIST)
def test_where_a_list_is_needed_it_is_said_first(singles, tmp_path, what, monkeypatch):
    def no_work(*_, **__):
        raise AssertionError("a model was loaded, or a score computed")

    monkeypatch.setattr("fiftyone_ntt.references.editable_masks.load_preset", no_work)
    monkeypatch.setattr("fiftyone_ntt.evaluation.evaluate._score", no_work)
    with pytest.raises(WrongTypeError, match="'one' to hold Detections, got Detection; wrap each label"):
        NEED_A_LIST[what](singles, tmp_path)
    assert singles.values("one.label") == ["a", "b", None]


def test_references_of_single_labels_are_references(dataset, tmp_path):
    sample = reference(tmp_path / "a.png")
    sample["one"] = detection("a")
    dataset.add_sample(sample)
    with small_models():
        assert ntt.build_memory_bank(dataset, "one").classes == ("a",)
