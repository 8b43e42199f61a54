"""Wrong arguments of a benchmark are refused with a sentence before any work."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
WRONG = [
    ("accuracy", f"--data {HERE} --shots 1,x", "argument --shots: expected a whole number of at least 1, got 'x'"),
    ("accuracy", f"--data {HERE} --shots 1,,3", "argument --shots: expected values with commas between, got '1,,3'"),
    ("accuracy", f"--data {HERE} --seeds -1", "argument --seeds: expected whole numbers with commas between"),
    ("accuracy", f"--data {HERE} --images 0", "argument --images: expected a whole number of at least 1, got '0'"),
    ("accuracy", "--data nowhere", "argument --data: expected a folder, got 'nowhere', which is none"),
    ("accuracy", f"--data {HERE} --sets no", "error: expected sets that are there, got 'no'; there is: none"),
    ("granularity", "--data nowhere --cache x", "argument --data: expected a folder"),
    ("kept", f"--data {HERE} --shots 1,3", "argument --shots: expected a whole number of at least 1, got '1,3'"),
    ("tiles", "--photos no --json x", "argument --photos: expected a whole number of at least 1, got 'no'"),
    ("prompts", "--seeds a", "argument --seeds: expected whole numbers with commas between, got 'a'"),
    ("refine", "--objects 0", "argument --objects: expected a whole number of at least 1, got '0'"),
    ("selection", f"--data {HERE} --index x --shots 0", "argument --shots: expected a whole number of at least 1"),
    ("starting_threshold", f"--data {HERE} --sets no", "error: expected sets of coco-mini"),
    ("learning_curve", f"--data {HERE} --sets no", "error: expected sets of coco-mini"),
    ("head_settings", f"--data {HERE} --pulls much", "argument --pulls: invalid float value: 'much'"),
    ("decoder", "--threads two", "argument --threads: expected a whole number of at least 1, got 'two'"),
    ("matching", "--candidates -3", "argument --candidates: expected a whole number of at least 1"),
    ("more_sets", f"{HERE} {HERE}", "expected a folder that is not there yet"),
]


@pytest.mark.parametrize(("name", "arguments", "sentence"), WRONG)
def test_wrong_arguments_are_refused_with_a_sentence(
    name: str, arguments: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr("sys.argv", [name, *arguments.split()])
    try:
        status = benchmark.main()
    except SystemExit as end:
        status = end.code
    assert status in (1, 2)
    assert sentence in capsys.readouterr().err


def test_several_shots_need_a_folder_of_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = importlib.import_module("benchmarks.accuracy")
    (tmp_path / "refs").mkdir()
    assert accuracy.main(["--data", str(tmp_path), "--shots", "1,3,5"]) == 1
    error = capsys.readouterr().err
    assert "expected one number of --shots for one data folder, got 1, 3, 5; give the folder above it" in error
