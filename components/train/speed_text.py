"""The speed-of-light report in words: rows for a table, whether of a page, of TensorBoard or of a log."""

from __future__ import annotations

from components.shared.artifacts.model import TIME_SHARES, Speed
from components.shared.html.markup import rate

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_SPELLED = {
    "forward_backward": "forward and backward",
    "resident": "on the device",
    "mapped": "on the host's disk, mapped",
}
_NONE = "–"


def speed_rows(speed: Speed) -> list[tuple[str, str, str]]:
    """Every rate: what it is of, the rate itself, and what part of it training reached.

    A bound that could not be measured has the reason in the rate's place, or a dash where none is known.
    """
    batch, product = speed.of_constant_tensor_range, speed.of_matmul_range
    return [
        ("training", _images(speed.samples_per_second), ""),
        (
            "the same step fed one random batch",
            speed.why_not.get("of_constant_tensor") or _images(speed.constant_tensor_samples_per_second),
            _part(speed.of_constant_tensor, batch, speed.rounds),
        ),
        ("arithmetic of training", _flops(speed.flops_per_second), ""),
        (
            "matrix products on this device",
            speed.why_not.get("of_matmul") or _flops(speed.matmul_flops_per_second),
            _part(speed.of_matmul, product, speed.rounds),
        ),
    ]


def speed_facts(speed: Speed) -> list[tuple[str, str]]:
    """Under what circumstances the rates were reached."""
    return [
        ("precision", speed.precision),
        ("compiled", "yes" if speed.compiled else "no"),
        ("images lay", _SPELLED.get(speed.data, speed.data)),
        ("processes", f"{speed.processes:,}"),
    ]


def time_shares(speed: Speed) -> list[tuple[str, float]]:
    """Parts of the wall time by name, in the order of a step."""
    order = {name: place for place, name in enumerate(TIME_SHARES)}
    names = sorted(speed.shares, key=lambda name: (order.get(name, len(order)), name))
    return [(_SPELLED.get(name, name), speed.shares[name]) for name in names]


def speed_lines(speed: Speed) -> list[str]:
    """The report in two lines, for a log: rates, and parts of the wall time where they are known."""
    shares = ", ".join(f"{name} {_percent(share)}" for name, share in time_shares(speed))
    reasons = {speed.why_not.get("of_constant_tensor"), speed.why_not.get("of_matmul")}
    if len(reasons) == 1 and (reason := reasons.pop()):
        report = f"speed: {reason}"
    else:
        rates = "; ".join(
            _in_words(*row, is_rate=row[1] not in reasons) for row in speed_rows(speed) if row[1] != _NONE
        )
        facts = ", ".join(f"{name} {value}" for name, value in speed_facts(speed))
        report = f"speed: {rates} ({facts})"
    return [report, *([f"time: {shares}"] if shares else [])]


def _in_words(name: str, value: str, part: str, *, is_rate: bool) -> str:
    if not is_rate:
        return f"{name}: {value}"
    return f"{name} {value}" + ("" if part in ("", _NONE) else f", {part} of it reached")


def speed_markdown(speed: Speed) -> str:
    """The report as tables in Markdown, for TensorBoard."""
    rates = [("of", "rate", "reached"), ("---", "--:", "--:"), *speed_rows(speed)]
    shares = [("time", "share"), ("---", "--:"), *((name, _percent(share)) for name, share in time_shares(speed))]
    facts = [("circumstance", ""), ("---", "---"), *speed_facts(speed)]
    return "\n\n".join("\n".join(f"| {' | '.join(row)} |" for row in rows) for rows in (rates, shares, facts))


def _images(value: float | None) -> str:
    return _NONE if value is None else f"{rate(value)} images/s"


def _flops(value: float | None) -> str:
    """Operations a second with a prefix: 1.23 TFLOP/s."""
    if value is None:
        return _NONE
    power = 0
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_PREFIXES[power]}FLOP/s"


def _part(share: float | None, spread: list[float] | None, rounds: int) -> str:
    if share is None:
        return _NONE
    if spread is None:  # of a version that measured once
        return _percent(share)
    return f"{_percent(share)} ({_percent(spread[0])} to {_percent(spread[1])} in {rounds} rounds)"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if abs(share) < 1e4 else f"{100 * share:.3g} %"
