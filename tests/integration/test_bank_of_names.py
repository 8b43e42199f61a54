"""Class names beside references: a bank that reads, from the call to the run, and after the references have changed."""

from __future__ import annotations

import pytest
import torch

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models.dinov2 import Dinov2
from fiftyone_ntt.references.banks import build_memory_bank
from fiftyone_ntt.references.tagged_bank import plan_bank

TAG = "ntt:reference"
pytestmark = pytest.mark.pictures(count=3, references=1, masks=1)


@pytest.fixture
def reading(monkeypatch):
    """The small DINOv2 reads: every name is what looks least like a grey image, as its random weights have it."""

    def encode_text(self, names):
        side = self.input_size
        grey = self.encode(torch.full((1, 3, side, side), 0.5)).mean(dim=(0, 1, 2))
        return -grey[None].expand(len(names), -1)

    monkeypatch.setattr(Dinov2, "encode_text", encode_text, raising=False)


def test_models_that_see_only_refuse_before_they_look(pictures, preset):
    told = []
    with pytest.raises(InputError, match="read class names for text_weight=0.3.*sees images only"):
        build_memory_bank(
            pictures.match_tags(TAG), "truth", preset=preset, text_weight=0.3, progress=lambda *step: told.append(step)
        )
    assert told == []
    with pytest.raises(InputError, match="'text_weight' between 0 and 1"):
        build_memory_bank(pictures.match_tags(TAG), "truth", preset=preset, text_weight=2)


def test_names_go_into_the_bank_and_count(pictures, preset, index_dir, reading):
    references, where = pictures.match_tags(TAG), {"preset": preset, "index_dir": index_dir, "points_per_side": 3}
    plain = build_memory_bank(references, "truth", preset=preset)
    bank = build_memory_bank(references, "truth", preset=preset, name="named", text_weight=0.6)
    kept = ntt.load_bank(pictures, "named")
    assert kept.text.weight == 0.6 and kept.content_hash == bank.content_hash != plain.content_hash
    assert build_memory_bank(references, "truth", preset=preset, text_weight=0).content_hash == plain.content_hash
    ntt.segment(pictures, plain, "plain", **where)
    ntt.segment(pictures, "named", "named_labels", **where)
    scores = [pictures.values(f"{field}.detections.similarity", unwind=True) for field in ("plain", "named_labels")]
    assert scores[0] and scores[0] != scores[1]


def test_a_bank_built_again_reads_as_the_last_one_did(pictures, preset, reading):
    references = pictures.match_tags(TAG)
    build_memory_bank(references, "truth", preset=preset, name="ntt_bank", text_weight=0.6)
    sample = pictures.skip(1).first()
    sample.tags.append(TAG)
    sample.save()
    plan = plan_bank(pictures, "truth", preset=preset)
    assert not plan.fresh
    bank = plan.bank("cpu")
    assert bank.text.weight == 0.6 and bank.text.names.labels == bank.classes
