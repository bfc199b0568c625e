"""``shutterline run --runner docker`` as far as no engine is needed: its options, its refusals, what it asks of one."""

from __future__ import annotations

import gc
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.local import docker_task_handler

from components.shared.container_images import ImageStep, image_of
from components.shared.events.data import Error
from components.shared.step import StepName, StepRecord
from components.shared.version import __version__
from pipelines.params_files import EXAMPLE_PARAMS
from tests.examples import DIGITS, write_params
from tests.onnx_models import write_onnx_directory
from tests.pipelines.conftest import Done, Environment, Refused, Shutterline
from tests.pipelines.docker_server import Behaviour, DockerServer

STEPS: tuple[ImageStep, ...] = ("data-prep", "train", "evaluate")
ID = "sha256:" + 64 * "a"
DOCKER = ("run", "--runner", "docker", "--out", "out")
PASSWORD = "correct-horse-battery"  # noqa: S105 - looked for where it must not be
pytestmark = pytest.mark.usefixtures("here")


def images_file(**changes: Any) -> Path:
    images = {step: {"reference": f"registry.example/{step}@{ID}", "id": ID} for step in STEPS}
    file = Path("images.json")
    file.write_text(json.dumps({"schema_version": 1, "version": __version__, "images": images} | changes))
    return file


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Environment) -> Iterator[DockerServer]:
    """An engine that has the images, whose steps succeed, and that nothing of this machine's settings reaches."""
    for name in os.environ:
        if name.startswith(("AWS_", "KAFKA_", "GOOGLE_", "MLFLOW_")) or name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    with DockerServer(tmp_path_factory.mktemp("engine"), succeeding) as server:
        server.images = {image_of(step): ID for step in STEPS}
        monkeypatch.setenv("DOCKER_HOST", server.host)
        yield server


def run(shutterline: Shutterline, *options: object) -> tuple[Done, Any]:
    """A run with containers, and its document."""
    done = shutterline(*DOCKER, "--json", *options)
    return done, done.document


def environment_of(created: dict[str, Any]) -> dict[str, str]:
    return dict(setting.split("=", 1) for setting in created["Env"])


def mounts_of(created: dict[str, Any]) -> dict[str, bool]:
    """Whether each mounted path is read only."""
    assert all(mount["Target"] == mount["Source"] for mount in created["HostConfig"]["Mounts"])
    return {mount["Source"]: mount["ReadOnly"] for mount in created["HostConfig"]["Mounts"]}


def step_of(created: dict[str, Any]) -> StepName:
    """The step, by what it runs."""
    functions: dict[str, StepName] = {"data_prep": "data-prep", "train": "train"}
    functions |= {"evaluate": "evaluate", "publish": "publish"}
    return next((step for function, step in functions.items() if function in created["Cmd"]), "exit")


def leave_record(created: dict[str, Any], **fields: Any) -> None:
    record = StepRecord(step=step_of(created), seconds=0.1, **fields)
    records = Path(environment_of(created)["SHUTTERLINE_RECORDS"])
    records.mkdir(exist_ok=True)
    (records / f"{record.step}.json").write_text(record.model_dump_json())


def succeeding(created: dict[str, Any]) -> tuple[str, int]:
    """What a step leaves that succeeds: its record, and what kfp's executor writes for the next."""
    if "--executor_input" not in created["Cmd"]:  # the exit step, started by us
        leave_record(created, status="succeeded")
        return "", 0
    given = json.loads(created["Cmd"][created["Cmd"].index("--executor_input") + 1])
    outputs, params = given["outputs"], json.loads(given["inputs"]["parameterValues"]["params"])
    publishes = step_of(created) == "evaluate" and params["publish_uri"] is not None
    leave_record(created, status="succeeded", report={"publish": publishes})
    made = {name: each["outputFile"] for name, each in outputs.get("parameters", {}).items()}
    made |= {name: each["artifacts"][0]["uri"] for name, each in outputs.get("artifacts", {}).items()}
    for name, path in made.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(str(publishes).lower() if name == "Output" else "true" if name == "passed" else "")
    Path(outputs["outputFile"]).parent.mkdir(parents=True, exist_ok=True)
    written = {"artifacts": outputs.get("artifacts", {}), "parameterValues": {"Output": publishes}}
    Path(outputs["outputFile"]).write_text(
        json.dumps(written if "Output" in made else written | {"parameterValues": {}})
    )
    return f"12:00:00 {step_of(created):<9} done\n", 0


def failing_in(step: StepName, output: str, exit_code: int, *, error: Error | None = None) -> Behaviour:
    """Containers of which one fails, without a record where there is no error."""

    def behave(created: dict[str, Any]) -> tuple[str, int]:
        if created["Labels"]["shutterline.step"] != step:
            return succeeding(created)
        if error is not None:
            leave_record(created, status="failed", error=error, exit_code=2)
        return output, exit_code

    return behave


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--network", "host"], "--network belongs to --runner docker"),
        (["--gpus", "all"], "--gpus belongs to --runner docker"),
        (["--images", "images.json"], "--images belongs to --runner docker"),
        (["--shm-size", "1g"], "--shm-size belongs to --runner docker"),
        (["--runner", "docker", "--images", "nowhere.json"], "--images nowhere.json: cannot be read: No such file"),
        (["--data", "http://example/data"], "http:// is not known here"),
    ],
)
def test_options_that_cannot_be_used(here: Path, refused: Refused, options: list[str], expected: str) -> None:
    assert expected in refused("run", "--out", "out", *options)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "the document: Input should be "),
        ({"schema_version": 2}, "schema_version: Input should be 1"),
        ({"version": "0.0.9"}, f"is of version '0.0.9', and this is Shutterline {__version__}"),
        ({"images": {"train": {"reference": "t", "id": ID}}}, "names no image of data-prep, evaluate"),
        ({"images": dict.fromkeys(STEPS, "t")}, "images.data-prep: Input should be "),
        (
            {"images": {step: {"reference": "t", "id": "x"} for step in STEPS}},
            "images.data-prep.id: must be sha256:…",
        ),
    ],
)
@pytest.mark.parametrize("command", [DOCKER, ("compile", "-o", "pipeline.yaml")], ids=lambda command: command[0])
def test_an_images_file_that_cannot_be_used(
    here: Path, refused: Refused, command: tuple[str, ...], content: str | dict[str, Any], expected: str
) -> None:
    file = images_file(**content) if isinstance(content, dict) else Path("images.json")
    if isinstance(content, str):
        file.write_text(content)

    message = refused(*command, "--images", file)

    assert message.startswith(f"--images {file}: ")
    assert expected in message
    assert list(here.iterdir()) == [here / file]


def test_the_compiled_pipeline_names_the_images_of_the_file(shutterline: Shutterline) -> None:
    def images(*options: object) -> dict[str, str]:
        assert shutterline("compile", "-o", "pipeline.yaml", *options).code == 0
        executors = yaml.safe_load(Path("pipeline.yaml").read_text())["deploymentSpec"]["executors"]
        return {executor: spec["container"]["image"] for executor, spec in executors.items()}

    assert images("--images", images_file()) == {
        "exec-data-prep": f"registry.example/data-prep@{ID}",
        "exec-train": f"registry.example/train@{ID}",
        "exec-evaluate": f"registry.example/evaluate@{ID}",
        "exec-publish": f"registry.example/evaluate@{ID}",
        "exec-exit-step": f"registry.example/data-prep@{ID}",
    }
    # The one run did not change the pipeline for the next.
    assert images()["exec-train"] == image_of("train")


# Of Docker's client, which could not connect.
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
def test_no_engine_is_one_clear_message(here: Path, refused: Refused, monkeypatch: Environment) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        for host, why in (
            (f"unix://{here}/no.sock", "there is no such socket; is Docker running?"),
            (f"tcp://127.0.0.1:{taken.getsockname()[1]}", "nobody listens there; is Docker running?"),
            ("nonsense", "is DOCKER_HOST right?"),
        ):
            monkeypatch.setenv("DOCKER_HOST", host)
            message = refused(*DOCKER)
            assert message.startswith(f"--runner docker: no Docker engine answers at {host}: ")
            assert why in message
    assert list(here.iterdir()) == []
    gc.collect()


def test_images_that_are_missing_are_reported_all_at_once(here: Path, refused: Refused, engine: DockerServer) -> None:
    del engine.images[image_of("train")], engine.images[image_of("evaluate")]

    assert refused(*DOCKER) == (
        f"the Docker engine has no image {image_of('train')} and no image {image_of('evaluate')}; "
        "`make images` builds them, and --images names others"
    )
    assert list(here.iterdir()) == []


def test_an_image_of_a_registry_is_fetched_and_one_that_was_built_again_is_refused(
    refused: Refused, shutterline: Shutterline, engine: DockerServer
) -> None:
    refusal, reference = "denied: requested access to the resource is denied", f"registry.example/data-prep@{ID}"
    engine.answers["POST", "/images/create"] = (403, {"message": refusal})
    done, document = run(shutterline, "--images", images_file())
    assert (done.code, done.err.startswith(f"fetching {reference}\n")) == (2, True)
    message = f"the image {reference} is not here and cannot be fetched: {refusal}"
    assert document["error"]["message"].startswith(message)

    images = {step: {"reference": image_of(step), "id": ID} for step in STEPS}
    images["train"]["id"] = "sha256:" + 64 * "b"
    message = refused(*DOCKER, "--images", images_file(images=images))
    assert f"the image {image_of('train')} of train is another one than --images names" in message


def test_a_network_that_is_not_there(refused: Refused, engine: DockerServer) -> None:
    engine.answers["GET", "/networks"] = (200, [{"Id": "1", "Name": "bridge"}, {"Id": "2", "Name": "backend"}])
    message = refused(*DOCKER, "--network", "front")
    assert message == "--network front: the Docker engine has no such network; it has backend, bridge"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "device=cuda"], 'device: "cuda" is asked for, but the Docker engine offers no GPU'),
        (["--set", "device=cuda:1", "--gpus", "none"], 'device: "cuda:1" is asked for, but --gpus none gives none'),
        (["--gpus", "all"], "--gpus all: the Docker engine gives no GPU: could not select device driver"),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error_before_anything_starts(
    here: Path, shutterline: Shutterline, engine: DockerServer, options: list[str], expected: str
) -> None:
    refusal = {"message": 'could not select device driver "" with capabilities: [[gpu]]'}
    engine.answers["POST", "/containers/0/start"] = (500, refusal)

    done, document = run(shutterline, *options)

    assert (done.code, document["error"]["type"]) == (2, "DeviceError")
    assert expected in document["error"]["message"]
    assert list(here.iterdir()) == []
    assert engine.removed == len(engine.created)


ALL_GPUS = {"Count": -1, "Capabilities": [["gpu"]]}
NVIDIA: dict[str, Any] = {"Runtimes": {"nvidia": {}}}
CDI = {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]}


@pytest.mark.parametrize(
    ("info", "options", "request_"),
    [
        (NVIDIA, [], ALL_GPUS),
        (CDI, ["--set", "device=cuda"], {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}),
        ({}, ["--gpus", "all"], ALL_GPUS),
        (NVIDIA, ["--gpus", "none"], None),
        (NVIDIA, ["--set", "device=cpu"], None),
        ({}, [], None),
    ],
)
def test_training_and_evaluation_get_the_gpus(
    shutterline: Shutterline,
    engine: DockerServer,
    info: dict[str, Any],
    options: list[str],
    request_: dict[str, Any] | None,
) -> None:
    engine.info |= info

    done, _ = run(shutterline, *options)

    assert done.code == 0, done.err
    of_steps = [created for created in engine.created if created.get("Labels")]
    asked = {created["Labels"]["shutterline.step"]: created["HostConfig"].get("DeviceRequests") for created in of_steps}
    assert asked.keys() == {"data-prep", "train", "evaluate", "exit"}
    assert asked["data-prep"] is asked["exit"] is None
    for step in ("train", "evaluate"):
        assert (asked[step] is None) == (request_ is None)
        assert request_ is None or asked[step][0].items() >= request_.items()


def test_containers_are_hardened_and_see_only_what_they_need(
    here: Path, shutterline: Shutterline, engine: DockerServer, monkeypatch: Environment
) -> None:
    (here / "home" / ".aws").mkdir(parents=True)
    (here / "home" / ".aws/credentials").write_text("[default]\n")
    for name in ("password", "ca.pem", "service.json"):
        Path(name).write_text("secret")
    for name, value in {
        "HOME": here / "home", "KAFKA_SASL_PASSWORD_FILE": "password", "KAFKA_SSL_CAFILE": here / "ca.pem",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000", "MLFLOW_TRACKING_SERVER_CERT_PATH": "ca.pem",
        "KAFKA_SSL_KEYFILE": here / "nowhere.pem", "AWS_SECRET_ACCESS_KEY": PASSWORD, "SHUTTERLINE_RUN_ID": "run-7",
        "SOMETHING_ELSE": "stays here",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    google = {"GOOGLE_APPLICATION_CREDENTIALS": "service.json", "PUB_SUB_PROJECT": "vision-1", "PUB_SUB_TOPIC": "runs"}
    params, out = write_params(Path("params.json"), **google), here / "a: python3 'run'"
    limits = ["--network", "none", "--shm-size", "2g", "--memory", "3g", "--cpus", "1.5"]

    done, document = run(shutterline, "--params", params, "--data", DIGITS, "--out", out, *limits)

    assert done.code == 0, done.err
    assert document["run"] == "run-7"
    assert engine.steps == ["data-prep", "train", "evaluate", "exit"]
    assert engine.removed == 4
    assert {created["Image"] for created in engine.created} == {image_of(step) for step in STEPS}
    read_only = (DIGITS, here / "password", here / "ca.pem", here / "service.json")
    for created in engine.created:
        host = created["HostConfig"]
        assert created["Labels"]["shutterline.run"] == "run-7"
        assert (created["User"], created["Entrypoint"]) == (f"{os.getuid()}:{os.getgid()}", [])
        assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
        assert host["ReadonlyRootfs"] is host["Init"] is True
        assert "size=" in host["Tmpfs"]["/tmp"]  # noqa: S108 - the containers' own
        assert host["NetworkMode"] == "none"
        assert (host["ShmSize"], host["Memory"], host["NanoCpus"]) == (2 << 30, 3 << 30, 1_500_000_000)
        assert not host.get("Binds")
        assert mounts_of(created) == {str(out): False, **dict.fromkeys(map(str, read_only), True)}
        environment = environment_of(created)
        assert environment["KAFKA_SASL_PASSWORD_FILE"] == str(here / "password")
        assert "AWS_SHARED_CREDENTIALS_FILE" not in environment, "nothing lies in S3"
        assert environment["AWS_SECRET_ACCESS_KEY"] == PASSWORD
        assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
        assert environment["MLFLOW_TRACKING_SERVER_CERT_PATH"] == str(here / "ca.pem")
        assert all("service.json" not in part or str(here / "service.json") in part for part in created["Cmd"])
        assert environment["SHUTTERLINE_EVENTS"] == str(out / "events")
        assert Path(environment["TMPDIR"]).parent == out
        assert "SOMETHING_ELSE" not in environment
    # The secret went nowhere but there.
    assert PASSWORD not in done.err + done.out
    assert not any(PASSWORD in path.read_text() for path in out.rglob("*") if path.is_file())
    assert not list(out.glob(".*"))


GOOGLE_LOGIN = ".config/gcloud/application_default_credentials.json"


@pytest.mark.parametrize(
    ("data", "variable", "file"),
    [
        ("gs://bucket/python3/digits", "GOOGLE_APPLICATION_CREDENTIALS", GOOGLE_LOGIN),
        ("s3://bucket/python3/digits", "AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
    ],
)
def test_data_in_a_bucket_is_passed_on_with_the_login_it_needs(
    here: Path,
    shutterline: Shutterline,
    engine: DockerServer,
    monkeypatch: Environment,
    data: str,
    variable: str,
    file: str,
) -> None:
    home = here / "home"
    for name in (GOOGLE_LOGIN, ".aws/credentials"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text("{}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SHUTTERLINE_SCRATCH", str(here / "fetched"))

    done, _ = run(shutterline, "--params", EXAMPLE_PARAMS, "--data", data)

    assert done.code == 0, done.err
    created = engine.created[0]
    assert mounts_of(created) == {str(here / "out"): False, str(here / "fetched"): False, str(home / file): True}
    assert environment_of(created)[variable] == str(home / file)
    assert (here / "fetched").is_dir()
    assert any(f'"data": "{data}"' in part for part in created["Cmd"])


def test_settings_that_name_this_machine_are_warned_about(
    shutterline: Shutterline, engine: DockerServer, monkeypatch: Environment
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:4443")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    options = ["--set", "KAFKA_HOST=localhost:9092", "--set", "KAFKA_TOPIC=runs"]

    warned = run(shutterline, *options)[0].err
    on_host = run(shutterline, "--out", "2", "--network", "host", *options)[0].err

    for name in ("STORAGE_EMULATOR_HOST", "MLFLOW_TRACKING_URI", "KAFKA_HOST"):
        assert f"warning: {name} names this machine" in warned
        assert f"warning: {name}" not in on_host


@pytest.mark.parametrize(
    ("output", "exit_code", "expected"),
    [
        ("12:00:00 train     epoch 1/9\n", 137, "it was killed by SIGKILL (exit code 137)"),
        ("12:00:00 train     out of memory\n", 137, "it ran out of memory and was killed (exit code 137)"),
        ("ImportError: no torch here\n\n", 1, "it ended with exit code 1, and its last line is: ImportError: no torch"),
        ("12:00:00 train     SECRET: " + PASSWORD, 139, "it was killed by SIGSEGV (exit code 139)"),
    ],
)
def test_a_container_that_ends_without_a_word_is_explained_and_nothing_follows_it(
    shutterline: Shutterline, engine: DockerServer, output: str, exit_code: int, expected: str
) -> None:
    engine.behaviour = failing_in("train", output, exit_code)

    done, document = run(shutterline)

    assert (done.code, document["status"], document["error"]["step"]) == (1, "failed", "train")
    assert document["error"]["message"].startswith(expected)
    assert engine.steps == ["data-prep", "train", "exit"]
    assert engine.removed == 3
    assert output in Path("out/kfp.log").read_text()


def test_an_engine_that_refuses_a_container_is_quoted(shutterline: Shutterline, engine: DockerServer) -> None:
    engine.answers["POST", "/containers/1/start"] = (500, {"message": "no space left on device"})

    done, document = run(shutterline)

    assert (done.code, document["error"]["step"]) == (1, "train")
    assert document["error"]["message"] == "the container of train could not be run: no space left on device"
    assert engine.steps == ["data-prep", "train", "exit"]
    assert engine.removed == 3
    assert document["steps"] == {"data-prep": "succeeded", "exit": "succeeded"}


def test_a_record_of_failure_outweighs_an_exit_code_of_success(shutterline: Shutterline, engine: DockerServer) -> None:
    engine.behaviour = failing_in("data-prep", "", 0, error=Error("DataError", "no images"))

    done, document = run(shutterline)

    error = {"step": "data-prep", "type": "DataError", "message": "no images", "exit_code": 2}
    assert (done.code, document["error"]) == (2, error)
    assert engine.steps == ["data-prep", "exit"]


def test_containers_of_others_are_kfps_own_business(
    shutterline: Shutterline, engine: DockerServer, monkeypatch: Environment
) -> None:
    calls: list[dict[str, Any]] = []

    def kfps_own(**arguments: Any) -> int:
        calls.append(arguments)
        return 7

    def behave(created: dict[str, Any]) -> tuple[str, int]:
        others = {"client": None, "image": "i", "command": ["c"], "volumes": {}, "labels": {"a": "b"}}
        assert docker_task_handler.run_docker_container(**others) == 7
        return succeeding(created)

    monkeypatch.setattr(
        docker_task_handler,
        "run_docker_container",
        lambda client, image, command, volumes, **arguments: kfps_own(image=image, command=command, **arguments),
    )
    before = docker_task_handler.run_docker_container
    engine.behaviour = behave

    done, _ = run(shutterline)

    assert done.code == 0, done.err
    assert calls == [{"image": "i", "command": ["c"], "labels": {"a": "b"}}] * 4
    assert docker_task_handler.run_docker_container is before


def test_a_model_is_published_from_a_container_that_sees_where(
    here: Path, shutterline: Shutterline, engine: DockerServer
) -> None:
    write_onnx_directory(here / "baseline", classes=list("0123456789"), shape=(8, 8, 1))
    params = write_params(Path("params.json"), publish_uri="models", baseline="baseline")

    done, document = run(shutterline, "--params", params, "--data", DIGITS, "--out", "out")

    assert done.code == 0, done.err
    assert engine.steps == ["data-prep", "train", "evaluate", "publish", "exit"]
    assert document["steps"]["publish"] == "succeeded"
    assert engine.created[3]["Image"] == image_of("evaluate")
    for created in engine.created:
        mounts = mounts_of(created)
        assert (mounts[str(here / "models")], mounts[str(here / "baseline")]) == (False, True)
    written = json.loads((here / "out/params.json").read_text())
    assert (written["publish_uri"], written["baseline"]) == (str(here / "models"), str(here / "baseline"))
