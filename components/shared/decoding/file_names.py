"""What the name of a file or folder shows: an image, another picture, something of a system, or no picture."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from PIL import Image

from components.shared.decoding.images import NEEDS_HEIC, image_extensions
from components.shared.text import shown

# What file systems, file servers and tools put beside people's files: thumbnails, deleted files, snapshots. Compared
# without regard to case, since Windows writes $RECYCLE.BIN and $Recycle.Bin. So are folders with a leading dot.
_SYSTEM_FOLDERS = frozenset(
    {
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@sharebin", "@tmp"),  # Synology, QNAP
        *("__macosx", "network trash folder", "temporary items"),  # macOS
        *("$recycle.bin", "system volume information"),  # Windows
        *("lost+found", "__pycache__"),
    }
)
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_HEIC = (".heic", ".heics", ".heif", ".heifs", ".hif")
_RAW = (
    *(".3fr", ".ari", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc"),
    *(".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw"),
    ".x3f",
)
_OTHER_PICTURES = (".bpg", ".dcm", ".dicom", ".exr", ".jls", ".jxl", ".jxr", ".nii", ".svg", ".wdp", ".xcf")
# Formats that Pillow knows by their endings, and that are data, documents or films.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF"})


def is_no_data_folder(name: str) -> bool:
    """Whether a folder is hidden, or one that systems put beside people's data."""
    return name.startswith(".") or name.casefold() in _SYSTEM_FOLDERS


def left_out_as(name: str) -> str:
    """What a file counts as that is left out by its name; empty: it is not."""
    if name == ".DS_Store" or name.startswith("._"):
        return "system files"
    if name.casefold() in _SYSTEM_FILES and ending_of(name) not in image_extensions():
        return "system files"
    return "hidden" if name.startswith(".") else ""


def ending_of(name: str) -> str:
    """A file name's ending in lower case with its dot; empty where it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a text for each of a million files


def why_not_read(ending: str) -> str | None:
    """Why a picture with an ending is no image here; None: it is an image, or no picture."""
    return _reasons().get(ending)


@cache
def _reasons() -> dict[str, str]:
    registered = (ending for ending, name in Image.registered_extensions().items() if name not in _NO_PICTURES)
    convert = "is a picture of a kind that is not read, {}; convert it to JPEG or PNG"
    found = {ending: convert.format(ending) for ending in (*_RAW, *_OTHER_PICTURES, *registered)}
    found |= dict.fromkeys(_HEIC, NEEDS_HEIC)
    return {ending: reason for ending, reason in found.items() if ending not in image_extensions()}


def leads_out_of(root: str | Path, what: str) -> str:
    """Why a link out of a folder is not followed."""
    return f"is a link that leads out of {shown(root)}; copy {what}, or give --follow-links"
