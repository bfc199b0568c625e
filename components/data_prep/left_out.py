"""What of a data folder is not read: counted, named, and held against what may be left out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from PIL import Image

from components.data_prep.folder_tree import COUNTED_FILES, Folder, ending_of, paths_below
from components.data_prep.images import image_extensions
from components.data_prep.source import Pictures, shown
from components.shared.artifacts.dataset import LeftOut
from components.shared.logs import step_logger

_HEIC = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
_RAW = (
    *(".3fr", ".ari", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc"),
    *(".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw"),
    ".x3f",
)
# Formats that Pillow knows by their endings, and that are data, documents or films.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF"})
_OTHER_PICTURES = frozenset(
    {*_HEIC, *_RAW, *(".bpg", ".dcm", ".dicom", ".exr", ".jls", ".jxl", ".jxr", ".nii", ".svg", ".wdp", ".xcf")}
)
# What a file without such an ending is tried as. Formats that begin with anything, such as TGA, would take texts for
# pictures.
_BY_CONTENT = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000")
_TRIED_FIRST = 100
_NAMES_KEPT = 20
_ENDING_LENGTH = 20
_FOLDERS_SHOWN = 3

NO_ENDING, HIDDEN, SYSTEM, SPECIAL = "no ending", "hidden", "system files", "no plain files"
IN_NO_CLASS = "in no class folder"
IN_NO_SPLIT = "in no split's folder"
NOT_IN_TABLE = "in no table"
BESIDE_IDX = "beside IDX files"

_log = step_logger("data-prep")


@cache
def picture_endings() -> frozenset[str]:
    """Endings of pictures; one that is not read here is a picture that its class would lack, which no text is."""
    registered = Image.registered_extensions().items()
    return _OTHER_PICTURES | {ending for ending, name in registered if name not in _NO_PICTURES}


class LeftOutCounter:
    """Counts what is not read of one data folder, and says in the log why images are not used.

    Args:
        root: The folder.
    """

    def __init__(self, root: Folder) -> None:
        self._root = root
        self._images: Counter[str] = Counter()

    def add_images(self, reason: str, files: Collection[str]) -> None:
        """Count images that are not used, for one of the reasons above."""
        if files:
            self._images[reason] += len(files)
            _log.warning("not read, being %s: %d image(s), such as %s", reason, len(files), shown(min(files)))

    def counted(self, used: Collection[str] = ()) -> LeftOut:
        """All counts; `used` are real paths of files that are no images by their ending, and are read all the same."""
        files: Counter[str] = Counter()
        folders: Counter[str] = Counter()
        inside = 0
        for folder in self._root.below():
            for name in folder.others:
                if not used or f"{folder.real}/{name}" not in used:
                    files[shown_ending(name)] += 1
            files[HIDDEN] += folder.hidden
            files[SYSTEM] += folder.system
            files[SPECIAL] += len(folder.specials)
            folders.update(shown(name)[:100] for name, _ in folder.left_out)
            inside += sum(count for _, count in folder.left_out)
        return LeftOut(
            files=_most_frequent(files, "other endings"),
            images=dict(sorted(self._images.items())),
            folders=_most_frequent(folders, "other folders"),
            files_in_folders=inside,
        )


def shown_ending(name: str) -> str:
    """A file name's ending, short and printable."""
    return shown(ending_of(name))[:_ENDING_LENGTH] or NO_ENDING


def log_left_out(counted: LeftOut) -> None:
    """Say in the log which files and folders are not read."""
    if counted.files:
        _log.info("not read, by ending: %s", in_words(counted.files))
    if counted.folders:
        most = f"; of one folder at most {COUNTED_FILES} are counted"
        _log.info(
            "left out, being no data: the folders %s, with %d file(s)%s",
            ", ".join(f"{name} ({count})" for name, count in counted.folders.items()),
            counted.files_in_folders,
            most if counted.files_in_folders >= COUNTED_FILES else "",
        )


def in_words(counts: dict[str, int]) -> str:
    """Counts as a list, such as ``20 .heic, 3 .pdf``."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _most_frequent(counts: Counter[str], others: str) -> dict[str, int]:
    """The most frequent of them, most frequent first, and all the others together."""
    ordered = sorted(((name, count) for name, count in counts.items() if count), key=lambda item: (-item[1], item[0]))
    kept = dict(ordered[:_NAMES_KEPT])
    if rest := sum(count for _, count in ordered[_NAMES_KEPT:]):
        kept[others] = rest
    return kept


def lost_pictures(folder: Folder, path: str) -> Pictures:
    """Pictures in a class's folder and below it that are not read, since no decoder is there or the ending is unknown.

    A picture of the same name as an image that is read is none of them: cameras write a raw file beside a JPEG.

    Args:
        folder: The class's folder.
        path: Its path below the data folder.
    """
    folders = dict(paths_below(folder, path))
    unknown: dict[str, list[tuple[str, str]]] = {}
    lost: list[tuple[str, str]] = []
    for where, here in folders.items():
        for name in _candidates(here):
            known = ending_of(name) in picture_endings()
            (lost if known else unknown.setdefault(ending_of(name), [])).append((where, name))
    for files in unknown.values():
        # A folder may hold a million texts: they are opened only where the first of their ending show that one should.
        first = [file for file in files[:_TRIED_FIRST] if _is_picture(folders[file[0]].real, file[1])]
        if first:
            lost += [*first, *(file for file in files[_TRIED_FIRST:] if _is_picture(folders[file[0]].real, file[1]))]
    endings = Counter(shown_ending(name) for _, name in lost)
    return Pictures(path, dict(endings), min((f"{where}/{name}" for where, name in lost), default=""))


def _candidates(folder: Folder) -> Iterable[str]:
    """Files that are not read and have no image of the same name beside them."""
    if not folder.others:
        return ()
    names = {_stem(name) for name in folder.images}
    return [name for name in folder.others if _stem(name) not in names]


def _stem(name: str) -> str:
    return name[: len(name) - len(ending_of(name))].casefold()


def _is_picture(folder: str, name: str) -> bool:
    """Whether a file's content is that of an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is for images that are read
        try:
            with Image.open(Path(folder, name), formats=_BY_CONTENT):
                return True
        except Exception:  # damaged files make Pillow raise nearly anything
            return False


def advice(pictures: Iterable[Pictures]) -> str:
    """What to do about pictures that are not read, by their endings."""
    endings = {ending for found in pictures for ending in found.endings}
    convert = "convert them to JPEG or PNG"
    if _HEIC & endings and ".heic" not in image_extensions():
        return f"HEIC is read after pip install 'shutterline[heic]'; or {convert}"
    if NO_ENDING in endings or not picture_endings() & endings:
        return "give those that are images the ending of their format, such as .jpg or .png"
    return convert


def pictures_in_words(pictures: Iterable[Pictures]) -> str:
    """How many of which ending, and where, such as ``20 .heic in cat (such as cat/IMG_0.HEIC)``."""
    parts = [
        f"{in_words(_most_frequent(Counter(found.endings), 'other endings'))} in {shown(found.path)} (such as "
        f"{shown(found.example)})"
        for found in pictures
    ]
    return ", ".join(parts[:_FOLDERS_SHOWN]) + f" and {len(parts) - _FOLDERS_SHOWN} more" * (
        len(parts) > _FOLDERS_SHOWN
    )
