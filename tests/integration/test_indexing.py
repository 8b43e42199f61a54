"""Index once, ask anything: labels from the index are those of the direct path, and need no model."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import source as candidates
from fiftyone_ntt.candidates.maintenance import files_in, info, verify
from fiftyone_ntt.candidates.store import IndexStorageError
from fiftyone_ntt.cli import main as cli
from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.errors import InputError, MissingWeightsError, PresetMismatchError, WrongTypeError
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.models.presets import clear_loaded
from fiftyone_ntt.references.banks import save_bank

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.pictures(count=4, masks=4, every_label=True, field="ground_truth")


def with_classes(bank, **changes):
    """Another bank of the same models: two classes that look alike."""
    vectors = np.concatenate([bank.vectors, bank.vectors[:, ::-1]])
    index = np.repeat([0, 1], len(bank.vectors))
    ids = bank.reference_ids * 2
    return MemoryBank(
        ("one", "two"), vectors, index, ids, bank.center, bank.preset, {**bank.weights, **changes}, bank.preprocessing
    )


def written(dataset, field):
    """Every label: image, class, box, score, predicted IoU and mask, to the bit."""
    return [
        [
            (label.label, label.bounding_box, label.confidence, label.predicted_iou, label.mask.shape,
             np.packbits(label.mask).tobytes())
            for label in (sample[field].detections if sample[field] else [])
        ]
        for sample in dataset
    ]  # fmt: skip


@pytest.fixture
def no_models(monkeypatch):
    def refuse(*_arguments, **_keywords):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr(candidates, "load_segmenters", refuse)


@pytest.mark.slow
def test_index_gives_the_labels_of_the_direct_path_real_models(pictures, lite, index_dir, monkeypatch):
    bank = ntt.build_memory_bank(pictures.match_tags("ntt:reference"), device="cpu")
    settings = {"points_per_side": 4, "device": "cpu"}
    direct = ntt.segment(pictures, bank, "direct", use_index=False, **settings)
    assert (direct.done, direct.failed, direct.from_index, direct.indexed) == (3, 0, 0, 0)
    assert not index_dir.exists()

    made = ntt.index(pictures, index_dir=index_dir, **settings)
    assert (made.computed, made.found, made.failed) == (4, 0, 0)
    assert made.bytes == sum(file.bytes for file in files_in(index_dir) if file.image)
    again = ntt.index(pictures, index_dir=index_dir, **settings)
    assert (again.computed, again.found) == (0, 4)

    clear_loaded()
    monkeypatch.setenv("FIFTYONE_NTT_WEIGHTS", str(index_dir / "no weights here"))
    indexed = ntt.segment(pictures, bank, "indexed", index_dir=index_dir, **settings)
    assert (indexed.done, indexed.failed, indexed.from_index, indexed.indexed) == (3, 0, 3, 0)
    assert written(pictures, "indexed") == written(pictures, "direct")
    assert indexed.instances == direct.instances > 0
    assert ntt.segment(pictures, with_classes(bank), "relabelled", index_dir=index_dir, **settings).from_index == 3
    with pytest.raises(MissingWeightsError):
        ntt.segment(pictures, bank, "denser", index_dir=index_dir, points_per_side=5, device="cpu")


def test_segment_fills_the_index_for_the_next_bank(pictures, bank, preset, index_dir, request):
    first = ntt.segment(pictures, bank, "first", preset=preset, index_dir=index_dir)
    assert (first.from_index, first.indexed, first.failed) == (0, 3, 0)
    direct = ntt.segment(pictures, with_classes(bank), "direct", preset=preset, use_index=False)
    request.getfixturevalue("no_models")
    second = ntt.segment(pictures, with_classes(bank), "second", preset=preset, index_dir=index_dir)
    assert (second.from_index, second.indexed, second.failed) == (3, 0, 0)
    assert second.instances == direct.instances > 0
    assert written(pictures, "second") == written(pictures, "direct")
    assert second.notes == [] and "3 from the candidate cache" in str(second)
    strict = ntt.segment(pictures, bank, "strict", preset=preset, index_dir=index_dir, score_threshold=0.999999)
    assert strict.from_index == 3 and strict.instances < first.instances


def test_new_images_are_added_to_what_is_there(pictures, bank, preset, index_dir):
    ntt.index(pictures.limit(2), preset, index_dir=index_dir)
    report = ntt.segment(pictures, bank, preset=preset, index_dir=index_dir)
    assert (report.from_index, report.indexed) == (1, 2)
    assert ntt.index(pictures, preset, index_dir=index_dir).found == 4
    assert [entry.images for entry in info(index_dir)] == [4]


def test_the_same_image_under_another_name_is_found(pictures, preset, index_dir, tmp_path):
    ntt.index(pictures.limit(1), preset, index_dir=index_dir)
    copy = tmp_path / "a copy.png"
    copy.write_bytes(Path(pictures.first().filepath).read_bytes())
    other = fo.Dataset()
    other.add_sample(fo.Sample(str(copy)))
    assert ntt.index(other, preset, index_dir=index_dir).found == 1
    Image.open(copy).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(copy)
    assert ntt.index(other, preset, index_dir=index_dir).computed == 1
    other.delete()


def test_a_damaged_file_is_reported_and_made_again(pictures, bank, preset, index_dir):
    ntt.segment(pictures, bank, "first", preset=preset, index_dir=index_dir)
    damaged = next(file.path for file in files_in(index_dir) if file.image)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    report = ntt.segment(pictures, bank, "second", preset=preset, index_dir=index_dir)
    assert (report.from_index, report.indexed, report.failed) == (2, 1, 0)
    assert len(report.notes) == 1 and str(damaged) in report.notes[0]
    assert written(pictures, "second") == written(pictures, "first")
    assert verify(index_dir) == {}


def test_guided_points_have_an_index_of_their_own_for_any_bank(pictures, bank, preset, index_dir, request):
    guided = ntt.index(pictures, preset, points="guided", index_dir=index_dir)
    full = ntt.index(pictures, preset, index_dir=index_dir)
    assert guided.computed == full.computed == 4 and guided.bytes < full.bytes
    request.getfixturevalue("no_models")
    settings = {"preset": preset, "index_dir": index_dir}
    assert ntt.segment(pictures, bank, **settings).from_index == 3
    with pytest.raises(InputError, match="other points"):
        ntt.segment(pictures, bank, points="guided", **settings)
    for some in (bank, with_classes(bank)):
        assert ntt.segment(pictures, some, points="guided", overwrite=True, **settings).from_index == 3


def test_index_of_other_settings_is_not_used_and_report_says_why(pictures, bank, preset, index_dir):
    ntt.index(pictures, preset, index_dir=index_dir)
    report = ntt.segment(pictures, bank, preset=preset, index_dir=index_dir, points_per_side=3)
    assert (report.from_index, report.indexed) == (0, 3)
    assert "points_per_side 4" in report.notes[0]
    renamed = ntt.index(pictures.limit(1), replace(preset, name="renamed"), index_dir=index_dir)
    assert renamed.computed == 1 and "preset tiny-test" in str(renamed)
    assert sorted(entry.images for entry in info(index_dir)) == [1, 3, 4]


def test_weights_that_were_replaced_are_noticed(pictures, bank, preset, index_dir):
    """The index still has what the bank's weights made; what has to be computed is refused."""
    ntt.index(pictures.limit(2), preset, index_dir=index_dir)
    checkpoint = Path(preset.proposal.path)
    content = checkpoint.read_bytes()
    try:
        checkpoint.write_bytes(content + b"\0")
        clear_loaded()
        assert ntt.segment(pictures.limit(2), bank, "known", preset=preset, index_dir=index_dir).from_index == 1
        with pytest.raises(PresetMismatchError, match="weights"):
            ntt.segment(pictures, bank, "new", preset=preset, index_dir=index_dir)
    finally:
        checkpoint.write_bytes(content)
        clear_loaded()


def full(monkeypatch, index_dir):
    monkeypatch.setenv("FIFTYONE_NTT_INDEX_GB", "0")
    return index_dir, "limit of 0 GB"


def no_folder(monkeypatch, index_dir):
    index_dir.write_text("a file where a folder should be")
    return index_dir / "inside", "candidate cache"


@pytest.mark.parametrize("spoil", [full, no_folder])
def test_an_index_that_takes_nothing_costs_only_storing(pictures, bank, preset, index_dir, monkeypatch, caplog, spoil):
    folder, reason = spoil(monkeypatch, index_dir)
    report = ntt.segment(pictures, bank, preset=preset, index_dir=folder)
    assert (report.done, report.failed, report.indexed) == (3, 0, 0)
    assert report.instances > 0
    assert len(report.notes) == 1 and reason in report.notes[0]
    assert caplog.text.count("going on without storing") == 1
    with pytest.raises(IndexStorageError, match=reason):
        ntt.index(pictures, preset, index_dir=folder)


def test_a_size_limit_can_be_given(pictures, preset, index_dir):
    with pytest.raises(IndexStorageError, match="size_limit_gb"):
        ntt.index(pictures, preset, index_dir=index_dir, size_limit_gb=1e-6)
    assert ntt.index(pictures, preset, index_dir=index_dir, size_limit_gb=1).computed == 4


def test_one_bad_image_costs_one_image(pictures, preset, index_dir, tmp_path):
    broken = pictures.last()
    Path(broken.filepath).write_bytes(b"no image")
    gone = fo.Sample(str(tmp_path / "gone.png"))
    pictures.add_sample(gone)
    seen = []
    report = ntt.index(pictures, preset, index_dir=index_dir, progress=lambda *step: seen.append(step))
    assert (report.computed, report.failed) == (3, 2)
    assert set(report.errors) == {broken.id, gone.id}
    assert "readable image" in report.errors[broken.id] and "not found" in report.errors[gone.id]
    assert [step[:2] for step in seen] == [(done, 5) for done in range(6)]
    assert seen[-1][2] == "5 of 5 images, 2 failed"


def test_an_interrupted_run_goes_on_where_it_was(pictures, preset, index_dir):
    def stop_after_two(done, total, message):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ntt.index(pictures, preset, index_dir=index_dir, progress=stop_after_two)
    kept = len([file for file in files_in(index_dir) if file.image])
    assert kept >= 2
    report = ntt.index(pictures, preset, index_dir=index_dir)
    assert (report.found, report.computed) == (kept, 4 - kept)
    assert verify(index_dir) == {}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"preset": "huge"}, InputError, "preset.*'huge'"),
        ({"preset": 3}, WrongTypeError, "preset"),
        ({"device": "abacus"}, InputError, "device"),
        ({"size_limit_gb": -1}, InputError, "size_limit_gb.*at least 0"),
        ({"points_per_side": 0}, InputError, "points_per_side"),
    ],
)
def test_wrong_arguments_are_explained(pictures, preset, index_dir, arguments, error, text):
    with pytest.raises(error, match=text):
        ntt.index(pictures, **{"preset": preset, "index_dir": index_dir, **arguments})


def test_patches_are_no_images(pictures, preset):
    with pytest.raises(WrongTypeError, match="patches"):
        ntt.index(pictures.to_patches("ground_truth"), preset)


@pytest.mark.slow
def test_two_workers_index_one_dataset_at_the_same_time(pictures, preset, index_dir):
    code = f"""
from pathlib import PosixPath, WindowsPath
import fiftyone as fo
import fiftyone_ntt as ntt
from fiftyone_ntt.method.references import ReferenceSettings
from fiftyone_ntt.models.presets import Dinov2Spec, Preset, Sam2Spec
report = ntt.index(fo.load_dataset({pictures.name!r}), {preset!r}, index_dir={str(index_dir)!r})
print(report.computed + report.found, report.failed, len(report.notes))
"""
    command = [sys.executable, "-c", code]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ) for _ in range(2)]
    for worker in pair:
        assert worker.communicate(timeout=300)[0].split()[-3:] == ["4", "0", "0"]
    assert verify(index_dir) == {}
    assert [(entry.images, entry.leftovers) for entry in info(index_dir)] == [(4, 0)]


def test_the_command_line_builds_and_looks_after_an_index(pictures, lite, index_dir, tmp_path, capsys):
    folder = ["--index-dir", str(index_dir)]
    build = ["index", "build", pictures.name, *folder, "--points-per-side", "2", "--device", "cpu"]
    pictures.first().tags = ["two"]
    assert cli.main([*build, "--tag", "ntt:reference"]) == 0
    assert "1 image computed" in capsys.readouterr().out
    assert cli.main(["index", "info", *folder]) == 0
    shown = capsys.readouterr().out
    assert "lite" in shown and "of 50 GB in" in shown
    assert cli.main(["index", "verify", *folder]) == 0
    damaged = next(file.path for file in files_in(index_dir) if file.image)
    damaged.write_bytes(b"damaged")
    assert cli.main(["index", "verify", *folder]) == 1
    assert f"damaged {damaged}" in capsys.readouterr().out
    assert cli.main(["index", "prune", "--dry-run", *folder]) == 0
    assert "would remove 1 file," in capsys.readouterr().out
    assert cli.main(["index", "verify", "--remove", *folder]) == 1
    assert cli.main(["index", "verify", *folder]) == 0
    assert cli.main(["index", "prune", "--settings", "nothing", *folder]) == 2
    assert cli.main(["index", "prune", "--limit", "0", "--older-than", "3", *folder]) == 0
    assert cli.main([*build, "--size-limit-gb", "0"]) == 2
    assert "reached its limit" in capsys.readouterr().err
    pictures.add_sample(fo.Sample(str(tmp_path / "gone.png"), tags=["gone"]))
    assert cli.main([*build, "--tag", "gone"]) == 1
    assert "image file" in capsys.readouterr().out


def test_the_operator_and_the_sdk_share_an_index(pictures, lite, index_dir):
    """And a bank kept with the dataset is used by name."""
    import fiftyone.operators as foo

    run = foo.get_operator("@fiftyone-ntt/ntt/index_candidates")
    where = {"index_dir": str(index_dir), "points_per_side": 2, "device": "cpu"}
    result = run(pictures.limit(2), **where).result
    assert (result["computed"], result["found"], result["failed"]) == (2, 0, 0)
    assert "2 images computed" in result["summary"]
    save_bank(pictures, "squares", ntt.build_memory_bank(pictures.limit(1), device="cpu"))
    report = ntt.segment(pictures.limit(2), "squares", **where)
    assert (report.from_index, report.indexed) == (1, 0)


def test_loaded_models_are_not_asked_twice(pictures, bank, preset, index_dir, monkeypatch):
    """Resuming a run that is done must not load anything either."""
    ntt.segment(pictures, bank, preset=preset, index_dir=index_dir)
    monkeypatch.setattr(candidates, "load_segmenters", lambda *_: pytest.fail("a model was asked for"))
    assert ntt.segment(pictures, bank, preset=preset, index_dir=index_dir).resumed == 3
    assert load_preset(preset).weights == bank.weights


def test_images_without_contrast_are_noted_also_from_the_index(pictures, bank, preset, index_dir):
    flat = pictures.last()
    with Image.open(flat.filepath) as image:
        size = image.size
    Image.new("L", size, 90).save(flat.filepath)
    # a score that nothing exceeds: what is in the index is looked at again only where nothing was found
    settings = {"preset": preset, "device": "cpu", "index_dir": index_dir, "score_threshold": 1.0}
    for from_index in (0, 3):
        report = ntt.segment(pictures, bank, "found", overwrite=True, **settings)
        assert report.from_index == from_index and not report.errors
        assert any("1 image " in note and "contrast" in note and flat.id in note for note in report.notes)
        pictures.reload()
        notes = dict(zip(*pictures.values(["id", "found_status.note"]), strict=True))
        assert "contrast" in notes.pop(flat.id) and set(notes.values()) == {None}
