"""Models without weights that fail on demand, and what to feed them."""

import io
import math
import os
import socket
import struct
import zlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import fiftyone as fo
import numpy as np
import pytest
import torch
from bson import Binary
from PIL import Image

from fiftyone_ntt.candidates import source as candidates
from fiftyone_ntt.core import ProposalConfig, Segmenter
from fiftyone_ntt.models.presets import PRESETS
from fiftyone_ntt.references import banks as references
from fiftyone_ntt.references import editable_masks
from support.fake_models import FakeFeatures, FakeProposals

ROOT = Path(__file__).resolve().parents[2]
RED, GREEN, BLUE = (254, 0, 0), (0, 254, 0), (0, 0, 254)


class Proposals(FakeProposals):
    """Red images need more memory than the GPU has, green ones more than the machine has, blue ones find a bug."""

    def encode(self, pixels, frame):
        colour = tuple(int(round(float(value) * 255)) for value in pixels.mean(dim=(1, 2)))
        if colour == GREEN:
            raise MemoryError
        if colour == BLUE:
            raise ZeroDivisionError(f"in {ROOT}")
        return pixels.mean(dim=0) + (100.0 if colour == RED else 0.0)

    def decode_among(self, embedding, points, threshold, among):
        if embedding.mean() > 50:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().decode_among(embedding, points, threshold, among)


class Features(FakeFeatures):
    """The same, in a tenth of the time."""

    def encode(self, images):
        return images.reshape(len(images), 3, 8, 8, 8, 8).mean(dim=(3, 5)).permute(0, 2, 3, 1)


def segmenter():
    return Segmenter(Proposals(), Features(), proposals=ProposalConfig(points_per_side=4), target_via=None)


@contextmanager
def small_models():
    """The services take these models meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "load_segmenters", lambda *_, **__: [segmenter()])
        loaded = SimpleNamespace(preset=PRESETS["lite"], segmenter=segmenter)
        for module in (references, editable_masks):
            patch.setattr(module, "load_preset", lambda *_: loaded)
        yield


def noise(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(60, 255, (height, width, 3), dtype=np.uint8)


def picture(height=60, width=80):
    return Image.fromarray(noise(height, width))


def reference(path, *labels):
    noise_of = Image.fromarray(noise(seed=len(labels)))
    noise_of.save(path)
    return fo.Sample(str(path), ground_truth=fo.Detections(detections=list(labels)), tags=["ntt:reference"])


def detection(label="fig", box=(0.25, 0.25, 0.5, 0.5), **changes):
    return fo.Detection(**{"label": label, "bounding_box": list(box), "mask": np.ones((30, 40), bool), **changes})


# What may lie where an image should


# What strangers call things
# Public reports of the kind stand above or behind their rows, here and below; the other rows were found by trial.

NAMES = {
    # Reference gallery and summaries showed it as a picture: the browser asked that host.
    # dust-tt/dust#12359, epam/ai-dial-chat#7109: a picture in somebody's Markdown is a request to their host
    "picture": "![x](http://host.invalid/x.png)",
    # plotly/plotly.js#1307: such a trace name ran its script when hovered; danvk/dygraphs#290: labels did, too
    "html": '<img src="http://host.invalid/x.png" onerror="alert(1)">',
    "link": "[x](javascript:alert(1))",  # n-3-0/websms#14
    "definition": "[a]: http://host.invalid/",
    "addresses": "http://host.invalid/a www.host.invalid a.b@host.invalid <http://host.invalid>",
    "heading": "# heading",
    "quote": "> quote",
    "list": "1. one",
    "rule": "---",
    "table": "| a | b |",
    "emphasis": "**bold** *it* _it_ __b__ ~~gone~~ a_b_c",
    "code": "```\ncode\n``` `x`",
    "entities": "&lt;b&gt; &copy; &#33;",
    "backslash": "a\\*b\\",
    "line break": "a\nb",
    "carriage return": "a\r\nb",
    "other line breaks": "a\u2028b\x85c\x0bd",
    "tab": "a\tb",
    "nul": "a\0b",
    "terminal": "\x1b[31mred\x1b[0m\x07",  # schollz/croc#595, sharkdp/bat#3691
    "turned": "abc\u202egnp.exe",  # minio/object-browser#2828
    "right to left": "\u05ea\u05e4\u05d5\u05d7 \u200f!",  # nextcloud/server#10030: a ban would hit those who write so
    "template": "%{x} {0} %s {{}}",
    "markup": "[bold]x[/] [/red] :heart:",  # docarray/docarray#733, Textualize/rich#3203
    "formula": '=HYPERLINK("http://host.invalid","x")',  # elastic/kibana#91994
    "number": "1",
    "date": "2026-01-01",
    "yaml": "yes: [no, null]",  # of the kind of ultralytics/ultralytics#23754
    "path": "../../x",  # konfuzio-ai/konfuzio-sdk#487: a category's name became a path
    "long": "x" * 3000,
    "blanks": "  a  ",
}


# What strangers put where a mask, a box or a file should be


def packed(array):
    """An array as FiftyOne's fields keep it."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return Binary(zlib.compress(stream.getvalue()))


def bomb_of_bytes(shape, kind="|b1", content=None):
    """A mask that says it has this shape; zlib shrinks its zeros a thousand times."""
    header = io.BytesIO()
    facts = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    packer = zlib.compressobj(9)
    parts = [packer.compress(header.getvalue())]
    left = math.prod(shape) if content is None else content
    while left > 0:
        parts.append(packer.compress(bytes(min(left, 1 << 24))))
        left -= 1 << 24
    return Binary(b"".join([*parts, packer.flush()]))


def png_bomb(path, side=60_000, bits=8):
    """A few bytes that say they are a grey picture of 3.6 gigapixels."""
    header = struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks]  # fmt: skip
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


FILES = {
    "pipe": os.mkfifo,  # xyb3rt/sxiv#252: an image viewer waits for ever
    "folder": Path.mkdir,  # duanzhiihao/RAPiD#36: folders between the images end the training
    "socket": unix_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),  # GerbilSoft/rom-properties#351: so does a folder of devices
    "missing": lambda path: None,  # open-mmlab/mmdetection#6779
    "loop": lambda path: path.symlink_to(path),  # nilboy/pixel-recursive-super-resolution#18
    "empty": lambda path: path.write_bytes(b""),  # opencv/opencv#25969, raspberrypi/userland#27: of a full disk
    "text": lambda path: path.write_text("no picture"),
    "bomb": png_bomb,  # python-pillow/Pillow#2583
}
"""What may lie where a file is named: name -> what makes it at a path."""
MASKS = {
    # keras-team/keras#23016: headers in a file of weights that claim huge arrays; zeros that shrink to nothing
    "bomb": lambda: bomb_of_bytes((40_000, 40_000)),
    "bomb that lies": lambda: bomb_of_bytes((30, 40), content=1 << 30),
    "endless": lambda: bomb_of_bytes((10**9, 10**9, 10**9), content=10),
    "negative": lambda: bomb_of_bytes((-1, 40), content=40),  # voxel51/fiftyone#7438: such lengths were not refused
    "too many digits": lambda: bomb_of_bytes((10**4000, 2), content=10),
    "short": lambda: bomb_of_bytes((30, 40), content=100),  # voxel51/fiftyone#7229: less content than the header says
    "cut": lambda: Binary(bytes(packed(np.ones((30, 40), bool)))[:20]),
    "noise": lambda: Binary(bytes(range(256))),
    "no header": lambda: Binary(zlib.compress(b"nothing")),
    "empty": lambda: Binary(b""),
    "objects": lambda: bomb_of_bytes((2, 2), "|O", 100),  # numpy/numpy#12759: unpickling runs what is in the file
    "words": lambda: packed(np.array([["a", "b"]])),
    "numbers in a row": lambda: packed(np.ones(5)),
    "nothing": lambda: packed(np.ones((0, 0), bool)),  # voxel51/fiftyone#2063: masks without a pixel stop an export
    "four axes": lambda: packed(np.ones((2, 2, 2, 2))),
    "text": lambda: "a mask",
    "list": lambda: [[True]],
    "number": lambda: 1,
}
"""What may stand in place of a mask: name -> what makes it."""
NAN, INF = float("nan"), float("inf")
BOXES = {
    "none": None,
    "text": "0 0 1 1",
    "texts": ["0", "0", "1", "1"],
    "nothing": [],
    "two": [0.1, 0.1],
    "five": [0.1] * 5,
    "not a number": [0.1, 0.1, NAN, 0.2],  # jolibrain/deepdetect#1113: a detector that predicts them
    "infinite": [0.1, 0.1, INF, 0.2],
    "far": [0.1, 0.1, 1e300, 0.2],  # of the kind of voxel51/fiftyone#1381: boxes inflated far beyond the image
    "farther": [-1e308, 0.1, 1e308, 1e308],
    "negative": [0.5, 0.5, -0.2, -0.2],  # CondadosAI/modern-yolonas#56: sizes that are not positive
    "nested": [[0.1, 0.1, 0.2, 0.2]],
    "holes": [0.1, None, 0.2, 0.2],
    "mapping": {"x": 0.1},
}
"""What may stand in place of a box."""
