"""The reference of the params is the code's; ``python -m tests.shared.params.test_reference`` writes it."""

from __future__ import annotations

from pathlib import Path

from components.shared.params.params import Params

FILE = Path(__file__).parents[3] / "components" / "shared" / "params" / "README.md"
_BEGIN, _END = "|---|---|---|\n", "\n<!-- end of params -->"


def written() -> str:
    """The reference with the table that the fields give."""
    before, rest = FILE.read_text(encoding="utf-8").split(_BEGIN)
    rows = []
    for name, field in Params.model_fields.items():
        default = "required" if field.is_required() else spelled(field.get_default(call_default_factory=True))
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return before + _BEGIN + "\n".join(rows) + _END + rest.partition(_END)[2]


def spelled(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"`{value}`"
    return f"{value:g}" if isinstance(value, int | float) else "none"


def test_the_reference_of_the_params_is_the_codes() -> None:
    assert FILE.read_text(encoding="utf-8") == written()


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
