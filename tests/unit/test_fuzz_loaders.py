"""What a stranger's file can do: be refused. Loaders get thousands of spoiled files; only our own errors may come out.

FIFTYONE_NTT_FUZZ=100 spoils a hundred times as many, with other seeds.
"""

import copy
import io
import json
import os
import random
import resource
import struct
import time
import warnings

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.numpy import load, save
from support.fake_models import fake_segmenter

from fiftyone_ntt.candidates import file_format as files
from fiftyone_ntt.candidates.file_format import IndexSettings
from fiftyone_ntt.core import MemoryBank, compact
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.method.bank_parts import Head, VectorSet
from fiftyone_ntt.models import dinov2, hub_folders, sam2
from fiftyone_ntt.pixels.images import decode_image

ROUNDS = int(os.environ.get("FIFTYONE_NTT_FUZZ", "1"))
MOST_WORK = 5.0
"""Seconds of computing for one input."""
MOST_BYTES = 1_000_000_000
"""By how much the process may grow: far above what a sound file takes, far below what a forged one asks for."""
LARGE_IMAGE = 2_000
KEY = "fiftyone-ntt"
NASTY = [
    None, True, -1, 0, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, float("nan"), float("inf"), "", "zlib", "float64",
    "\ud800", "../../etc/passwd", "x" * 5000, [], [[]], [-1],
    [2**40, 2**40], [0, 2**62], ["1"], {}, {"a": {}}, {"$x.y": 1},
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Arrays here are small: teams of threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def segmenter():
    return fake_segmenter(3)


@pytest.fixture(scope="module")
def bank(segmenter):
    vectors = np.random.default_rng(0).random((4, 3), np.float32)
    ids = ("a/1", "b/2", "c/3", "d/4")
    center = vectors.mean(axis=0)
    bank = MemoryBank(("fig", "date"), vectors, np.array([0, 0, 1, 1]), ids, center, "fake", segmenter.weights)
    head = Head(vectors[:3], vectors[0], 1.5, 0.5, 0.7)
    return bank.changed(negatives=VectorSet(vectors[:2] + 1, ("date", None), ("a/5", "b/6")), head=head)


@pytest.fixture(scope="module")
def index_file(segmenter):
    image = np.random.default_rng(0).integers(100, 255, (30, 40, 3), dtype=np.uint8)
    signature = files.Signature("ab" * 32, IndexSettings("fake", segmenter.facts()))
    return files.to_bytes(compact(segmenter.candidates(image)), signature)


def spoiled_bytes(data, rng):
    """The bytes with a few flipped, cut, doubled, replaced, or a length of eight bytes made absurd."""
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(spoiled) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(spoiled):
            spoiled[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del spoiled[at:]
        elif kind == 2:
            del spoiled[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            spoiled[at:at] = spoiled[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            spoiled[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", rng.randbytes(4)))
        else:
            spoiled[:8] = struct.pack("<Q", rng.choice((0, 1, len(spoiled), 2**40, 2**63, 2**64 - 1)))
    return bytes(spoiled)


def spoiled_json(plain, rng):
    """The value with one of its parts replaced, doubled or gone."""
    plain = copy.deepcopy(plain)
    node = plain
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return plain
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and rng.random() < 0.7:
            node = node[key]
            continue
        if rng.random() < 0.15:
            del node[key]
        elif isinstance(node, list) and rng.random() < 0.2:
            node.append(node[key])
        else:
            node[key] = rng.choice(NASTY)
        return plain


def spoiled_array(array, rng):
    """Another array of about the same kind: other values, shape or type."""
    kind = rng.randrange(4)
    if kind == 0:
        return array.reshape(-1)[: rng.randrange(array.size + 1)]
    if kind == 1:
        return array.astype(rng.choice((np.uint8, np.int64, np.float16, np.float32, np.float64, np.bool_)))
    spoiled = np.array(array)
    flat = spoiled.reshape(-1).view(np.uint8)
    for _ in range(rng.choice((1, 3, 30))):
        if flat.size:
            flat[rng.randrange(flat.size)] = rng.choice((0, 1, 127, 128, 255))
    return spoiled


def forged_index_file(data, rng):
    """A spoiled file that carries the right checksum of what is in it, as whoever forges one would see to."""
    description = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][KEY])
    description.pop("sha256")
    tensors = dict(load(data))
    if rng.random() < 0.4:
        name = rng.choice(sorted(tensors))
        array = files._unpacked(tensors[name], *description["layout"][name])
        tensors[name] = array = np.ascontiguousarray(spoiled_array(array, rng))
        description["layout"][name] = [array.dtype.name, list(array.shape), "plain"]
    else:
        description = spoiled_json(description, rng)
    checksum = files._checksum(description, tensors)
    return save(tensors, {KEY: json.dumps({**description, "sha256": checksum})})


def hold_out(function, inputs):
    """Calls the function with every input: our error or a result, soon, and without much memory."""
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, value in enumerate(inputs):
        started = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function(value)
        except NttError as error:
            refused += 1
            assert str(error).strip()
        except Exception as error:
            raise AssertionError(f"input {number} gave {type(error).__name__}: {error}\n{value!r:.2000}") from error
        work = time.process_time() - started  # of this process alone: what else the machine does is no matter
        assert work < MOST_WORK, f"input {number} took {work:.1f} s of computing: {value!r:.500}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MOST_BYTES, f"the process grew by {grown / 1e6:.0f} MB"
    return refused


def rounds(count, make, *seed):
    rng = random.Random(repr((seed, ROUNDS)))
    return (make(rng) for _ in range(count * ROUNDS))


def test_index_files(index_file):
    inputs = rounds(5000, lambda rng: spoiled_bytes(index_file, rng), "index")
    assert hold_out(files.from_bytes, inputs) > 4900 * ROUNDS


def test_index_files_with_a_right_checksum_match_or_are_refused(index_file, bank, segmenter):
    def use(data):
        content, signature = files.from_bytes(data)
        signature.settings.differences(IndexSettings("other"))
        if max(content.candidates.frame.image_size) < LARGE_IMAGE:  # else it may take what a large image takes
            segmenter.match(content, bank)

    assert use(index_file) is None
    assert hold_out(use, rounds(800, lambda rng: forged_index_file(index_file, rng), "forged")) > 300 * ROUNDS


def test_index_settings():
    plain = {"format": 1, "preset": "lite", "facts": {"weights": {"a": "0"}, "grid": [1, 2]}}

    def use(text):
        settings = IndexSettings.from_json(text)
        assert len(settings.digest) == 64

    hold_out(use, rounds(1500, lambda rng: json.dumps(spoiled_json(plain, rng)), "settings"))


def test_memory_banks_from_parts(bank):
    tensors, description = bank.to_parts()

    def forged(rng):
        spoiled = dict(tensors)
        name = rng.choice(sorted(spoiled))
        if rng.random() < 0.1:
            del spoiled[name]
        elif rng.random() < 0.5:
            spoiled[name] = spoiled_array(spoiled[name], rng)
        return spoiled, json.dumps(spoiled_json(json.loads(description), rng)) if rng.random() < 0.5 else description

    def use(parts):
        read = MemoryBank.from_parts(*parts)
        assert read.prototypes.shape[0] == len(read.classes)
        read.content_hash.encode()
        "".join(read.classes + read.reference_ids).encode()
        assert sum(read.shots.values()) == len(read.vectors)
        with pytest.raises(InputError):
            read.check_preset("another", {"x": "y"})

    assert hold_out(use, rounds(2500, forged, "parts")) > 800 * ROUNDS


def test_memory_banks_in_folders(bank, tmp_path):
    bank.save(tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def use(written):
        path, data = written
        path.write_bytes(data)
        try:
            MemoryBank.load(tmp_path)
        finally:
            path.write_bytes(kept[path])

    def spoil(rng):
        path = rng.choice(sorted(kept))
        data = kept[path]
        if path.suffix == ".safetensors" and rng.random() < 0.3:  # types that safetensors knows and numpy may not
            return path, data.replace(b'"F32"', rng.choice((b'"F16"', b'"BF16"', b'"F8_E4M3"', b'"I32"', b'"BOOL"')))
        return path, spoiled_bytes(data, rng)

    assert hold_out(use, rounds(800, spoil, "folders")) > 300 * ROUNDS


def encoded(kind, mode="RGB", **settings):
    stream = io.BytesIO()
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 15, 3), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.save(stream, kind, **({"exif": exif.tobytes()} if kind in ("JPEG", "PNG", "WEBP") else {}), **settings)
    return stream.getvalue()


def deep_tiffs():
    values = np.random.default_rng(0).integers(0, 4096, (12, 15, 3)).astype(np.uint16)
    settings = [
        {},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"byteorder": ">"},
    ]
    for setting in settings:
        for pixels, shows in ((values, "rgb"), (values[..., 0].astype(np.float32), "miniswhite")):
            stream = io.BytesIO()
            tifffile.imwrite(stream, pixels, photometric=shows, **(setting if shows == "rgb" else {}))
            yield stream.getvalue()
    yield cv2.imencode(".png", values)[1].tobytes()
    yield cv2.imencode(".tiff", values, (cv2.IMWRITE_TIFF_COMPRESSION, 5))[1].tobytes()


def test_images():
    kinds = [encoded("PNG"), encoded("PNG", "P"), encoded("JPEG"), encoded("GIF", "P"), encoded("BMP"), encoded("WEBP"),
             encoded("TIFF", compression="tiff_lzw"), encoded("TIFF", "F"), encoded("PPM"), encoded("TGA"),
             *deep_tiffs()]  # fmt: skip

    def use(data):
        image = decode_image(data, "x.png")
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3

    hold_out(use, rounds(1500, lambda rng: spoiled_bytes(rng.choice(kinds), rng), "images"))


def test_checkpoints(tmp_path):
    model = torch.nn.Linear(3, 2)
    stream = io.BytesIO()
    torch.save({"model": model.state_dict()}, stream)
    path = tmp_path / "checkpoint.pt"

    def use(data):
        path.write_bytes(data)
        sam2.load_checkpoint(model, path, "tiny")

    hold_out(use, rounds(300, lambda rng: spoiled_bytes(stream.getvalue(), rng), "checkpoints"))


def test_configs_of_models(tmp_path):
    def use(plain):
        (tmp_path / "config.json").write_bytes(plain)
        hub_folders.kind_of(tmp_path, dinov2.CLASSES)

    plain = {"model_type": "vit", "hidden_size": 32, "image_size": [1, 2]}

    def spoil(rng):
        return spoiled_bytes(json.dumps(spoiled_json(plain, rng)).encode(), rng)

    assert hold_out(use, rounds(300, spoil, "configs")) == 300 * ROUNDS
