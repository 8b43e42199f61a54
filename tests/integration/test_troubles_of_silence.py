"""Whatever ends without a result says so in one sentence: what happened, and what to do.

A table of services and situations, with small models and a real database.
"""

import re

import fiftyone as fo
import pytest
from support.app import run
from support.hostile import detection, picture, reference, small_models

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.errors import NttError

IMAGES = 3


@pytest.fixture(autouse=True, scope="module")
def models():
    with small_models():
        yield


@pytest.fixture
def shelf(dataset, tmp_path):
    """A reference and three labelled images; no label has been decided on."""
    dataset.add_sample(reference(tmp_path / "reference.png", detection()))
    for number in range(IMAGES):
        picture().save(tmp_path / f"{number}.png")
        labels = fo.Detections(detections=[detection()])
        dataset.add_sample(fo.Sample(str(tmp_path / f"{number}.png"), ground_truth=labels))
    dataset.compute_metadata(progress=False)
    ntt.build_memory_bank(dataset.match_tags("ntt:reference"), name="kept")
    ntt.segment(dataset, "kept")
    return dataset


def without_files(dataset, folder):
    for number in range(IMAGES):
        (folder / f"{number}.png").unlink()
    return others(dataset)


def others(dataset, *_):
    return dataset.match_tags("ntt:reference", bool=False)


VIEWS = {
    # CellProfiler/CellProfiler#1055: without images nothing happens, and nothing says so
    "no images": lambda dataset, folder: dataset.match_tags("nothing"),
    # sicara/easy-few-shot-learning#44: where a class has no more images than examples, the error says nothing of it
    "references": lambda dataset, folder: dataset.match_tags("ntt:reference"),
    # facebookresearch/segment-anything#628, huggingface/transformers#26728: an empty result, and no reason
    "weak": others,
    # 3lc-ai/3lc-ultralytics#43: no image is left, as all are broken
    "failed": without_files,
    "again": others,
}


def segment(view, folder, weak):
    return ntt.segment(view, "kept", "other", score_threshold=weak)


def segment_again(view, folder, weak):
    return ntt.segment(view, "kept")


def preview(view, folder, weak):
    images = ntt.preview(view, "kept", score_threshold=weak)
    return list(images) and " ".join(images.notes)


def evaluate(view, folder, weak):
    return " ".join(ntt.evaluate(view, "ntt", "ground_truth", score_threshold=weak).notes)


def evaluate_nothing(view, folder, weak):
    view._dataset.add_sample_field("none", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    return " ".join(ntt.evaluate(view, "none", "ground_truth").notes)


# gwu-libraries/TweetSets#5: an export of nothing looks at work, and there is no file.
def export(view, folder, weak):
    return ntt.export_labels(view, folder / "export", only="all", score_threshold=weak)


def maps(view, folder, weak):
    return ntt.to_segmentation(view, score_threshold=weak)


def by_operator(name):
    def decide(view, folder, weak):
        bound = {} if weak is None else {"above": weak}
        return run(name, view, {"label_field": "ntt", **bound})[0]["summary"]

    return decide


def by_command(view, folder, weak):
    view._dataset.save_view("chosen", view, overwrite=True)
    arguments = ["accept", view._dataset.name, "--saved-view", "chosen"]
    return main([*arguments, *([] if weak is None else ["--above", str(weak)])])


def in_log(name):
    def decide(view, folder, weak):
        return getattr(ntt, name)(view, above=weak)

    return decide


def learn(view, folder, weak):
    return ntt.learn(view)


def learn_elsewhere(view, folder, weak):
    ntt.accept_labels(others(view._dataset))
    return ntt.learn(view)


def learn_decided(view, folder, weak):
    ntt.accept_labels(view)
    return ntt.learn(view, index_dir=folder / "empty")


NONE = "the view holds no images; choose another one"
ONLY = "the only image of the view is a reference; choose a view that holds others"
GONE = f"all {IMAGES} images failed, e.g. sample .*not found.*; see to "
# (service, situation) -> what it says.
SAID = [
    (segment, "no images", NONE),
    (segment, "references", ONLY),
    (segment, "weak", f"nothing was found above a score of 0.999 in any of {IMAGES} images: lower score_threshold"),
    (segment, "failed", GONE),
    (segment_again, "again", f"nothing was left to do: {IMAGES} images done before; pass overwrite=True"),
    (preview, "no images", NONE),
    (preview, "references", ONLY),
    (preview, "weak", f"nothing was found above a score of 0.999 in any of {IMAGES} images: lower score_threshold"),
    (preview, "failed", GONE),
    (evaluate, "no images", NONE),
    (evaluate, "references", "references .*; evaluate on others, or pass include_references=True"),
    (evaluate, "weak", "no label has a score above 0.999, so no class is claimed: lower score_threshold"),
    (evaluate_nothing, "again", "no label in 'none' counts here: label these images first, or choose another field"),
    (export, "no images", NONE),
    (export, "references", "1 sample, none with labels in 'ntt'; label them first"),
    (export, "weak", "too low a score; lower score_threshold, or choose other classes"),
    (maps, "no images", NONE),
    (maps, "references", "0 segmentation masks.*label images first, or choose a view that holds labelled ones"),
    (maps, "weak", "all of them are background: no label counts; lower score_threshold"),
    *((service, "no images", NONE) for service in map(by_operator, ("accept_labels", "reject_labels"))),
    *((service, "references", "no image of the view has labels in 'ntt'; label them first")
      for service in map(by_operator, ("accept_labels", "reject_labels"))),
    *((service, "weak", "labels in 'ntt', none of that class, score or id; give others")
      for service in map(by_operator, ("accept_labels", "reject_labels"))),
    (by_command, "weak", "0 labels accepted.*labels in 'ntt', none of that class"),
    (in_log("accept_labels"), "no images", NONE),
    (in_log("reject_labels"), "weak", "no decision changed: .* none of that class"),
    (learn, "no images", NONE),
    (learn, "again", "nobody has decided on a label in 'ntt' yet: accept what is right"),
    (learn_elsewhere, "references", "none of the labels in 'ntt' that somebody has decided on is in this view; choose"),
    (learn_decided, "failed", f"nothing was learned: all {IMAGES} images failed"),
    (lambda view, *_: ntt.index(view, "lite"), "no images", NONE),
    (lambda view, folder, _: ntt.index(view, "lite", index_dir=folder / "empty"), "failed", GONE),
    (lambda view, *_: ntt.judge_presence(view), "no images", "Image-level labels for 0 images.*choose a view"),
    (lambda view, *_: ntt.judge_presence(view), "references", "Image-level labels for 0 images.*choose a view"),
    (lambda view, *_: ntt.use_as_references(view), "no images", NONE),
]  # fmt: skip


@pytest.mark.parametrize(("service", "situation", "text"), SAID, ids=[f"{s.__name__}-{w}" for s, w, _ in SAID])
def test_one_sentence_says_what_happened(shelf, tmp_path, capsys, caplog, service, situation, text):
    view = VIEWS[situation](shelf, tmp_path)
    try:
        said = str(service(view, tmp_path, 0.999 if situation == "weak" else None))
    except NttError as error:
        said = str(error)
    said = " ".join(f"{said} {capsys.readouterr().out} {caplog.text}".replace("\\", "").replace("\u2060", "").split())
    assert re.search(text, said), said
