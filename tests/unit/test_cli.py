"""The command line: its options follow the parameters, its errors are one line, its commands do what they say."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fiftyone_ntt import __version__
from fiftyone_ntt.cli import doctor
from fiftyone_ntt.cli import main as cli
from fiftyone_ntt.cli.common import results_table
from fiftyone_ntt.params.labelling import EvaluateParams, IndexAnywhereParams, SegmentParams
from fiftyone_ntt.params.references import MakeMasksFormParams, TaggedBankParams
from fiftyone_ntt.params.review import DecisionParams, ExportParams, LearnParams

ROOT = Path(__file__).resolve().parents[2]
SERVICES = [
    (["bank", "build"], TaggedBankParams),
    (["bank", "masks"], MakeMasksFormParams),
    (["index", "build"], IndexAnywhereParams),
    (["segment"], SegmentParams),
    (["evaluate"], EvaluateParams),
    (["accept"], DecisionParams),
    (["reject"], DecisionParams),
    (["clear"], DecisionParams),
    (["learn"], LearnParams),
    (["export"], ExportParams),
]


def options_of(command, *arguments):
    """What the parser hands to a command."""
    values = vars(cli._parser().parse_args([*command, "my-data", *arguments]))
    assert callable(values.pop("command"))
    return values


@pytest.mark.parametrize(("command", "params"), SERVICES)
def test_every_parameter_is_an_option_with_its_default(command, params):
    required = {info.name: "x" for info in params.infos() if info.required}
    arguments = [text for name in required for text in (f"--{name.replace('_', '-')}", "x")]
    values = options_of(command, *arguments)
    assert (values.pop("dataset"), values.pop("tag"), values.pop("saved_view")) == ("my-data", None, None)
    assert params.from_mapping(values) == params(**required)
    assert set(values) == {info.name for info in params.infos()}


@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        (["segment"], ["--resume", "yes", "--overwrite", "no", "--points", "grid"]),
        (["runs", "lower"], ["--score-threshold", "0.0"]),
        (["runs", "undo"], ["--keep-edited", "yes"]),
        (["export"], ["--export-media", "yes"]),
        (["protocol", "run"], ["--preset", "lite"]),
        (["protocol", "prepare"], ["--preset", "lite"]),
    ],
)
def test_help_names_every_default_once(command, defaults, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    blocks = [" ".join(block.split()) for block in capsys.readouterr().out.split("\n  --")]
    for option, value in zip(defaults[::2], defaults[1::2], strict=True):
        (text,) = [block for block in blocks if block.startswith((f"{option[2:]} ", f"{option[2:]},"))]
        assert text.endswith(f"(default: {value})") and text.count("default:") == 1 and "the memory bank" not in text


def test_options_arrive_in_their_own_types():
    values = options_of(
        ["segment"], "--bank", "b", "--field", "f", "--score-threshold", "0.25", "--points-per-side", "8",
        "--no-resume", "--overwrite", "--tag", "t", "--saved-view", "v",
    )  # fmt: skip
    assert values["label_field"] == "f"
    assert (values["score_threshold"], values["points_per_side"]) == (0.25, 8)
    assert (values["resume"], values["overwrite"], values["include_references"]) == (False, True, False)
    assert (values["tag"], values["saved_view"]) == ("t", "v")
    assert options_of(["evaluate"], "--classes", "a b", "c")["classes"] == ["a b", "c"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "no-such-dataset", "--bank", "b"],
        ["segment", "no-such-dataset", "--bank", "b", "--score-threshold", "7"],
        ["bank", "build", "no-such-dataset"],
        ["bank", "masks", "no-such-dataset"],
        ["index", "build", "no-such-dataset"],
        ["index", "prune", "--limit", "-1"],
        ["evaluate", "no-such-dataset"],
        ["accept", "no-such-dataset"],
        ["reject", "no-such-dataset", "--above", "3"],
        ["learn", "no-such-dataset"],
        ["export", "no-such-dataset", "--export-dir", "/somewhere"],
    ],
)
def test_a_users_error_is_one_red_line(capsys, arguments):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: expected")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["weights", "pull", "huge"], ["export", "data"]])
def test_unknown_commands_and_missing_options_end_with_usage(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: fiftyone-ntt" in capsys.readouterr().err


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys\nfrom fiftyone_ntt.cli.main import main\n"
        "try: main(['segment', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'fiftyone', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    done = subprocess.run([sys.executable, "-m", "fiftyone_ntt", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == f"fiftyone-ntt {__version__}"


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (None, 0), (False, 1)])
def test_the_doctors_verdict_is_the_exit_code(monkeypatch, capsys, ok, code):
    monkeypatch.setattr(doctor, "run_checks", lambda: [doctor.Check("flux [capacitor]", ok, "found", "buy one")])
    assert cli.main(["doctor"]) == code
    verdict, *rest = capsys.readouterr().out.strip().splitlines()
    assert verdict.startswith(
        "Missing: flux [capacitor];" if ok is False else "Everything the preset lite needs is here"
    )
    assert ("Not here, and not needed by it: flux [capacitor]." in rest) is (ok is None)
    assert any("buy one" in line for line in rest) is (ok is False)
    assert cli.main(["doctor", "--all"]) == code
    details = capsys.readouterr().out.split("\n", 1)[1]
    assert "flux" in details and ("buy one" in details) is (ok is not True)


def test_weights_list_names_every_preset(capsys):
    assert cli.main(["weights", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("lite", "tiny", "base", "large", "paper"))


def test_the_plugin_comes_and_goes(tmp_path, capsys):
    folder = ["--plugins-dir", str(tmp_path)]
    assert cli.main(["plugin", "status", *folder]) == 1
    assert cli.main(["plugin", "install", *folder]) == 0
    assert (tmp_path / "@fiftyone-ntt" / "ntt" / "fiftyone.yml").is_file()
    assert cli.main(["plugin", "status", *folder]) == 0
    assert cli.main(["plugin", "uninstall", *folder]) == 0
    assert cli.main(["plugin", "uninstall", *folder]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    (tmp_path / "@fiftyone-ntt" / "ntt").mkdir(parents=True)
    assert cli.main(["plugin", "install", *folder]) == 2


def test_evaluate_prints_the_scores_of_a_view(dataset, tmp_path, capsys):
    import fiftyone as fo

    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)

    def labels(box, **more):
        return fo.Detections(detections=[fo.Detection(label="fig", bounding_box=box, **more)])

    good = labels([0.1, 0.1, 0.5, 0.5], confidence=0.9)
    bad = labels([0.6, 0.6, 0.2, 0.2], confidence=0.9)
    truth = [0.1, 0.1, 0.5, 0.5]
    dataset.add_sample(fo.Sample(filepath=str(path), tags=["use"], ground_truth=labels(truth), ntt=good))
    dataset.add_sample(fo.Sample(filepath=str(path), ground_truth=labels(truth), ntt=bad))
    dataset.save_view("second", dataset.skip(1))
    assert cli.main(["evaluate", dataset.name, "--tag", "use"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if " fig " in line)
    assert "1.00" in row
    assert cli.main(["evaluate", dataset.name, "--saved-view", "second"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if " fig " in line)
    assert ".000" in row
    assert cli.main(["evaluate", dataset.name, "--saved-view", "third"]) == 2
    assert "there is: second" in capsys.readouterr().err


def test_the_progress_bar_survives_any_report(capsys):
    with cli.progress_bar("images") as progress:
        for done, total, message in [(0, 0, ""), (1, 2, "[odd] name"), (2, 2, "done")]:
            progress(done, total, message)
    assert "images" in capsys.readouterr().err


def test_an_evaluation_fits_into_a_terminal():
    """Class and every column, with five-figure counts and the figures at the review's threshold."""
    names = ("box_ap", "box_ap50", "mask_ap", "mask_ap50", "boundary_ap", "label_precision", "label_recall")
    shares = dict.fromkeys(names, 1.0)
    row = {"class": "motorcycle", "objects": 12345, "predictions": 12345, **shares}
    row |= {"precision": 0.8671, "recall": 0.5, "f1": 0.25}
    results = SimpleNamespace(review=0.3, semantic=None, boundary=0.2, table=lambda: [row, row])
    terminal = Console(width=80, file=io.StringIO())
    terminal.print(results_table(results))
    lines = [line.split() for line in terminal.file.getvalue().splitlines() if "motorcycle" in line]
    assert lines == [["motorcycle", "12345", "12345", *["1.00"] * 7, ".867", ".500", ".250"]] * 2
