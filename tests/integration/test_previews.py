"""Small copies of images that a browser cannot show: made, shown by the App, made again, taken back."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
import tifffile
from fiftyone import ViewField as F
from PIL import Image
from support.app import context, form, operator, run
from support.previews import FIELD, gradient, save, shown

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.dataset import previews as subject
from fiftyone_ntt.dataset.fields import with_sizes
from fiftyone_ntt.errors import InputError, NttError, WrongTypeError

ERRORS = f"{FIELD}_error"
KINDS = ("tiff", "photo", "wide", "deep", "see-through")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(subject.FOLDER_VARIABLE, str(tmp_path / "previews"))
    return tmp_path / "previews"


ENDINGS = {"tiff": "tif", "photo": "jpg", "wide": "jpg", "deep": "png", "see-through": "png"}


@pytest.fixture
def shelf(dataset, tmp_path):
    """An image of each kind."""
    samples = [save(tmp_path / "images" / f"{kind}.{ENDINGS[kind]}", kind) for kind in KINDS]
    dataset.add_samples(samples)
    return dataset


def previews(dataset):
    dataset.reload()
    if not dataset.has_field(FIELD):
        return dict.fromkeys(dataset.values("kind"))
    return dict(zip(*dataset.values(["kind", FIELD]), strict=True))


ORIGINALS, PREVIEWS = (["filepath"], "filepath", "filepath", False), (["filepath", FIELD], FIELD, FIELD, True)


def test_the_app_shows_what_a_browser_could_not(shelf, folder):
    told = []
    report = ntt.make_previews(shelf, progress=lambda done, total, text: told.append((done, total)))
    assert (report.made, report.unneeded, report.errors) == (4, 1, {})
    assert told == [(5, 5)]
    paths = previews(shelf)
    assert paths.pop("photo") is None, "it shows itself"
    assert all(Path(path).parent == folder / str(shelf._doc.id) for path in paths.values())
    sizes, colours = {}, {}
    for kind, path in paths.items():
        with Image.open(path) as image:
            sizes[kind], colours[kind] = image.size, np.asarray(image)
    assert sizes == {"tiff": (120, 90), "wide": (2048, 16), "deep": (120, 90), "see-through": (2048, 37)}
    assert np.abs(colours["tiff"].astype(int) - gradient(90, 120)).mean() < 4
    assert np.abs(colours["wide"][8, [100, -100], 1].astype(int) - [12, 242]).max() < 6
    assert colours["deep"].max() > 200, "values of more than 8 bits as the models see them"
    assert colours["see-through"].shape[2] == 4 and colours["see-through"][2, 5, 3] == 0
    assert shown(shelf) == PREVIEWS


def test_labels_and_models_do_not_see_previews(shelf, preset, tmp_path):
    shelf = shelf.match(F("kind") == "tiff").clone()
    box = fo.Detection(label="disc", bounding_box=[0.1, 0.1, 0.3, 0.3], mask=np.ones((27, 36), bool))
    sample = shelf.first()
    sample["truth"] = fo.Detections(detections=[box])
    sample.save()
    before = ntt.build_memory_bank(shelf, "truth", preset=preset).content_hash
    ntt.make_previews(shelf, longest_side=64)
    assert ntt.build_memory_bank(shelf, "truth", preset=preset).content_hash == before


def test_the_same_call_again_makes_what_is_missing(shelf):
    ntt.make_previews(shelf.match(F("kind") == "tiff"))
    before = previews(shelf)
    report = ntt.make_previews(shelf)
    assert (report.made, report.kept) == (3, 1)
    assert previews(shelf)["tiff"] == before["tiff"]
    Path(before["tiff"]).unlink()
    assert (ntt.make_previews(shelf).made, previews(shelf)["tiff"]) == (1, before["tiff"])
    shelf.set_field(FIELD, None).save(FIELD)  # as if it had been killed between the files and the field
    report = ntt.make_previews(shelf)
    assert report.made == 4 and previews(shelf)["tiff"] == before["tiff"]


def test_a_replaced_image_gets_another_preview(shelf, tmp_path):
    ntt.make_previews(shelf)
    before = previews(shelf)
    path = Path(shelf.match(F("kind") == "tiff").first().filepath)
    tifffile.imwrite(path, 255 - gradient(60, 80), photometric="rgb")
    report = ntt.make_previews(shelf)
    assert (report.made, report.kept) == (1, 3)
    after = previews(shelf)
    assert after["tiff"] != before["tiff"] and not Path(before["tiff"]).exists()
    with Image.open(after["tiff"]) as image:
        assert image.size == (80, 60)


def test_files_of_the_same_name_do_not_collide(dataset, tmp_path):
    dataset.add_samples([save(tmp_path / name / "slide.tif", "tiff") for name in "abc"])
    ntt.make_previews(dataset, folder=tmp_path / "one folder")
    paths = dataset.values(FIELD)
    assert len(set(paths)) == 3 == len(list((tmp_path / "one folder").iterdir()))
    assert ntt.make_previews(dataset.limit(1), folder=tmp_path / "another").made == 1, "it may move"
    assert len(list((tmp_path / "one folder").iterdir())) == 2
    assert ntt.remove_previews(dataset) == 3
    assert not list((tmp_path / "one folder").iterdir())


def test_one_bad_image_costs_one_image(shelf, tmp_path):
    bad, gone, good = (shelf.match(F("kind") == kind).first() for kind in ("tiff", "wide", "deep"))
    content = Path(bad.filepath).read_bytes()
    Path(bad.filepath).write_bytes(content[: len(content) // 3])
    os.unlink(gone.filepath)
    report = ntt.make_previews(shelf)
    assert set(report.errors) == {bad.id, gone.id} and report.made == 2
    shelf.reload()
    said = dict(zip(*shelf.values(["id", ERRORS]), strict=True))
    assert "tiff.tif" in said[bad.id] and "wide.jpg" in said[gone.id] and said[good.id] is None
    assert "2 images failed" in str(report)
    Path(bad.filepath).write_bytes(content)
    report = ntt.make_previews(shelf)
    assert (report.made, report.kept, set(report.errors)) == (1, 2, {gone.id})
    assert dict(zip(*shelf.values(["id", ERRORS]), strict=True))[bad.id] is None
    assert ntt.remove_previews(shelf) == 3
    shelf.reload()
    assert not shelf.has_field(FIELD) and not shelf.has_field(ERRORS)


def test_whatever_a_file_brings_about_costs_one_image(shelf, monkeypatch):
    def failing(path, longest_side):
        if "tiff" in path:
            raise MemoryError("too much")
        return made(path, longest_side)

    made = subject.preview_file
    monkeypatch.setattr(subject, "preview_file", failing)
    report = ntt.make_previews(shelf)
    assert report.made == 3 and "too much" in str(report.errors)


def test_removing_leaves_nothing_behind(shelf, folder, tmp_path):
    before = set(shelf.get_field_schema())
    ntt.make_previews(shelf)
    assert ntt.remove_previews(shelf) == 4
    assert shown(shelf) == ORIGINALS and set(shelf.get_field_schema()) == before
    assert not list(folder.rglob("*.*")) and len(list((tmp_path / "images").iterdir())) == len(KINDS)
    with pytest.raises(InputError, match="make_previews fills one"):
        ntt.remove_previews(shelf)


def test_what_a_person_chose_for_the_app_stays(shelf):
    shelf.add_sample_field("thumbnail_path", fo.StringField)
    shelf.app_config.media_fields = ["filepath", "thumbnail_path"]
    shelf.app_config.grid_media_field = "thumbnail_path"
    shelf.save()
    ntt.make_previews(shelf)
    assert shown(shelf) == (["filepath", "thumbnail_path", FIELD], "thumbnail_path", FIELD, True)
    shelf.app_config.modal_media_field = "filepath"
    shelf.save()
    ntt.make_previews(shelf)
    assert shown(shelf)[2] == "filepath", "chosen since"
    ntt.remove_previews(shelf)
    assert shown(shelf)[:3] == (["filepath", "thumbnail_path"], "thumbnail_path", "filepath")


def test_paths_of_somebody_else_stay(shelf, tmp_path):
    own = tmp_path / "own.jpg"
    Image.new("RGB", (9, 9)).save(own)
    ntt.make_previews(shelf.match(F("kind") == "deep"))
    sample = shelf.match(F("kind") == "tiff").first()
    sample[FIELD] = str(own)
    sample.save()
    report = ntt.make_previews(shelf)
    assert (report.foreign, report.made) == (1, 2) and "somebody else" in str(report)
    assert ntt.remove_previews(shelf) == 3
    assert previews(shelf) == {**dict.fromkeys(KINDS), "tiff": str(own)} and own.exists()
    assert shown(shelf) == ORIGINALS
    with pytest.raises(InputError, match="make_previews fills one"):
        ntt.remove_previews(shelf)
    assert ntt.make_previews(shelf).made == 3 and shown(shelf) == PREVIEWS


def test_no_file_of_somebody_else_is_overwritten(shelf, tmp_path):
    ntt.make_previews(shelf, folder=tmp_path / "ours")
    path = Path(previews(shelf)["tiff"])
    path.write_bytes(b"something else")
    report = ntt.make_previews(shelf, folder=tmp_path / "ours")
    assert list(report.errors.values()) == [
        f"expected nothing or a preview at {path}, got something else; choose another folder"
    ]
    assert path.read_bytes() == b"something else"


def test_a_copy_of_the_dataset_keeps_its_files(shelf):
    ntt.make_previews(shelf)
    copy = shelf.clone()
    try:
        assert ntt.remove_previews(shelf) == 4
        paths = [path for path in previews(copy).values() if path]
        assert len(paths) == 4 and all(map(os.path.exists, paths))
        assert ntt.remove_previews(copy) == 4
        assert not any(map(os.path.exists, paths))
    finally:
        copy.delete()


@pytest.mark.parametrize("name", ["filepath", "kind", "id", "tags", "../x", "a.b", "_x", "", "a b", 3])
def test_only_fields_of_previews_are_written(shelf, name):
    before = shelf.values("kind")
    for call in (ntt.make_previews, ntt.remove_previews):
        with pytest.raises(NttError, match="expected|exists"):
            call(shelf, name)
    assert shelf.values("kind") == before and shown(shelf) == ORIGINALS


def test_a_field_of_errors_of_somebody_else_is_left(shelf):
    shelf.set_values(ERRORS, ["mine"] * len(KINDS))
    with pytest.raises(InputError, match=ERRORS):
        ntt.make_previews(shelf)
    assert set(shelf.values(ERRORS)) == {"mine"}


@pytest.mark.parametrize("place", ["relative/folder", "~nobody-of-this-name/x", b"bytes", 3])
def test_a_folder_that_is_none_is_refused(shelf, place):
    with pytest.raises((InputError, WrongTypeError), match="expected"):
        ntt.make_previews(shelf, folder=place)
    assert shown(shelf) == ORIGINALS


def test_a_folder_that_cannot_be_written_to_is_said(shelf, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another folder"):
        ntt.make_previews(shelf, folder=tmp_path / "file")


def test_a_dataset_that_needs_none_stays_as_it_is(shelf):
    report = ntt.make_previews(shelf.match(F("kind") == "photo"))
    assert str(report).startswith("0 previews made in ") and "1 image that the App shows as it is" in str(report)
    assert shown(shelf) == ORIGINALS and not shelf.has_field(FIELD)
    assert "no images" in str(ntt.make_previews(shelf.limit(0)))


def test_one_of_every_image(shelf):
    assert ntt.make_previews(shelf, larger_than=1, longest_side=100).made == len(KINDS)
    for path in previews(shelf).values():
        with Image.open(path) as image:
            assert max(image.size) == 100


def test_of_groups_those_of_the_slice_shown(dataset, tmp_path):
    for number in range(2):
        group = fo.Group()
        for name in ("left", "right"):
            sample = save(tmp_path / name / f"{number}.tif", "tiff")
            sample["group"] = group.element(name)
            dataset.add_sample(sample)
    dataset.group_slice = "left"
    view = dataset.view()
    view.group_slice = "right"
    assert ntt.make_previews(view).made == 2
    made = {name: dataset.select_group_slices(name).values(FIELD) for name in ("left", "right")}
    assert made["left"] == [None, None] and all(made["right"])
    assert ntt.remove_previews(dataset) == 2


def test_a_view_by_the_field_itself(shelf):
    """Samples leave it while it is gone through."""
    ntt.make_previews(shelf.match(F("kind") == "deep"))
    assert ntt.make_previews(shelf.match(F(FIELD) == None)).made == 3  # noqa: E711
    assert ntt.make_previews(shelf.exclude_fields(FIELD)).kept == 4


def test_operators_do_the_same(shelf, folder):
    properties, errors = form("make_previews", shelf, {})
    assert errors == {} and properties["longest_side"].default == 2048
    assert "folder" in form("make_previews", shelf, {"folder": "here"})[1]
    result, requests = run("make_previews", shelf, {})
    assert (result["made"], result["errors"]) == (4, []) and shown(shelf) == PREVIEWS
    outputs = operator("make_previews").resolve_output(context("make_previews", shelf, results=result))
    assert "4 previews made" in result["summary"] and outputs is not None
    assert form("remove_previews", shelf, {})[1] == {}
    result, _ = run("remove_previews", shelf, {})
    assert result["removed"] == 4 and shown(shelf) == ORIGINALS


def test_commands_do_the_same(shelf, tmp_path, capsys):
    assert main(["previews", "make", shelf.name, "--folder", str(tmp_path / "here"), "--larger-than", "6000"]) == 0
    assert "2 previews made" in capsys.readouterr().out
    assert main(["previews", "remove", shelf.name]) == 0
    assert "2 previews removed" in capsys.readouterr().out
    assert main(["previews", "remove", shelf.name]) == 2
    assert "`previews make` fills one" in capsys.readouterr().err


def test_an_image_that_fiftyone_cannot_open_has_a_size(shelf, monkeypatch):
    """Or it would be left out of evaluations: FiftyOne opens none of more than 179 megapixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    view = shelf.match(F("kind") == "tiff")
    notes = []
    assert len(with_sizes(view, notes)) == 1 and notes == []
    shelf.reload()
    assert shelf.match(F("kind") == "tiff").values(["metadata.width", "metadata.height"]) == ([120], [90])


def test_slides_of_a_scanner_are_images_by_their_type(dataset, tmp_path, monkeypatch):
    pytest.importorskip("openslide", reason="reads slides; the extra [slides] of this package")
    path = tmp_path / "slide.svs"
    text = "Aperio Image Library v11.2.1 \r\n4200x300 [0,0 4200x300] (256x256)|AppMag = 20|MPP = 0.5"
    tifffile.imwrite(path, gradient(300, 4200), photometric="rgb", tile=(256, 256), description=text, metadata=None)
    dataset.add_sample(fo.Sample(str(path)))
    with pytest.raises(WrongTypeError, match=r"mimetypes.add_type\('image/tiff', '.svs'\)"):
        ntt.make_previews(dataset)
    dataset.clear()
    monkeypatch.setattr(mimetypes, "types_map", dict(mimetypes.types_map))
    mimetypes.add_type("image/tiff", ".svs")
    dataset.media_type = "image"
    dataset.add_sample(fo.Sample(str(path)))
    assert ntt.make_previews(dataset).made == 1
    with Image.open(dataset.first()[FIELD]) as image:
        assert image.size == (2048, 146)
