"""Loops over runs of pixels, compiled by numba: which hang together, and how much of each token they cover.

Imported late, and only by ``compiled.loops``: importing compiles, or reads from numba's cache what was compiled
before. Each loop gives the same bits as the numpy code beside its only caller, which stays for where numba is not.
Runs are those of ``mask_codes.Runs``: int32 ``[R]`` owner, row, start and stop, in row-major order mask by mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.pixels.compiled import compiled

Int = NDArray[np.int32]


@compiled("i4(u2[], i8[], i8, i4[]!, i4[]!, i4[]!, i4[]!)")
def split_runs(lengths: Any, ends: Any, width: int, owner: Int, row: Int, start: Int, stop: Int) -> int:
    """Runs of kept run lengths, cut where a row ends; see ``mask_codes.runs_of_lengths``.

    Args:
        lengths: for each mask the lengths of its runs in row-major order, background first, the last left out.
        ends: int64 ``[N]``, where each mask's lengths end.
        width: columns and rows of a mask.
        owner: the runs are written here and to the next three, which have room for them.
        row: as ``owner``.
        start: as ``owner``.
        stop: as ``owner``.

    Returns:
        How many runs there are.
    """
    count, first = 0, 0
    for mask in range(len(ends)):
        place, inside, line, next_line = 0, False, 0, width
        for k in range(first, ends[mask] + 1):
            # Behind the last length kept: a mask whose last pixel is set has a run up to there. Never beyond: the
            # lengths may be a stranger's.
            end = min(place + np.int64(lengths[k]), width * width) if k < ends[mask] else width * width
            while inside and place < end:
                while place >= next_line:  # far quicker than a division
                    line, next_line = line + 1, next_line + width
                border = min(end, next_line)
                owner[count], row[count] = mask, line
                start[count], stop[count] = place + width - next_line, border + width - next_line
                count += 1
                place = border
            place, inside = end, not inside
        first = ends[mask]
    return count


@compiled("void(i4[], i4[], i4[], i4[], f8, b1[]!, f4[:]!)")
def small_regions(
    owner: Int, row: Int, start: Int, stop: Int, share: float, small: NDArray[np.bool_], boxes: NDArray[np.float32]
) -> None:
    """Runs of regions smaller than ``share`` of the largest of their mask, and boxes of the masks without them.

    Args:
        owner: of the runs, as the next three.
        row: first to last row of each mask.
        start: first columns.
        stop: the columns after the last.
        share: regions are 8-connected.
        small: bool ``[R]``, written.
        boxes: float32 ``[N, 4]`` xyxy, x2 and y2 the last column and row; zeros at first, written.
    """
    # Of the runs of the mask at hand, from its first on: they stay in a core's cache.
    root, area = np.empty(len(owner), np.int32), np.empty(len(owner), np.int32)
    low = 0
    while low < len(owner):
        high = low
        above, line = low, low  # the first run of the row before, and of this one
        while high < len(owner) and owner[high] == owner[low]:
            i, mine = high, -1
            if row[i] != row[line]:
                above, line = line, i
            if row[above] == row[i] - 1:
                # Runs above that end left of this one meet none that comes later either.
                while above < line and stop[above] < start[i]:
                    above += 1
                other = above
                while other < line and start[other] <= stop[i]:
                    top = root[other - low]
                    while root[top] != top:
                        top = root[top]
                    root[other - low] = top
                    if mine < 0:
                        mine = top
                    elif mine != top:
                        root[max(mine, top)] = min(mine, top)
                        mine = min(mine, top)
                    other += 1
            root[i - low] = mine if mine >= 0 else i - low
            area[i - low] = 0
            high += 1
        largest = 0
        for i in range(high - low):
            own = root[root[i]]  # every root stands before its runs, and is final by now
            root[i] = own
            area[own] += stop[low + i] - start[low + i]
            largest = max(largest, area[own])
        enough = share * largest
        x1, y1, x2, y2 = np.int32(1 << 30), np.int32(1 << 30), np.int32(-1), np.int32(-1)
        for i in range(low, high):
            small[i] = area[root[i - low]] < enough
            away = np.int32(small[i]) << 20  # no branch: nobody could foretell it
            x1, x2 = min(x1, start[i] + away), max(x2, stop[i] - 1 - away)
            y1, y2 = min(y1, row[i] + away), max(y2, row[i] - away)
        if x2 >= 0:
            box = boxes[owner[low]]
            box[0], box[1], box[2], box[3] = x1, y1, x2, y2
        low = high


@compiled("void(i4[], i4[], i4[], b1[], i8, i8, f4[:]!)")
def flip_runs(row: Int, start: Int, stop: Int, which: NDArray[np.bool_], top: int, left: int, values: Any) -> None:
    """Changes the sign of the values, float32 ``[h, w]`` from (``left``, ``top``) on, of some runs' pixels."""
    for i in range(len(row)):
        if which[i]:
            for column in range(start[i] - left, stop[i] - left):
                values[row[i] - top, column] = -values[row[i] - top, column]


@compiled("void(i4[], i4[], i4[], i4[], b1[:], i8[:], f8[:], i8[], f8[], f4[::]!)")
def token_weights(
    owner: Int,
    row: Int,
    start: Int,
    stop: Int,
    used: NDArray[np.bool_],
    first: NDArray[np.int64],
    height: NDArray[np.float64],
    cell: NDArray[np.int64],
    right: NDArray[np.float64],
    weights: NDArray[np.float32],
) -> None:
    """How much of each token's patch a mask covers; see ``scoring.token_weights``.

    Sums are kept apart by table and by edge, and added up as numpy does: so that they are rounded alike.

    Args:
        owner: of the runs, as the next three.
        row: of the runs.
        start: of the runs.
        stop: of the runs.
        used: bool ``[T, 256]`` of T tables, see ``scoring._EdgeTable``, as the next two.
        first: int64 ``[T, 256]``.
        height: float64 ``[T, 256]``.
        cell: int64 ``[257]``, the same in all tables.
        right: float64 ``[257]``, the same in all tables.
        weights: float32 ``[N, rows, columns]``, zeros at first, written.
    """
    tables, (rows, columns) = len(used), weights.shape[1:]
    wide = columns + 1  # edges right of all cells fall into a column of their own
    # Of each table and cell: whole and part of starts, whole and part of stops.
    sums = np.zeros((tables, 4, rows * wide), np.float64)
    wholes, parts = np.empty(columns, np.float64), np.empty(columns, np.float64)
    low = 0
    while low < len(owner):
        high, top, bottom = low, rows * wide, -1
        while high < len(owner) and owner[high] == owner[low]:
            high += 1
        for t in range(tables):
            begun, begun_part, ended, ended_part = sums[t, 0], sums[t, 1], sums[t, 2], sums[t, 3]
            for i in range(low, high):
                if used[t, row[i]]:
                    line, share = first[t, row[i]], height[t, row[i]]
                    top, bottom = min(top, line), max(bottom, line)
                    place = line + cell[start[i]]
                    begun[place] += share
                    begun_part[place] += right[start[i]] * share
                    place = line + cell[stop[i]]
                    ended[place] += share
                    ended_part[place] += right[stop[i]] * share
        top, bottom = top // wide, bottom // wide
        for line in range(top, bottom + 1):
            wholes[:] = 0
            parts[:] = 0
            for t in range(tables):
                cells = sums[t, :, line * wide : line * wide + columns]
                begun, begun_part, ended, ended_part = cells[0], cells[1], cells[2], cells[3]
                for column in range(columns):
                    wholes[column] = (wholes[column] + begun[column]) - ended[column]
                    parts[column] = (parts[column] + begun_part[column]) - ended_part[column]
            total, covered = 0.0, weights[owner[low], line]
            for column in range(columns):
                # Of the cell that an edge is in a part counts, of all cells right of it the whole.
                before = wholes[column - 1] - parts[column - 1] if column else 0.0
                total += parts[column] + before
                covered[column] = 0.0 if total < 0 else 1.0 if total > 1 else total
        if bottom >= top:
            sums[:, :, top * wide : (bottom + 1) * wide] = 0
        low = high


@compiled("void(f4[::], i8, f4[::]!)")
def grown(weights: NDArray[np.float32], reach: int, largest: NDArray[np.float32]) -> None:
    """The largest weight within ``reach`` of each token in both directions; see ``scoring.grown``.

    Args:
        weights: float32 ``[N, rows, columns]``, none below 0.
        reach: in tokens.
        largest: as ``weights``, zeros at first, written.
    """
    count, rows, columns = weights.shape
    across = np.zeros((rows, columns), np.float32)
    for mask in range(count):
        top, bottom = rows, -1  # lines that are not empty
        for line in range(rows):
            given, kept, total = weights[mask, line], across[line], np.float32(0)
            for column in range(columns):
                total = max(total, given[column])
                kept[column] = given[column]
            if total == 0:
                continue
            top, bottom = min(top, line), line
            for step in range(1, min(reach, columns - 1) + 1):
                for column in range(columns - step):
                    kept[column] = given[column + step] if given[column + step] > kept[column] else kept[column]
                for column in range(step, columns):
                    kept[column] = given[column - step] if given[column - step] > kept[column] else kept[column]
        for line in range(max(top - reach, 0), min(bottom + reach, rows - 1) + 1):
            kept = largest[mask, line]
            for other in range(max(line - reach, top), min(line + reach, bottom) + 1):
                near = across[other]
                for column in range(columns):
                    kept[column] = near[column] if near[column] > kept[column] else kept[column]


@compiled("i8(u1[:], i8, i8, i8, i8, i8[]!, u1[]!)")
def coco_text(pixels: Any, left: int, top: int, height: int, width: int, border: Any, text: Any) -> int:
    """COCO's compressed run lengths of a mask in a window; see ``mask_codes.encode_crop``.

    Args:
        pixels: uint8 ``[h, w]``, 0 is not the mask.
        left: image column of the window's first column.
        top: image row of its first row.
        height: of the image, in pixels.
        width: of the image.
        border: int64, for the places where runs end.
        text: uint8, has room for seven letters a place.

    Returns:
        How many letters were written; -1 where ``border`` has not room enough.
    """
    rows, columns = pixels.shape
    count, inside = 0, False
    octets = np.zeros((rows, (columns + 7) // 8 * 8), np.uint8)
    for row in range(rows):
        for column in range(columns):  # a stranger's truth may be another number than 1
            octets[row, column] = pixels[row, column] != 0
    words = octets.view(np.uint64)  # eight pixels of a row each, the first the lowest
    changes, number = np.empty((8, rows), np.int64), np.empty(8, np.int64)  # of each of eight columns
    for block in range(words.shape[1]):
        number[:] = 0
        above = np.uint64(0)
        for row in range(rows):
            word = words[row, block]
            differs = word ^ above
            if differs != np.uint64(0):
                above = word
                for k in range(8):
                    if (differs >> np.uint64(8 * k)) & np.uint64(1) != np.uint64(0):
                        changes[k, number[k]] = row
                        number[k] += 1
        if count + number.sum() + 10 > len(border):
            return -1
        for k in range(min(8, columns - 8 * block)):
            place, first = (left + 8 * block + k) * height + top, 0
            if inside:  # the column before was the mask's to its end, and so far as the image goes
                if number[k] > 0 and changes[k, 0] == 0:
                    first = 1
                else:
                    border[count], count = place, count + 1
            for i in range(first, number[k]):
                border[count], count = place + changes[k, i], count + 1
            inside = number[k] % 2 == 1
            if inside and rows < height:  # otherwise it may go on atop the next column
                border[count], count, inside = place + rows, count + 1, False
    if inside and left + columns < width:
        border[count], count = (left + columns) * height, count + 1
    if count == 0 or border[count - 1] < height * width:
        border[count], count = height * width, count + 1
    letters, last = 0, 0
    older, old = 0, 0  # the two lengths before
    for k in range(count):
        length = border[k] - last
        last = border[k]
        # From the fourth on, the difference to the one before the last; five bits a letter, the lowest first.
        rest = length - older if k > 2 else length
        older, old = old, length
        more = True
        while more:
            bits = rest & 31
            rest >>= 5
            more = rest != -1 if bits & 16 else rest != 0
            text[letters] = bits + (80 if more else 48)
            letters += 1
    return letters
