#!/usr/bin/env bash
# The type of a probability changes log_loss by half, and the number of a class decides whether it is in the top k.
#
# Versions: scikit-learn 1.9.1, numpy 2.4.6.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: log_loss of probabilities that float16, float32 and float64 all hold exactly is one
# figure, as a probability of 0 is clipped to the same smallest one. top_k_accuracy_score of k=1 is accuracy_score of
# argmax. A class whose probability is 0, as are those of all classes but one, is in the top five by chance, if at all.
#
# What the guess missed:
# - A probability is clipped to the resolution of its type, so that a certain mistake costs 36.0 nats as float64, 15.9 as
#   float32 and 6.9 as float16. The documentation of log_loss says so, of `y_proba`; a model that runs in half precision
#   has less than half the log loss of the same answers in single precision.
# - Of equal scores top_k_accuracy_score takes the classes with the highest numbers first (documented), argmax the
#   first: of ties, top 1 is not accuracy.
# - Where a network is so sure that float32 has 0 for all other classes, those are ties. Mistaken images of class 9 of 10
#   are then all in the top five, and those of class 1 never.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6

cat >program.py <<'PY'
import numpy as np
import sklearn
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


print(f"scikit-learn {sklearn.__version__}, numpy {np.__version__}")
labels = [0, 1, 2, 2]
probabilities = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])  # the last is a certain mistake
for kind, loss in (("float64", 9.01), ("float32", 3.99), ("float16", 1.73)):
    found = log_loss(labels, y_proba=probabilities.astype(kind), labels=[0, 1, 2])
    see(f"log_loss of four images, one mistaken for certain, as {kind}", round(found, 2), loss)

tied = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])
see("accuracy of argmax of ties", round(accuracy_score([0, 1, 1], tied.argmax(axis=1)), 2), 0.67)
see("top_k_accuracy_score of them, k=1", round(top_k_accuracy_score([0, 1, 1], tied, k=1, labels=range(3)), 2), 0.33)

certain = np.zeros((100, 10))
certain[:, 0] = 1  # class 0, and 0 for all others
for label, share in ((9, 1.0), (6, 1.0), (5, 0.0), (1, 0.0)):
    found = top_k_accuracy_score([label] * 100, certain, k=5, labels=range(10))
    see(f"images of class {label} of 10, all taken for class 0 for certain, in the top five", float(found), share)

raise SystemExit("\n".join(["this has changed:", *differs]) if differs else 0)
PY
venv/bin/python program.py
