"""The rule ``secret-value``: files that have a secret, and files that only seem to."""

from __future__ import annotations

import pytest

from tests.pipelines.lint.bases import AWS_KEY, Change, Pipeline, default, env, findings, option, parameter, pod, task

INPUTS = "root.inputDefinitions.parameters"
TASK = "components.comp-exit-handler-1.dag.tasks.train"
TRAIN = "deploymentSpec.executors.exec-train.container"
POD = "platforms.kubernetes.deploymentSpec.executors.exec-train.podMetadata"
ENV = f"{TRAIN}.env[1].value"
PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"
ACCOUNT = '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkqhkiG9w"}'
HEADER = f"curl -H 'Authorization: Bearer {'0f' * 20}' https://x.example"


def annotated(kind: str, key: str, value: str) -> Change:
    return pod(podMetadata={kind: {key: value}})


def loop(items: str) -> Change:
    return task("train", "parameterIterator", items={"raw": items}, itemInput="item")


def importer(pipeline: Pipeline) -> None:
    metadata = {"owner": "me", "token": "hunter2!"}
    pipeline.spec["deploymentSpec"]["executors"]["exec-importer"] = {"importer": {"metadata": metadata}}


def constant(pipeline: Pipeline) -> None:
    pipeline.task("train")["inputs"]["parameters"]["api_token"] = {"runtimeValue": {"constant": "hunter2!"}}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (env("KAFKA_SASL_PASSWORD", "hunter2!"), ENV),
        (env("WANDB_API_KEY", "0f" * 20), ENV),
        (env("CERTIFICATE", PRIVATE_KEY), ENV),
        (env("ACCOUNT", ACCOUNT), ENV),
        (env("USER", AWS_KEY), ENV),
        (env("TRACKING", "https://me:hunter2!@tracking.example/x"), ENV),
        (env("DB_PASS", "hunter2!"), ENV),
        (env("SSH_KEY", "hunter2!"), ENV),
        (env("AZURE_STORAGE_KEY", "/hunter2!+/b=="), ENV),
        (env("MYSQL_PWD", "hunter2!"), ENV),
        (env("API_TOKEN", "0f" * 20), ENV),
        (env("DB_PASSWORD", "$hunter2!"), ENV),
        (env("SPECIAL_TOKENS_PASSWORD", "hunter2!"), ENV),
        (env("TRAIN_TOKEN", "train"), ENV),
        (option("--password", "hunter2!"), f"{TRAIN}.args[5]"),
        (option("--db-pass", "hunter2!"), f"{TRAIN}.args[5]"),
        (option("--token=hunter2!"), f"{TRAIN}.args[4]"),
        (option("PASSWORD=hunter2!"), f"{TRAIN}.args[4]"),
        (option("export DB_PASSWORD='hunter2!'; run"), f"{TRAIN}.args[4]"),
        (option(HEADER), f"{TRAIN}.args[4]"),
        (parameter("STRING", "db_password", "hunter2!"), f"{INPUTS}.db_password.defaultValue"),
        (parameter("LIST", "db_passwords", ["hunter2!"]), f"{INPUTS}.db_passwords.defaultValue[0]"),
        (
            parameter("STRUCT", "options", {"login": {"password": "hunter2!"}}),
            f"{INPUTS}.options.defaultValue.login.password",
        ),
        (constant, f"{TASK}.inputs.parameters.api_token.runtimeValue.constant"),
        (default("data", '{"login": {"password": "hunter2!"}}'), f"{INPUTS}.data.defaultValue"),
        (loop('[{"password": "hunter2!", "n": 1}]'), f"{TASK}.parameterIterator.items.raw"),
        (importer, "deploymentSpec.executors.exec-importer.importer.metadata.token"),
        (annotated("annotations", "a.example/password", "hunter2!"), f'{POD}.annotations["a.example/password"]'),
        (annotated("labels", "api-token", "hunter2!"), f"{POD}.labels.api-token"),
    ],
)
def test_a_secret_is_found_and_not_shown(change: Change, where: str) -> None:
    found = findings("vertex", change)
    assert [finding.where for finding in found if finding.rule == "secret-value"] == [(where,)]
    for secret in ("hunter2!", AWS_KEY, "0f" * 20, PRIVATE_KEY.splitlines()[1]):
        assert secret not in str(found)


@pytest.mark.parametrize(
    "change",
    [
        env("KAFKA_SASL_PASSWORD_FILE", "/var/run/kafka/password"),
        env("API_TOKEN", "sm://projects/p/secrets/s/versions/1"),
        env("VAULT_SECRET", "gcp-sm://x"),
        env("KAFKA_SASL_PASSWORD", ""),
        env("PASSWORD", "{{$.inputs.parameters['x']}}"),
        env("PASSWORD", "x-{{$.inputs.parameters['x']}}"),
        env("MAX_TOKENS", "4096"),
        env("TOKENS_PER_BATCH", "4096"),
        env("DATASET", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d"),
        env("TRACKING", "https://me@tracking.example/x"),
        env("GOOGLE_APPLICATION_CREDENTIALS", "secrets/key.json"),
        env("USER", "AKIAIOSFODNN7EXAMPLE"),
        env("PASSWORD_POLICY", "at-least-12"),
        env("STOP_TOKEN", "</s>"),
        env("TOKEN_CLASSIFICATION", "ner"),
        env("USE_TOKEN_AUTH", "yes"),
        env("SECRETS_BACKEND", "gcp"),
        env("PWD", "/work"),
        option("--token", "--verbose"),
        option('f"https://{user}:{password}@{host}"'),
        option("--token-budget=512"),
        option("--token_ids", "5"),
        option("--pass", "2"),
        option("export DB_PASSWORD=$pw; run"),
        option('export DB_PASSWORD="$OTHER"; run'),
        option("import os\n\nclient(password=os.environ['DB'])\n"),
        annotated("annotations", "sidecar.istio.io/inject", "false"),
        pod(secretAsEnv=[{"secretName": "kafka", "keyToEnv": [{"secretKey": "password", "envVar": "KAFKA_PASSWORD"}]}]),
        loop('["a", "b"]'),
    ],
)
def test_what_only_looks_like_one_is_not_found(change: Change) -> None:
    assert [finding for finding in findings("vertex", change) if finding.rule == "secret-value"] == []


def test_a_secret_is_shown_by_no_other_rule() -> None:
    leaking = default("data", "/mnt/correct horse/x")
    found = findings("vertex", env("DB_PASSWORD", "correct horse"), leaking)
    assert {finding.rule for finding in found} == {"secret-value", "data-location"}
    assert "correct horse" not in str(found)
