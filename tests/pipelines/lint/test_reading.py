"""Files that can be no compiled pipeline, or are made to break whoever reads them: one line, whatever command reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli import main
from tests.pipelines.lint.bases import Pipeline

KUBEFLOW = ["--host", "http://127.0.0.1:9", "--dry-run", "--unchecked"]

# Added to a sound pipeline; and what is said.
ADDED: dict[str, tuple[str, str]] = {
    "a day there is not": ("zzz: 2026-02-31", "a value that is not what it is written as at line "),
    "a tag that is not true": ('zzz: !!int "hunter2!"', "a value that is not what it is written as"),
    "a fraction that is none": ("zzz: !!float abc", "a value that is not what it is written as"),
    "a truth that is none": ("zzz: !!bool maybe", "a value that is not what it is written as"),
    "a time that is none": ("zzz: !!timestamp abc", "a value that is not what it is written as"),
    "an integer of 5,000 digits": (f"zzz: {'9' * 5000}", "a value that is not what it is written as"),
    "a Python object": ("zzz: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "nested 3,000 deep": (f"zzz: {'[' * 3000}{']' * 3000}", "is nested more than 100 deep"),
    "nested 200,000 deep": (f"zzz: {'[' * 200_000}{']' * 200_000}", "is nested more than 100 deep"),
    "nested by references": (
        "\n".join(["x0: &x0 [a]", *(f"x{n}: &x{n} [[[*x{n - 1}]]]" for n in range(1, 60))]),
        "is nested more than 100 deep",
    ),
    "multiplied by references": (
        "\n".join(["x0: &x0 [a]", *(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 10))]),
        "holds more than 2,000,000 values",
    ),
    "holding itself": ("zzz: &z [*z]", "is nested more than 100 deep"),
    "a key that is a number": ("5: 6", "keys must be text at line "),
    "a key that is a list": ("? [a]\n: 6", "keys must be text"),
    "a key twice": ("zzz: {a: 1, a: 2}", "the key 'a' stands twice in one mapping"),
    "a second root": ("root: {}", "the key 'root' stands twice in one mapping"),
}


@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("command", ["validate", "submit"])
def test_it_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: str) -> None:
    pipeline = Pipeline("vertex")
    file = pipeline.write(tmp_path / "pipeline.yaml")
    added, message = ADDED[name]
    file.write_text(f"{file.read_text()}\n{added}\n")
    capsys.readouterr()
    assert main([command, str(file), *(KUBEFLOW if command == "submit" else [])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"error: {file}: ")
    assert message in line
    assert "hunter2!" not in line


@pytest.mark.parametrize("name", ["large", "directory", "nothing", "binary", "device"])
def test_what_is_no_such_file_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = tmp_path / f"{name}.yaml"
    if name == "large":
        with file.open("wb") as stream:
            stream.truncate(6 * 2**30)  # takes no room
    elif name == "directory":
        file.mkdir()
    elif name == "binary":
        file.write_bytes(b"pipelineInfo: \xff\xfe")
    elif name == "device":
        file.symlink_to("/dev/zero")
    for arguments in (["validate", str(file)], ["submit", str(file), *KUBEFLOW]):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1


def test_what_two_mappings_share_by_a_reference_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Pipeline("vertex").write(tmp_path / "pipeline.yaml")
    text = file.read_text()
    # A key of a mapping's own stands beside what it takes from another by <<.
    file.write_text(
        f"{text}\nzzz: &z {{a: 1}}\nyyy: {{<<: *z, a: 2}}\nxxx: {{l: &b {{<<: {{x: 1}}, x: 2}}}}\nwww: {{<<: *b}}\n"
    )
    assert main(["validate", str(file)]) == 0
