"""The figures of an evaluation as people read them: names and texts."""

from __future__ import annotations

from collections.abc import Sequence

from components.shared.artifacts.evaluation import DifferenceRecord
from components.shared.html.page import fixed, percent

HEADLINE = ("accuracy", "balanced_accuracy", "f1_macro", "roc_auc_ovr", "log_loss", "expected_calibration_error")
_NAMES = {
    "top_5_accuracy": "top-5 accuracy",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "precision_macro": "precision, macro",
    "precision_weighted": "precision, weighted",
    "recall_macro": "recall, macro",
    "recall_weighted": "recall, weighted",
    "log_loss": "log loss (nats)",
    "brier_score": "Brier score",
    "expected_calibration_error": "calibration error",
    "roc_auc_ovr": "ROC AUC, macro",
    "average_precision": "average precision, macro",
    "cohen_kappa": "Cohen's kappa",
    "matthews_corrcoef": "Matthews correlation",
}
_SHARES = ("accuracy", "balanced", "top_", "precision", "recall", "f1", "expected", "vs_baseline")


def figure_name(name: str) -> str:
    """The name of a figure for people: ``ROC AUC, macro``."""
    return _NAMES.get(name, name.replace("_", " "))


def figure_text(name: str, value: float) -> str:
    """A figure as text, shares in percent: ``97.12 %``, ``0.0873``."""
    return percent(value) if name.startswith(_SHARES) else fixed(value)


def difference_texts(name: str, difference: DifferenceRecord) -> list[str]:
    """A difference and the ends of its interval, of shares in percentage points: ``+1.25 points``, ``−0.0500``."""

    def text(value: float) -> str:
        size = f"{100 * abs(value):.2f} points" if name.startswith(_SHARES) else fixed(abs(value))
        return ("−" if value < 0 else "+") + size

    return [text(value) for value in (difference.value, difference.low, difference.high)]


def interval_text(name: str, interval: Sequence[float] | None) -> str:
    """The bounds of a figure's interval: ``96.80 – 97.41 %``; empty where there is none."""
    if interval is None:
        return ""
    low, high = (figure_text(name, bound) for bound in interval)
    return f"{low.removesuffix(' %')} – {high}"
