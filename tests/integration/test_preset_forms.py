"""Forms offer presets of one's own beside those of the package."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from fiftyone_ntt.models import PRESETS, register_preset
from fiftyone_ntt.operators.forms import Form
from fiftyone_ntt.params import preset_names as names
from fiftyone_ntt.params.labelling import IndexParams


def offered() -> list[str]:
    form = Form(SimpleNamespace(params={}), IndexParams)
    form.add("preset")
    return list(form.inputs.properties["preset"].type.values)


def test_forms_list_registered_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_registered", {})
    assert offered() == list(names.preset_names())
    register_preset(replace(PRESETS["tiny"], name="mine"))
    try:
        assert offered() == [*names.BUILT_IN, "mine"]
    finally:
        del PRESETS["mine"]
