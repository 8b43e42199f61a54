"""A labelled dataset whose label documents were damaged in the database, and every path that reads labels.

One sample has one damage, beside healthy labels, both among the labels of a run and in the ground truth. A twin of the
dataset lacks what is damaged: whatever a path says of healthy labels is to be the same of both.
"""

from __future__ import annotations

import json
from collections import Counter

import fiftyone as fo
import numpy as np
from bson import Binary, ObjectId

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.references.tagging import count_references
from fiftyone_ntt.review.decisions import amount, undo_last_decision
from fiftyone_ntt.review.guard import put_back, watch
from fiftyone_ntt.review.label_table import summarise_scores, table_of
from support.hostile import detection, packed, picture, reference

GONE = object()
"""Stands for what is to be missing."""
NAN = float("nan")
LABELS = {
    "name: number": {"label": 7},  # voxel51/fiftyone#104
    "name: list": {"label": ["fig"]},
    "name: mapping": {"label": {"fig": 1}},
    "name: null": {"label": None},  # olgaliak/active-learning-detect#24
    "name: missing": {"label": GONE},
    "name: empty": {"label": ""},
    "kind: Polyline": {"_cls": "Polyline", "points": [[[0.1, 0.1], [0.6, 0.1], [0.6, 0.6]]], "closed": True},
    "kind: Keypoint": {"_cls": "Keypoint", "points": [[0.5, 0.5]]},
    "kind: Classification": {"_cls": "Classification"},
    "kind: unknown": {"_cls": "Banana"},
    "kind: missing": {"_cls": GONE},
    "kind: number": {"_cls": 3},
    "box: text": {"bounding_box": "0 0 1 1"},
    "box: null": {"bounding_box": None},
    "box: missing": {"bounding_box": GONE},
    "box: NaN": {"bounding_box": [0.1, 0.1, NAN, 0.2]},  # jolibrain/deepdetect#1113
    "box: short": {"bounding_box": [0.1, 0.1]},
    "box: negative": {"bounding_box": [0.5, 0.5, -0.2, -0.2]},  # CondadosAI/modern-yolonas#56: not positive
    "box: huge": {"bounding_box": [0.1, 0.1, 1e300, 0.2]},
    "score: text": {"confidence": "high"},
    "score: NaN": {"confidence": NAN},  # lluisgomez/TextProposals#2
    "score: list": {"confidence": [0.5]},
    "score: mapping": {"confidence": {"value": 0.5}},
    "mask: damaged": {"mask": Binary(bytes(range(64)))},
    "mask: text": {"mask": "a mask"},
}
"""What makes a label useless: name -> what is set in its document. With the public report, or found by trial."""
ITEMS = {"item: null": None, "item: number": 3, "item: text": "a label", "item: list": [1, 2], "item: empty": {}}
"""What may stand among the labels of a list and is none."""
ODD = {
    "tags: null": {"tags": None},  # voxel51/fiftyone#3546
    "tags: missing": {"tags": GONE},
    "tags: text": {"tags": "ntt:rejected"},
    "tags: number": {"tags": 4},
    "tags: mapping": {"tags": {"a": 1}},
    "tags: numbers": {"tags": [1, None, {"a": 2}]},
    "id: missing": {"_id": GONE},
    "id: text": {"_id": "an id"},
    "id: double": {},  # copied along with a shape: voxel51/fiftyone#1358, #8332; how: see _spoil
    "attributes: text": {"attributes": "none", "predicted_iou": "good", "similarity": [1], "alternative": {"a": 1}},
    "attributes: mapping": {"attributes": {"a": 3, "b": None}, "alternative_similarity": "x"},
    "written: number": {"written": 5},
    "written: list": {"written": ["a"]},
}
"""What leaves a label of use: name -> what is set in its document."""
WHOLE = {
    "list: mapping": {"detections": {"a": 1}},
    "list: label": {"detections": {"_cls": "Detection", "label": "fig"}},
    "list: text": {"detections": "labels"},
    "list: null": {"detections": None},
    "list: number": {"detections": 5},
    "list: missing": {"detections": GONE},
}
"""What may stand where the list of labels should: name -> what is set in the field's document."""
FIELDS = {"field: text": "labels", "field: list": [], "field: number": 1, "field: other": {"_cls": "Banana"}}
"""What may stand where the field's document should."""
DAMAGES = [*LABELS, *ITEMS, *ODD, *WHOLE, *FIELDS]
ELSEWHERE = {"bounding_box": [0.4, 0.4, 0.1, 0.1], "mask": packed(np.ones((6, 8), bool))}
"""Where the damaged labels lie: on no other label."""
FIELD, TRUTH, KEY = "ntt", "truth", "ntt_ntt"
WRITTEN = 0.47
"""Of the three labels that are found in an image, two have a score above this."""


def _changed(document, change):
    document = {**document, **change}
    return {key: value for key, value in document.items() if value is not GONE}


class World:
    """A dataset, one sample a damage.

    Args:
        folder: for pictures, cache and exports.
        is_damaged: whether it has the damages, or is the twin.

    Attributes:
        rows: sample id -> name of its damage.
        healthy: field -> label id -> name of the damage beside it, and which of the healthy labels it is.
    """

    def __init__(self, folder, is_damaged, damages=DAMAGES):
        self.folder, self.is_damaged = folder, is_damaged
        folder.mkdir(parents=True, exist_ok=True)
        self.dataset = fo.Dataset(persistent=True)
        self.dataset.add_sample(reference(folder / "reference.png", detection()))
        picture().save(folder / "picture.png")
        self.dataset.add_samples([fo.Sample(str(folder / "picture.png"), row=name) for name in (*damages, "good")])
        self.bank = ntt.build_memory_bank(self.dataset.match_tags("ntt:reference"), name="figs")
        self.cache_only, self.notes = {"index_dir": folder / "index"}, {}
        self.cache = {**self.cache_only, "device": "cpu"}
        ntt.segment(self.dataset, self.bank, max_instances=3, thresholds={"fig": WRITTEN}, **self.cache)
        self.dataset.add_sample_field(TRUTH, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        self.rows = {key: row for key, row in zip(*self.dataset.values(["id", "row"]), strict=True) if row}
        self.healthy, self.boxes = {FIELD: {}, TRUTH: {}}, {}
        self.samples = database_collection(self.dataset)
        for sample in list(self.samples.find({"row": {"$ne": None}})):
            self._write(sample)

    def _write(self, sample):
        row, written = sample["row"], sample[FIELD]["detections"]
        fields = {FIELD: written, TRUTH: [_changed(label, {"tags": [], "predicted_iou": GONE}) for label in written]}
        change, tags = {}, [] if row.startswith("tags") else ["ntt:accepted"]
        for name, labels in fields.items():
            labels = [dict(label, _id=ObjectId()) for label in labels]
            labels[-1]["tags"] = ["ntt:accepted"] if name == FIELD else []
            odd = dict(labels[0], _id=ObjectId(), tags=tags if name == FIELD else [], **ELSEWHERE)
            del odd["written"]
            listed = [labels[0], *self._beside(row, odd, labels[1]), *labels[1:]]
            document = dict(sample[FIELD], detections=listed)
            if row in WHOLE or row in FIELDS:
                document["detections"] = labels = []
            if self.is_damaged:
                document = FIELDS.get(row, _changed(document, WHOLE.get(row, {})))
            change[name] = document
            for k, label in enumerate(labels):
                self.healthy[name][str(label["_id"])], self.boxes[row, k] = (row, k), label["bounding_box"]
        self.samples.update_one({"_id": sample["_id"]}, {"$set": change})

    def _beside(self, row, label, neighbour):
        """What stands among the healthy labels; of use or not, of the twin what is of use is as it should be."""
        if row in ODD:
            if self.is_damaged:
                change = {"_id": neighbour["_id"]} if row == "id: double" else ODD[row]
                return [_changed(label, change)]
            return [label]
        if not self.is_damaged:
            return []
        return [ITEMS[row]] if row in ITEMS else [_changed(label, LABELS[row])] if row in LABELS else []

    def labelled(self):
        """All samples but the reference."""
        return self.dataset.exists("row")

    def documents(self, name=FIELD):
        """Damage -> what stands in a field."""
        return {self.rows[str(s["_id"])]: s.get(name) for s in self.samples.find({"row": {"$ne": None}})}

    def labels(self, name=FIELD):
        """The healthy labels that are there: (damage, which) -> document; and their order."""
        found = {}
        for value in self.documents(name).values():
            listed = value.get("detections") if isinstance(value, dict) else None
            for label in listed if isinstance(listed, list) else []:
                place = self.place(label.get("_id"), name) if isinstance(label, dict) else None
                if place is not None and label.get("bounding_box") == self.boxes[place]:  # an id may be there twice
                    found[place] = label
        return found

    def place(self, label_id, name=FIELD):
        return self.healthy[name].get(str(label_id))


# Every path that reads labels: each says of healthy labels what is to be the same without the damage


def content(label):
    """A label without its id, as far as a run writes it."""
    box = tuple(round(value, 9) for value in label["bounding_box"])
    return label["label"], box, round(label["confidence"], 6), bytes(label["mask"])


def table(world):
    read = table_of(world.dataset, FIELD).refreshed()
    names, rows = read.classes, {}
    for row in read.rows:
        place = world.place(ObjectId(row["label"].tobytes()))
        if place is not None:
            rows[place] = names[row["class"]], round(float(row["confidence"]), 6), int(row["tagged"])
    assert summarise_scores(world.dataset, FIELD)
    for by in ("threshold", "classes", "mask", "merged"):
        assert ntt.doubtful(world.dataset, FIELD, by=by, limit=5) is not None
    return rows


def references(world):
    """Each sample by itself: a bank of its healthy labels."""
    banks = {}
    for sample_id, row in world.rows.items():
        view = world.dataset.select(sample_id)
        try:
            bank = ntt.build_memory_bank(view, TRUTH)
        except ntt.errors.NttError:
            continue  # no healthy label there
        places = [world.place(key.split("/")[1], TRUTH) for key in bank.reference_ids]
        banks[row] = {place: round(float(vector.sum()), 5) for place, vector in zip(places, bank.vectors, strict=True)
                      if place is not None}  # fmt: skip
    return {row: places for row, places in banks.items() if places}


def all_references(world):
    bank = ntt.build_memory_bank(world.labelled(), TRUTH)
    counted = ntt.select_references(world.labelled(), 3, TRUTH)
    return {"places": {place for key in bank.reference_ids if (place := world.place(key.split("/")[1], TRUTH))},
            "classes": bank.classes, "selected": len(counted.values("truth.detections.id", unwind=True))}  # fmt: skip


def gallery(world):
    world.labelled().tag_samples("shown")
    cards = ntt.describe_references(world.dataset, TRUTH, tag="shown")
    assert str(cards)
    return {world.place(card.label_id, TRUTH): (card.label, card.kind, card.flaws) for card in cards
            if world.place(card.label_id, TRUTH)}  # fmt: skip


def made_masks(world):
    made = ntt.make_reference_masks(world.labelled(), TRUTH, out_field="made")
    sources = world.dataset.values("made.detections.source", unwind=True)
    world.dataset.delete_sample_field("made")
    assert made.samples
    return {world.place(key, TRUTH) for key in sources if world.place(key, TRUTH)}


def advice(world):
    said = ntt.advise_references(world.dataset, world.bank, TRUTH, reviewed=FIELD, **world.cache_only)
    return {"references": len(said.references), "suggested": bool(said.suggestions)}


def preview(world):
    shown = ntt.preview(world.dataset, world.bank, images=4, **world.cache)
    return [(image.counts, image.weak, image.error) for image in shown]


def preview_of_tagged(world):
    """Tags references among the damaged, and takes the tags off again."""
    places = [key for key, place in world.healthy[TRUTH].items() if place[1] == 0]
    changed = ntt.use_as_references(world.dataset, TRUTH, label_ids=places)
    shown = [(image.counts, image.weak, image.error) for image in ntt.preview(world.dataset, None, images=2)]
    counts = count_references(world.dataset, TRUTH)["fig"] > 10
    removed = ntt.remove_references(world.dataset, TRUTH, label_ids=places)
    return {"tagged": changed.labels, "removed": removed.labels, "shown": shown, "counts": counts}


def evaluate(world, **options):
    results = ntt.evaluate(world.dataset, FIELD, TRUTH, **options).to_dict()
    world.notes["evaluate"] = results.pop("notes")
    return results


def evaluate_matches(world):
    results = evaluate(world, eval_key="ev")
    outcomes = {place: label.get("ev") for place, label in world.labels().items()}
    missed = {place: label.get("ev") for place, label in world.labels(TRUTH).items()}
    world.dataset.delete_evaluation("ev")
    del outcomes["id: double", 1], missed["id: double", 1]  # FiftyOne matches by id: which of the two is its business
    return results, outcomes, missed


def evaluate_turned(world):
    results = ntt.evaluate(world.dataset, TRUTH, FIELD).to_dict()
    del results["notes"]
    return results


def maps(world):
    made = ntt.to_segmentation(world.dataset, FIELD, "maps")
    world.notes["maps"] = str(made.errors)
    maps = {row: None if value is None else bytes(value["mask"]) for row, value in world.documents("maps").items()}
    semantic = ntt.evaluate(world.dataset, "maps", TRUTH).to_dict()
    del semantic["notes"]
    world.dataset.delete_sample_field("maps")
    return maps, semantic


def exports(world):
    said = {}
    for only in ("all", "accepted"):
        for kind in ("coco", "yolo", "fiftyone"):
            folder = world.folder / f"export {kind} {only}"
            report = ntt.export_labels(world.dataset, folder, FIELD, format=kind, only=only, overwrite=True)
            said[kind, only] = report.labels, report.images if only == "accepted" else None
            world.notes[f"export {kind} {only}"] = report.left_out, report.notes
            if kind == "coco":
                content = json.loads((folder / "labels.json").read_text())
                said[kind, only, "masks"] = sorted(str(a["segmentation"]) for a in content["annotations"])
    return said


def decide(world):
    """By id, in bulk, undone: the healthy labels that have the tag each time."""
    said, dataset = {}, world.dataset
    ids = [key for key, place in world.healthy[FIELD].items() if place[1] == 0]

    def tagged(tag):
        return {place for place, label in world.labels().items() if tag in label["tags"]}

    said["ids"] = ntt.reject_labels(dataset, FIELD, label_ids=ids), tagged("ntt:rejected")
    said["undone"] = undo_last_decision(dataset, FIELD), tagged("ntt:rejected")
    said["amount"] = amount(dataset, FIELD, classes=["fig"], undecided=True)[1] > 0
    for name, call in (("accept", ntt.accept_labels), ("reject", ntt.reject_labels)):
        call(dataset, FIELD, above=0.0, undecided=True)
        said[name, "undecided"] = tagged("ntt:accepted"), tagged("ntt:rejected")
        undo_last_decision(dataset, FIELD)
        call(dataset, FIELD)
        said[name, "all"] = tagged("ntt:accepted"), tagged("ntt:rejected")
        undo_last_decision(dataset, FIELD)
        said[name, "back"] = tagged("ntt:accepted"), tagged("ntt:rejected")
    ntt.clear_decisions(dataset, FIELD)
    said["cleared"] = tagged("ntt:accepted"), tagged("ntt:rejected")
    undo_last_decision(dataset, FIELD)
    said["back"] = tagged("ntt:accepted"), tagged("ntt:rejected")
    return said


def editor(world):
    """A sample is opened in the App's editor, and closed again."""
    for sample_id in world.rows:
        watch(world.dataset, world.dataset.view(), sample_id)
    return put_back(world.dataset).labels


def thresholds(world):
    fitted = ntt.fit_thresholds(world.dataset, KEY, write_image_labels=False)
    return {"known": sorted(set(fitted.classes) & {"fig"})}


def presence(world):
    report = ntt.judge_presence(world.dataset, FIELD)
    return report.images


def listed(world):
    (run,) = ntt.list_runs(world.dataset)
    return run["counts"]["error"]


def learn(world):
    report = ntt.learn(world.dataset, FIELD, **world.cache_only)
    world.notes["learn"] = str(report)
    return {"classes": sorted(set(report.bank.classes) & {"fig"}), "errors": report.errors}


def overwrite(world):
    report = ntt.segment(world.dataset, world.bank, max_instances=3, overwrite=True, **world.cache)
    return report.labelled, report.failed, written(world)


def written(world):
    """What a run wrote anew in each image."""
    said = {}
    for row, value in world.documents().items():
        new = [label for label in value["detections"] if isinstance(label, dict) and "written" in label
               and world.place(label.get("_id")) is None and not label["tags"]]  # fmt: skip
        said[row] = sorted(Counter(map(content, new)).items())
    return said


def weaker(world):
    """The third label of each image is brought back."""
    report = ntt.lower_threshold(world.dataset, KEY)
    return report.labelled, report.failed, written(world)


def learn_and_apply(world):
    report = ntt.learn(world.dataset, FIELD, apply=True, **world.cache_only)
    kept = {place for place, label in world.labels().items() if {"ntt:accepted", "ntt:edited"} & {*label["tags"]}}
    return report.errors, kept


def undo(world):
    """Labels that are left."""
    ntt.undo_run(world.dataset, KEY)
    return {place: content(label) for place, label in world.labels().items()}


READING = (
    table, references, all_references, gallery, made_masks, advice, preview, preview_of_tagged, evaluate,
    evaluate_matches, evaluate_turned, maps, exports, decide, editor, thresholds, presence, listed, learn,
)  # fmt: skip
"""Those that leave no labels behind."""
