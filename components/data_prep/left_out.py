"""What of a data folder is not read: counted, named, and checked against what may be left out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path

from PIL import Image

from components.data_prep.folder_tree import COUNTED_FILES, Folder, ending_of, paths_below
from components.data_prep.images import image_extensions
from components.data_prep.source import Pictures, Source, shown
from components.shared.artifacts.dataset import LeftOut
from components.shared.errors import DataError
from components.shared.logs import step_logger

_HEIC = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
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
_FOLDERS_SHOWN = 3
_NO_ENDING = "no ending"

_log = step_logger("data-prep")


@cache
def picture_endings() -> frozenset[str]:
    """Endings of pictures; one that is not read here is a picture that its class would lack, which no text is."""
    registered = (ending for ending, name in Image.registered_extensions().items() if name not in _NO_PICTURES)
    return frozenset({*_HEIC, *_RAW, *_OTHER_PICTURES, *registered})


def count_left_out(root: Folder, images: Mapping[str, Collection[str]], used: Collection[str] = ()) -> LeftOut:
    """Count what is not read of a data folder, and log why images are not used.

    Args:
        root: The folder.
        images: Paths of images that are not used, by the reason.
        used: Real paths of files that are no images by their ending, and are read all the same.
    """
    for reason, unused in images.items():
        if unused:
            _log.warning("not read, being %s: %d image(s), such as %s", reason, len(unused), shown(min(unused)))
    files: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    inside = 0
    for _, folder in paths_below(root):
        files.update(_shown_ending(name) for name in folder.others if f"{folder.real}/{name}" not in used)
        files.update({"hidden": folder.hidden, "system files": folder.system, "no plain files": len(folder.specials)})
        folders.update(shown(name)[:100] for name, _ in folder.left_out)
        inside += sum(count for _, count in folder.left_out)
    return LeftOut(
        files=_most_frequent(files, "other endings"),
        images={reason: len(unused) for reason, unused in sorted(images.items()) if unused},
        folders=_most_frequent(folders, "other folders"),
        files_in_folders=inside,
    )


def log_left_out(counted: LeftOut) -> None:
    """Log which files and folders are not read."""
    if counted.files:
        _log.info("not read, by ending: %s", _as_text(counted.files))
    if counted.folders:
        _log.info(
            "left out, being no data: the folders %s, with %d file(s)%s",
            ", ".join(f"{name} ({count})" for name, count in counted.folders.items()),
            counted.files_in_folders,
            f"; of one folder at most {COUNTED_FILES} are counted" * (counted.files_in_folders >= COUNTED_FILES),
        )


def _shown_ending(name: str) -> str:
    return shown(ending_of(name))[:_ENDING_LENGTH] or _NO_ENDING


def _as_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _most_frequent(counts: Mapping[str, int], others: str) -> dict[str, int]:
    ordered = sorted(((name, count) for name, count in counts.items() if count), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[_NAMES_KEPT:])
    return dict(ordered[:_NAMES_KEPT]) | ({others: rest} if rest else {})


def lost_pictures(folder: Folder, path: str, read: int) -> Pictures:
    """Pictures in a class's folder and below it that are not read, since no decoder is there or the ending is unknown.

    A picture of the same name as an image that is read is none of them: cameras write a raw file beside a JPEG.

    Args:
        folder: The class's folder.
        path: Its path below the data folder.
        read: How many images of it are read.
    """
    folders = dict(paths_below(folder, path))
    unknown: dict[str, list[tuple[str, str]]] = {}
    lost: list[tuple[str, str]] = []
    for where, here in folders.items():
        stems = {_stem(name) for name in here.images} if here.others else ()
        for name in (name for name in here.others if _stem(name) not in stems):
            ending = ending_of(name)
            (lost if ending in picture_endings() else unknown.setdefault(ending, [])).append((where, name))

    def pictures(files: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(where, name) for where, name in files if _is_picture(Path(folders[where].real, name))]

    for files in unknown.values():
        # A folder may hold a million texts: they are opened only where the first of their ending show that one should.
        if first := pictures(files[:_TRIED_FIRST]):
            lost += first + pictures(files[_TRIED_FIRST:])
    endings = Counter(_shown_ending(name) for _, name in lost)
    return Pictures(path, dict(endings), min((f"{where}/{name}" for where, name in lost), default=""), read)


def _stem(name: str) -> str:
    return name[: len(name) - len(ending_of(name))].casefold()


def _is_picture(file: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is for images that are read
        try:
            with Image.open(file, formats=_BY_CONTENT):
                return True
        except Exception:  # damaged files make Pillow raise nearly anything
            return False


def pictures_instead(pictures: Collection[Pictures]) -> str:
    """What there is in place of images that are missing, for the end of a message."""
    return f"; {_named(pictures)} cannot be read: {_advice(pictures)}" if pictures else ""


def check_pictures(source: Source, allowed: float) -> None:
    """Check the pictures that are not read for their ending against the share that may be unreadable.

    Raises:
        DataError: They are too many of all, or more than are read of one class.
    """
    if not source.pictures:
        return
    lost = sum(found.count for found in source.pictures)
    share = lost / (lost + source.count)
    mostly = [found for found in source.pictures if found.count > found.read and found.share > allowed]
    if mostly or share > allowed:
        of = f"{mostly[0].share:.2%} of {shown(mostly[0].path)}" if mostly else f"{share:.2%} of all"
        raise DataError(
            f"{shown(source.path)}: {lost} picture(s) cannot be read, being {_named(source.pictures)}; they are {of}, "
            f"and max_unreadable is {allowed:.2%}; {_advice(source.pictures)}, or raise max_unreadable to leave them "
            "out; the images are not opened yet, and those that cannot be decoded will count as well"
        )
    _log.warning("%d picture(s) are not read: %s; %s", lost, _named(source.pictures), _advice(source.pictures))


def _advice(pictures: Iterable[Pictures]) -> str:
    endings = {ending for found in pictures for ending in found.endings}
    convert = "convert them to JPEG or PNG"
    if _HEIC & endings and ".heic" not in image_extensions():
        return f"HEIC is read after pip install 'shutterline[heic]'; or {convert}"
    if _NO_ENDING in endings or not picture_endings() & endings:
        return "give those that are images the ending of their format, such as .jpg or .png"
    return convert


def _named(pictures: Collection[Pictures]) -> str:
    """How many of which ending, and where, such as ``20 .heic in cat (such as cat/IMG_0.HEIC)``."""
    parts = [
        f"{_as_text(_most_frequent(found.endings, 'other endings'))} in {shown(found.path)} "
        f"(such as {shown(found.example)})"
        for found in pictures
    ]
    more = len(parts) - _FOLDERS_SHOWN
    return ", ".join(parts[:_FOLDERS_SHOWN]) + (f" and {more} more" if more > 0 else "")
