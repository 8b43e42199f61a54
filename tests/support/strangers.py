"""A dataset of a stranger, and every path that reads it: run as a program, so that a test can end it.

    python strangers.py FOLDER RESULT

Labels whose mask or box is no such thing lie beside good ones, and files that are none beside images. Writes to RESULT
what each path said, and by how much the memory grew.
"""

import json
import resource
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fiftyone as fo
import psutil
from bson import ObjectId

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.review.label_table import summarise_scores
from support.hostile import BOXES, FILES, MASKS, detection, picture, reference, small_models

GIGABYTE = 1 << 30


def poisoned(folder):
    """Name of each bad thing -> what it changes in a label's document."""
    yield from ((f"mask: {name}", {"mask": make()}) for name, make in MASKS.items())
    yield from ((f"box: {name}", {"bounding_box": box}) for name, box in BOXES.items())
    for name, make in FILES.items():
        path = folder / f"mask of {name}"
        make(path)
        yield f"mask file: {name}", {"mask": None, "mask_path": str(path)}
    yield "mask file: address", {"mask": None, "mask_path": "http://127.0.0.1:9/x.png"}
    yield "mask file: number", {"mask": None, "mask_path": 3}
    yield "attribute: bomb", {"extra": MASKS["bomb"]()}
    yield "score: text", {"confidence": "high"}


class Stranger:
    """The dataset; ``bad``: name of a bad thing -> id of its label, or of the sample whose file it is."""

    def __init__(self, folder):
        self.folder, self.bad, self.said = folder, {}, {}
        self.dataset = fo.Dataset(persistent=True)
        self.dataset.add_sample(reference(folder / "reference.png", detection()))
        self.bank = ntt.build_memory_bank(self.dataset, name="bank")
        self.changes = dict(poisoned(folder))
        for i, name in enumerate([*self.changes, "good"]):
            picture().save(folder / f"{i}.png")
            self.dataset.add_sample(fo.Sample(str(folder / f"{i}.png"), row=name))
        for name, make in FILES.items():
            path = folder / f"image of {name}.png"
            make(path)
            sample = fo.Sample(str(folder / "0.png"), row=f"file: {name}")
            self.dataset.add_sample(sample)
            sample.filepath = str(path)  # FiftyOne goes by the ending, so it is an image to it
            sample.save()
        self.labelled = ntt.segment(self.dataset, self.bank, index_dir=folder / "index")
        self._poison()

    def _poison(self):
        samples = database_collection(self.dataset)
        good = samples.find_one({"row": "good"})["ntt"]["detections"][0]
        for sample in list(samples.find({"row": {"$ne": None}}, {"row": 1})):
            name = sample["row"]
            label = {**good, "_id": ObjectId(), "tags": ["ntt:accepted"], **self.changes.get(name, {})}
            truth = {**label, "_id": ObjectId(), "tags": []}
            change = {"$set": {"truth": {"_cls": "Detections", "detections": [truth]}}}
            if "ntt" in (samples.find_one({"_id": sample["_id"]}, {"ntt": 1}) or {}):
                undecided = {**label, "_id": ObjectId(), "tags": []}
                change["$push"] = {"ntt.detections": {"$each": [label, undecided]}}
            if name.startswith("file: "):
                self.bad[name] = str(sample["_id"])
                change = {"$set": {"ntt": {"_cls": "Detections", "detections": [label]}, **change["$set"]}}
            elif name != "good":
                self.bad[name] = str(label["_id"])
            samples.update_one({"_id": sample["_id"]}, change)
        self.dataset.add_sample_field("truth", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        self.dataset.reload()

    def take(self, path):
        """Goes a path; what it said, or the traceback."""
        sys.stdout.write(f"{path.__name__}\n")
        sys.stdout.flush()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            said = path(self)
        except Exception:
            said = {"traceback": traceback.format_exc()}
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        self.said[path.__name__] = {**said, "megabytes": grown // 1024}


def table(stranger):
    return {"labels": sum(scores.labels for scores in summarise_scores(stranger.dataset, "ntt"))}


def references(stranger):
    """Each label by itself: one that cannot be used is named."""
    said = {}
    for sample in stranger.dataset.match({"row": {"$ne": None}}).select_fields("row").iter_samples():
        try:
            ntt.build_memory_bank(stranger.dataset.select(sample.id), "truth")
            said[sample["row"]] = "built"
        except ntt.errors.NttError as error:
            said[sample["row"]] = str(error)
    return {"rows": said}


def gallery(stranger):
    rows = dict(zip(*stranger.dataset.values(["id", "row"]), strict=True))
    stranger.dataset.match({"row": {"$ne": None}}).tag_samples("shown")
    cards = ntt.describe_references(stranger.dataset, "truth", tag="shown")
    return {"rows": {rows[card.sample_id]: " ".join(card.warnings) for card in cards}}


def learn(stranger):
    report = ntt.learn(stranger.dataset, "ntt", index_dir=stranger.folder / "index")
    return {"decisions": report.decisions, "errors": report.errors}


def evaluate(stranger):
    results = ntt.evaluate(stranger.dataset, "ntt", "truth", eval_key="ev")
    return {"notes": results.notes, "objects": results.per_class[0].objects}


def maps(stranger):
    report = ntt.to_segmentation(stranger.dataset, "ntt")
    return {"maps": report.maps, "errors": report.errors}


def exports(stranger):
    said = {}
    for kind in ("coco", "yolo", "fiftyone"):
        folder = stranger.folder / f"export {kind}"
        report = ntt.export_labels(stranger.dataset, folder, "ntt", format=kind, only="all")
        said[kind] = {"labels": report.labels, "left_out": report.left_out}
    return said


def overwrite(stranger):
    arguments = {"overwrite": True, "index_dir": stranger.folder / "index"}
    report = ntt.segment(stranger.dataset, stranger.bank, **arguments)
    return {"labelled": report.labelled, "errors": report.errors}


def undo(stranger):
    keys = [run["run_key"] for run in ntt.list_runs(stranger.dataset)]
    removed = [ntt.undo_run(stranger.dataset, key) for key in [*keys, *keys]]
    left = database_collection(stranger.dataset).aggregate([
        {"$project": {"count": {"$size": {"$ifNull": ["$ntt.detections", []]}}}},
        {"$group": {"_id": None, "count": {"$sum": "$count"}}},
    ])  # fmt: skip
    return {"removed": removed, "left": next(left)["count"]}


PATHS = (table, references, gallery, learn, evaluate, maps, exports, overwrite, undo)


def main(folder, result):
    with small_models():
        stranger = Stranger(Path(folder))
        size = psutil.Process().memory_info().vms + 4 * GIGABYTE  # the machine's sake, should a bound be missing
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        for path in PATHS:
            stranger.take(path)
            content = {"bad": stranger.bad, "said": stranger.said, "labelled": stranger.labelled.labelled}
            Path(result).write_text(json.dumps(content, default=str))
        stranger.dataset.delete()


if __name__ == "__main__":
    main(*sys.argv[1:])
