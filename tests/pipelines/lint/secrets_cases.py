"""The rule ``secret-value``: files that have a secret, and such that only seem to."""

from __future__ import annotations

from tests.pipelines.lint.bases import Change, Pipeline
from tests.pipelines.lint.cases import (
    ACCOUNT,
    AWS_KEY,
    PRIVATE_KEY,
    Found,
    Sound,
    default,
    env,
    kubernetes,
    option,
    struct,
)

TASKS = "components.comp-exit-handler-1.dag.tasks"
INPUTS = "root.inputDefinitions.parameters"
TRAIN = "deploymentSpec.executors.exec-train.container"
POD = "platforms.kubernetes.deploymentSpec.executors.exec-train.podMetadata"
_ENV = f"{TRAIN}.env[1].value"


def metadata(kind: str, key: str, value: str) -> Change:
    return kubernetes(podMetadata={kind: {key: value}})


def loop(items: str) -> Change:
    iterator = {"items": {"raw": items}, "itemInput": "item"}
    return lambda pipeline: pipeline.task("train").update(parameterIterator=iterator)


def importer(pipeline: Pipeline) -> None:
    metadata = {"owner": "me", "token": "hunter2!"}
    pipeline.spec["deploymentSpec"]["executors"]["exec-importer"] = {"importer": {"metadata": metadata}}


SECRETS_FOUND: dict[str, Found] = {
    "a password in the environment": Found(
        "secret-value", "kubeflow", env("KAFKA_SASL_PASSWORD", "hunter2!"), "error", _ENV
    ),
    "a key in the environment": Found("secret-value", "vertex", env("WANDB_API_KEY", "0f" * 20), "error", _ENV),
    "a private key": Found("secret-value", "vertex", env("CERTIFICATE", PRIVATE_KEY), "error", _ENV),
    "a service account's key": Found("secret-value", "vertex", env("ACCOUNT", ACCOUNT), "error", _ENV),
    "an access key of AWS": Found("secret-value", "vertex", env("USER", AWS_KEY), "error", _ENV),
    "a URL with a password": Found(
        "secret-value", "vertex", env("TRACKING", "https://me:hunter2!@tracking.example/x"), "error", _ENV
    ),
    "a password by an option": Found(
        "secret-value", "vertex", option("--password", "hunter2!"), "error", f"{TRAIN}.args[5]"
    ),
    "a password in an option": Found("secret-value", "vertex", option("--token=hunter2!"), "error", f"{TRAIN}.args[4]"),
    "a password as a parameter": Found(
        "secret-value", "vertex",
        lambda p: p.spec["root"]["inputDefinitions"]["parameters"].update(
            db_password={"parameterType": "STRING", "defaultValue": "hunter2!"}
        ),
        "error", f"{INPUTS}.db_password.defaultValue",
    ),
    "a password as a constant": Found(
        "secret-value", "vertex",
        lambda p: p.task("train")["inputs"]["parameters"].update(
            api_token={"runtimeValue": {"constant": "hunter2!"}}
        ),
        "error", f"{TASKS}.train.inputs.parameters.api_token.runtimeValue.constant",
    ),
    "a password inside a JSON text": Found(
        "secret-value", "vertex", default("data", '{"login": {"password": "hunter2!"}}'), "error",
        f"{INPUTS}.data.defaultValue",
    ),
    "a password inside a struct": Found(
        "secret-value", "vertex", struct("STRUCT", {"login": {"password": "hunter2!"}}), "error",
        f"{INPUTS}.options.defaultValue.login.password",
    ),
    "a password by a short name": Found("secret-value", "kubeflow", env("DB_PASS", "hunter2!"), "error", _ENV),
    "a password by MySQL's name": Found("secret-value", "kubeflow", env("MYSQL_PWD", "hunter2!"), "error", _ENV),
    "a token that is no number": Found("secret-value", "kubeflow", env("API_TOKEN", "0f" * 20), "error", _ENV),
    "a password by a short option": Found(
        "secret-value", "vertex", option("--db-pass", "hunter2!"), "error", f"{TRAIN}.args[5]"
    ),
    "a password that looks like a variable": Found(
        "secret-value", "vertex", env("DB_PASSWORD", "$hunter2!"), "error", _ENV
    ),
    "a password among the names of tokens": Found(
        "secret-value", "vertex", env("SPECIAL_TOKENS_PASSWORD", "hunter2!"), "error", _ENV
    ),
    "a password as a word": Found("secret-value", "vertex", option("PASSWORD=hunter2!"), "error", f"{TRAIN}.args[4]"),
    "a password in a shell's line": Found(
        "secret-value", "vertex", option("export DB_PASSWORD='hunter2!'; run"), "error", f"{TRAIN}.args[4]"
    ),
    "a login in a header": Found(
        "secret-value", "vertex", option(f"curl -H 'Authorization: Bearer {'0f' * 20}' https://x.example"), "error",
        f"{TRAIN}.args[4]",
    ),
    "a password among a loop's items": Found(
        "secret-value", "kubeflow", loop('[{"password": "hunter2!", "n": 1}]'), "error",
        f"{TASKS}.train.parameterIterator.items.raw",
    ),
    "a token in an importer's metadata": Found(
        "secret-value", "kubeflow", importer, "error", "deploymentSpec.executors.exec-importer.importer.metadata.token"
    ),
    "a password as an annotation": Found(
        "secret-value", "kubeflow", metadata("annotations", "a.example/password", "hunter2!"), "error",
        f'{POD}.annotations["a.example/password"]',
    ),
    "a token as a label": Found(
        "secret-value", "kubeflow", metadata("labels", "api-token", "hunter2!"), "error", f"{POD}.labels.api-token"
    ),
}  # fmt: skip

SECRETS_SOUND: dict[str, Sound] = {
    "a password's file": Sound("secret-value", "kubeflow", env("KAFKA_SASL_PASSWORD_FILE", "/var/run/kafka/password")),
    "a reference": Sound("secret-value", "vertex", env("API_TOKEN", "sm://projects/p/secrets/s/versions/1")),
    "an empty password": Sound("secret-value", "vertex", env("KAFKA_SASL_PASSWORD", "")),
    "a password filled in later": Sound("secret-value", "vertex", env("PASSWORD", "{{$.inputs.parameters['x']}}")),
    "a password of which a part is filled in later": Sound(
        "secret-value", "vertex", env("PASSWORD", "x-{{$.inputs.parameters['x']}}")
    ),
    "a number of tokens": Sound("secret-value", "vertex", env("MAX_TOKENS", "4096")),
    "a digest": Sound("secret-value", "vertex", env("DATASET", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d")),
    "a URL with a user": Sound("secret-value", "vertex", env("TRACKING", "https://me@tracking.example/x")),
    "a credentials file": Sound(
        "secret-value", "vertex", env("GOOGLE_APPLICATION_CREDENTIALS", "/var/run/google/key.json")
    ),
    "an example's key": Sound("secret-value", "vertex", env("USER", "AKIAIOSFODNN7EXAMPLE")),
    "an option without a value": Sound("secret-value", "vertex", option("--token", "--verbose")),
    "source that puts a URL together": Sound("secret-value", "vertex", option('f"https://{user}:{password}@{host}"')),
    "tokens a batch": Sound("secret-value", "vertex", env("TOKENS_PER_BATCH", "4096")),
    "a budget of tokens": Sound("secret-value", "vertex", option("--token-budget=512")),
    "ids of tokens": Sound("secret-value", "vertex", option("--token_ids", "5")),
    "a policy of passwords": Sound("secret-value", "vertex", env("PASSWORD_POLICY", "at-least-12")),
    "a pass of several": Sound("secret-value", "vertex", option("--pass", "2")),
    "a word that ends a text": Sound("secret-value", "vertex", env("STOP_TOKEN", "</s>")),
    "a kind of classification": Sound("secret-value", "vertex", env("TOKEN_CLASSIFICATION", "ner")),
    "a credentials file beside": Sound(
        "secret-value", "vertex", env("GOOGLE_APPLICATION_CREDENTIALS", "secrets/key.json")
    ),
    "a shell's variable in small letters": Sound("secret-value", "vertex", option("export DB_PASSWORD=$pw; run")),
    "a switch": Sound("secret-value", "vertex", env("USE_TOKEN_AUTH", "yes")),
    "who keeps secrets": Sound("secret-value", "vertex", env("SECRETS_BACKEND", "gcp")),
    "another reference": Sound("secret-value", "vertex", env("VAULT_SECRET", "gcp-sm://x")),
    "the working directory": Sound("secret-value", "vertex", env("PWD", "/work")),
    "a shell's variable": Sound("secret-value", "vertex", option('export DB_PASSWORD="$OTHER"; run')),
    "source that takes a password from elsewhere": Sound(
        "secret-value", "vertex", option("import os\n\nclient(password=os.environ['DB'])\n")
    ),
    "an annotation of Istio": Sound(
        "secret-value", "kubeflow", metadata("annotations", "sidecar.istio.io/inject", "false")
    ),
    "a loop over plain items": Sound("secret-value", "kubeflow", loop('["a", "b"]')),
}  # fmt: skip
