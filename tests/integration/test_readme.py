"""The README's way without FiftyOne runs as it stands there, with the real models of the preset ``lite``."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fiftyone_ntt.errors import MissingWeightsError
from fiftyone_ntt.models.specs import LITE_FILES, locate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights():
    try:
        for file in LITE_FILES:
            locate(file)
    except MissingWeightsError as error:
        pytest.skip(f"the lite weights are not on this machine: {error}")


def two_steps():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Without FiftyOne")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)


def test_block_has_ten_lines_at_most():
    lines = [line for line in two_steps().splitlines() if line.strip()]
    assert len(lines) <= 10


@pytest.mark.usefixtures("weights")
def test_block_labels_coins(tmp_path):
    pytest.importorskip("skimage")
    from fiftyone_ntt.demo.data import load_images

    images = {image.name: image for image in load_images()}
    Image.fromarray(images["coins_1"].pixels).save(tmp_path / "reference.jpg")
    Image.fromarray(images["coins_1"].objects[0].mask).save(tmp_path / "reference_mask.png")
    Image.fromarray(images["coins_2"].pixels).save(tmp_path / "another.jpg")
    # In a process of its own: it must not have imported FiftyOne.
    after = "\nimport sys; print(len(results), 'fiftyone' in sys.modules)"
    command = [sys.executable, "-c", two_steps() + after]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, imported = done.stdout.splitlines()[-1].split()
    assert int(count) > 0
    assert imported == "False"
