"""Files and texts become plain dicts or a ParamsError of one line, never anything else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.shared.errors import ParamsError
from components.shared.params.params import Params
from components.shared.params.source import MAX_BYTES, from_json, from_yaml, read_params_file
from tests.configs import refused, small


def message(call: Any, *arguments: Any) -> str:
    """The one problem of a document that cannot be read."""
    found = refused(call, *arguments)
    assert list(found) == [""]
    assert "\n" not in found[""]
    return found[""]


def test_json_values_keep_their_kind() -> None:
    text = '{"i": 18446744073709551615, "f": 1e2, "t": "1", "b": true, "n": null, "l": [1, {"a": 2.0}], "ü": "\\u007b"}'
    found = from_json(text)
    assert repr(found) == repr(
        {"i": 2**64 - 1, "f": 100.0, "t": "1", "b": True, "n": None, "l": [1, {"a": 2.0}], "ü": "{"}
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("{", "is not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        ('{"a": 1,}', "is not JSON: Illegal trailing comma before end of object at line 1, column 8"),
        ('{"a":\n tru}', "is not JSON: Expecting value at line 2, column 2"),
        ('{"a": 1} {"b": 2}', "is not JSON: Extra data at line 1, column 10"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "has the key 'c' twice in one mapping"),
        ('{"a": NaN}', "NaN is not a number a run can use"),
        ('{"a": [-Infinity]}', "-Infinity is not a number a run can use"),
        ("[1]", "must hold one mapping of params"),
        ('{"a": ' + "[" * 100_000, "is nested too deep"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "is nested more than 64 deep"),
        ('{"a": ' + "9" * 5000 + "}", "holds an integer of thousands of digits"),
        ('{"a": [' + "1," * 100_000 + "1]}", "holds more than 100,000 values"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_json_of_params(text: str, expected: str) -> None:
    # Python 3.13 words the trailing comma more precisely than 3.11.
    alternative = expected.replace("Illegal trailing comma before end of object at line 1, column 8", "Expecting")
    found = message(from_json, text)
    assert expected in found or alternative in found


YAML_VALUES: list[tuple[str, Any]] = [
    # YAML 1.1, PyYAML's own, reads these as text, booleans, octals, times and dates.
    ("1e-5", 1e-5),
    ("1E+5", 1e5),
    (".5", 0.5),
    ("-1.5e3", -1500.0),
    ("no", "no"),
    ("010", 10),
    ("0o17", 15),
    ("0x1F", 31),
    ("1_000", "1_000"),
    ("12:30:45", "12:30:45"),
    ("2001-12-14", "2001-12-14"),
    ("=", "="),
    ("+12", 12),
    ("18446744073709551615", 2**64 - 1),
    ("true", True),
    ("FALSE", False),
    ("tRue", "tRue"),
    ("~", None),
    ("null", None),
    ("", None),
    (".inf", math.inf),
    ("-.INF", -math.inf),
    ('"1e-5"', "1e-5"),
    ("!!str 1", "1"),
    ("!!int '12'", 12),
    ("[1, {b: 2.0}]", [1, {"b": 2.0}]),
    ("٣", "٣"),
]


@pytest.mark.parametrize(("text", "value"), YAML_VALUES)
def test_yaml_is_read_by_the_1_2_core_schema(text: str, value: Any) -> None:
    assert repr(from_yaml(f"a: {text}\n")) == repr({"a": value})


def test_yaml_keys_stay_text_where_yaml_1_1_would_merge_or_convert() -> None:
    assert from_yaml("<<: {a: 1}\nno: 1\n=: 2\n") == {"<<": {"a": 1}, "no": 1, "=": 2}
    assert math.isnan(from_yaml("a: .nan")["a"])


def test_yaml_aliases_are_read() -> None:
    assert from_yaml("a: &x {b: [1]}\nc: *x\n") == {"a": {"b": [1]}, "c": {"b": [1]}}


def test_params_refuse_what_yaml_calls_infinite(tmp_path: Path) -> None:
    config = json.dumps(small())[1:-1]
    file = tmp_path / "params.yaml"
    file.write_text(f"{{{config}, learning_rate: .inf, TIMEOUT: .nan}}")
    assert set(refused(Params.load, file)) == {"learning_rate", "TIMEOUT"}


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{key}: &{key} [{','.join(['*' + before] * 9)}]\n" for before, key in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("# only a comment", "must hold one mapping"),
        ("- a", "must hold one mapping"),
        ("a: 1\nb: {c: 1, c: 2}", "is not YAML: the key 'c' stands twice in one mapping at line 2, column 11"),
        ("1: a", "is not YAML: keys must be text at line 1, column 1"),
        ("a: [1", "is not YAML: expected ',' or ']', but got '<stream end>' at line 1, column 6"),
        ("a: b: c", "is not YAML: mapping values are not allowed here at line 1, column 5"),
        ("a: \x07", "is not YAML: unacceptable character #x0007"),
        ("a: *x", "is not YAML: found undefined alias 'x'"),
        ("a: 1\n---\nb: 2\n", "holds 2 documents, and only one is read"),
        ("a: !!python/object/apply:os.system [id]", "tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !ours 1", "could not determine a constructor for the tag '!ours'"),
        ("a: !!timestamp 2001-12-14", "could not determine a constructor for the tag"),
        ("a: !!set {b}", "could not determine a constructor for the tag"),
        ("a: !!int abc", "is not YAML: a value that is not what it is written as at line 1, column 4"),
        ("a: !!float [1]", "expected a scalar node"),
        ('a: "\\U00110000"', "is not YAML"),
        ("%YAML 2.0\n---\na: 1", "is not YAML: found incompatible YAML document"),
        ("a: " + "9" * 5000, "is not YAML: a value that is not what it is written as at line 1, column 4"),
        ("a: &x [*x]", "is nested more than 100 deep"),
        ("a: &x {b: *x}", "is nested more than 100 deep"),
        (BOMB, "holds more than 100,000 values"),
        ("a: " + "[" * 2000, "is nested more than 100 deep"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(1000)), "is nested more than 100 deep"),
        ("a: " + "[" * 70 + "]" * 70, "is nested more than 64 deep"),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_yaml_of_params(text: str, expected: str) -> None:
    assert expected in message(from_yaml, text)


def test_files_are_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "large.json").write_bytes(b'{"a": 1}'.ljust(MAX_BYTES))
    assert read_params_file(tmp_path / "large.json") == {"a": 1}
    for name in ("a.json", "b.JSON", "c.yaml", "d.yml"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + '{"ü": 1}'.encode())
        (tmp_path / f"plain-{name}").write_text('{"ü": 1}', encoding="utf-8")
        assert read_params_file(tmp_path / name) == read_params_file(str(tmp_path / f"plain-{name}")) == {"ü": 1}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "latin.json").write_bytes('{"a": "ü"}'.encode("latin-1"))
    (tmp_path / "utf16.yaml").write_text("a: 1", encoding="utf-16")
    (tmp_path / "big.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    (tmp_path / "params.toml").write_text("a = 1")
    (tmp_path / "params.py").write_text("params = {}")
    (tmp_path / "empty.json").touch()
    (tmp_path / "bad.json").write_text("[")
    for name, expected in {
        "missing.json": "there is no such file",
        "folder.json": "cannot be read: Is a directory",
        "latin.json": "is not UTF-8 text (byte 7)",
        "utf16.yaml": "is not UTF-8 text (byte 0)",
        "big.yaml": "is larger than 10 MiB, too large for params",
        "params.toml": "a file of params ends in .json, .yaml or .yml",
        "params.py": "the shutterline command reads .py files too",
        "empty.json": "is empty",
        "bad.json": "is not JSON: Expecting value at line 1, column 2",
        "a\0b.json": "cannot be read",
        f"{'long' * 100}.json": "cannot be read: File name too long",
        "latin.json/x.json": "cannot be read: Not a directory",
    }.items():
        with pytest.raises(ParamsError) as caught:
            read_params_file(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert expected in str(caught.value)


YAML_PIECES = st.lists(
    st.sampled_from(
        "a b: : - [ ] { } , ? & * &x *x ! !! !!int !!float !!bool !!null !!str !!map !!seq !!set !!omap !!pairs "
        "!!binary !!timestamp !!merge << = | > ' \" \\ \\x \\U00110000 % %YAML %TAG --- ... # ~ null true no 1 0x1 "
        "0o7 1e5 .inf .nan - \\n \\t 2001-12-14 !<tag:yaml.org,2002:int> !<x> \ud800 \x85 \ufeff".split(" ")
    )
    | st.sampled_from(["\n", "\n  ", " ", "\t", "\n- "]),
    max_size=25,
).map("".join)


@given(st.text() | YAML_PIECES)
@example('a: "\\UFFFFFFFF"')
@example("a: !!timestamp x")
@example("!!int a")
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_dict_or_a_params_error(text: str) -> None:
    for read in (from_json, from_yaml):
        found, problem = None, None
        try:
            found = read(text)
        except ParamsError as error:
            problem = str(error)
        if problem is not None:
            assert "\n" not in problem
        else:
            assert type(found) is dict
            assert all(type(key) is str for key in found)


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
@settings(max_examples=100, deadline=None)
def test_whatever_json_holds_comes_back(config: dict[str, Any]) -> None:
    assert repr(from_json(json.dumps(config))) == repr(config)
