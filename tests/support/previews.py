"""Images that a browser does not show, and what the App shows of a dataset."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import tifffile
from PIL import Image

FIELD = "ntt_preview"


def gradient(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, rows * 0 + 60], axis=2).astype(np.uint8)


def save(path, kind):
    path.parent.mkdir(exist_ok=True)
    pixels = gradient(90, 120)
    if kind == "tiff":
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(16, 16), bigtiff=True)
    elif kind == "wide":
        Image.fromarray(gradient(40, 5000)).save(path)
    elif kind == "deep":
        Image.fromarray(pixels[..., 1].astype(np.uint16) * 8).save(path)
    elif kind == "see-through":
        alpha = np.full((90, 5000, 1), 255, np.uint8)
        alpha[:45] = 0
        Image.fromarray(np.concatenate([gradient(90, 5000), alpha], axis=2)).save(path)
    else:
        Image.fromarray(pixels).save(path)
    return fo.Sample(str(path), kind=kind)


def shown(dataset):
    dataset.reload()
    app = dataset.app_config
    return list(app.media_fields), app.grid_media_field, app.modal_media_field, bool(app.media_fallback)
