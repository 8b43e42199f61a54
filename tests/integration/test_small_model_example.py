"""``examples/small_model.py``: it learns from what a person reviewed and from nothing else, and overwrites nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
import small_model
import small_network
import torch
import transformers
from PIL import Image
from pycocotools import mask as mask_utils
from safetensors import SafetensorError
from small_data import Picture, Training, copies_of, read_export, split
from small_network import detections_of, fitted, network_input, target_mask

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.fields import ACCEPTED_TAG, EDITED_TAG, REJECTED_TAG
from fiftyone_ntt.dataset.geometry import full_mask
from fiftyone_ntt.errors import InputError, MissingWeightsError, WeightsMismatchError

HEIGHT, WIDTH = 48, 64
TAGS = {"accepted": [ACCEPTED_TAG], "edited": [EDITED_TAG], "rejected": [REJECTED_TAG], "undecided": []}


def label(number, decision, truth=False):
    """A bright rectangle's label; where it lies says what was decided, so that an export can be told by its masks."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    column = 14 * list(TAGS).index(decision)
    mask[5 + number : 20 + number, column + 2 : column + 12] = True
    extra = {} if truth else {"confidence": 0.8, "tags": TAGS[decision], "predicted_iou": 0.9}
    return fo.Detection.from_mask(mask, label="plate", **extra)


def add(dataset, folder, number, decisions, save, tags=(), suffix="png"):
    """A picture with a rectangle for each decision, saved in one of the ways that files come in."""
    pixels = np.random.default_rng(number).integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = [label(number, decision) for decision in decisions]
    for one in labels:
        pixels[full_mask(one, (HEIGHT, WIDTH))] = 220
    path = folder / f"{number}.{suffix}"
    save(Image.fromarray(pixels), path)
    truth = [label(number, decision, truth=True) for decision in decisions if decision != "rejected"]
    dataset.add_sample(
        fo.Sample(str(path), tags=list(tags), found=fo.Detections(detections=labels),
                  ground_truth=fo.Detections(detections=truth))
    )  # fmt: skip


def on_its_side(image, path):
    """Stored turned; EXIF says how to turn it back."""
    exif = Image.Exif()
    exif[274] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


@pytest.fixture
def plates(dataset, tmp_path):
    """Six images that somebody is done with, the first one a reference, and three others."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    plain = Image.Image.save
    reviewed = [
        (["accepted", "rejected", "undecided"], plain, ["ntt:reference"]),
        (["accepted", "edited"], lambda image, path: image.convert("L").save(path), []),
        (["edited", "undecided"], lambda image, path: image.convert("RGBA").save(path), []),
        (["rejected"], plain, []),  # nothing is there: an image without any object
        (["accepted"], on_its_side, []),
        (["accepted", "rejected"], plain, []),
    ]
    for number, (decisions, save, tags) in enumerate(reviewed):
        add(dataset, folder, number, decisions, save, [*tags, "ntt:done"])
    for number in (6, 7, 8):
        add(dataset, folder, number, ["undecided"], on_its_side if number == 8 else plain)
    dataset.add_sample_field("found.detections.predicted_iou", fo.FloatField)
    return dataset


def call(dataset, out, *more):
    common = ["--model", "tiny", "--size", "64", "--epochs", "1", "--seed", "3", "--lr", "0.001"]
    return small_model.main([dataset.name, "found", "--out", str(out), *common, *map(str, more)])


def contents(dataset):
    return {sample.id: sample.to_dict(include_private=True)["found"] for sample in dataset}


def test_the_whole_way(plates, tmp_path, caplog):
    caplog.set_level("INFO", logger="small_model")
    before = contents(plates)
    assert call(plates, tmp_path / "out", "--truth", "ground_truth", "--score-threshold", "0") == 0
    note = json.loads((tmp_path / "out" / "small_model.json").read_text())
    assert (note["classes"], note["epochs"]) == (["plate"], 1)
    assert len(note["train"]) == 5 and len(note["validation"]) == 1
    assert not {"0.png"} & set(note["validation"]), "the image of a reference is never set aside"
    assert (tmp_path / "out" / "epoch-1" / "model.safetensors").is_file()
    assert contents(plates) == before, "the reviewed field is only read"

    learned = {f"/pictures/{name}" for name in note["train"]}
    for sample in plates:
        is_learned = any(sample.filepath.endswith(name) for name in learned)
        assert (sample["found_small"] is None) == is_learned
        for one in sample["found_small"].detections if sample["found_small"] else ():
            assert one.label == "plate" and 0 <= one.confidence <= 1 and one.mask.any()
    assert plates.count("found_small.detections") > 0
    assert plates.get_field("found_small").info["small_model"]["epochs"] == 1

    rows = [record.getMessage().split()[:2] for record in caplog.records if record.getMessage().startswith("found")]
    # Both on what nobody reviewed; the field that was reviewed not against itself.
    assert rows == [["found", "3"], ["found_small", "3"], ["found_small", "1"]]


def test_only_reviewed_labels_are_learned_from(plates, tmp_path):
    call(plates, tmp_path / "out")
    classes, pictures = read_export(tmp_path / "out" / "export")
    expected = {  # rectangles of the decisions that teach
        f"{number}.png": [label(number, decision) for decision in decisions]
        for number, decisions in enumerate(
            [["accepted"], ["accepted", "edited"], ["edited"], [], ["accepted"], ["accepted"]]
        )
    }
    assert classes == ["plate"] and set(pictures) == set(expected)
    for name, labels in expected.items():
        batch = small_model.load_batch([pictures[name]], 64, torch.device("cpu"))
        masks = batch["mask_labels"][0].numpy().astype(bool)
        wanted = [full_mask(one, (HEIGHT, WIDTH)) for one in labels]
        assert len(masks) == len(wanted) == len(batch["class_labels"][0])
        # 64 pixels wide as the input is: nothing is scaled, and below the image there is nothing.
        for mask, truth in zip(masks, wanted, strict=True):
            assert (mask[:HEIGHT] == truth).all() and not mask[HEIGHT:].any()
        # The picture is bright just there, however it was stored: grey, with opacity, on its side.
        bright = batch["pixel_values"][0, 0, :HEIGHT].numpy() > 0.5
        for truth in wanted:
            assert bright[truth].mean() > 0.9


def test_a_training_goes_on_and_replaces_nothing_unasked(plates, tmp_path, caplog):
    out = tmp_path / "out"
    assert call(plates, out) == 0
    written = plates.values("found_small.detections.confidence")
    assert call(plates, out) == 2 and "--overwrite" in caplog.text
    assert plates.values("found_small.detections.confidence") == written
    ntt.accept_labels(plates, "found", label_ids=[plates.last().found.detections[0].id])
    (out / "epoch-2").mkdir()
    (out / "epoch-2" / "config.json").write_text("half of it")  # of a call that was killed while it wrote
    assert call(plates, out, "--epochs", 2, "--overwrite") == 0
    note = json.loads((out / "small_model.json").read_text())
    assert note["epochs"] == 2 and not (out / "epoch-1").exists() and (out / "epoch-2").is_dir()
    assert "8.png" not in note["train"] + note["validation"], "the network has learned from the export that is there"
    caplog.clear()
    assert call(plates, out, "--overwrite", "--lr", 0.01) == 2 and "other settings (lr)" in caplog.text
    sample = plates.last()
    sample["found_small"] = fo.Detections(detections=[label(8, "accepted")])
    sample.save()
    caplog.clear()
    assert call(plates, out, "--overwrite") == 2 and "decided" in caplog.text
    assert len(plates.last().found_small.detections) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--into", "found"], "a field of its own"),
        (["--into", "ground_truth", "--overwrite"], "not written by this script"),
        (["--into", "a.b"], "name of a field"),
        (["--truth", "nowhere"], "no field 'nowhere'"),
        (["--epochs", "0"], "--epochs to be at least 1, got 0"),
        (["--size", "100"], "multiple of 32"),
        (["--model", "nobody/nothing"], "hf download nobody/nothing"),
        (["--device", "abacus"], "device"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(plates, tmp_path, caplog, more, message):
    assert call(plates, tmp_path / "out", *more) == 2
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert message in line and "\n" not in line
    assert plates.count("ground_truth.detections") == 11 and not plates.has_field("found_small")
    assert not list(tmp_path.glob("out/*")), "nothing was written before"


def test_it_is_a_script(database):
    """Run by its path it finds the files beside it, and an error is a sentence and a status."""
    script = Path(small_model.__file__)
    command = [sys.executable, str(script), "no such dataset", "found", "--out", "nowhere"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: expected the name of a FiftyOne dataset, got 'no such dataset'" in done.stdout


def test_stopping_loses_an_epoch_at_most(plates, tmp_path, monkeypatch, caplog):
    out, keep = tmp_path / "out", Training.keep

    def stop_after_two(training, network):
        keep(training, network)
        if training.epochs == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "keep", stop_after_two)
    assert call(plates, out, "--epochs", 4) == 130 and not plates.has_field("found_small")
    monkeypatch.undo()
    caplog.clear()
    caplog.set_level("INFO", logger="small_model")
    assert call(plates, out, "--epochs", 4) == 0
    assert [f"epoch {k} of 4" in caplog.text for k in (1, 2, 3, 4)] == [False, False, True, True]


def test_a_folder_that_holds_something_else_is_left_alone(plates, tmp_path, caplog):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert call(plates, tmp_path) == 2 and "holds something else" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "thesis.txt"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "small_model.json").write_text("[]")
    assert call(plates, tmp_path / "out") == 2 and "damaged" in caplog.text


def test_images_that_are_not_done_teach_only_when_none_is(plates, tmp_path):
    ntt.clear_done(plates)
    call(plates, tmp_path / "out")
    _, pictures = read_export(tmp_path / "out" / "export")
    assert "3.png" not in pictures, "an image with a rejected label alone says nothing of the rest of it"
    assert sum(len(picture.objects) for picture in pictures.values()) == 6


def test_an_image_that_cannot_be_read_fails_alone(plates, tmp_path, caplog):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    plates.add_sample(fo.Sample(str(broken)))
    assert call(plates, tmp_path / "out") == 1
    assert "broken.png" in caplog.text
    assert plates.last().found_small is None and plates.skip(8).first().found_small is not None


def test_what_was_learned_is_known_under_another_name(plates, tmp_path):
    """A copy of a training image must not be labelled as if it were new, nor one of a reference be set aside."""
    copy = tmp_path / "copy.png"
    copy.write_bytes((tmp_path / "pictures" / "0.png").read_bytes())
    plates.add_sample(fo.Sample(str(copy)))
    call(plates, tmp_path / "out")
    assert plates.last().found_small is None
    fresh = small_model.fresh_images(plates, "found").values("id")
    assert len(fresh) == 8 and not {plates.first().id, plates.last().id} & set(fresh)
    _, pictures = read_export(tmp_path / "out" / "export")
    assert copies_of(plates, pictures)["0.png"] == [plates.first().id, plates.last().id]


def test_the_split_is_the_same_and_leaves_objects_to_train_with():
    drawn = {"iscrowd": 0, "category_id": 1}
    pictures = {f"{number}": Picture(None, (drawn,)) for number in range(10)}
    copies = {name: [f"id {name}"] for name in pictures}
    fresh = {f"id {number}" for number in range(1, 10)}
    first = split(pictures, copies, fresh, 0.3, 0)
    assert first == split(dict(reversed(pictures.items())), copies, fresh, 0.3, 0)
    assert len(first[1]) == 3 and not set(first[0]) & set(first[1]) and "0" in first[0]
    assert len({tuple(split(pictures, copies, fresh, 0.3, seed)[1]) for seed in range(9)}) > 1
    twins = copies | {"3": ["id 3", "id 7"], "7": ["id 3", "id 7"]}
    for seed in range(9):
        assert len({"3", "7"} & set(split(pictures, twins, fresh, 0.3, seed)[0])) in (0, 2), "one content, one side"
    assert split(pictures, copies, set(), 0.3, 0)[1] == [], "all of them are references"
    crowds = {name: Picture(None, ({**drawn, "iscrowd": 1},)) for name in pictures}
    with pytest.raises(InputError, match="review more images"):
        split(crowds, copies, fresh, 0.3, 0)


@pytest.mark.parametrize("size", [(60, 80), (90, 40), (33, 129)])
def test_masks_come_back_where_they_were(size):
    """What a perfect network would say becomes the label that it was made of, in pixels of the image."""
    mask = np.zeros(size, bool)
    mask[size[0] // 4 : size[0] // 2, size[1] // 3 : size[1] - 5] = True
    side = 128
    targets = torch.stack([target_mask(mask, side), torch.zeros(side, side)])
    logits = torch.nn.functional.avg_pool2d(targets[None], 2)[0] * 40 - 20  # the network's own are smaller, too
    classes = torch.tensor([[-9.0, 9.0, -9.0], [-9.0, -9.0, 9.0]])
    found = detections_of(classes, logits, size, side, ["a", "b"], 0.5).detections
    assert [one.label for one in found] == ["b"] and found[0].confidence > 0.95
    back = full_mask(found[0], size)
    assert (back & mask).sum() / (back | mask).sum() > 0.85
    rows, columns = np.nonzero(mask)
    box = [columns.min() / size[1], rows.min() / size[0], np.ptp(columns) / size[1], np.ptp(rows) / size[0]]
    assert np.abs(np.array(found[0].bounding_box) - box).max() < 2.1 / min(size)


def test_input_and_targets_share_a_frame():
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[10:20, 60:90] = 255
    square, mask = network_input(pixels, 96), target_mask(pixels[..., 0] > 0, 96)
    assert fitted((30, 90), 96) == (32, 96) and square.shape == (3, 96, 96)
    assert ((square[0] > 1) == mask.bool()).float().mean() > 0.99
    thin = np.zeros((1000, 1000), bool)
    thin[:, 500] = True
    assert target_mask(thin, 64).sum() > 0, "an object thinner than a pixel is no background"


def test_masks_of_the_export_are_those_of_the_labels(plates, tmp_path):
    call(plates, tmp_path / "out")
    classes, pictures = read_export(tmp_path / "out" / "export")
    truth = small_model.truth_of(pictures["4.png"].annotations[0], classes)
    assert (full_mask(truth, (HEIGHT, WIDTH)) == full_mask(label(4, "accepted"), (HEIGHT, WIDTH))).all()


def test_weights_are_loaded_with_other_classes(tmp_path):
    torch.manual_seed(0)
    network = small_network.load_network(None, ["a", "b", "c"])
    network.save_pretrained(tmp_path)
    other = small_network.load_network(tmp_path, ["plate"])
    assert other.config.id2label == {0: "plate"} and other.class_predictor.out_features == 2
    same = [name for name, weight in network.named_parameters() if not name.startswith("class_predictor")]
    assert len(same) > 100
    assert all(torch.equal(network.get_parameter(name), other.get_parameter(name)) for name in same)
    assert small_network.weights_of(str(tmp_path)) == tmp_path
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsMismatchError, match="cannot load"):
        small_network.load_network(tmp_path, ["plate"])
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsMismatchError, match="mask2former"):
        small_network.weights_of(str(tmp_path))
    with pytest.raises(MissingWeightsError, match="config.json"):
        small_network.weights_of(str(tmp_path / "nowhere"))


def test_it_learns(plates, tmp_path):
    """A loop with a wrong sign, or targets beside the objects, would not bring the loss down."""
    call(plates, tmp_path / "out")
    _, pictures = read_export(tmp_path / "out" / "export")
    batch = small_model.load_batch(list(pictures.values()), 64, torch.device("cpu"))
    options = small_model.parser().parse_args(["d", "f", "--out", "o", "--epochs", "15", "--lr", "0.003"])
    options.size = 64
    training = Training.open(tmp_path / "other", {})
    training.train = sorted(pictures)
    torch.manual_seed(0)
    network = small_network.load_network(None, ["plate"])

    def loss():
        torch.manual_seed(9)
        with torch.no_grad():
            return float(network(**batch).loss)

    before = loss()
    small_model.train(network, training, pictures, options)
    assert training.epochs == 15 and loss() < 0.8 * before


def test_run_lengths_are_in_the_frame_of_the_upright_image(plates, tmp_path):
    call(plates, tmp_path / "out")
    _, pictures = read_export(tmp_path / "out" / "export")
    assert {mask_utils.decode(one["segmentation"]).shape for p in pictures.values() for one in p.objects} == {
        (HEIGHT, WIDTH)
    }


@pytest.mark.parametrize("change", ["drawn", "moved", "renamed", "tagged"])
def test_overwrite_keeps_what_a_person_did(plates, tmp_path, caplog, change):
    out = tmp_path / "out"
    assert call(plates, out, "--score-threshold", 0) == 0
    assert call(plates, out, "--score-threshold", 0, "--overwrite") == 0, "the labels are as they were written"
    sample = plates.last()
    one = sample.found_small.detections[0]
    if change == "drawn":
        sample.found_small.detections.append(fo.Detection(label="plate", bounding_box=[0.1, 0.1, 0.2, 0.2]))
    elif change == "moved":
        one.bounding_box = [0.5, 0.5, 0.25, 0.25]
    elif change == "renamed":
        one.label = "number"
    else:
        one.tags = ["look again"]
    sample.save()
    before = sample.to_dict()["found_small"]
    assert call(plates, out, "--score-threshold", 0, "--overwrite") == 2
    assert "holds 1 label that a person drew, changed" in caplog.text
    plates.reload()
    assert plates.last().to_dict()["found_small"] == before


def test_a_full_disk_is_one_sentence(plates, tmp_path, caplog, monkeypatch):
    def fill(network, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(transformers.Mask2FormerForUniversalSegmentation, "save_pretrained", fill)
    assert call(plates, tmp_path / "out") == 2 and "No space left on device" in caplog.text
    assert not list((tmp_path / "out").glob("epoch-*")) and not plates.has_field("found_small")
    monkeypatch.undo()
    assert call(plates, tmp_path / "out") == 0


def test_a_sample_set_aside_may_be_gone(plates, tmp_path, caplog):
    out = tmp_path / "out"
    assert call(plates, out) == 0
    (name,) = json.loads((out / "small_model.json").read_text())["validation"]
    plates.delete_samples([sample.id for sample in plates if sample.filepath.endswith(f"/{name}")])
    caplog.set_level("INFO", logger="small_model")
    assert call(plates, out, "--overwrite") == 0 and "1 image of those set aside" in caplog.text


def test_a_damaged_export_is_one_sentence(plates, tmp_path, caplog):
    assert call(plates, tmp_path / "out") == 0
    for text in ('{"images": [', "{}", "[]", '{"annotations": [3]}'):
        (tmp_path / "out" / "export" / "labels.json").write_text(text)
        caplog.clear()
        assert call(plates, tmp_path / "out", "--overwrite") == 2 and "labels.json is damaged" in caplog.text


def test_labelling_goes_on_after_a_stop(plates, tmp_path, caplog, monkeypatch):
    out, find, calls = tmp_path / "out", small_model.detections_of, []

    def stop_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return find(*arguments)

    monkeypatch.setattr(small_model, "detections_of", stop_at_the_third)
    assert call(plates, out, "--batch-size", 2) == 130
    done = plates.exists("found_small").values("id")
    assert len(done) == 2
    assert call(plates, tmp_path / "other") == 2 and "is there from an earlier call" in caplog.text
    calls[:] = [None] * 3
    caplog.set_level("INFO", logger="small_model")
    assert call(plates, out) == 0 and "2 images labelled" in caplog.text
    assert len(calls) == 3 + 2, "only the two others were labelled"
    assert set(done) < set(plates.exists("found_small").values("id")) and len(plates.exists("found_small")) == 4
    assert call(plates, out) == 2, "a finished field is not replaced unasked"


def test_an_unfinished_field_of_other_settings_is_redone(plates, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(small_model, "finish_field", lambda *arguments: None)
    assert call(plates, out) == 0
    monkeypatch.undo()
    assert call(plates, out, "--epochs", 2) == 0
    about = plates.get_field("found_small").info["small_model"]
    assert about["epochs"] == 2 and "unfinished" not in about and len(plates.exists("found_small")) == 4


def test_a_damaged_exported_image_fails_alone(plates, tmp_path, caplog, monkeypatch):
    out, opened = tmp_path / "out", small_model.reviewed

    def damage(images, options):
        training, pictures = opened(images, options)
        pictures["0.png"].path.write_bytes(b"no image")
        pictures["1.png"].path.unlink(missing_ok=True)
        return training, pictures

    monkeypatch.setattr(small_model, "reviewed", damage)
    assert call(plates, out, "--epochs", 2, "--batch-size", 1) == 1
    assert [caplog.text.count(part) for part in ("failed: ", "/0.png", "/1.png")] == [2, 1, 1]
    assert json.loads((out / "small_model.json").read_text())["epochs"] == 2
    for path in (out / "export" / "data").iterdir():
        path.write_bytes(b"no image")
    caplog.clear()
    assert call(plates, out, "--epochs", 3, "--batch-size", 1, "--overwrite") == 2
    assert "none of the images" in caplog.text
