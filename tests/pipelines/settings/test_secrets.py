"""A secret that was written into settings by mistake is refused, and stands in no message and no file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.compiled import PlatformName
from pipelines.params_files import EXAMPLE_PARAMS
from tests.pipelines.lint.bases import AWS_KEY
from tests.pipelines.settings.compiling import write_settings

PLANTED = "Tr0ub4dor-Planted!"
GITHUB_TOKEN = "ghp_" + "a1" * 18
KEY = f"-----BEGIN PRIVATE KEY-----\n{PLANTED}\n-----END PRIVATE KEY-----\n"

# Where people put them: the platform and what a file says of every step.
MISTAKES: list[tuple[PlatformName, dict[str, Any]]] = [
    ("kubeflow", {"env": {"KAFKA_SASL_PASSWORD": PLANTED}}),
    ("vertex", {"env": {"KAFKA_SASL_PASSWORD": PLANTED}}),
    ("vertex", {"env": {"HTTPS_PROXY": f"http://me:{PLANTED}@proxy.example:3128"}}),
    ("vertex", {"env": {"GOOGLE_APPLICATION_CREDENTIALS": json.dumps({"private_key": KEY})}}),
    ("kubeflow", {"env": f"KAFKA_SASL_PASSWORD={PLANTED}"}),
    ("kubeflow", {"secret_env": {"KAFKA_SASL_PASSWORD": PLANTED}}),
    ("kubeflow", {"secret_env": {"A": {"secret": PLANTED, "key": "password"}}}),
    ("kubeflow", {"secret_env": {"A": {"secret": "kafka", "key": PLANTED}}}),
    ("kubeflow", {"secret_env": {"A": {"secret": "s", "key": "k", "optional": PLANTED}}}),
    ("kubeflow", {"secret_env": {"A": {"secret": "s", "key": "k", "value": PLANTED}}}),
    ("kubeflow", {"secret_env": PLANTED}),
    ("kubeflow", {"secret_files": KEY}),
    ("kubeflow", {"secret_files": [KEY]}),
    ("kubeflow", {"pull_secrets": PLANTED}),
    ("kubeflow", {"pull_secrets": [PLANTED]}),
    ("kubeflow", {"annotations": {"a": f"Bearer {'x' * 9}{PLANTED[:-1]}"}}),
    ("vertex", {"env": {"USER_NAME": GITHUB_TOKEN}}),
    ("kubeflow", {"annotations": {"a.example/password": PLANTED}}),
    ("kubeflow", {"labels": {"db-password": PLANTED[:-1]}}),
    ("kubeflow", {"node_selector": {"a": GITHUB_TOKEN}}),
    ("kubeflow", {"tolerations": [{"key": "a", "operator": "Equal", "value": GITHUB_TOKEN}]}),
    ("kubeflow", {"annotations": {"a": f"password={PLANTED}"}}),
]


@pytest.mark.parametrize(("target", "said"), MISTAKES)
def test_a_secret_is_refused_without_being_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], target: PlatformName, said: dict[str, Any]
) -> None:
    file = write_settings(tmp_path / "settings.yaml", {"every-step": said})
    output = tmp_path / "out" / "pipeline.yaml"
    for arguments in (["settings"], ["settings", "--json"], ["compile", "-o", str(output)]):
        assert main([*arguments, "--target", target, "--settings", str(file)]) == 2
        told = capfd.readouterr()
        assert "every-step." in told.err, "the message says where"
        for planted in (PLANTED[:-1], AWS_KEY, GITHUB_TOKEN):
            assert planted not in told.out + told.err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_what_the_environment_names_a_secret_is_none_of_the_settings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", PLANTED)
    file = write_settings(tmp_path / "settings.yaml", {"train": {"env": {"GREETING": PLANTED}}})
    assert main(["settings", "--target", "vertex", "--settings", str(file)]) == 2
    told = capfd.readouterr()
    assert "train.env.GREETING: would put a secret into the compiled file" in told.err
    assert PLANTED not in told.out + told.err


def test_where_a_secret_is_kept_and_what_only_sounds_like_one_may_be_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    env = {
        "KAFKA_SASL_PASSWORD_FILE": "sm://projects/my-project/secrets/kafka-password/versions/latest",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/google/key.json", "AWS_ENDPOINT_URL": "https://minio.example:9000",
        "KAFKA_SASL_OAUTH_PROVIDER": "google", "TOKENS_PER_BATCH": "4096", "TOKEN_BUDGET": "512", "FIRST_PASS": "2",
        "PASSWORD_POLICY": "strict", "USE_TOKEN_AUTH": "yes", "STOP_TOKEN": "</s>", "TOKEN_LEVEL": "word",
        "AUTH_TOKEN_HEADER": "X-Auth", "VOCAB_TOKENS": "/data/vocab.txt", "TOKENS": "1B",
        "DB_PASSWORD": "$(FROM_ELSEWHERE)",
    }  # fmt: skip
    file = write_settings(tmp_path / "settings.yaml", {"train": {"env": env}})
    compiling = ["compile", "--target", "vertex", "--settings", str(file), "-o", str(tmp_path / "p.yaml"), "--json"]
    main([*compiling, "--unchecked"])
    assert "secret-value" not in capfd.readouterr().out
    assert main(["settings", "--target", "vertex", "--settings", str(file), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["train"]["env"] == env


@pytest.mark.parametrize(
    "options",
    [["--checkpoints", f"gs://bucket/{GITHUB_TOKEN}"], ["--data", f"gs://bucket/{AWS_KEY}"]],
    ids=["checkpoints", "data"],
)
def test_a_file_that_would_hold_a_secret_is_not_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str]
) -> None:
    output = tmp_path / "pipeline.yaml"
    params = ["--params", str(EXAMPLE_PARAMS)]
    assert main(["compile", "--target", "vertex", *params, "-o", str(output), *options]) == 2
    told = capfd.readouterr()
    assert "(secret-value)" in told.err
    assert f"error: {output}: not written (--unchecked writes it all the same)" in told.err
    assert GITHUB_TOKEN not in told.out + told.err
    assert AWS_KEY not in told.out + told.err
    assert not output.exists()
    assert main(["compile", "--target", "vertex", *params, "-o", str(output), *options, "--json", "--unchecked"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["status"], document["pipeline"]) == ("compiled", str(output))
    assert [finding["rule"] for finding in document["findings"] if finding["severity"] == "error"] == ["secret-value"]
    assert output.exists()


def test_a_word_that_names_a_secret_is_none_although_somebodys_password_is_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "password")
    said = {"train": {"secret_env": {"KAFKA_SASL_PASSWORD": {"secret": "kafka", "key": "password"}}}}
    file = write_settings(tmp_path / "settings.yaml", said)
    assert main(["compile", "--target", "kubeflow", "--settings", str(file), "-o", str(tmp_path / "p.yaml")]) == 0
