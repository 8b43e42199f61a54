"""``fiftyone-ntt protocol``: what it says, what it writes, what it gives back."""

from __future__ import annotations

import json

import pytest
from support.colours import COLOUR_PRESET, colour_folder
from support.protocol_data import folder_data

from benchmarks import accuracy
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.models import presets


@pytest.fixture(autouse=True)
def colours_for_lite(monkeypatch, tmp_path):
    """The default preset sees colours, and its candidates lie in a folder of the test's own."""
    monkeypatch.setitem(presets.PRESETS, "lite", COLOUR_PRESET)
    monkeypatch.setenv("FIFTYONE_NTT_INDEX", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def test_list_names_all(capsys):
    assert main(["protocol", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(
        name in printed for name in ("coco-fsod", "voc-fsod", "cd-fsod", "coco-20i", "pascal-5i", "lvis", "folder")
    )


def test_from_files_to_report(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    assert main(["protocol", "prepare", "folder", "--part", "all", "--data", str(data)]) == 1
    printed = capsys.readouterr().out
    assert "missing" in printed and "train.json" in printed and "nothing is downloaded" in printed
    folder_data(data)
    assert main(["protocol", "prepare", "folder", "--data", str(data)]) == 0
    assert "3 images, 3 objects" in capsys.readouterr().out
    command = ["protocol", "run", "folder", "--data", str(data), "--out", str(out), "--shots", "1", "2", "--seed", "33"]
    assert main(command) == 0
    assert "folder_all_2shot_seed33_colours" in capsys.readouterr().out.replace("\n", "")
    assert len(list(out.glob("*.json"))) == 2
    page = tmp_path / "page.md"
    assert main(["protocol", "report", str(out), "--markdown", str(page)]) == 0
    assert "Presence unknown" in capsys.readouterr().out and "| 1 shot | 2 shots |" in page.read_text()
    assert main(["protocol", "report", str(out), "--markdown", str(page)]) == 2
    assert "not there yet" in capsys.readouterr().err.replace("\n", " ")


def test_a_users_error_is_one_line(tmp_path, capsys):
    for arguments, message in (
        (["run", "coco", "--data", str(tmp_path)], "coco-fsod"),
        (["run", "coco-fsod", "--data", str(tmp_path)], "protocol prepare coco-fsod"),
        (["run", "voc-fsod", "--data", str(tmp_path), "--part", "4"], "'4'"),
        (["report", str(tmp_path)], "protocol run"),
    ):
        assert main(["protocol", *arguments]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")


def test_folder_gives_what_the_benchmark_gives(tmp_path, monkeypatch):
    """To the digit: the same images, references, candidates and scores."""
    sets = tmp_path / "sets"
    data = sets / "colours"
    data.mkdir(parents=True)
    colour_folder(data)
    monkeypatch.setattr(accuracy, "load_preset", lambda name, device: presets.load_preset(COLOUR_PRESET, device))
    wanted = tmp_path / "benchmark.json"
    command = [
        "--data",
        str(sets),
        "--shots",
        "1",
        "--seeds",
        "1,2",
        "--variants",
        "published,default",
        "--images",
        "5",
    ]
    assert accuracy.main([*command, "--cache", str(tmp_path / "other"), "--json", str(wanted)]) == 0
    command = ["protocol", "run", "folder", "--data", str(data), "--out", str(tmp_path / "out"), "--limit", "5"]
    for match in ("default", "published"):
        assert main([*command, "--seed", "1", "2", "--match", match]) == 0
    results = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("folder_*.json")]
    (summary,) = json.loads(wanted.read_text()).values()
    for match in ("default", "published"):
        for metric in ("box_ap", "mask_ap", "mask_ap50"):
            values = [one["scores"]["coco"]["metrics"][metric] for one in results if one["match_name"] == match]
            assert len(values) == 2
            assert 100 * sum(values) / 2 == pytest.approx(summary["1"][match][metric]["mean"], abs=1e-12)
