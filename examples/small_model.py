"""Fine-tunes a small instance segmenter with the labels that you have reviewed, and scores it beside ours.

    python examples/small_model.py DATASET FIELD --out FOLDER --epochs 30

1. Writes the reviewed labels to FOLDER/export as COCO (``ntt.export_labels``).
2. Sets a part of these images aside, none that the references come from.
3. Trains Mask2Former with the rest, in a plain loop; FOLDER keeps the network after each epoch.
4. Labels all other images into a field of its own, FIELD_small.
5. Scores both fields (``ntt.evaluate``).

docs/small-model.md says when this pays and how to read what it prints.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import torch
import transformers
from fiftyone.core.collections import SampleCollection
from small_data import (
    Picture,
    Training,
    check_target,
    copies_of,
    finish_field,
    fresh_images,
    make_field,
    mask_of,
    read_export,
    split,
    truth_of,
)
from small_network import STRIDE, TINY, detections_of, load_network, network_input, target_mask, weights_of

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.common import dataset_of
from fiftyone_ntt.core import read_image
from fiftyone_ntt.dataset.fields import (
    DECIDED_TAGS,
    DONE_TAG,
    check_detections_field,
    is_tagged,
    whole_images,
    with_labels,
)
from fiftyone_ntt.errors import InputError, NttError, counted
from fiftyone_ntt.models.devices import choose_device
from fiftyone_ntt.pixels.files import expanded

logger = logging.getLogger("small_model")


# ---- 1. The reviewed labels, as an export has them ----


def export_reviewed(images: SampleCollection, label_field: str, folder: Path, only: str | None) -> None:
    """Writes what a person accepted, edited or drew. Nothing else may teach: neither rejected nor undecided labels."""
    if only is None:
        # Only where somebody is through with an image does "nothing here" mean background.
        only = "done" if len(images.match_tags(DONE_TAG)) else "accepted"
    logger.info("%s", ntt.export_labels(images, folder, label_field, only=only, overwrite=True))
    if only == "accepted":
        logger.info("in images that are not marked as done, objects that nobody has accepted are taught as background")


# ---- 3. The loop ----


def load_batch(
    pictures: Sequence[Picture], side: int, device: torch.device, broken: set[Path] | None = None
) -> dict[str, Any]:
    """What the network takes for some images, its loss included. Only these images are in memory.

    One that cannot be read is left out, and said once: ``broken`` has those that were. Nothing if none can.
    """
    broken = set() if broken is None else broken
    pixels, masks, labels = [], [], []
    for picture in pictures:
        try:
            pixels.append(network_input(read_image(picture.path), side))
        except InputError as error:
            if picture.path not in broken:
                logger.warning("failed: %s", error)
            broken.add(picture.path)
            continue
        targets = [target_mask(mask_of(one), side) for one in picture.objects]
        masks.append((torch.stack(targets) if targets else torch.zeros(0, side, side)).to(device))
        labels.append(torch.tensor([one["category_id"] - 1 for one in picture.objects], dtype=torch.long).to(device))
    if not pixels:
        return {}
    return {"pixel_values": torch.stack(pixels).to(device), "mask_labels": masks, "class_labels": labels}


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items, some at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def train(network: Any, training: Training, pictures: dict[str, Picture], options: argparse.Namespace) -> int:
    """AdamW over the epochs that are still to do; the network is kept after each.

    Returns:
        How many images could not be read.
    """
    broken = set[Path]()
    device = next(network.parameters()).device
    backbone = list(network.model.pixel_level_module.encoder.parameters())
    seen = set(map(id, backbone))
    rest = [weight for weight in network.parameters() if id(weight) not in seen]
    # What has learned to see on millions of images moves slower than what is new.
    groups = [{"params": backbone, "scale": 0.1}, {"params": rest, "scale": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, weight_decay=0.05)
    for epoch in range(training.epochs, options.epochs):
        torch.manual_seed(options.seed + epoch)  # order and sampled points, also of a training that is gone on with
        for group in optimizer.param_groups:
            group["lr"] = options.lr * group["scale"] * (1 - epoch / options.epochs)
        order = [training.train[k] for k in torch.randperm(len(training.train)).tolist()]
        losses = list[float]()
        network.train()
        for names in batches(order, options.batch_size):
            batch = load_batch([pictures[name] for name in names], options.size, device, broken)
            if not batch:
                continue
            loss = network(**batch).loss.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.01)  # as Mask2Former was trained
            optimizer.step()
            losses.append(float(loss.detach()))
        if not losses:
            raise InputError(f"none of the images in {training.folder / 'export'} can be read; choose another --out")
        training.keep(network)
        logger.info("epoch %d of %d: loss %.3f", epoch + 1, options.epochs, np.mean(losses))
    return len(broken)


# ---- 4. A field of its own ----


def label_images(
    network: Any, images: SampleCollection, name: str, classes: Sequence[str], options: argparse.Namespace
) -> int:
    """Labels images, a batch at a time; says which cannot be read, and returns how many."""
    device, failed, started = next(network.parameters()).device, 0, time.monotonic()
    network.eval()
    for files in batches(list(zip(*images.values(["id", "filepath"]), strict=True)), options.batch_size):
        pixels, sizes = [], {}
        for sample_id, path in files:
            try:
                image = read_image(path)
            except InputError as error:
                logger.warning("failed: %s", error)
                failed += 1
                continue
            sizes[sample_id] = image.shape[:2]
            pixels.append(network_input(image, options.size))
        if not pixels:
            continue
        with torch.inference_mode():
            output = network(pixel_values=torch.stack(pixels).to(device))
            rows = zip(sizes.items(), output.class_queries_logits, output.masks_queries_logits, strict=True)
            found = {
                sample_id: detections_of(scores, masks, size, options.size, classes, options.score_threshold)
                for (sample_id, size), scores, masks in rows
            }
        images.set_values(name, found, key_field="id")
    labelled = len(images) - failed
    seconds = (time.monotonic() - started) / max(1, labelled)
    logger.info("%s labelled in %r, %.2f s an image", counted(labelled, "image"), name, seconds)
    return failed


# ---- 5. Both fields beside each other ----


def row_of(view: SampleCollection, name: str, gt_field: str, classes: Sequence[str]) -> str:
    """One line of scores, and one for each note; or why there is none, as other rows may be worth seeing."""
    try:
        results = ntt.evaluate(view, name, gt_field=gt_field, classes=classes, progress=False)
    except InputError as error:
        return f"{name:<24}{error}"
    labels = sum(row.predictions for row in results.per_class)
    scores = (results.mask.ap, results.mask.ap50, results.box.ap)
    shown = [f"{'-' if score is None else format(100 * score, '.1f'):>8}" for score in scores]
    notes = [f"  note: {note}" for note in results.notes]
    return "\n".join([f"{name:<24}{results.images:>8}{labels:>8}{''.join(shown)}", *notes])


HEADER = f"{'field':<24}{'images':>8}{'labels':>8}{'mask AP':>8}{'AP50':>8}{'box AP':>8}"


def compare_with_truth(fresh: SampleCollection, training: Training, options: argparse.Namespace, into: str) -> None:
    """Both fields against ground truth, on images of which neither the references nor the small model know anything.

    Images with a decision are left out: what a person corrected in one field would be credited to it.
    """
    decided = with_labels(fresh, options.field, is_tagged(sorted(DECIDED_TAGS))).values("id")
    rest = fresh.exclude(decided).match_tags(DONE_TAG, bool=False)
    if not len(rest):
        logger.info("no image is left to compare on: each is a reference, reviewed or learned from")
        return
    logger.info("\nagainst %r, on images that nobody has reviewed:\n%s", options.truth, HEADER)
    for name in (options.field, into):
        logger.info("%s", row_of(rest, name, options.truth, training.classes))


def compare_with_review(
    dataset: fo.Dataset, training: Training, pictures: dict[str, Picture], copies: dict[str, list[str]], into: str
) -> None:
    """The small model against the reviewed labels of the images set aside.

    The reviewed field has no row there: its accepted labels are the truth, so it would be right by definition.
    """
    here = set(dataset.values("id"))
    sample_of = {name: one for name in training.validation for one in copies[name] if one in here}
    if gone := len(training.validation) - len(sample_of):
        logger.info("%s of those set aside are no longer in the dataset, and not compared", counted(gone, "image"))
    if not any(pictures[name].objects for name in sample_of):
        logger.info("no reviewed object was set aside, so there is nothing to compare with; review more images")
        return
    scratch = fo.Dataset()  # the dataset itself gets no field for this
    try:
        for name, sample_id in sample_of.items():
            labels = [truth_of(one, training.classes) for one in pictures[name].annotations]
            sample = fo.Sample(str(pictures[name].path), reviewed=fo.Detections(detections=labels))
            sample[into] = dataset[sample_id][into]
            scratch.add_sample(sample)
        logger.info("\nagainst the reviewed labels of the images set aside:\n%s", HEADER)
        logger.info("%s", row_of(scratch, into, "reviewed", training.classes))
    finally:
        scratch.delete()


# ---- The whole way ----


def run(options: argparse.Namespace) -> int:
    """Does what the options say; returns how many images could not be read."""
    dataset = dataset_of(options.dataset)
    images, into = whole_images(dataset), options.into or f"{options.field}_small"
    for name in filter(None, (options.field, options.truth)):
        check_detections_field(images, name)
    check_target(images, into, options)
    source, device = weights_of(options.model), choose_device(options.device)  # what lacks is said before any work

    training, pictures = reviewed(images, options)
    copies, fresh = copies_of(images, pictures), fresh_images(images, options.field)
    if not training.train:
        fresh_ids = set(fresh.values("id"))
        training.train, training.validation = split(pictures, copies, fresh_ids, options.validation, options.seed)
        training.write()
    logger.info("%s to train with, %d set aside", counted(len(training.train), "image"), len(training.validation))

    network, broken = trained(training, pictures, source, device, options)
    learned = [sample_id for name in training.train for sample_id in copies[name]]
    check_target(images, into, options)  # hours may have passed
    about = {**training.settings, "epochs": training.epochs, "folder": str(training.folder)}
    about |= {"score_threshold": options.score_threshold}
    make_field(dataset, into, about)
    targets = images if options.everything else images.exclude(learned)
    targets = images.select(targets.exists(into, bool=False).values("id"))  # a query would lose what gets labels
    failed = broken + label_images(network, targets, into, training.classes, options)

    if options.truth:
        compare_with_truth(fresh.exclude(learned), training, options, into)
    compare_with_review(dataset, training, pictures, copies, into)
    finish_field(dataset, into, about)
    return failed


def reviewed(images: SampleCollection, options: argparse.Namespace) -> tuple[Training, dict[str, Picture]]:
    """The training in the folder, and the images of its export, which is made once: the network has learned from it."""
    named = ("dataset", "field", "model", "only", "size", "batch_size", "lr", "seed", "validation")
    training = Training.open(expanded(options.out), {name: getattr(options, name) for name in named})
    export = training.folder / "export"
    if not training.train:
        export_reviewed(images, options.field, export, options.only)
    training.classes, pictures = read_export(export)
    return training, pictures


def trained(
    training: Training, pictures: dict[str, Picture], source: Path | None, device: torch.device,
    options: argparse.Namespace,
) -> tuple[Any, int]:  # fmt: skip
    """The network after all epochs, and how many images could not be read; epochs of the folder are not done again."""
    before = training.epochs
    torch.manual_seed(options.seed)  # of the new last layer
    network = load_network(training.network if before else source, training.classes).to(device)
    started = time.monotonic()
    broken = train(network, training, pictures, options)
    if epochs := training.epochs - before:
        seconds = (time.monotonic() - started) / epochs
        logger.info("%.1f s an epoch on %s; the network: %s", seconds, device, training.network)
    return network, broken


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options; raises InputError where a number cannot be used."""
    rules = {
        "epochs": (options.epochs >= 1, "at least 1"),
        "batch_size": (options.batch_size >= 1, "at least 1"),
        "size": (options.size >= STRIDE and options.size % STRIDE == 0, f"a multiple of {STRIDE}"),
        "lr": (0 < options.lr < 1, "between 0 and 1"),
        "validation": (0 <= options.validation < 1, "0 or more, and less than 1"),
        "score_threshold": (0 <= options.score_threshold < 1, "0 or more, and less than 1"),
    }
    for name, (is_right, rule) in rules.items():
        if not is_right:
            raise InputError(f"expected --{name.replace('_', '-')} to be {rule}, got {getattr(options, name)}")
    return options


def parser() -> argparse.ArgumentParser:
    """The options of the script."""
    made = argparse.ArgumentParser(description="Fine-tunes a small instance segmenter with reviewed labels.")
    made.add_argument("dataset", help="name of a FiftyOne dataset")
    made.add_argument("field", help="field of detections that was reviewed; it is only read")
    made.add_argument("--out", required=True, help="new folder for export and network; the same one goes on")
    made.add_argument(
        "--model",
        default="facebook/mask2former-swin-tiny-coco-instance",
        help=f"Mask2Former to begin with: a folder, a repository of the hub, or {TINY!r} (random)",
    )
    made.add_argument("--epochs", type=int, default=30, help="in all, those of earlier calls included")
    made.add_argument("--into", help="field for what the network finds (default: FIELD_small)")
    made.add_argument("--truth", help="field of ground truth to compare both fields with")
    made.add_argument(
        "--only",
        choices=("done", "accepted"),
        help="images to learn from: those marked as done, or all with accepted labels (default: done, "
        "where there are any)",
    )
    made.add_argument("--validation", type=float, default=0.2, help="share of the reviewed images to set aside")
    made.add_argument("--size", type=int, default=512, help="side of the network's input in pixels")
    made.add_argument("--batch-size", type=int, default=2)
    made.add_argument("--lr", type=float, default=1e-4, help="learning rate; a tenth of it for the backbone")
    made.add_argument("--score-threshold", type=float, default=0.05, help="labels below are not written")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", help="cpu, cuda, mps ... (default: the best one here)")
    made.add_argument("--everything", action="store_true", help="also label the images that were trained with")
    made.add_argument("--overwrite", action="store_true", help="replace the field of an earlier call")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 where images could not be read, or 2 for an error that a user can act on."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    reports: Any = transformers.utils.logging
    reports.set_verbosity_error()  # that the last layer is new is what we want
    reports.disable_progress_bar()
    try:
        return 1 if run(checked(parser().parse_args(argv))) else 0
    except NttError as error:
        logger.error("error: %s", error)
        return 2
    except OSError as error:  # a full disk, a folder of somebody else's
        logger.error("error: %s: %s; see to that and try again", error.filename, error.strerror or error)
        return 2
    except KeyboardInterrupt:
        logger.error("stopped; the same call goes on after the last epoch that was kept")
        return 130


if __name__ == "__main__":
    sys.exit(main())
