"""What people have stored keeps its meaning: hashes that were computed with the code of before the nine rooms."""

import hashlib
from dataclasses import asdict

import numpy as np
import pytest
from support.fake_models import fake_segmenter

from fiftyone_ntt.candidates.file_format import IndexSettings
from fiftyone_ntt.core import MatchConfig, MemoryBank
from fiftyone_ntt.method.bank_parts import VectorSet
from fiftyone_ntt.runs.applied_thresholds import _bank_key, meaning

THRESHOLDS = {
    "default": (MatchConfig(), "e9280b2d50971a1de1ca88f90625bc0edd5d6958b9585ec590525afa00145a9b"),
    "stability": (
        MatchConfig(stability_exponent=2),
        "d1569ebeaf387d680bbc574771ef6cbf0ef137a19de3b6b72868c7337fa8100a",
    ),
    "paper": (MatchConfig.paper(), "427bcf2c516d701c0c74d5c19a05cc1cee1f8bb4b900ce8f9c8bb2b4bd8ca36a"),
    "published": (MatchConfig.published(), "ca88a6743629718a88c6730c9044d4da45877d8b6c4ae091f9724a4bef6dcf6c"),
    "options": (
        MatchConfig(second_look=0.3, self_support=0.5),
        "c688196841732ce6fc835f5cab1ae7e684b15460edf996dab69984d08a329f0b",
    ),
}
INDEXES = [
    ({}, "01bbc56427c1c889d1ef70b73a060935059ca64ddbf1b0538a93a6c86ef0880d"),
    ({"points": "guided"}, "1e6b04569c579eeba56d1840bf901316c00b26f6bc0648462dbbc8c1662de920"),
    ({"granularity": "whole"}, "758edddc49ffc4fe77f02ee4ed6155096ca6be5b10525710c1b8281d41e3dfdf"),
]
VECTORS = np.arange(24, dtype=np.float32).reshape(6, 4) / 7
BANK = {
    "classes": ("coin", "nut"),
    "vectors": VECTORS,
    "class_index": np.array([0, 1, 1, 0, 1, 0]),
    "reference_ids": tuple(f"s/{i}" for i in range(6)),
    "center": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    "preset": "lite",
    "weights": {"m": "1" * 64},
    "preprocessing": {"context": "crop", "granularity": {"choice": "whole", "iou": {"best": 0.5}}},
}
NEGATIVES = {"negatives": VectorSet(VECTORS[:3] + 1, (None, "coin", "nut"), ("n/0", "n/1", "n/2"))}
CROPS = {
    "crops": VectorSet(VECTORS[:4] * 2, ("coin", "nut", "nut", "coin")),
    "crop_center": np.array([0.5, 0.25, 0.125, 0], np.float32),
}
BANKS = {
    "plain": ({}, "581cb66215968f885db2e59c07e8dc785d179d4dd77a31a6d2996fe6be7f7b55"),
    "without a centre": ({"center": None}, "bac2a406653afda10c1a3dbeac5bef9c3631327ef49bf5dcd382f6588c40f5c1"),
    "negatives": (NEGATIVES, "143c9ac726c17d8e4fb3b37c37be53a8ad04a4c03ab72a0d4030174b3d7bdc09"),
    "crops": (CROPS, "b3ef089127c93635b2c73dcf3c7de3656c66cd0c633f460ec903eb96e7a146f5"),
    "crops without a centre": (
        {**CROPS, "crop_center": None},
        "5ee8471402d3a9e52445c3f8680429a79199d3b00a1794de8f0bc5c78b9b3eab",
    ),
    "both": ({**NEGATIVES, **CROPS}, "539d3901522d96bd1413f25afbff2d78772c9ddb4e79c5b020c57fa9ae7236ae"),
}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_fitted_thresholds_are_found_under_the_same_key(name):
    config, digest = THRESHOLDS[name]
    assert _bank_key(meaning("b" * 64, asdict(config))) == f"={digest}"


def test_records_with_removed_or_missing_settings_mean_the_same():
    stored = {**asdict(MatchConfig()), "nearest": 0, "labels_per_mask": 1, "merge": "soft"}
    assert meaning("b" * 64, stored) == meaning("b" * 64, asdict(MatchConfig()))
    assert _bank_key(meaning("b" * 64, {"nms_threshold": 0.5})) == f"={THRESHOLDS['paper'][1]}"
    assert meaning("b" * 64, {**stored, "nearest": 3}) != meaning("b" * 64, stored)


@pytest.mark.parametrize(("settings", "digest"), INDEXES)
def test_indexes_lie_in_the_same_folders(settings, digest):
    assert IndexSettings("fake", fake_segmenter(16, **settings).facts()).digest == digest


@pytest.mark.parametrize("name", BANKS)
def test_banks_have_the_same_bytes(name):
    changes, expected = BANKS[name]
    tensors, description = MemoryBank(**{**BANK, **changes}).to_parts()
    digest = hashlib.sha256(description.encode())
    for key, tensor in tensors.items():
        digest.update(f"{key} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    assert digest.hexdigest() == expected
    again = MemoryBank.from_parts(tensors, description)
    assert again.content_hash == MemoryBank(**{**BANK, **changes}).content_hash
