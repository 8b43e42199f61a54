"""What is wrong in a COCO json, entry by entry: a published file has nothing, one of one's own may. Pure Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Entry = dict[str, Any]


def problems(content: Mapping[str, list[Any]]) -> Iterator[str]:
    """Sentences, the first of which is enough to refuse a file: later checks rely on what earlier ones saw."""
    for kind, checks in _CHECKS.items():
        for entry in content[kind]:
            if not isinstance(entry, dict):
                yield f"expected objects of JSON in {kind}, got {_short(entry)}"
                return
            wrong = [f"{key} as {what}" for key, (what, good) in checks.items() if not good(entry.get(key))]
            if wrong:
                yield f"expected {', '.join(wrong)} in {kind}, got {_short(entry)}"
                return
        ids = {entry["id"] for entry in content[kind]}
        if len(ids) < len(content[kind]):
            yield f"expected each id of {kind} once, got one twice"
    yield from _unnamed(content)
    yield from _wrong_objects(content)


def is_empty(segmentation: Any) -> bool:
    """Whether a segmentation says nothing: exporters write ``[]``, ``[[]]`` or null where there is only a box."""
    return not segmentation or (isinstance(segmentation, list) and not any(segmentation))


# ---- Values by themselves ----


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_length(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_mark(value: Any) -> bool:
    return value is None or value in (0, 1)


def _is_area(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value) and value >= 0)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and _are_numbers(value) and min(value[2:]) >= 0


def _are_numbers(values: list[Any]) -> bool:
    """Whether all are finite numbers; a file has tens of millions, so nothing here is done one by one."""
    return set(map(type, values)) <= {int, float} and math.isfinite(sum(values))


_WHOLE = ("a whole number", _is_whole)
_LENGTH = ("a whole number above 0", _is_length)
_CHECKS: dict[str, dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "images": {"id": _WHOLE, "height": _LENGTH, "width": _LENGTH},
    "categories": {"id": _WHOLE, "name": ("text", _is_text)},
    "annotations": {
        "id": _WHOLE,
        "image_id": _WHOLE,
        "category_id": _WHOLE,
        "bbox": ("four numbers x, y, width, height", _is_box),
        "area": ("a number of at least 0", _is_area),
        "iscrowd": ("0 or 1", _is_mark),
        "difficult": ("0 or 1", _is_mark),
        "ignore": ("0 or 1", _is_mark),
    },
}


def _short(value: object) -> str:
    return str(value)[:200]


# ---- Entries beside each other ----


def _unnamed(content: Mapping[str, list[Any]]) -> Iterator[str]:
    """Images without a file, classes without a name of their own."""
    for image in content["images"]:
        name = image.get("file_name", image.get("coco_url"))  # LVIS has only the latter
        if not _is_text(name):
            yield f"expected file_name as text in images, got {_short(image)}"
    names = [entry["name"] for entry in content["categories"]]
    if len(set(names)) < len(names):
        yield f"expected each class name once, got {_short(names)}"


def _wrong_objects(content: Mapping[str, list[Any]]) -> Iterator[str]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    classes = {entry["id"] for entry in content["categories"]}
    for entry in content["annotations"]:
        if entry["image_id"] not in sizes or entry["category_id"] not in classes:
            yield f"expected objects of images and classes that are in the file, got {_short(entry)}"
            continue
        wrong = _wrong_segmentation(entry.get("segmentation"), sizes[entry["image_id"]])
        if wrong:
            yield f"{wrong} in annotation {entry['id']}"


def _wrong_segmentation(value: Any, size: tuple[int, int]) -> str:
    """What is wrong in a segmentation, or nothing."""
    if is_empty(value):
        return ""
    if isinstance(value, list):
        # Four numbers are a box to pycocotools, and an odd one is dropped by it.
        good = all(_is_polygon(one) for one in value if one)
        return "" if good else f"expected polygons of three or more points x, y, got {_short(value)}"
    if not isinstance(value, dict) or "counts" not in value:
        return f"expected polygons or run lengths as segmentation, got {_short(value)}"
    if value.get("size") != list(size):
        return f"expected run lengths of the image's size {list(size)}, got {_short(value.get('size'))}"
    counts = run_lengths(value["counts"])
    if counts is None or min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        return f"expected run lengths of {size[0] * size[1]} pixels in all, got {_short(value['counts'])}"
    return ""


def _is_polygon(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 6 and not len(value) % 2 and _are_numbers(value)


def run_lengths(counts: Any) -> list[int] | None:
    """Run lengths of COCO's list or text, ``None`` where it is neither.

    The text holds five bits a character from 48 on, the lowest first; the sixth bit says that more follow, and from
    the fourth number on what is written is the difference to the last but one.
    """
    if isinstance(counts, list):
        return counts if all(type(count) is int for count in counts) else None
    if not isinstance(counts, str):
        return None
    lengths: list[int] = []
    value, bits = 0, 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return None
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:  # negative: all higher bits are set
            value -= 1 << bits
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value, bits = 0, 0
    return None if bits else lengths
