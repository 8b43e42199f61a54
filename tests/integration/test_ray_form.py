"""What the form of "Precompute candidates" offers where there is a Ray cluster, and what it says where none is."""

from __future__ import annotations

import os
import socket
import sys

import pytest
from support.app import context, form, operator, run

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.params.labelling import IndexAnywhereParams, IndexParams

pytest.importorskip("pyarrow", reason="fleets need pyarrow: pip install 'fiftyone-ntt[fleet]'")

from fiftyone_ntt.fleet import ray_runner  # noqa: E402
from fiftyone_ntt.fleet.bucket import Bucket, FleetError  # noqa: E402

pytestmark = pytest.mark.pictures(count=3)
NAME = "index_candidates"
NOTHING_THERE = "127.0.0.1:9"
EVERYTHING = {"_advanced": True, "_advanced_ray_cluster": True}
OF_RAY = {info.name for info in IndexAnywhereParams.infos()} - {info.name for info in IndexParams.infos()}


@pytest.fixture
def address(monkeypatch):
    """A cluster is named, and none is there."""
    monkeypatch.setenv("RAY_ADDRESS", NOTHING_THERE)


@pytest.fixture
def asked(tmp_path):
    return {"on_ray": True, "store": str(tmp_path / "store")}


def test_without_the_variable_the_form_is_as_ever(pictures, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert len(OF_RAY) == 7
    properties, errors = form(NAME, pictures, EVERYTHING)
    assert not OF_RAY & set(properties) and "_advanced_ray_cluster" not in properties and errors == {}
    advanced = properties["_advanced"].view.label
    monkeypatch.setenv("RAY_ADDRESS", NOTHING_THERE)
    assert form(NAME, pictures, {})[0]["_advanced"].view.label != advanced


def test_with_the_variable_it_offers_the_cluster(pictures, address, asked, monkeypatch):
    monkeypatch.setattr(ray_runner, "check_ray", lambda: None)
    properties, errors = form(NAME, pictures, {})
    assert [key for key in properties if key in ("preset", *OF_RAY)] == ["preset", "on_ray"] and errors == {}
    assert "on this machine" in properties["_estimate"].view.label
    properties, errors = form(NAME, pictures, asked)
    assert {"store", "workers", "cpus", "gpus"} <= set(properties) and errors == {}
    assert "the cluster does what the store has not" in properties["_estimate"].view.label
    opened, errors = form(NAME, pictures, {**asked, **EVERYTHING})
    assert set(opened) >= OF_RAY and errors == {}
    assert "expected a store" in form(NAME, pictures, {"on_ray": True})[1]["store"]


def test_a_store_that_cannot_be_written_to_is_said(pictures, address, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_runner, "check_ray", lambda: None)
    (tmp_path / "a file").write_text("where a folder should be")
    asked["store"] = str(tmp_path / "a file" / "store")
    assert "can be written to" in form(NAME, pictures, asked)[1]["store"]
    with pytest.raises(FleetError, match="can be written to"):
        run(NAME, pictures, asked)
    assert "expected a store" in refused(pictures, {"on_ray": True})
    for text in ("here/store", "s3:/bucket"):  # others would look for it elsewhere; a slash is missing
        assert "expected the full path" in form(NAME, pictures, {**asked, "store": text})[1]["store"]
    assert Bucket("~/store").url == os.path.expanduser("~/store")
    assert "abacus" in form(NAME, pictures, {**asked, "store": "abacus://bucket/x"})[1]["store"]


def refused(pictures, params):
    with pytest.raises(InputError) as error:
        run(NAME, pictures, params)
    return str(error.value)


def test_without_ray_it_says_how_to_install_it(pictures, address, asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    wanted = r"pip install 'fiftyone-ntt\[ray\]'"
    _, errors = form(NAME, pictures, asked)
    assert list(errors) == ["on_ray"] and "pip install 'fiftyone-ntt[ray]'" in errors["on_ray"]
    for call in (
        lambda: run(NAME, pictures, asked),
        lambda: ntt.index(pictures, **asked),
        lambda: operator(NAME)(pictures, **asked),
    ):
        with pytest.raises(Exception, match=wanted):
            call()


def test_an_address_of_rays_client_is_refused(pictures, asked, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"ray://{NOTHING_THERE}")
    monkeypatch.setattr(ray_runner, "find_spec", lambda name: name)
    assert "ray start --address" in form(NAME, pictures, asked)[1]["on_ray"]
    with pytest.raises(FleetError, match="ray start --address"):
        ntt.index(pictures, **asked)


def test_other_settings_that_a_fleet_has_not(pictures, address, asked):
    assert "tiles" in refused(pictures, {**asked, "large_images": "on"})
    assert "precision" in refused(pictures, {**asked, "precision": "auto"})
    assert "A=B" in refused(pictures, {**asked, "map_root": ["/data"]})
    assert "'workers'" in refused(pictures, {**asked, "workers": 0})


def test_what_is_scheduled_needs_no_variable_here(pictures, asked, monkeypatch):
    """The form was filled in elsewhere: this machine takes what it says, or says what it lacks."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    ctx = context(NAME, pictures, asked, delegated=True)
    with pytest.raises(FleetError, match="package ray"):
        operator(NAME).execute(ctx)


class TestWrongAddress:
    """Ray itself would try for minutes."""

    @pytest.fixture(autouse=True)
    def _with_ray(self):
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'fiftyone-ntt[ray]'")

    def test_nothing_listens_there(self, pictures, address, asked, tmp_path):
        with pytest.raises(FleetError, match=f"expected a Ray cluster at {NOTHING_THERE}.*RAY_ADDRESS"):
            run(NAME, pictures, asked)
        assert not list((tmp_path / "store").rglob("*.parquet")), "no image was listed for nobody"

    def test_no_address_at_all(self, pictures, asked, monkeypatch):
        monkeypatch.setenv("RAY_ADDRESS", "over there")
        with pytest.raises(FleetError, match="expected a Ray cluster at over there"):
            ntt.index(pictures, **asked)

    def test_something_else_listens_there(self, pictures, asked, monkeypatch):
        monkeypatch.setattr(ray_runner, "_JOIN_SECONDS", 5.0)
        with socket.create_server(("127.0.0.1", 0)) as server:
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
            with pytest.raises(FleetError, match="does not answer as a cluster does in 5 s"):
                ntt.index(pictures, **asked)
