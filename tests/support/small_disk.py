"""A process on a disk that is nearly full: what writers say there, and what lies in the folder afterwards.

A real small file system is mounted where a user may do that (a mount of the process's own); elsewhere no file may be
larger than it would be. ``on_small_disk`` starts this file as a program, which prints what it saw.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BYTES = 1_000_000
"""What fits; ``NOISE`` x ``NOISE`` pixels of noise do not."""
NOISE = 3200


def on_small_disk(folder, what, **settings):
    """What a function of this file returns in a process of its own, with ``folder`` on a small disk."""
    folder.mkdir()
    command = [sys.executable, str(Path(__file__)), str(folder), what, json.dumps(settings)]
    mount = f'mount -t tmpfs -o size={BYTES} tmpfs "$0" && exec "$@"'
    if _can_mount(folder):
        command = ["unshare", "-Urm", "sh", "-c", mount, str(folder), *command, "mounted"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def _can_mount(folder):
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", str(folder)]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def said(call):
    """The class and the text of what a call raises."""
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return [None, ""]


def noise(seed=0, side=NOISE):
    import numpy as np

    return np.random.default_rng(seed).random((side, side)) > 0.5


def masks(folder, name):
    """Masks go to files, and that of the second of four samples does not fit; a run begun with ``begin_pass``."""
    import fiftyone as fo
    import numpy as np

    from fiftyone_ntt.runs import session
    from fiftyone_ntt.runs.history import begin_pass
    from fiftyone_ntt.runs.record import RunRecord, register

    os.environ["FIFTYONE_NTT_MASKS"] = str(folder / "masks")
    session.COMFORTABLE_DOCUMENT = 0
    dataset = fo.load_dataset(name)
    record = RunRecord("run", "found", ["cat"], "lite", "0" * 64, {}, {}, 4)
    begin_pass(dataset, record, False)
    register(dataset, record)
    writer = session.LabelWriter(dataset, "found", "run")
    small = np.eye(40, dtype=bool)
    for i, sample_id in enumerate(dataset.values("id")):
        labels = [
            fo.Detection(label="cat", bounding_box=[0, 0, 1, 1], mask=mask, predicted_iou=0.9)
            for mask in ([small, noise()] if i == 1 else [small])
        ]
        writer.add(sample_id, fo.Detections(detections=labels).to_dict(), None, 0.1)
    writer.save()
    dataset.reload()
    written = [label for sample in dataset for label in (sample["found"].detections if sample["found"] else [])]
    return {
        "states": dataset.values("found_status.state"),
        "errors": dataset.values("found_status.error"),
        "refused": writer.refused,
        "unwritten": writer.unwritten,
        "same": [bool((label.get_mask() > 0).tolist() == small.tolist()) for label in written],
        "paths": [label.mask_path for label in written],
        "files": files_in(folder),
    }


def export(folder, name, format, media):
    import fiftyone as fo

    from fiftyone_ntt.review.export import export_labels

    dataset = fo.load_dataset(name)
    error = said(lambda: export_labels(dataset, folder / "out", "ntt", format=format, export_media=media))
    return {"error": error, "files": files_in(folder)}


def export_twice(folder, name, format):
    """An export onto the disk itself, whose folder cannot be renamed, and another one over it."""
    import fiftyone as fo

    from fiftyone_ntt.review.export import export_labels

    if not folder.is_mount():
        return None
    dataset, errors, files = fo.load_dataset(name), [], []
    for overwrite in (False, True):
        export = {"format": format, "overwrite": overwrite}
        errors.append(said(lambda export=export: export_labels(dataset, folder, "ntt", **export))[1])
        files.append(sorted(files_in(folder)))
    return {"errors": errors, "files": files, "hidden": [path.name for path in folder.glob(".*")]}


def bank(folder):
    """A small bank, then one in its place that does not fit."""
    import numpy as np

    from fiftyone_ntt.core import MemoryBank

    vectors = np.random.default_rng(0).random((2000, 300), np.float32)
    ids = [str(i) for i in range(len(vectors))]
    small, large = (MemoryBank(["a"], vectors[:n], [0] * n, ids[:n]) for n in (2, len(vectors)))
    small.save(folder / "bank")
    before = files_in(folder)
    error = said(lambda: large.save(folder / "bank"))
    same = MemoryBank.load(folder / "bank").content_hash == small.content_hash
    return {"error": error, "files": files_in(folder), "before": before, "same": same}


def index(folder):
    """An image of the candidate cache that does not fit, and one that does."""
    from fiftyone_ntt.candidates import store
    from fiftyone_ntt.candidates.file_format import IndexSettings

    usage = shutil.disk_usage("/")
    shutil.disk_usage = lambda _: usage._replace(free=10**12)  # as if another process filled it right after
    small = store.to_bytes
    kept = store.IndexStore(folder / "index", IndexSettings("lite", {"a": 1}))
    errors = []
    for size in (2 * BYTES, 10_000):
        store.to_bytes = lambda *_, size=size: os.urandom(size)
        errors.append(said(lambda size=size: kept.put(f"{size:064x}", None)))
    store.to_bytes = small
    return {"errors": errors, "files": files_in(folder)}


def plugin(folder):
    """A copy of the plugin, which takes more than there is."""
    from fiftyone_ntt.cli import plugin_install

    (folder / "full").write_bytes(bytes(BYTES - 200_000))
    error = said(lambda: plugin_install.install(folder / "plugins", copy=True))
    return {"error": error, "usable": plugin_install.status(folder / "plugins").usable, "files": files_in(folder)}


def weights(folder):
    """A weights file that does not fit."""
    import io

    from fiftyone_ntt.models import download
    from fiftyone_ntt.models.specs import WeightsFile

    content, file = io.BytesIO(bytes(2 * BYTES)), WeightsFile("model.bin", None)
    error = said(lambda: download._store(content, file, folder / "weights"))
    return {"error": error, "files": files_in(folder)}


def pictures(folder):
    """A file that fits, one that does not, and two that belong together of which one does not."""
    import numpy as np

    from fiftyone_ntt.pixels.drawing import encode_png
    from fiftyone_ntt.pixels.files import write_file, write_files

    large = encode_png(noise())
    write_file(folder / "a" / "small.png", encode_png(np.zeros((9, 9), np.uint8)))
    errors = [
        said(lambda: write_file(folder / "large.png", large)),
        said(lambda: write_file(folder / "a" / "small.png", large)),
        said(lambda: write_files({folder / "b.json": "{}", folder / "b.bin": large})),
    ]
    return {"errors": errors, "files": files_in(folder)}


if __name__ == "__main__":
    place, function, given, *mounted = sys.argv[1:]
    # What else this process writes (bytecode, what FiftyOne notes at home) lies elsewhere.
    sys.dont_write_bytecode = True
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, BYTES))
    os.chdir(tempfile.gettempdir())
    sys.stdout.write("\n" + json.dumps(globals()[function](Path(place), **json.loads(given))))
