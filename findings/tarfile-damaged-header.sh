#!/usr/bin/env bash
# What Python's tarfile lists of an archive in which one byte of a header is damaged, beside GNU tar and zipfile.
#
# Versions: Python 3.11.7's tarfile and zipfile, GNU tar 1.34. Seen: 2026-11-29, Linux x86-64.
#
# Guess, before its source was read: a header whose checksum is wrong raises tarfile.ReadError wherever it is, as GNU tar ends
# with 2; a zip archive is found damaged by a wrong byte in one of its local headers when that member is read.
#
# What the guess missed: only the first header raises. A wrong checksum later, and even text in place of a header, counts
# as the end of the archive: getnames() and extractall() leave out all that follows, without an error, also in a
# .tar.gz whose own checksum is right. ignore_zeros=True goes on behind it, and then leaves the one out. zipfile and GNU
# tar are as guessed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

cat >program.py <<'PY'
import gzip
import io
import subprocess
import tarfile
import zipfile

differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def names(data, **options):
    try:
        with tarfile.open(fileobj=io.BytesIO(data), **options) as tar:
            return tar.getnames()
    except tarfile.ReadError as error:
        return str(error)


stream = io.BytesIO()
with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
    for number in range(4):
        info = tarfile.TarInfo(f"{number}.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
whole = stream.getvalue()  # a header and a block of content for each member, 1,024 bytes


def damaged(member):
    data = bytearray(whole)
    data[1024 * member + 100] ^= 1  # in its mode
    return bytes(data)


print(tarfile.__name__, tarfile.version)
see("whole", names(whole), ["0.txt", "1.txt", "2.txt", "3.txt"])
see("first header", names(damaged(0), mode="r:"), "bad checksum")
see("third header", names(damaged(2)), ["0.txt", "1.txt"])
see("third header, .tar.gz", names(gzip.compress(damaged(2))), ["0.txt", "1.txt"])
see("third header, as a stream", names(damaged(2), mode="r|"), ["0.txt", "1.txt"])
see("text for the third header", names(whole[:2048] + b"text" * 128 + whole[2560:]), ["0.txt", "1.txt"])
see("third header, ignore_zeros", names(damaged(2), ignore_zeros=True), ["0.txt", "1.txt", "3.txt"])
with open("damaged.tar", "wb") as file:
    file.write(damaged(2))
listed = subprocess.run(["tar", "tf", "damaged.tar"], capture_output=True, text=True)
see("third header, GNU tar", (listed.stdout.split(), listed.returncode), (["0.txt", "1.txt", "3.txt"], 2))

stream = io.BytesIO()
with zipfile.ZipFile(stream, "w") as archive:
    for number in range(4):
        archive.writestr(f"{number}.txt", "x")
data = bytearray(stream.getvalue())
data[data.index(b"2.txt") - 30] ^= 1
try:
    zipfile.ZipFile(io.BytesIO(data)).read("2.txt")
    told = "nothing"
except zipfile.BadZipFile as error:
    told = str(error)
see("third header, zip", told, "Bad magic number for file header")

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 60 "${PYTHON:-python3}" program.py
