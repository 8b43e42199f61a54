"""Arguments of a notebook: what numpy or a comprehension gives is taken, and what cannot be meant is refused."""

import re
from functools import partial
from itertools import product

import numpy as np
import pytest
from fiftyone import ViewField as F
from support.app import PanelSession
from support.labelled import KEY, PICTURES, all_labels

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.errors import InputError, NttError, WrongTypeError

pytestmark = pytest.mark.pictures(**PICTURES)
DECISIONS = [ntt.accept_labels, ntt.reject_labels, ntt.clear_decisions]


NO_SCORES = [
    (float("nan"), WrongTypeError),
    (np.float32("nan"), WrongTypeError),
    (float("inf"), WrongTypeError),
    ("0.1", WrongTypeError),
    (True, WrongTypeError),
    ([0.1], WrongTypeError),
    (2, InputError),
    (-0.5, InputError),
    (np.int64(2), InputError),
]


def test_a_score_that_none_can_be_decides_nothing(labelled):
    dataset, _ = labelled
    ntt.accept_labels(dataset.limit(2), "found")
    before = [label.tags for label in all_labels(dataset)]
    for decide, name, (value, error) in product(DECISIONS, ("above", "below"), NO_SCORES):
        with pytest.raises(error, match=f"'{name}'.*number|'{name}' between 0 and 1"):
            decide(dataset, "found", **{name: value})
    dataset.reload()
    assert [label.tags for label in all_labels(dataset)] == before


SERVICES = {
    "accept": lambda dataset, number, folder: ntt.accept_labels(dataset, "found", above=number),
    "reject": lambda dataset, number, folder: ntt.reject_labels(dataset, "found", below=number),
    "export": lambda dataset, number, folder: (
        ntt.export_labels(
            dataset, folder / f"{type(number).__name__}", "found", only="all", score_threshold=number
        ).labels
    ),
    "evaluate": lambda dataset, number, folder: str(
        ntt.evaluate(dataset, "found", "truth", score_threshold=number, eval_key="matches")
    ),
    "masks": lambda dataset, number, folder: (
        ntt.to_segmentation(dataset, "found", f"masks_{type(number).__name__}", score_threshold=number).maps
    ),
    "learn": lambda dataset, number, folder: (
        ntt.accept_labels(dataset.limit(2), "found"),
        str(ntt.learn(dataset, "found", threshold=number)),
    )[1],
    "doubtful": lambda dataset, number, folder: ntt.doubtful(dataset, "found", threshold=number).values("id"),
    "lower": lambda dataset, number, folder: (
        ntt.segment(dataset, "shapes", f"weak_{type(number).__name__}", thresholds={"disc": 0.9}),
        ntt.lower_threshold(dataset, f"ntt_weak_{type(number).__name__}", number).instances,
    )[1],
    "fit": lambda dataset, number, folder: str(ntt.fit_thresholds(dataset, KEY, precision=number)),
    "segment": lambda dataset, number, folder: (
        ntt.segment(dataset, "shapes", f"strong_{type(number).__name__}", score_threshold=number).instances
    ),
    "config": lambda dataset, number, folder: (
        ntt.segment(
            dataset, "shapes", f"set_{type(number).__name__}", config=ntt.MatchConfig(score_threshold=number)
        ).instances
    ),
    "classes": lambda dataset, number, folder: (
        ntt.segment(dataset, "shapes", f"of_{type(number).__name__}", thresholds={"disc": number}).instances
    ),
}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_number_of_numpy_is_that_number(named, tmp_path, service):
    """A database takes none of them: some failed when all the work was done."""
    dataset, _ = named
    for number in (np.float32(2**-10), np.int64(0)):
        other = dataset.clone()
        plain = service(other, float(number), tmp_path / f"plain-{number}")
        other = dataset.clone()
        assert service(other, number, tmp_path) == plain


COUNTS = {
    "limit": lambda dataset, bank, count: len(all_of(ntt.doubtful(dataset, "found", limit=count))),
    "images": lambda dataset, bank, count: len(list(ntt.preview(dataset, bank, images=count))),
    "points": lambda dataset, bank, count: ntt.segment(dataset, bank, "points", points_per_side=count).labelled,
    "instances": lambda dataset, bank, count: ntt.segment(dataset, bank, "best", max_instances=count).instances,
    "setting": lambda dataset, bank, count: (
        ntt.segment(dataset, bank, "best", config=ntt.MatchConfig(max_instances=count, score_threshold=0.0)).instances
    ),
    "suggest": lambda dataset, bank, count: len(
        ntt.advise_references(dataset, bank, label_field="truth", reviewed="found", suggest=count).suggestions
    ),
    "cards": lambda dataset, bank, count: len(ntt.describe_references(dataset, "truth", most=count)),
    "references": lambda dataset, bank, count: len(
        all_of(ntt.select_references(dataset, count, "truth", preset=ntt.load_bank(dataset, bank).preset), "truth")
    ),
}


def all_of(view, field="found"):
    return view.values(f"{field}.detections.id", unwind=True)


@pytest.mark.parametrize("service", COUNTS.values(), ids=COUNTS)
def test_a_count_is_a_whole_number_of_any_kind(named, service):
    dataset, bank = named
    plain = service(dataset.clone(), bank, 2)
    for count in (np.int64(2), 2.0):
        assert service(dataset.clone(), bank, count) == plain
    for count in ("2", 1.5, float("nan"), True, -1):
        with pytest.raises(NttError, match="expected"):
            service(dataset, bank, count)


OF_VIEWS = {
    "segment": lambda given, folder: ntt.segment(given, "shapes", "found"),
    "index": lambda given, folder: ntt.index(given),
    "preview": lambda given, folder: ntt.preview(given, "shapes"),
    "build": lambda given, folder: ntt.build_memory_bank(given, "truth"),
    "make masks": lambda given, folder: ntt.make_reference_masks(given, "truth"),
    "select": lambda given, folder: ntt.select_references(given, 1, "truth"),
    "describe": lambda given, folder: ntt.describe_references(given, "truth"),
    "use": lambda given, folder: ntt.use_as_references(given, "truth"),
    "remove": lambda given, folder: ntt.remove_references(given, "truth"),
    "advise": lambda given, folder: ntt.advise_references(given, label_field="truth"),
    "accept": lambda given, folder: ntt.accept_labels(given, "found"),
    "reject": lambda given, folder: ntt.reject_labels(given, "found"),
    "clear": lambda given, folder: ntt.clear_decisions(given, "found"),
    "done": lambda given, folder: ntt.mark_done(given),
    "not done": lambda given, folder: ntt.clear_done(given),
    "doubtful": lambda given, folder: ntt.doubtful(given, "found"),
    "learn": lambda given, folder: ntt.learn(given, "found"),
    "presence": lambda given, folder: ntt.judge_presence(given, "found"),
    "evaluate": lambda given, folder: ntt.evaluate(given, "found", "truth"),
    "masks": lambda given, folder: ntt.to_segmentation(given, "found"),
    "previews": lambda given, folder: ntt.make_previews(given),
    "export": lambda given, folder: ntt.export_labels(given, folder / "out", "found"),
}
OF_DATASETS = {
    "runs": ntt.list_runs,
    "banks": ntt.list_banks,
    "load bank": lambda given: ntt.load_bank(given, "shapes"),
    "fit": lambda given: ntt.fit_thresholds(given, KEY),
    "load": lambda given: ntt.load_thresholds(given, KEY),
    "resume": lambda given: ntt.resume_run(given, KEY),
    "cancel": lambda given: ntt.cancel_run(given, KEY),
    "lower": lambda given: ntt.lower_threshold(given, KEY),
    "undo": lambda given: ntt.undo_run(given, KEY),
}


def check_refused(calls, *given):
    """Each call refuses each of these in a sentence; what came instead is named."""
    wrong = []
    for (name, call), one in product(calls.items(), given):
        try:
            wrong.append(f"{name}({one!r:.60}) gave {call(one)!r:.200}")
        except NttError as error:
            if not re.search("expected|no field|no memory bank|no labelling run", str(error)):
                wrong.append(f"{name}({one!r:.60}) said {error!r:.200}")
        except Exception as error:
            wrong.append(f"{name}({one!r:.60}) raised {error!r:.200}")
    assert not wrong, "\n".join(wrong)


def test_what_is_no_dataset_is_refused(named, tmp_path):
    dataset, _ = named
    of_views = {name: partial(call, folder=tmp_path) for name, call in OF_VIEWS.items()}
    given = (dataset.name, None, list(dataset), 5, dataset.first())
    check_refused({**of_views, **OF_DATASETS}, *given)
    check_refused(OF_DATASETS, dataset.view(), dataset.limit(2))  # what is about runs is about all of them
    with pytest.raises(WrongTypeError, match=f"load_dataset..{dataset.name}"):
        ntt.segment(dataset.name, "shapes")
    with pytest.raises(WrongTypeError, match=f"a view of '{dataset.name}'"):
        ntt.undo_run(dataset.limit(1), KEY)
    assert sorted(dataset.list_runs()) == [KEY, "shapes"] and not (tmp_path / "out").exists()


LISTS = {
    "generator": lambda names: (name for name in names),
    "array": np.array,
    "keys": lambda names: dict.fromkeys(names).keys(),
    "tuple": tuple,
}
OF_CLASSES = {
    "accept": lambda dataset, classes, folder: ntt.accept_labels(dataset, "found", classes=classes),
    "doubtful": lambda dataset, classes, folder: all_of(ntt.doubtful(dataset, "found", classes=classes)),
    "evaluate": lambda dataset, classes, folder: str(ntt.evaluate(dataset, "found", "truth", classes=classes)),
    "masks": lambda dataset, classes, folder: ntt.to_segmentation(dataset, "found", "maps", classes=classes).classes,
    "export": lambda dataset, classes, folder: (
        ntt.export_labels(dataset, folder / "out", "found", only="all", classes=classes, overwrite=True).per_class
    ),
    "build": lambda dataset, classes, folder: (
        ntt.build_memory_bank(dataset, "truth", classes=classes, preset=ntt.load_bank(dataset, "shapes").preset).classes
    ),
    "make masks": lambda dataset, classes, folder: str(ntt.make_reference_masks(dataset, "truth", classes=classes)),
}


@pytest.mark.parametrize("service", OF_CLASSES.values(), ids=OF_CLASSES)
def test_names_of_classes_come_in_any_list(named, tmp_path, service):
    dataset, _ = named
    plain = service(dataset.clone(), ["disc"], tmp_path)
    slow = service is OF_CLASSES["make masks"]  # looks at every image: one kind of list will do
    for made in list(LISTS.values())[: 1 if slow else None]:
        assert service(dataset.clone(), made(["disc"]), tmp_path) == plain
    calls = {"service": lambda given: service(dataset, given, tmp_path)}
    check_refused(calls, 5, [1], [None], [["disc"]], [])


OF_FIELDS = {
    "segment": lambda dataset, name, folder: ntt.segment(dataset, "shapes", name),
    "build": lambda dataset, name, folder: ntt.build_memory_bank(dataset, name),
    "accept": lambda dataset, name, folder: ntt.accept_labels(dataset, name),
    "doubtful": lambda dataset, name, folder: ntt.doubtful(dataset, name),
    "learn": lambda dataset, name, folder: ntt.learn(dataset, name),
    "presence": lambda dataset, name, folder: ntt.judge_presence(dataset, name),
    "evaluate": lambda dataset, name, folder: ntt.evaluate(dataset, name, "truth"),
    "truth": lambda dataset, name, folder: ntt.evaluate(dataset, "found", name),
    "key": lambda dataset, name, folder: ntt.evaluate(dataset, "found", "truth", eval_key=name or "1"),
    "masks": lambda dataset, name, folder: ntt.to_segmentation(dataset, name),
    "write masks": lambda dataset, name, folder: ntt.to_segmentation(dataset, "found", name),
    "export": lambda dataset, name, folder: ntt.export_labels(dataset, folder / "out", name),
    "use": lambda dataset, name, folder: ntt.use_as_references(dataset, name),
    "describe": lambda dataset, name, folder: ntt.describe_references(dataset, name),
    "make masks": lambda dataset, name, folder: ntt.make_reference_masks(dataset, name),
    "masks made": lambda dataset, name, folder: ntt.make_reference_masks(dataset, "truth", out_field=name),
    "run": lambda dataset, name, folder: ntt.segment(dataset, "shapes", "found", run_key=name or 0.5),
    "fit": lambda dataset, name, folder: ntt.fit_thresholds(dataset, name),
    "resume": lambda dataset, name, folder: ntt.resume_run(dataset, name),
    "cancel": lambda dataset, name, folder: ntt.cancel_run(dataset, name),
    "lower": lambda dataset, name, folder: ntt.lower_threshold(dataset, name),
    "undo": lambda dataset, name, folder: ntt.undo_run(dataset, name),
    "load": lambda dataset, name, folder: ntt.load_bank(dataset, name),
    "learned": lambda dataset, name, folder: ntt.learn(dataset, "found", bank_name=name or 0.5),
    "format": lambda dataset, name, folder: ntt.export_labels(dataset, folder / "out", "found", format=name),
    "ids": lambda dataset, name, folder: ntt.accept_labels(dataset, "found", label_ids=name or 5),
    "done": lambda dataset, name, folder: ntt.mark_done(dataset, sample_ids=name or 5),
}


def test_what_is_no_name_is_refused(named, tmp_path):
    dataset, _ = named
    ntt.accept_labels(dataset.limit(2), "found")
    calls = {name: partial(call, dataset, folder=tmp_path) for name, call in OF_FIELDS.items()}
    before = dataset.list_runs()
    check_refused(calls, tmp_path, 5, None, [5], b"found")
    assert dataset.list_runs() == before and not (tmp_path / "out").exists()


def test_texts_of_numpy_are_texts(named, tmp_path):
    dataset, _ = named
    assert ntt.fit_thresholds(dataset, np.str_(KEY)) == ntt.load_thresholds(dataset, KEY)
    texts, yes = map(np.str_, ("shapes", "other")), np.bool_(True)
    report = ntt.segment(dataset, *texts, mode=np.str_("generic"), overwrite=yes)
    assert ntt.undo_run(dataset, np.str_(report.run_key), keep_edited=np.bool_(False)) == report.instances
    ids = (sample_id for sample_id in np.array(dataset.values("id")))
    assert ntt.mark_done(dataset, sample_ids=ids) == len(dataset)


def test_a_text_is_the_name_of_one_class(named):
    """It was taken for a list of letters, and showed nothing, as an unknown class did."""
    dataset, _ = named
    of_disc = all_of(ntt.doubtful(dataset, "found", classes=["disc"]))
    assert of_disc and all_of(ntt.doubtful(dataset, "found", classes="disc")) == of_disc
    assert all_of(ntt.doubtful(dataset, "found", classes="square")) == [], "the run knows it, and found none"
    for classes in ("dics", ["disc", "dics"]):
        with pytest.raises(InputError, match="'dics'; there is: disc, square"):
            ntt.doubtful(dataset, "found", classes=classes)


def test_a_saved_view_that_cannot_be_loaded_is_named(named, capsys):
    dataset, _ = named
    dataset.clone_sample_field("truth", "other")
    dataset.save_view("mine", dataset.filter_labels("other", F("label") == "disc"))
    dataset.delete_sample_field("other")
    assert main(["accept", dataset.name, "--label-field", "found", "--saved-view", "mine"]) == 2
    said = capsys.readouterr().err
    assert "saved view 'mine'" in said and "no longer be loaded" in said and "Traceback" not in said


def test_a_filter_of_nothing_filters_nothing(named):
    dataset, _ = named
    session = PanelSession(dataset, "review", filters={"found.detections.confidence": None, "gone.label": None})
    assert "Score threshold" in session.send("on_review_refresh").drawn
