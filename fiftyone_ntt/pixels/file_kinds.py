"""What a file is that was taken for an image and is none, in words of the person who has the file.

And whether a PNG has EXIF data.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from fiftyone_ntt.pixels.extra_readers import how_to_install

_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF; export its pages as PNG"),
    (4, b"ftyphei", "a HEIC photo; pip install pillow-heif, or export it as JPEG"),
    (4, b"ftyphev", "a HEIC photo; pip install pillow-heif, or export it as JPEG"),
    (4, b"ftypmif1", "a HEIF photo; pip install pillow-heif, or export it as JPEG"),
    (4, b"ftypmsf1", "a HEIF photo; pip install pillow-heif, or export it as JPEG"),
    (4, b"ftypavi", "an AVIF image that Pillow cannot read here; pip install -U pillow, or export it as JPEG"),
    (4, b"ftypcrx", "the raw file of a camera (CR3); export it as JPEG or TIFF"),
    (4, b"ftypqt", "a video (QuickTime); take frames of it first"),
    (4, b"ftypM4A", "sound (M4A)"),
    (4, b"ftyp", "a video (MP4); take frames of it first"),
    (4, b"moov", "a video (QuickTime); take frames of it first"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM); take frames of it first"),
    (8, b"AVI ", "a video (AVI); take frames of it first"),
    (8, b"WAVE", "sound (WAV)"),
    (0, b"FLV\x01", "a video (FLV); take frames of it first"),
    (0, b"\x30\x26\xb2\x75", "a video (WMV); take frames of it first"),
    (0, b"\0\0\x01\xba", "a video (MPEG); take frames of it first"),
    (0, b"\0\0\x01\xb3", "a video (MPEG); take frames of it first"),
    (188, b"G", "a video (MPEG transport stream); take frames of it first"),
    (0, b"OggS", "a video or sound (Ogg)"),
    (0, b"ID3", "sound (MP3)"),
    (0, b"\xff\x0a", "a JPEG XL image; export it as PNG or JPEG"),
    (4, b"JXL ", "a JPEG XL image; export it as PNG or JPEG"),
    (128, b"DICM", "a DICOM file; export it as PNG or TIFF (e.g. with pydicom)"),
    (344, b"n+1\0", "a NIfTI volume; export its slices as PNG or TIFF"),
    (0, b"\x89HDF", "an HDF5 file; export its images as PNG or TIFF"),
    (0, b"\x93NUMPY", "a NumPy array; save it as PNG or TIFF"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image; export it as TIFF or PNG"),
    (0, b"#?R", "a Radiance HDR image; export it as TIFF or PNG"),
    (0, b"FUJIFILMCCD-RAW", "the raw file of a camera (RAF); export it as JPEG or TIFF"),
    (0, b"IIU\0", "the raw file of a camera (RW2); export it as JPEG or TIFF"),
    (0, b"IIRO", "the raw file of a camera (ORF); export it as JPEG or TIFF"),
    (0, b"8BPS", "a Photoshop file that cannot be read; export it as PNG or TIFF"),
    (0, b"gimp xcf", "a GIMP file; export it as PNG or TIFF"),
    (0, b"MATLAB 5.0", "a MATLAB file; export its images as PNG or TIFF"),
    (0, b"AT&TFORM", "a DjVu document; export its pages as PNG"),
    (0, b"%!PS", "a PostScript drawing; export it as PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript drawing; export it as PNG"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile, which is a drawing; export it as PNG"),
    (40, b" EMF", "a Windows metafile, which is a drawing; export it as PNG"),
    (0, b"PK\x03\x04", "a ZIP archive; unpack it"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive; unpack it"),
    (0, b"Rar!", "a RAR archive; unpack it"),
    (257, b"ustar", "a tar archive; unpack it"),
    (0, b"ply\n", "a 3D mesh (PLY)"),
    (0, b"version https://git-lfs", "a Git LFS pointer in place of the file; run git lfs pull"),
)
"""Offset, bytes and what a file with these bytes there is; the first that fits counts."""
_TEXTS: tuple[tuple[str, str], ...] = (
    (r"(<\?xml.*?)?(<!--.*?-->|<!DOCTYPE svg.*?>|\s)*<svg\b", "an SVG drawing; export it as PNG"),
    (r"(<\?xml.*?)?(<!--.*?-->|\s)*<(!doctype )?html\b", "an HTML page (a download that failed?); get it again"),
    (r"<\?xml", "an XML file (a download that failed?)"),
    (r"[\[{]", "a JSON file (a download that failed?)"),
)
_EXIF_AS_TEXT = b"Raw profile type exif"
_FORMATS = ((rb"\xff\xd8\xff", "JPEG"), (rb"\x89PNG", "PNG"), (rb"GIF8", "GIF"), (rb"RIFF....WEBP", "WebP"),
            (rb"II[*+]\0|MM\0[*+]", "TIFF"))  # fmt: skip


def _kind(data: bytes) -> str | None:
    """What a file is, if it is known and no image that could be read."""
    for offset, magic, kind in _KINDS:
        if data.startswith(magic, offset) and (magic != b"G" or data[:1] == data[376:377] == magic):
            return kind
    if not data:
        return "an empty file; get it again"
    if not data.strip(b"\0"):
        return f"{len(data)} zero bytes (a copy or download that never ended?); get it again"
    try:
        text = data[:2000].decode("utf-8-sig", "strict" if len(data) < 2000 else "ignore").lstrip()
    except UnicodeDecodeError:
        return None
    for pattern, kind in _TEXTS:
        if re.match(pattern, text, re.IGNORECASE | re.DOTALL):
            return kind
    return None


def diagnosis(data: bytes, error: Exception) -> str:
    """Why a file could not be decoded, in words of the person who has the file."""
    kind = _kind(data)
    if kind is not None:
        return f"expected an image, got {kind}"
    name = next((name for magic, name in _FORMATS if re.match(magic, data, re.DOTALL)), None)
    if isinstance(error, UnidentifiedImageError):
        if name is not None:
            return f"a truncated or damaged {name}; get it again"
        return "its format is not known; expected an image such as JPEG, PNG, TIFF or WebP"
    reason = reason_of(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"{reason}; it can be read in tiles (large_images='auto'): {how_to_install('pyvips')}"
    if isinstance(error, MemoryError):
        return reason
    state = "truncated" if "truncated" in reason.lower() or isinstance(error, EOFError) else "damaged"
    return f"a {state} {name or 'image'}: {reason}; get it again"


def has_exif(stream: BinaryIO) -> bool:
    """Whether a PNG has EXIF data, which may stand behind its pixels; goes from chunk to chunk and decodes none."""
    place, found = stream.tell(), False
    stream.seek(8)
    while not found and len(head := stream.read(8 + len(_EXIF_AS_TEXT))) >= 8 and head[4:8] != b"IEND":
        found = head[4:8] == b"eXIf" or head[8:] == _EXIF_AS_TEXT
        stream.seek(int.from_bytes(head[:4], "big") + 12 - len(head), 1)
    stream.seek(place)
    return found


def reason_of(error: Exception) -> str:
    """What an error says, without the path."""
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # the path is in the message already
    return " ".join(str(error).split()) or type(error).__name__
