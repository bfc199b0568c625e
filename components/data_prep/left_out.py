"""What of a data folder is not read: counted by ending, reason and folder; pictures among it are named."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

from PIL import Image

from components.data_prep.folder_tree import COUNTED_FILES, Folder, ending_of, paths_below
from components.data_prep.images import NEEDS_HEIC
from components.data_prep.source import shown
from components.shared.artifacts.dataset import LeftOut
from components.shared.logs import step_logger

_HEIC = (".heic", ".heics", ".heif", ".heifs", ".hif")
_RAW = (
    *(".3fr", ".ari", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc"),
    *(".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw"),
    ".x3f",
)
_OTHER_PICTURES = (".bpg", ".dcm", ".dicom", ".exr", ".jls", ".jxl", ".jxr", ".nii", ".svg", ".wdp", ".xcf")
# Formats that Pillow knows by their endings, and that are data, documents or films.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF"})
# What a file without such an ending is tried as. Formats that begin with anything, such as TGA, would take texts for
# pictures.
_BY_CONTENT = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000")
_TRIED_FIRST = 100
_NAMES_KEPT = 20
_ENDING_LENGTH = 20

_log = step_logger("data-prep")


@cache
def _reasons() -> dict[str, str]:
    """By the ending of pictures, why those that are no images here are not read."""
    registered = (ending for ending, name in Image.registered_extensions().items() if name not in _NO_PICTURES)
    convert = "is a picture of a kind that is not read, {}; convert it to JPEG or PNG"
    found = {ending: convert.format(ending) for ending in (*_RAW, *_OTHER_PICTURES, *registered)}
    return found | dict.fromkeys(_HEIC, NEEDS_HEIC)


def pictures_below(folder: Folder, path: str) -> dict[str, tuple[str, str]]:
    """Pictures in a class's folder and below it that are no images here: no decoder is there, or the ending is unknown.

    A picture of the same name as an image is none of them: cameras write a raw file beside a JPEG.

    Args:
        folder: The class's folder.
        path: Its path below the data folder.

    Returns:
        By path below the data folder: the real path, and why it is not read.
    """
    found: dict[str, tuple[str, str]] = {}
    unknown: dict[str, list[tuple[str, str]]] = {}
    for where, here in paths_below(folder, path):
        stems = {_stem(name) for name in here.images} if here.others else ()
        for name in here.others:
            file, real, ending = f"{where}/{name}", f"{here.real}/{name}", ending_of(name)
            if _stem(name) in stems:
                continue
            if reason := _reasons().get(ending):
                found[file] = real, reason
            else:
                unknown.setdefault(ending, []).append((file, real))
    for ending, files in unknown.items():
        # A folder may hold a million texts: all are opened only where the first of their ending show that one should.
        if any(_is_picture(real) for _, real in files[:_TRIED_FIRST]):
            reason = (
                f"is an image by its content, and its name has {_shown_ending(ending)}; give it the ending of its "
                "format, such as .jpg or .png"
            )
            found |= {file: (real, reason) for file, real in files if _is_picture(real)}
    return found


def count_left_out(root: Folder, images: Mapping[str, Collection[str]], used: Collection[str] = ()) -> LeftOut:
    """Count what is not read of a data folder, and log it.

    Args:
        root: The folder.
        images: Paths of images that are not used, by the reason.
        used: Real paths of files that are no images by their ending, and are accounted for all the same.
    """
    for reason, unused in images.items():
        if unused:
            _log.warning("not read, being %s: %d image(s), such as %s", reason, len(unused), shown(min(unused)))
    files: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    inside = 0
    for _, folder in paths_below(root):
        files.update(_shown_ending(ending_of(name)) for name in folder.others if f"{folder.real}/{name}" not in used)
        files.update(folder.counted)
        folders.update(shown(name)[:100] for name, _ in folder.left_out)
        inside += sum(count for _, count in folder.left_out)
    counted = LeftOut(
        files=_most_frequent(files, "other endings"),
        images={reason: len(unused) for reason, unused in sorted(images.items()) if unused},
        folders=_most_frequent(folders, "other folders"),
        files_in_folders=inside,
    )
    if counted.files:
        _log.info("not read, by ending: %s", ", ".join(f"{count} {name}" for name, count in counted.files.items()))
    if counted.folders:
        _log.info(
            "left out, being no data: the folders %s, with %d file(s)%s",
            ", ".join(f"{name} ({count})" for name, count in counted.folders.items()),
            inside,
            f"; of one folder at most {COUNTED_FILES} are counted" * (inside >= COUNTED_FILES),
        )
    return counted


def _shown_ending(ending: str) -> str:
    return shown(ending)[:_ENDING_LENGTH] or "no ending"


def _most_frequent(counts: Mapping[str, int], others: str) -> dict[str, int]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[_NAMES_KEPT:])
    return dict(ordered[:_NAMES_KEPT]) | ({others: rest} if rest else {})


def _stem(name: str) -> str:
    return name[: len(name) - len(ending_of(name))].casefold()


def _is_picture(real: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is for images that are read
        try:
            with Image.open(Path(real), formats=_BY_CONTENT):
                return True
        except Exception:  # damaged files make Pillow raise nearly anything
            return False
