"""The references of a dataset, one card each: a cropped picture, and what may be wrong with it in plain words."""

from __future__ import annotations

import base64
import io
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray
from PIL import Image

from fiftyone_ntt.dataset.documents import (
    Document,
    SampleDocument,
    class_of,
    label_parts,
    sample_documents,
    single_documents,
)
from fiftyone_ntt.dataset.fields import NO_CLASS, REFERENCE_TAG, check_reference_field, image_samples, is_map_field
from fiftyone_ntt.dataset.marks import left_out_mark
from fiftyone_ntt.errors import InputError, as_text
from fiftyone_ntt.method.references import mask_extent
from fiftyone_ntt.params.param_info import checked_number
from fiftyone_ntt.params.references import MADE_FIELD
from fiftyone_ntt.pixels.drawing import Shape, draw_shapes, hex_colour
from fiftyone_ntt.pixels.frames import whole_pixels
from fiftyone_ntt.pixels.images import read_image
from fiftyone_ntt.references.label_kinds import (
    POINT_LABELS,
    ClassValues,
    LabelledObject,
    class_values,
    is_negative,
    objects_in,
)
from fiftyone_ntt.references.tagging import MAPS, examples_of, tagged_references

_SMALLEST_SIDE = 32
"""Pixels: an object of less has hardly any features of its own."""
_CONTEXT = 0.15
"""How much of its surroundings a thumbnail shows, as a share of the object's longer side."""
_THUMBNAIL, _IN_TABLE, _GREY_SIDE = 160, 56, 16
_AROUND_POINTS = 0.08
"""How much a thumbnail shows around points whose mask has not been made, as a share of the image's longer side."""
_NEARLY_EQUAL, _KEPT = 0.95, 500


@dataclass(frozen=True, eq=False)
class _Look:
    """What is left of a reference once its image has been read.

    Attributes:
        pixels: uint8 ``[h, w, 3]``, the object with its surroundings.
        mask: bool ``[h, w]``, or ``None`` of a box.
        grey: float32 ``[256]`` of zero mean and length one, the object itself.
        area: share of the image that it covers.
        warnings: what is wrong with it by itself.
        thumbnails: those that were drawn, by side, format and colour.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    grey: NDArray[np.float32]
    area: float
    warnings: tuple[str, ...]
    thumbnails: dict[tuple[int, str, str], bytes] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ReferenceCard:
    """One reference.

    Attributes:
        sample_id: the sample it is on.
        label_id: the label.
        label: its class.
        kind: ``"mask"``, ``"box"``, ``"point"``, ``"scribble"`` or ``"map"`` (all classes of a segmentation map).
        area: share of the image that it covers; 0 where its image has not been read.
        warnings: what may be wrong with it, in plain words.
        pending: whether its image has not been read yet.
    """

    sample_id: str
    label_id: str
    label: str
    kind: str
    area: float = 0.0
    warnings: tuple[str, ...] = ()
    pending: bool = False
    _look: _Look | None = field(default=None, repr=False)

    @property
    def flaws(self) -> tuple[str, ...]:
        """What is wrong with it by itself, the others aside."""
        return self.warnings if self._look is None else self._look.warnings

    def thumbnail(
        self, side: int = 112, image_format: str = "PNG", classes: Sequence[str] | None = None
    ) -> bytes | None:
        """The cropped picture with the mask's outline and tint; ``None`` where the image cannot be read.

        Args:
            side: of the square picture, in pixels.
            image_format: ``"PNG"`` or ``"JPEG"``.
            classes: all classes, so that each has a colour of its own.
        """
        if self._look is None:
            return None
        drawn, every = self._look.thumbnails, [self.label] if classes is None else classes
        key = (side, image_format, hex_colour(self.label, every))
        if key not in drawn:
            drawn[key] = self._drawn(self._look, side, image_format, every)
        return drawn[key]

    def _drawn(self, look: _Look, side: int, image_format: str, classes: Sequence[str]) -> bytes:
        height, width = look.pixels.shape[:2]
        wide = max(1, round(side * min(1.0, width / height)))
        shapes = [Shape(self.label, look.mask)]
        picture = draw_shapes(look.pixels, shapes, classes, wide, chips=False)
        square = Image.new("RGB", (side, side), (32, 34, 40))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        data = io.BytesIO()
        square.save(data, image_format, quality=85)
        return data.getvalue()


class ReferenceCards(list[ReferenceCard]):
    """The cards of a dataset's references: a list that a notebook shows as a table."""

    HEADINGS = ("class", "kind", "area", "what may be wrong")

    def rows(self) -> list[tuple[str, str, str, str]]:
        """A row a card, as a person reads it."""
        return [
            (card.label, card.kind, f"{card.area:.1%}" if card.area else "", "; ".join(card.warnings)) for card in self
        ]

    def __repr__(self) -> str:
        rows = [self.HEADINGS, *((as_text(name), *others) for name, *others in self.rows())]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ("  ".join([*map(str.ljust, row, widths), row[3]]).rstrip() for row in rows)
        return "\n".join(lines) if self else "no references"

    def _repr_html_(self) -> str:
        def line(tag: str, picture: str, texts: Sequence[str]) -> str:
            return f"<tr><{tag}>{picture}</{tag}>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)

        pictures = (base64.b64encode(card.thumbnail(_IN_TABLE, "JPEG") or b"").decode() for card in self)
        images = (f'<img src="data:image/jpeg;base64,{data}">' if data else "" for data in pictures)
        body = [line("td", image, row) for image, row in zip(images, self.rows(), strict=True)]
        return f"<table>{line('th', '', self.HEADINGS)}{''.join(body)}</table>" if self else "no references"


def describe_references(
    view: SampleCollection,
    label_field: str = "ground_truth",
    *,
    tag: str = REFERENCE_TAG,
    most: int | None = None,
    seconds: float | None = None,
) -> ReferenceCards:
    """The references of a view, class by class, with what may be wrong with each. Only tagged samples are read.

    Args:
        view: a dataset or view.
        label_field: the field with the reference labels.
        tag: what references are tagged with.
        most: at most so many cards, of every class alike; all of them where ``None``.
        seconds: how long images may be read; cards of images not read by then are ``pending``. What was read is
            remembered, so the same call again gets further.

    Returns:
        The cards, sorted by class; none where nothing is tagged. A notebook shows them as a table.

    Raises:
        InputError: if there is no such field, or its labels cannot be references.

    Example:
        >>> for card in ntt.describe_references(dataset, "ground_truth"):  # doctest: +SKIP
        ...     print(card.label, card.kind, *card.warnings)
        coin mask the only one of its class: two or three more help
    """
    check_reference_field(view, label_field)
    until = float("inf") if seconds is None else time.monotonic() + checked_number("seconds", seconds, float)
    try:
        references = tagged_references(image_samples(view), tag, label_field)
    except InputError:
        return ReferenceCards()
    chosen = _fair_share(_labels(references, label_field), most and checked_number("most", most, int, 0))
    cards = list(_cards(references, label_field, chosen, until))
    used = _labels(examples_of(references, label_field), label_field)
    alone = {name for name, count in Counter(used.values()).items() if count == 1}
    return ReferenceCards(sorted(_with_comparisons(cards, alone), key=lambda card: card.label))


def _labels(references: SampleCollection, label_field: str) -> dict[tuple[str, str], str]:
    """(sample id, label id) -> class of every reference; nothing else is fetched."""
    are_maps = is_map_field(references, label_field)
    return {
        (str(sample_id), str(label["_id"])): MAPS if are_maps else class_of(label) or NO_CLASS
        for sample_id, labels in label_parts(references, label_field, ["_id", "label"])
        for label in labels
        if "_id" in label
    }


def _fair_share(labels: dict[tuple[str, str], str], most: int | None) -> set[tuple[str, str]]:
    """The first label of each class, then the second of each, and so on, up to ``most``."""
    seen: Counter[str] = Counter()
    ranks = {}
    for key, name in labels.items():
        ranks[key] = seen[name]
        seen[name] += 1
    return set(sorted(labels, key=lambda key: ranks[key])[:most])


def _cards(
    references: SampleCollection, label_field: str, chosen: set[tuple[str, str]], until: float
) -> Iterator[ReferenceCard]:
    ids = list(dict.fromkeys(sample_id for sample_id, _ in chosen))
    fields = [name for name in dict.fromkeys((label_field, MADE_FIELD)) if references.has_field(name)]
    values = class_values(references, label_field, strict=False) if is_map_field(references, label_field) else None
    for sample in sample_documents(references.select(ids), fields):
        labels = single_documents(sample.fields[label_field])
        wanted = [label for label in labels if (sample.id, str(label.get("_id"))) in chosen]
        masks = {} if fields == [label_field] else _by_source(sample.fields[MADE_FIELD])
        yield from _cards_of(sample, wanted, masks, values, until)


def _by_source(labels: Document | None) -> dict[str, Document]:
    """Source -> the label whose mask was made from it."""
    return {str(label["source"]): label for label in single_documents(labels) if label.get("source")}


def _cards_of(
    sample: SampleDocument, labels: Sequence[Document], masks: dict[str, Document], values: ClassValues | None,
    until: float,
) -> Iterator[ReferenceCard]:  # fmt: skip
    image: NDArray[np.uint8] | None = None
    for label in labels:
        label_id = str(label.get("_id"))
        name = MAPS if label.get("_cls") == "Segmentation" else class_of(label) or NO_CLASS
        card = ReferenceCard(sample.source_id, label_id, name, _kind(label))
        pictured = masks.get(label_id, label)  # the mask that was made from it tells more
        try:
            key = _key(sample, pictured)
            look = _looks.get(key)
            if look is None and image is None and time.monotonic() > until:
                yield replace(card, pending=True)
                continue
            if look is None:
                image = read_image(sample.filepath) if image is None else image
                look = _remember(key, _look_at(image, pictured, values))
            yield replace(card, area=look.area, warnings=_left_out(label) + look.warnings + _naming(name), _look=look)
        except InputError as error:
            yield replace(card, warnings=(f"cannot be used: {error}",))


def _left_out(label: Document) -> tuple[str, ...]:
    mark = None if is_negative(label) else left_out_mark(label)
    return () if mark is None else (f"marked {mark!r}, so it is left out of the references",)


def _kind(label: Document) -> str:
    if label.get("_cls") == "Segmentation":
        return "map"
    if label.get("_cls") == "Keypoint":
        return "point"
    if label.get("_cls") == "Polyline":
        return "mask" if label.get("closed") or label.get("filled") else "scribble"
    has_mask = label.get("mask") is not None or label.get("mask_path") is not None
    return "mask" if has_mask else str(label.get("reference_kind") or "box")


def _naming(name: str) -> tuple[str, ...]:
    return ("has no class: give it one",) if name == NO_CLASS or not name.strip() else ()


def _look_at(image: NDArray[np.uint8], label: Document, values: ClassValues | None) -> _Look:
    height, width = image.shape[:2]
    objects = list(objects_in(label, (height, width), values))
    if not objects:
        raise InputError("its map shows nothing with a name")
    mask, (x1, y1, x2, y2) = _place(objects, (height, width))
    area = float(mask.mean()) if objects[0].mask is not None else (x2 - x1) * (y2 - y1) / (height * width)
    left, top, right, bottom = whole_pixels((x1, y1, x2, y2), (height, width))
    margin = max(4, round(_CONTEXT * max(bottom - top, right - left)))
    rows_shown = slice(max(0, top - margin), bottom + margin)
    columns_shown = slice(max(0, left - margin), right + margin)
    pixels, tinted = _shrunk(image[rows_shown, columns_shown], mask[rows_shown, columns_shown])
    cut = left <= 0 or top <= 0 or right >= width or bottom >= height
    has_extent = objects[0].mask is not None or objects[0].box is not None  # of points, nobody knows it yet
    warnings = _warnings(right - left, bottom - top, cut) if has_extent else ()
    return _Look(pixels, tinted, _grey(image[top:bottom, left:right]), area, warnings)


def _place(objects: Sequence[LabelledObject], size: tuple[int, int]) -> tuple[NDArray[np.bool_], tuple[float, ...]]:
    """What to tint, bool ``[H, W]``, and the xyxy around it: the mask, the box, or dots on the points."""
    masks = [item.mask for item in objects if item.mask is not None]
    if masks:
        mask = np.logical_or.reduce(masks)
        if not mask.any():
            raise InputError("its mask is empty; draw it again, or remove the label")
        return mask, mask_extent(mask)
    mask, prompt = np.zeros(size, bool), objects[0].prompt
    if objects[0].box is not None or prompt is None:
        x1, y1, x2, y2 = objects[0].box or (0, 0, 1, 1)
        left, top, right, bottom = whole_pixels((x1, y1, x2, y2), size)
        mask[top:bottom, left:right] = True
        return mask, (x1, y1, x2, y2)
    reach = _AROUND_POINTS * max(size)
    rows, columns = np.ogrid[: size[0], : size[1]]
    for x, y in prompt.on_object:
        mask |= (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= (0.1 * reach) ** 2 + 1
    low, high = prompt.on_object.min(axis=0) - reach, prompt.on_object.max(axis=0) + reach
    corners = np.clip([*low, *high], 0, [size[1], size[0], size[1], size[0]])
    return mask, tuple(float(value) for value in corners)


def _warnings(width: int, height: int, cut: bool) -> tuple[str, ...]:
    warnings = []
    if min(width, height) < _SMALLEST_SIDE:
        warnings.append(f"too small: {width} x {height} pixels, a larger one shows more")
    if cut:
        warnings.append("cut off by the image's border: one that is whole shows more")
    return tuple(warnings)


def _shrunk(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    height, width = mask.shape
    scale = min(1.0, _THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    return small, np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)) > 0


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    size = (_GREY_SIDE, _GREY_SIDE)
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize(size, Image.Resampling.BOX), np.float32).reshape(-1)
    grey = grey - grey.mean()
    return np.asarray(grey / max(float(np.linalg.norm(grey)), 1e-6), np.float32)


def _with_comparisons(cards: Sequence[ReferenceCard], alone: set[str]) -> Iterator[ReferenceCard]:
    """The cards with what only shows beside the others."""
    greys = np.zeros((len(cards), _GREY_SIDE**2), np.float32)
    for i, card in enumerate(cards):
        if card._look is not None:
            greys[i] = card._look.grey
    for i, card in enumerate(cards):
        warnings = list(card.warnings)
        if card.label in alone:
            warnings.append("the only one of its class: two or three more help")
        twins = [int(k) for k in np.flatnonzero(greys @ greys[i] > _NEARLY_EQUAL) if k != i]
        if twins:
            other = cards[twins[0]].label
            warnings.append(
                "nearly the same as another reference: a different one shows more"
                if other == card.label
                else f"nearly the same as a reference of class {other!r}: one of the two is wrong"
            )
        yield replace(card, warnings=tuple(warnings))


_Key = tuple[str, int, str, int, int]
_looks: OrderedDict[_Key, _Look] = OrderedDict()


def _key(sample: SampleDocument, label: Document) -> _Key:
    """Changes whenever the picture or the label does."""
    kept = [label.get(name) for name in ("bounding_box", "points", "closed", "filled", POINT_LABELS)]
    mask = label.get("mask")
    packed = mask if isinstance(mask, bytes) else repr(mask).encode("utf-8", "backslashreplace")
    content = zlib.crc32(repr(kept).encode("utf-8", "backslashreplace") + packed)
    return sample.filepath, _changed(sample.filepath), str(label.get("_id")), content, _changed(label.get("mask_path"))


def _changed(path: Any) -> int:
    """When a file was changed; 0 where there is none."""
    try:
        return Path(path).stat().st_mtime_ns if path else 0
    except (OSError, TypeError, ValueError):
        return 0


def _remember(key: _Key, look: _Look) -> _Look:
    _looks[key] = look
    while len(_looks) > _KEPT:
        _looks.popitem(last=False)
    return look
