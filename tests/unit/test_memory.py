"""The memory bank on disk, also when the files come from a stranger."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.errors import InputError, PresetMismatchError, WrongTypeError
from fiftyone_ntt.method.bank_parts import VectorSet


@pytest.fixture
def bank():
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    return MemoryBank(
        classes=("fig", "date"),
        vectors=vectors,
        class_index=np.array([0, 1, 1]),
        reference_ids=("s1/a", "s2/b", "s2/c"),
        center=vectors.mean(axis=0),
        preset="lite",
        weights={"sam": "1" * 64},
        preprocessing={"context": "image"},
    )


def test_round_trip(bank, tmp_path):
    again = MemoryBank.load(bank.save(tmp_path / "bank"))
    assert again.content_hash == bank.content_hash
    np.testing.assert_array_equal(again.prototypes, bank.prototypes)
    assert (again.classes, again.reference_ids, again.preset) == (bank.classes, bank.reference_ids, bank.preset)
    assert (again.weights, again.preprocessing) == (bank.weights, bank.preprocessing)


def test_without_a_centre(bank, tmp_path):
    plain = MemoryBank(bank.classes, bank.vectors, bank.class_index, bank.reference_ids)
    assert MemoryBank.load(plain.save(tmp_path / "plain")).center is None
    assert plain.content_hash != bank.content_hash


def test_another_preset_or_other_weights_are_refused(bank):
    bank.check_preset("lite", {"sam": "1" * 64})
    with pytest.raises(PresetMismatchError, match="'lite'.*'base'"):
        bank.check_preset("base", {"sam": "1" * 64})
    with pytest.raises(PresetMismatchError, match="weights.*sam"):
        bank.check_preset("lite", {"sam": "2" * 64})


def damage_tensors(folder):
    (folder / "bank.safetensors").write_bytes(b"\x00" * 40)


def truncate_tensors(folder):
    path = folder / "bank.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def damage_json(folder):
    (folder / "bank.json").write_text("{]")


def list_for_json(folder):
    (folder / "bank.json").write_text("[1, 2]")


def binary_json(folder):
    (folder / "bank.json").write_bytes(b"\xff\xfe\x00")


def remove_json(folder):
    (folder / "bank.json").unlink()


def another_format(folder):
    facts = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps({**facts, "format": 99}))


def nan_vectors(folder):
    vectors = np.full((3, 5), np.nan, np.float32)
    save_file({"vectors": vectors, "class_index": np.array([0, 1, 1])}, folder / "bank.safetensors")


def class_out_of_range(folder):
    save_file({"vectors": np.ones((3, 5), np.float32), "class_index": np.array([0, 1, 7])}, folder / "bank.safetensors")


def no_vectors(folder):
    save_file({"class_index": np.array([0, 1, 1])}, folder / "bank.safetensors")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (damage_tensors, "damaged"),
        (truncate_tensors, "damaged"),
        (damage_json, "not a memory bank"),
        (list_for_json, "not a memory bank"),
        (binary_json, "damaged"),
        (remove_json, "bank.safetensors.*bank.json"),
        (another_format, "format.*99"),
        (nan_vectors, "finite"),
        (class_out_of_range, "class indices"),
        (no_vectors, "not a memory bank"),
    ],
)
def test_a_bad_bank_is_an_error_of_ours(bank, tmp_path, spoil, text):
    folder = bank.save(tmp_path / "bank")
    spoil(folder)
    with pytest.raises(InputError, match=text):
        MemoryBank.load(folder)


def test_a_missing_bank_names_the_folder(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        MemoryBank.load(tmp_path / "nowhere")


def with_negatives(bank):
    negatives = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    return bank.changed(negatives=VectorSet(negatives, ("date", None), ("s3/d", "s3/e")))


def test_negatives_are_kept_and_make_another_bank(bank, tmp_path):
    taught = with_negatives(bank)
    again = MemoryBank.load(taught.save(tmp_path / "bank"))
    np.testing.assert_array_equal(again.negatives.vectors, taught.negatives.vectors)
    assert (again.negatives.labels, again.negative_ids) == (("date", None), ("s3/d", "s3/e"))
    assert again.content_hash == taught.content_hash
    others = [
        bank,
        taught.changed(negatives=replace(taught.negatives, vectors=taught.negatives.vectors + 1)),
        taught.changed(negatives=replace(taught.negatives, labels=("fig", None))),
        taught.changed(negatives=replace(taught.negatives, ids=("s3/d", "s3/f"))),
    ]
    assert len({taught.content_hash, *(other.content_hash for other in others)}) == 5


def test_a_bank_without_negatives_is_written_as_before(bank, tmp_path):
    none = bank.changed(negatives=VectorSet(np.zeros((0, 5)), ()))
    assert none.negatives is None and none.content_hash == bank.content_hash
    facts = json.loads((bank.save(tmp_path) / "bank.json").read_text())
    assert facts["format"] == 1 and "negative_ids" not in facts


@pytest.mark.parametrize(
    "bad",
    [
        {"vectors": np.ones((2, 4))},
        {"vectors": np.full((2, 5), np.nan)},
        {"vectors": np.ones(2)},
        {"labels": ("fig", "plum")},
        {"labels": ("fig",)},
        {"ids": ("s3/d",)},
        {"ids": ()},
    ],
)
def test_negatives_that_do_not_fit_are_refused(bank, bad):
    with pytest.raises(InputError, match="expected"):
        bank.changed(negatives=replace(with_negatives(bank).negatives, **bad))


@pytest.mark.parametrize("index", [[1], [0, 2], [0, -2]])
def test_classes_of_negatives_that_do_not_fit_are_refused(bank, index):
    tensors, description = with_negatives(bank).to_parts()
    with pytest.raises(InputError, match="expected"):
        MemoryBank.from_parts({**tensors, "negative_class": np.array(index)}, description)


def test_a_set_of_vectors_is_selected_and_joined(bank):
    chosen = bank.references.select([2, 0])
    assert (chosen.labels, chosen.ids) == (("date", "fig"), ("s2/c", "s1/a"))
    joined = chosen.joined(bank.references.select([1]))
    np.testing.assert_array_equal(joined.vectors, bank.vectors[[2, 0, 1]])
    assert joined.index_in(bank.classes).tolist() == [1, 0, 1]
    fewer = bank.changed(classes=("date",), references=bank.references.select([1, 2]))
    assert (fewer.shots, fewer.preset) == ({"date": 2}, "lite")
    with pytest.raises(InputError, match="class indices"):
        bank.changed(classes=("date",))


@pytest.mark.parametrize(
    "change",
    [
        {"classes": (3, 4)},
        {"classes": "ab"},
        {"reference_ids": (None, None, None)},
        {"negatives": np.ones((1, 5), np.float32)},
        {"crops": np.ones((1, 5), np.float32)},
    ],
)
def test_parts_of_another_kind_are_refused(bank, change):
    parts = {"classes": bank.classes, "vectors": bank.vectors, "class_index": bank.class_index}
    with pytest.raises(WrongTypeError, match="expected .*got"):
        MemoryBank(**{**parts, "reference_ids": bank.reference_ids, **change})
