"""How far a call from Python is: a bar where somebody looks, and nothing anywhere else."""

from __future__ import annotations

from types import SimpleNamespace

import fiftyone as fo
import fiftyone.core.context as foc
import fiftyone.operators as foo
import pytest

import fiftyone_ntt as ntt

pytestmark = pytest.mark.pictures(count=4, references=2)


@pytest.fixture(autouse=True)
def wanted(monkeypatch):
    """FiftyOne's own default; tests are run without bars."""
    monkeypatch.setattr(fo.config, "show_progress_bars", True)


@pytest.fixture
def terminal(capsys, monkeypatch):
    """What stands in the terminal that a call is made from, since this was asked last."""
    stdout = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr("fiftyone_ntt.dataset.progress.sys", SimpleNamespace(stdout=stdout))
    return lambda: capsys.readouterr().out


def test_a_terminal_shows_how_far_it_is(pictures, preset, index_dir, terminal):
    ntt.index(pictures, preset=preset, index_dir=index_dir, device="cpu")
    shown = terminal()
    assert "4/4" in shown and "0 failed" in shown


def test_a_notebook_shows_how_far_it_is(pictures, preset, index_dir, monkeypatch, capsys):
    monkeypatch.setattr(foc, "is_notebook_context", lambda: True)
    ntt.index(pictures, preset=preset, index_dir=index_dir, device="cpu")
    assert "4/4" in capsys.readouterr().out


def test_the_steps_of_one_call_are_bars_one_by_one(pictures, preset, index_dir, terminal):
    """A bank is built first: two references, then two images."""
    ntt.segment(pictures, None, "found", reference_field="truth", preset=preset, index_dir=index_dir, device="cpu")
    assert terminal().count("2/2") >= 2


def test_no_bar_where_none_is_wanted(pictures, preset, index_dir, terminal, monkeypatch):
    ntt.index(pictures, preset=preset, index_dir=index_dir, device="cpu", progress=False)
    monkeypatch.setattr(fo.config, "show_progress_bars", False)
    ntt.index(pictures, preset=preset, index_dir=index_dir, device="cpu")
    assert terminal() == ""


def test_no_bar_where_nobody_looks(pictures, preset, index_dir, capsys):
    ntt.index(pictures, preset=preset, index_dir=index_dir, device="cpu")
    assert capsys.readouterr().out == ""


def test_true_shows_a_bar_wherever_it_is(pictures, preset, index_dir, capsys):
    ntt.index(pictures, preset=preset, index_dir=index_dir, device="cpu", progress=True)
    assert "4/4" in capsys.readouterr().out


def test_a_callback_gets_it_all_and_no_bar(pictures, preset, index_dir, terminal):
    told = []
    ntt.index(pictures, preset=preset, index_dir=index_dir, device="cpu", progress=lambda *step: told.append(step))
    assert told[-1][:2] == (4, 4) and terminal() == ""


def test_an_operator_and_the_server_show_no_bar(pictures, bank, preset, terminal, monkeypatch):
    from fiftyone_ntt.models import PRESETS
    from fiftyone_ntt.references.banks import save_bank

    monkeypatch.setitem(PRESETS, preset.name, preset)
    save_bank(pictures, "shapes", bank)
    foo.execute_operator(
        "@fiftyone-ntt/ntt/segment", {"dataset": pictures}, params={"bank": "shapes", "label_field": "found"}
    )
    assert pictures.has_field("found") and terminal() == ""
    monkeypatch.setenv("FIFTYONE_SERVER", "1")
    ntt.to_segmentation(pictures, "found")
    assert terminal() == ""


def test_a_preview_that_goes_on_draws_no_more(pictures, bank, preset, index_dir, terminal):
    """Its images come one by one, after the call has returned."""
    preview = ntt.preview(pictures, bank, images=2, preset=preset, index_dir=index_dir, device="cpu", progress=True)
    terminal()
    assert len(list(preview)) == 2 and terminal() == ""
