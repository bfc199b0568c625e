#!/usr/bin/env bash
# Which folders datasets takes for splits: by the case of their names.
#
# Versions: datasets 5.2.0, Pillow 13.0.0.
# Seen: 2026-11-29, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: Train/ and Test/ are a train and a test split, as train/ and test/ are: the endings of
# images count in any case, and torchvision's users, who name the folders themselves, write both.
#
# What the guess missed: the key words count in small letters alone. Where no folder has one, as with Train/ and Test/,
# all images are one split, train, which is then trained on with the test images in it; where one has, as with train/ and
# Test/, the others are left out. Both without a warning, with the classes right. trainset/ and testset/ are none either,
# train_set/ and test_set/ are.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check datasets==5.2.0 Pillow==13.0.0

cat >case.py <<'EOF'
import pathlib, sys

import datasets
from PIL import Image

datasets.disable_progress_bars()
SEEN = {
    ("train", "test"): {"train": 2, "test": 2},
    ("train_set", "test_set"): {"train": 2, "test": 2},
    ("Train", "Test"): {"train": 4},
    ("TRAIN", "TEST"): {"train": 4},
    ("trainset", "testset"): {"train": 4},
    ("train", "Test"): {"train": 2},
}
differs = False
for splits, before in SEEN.items():
    data = pathlib.Path("data", "-".join(splits))
    for split in splits:
        for name in ("cat", "dog"):
            folder = data / split / name
            folder.mkdir(parents=True)
            Image.new("L", (4, 4)).save(folder / "1.png")
    found = datasets.load_dataset("imagefolder", data_dir=str(data))
    seen = {split: len(rows) for split, rows in found.items()}
    print(f"{splits[0]}/ and {splits[1]}/, two images in each: {seen}")
    assert all(rows.features["label"].names == ["cat", "dog"] for rows in found.values())
    if seen != before:
        print(f"this has changed: it was {before}", file=sys.stderr)
        differs = True
sys.exit(differs)
EOF
HF_HUB_OFFLINE=1 HF_HOME="$work/home" venv/bin/python case.py
echo 'as it was seen'
