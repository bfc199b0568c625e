"""Names of split folders, in any case and common spelling.

A split's name is one of :data:`WORDS`, alone or with one of :data:`COMPANIONS` before or after it: ``train``,
``Testing``, ``VAL``, ``training_set``, ``Test Data``, ``images-train``. Anything else may be a class: ``bullet train``.
"""

from __future__ import annotations

import re

from components.shared.artifacts.dataset import SplitName

WORDS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "validate", "valid", "val", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
COMPANIONS = ("set", "data", "dataset", "split", "image", "images", "img", "imgs")

_SPLIT_OF: dict[str, SplitName] = {word: split for split, words in WORDS.items() for word in words}
_COMPANION = "|".join(COMPANIONS)
_NAME = re.compile(rf"(?:(?:{_COMPANION})[-_. ]?)?({'|'.join(_SPLIT_OF)})(?:[-_. ]?(?:{_COMPANION}))?")


def split_of(name: str) -> SplitName | None:
    """The split that a folder's name means, if it means one."""
    match = _NAME.fullmatch(name.casefold())
    return _SPLIT_OF[match[1]] if match else None


def split_in(name: str) -> SplitName | None:
    """The split that one word of a name means, as in ``seg_train`` or ``val2017``; None if none or several do."""
    found = {_SPLIT_OF[word] for word in re.findall(r"[^\W\d_]+", name.casefold()) if word in _SPLIT_OF}
    return found.pop() if len(found) == 1 else None
