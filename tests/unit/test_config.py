"""Parameters: one set of names, defaults and bounds for SDK, forms and command line."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.params.base import Params, StageOneFields, StageOneSettings, stage_one_of
from fiftyone_ntt.params.labelling import (
    CancelParams,
    EvaluateParams,
    IndexAnywhereParams,
    IndexParams,
    LowerThresholdParams,
    MakePreviewsParams,
    RemovePreviewsParams,
    ResumeParams,
    SegmentParams,
    UndoParams,
)
from fiftyone_ntt.params.preset_names import BUILT_IN
from fiftyone_ntt.params.references import BuildBankParams, MakeMasksParams, TaggedBankParams
from fiftyone_ntt.params.review import (
    DecisionParams,
    ExportParams,
    FitThresholdsParams,
    JudgePresenceParams,
    LearnParams,
    NextImagesParams,
    PreviewParams,
    RefineParams,
    ToSegmentationParams,
    UndoRefinementParams,
)

ROOT = Path(__file__).resolve().parents[2]
ALL = [
    BuildBankParams,
    TaggedBankParams,
    MakeMasksParams,
    IndexAnywhereParams,
    IndexParams,
    SegmentParams,
    EvaluateParams,
    CancelParams,
    LowerThresholdParams,
    ResumeParams,
    UndoParams,
    PreviewParams,
    FitThresholdsParams,
    JudgePresenceParams,
    RefineParams,
    UndoRefinementParams,
    ToSegmentationParams,
    MakePreviewsParams,
    RemovePreviewsParams,
]


@pytest.mark.parametrize(
    ("function", "params", "not_in_json"),
    [
        ("build_memory_bank", BuildBankParams, {"progress", "negatives"}),
        ("make_reference_masks", MakeMasksParams, {"progress"}),
        ("index", IndexAnywhereParams, {"progress"}),
        ("segment", SegmentParams, {"progress", "config"}),
        ("evaluate", EvaluateParams, {"progress"}),
        ("learn", LearnParams, {"progress", "preset"}),
        ("next_images", NextImagesParams, {"preset"}),
        ("export_labels", ExportParams, {"progress"}),
        *((f"{name}_labels", DecisionParams, set()) for name in ("accept", "reject")),
        ("clear_decisions", DecisionParams, set()),
        ("cancel_run", CancelParams, set()),
        ("resume_run", ResumeParams, {"progress", "preset"}),
        ("lower_threshold", LowerThresholdParams, {"progress", "preset"}),
        ("undo_run", UndoParams, set()),
        ("preview", PreviewParams, {"progress"}),
        ("fit_thresholds", FitThresholdsParams, set()),
        ("judge_presence", JudgePresenceParams, set()),
        ("refine_labels", RefineParams, {"progress"}),
        ("undo_refinement", UndoRefinementParams, set()),
        ("to_segmentation", ToSegmentationParams, {"progress"}),
        ("make_previews", MakePreviewsParams, {"progress"}),
        ("remove_previews", RemovePreviewsParams, set()),
    ],
)
def test_sdk_signatures_and_parameters_are_the_same(function, params, not_in_json):
    import fiftyone_ntt as ntt

    _collection, *arguments = inspect.signature(getattr(ntt, function)).parameters.values()
    sdk = {item.name: item.default for item in arguments if item.name not in not_in_json}
    ours = {info.name: inspect.Parameter.empty if info.required else info.default for info in params.infos()}
    if "stage_one" in sdk:  # its fields are taken as plain keywords, and follow from one declaration
        del sdk["stage_one"], sdk["stage_one_fields"]
        for name in STAGE_ONE:
            sdk.pop(name, None), ours.pop(name, None)
    assert ours == sdk


STAGE_ONE = [info.name for info in StageOneSettings.infos()]


def test_stage_one_is_declared_once():
    assert set(StageOneFields.__annotations__) == set(STAGE_ONE)
    for params in (IndexParams, SegmentParams, PreviewParams):
        names = {info.name for info in params.infos()}
        assert names >= set(STAGE_ONE) - set(params.NOT_ASKED) and not names & set(params.NOT_ASKED)
    segment, settings = SegmentParams("b", points_per_side=8, device="cpu"), StageOneSettings(points_per_side=8)
    assert stage_one_of(segment, {}) == settings.changed(device="cpu"), "parameters of a service do as settings"
    assert stage_one_of(segment, {"device": "cuda"}).device == "cuda"


def test_settings_of_stage_one_name_those_there_are():
    with pytest.raises(WrongTypeError, match="'pts'"):
        stage_one_of(None, {"pts": 3})
    with pytest.raises(WrongTypeError, match="StageOneSettings.*dict"):
        stage_one_of({"points": "grid"}, {})
    with pytest.raises(InputError, match="'preset'"):
        StageOneSettings(preset="huge")
    with pytest.raises(WrongTypeError, match="'preset'"):
        StageOneSettings(preset=3)


def test_settings_of_stage_one_hold_objects_that_only_python_has():
    from fiftyone_ntt.models import PRESETS

    settings = StageOneSettings(preset=PRESETS["tiny"], index_dir=Path("somewhere"), points_per_side=np.int64(8))
    assert settings.preset is PRESETS["tiny"]
    assert settings.index_dir == "somewhere" and type(settings.points_per_side) is int


def test_presets_are_those_there_are():
    from fiftyone_ntt.models import PRESETS

    assert set(BUILT_IN) == set(PRESETS)


def test_tag_and_bank_name_are_those_of_the_dataset_side():
    from fiftyone_ntt.dataset.fields import REFERENCE_TAG, check_name

    defaults = TaggedBankParams()
    assert defaults.reference_tag == REFERENCE_TAG
    check_name(defaults.name)


@pytest.mark.parametrize("params", ALL)
def test_every_parameter_explains_itself(params):
    for info in params.infos():
        assert info.label
        assert info.help and not info.help.endswith("."), info.name
        assert info.kind in (str, bool, int, float, tuple)
        if not info.required:
            assert info.checked(info.default) == info.default


def test_absent_and_emptied_values_become_defaults():
    emptied = {"bank": "b", "score_threshold": None, "run_key": "", "points_per_side": None, "overwrite": None}
    assert SegmentParams.from_mapping(emptied) == SegmentParams("b")
    assert BuildBankParams.from_mapping({"classes": []}).classes is None
    assert TaggedBankParams.from_mapping({"reference_tag": ""}).reference_tag == "", "cleared on purpose"


def test_what_fiftyone_adds_is_passed_over():
    added = {"panel_id": "p", "panel_state": {}, "view_target": "DATASET", "delegate": True, "_notice": None}
    assert SegmentParams.from_mapping({"bank": "b", **added}) == SegmentParams("b")


@pytest.mark.parametrize(
    "params",
    [
        SegmentParams("b", score_threshold=0.25, points_per_side=8, overwrite=True, run_key="k"),
        TaggedBankParams(classes=("b", "a"), reference_tag=""),
        EvaluateParams(eval_key="e", include_references=True),
    ],
)
def test_to_json_and_back(params: Params):
    assert type(params).from_mapping(json.loads(json.dumps(params.to_mapping()))) == params


@pytest.mark.parametrize(
    ("params", "mapping", "error", "text"),
    [
        (SegmentParams, {}, None, ""),  # the references as they are tagged now
        (SegmentParams, {"bank": ""}, None, ""),
        (ExportParams, {}, InputError, "'export_dir'"),
        (SegmentParams, {"bank": "b", "thresh": 1}, InputError, "'thresh'"),
        (SegmentParams, {"bank": 3}, WrongTypeError, "'bank'.*text.*int"),
        (SegmentParams, {"bank": "b", "points_per_side": "8"}, WrongTypeError, "'8'"),
        (SegmentParams, {"bank": "b", "points_per_side": 8.5}, WrongTypeError, "whole number.*8.5"),
        (SegmentParams, {"bank": "b", "points_per_side": True}, WrongTypeError, "whole number.*True"),
        (SegmentParams, {"bank": "b", "points_per_side": 0}, InputError, "1 and 512.*0"),
        (SegmentParams, {"bank": "b", "score_threshold": 1.01}, InputError, "0 and 1.*1.01"),
        (SegmentParams, {"bank": "b", "score_threshold": math.nan}, WrongTypeError, "number.*nan"),
        (SegmentParams, {"bank": "b", "overwrite": 1}, WrongTypeError, "'overwrite'"),
        (BuildBankParams, {"classes": "fig"}, WrongTypeError, "'classes'"),
        (BuildBankParams, {"classes": ["fig", 3]}, WrongTypeError, "list.*texts"),
        (BuildBankParams, {"preset": "huge"}, InputError, "'huge'"),
    ],
)
def test_what_cannot_be_used_is_refused(params, mapping, error, text):
    if error is None:
        params.from_mapping(mapping)
        return
    with pytest.raises(error, match=text):
        params.from_mapping(mapping)


def test_numbers_come_in_their_own_type():
    params = SegmentParams.from_mapping({"bank": "b", "points_per_side": 8.0, "score_threshold": 1})
    assert type(params.points_per_side) is int
    assert type(params.score_threshold) is float


def test_direct_construction_is_checked_too():
    with pytest.raises(InputError):
        SegmentParams("b", points_per_side=-1)
    with pytest.raises(WrongTypeError):
        SegmentParams(3)  # type: ignore[arg-type]


def test_importing_the_parameters_loads_no_library():
    code = (
        "import sys, fiftyone_ntt.params.labelling; print(*sorted({'torch', 'numpy', 'fiftyone'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
