"""The accuracy benchmark from end to end on a made-up data folder, with a colour matcher in place of the networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.colours import NAMES, SIZE, colour_folder, colour_segmenter
from support.fake_models import fake_segmenter
from support.oracles import encode_mask

from benchmarks import accuracy
from benchmarks.accuracy import Guided
from benchmarks.candidate_cache import CandidateCache
from benchmarks.coco_data import (
    TargetImage,
    choose_images,
    default_classes,
    encode_segmentation,
    read_references,
    read_target_image,
    read_targets,
)
from fiftyone_ntt.core import MatchConfig, MemoryBank, ProposalConfig
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.coco import GroundTruth


@pytest.fixture
def folder(tmp_path):
    return colour_folder(tmp_path)


def test_end_to_end(folder, tmp_path, monkeypatch, capsys):
    """Colours are easy: perfect masks and presence; the published boxes are a pixel short and cost box AP only."""

    class Preset:
        segmenter = staticmethod(lambda points: colour_segmenter())

    monkeypatch.setattr(accuracy, "load_preset", lambda name, device: Preset())
    out, more = tmp_path / "out" / "scores.json", tmp_path / "more.json"
    arguments = ["--data", str(folder), "--seeds", "1,2", "--json", str(out), "--details", str(more)]
    assert accuracy.main(arguments) == 0
    scores = json.loads(out.read_text())
    assert list(scores) == ["paper", "default"]
    for variant in scores.values():
        assert list(variant) == ["box_ap", "mask_ap", "mask_ap50", "ar100", "presence_f1"]
        assert all(set(value) == {"mean", "std"} for value in variant.values())
        assert variant["mask_ap50"] == variant["presence_f1"] == {"mean": pytest.approx(1), "std": 0}
        assert variant["mask_ap"]["mean"] > 0.85
    assert 0.6 < scores["paper"]["box_ap"]["mean"] < scores["default"]["box_ap"]["mean"]
    assert set(json.loads(more.read_text())["draws"]["paper"]) == {"1", "2"}
    printed = capsys.readouterr().out
    assert (
        "mask AP50" in printed
        and "5 of 6 computed" in printed
        and f"{scores['paper']['box_ap']['mean']:.3f}" in printed
    )


def test_a_warm_cache_gives_the_same_scores_without_the_models(folder, tmp_path):
    targets = read_targets(folder, "all")
    variants = {"default": MatchConfig()}
    models, summaries = colour_segmenter(), []
    for _ in range(2):
        cache = CandidateCache(tmp_path / "cache", models)
        result = accuracy.run(models, folder, "all", 1, [1], targets, variants, cache, lambda line: None)
        summaries.append((result.computed, models.proposal_model.encoded, result.summary()))
    assert [summary[:2] for summary in summaries] == [(5, 5), (0, 5)], "the two empty images are one and the same"
    assert summaries[0][2] == summaries[1][2]


def test_cached_candidates_are_those_computed(folder, tmp_path):
    image = read_targets(folder, "all").images[0]
    models = colour_segmenter()
    kept, fresh = CandidateCache(tmp_path, models)[image], models.candidates(read_target_image(image))
    assert torch.equal(kept.candidates.mask_logits > 0, fresh.candidates.mask_logits > 0)
    assert torch.allclose(kept.candidates.mask_logits, fresh.candidates.mask_logits, rtol=1e-3)
    assert torch.equal(kept.candidates.predicted_iou, fresh.candidates.predicted_iou)
    assert torch.equal(kept.vectors, fresh.vectors) and torch.equal(kept.tokens, fresh.tokens)
    assert kept.candidates.frame == fresh.candidates.frame


def test_other_grids_and_weights_have_other_caches(tmp_path):
    models = colour_segmenter()
    folders = [CandidateCache(tmp_path, models).folder]
    models.proposals = ProposalConfig(points_per_side=12, grid="centre", points_per_batch=3)
    assert CandidateCache(tmp_path, models).folder == folders[0], "the batch changes nothing"
    models.proposals = ProposalConfig(points_per_side=13, grid="centre")
    folders.append(CandidateCache(tmp_path, models).folder)
    models.proposal_model.weights_hash = "2" * 64
    folders.append(CandidateCache(tmp_path, models).folder)
    assert len(set(folders)) == 3


def test_reading(folder):
    targets = read_targets(folder, "all")
    assert targets.classes == ("blue", "red", "green"), "in the order of category ids"
    assert [image.image_id for image in targets.images] == [10, 11, 12, 13, 14, 15]
    assert len(targets.truth) == 5 and targets.truth[0].box == (20, 30, 60, 80)
    items = list(read_references(folder, "all", 1, 2, targets.classes))
    assert [item.label for item in items] == NAMES
    assert items[0].mask.sum() == 70 * 60 and items[0].box == (40, 30, 110, 90)
    assert items[0].mask[30:90, 40:110].all()
    assert default_classes(folder) == "all"


def test_subset_covers_classes_and_keeps_empty_images(folder):
    assert {item.label for item in read_targets(folder, "all", 4).truth} == {0, 1, 2}
    five = read_targets(folder, "all", 5)
    empty = {image.image_id for image in five.images} - {item.image_id for item in five.truth}
    assert len(five.images) == 5 and len(empty) == 1
    assert five == read_targets(folder, "all", 5)
    assert len(read_targets(folder, "all", 99).images) == 6


def test_subset_is_even_over_uneven_classes(tmp_path):
    images = [TargetImage(i, tmp_path / f"{i}.png", SIZE) for i in range(100)]
    labels = [0] * 70 + [1] * 10 + [2] * 3
    truth = [GroundTruth(i, label, (0, 0, 1, 1)) for i, label in enumerate(labels)]
    chosen = choose_images(images, truth, 3, 20)
    counts = [sum(i in chosen for i, label in enumerate(labels) if label == k) for k in range(3)]
    assert len(set(chosen)) == 20
    assert counts == [7, 6, 3] or counts == [6, 7, 3], "all of the rarest, the rest shared"
    assert sum(i >= 83 for i in chosen) == 4
    assert choose_images(images[::-1], truth, 3, 20) == chosen
    assert sorted(choose_images(images[83:], [], 3, 10)) == sorted(set(choose_images(images[83:], [], 3, 10)))


@pytest.mark.parametrize("kind", ["polygon", "uncompressed", "compressed"])
def test_every_kind_of_segmentation(kind):
    mask = np.zeros(SIZE, bool)
    mask[10:30, 20:50] = True
    rle = encode_mask(mask)
    runs = np.flatnonzero(np.diff(np.pad(mask.ravel(order="F"), 1)))
    given = {
        "polygon": [[20, 10, 50, 10, 50, 30, 20, 30]],
        "uncompressed": {"size": list(SIZE), "counts": np.diff([0, *runs, mask.size]).tolist()},
        "compressed": {"size": list(SIZE), "counts": rle["counts"].decode()},
    }[kind]
    assert encode_segmentation(given, SIZE) == rle


def test_errors_say_what_is_missing(folder, capsys):
    assert accuracy.main(["--data", str(folder), "--classes", "voc20"]) == 1
    assert "instances_val2017_voc20.json" in capsys.readouterr().err
    with pytest.raises(InputError, match="all_7shot_seed1.json"):
        list(read_references(folder, "all", 7, 1, ["blue", "red", "green"]))
    with pytest.raises(SystemExit, match="variants.*paper, published, default"):
        accuracy.main(["--data", str(folder), "--variants", "best"])
    Image.new("RGB", (5, 5)).save(folder / "images" / "a.png")
    with pytest.raises(InputError, match=r"a.png.*\(5, 5\).*\(120, 160\)"):
        read_target_image(read_targets(folder, "all").images[0])


def test_guided_candidates_from_the_grid_are_a_guided_runs():
    image = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    bank = MemoryBank(("thing",), np.array([[0.9, 0.2, 0.4]], np.float32), np.zeros(1, np.int64), ("reference",))
    everything = {"predicted_iou_threshold": 0.0}
    plain, guided = fake_segmenter(6, **everything), fake_segmenter(6, points="guided", **everything)
    wanted = guided.candidates(image)
    found = Guided(0.5)(plain, plain.candidates(image), bank)
    assert len(found.candidates) == 18
    assert torch.equal(found.candidates.mask_logits, wanted.candidates.mask_logits)
    assert torch.allclose(found.vectors, wanted.vectors)
    with pytest.raises(InputError, match="36 points"):
        Guided(0.5)(plain, wanted, bank)
