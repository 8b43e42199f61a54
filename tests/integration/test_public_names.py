"""The names that others build on: each is imported as the documentation says, and called once."""

from __future__ import annotations

import inspect

import fiftyone.operators as foo
import numpy as np
import pytest
import torch

import fiftyone_ntt as ntt

OPERATORS = {
    "accept_labels", "advise_references", "build_memory_bank", "cancel_run", "clear_decisions", "clear_done",
    "evaluate",
    "export_labels", "fit_thresholds", "index_candidates", "judge_presence", "learn", "lower_threshold",
    "make_previews", "make_reference_masks", "mark_done",
    "metric_ar100", "metric_box_ap", "metric_mask_ap", "metric_mask_ap50", "preview", "refine_labels",
    "reject_labels",
    "remove_previews", "remove_reference", "resume_run", "segment", "selfcheck", "to_segmentation", "undo_refinement",
    "undo_run", "use_as_reference",
}  # fmt: skip
PANELS = {"ntt_review"}


@pytest.mark.pictures(every_label=True, masks=4)
def test_services_from_references_to_an_export(pictures, preset, tmp_path):
    """With the tags of labels and samples that decisions and references have."""
    references, index = pictures.match_tags("ntt:reference"), {"index_dir": tmp_path / "index", "device": "cpu"}
    bank = ntt.build_memory_bank(references, "truth", classes=None, preset=preset, name="bank", progress=None)
    assert ntt.index(pictures, preset=preset, **index).computed == len(pictures)
    report = ntt.segment(pictures, bank, label_field="ntt", preset=preset, **index)
    assert report.labelled == len(pictures) - len(references)
    assert [run["run_key"] for run in ntt.list_runs(pictures)] == [report.run_key]
    assert ntt.evaluate(pictures, "ntt", gt_field="truth", eval_key=None).images == 3
    accepted, rejected, edited = pictures.values("ntt.detections.id", unwind=True)[:3]
    ntt.accept_labels(pictures, label_ids=[accepted])
    ntt.reject_labels(pictures, label_ids=[rejected])
    pictures.select_labels(ids=[edited]).tag_labels("ntt:edited", "ntt")
    assert pictures.count_label_tags("ntt") == {"ntt:accepted": 1, "ntt:rejected": 1, "ntt:edited": 1}
    lessons = ntt.learn(pictures, "ntt", preset=preset, index_dir=tmp_path / "index")
    assert sum(sum(row.values()) for row in lessons.decisions.values()) == 3
    assert ntt.export_labels(pictures, tmp_path / "export", label_field="ntt", export_media=False).labels == 2
    assert ntt.undo_run(pictures, report.run_key) == report.instances - 2


def test_names_of_core_and_models(preset):
    from fiftyone_ntt.core import (
        Candidates,
        ImageFrame,
        Instances,
        MatchConfig,
        MemoryBank,
        Segmenter,
        match,
        match_vectors,
    )
    from fiftyone_ntt.models import PRESETS, load_preset

    segmenter = load_preset(preset, "cpu").segmenter()
    assert isinstance(segmenter, Segmenter) and {"lite", "paper"} <= set(PRESETS)
    assert ImageFrame.squash((90, 120)).image_size == (90, 120)
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    image = segmenter.candidates(pixels)
    assert isinstance(image.candidates, Candidates)
    vectors = torch.eye(2, image.tokens.shape[-1])
    bank = MemoryBank(("a", "b"), vectors.numpy(), np.arange(2), ("x", "y"))
    features = torch.rand(len(image.candidates), vectors.shape[1])
    by_tokens = match(image.candidates, image.tokens, bank.vectors)
    by_vectors = match_vectors(image.candidates, features, bank.vectors, MatchConfig.paper())
    for result in (by_tokens, by_vectors):
        assert isinstance(result, Instances) and 0 < len(result) <= len(image.candidates)


@pytest.mark.parametrize("name", sorted(OPERATORS | PANELS))
def test_operators_and_panel_are_found_by_name(name, database):
    assert foo.get_operator(f"@fiftyone-ntt/ntt/{name}").config.label


def test_no_operator_is_forgotten_here(database):
    ours = {item.name for item in foo.list_operators() if item.plugin_name == "@fiftyone-ntt/ntt"}
    assert ours == OPERATORS | PANELS


def test_segment_takes_few_named_arguments():
    named = [
        name for name, item in inspect.signature(ntt.segment).parameters.items() if item.kind is not item.VAR_KEYWORD
    ]
    assert named[:2] == ["view", "bank"] and len(named) <= 15, "how candidates are made lies in an object of its own"


@pytest.mark.parametrize("name", ntt.__all__)
def test_every_public_name_is_there(name):
    assert getattr(ntt, name) is not None
