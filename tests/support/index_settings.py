"""Settings of a candidate cache that small models without weights filled."""

from __future__ import annotations

from fiftyone_ntt.candidates.file_format import IndexSettings
from support.fake_models import fake_segmenter

GB = 10**9


def settings_of(points_per_side=4, preset="fake", **facts):
    return IndexSettings(preset, {**fake_segmenter(points_per_side).facts(), **facts})
