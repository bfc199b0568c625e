#!/usr/bin/env bash
# What webdataset reads of .tar.gz shards whose checksum is wrong, or that consist of several gzip members.
#
# Versions: webdataset 1.0.2 on Python 3.11.7's tarfile; datasets 5.2.0 reads the same (not run here, as it is large).
# Seen: 2026-11-29, Linux x86-64.
#
# Guess, before the first run: a shard whose CRC-32 does not fit its bytes raises, as gzip does; of a shard in several
# gzip members (as bgzip and `cat a.gz b.gz` make them, and as RFC 1952 allows) all are read; a plain tar that is cut off
# between two members is read without an error, as far as it goes.
#
# What the guess missed: the first two. tarfile's stream mode, by which both libraries read, compares no checksum, so a
# changed bit in a label is another label; and it stops at the end of the first gzip member as if the shard ended there,
# so that the other samples are missing, without a warning. gzip.decompress raises for the first and returns all of the
# second. Only a cut within a member's bytes is an error ("unexpected end of data"); one within a header is not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check webdataset==1.0.2

cat >program.py <<'PY'
import gzip
import io
import tarfile

import webdataset

differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def labels(name, data):
    with open(name, "wb") as stream:
        stream.write(data)
    try:
        samples = webdataset.WebDataset(name, shardshuffle=False)
        return [(sample["__key__"], int(sample["cls"])) for sample in samples if "cls" in sample]
    except tarfile.ReadError as error:
        return str(error.args[0])[:22]


stream = io.BytesIO()
with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
    for number in range(4):
        for ending, content in (("txt", b"text"), ("cls", b"%d" % number)):
            info = tarfile.TarInfo(f"{number}.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
plain = stream.getvalue()  # a header and a block of content for each member, 1,024 bytes
whole = [(str(number), number) for number in range(4)]

print(f"webdataset {webdataset.__version__}")
see("a whole .tar.gz", labels("whole.tar.gz", gzip.compress(plain)), whole)
packed = bytearray(gzip.compress(plain, compresslevel=0))
packed[packed.rindex(b"\x003\x00") + 1] = ord("0")
try:
    gzip.decompress(packed)
    told = "nothing"
except gzip.BadGzipFile as error:
    told = str(error)[:16]
see("one label changed, gzip", told, "CRC check failed")
see("one label changed, webdataset", labels("changed.tar.gz", bytes(packed)), [*whole[:3], ("3", 0)])
for where in (4096, 4196):
    members = gzip.compress(plain[:where]) + gzip.compress(plain[where:])
    see("two gzip members, gzip", gzip.decompress(members) == plain, True)
    see(f"two gzip members, the second from byte {where}, webdataset", labels("two.tar.gz", members), whole[:2])
for where in (4096, 4196):
    see(f"a plain .tar cut at byte {where}", labels("cut.tar", plain[:where]), whole[:2])
see("a plain .tar cut within a member", labels("cut.tar", plain[:4700]), "unexpected end of data")

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 120 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
