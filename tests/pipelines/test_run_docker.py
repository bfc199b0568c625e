"""``shutterline run --runner docker`` as far as no engine is needed: its options, its refusals, what it asks of one."""

from __future__ import annotations

import gc
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.local import docker_task_handler

from components.shared.events.data import Error
from components.shared.images import ImageStep, image_of
from components.shared.step import StepName, StepRecord
from components.shared.version import __version__
from pipelines.cli import main
from pipelines.params_files import EXAMPLE_PARAMS
from tests.conftest import BAD_INPUT
from tests.examples import DIGITS, write_params
from tests.pipelines.docker_server import DockerServer

STEPS: tuple[ImageStep, ...] = ("data-prep", "train", "evaluate")
ID = "sha256:" + 64 * "a"
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
PASSWORD = "correct-horse-battery"  # noqa: S105 - looked for where it must not be


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    """A command of ours in this process: exit code, the JSON document, standard error."""
    code = main([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return code, json.loads(printed.out), printed.err


def images_file(path: Path, **changes: Any) -> Path:
    images = {step: {"reference": f"registry.example/{step}@{ID}", "id": ID} for step in STEPS}
    path.write_text(json.dumps({"schema_version": 1, "version": __version__, "images": images} | changes))
    return path


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerServer]:
    """An engine that has the images; its containers leave the records of steps that succeed.

    Nothing of this machine's settings reaches it.
    """
    for name in [name for name in os.environ if name.startswith(("AWS_", "KAFKA_", "GOOGLE_")) or name in CERTIFICATES]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    with DockerServer(tmp_path_factory.mktemp("engine"), succeeding) as server:
        server.images = {image_of(step): ID for step in STEPS}
        monkeypatch.setenv("DOCKER_HOST", server.host)
        yield server


def environment_of(created: dict[str, Any]) -> dict[str, str]:
    return dict(setting.split("=", 1) for setting in created["Env"])


def step_of(created: dict[str, Any]) -> StepName:
    """The step, by what it runs."""
    functions: dict[str, StepName] = {"data_prep": "data-prep", "train": "train", "evaluate": "evaluate"}
    return next((step for function, step in functions.items() if function in created["Cmd"]), "exit")


def leave_record(created: dict[str, Any], **fields: Any) -> None:
    """Do what a step does at its end."""
    record = StepRecord(step=step_of(created), seconds=0.1, **fields)
    records = Path(environment_of(created)["SHUTTERLINE_RECORDS"])
    records.mkdir(exist_ok=True)
    (records / f"{record.step}.json").write_text(record.model_dump_json())


def succeeding(created: dict[str, Any]) -> tuple[str, int]:
    """What a step leaves that succeeds: its record, and what kfp's executor writes for the next."""
    leave_record(created, status="succeeded")
    if "--executor_input" not in created["Cmd"]:  # the exit step, started by us
        return "", 0
    outputs = json.loads(created["Cmd"][created["Cmd"].index("--executor_input") + 1])["outputs"]
    file = Path(outputs["outputFile"])
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"artifacts": outputs.get("artifacts", {})}))
    made = [each["outputFile"] for each in outputs.get("parameters", {}).values()]
    made += [each["artifacts"][0]["uri"] for each in outputs.get("artifacts", {}).values()]
    for path in map(Path, made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return f"12:00:00 {step_of(created):<9} done\n", 0


def failing_in(step: StepName, output: str, exit_code: int) -> Callable[[dict[str, Any]], tuple[str, int]]:
    """Containers of which one ends without a record."""
    return lambda created: (output, exit_code) if created["Labels"]["shutterline.step"] == step else succeeding(created)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--network", "host"], "--network belongs to --runner docker"),
        (["--gpus", "all"], "--gpus belongs to --runner docker"),
        (["--images", "images.json"], "--images belongs to --runner docker"),
        (["--shm-size", "1g"], "--shm-size belongs to --runner docker"),
        (["--runner", "docker", "--shm-size", "lots"], "--shm-size: must be a size such as 512m or 8g, got 'lots'"),
        (["--runner", "docker", "--memory", "-1"], "--memory: must be a size such as 512m or 8g, got '-1'"),
        (["--runner", "docker", "--cpus", "two"], "--cpus: must be a number of processors such as 2 or 1.5, got 'two'"),
        (["--runner", "docker", "--network", " "], "--network: must name a network"),
        (["--runner", "docker", "--images", "nowhere.json"], "--images nowhere.json: cannot be read: No such file"),
        (["--data", "http://example/data"], "http:// is not known here"),
    ],
)
def test_options_that_cannot_be_used(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
    options: list[str],
    expected: str,
) -> None:
    code, document, _ = told(capsys, "run", "--out", tmp_path / "out", *options)

    assert code == 2
    assert expected in document["error"]["message"]
    assert "\n" not in document["error"]["message"]
    assert not (tmp_path / "out").exists()
    record_property(BAD_INPUT, (f"run: {' '.join(options)}", document["error"]["message"]))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", 'holds no mapping with "images"'),
        ({"schema_version": 2}, 'must have "schema_version": 1, got 2'),
        ({"version": "0.0.9"}, f"is of version '0.0.9', and this is Shutterline {__version__}"),
        ({"images": {"train": {"reference": "t", "id": ID}}}, "names no image of data-prep, evaluate"),
        ({"images": dict.fromkeys(STEPS, "t")}, 'images.data-prep must be {"reference"'),
        ({"images": {step: {"reference": "t", "id": "x"} for step in STEPS}}, '"id": "sha256:…"}'),
    ],
)
@pytest.mark.parametrize("command", ["run", "compile"])
def test_an_images_file_that_cannot_be_used(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
    command: str,
    content: str | dict[str, Any],
    expected: str,
) -> None:
    file = tmp_path / "images.json"
    if isinstance(content, str):
        file.write_text(content)
    else:
        images_file(file, **content)
    options = ["--runner", "docker", "--out", tmp_path / "out"] if command == "run" else ["-o", tmp_path / "p.yaml"]

    code, document, _ = told(capsys, command, *options, "--images", file)

    assert code == 2
    assert document["error"]["message"].startswith(f"--images {file}: ")
    assert expected in document["error"]["message"]
    assert list(tmp_path.iterdir()) == [file]
    record_property(BAD_INPUT, (f"images: {expected}", document["error"]["message"].replace(str(file), "images.json")))


def test_the_compiled_pipeline_names_the_images_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = images_file(tmp_path / "images.json")

    assert told(capsys, "compile", "-o", tmp_path / "pinned.yaml", "--images", file)[0] == 0
    assert told(capsys, "compile", "-o", tmp_path / "default.yaml")[0] == 0

    def images(name: str) -> dict[str, str]:
        executors = yaml.safe_load((tmp_path / name).read_text())["deploymentSpec"]["executors"]
        return {executor: spec["container"]["image"] for executor, spec in executors.items()}

    assert images("pinned.yaml") == {
        "exec-data-prep": f"registry.example/data-prep@{ID}",
        "exec-train": f"registry.example/train@{ID}",
        "exec-evaluate": f"registry.example/evaluate@{ID}",
        "exec-exit-step": f"registry.example/data-prep@{ID}",
    }
    # The one run did not change the pipeline for the next.
    assert images("default.yaml")["exec-train"] == image_of("train")


@pytest.mark.filterwarnings(
    "ignore:unclosed <socket.socket:ResourceWarning"
)  # of Docker's client, which could not connect
def test_no_engine_is_one_clear_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        for host, why in (
            (f"unix://{tmp_path}/no.sock", "there is no such socket; is Docker running?"),
            (nobody, "nobody listens there; is Docker running?"),
            ("nonsense", "is DOCKER_HOST right?"),
        ):
            monkeypatch.setenv("DOCKER_HOST", host)

            code, document, told_err = told(capsys, "run", "--runner", "docker", "--out", tmp_path / "out")

            assert code == 2
            assert document["error"]["message"].startswith(f"--runner docker: no Docker engine answers at {host}: ")
            assert why in document["error"]["message"]
            assert told_err.count("\n") == 1
            assert not (tmp_path / "out").exists()
    gc.collect()


def test_images_that_are_missing_are_told_all_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: DockerServer
) -> None:
    del engine.images[image_of("train")], engine.images[image_of("evaluate")]

    code, document, _ = told(capsys, "run", "--runner", "docker", "--out", tmp_path / "out")

    assert code == 2
    assert document["error"]["message"] == (
        f"the Docker engine has no image {image_of('train')} and no image {image_of('evaluate')}; "
        "`make images` builds them, and --images names others"
    )
    assert not (tmp_path / "out").exists()


def test_an_image_of_a_registry_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: DockerServer
) -> None:
    refusal = "denied: requested access to the resource is denied"
    engine.answers["POST", "/images/create"] = (403, {"message": refusal})
    file = images_file(tmp_path / "images.json")

    code, document, said = told(capsys, "run", "--runner", "docker", "--images", file, "--out", tmp_path / "out")

    assert code == 2
    reference = f"registry.example/data-prep@{ID}"
    assert said.startswith(f"fetching {reference}\n")
    assert document["error"]["message"].startswith(
        f"the image {reference} is not here and cannot be fetched: {refusal}"
    )


def test_an_image_that_was_built_again_is_not_the_one_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: DockerServer
) -> None:
    images = {step: {"reference": image_of(step), "id": ID} for step in STEPS}
    images["train"]["id"] = "sha256:" + 64 * "b"
    file = images_file(tmp_path / "images.json", images=images)

    code, document, _ = told(capsys, "run", "--runner", "docker", "--images", file, "--out", tmp_path / "out")

    assert code == 2
    assert f"the image {image_of('train')} of train is another one than --images names" in document["error"]["message"]


def test_a_network_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: DockerServer) -> None:
    engine.answers["GET", "/networks"] = (200, [{"Id": "1", "Name": "bridge"}, {"Id": "2", "Name": "backend"}])

    code, document, _ = told(capsys, "run", "--runner", "docker", "--network", "front", "--out", tmp_path / "out")

    assert code == 2
    assert document["error"]["message"] == (
        "--network front: the Docker engine has no such network; it has backend, bridge"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "device=cuda"], 'device: "cuda" is asked for, but the Docker engine offers no GPU'),
        (["--set", "device=cuda:1", "--gpus", "none"], 'device: "cuda:1" is asked for, but --gpus none gives none'),
        (["--gpus", "all"], "--gpus all: the Docker engine gives no GPU: could not select device driver"),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: DockerServer, options: list[str], expected: str
) -> None:
    engine.answers["POST", "/containers/0/start"] = (
        500,
        {"message": 'could not select device driver "" with capabilities: [[gpu]]'},
    )

    code, document, _ = told(capsys, "run", "--runner", "docker", "--out", tmp_path / "out", *options)

    assert code == 2
    assert document["error"]["type"] == "DeviceError"
    assert expected in document["error"]["message"]
    assert not (tmp_path / "out").exists()
    assert engine.removed == len(engine.created)


@pytest.mark.parametrize(
    ("info", "options", "request_"),
    [
        ({"Runtimes": {"nvidia": {}}}, [], {"Count": -1, "Capabilities": [["gpu"]]}),
        (
            {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]},
            ["--set", "device=cuda"],
            {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]},
        ),
        ({}, ["--gpus", "all"], {"Count": -1, "Capabilities": [["gpu"]]}),
        ({"Runtimes": {"nvidia": {}}}, ["--gpus", "none"], None),
        ({"Runtimes": {"nvidia": {}}}, ["--set", "device=cpu"], None),
        ({}, [], None),
    ],
)
def test_training_and_evaluation_get_the_gpus(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    engine: DockerServer,
    info: dict[str, Any],
    options: list[str],
    request_: dict[str, Any] | None,
) -> None:
    engine.info |= info

    code, _, said = told(capsys, "run", "--runner", "docker", "--out", tmp_path / "out", *options)

    assert code == 0, said
    of_steps = [created for created in engine.created if created.get("Labels")]
    asked = {created["Labels"]["shutterline.step"]: created["HostConfig"].get("DeviceRequests") for created in of_steps}
    assert asked.keys() == {"data-prep", "train", "evaluate", "exit"}
    assert asked["data-prep"] is asked["exit"] is None
    for step in ("train", "evaluate"):
        assert (asked[step] is None) == (request_ is None)
        if request_ is not None:
            assert asked[step][0].items() >= request_.items()


def test_containers_are_hardened_and_see_only_what_they_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: DockerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws/credentials").write_text("[default]\n")
    for name in ("password", "ca.pem", "service.json"):
        (tmp_path / name).write_text("secret")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAFKA_SASL_PASSWORD_FILE", "password")
    monkeypatch.setenv("KAFKA_SSL_CAFILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("KAFKA_SSL_KEYFILE", str(tmp_path / "nowhere.pem"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", "run-7")
    monkeypatch.setenv("SOMETHING_ELSE", "stays here")
    params = write_params(
        tmp_path / "params.json",
        GOOGLE_APPLICATION_CREDENTIALS="service.json",
        PUB_SUB_PROJECT="vision-1",
        PUB_SUB_TOPIC="runs",
    )
    out = tmp_path / "a: python3 'run'"

    options = ["--network", "none", "--shm-size", "2g", "--memory", "3g", "--cpus", "1.5"]
    code, document, said = told(
        capsys, "run", "--runner", "docker", "--params", params, "--data", DIGITS, "--out", out, *options
    )

    assert code == 0, said
    assert document["run"] == "run-7"
    assert engine.steps == ["data-prep", "train", "evaluate", "exit"]
    assert engine.removed == 4
    assert {created["Image"] for created in engine.created} == {
        image_of("data-prep"),
        image_of("train"),
        image_of("evaluate"),
    }
    for created in engine.created:
        host = created["HostConfig"]
        assert created["Labels"]["shutterline.run"] == "run-7"
        assert created["User"] == f"{os.getuid()}:{os.getgid()}"
        assert created["Entrypoint"] == []
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert host["ReadonlyRootfs"] is True
        assert "size=" in host["Tmpfs"]["/tmp"]  # noqa: S108 - the containers' own
        assert host["NetworkMode"] == "none"
        assert host["Init"] is True
        assert (host["ShmSize"], host["Memory"], host["NanoCpus"]) == (2 << 30, 3 << 30, 1_500_000_000)
        assert not host.get("Binds")
        assert {mount["Source"]: mount["ReadOnly"] for mount in host["Mounts"]} == {
            str(out): False,
            str(DIGITS): True,
            str(tmp_path / "password"): True,
            str(tmp_path / "ca.pem"): True,
            str(tmp_path / "service.json"): True,
        }
        assert all(mount["Target"] == mount["Source"] for mount in host["Mounts"])
        environment = environment_of(created)
        assert environment["KAFKA_SASL_PASSWORD_FILE"] == str(tmp_path / "password")
        assert "AWS_SHARED_CREDENTIALS_FILE" not in environment, "nothing lies in S3"
        assert environment["AWS_SECRET_ACCESS_KEY"] == PASSWORD
        assert all("service.json" not in part or str(tmp_path / "service.json") in part for part in created["Cmd"])
        assert environment["SHUTTERLINE_EVENTS"] == str(out / "events")
        assert Path(environment["TMPDIR"]).parent == out
        assert "SOMETHING_ELSE" not in environment
    # The secret went nowhere but there.
    assert PASSWORD not in said
    assert PASSWORD not in json.dumps(document)
    for file in (path for path in out.rglob("*") if path.is_file()):
        assert PASSWORD not in file.read_text()
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("data", "variable", "file"),
    [
        (
            "gs://bucket/python3/digits",
            "GOOGLE_APPLICATION_CREDENTIALS",
            ".config/gcloud/application_default_credentials.json",
        ),
        ("s3://bucket/python3/digits", "AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
    ],
)
def test_data_in_a_bucket_is_passed_on_with_the_login_it_needs(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    engine: DockerServer,
    monkeypatch: pytest.MonkeyPatch,
    data: str,
    variable: str,
    file: str,
) -> None:
    for name in (".config/gcloud/application_default_credentials.json", ".aws/credentials"):
        (tmp_path / "home" / name).parent.mkdir(parents=True)
        (tmp_path / "home" / name).write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHUTTERLINE_SCRATCH", str(tmp_path / "fetched"))

    code, _, said = told(
        capsys, "run", "--runner", "docker", "--params", EXAMPLE_PARAMS, "--data", data, "--out", tmp_path / "out"
    )

    assert code == 0, said
    created = engine.created[0]
    assert {mount["Source"]: mount["ReadOnly"] for mount in created["HostConfig"]["Mounts"]} == {
        str(tmp_path / "out"): False,
        str(tmp_path / "fetched"): False,
        str(tmp_path / "home" / file): True,
    }
    assert environment_of(created)[variable] == str(tmp_path / "home" / file)
    assert (tmp_path / "fetched").is_dir()
    assert any(f'"data": "{data}"' in part for part in created["Cmd"])


def test_settings_that_name_this_machine_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: DockerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:4443")
    options = ["--set", "KAFKA_HOST=localhost:9092", "--set", "KAFKA_TOPIC=runs"]

    said = told(capsys, "run", "--runner", "docker", "--out", tmp_path / "1", *options)[2]
    said_on_host = told(capsys, "run", "--runner", "docker", "--out", tmp_path / "2", "--network", "host", *options)[2]

    for name in ("STORAGE_EMULATOR_HOST", "KAFKA_HOST"):
        assert f"warning: {name} names this machine" in said
        assert f"warning: {name}" not in said_on_host


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
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    engine: DockerServer,
    output: str,
    exit_code: int,
    expected: str,
) -> None:
    engine.behaviour = failing_in("train", output, exit_code)

    code, document, _ = told(capsys, "run", "--runner", "docker", "--out", tmp_path / "out")

    assert code == 1
    assert document["status"] == "failed"
    assert document["error"]["step"] == "train"
    assert document["error"]["message"].startswith(expected)
    assert engine.steps == ["data-prep", "train", "exit"]
    assert engine.removed == 3
    assert output in (tmp_path / "out" / "kfp.log").read_text()


def test_a_record_of_failure_outweighs_an_exit_code_of_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: DockerServer
) -> None:
    def behave(created: dict[str, Any]) -> tuple[str, int]:
        if step_of(created) != "data-prep":
            return succeeding(created)
        error = Error("DataError", "no images")
        leave_record(created, status="failed", error=error, exit_code=2)
        return "", 0

    engine.behaviour = behave

    code, document, _ = told(capsys, "run", "--runner", "docker", "--out", tmp_path / "out")

    assert code == 2
    assert document["error"] == {"step": "data-prep", "type": "DataError", "message": "no images", "exit_code": 2}
    assert engine.steps == ["data-prep", "exit"]


def test_an_engine_that_refuses_a_container_is_told_in_its_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: DockerServer
) -> None:
    engine.answers["POST", "/containers/1/start"] = (500, {"message": "no space left on device"})

    code, document, _ = told(capsys, "run", "--runner", "docker", "--out", tmp_path / "out")

    assert code == 1
    assert document["error"]["step"] == "train"
    assert document["error"]["message"] == "the container of train could not be run: no space left on device"
    assert engine.steps == ["data-prep", "train", "exit"]
    assert engine.removed == 3
    assert document["steps"] == {"data-prep": "succeeded", "exit": "succeeded"}


def test_with_a_kfp_that_runs_containers_in_another_way_the_records_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: DockerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfps_own = docker_task_handler.run_docker_container

    def run_docker_container(
        client: Any, image: str, command: list[str], volumes: dict[str, Any], pull: bool = False, **arguments: Any
    ) -> int:
        kfps_own(client, image, command, volumes, **arguments)
        return 0  # as kfp says of a container that was removed before it looked

    def behave(created: dict[str, Any]) -> tuple[str, int]:
        if step_of(created) != "data-prep":
            return succeeding(created)
        error = Error("DataError", "no images")
        leave_record(created, status="failed", error=error, exit_code=2)
        return "12:00:00 data-prep ERROR failed: no images\n", 2

    engine.behaviour = behave
    engine.answers["GET", "/images/json"] = (200, [{"Id": ID}])
    engine.answers["GET", "/containers/json"] = (200, [])
    engine.images[ID] = ID
    monkeypatch.setattr(docker_task_handler, "run_docker_container", run_docker_container)

    code, document, said = told(capsys, "run", "--runner", "docker", "--out", tmp_path / "out")

    assert code == 2, said
    assert document["error"] == {"step": "data-prep", "type": "DataError", "message": "no images", "exit_code": 2}
    assert "no images" in said
    assert docker_task_handler.run_docker_container is run_docker_container
