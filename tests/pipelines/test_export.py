"""``shutterline export``: what is written is what Triton, KServe and a plain ONNX Runtime read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import yaml
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

from components.shared.artifacts.model import Model
from components.shared.inference.classifier import OnnxClassifier
from tests.onnx_models import CLASSES, SHAPE, onnx_model, write_onnx_directory
from tests.peers.object_store import Bucket
from tests.pipelines.conftest import Refused, Shutterline

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is imported

# Types by Triton's names, as its ONNX Runtime has them.
TYPES = {onnx.TensorProto.UINT8: "TYPE_UINT8", onnx.TensorProto.FLOAT: "TYPE_FP32"}
# The documented fields of KServe's InferenceService that a served model needs (v1beta1), and no other.
SERVICE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "serving.kserve.io/v1beta1"},
        "kind": {"const": "InferenceService"},
        "metadata": {
            "additionalProperties": False,
            "required": ["name"],
            "properties": {"name": {"pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}},
        },
        "spec": {
            "additionalProperties": False,
            "properties": {
                "predictor": {
                    "additionalProperties": False,
                    "properties": {
                        "model": {
                            "additionalProperties": False,
                            "required": ["modelFormat", "storageUri"],
                            "properties": {
                                "modelFormat": {
                                    "additionalProperties": False,
                                    "required": ["name"],
                                    "properties": {"name": {"const": "onnx"}, "version": {"type": "string"}},
                                },
                                "protocolVersion": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
                                "runtime": {"type": "string"},
                                "storageUri": {"type": "string"},
                            },
                        }
                    },
                }
            },
        },
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return write_onnx_directory(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Another training of the same classes."""
    content = onnx_model(seed=1).SerializeToString(deterministic=True)
    return write_onnx_directory(tmp_path_factory.mktemp("models") / "model", content)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def config_of(file: Path) -> Any:
    """A config.pbtxt as Triton parses it."""
    return text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())


def test_triton_is_told_what_the_file_holds(shutterline: Shutterline, tmp_path: Path, model: Model) -> None:
    out = tmp_path / "repository"

    done = shutterline("export", model.path, "--layout", "triton", "-o", out, "--name", "pets", "--max-batch", 16)

    assert done.code == 0, done.err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(model.path)
    of_run = shutterline(
        "export", tmp_path / "run", "--layout", "triton", "-o", out, "--name", "pets", "--max-batch", 16
    )
    assert of_run.err + of_run.out == f"is there already: version 1 of pets in {out}\n"
    assert list(files(out)) == ["pets/1/model.onnx", "pets/config.pbtxt", "pets/labels.txt"]
    config, graph = config_of(out / "pets" / "config.pbtxt"), onnx.load(out / "pets" / "1" / "model.onnx").graph
    assert (config.name, config.platform, config.max_batch_size) == ("pets", "onnxruntime_onnx", 16)
    assert config.HasField("dynamic_batching")
    for configured, held in ((config.input, graph.input), (config.output, graph.output)):
        assert [
            (each.name, model_config_pb2.DataType.Name(each.data_type), ["batch", *each.dims]) for each in configured
        ] == [
            (
                each.name,
                TYPES[each.type.tensor_type.elem_type],
                [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim],
            )
            for each in held
        ]
    assert (out / "pets" / config.output[0].label_filename).read_text().splitlines() == model.manifest.classes


def test_a_plain_runtime_gives_what_predict_gives(shutterline: Shutterline, tmp_path: Path, model: Model) -> None:
    import onnxruntime

    assert shutterline("export", model.path, "--layout", "triton", "-o", tmp_path / "out").code == 0
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)

    session = onnxruntime.InferenceSession(tmp_path / "out" / "classifier" / "1" / "model.onnx")
    (found,) = session.run(["probabilities"], {"images": images})

    np.testing.assert_allclose(found, OnnxClassifier.open(model)(images), atol=1e-6)


@pytest.mark.parametrize("uri", ["pvc://models/pets", "gs://bucket/pets", "https://store.example/pets"])
def test_kserve_is_told_where_the_repository_is(
    shutterline: Shutterline, tmp_path: Path, model: Model, uri: str
) -> None:
    out = tmp_path / "out"

    done = shutterline("export", model.path, "--layout", "kserve", "-o", out, "--storage-uri", uri, "--json")

    assert done.document == {
        "status": "exported",
        "repository": str(out),
        "name": "classifier",
        "version": 1,
        "files": [*(f"classifier/{name}" for name in ("labels.txt", "config.pbtxt")), "inference-service.yaml",
                  "classifier/1/model.onnx"],
        "model": {"from": str(model.path), "sha256": model.manifest.onnx and model.manifest.onnx.sha256, "classes": 3,
                  "image": [8, 8, 3], "stored_image": [8, 8, 3]},
    }  # fmt: skip
    service = yaml.safe_load((out / "inference-service.yaml").read_text())
    jsonschema.validate(service, SERVICE_SCHEMA)
    assert service["metadata"]["name"] == "classifier"
    # KServe's stock runtimes by these names: Triton is given the folder as its model repository.
    assert service["spec"]["predictor"]["model"] == {
        "modelFormat": {"name": "onnx", "version": "1"},
        "protocolVersion": "v2",
        "runtime": "kserve-tritonserver",
        "storageUri": uri,
    }


def test_clients_of_a_model_with_a_stored_size_read_what_to_send(
    shutterline: Shutterline, refused: Refused, tmp_path: Path, model: Model
) -> None:
    stored = write_onnx_directory(tmp_path / "stored", stored=(13, 10, 3))
    cropped = write_onnx_directory(tmp_path / "cropped", image_fit="crop", image_interpolation="lanczos")
    options = ["--layout", "triton", "-o", tmp_path / "out"]

    done = shutterline("export", stored.path, *options)

    assert done.err.splitlines()[-1] == (
        "clients resize images to 13×10 (height×width) and send the middle 8×8 of each, from row 2 and column 1 on, "
        "counted from 0"
    )
    config = config_of(tmp_path / "out" / "classifier" / "config.pbtxt")
    assert config.parameters["shutterline.stored_image"].string_value == "[13, 10, 3]"
    assert list(config.input[0].dims) == [8, 8, 3]
    done = shutterline("export", cropped.path, *options, "--name", "cropped")
    scaled = "clients scale images to cover, and keep the middle of, 8×8 (height×width), by lanczos interpolation"
    assert done.err.splitlines()[-1] == scaled
    parameters = config_of(tmp_path / "out" / "cropped" / "config.pbtxt").parameters
    assert parameters["shutterline.image_fit"].string_value == "crop"
    assert parameters["shutterline.image_interpolation"].string_value == "lanczos"
    message = refused("export", model.path, *options, "--version", 2)
    assert "has other classes or images, and all versions of a model share them" in message


def test_versions_are_added_and_never_replaced(
    shutterline: Shutterline, refused: Refused, tmp_path: Path, model: Model, another: Model
) -> None:
    options = ["--layout", "triton", "-o", tmp_path / "out"]
    assert shutterline("export", model.path, *options).code == 0
    first = files(tmp_path / "out")

    again = shutterline("export", model.path, *options, "--json")
    message = refused("export", another.path, *options)
    unchanged = files(tmp_path / "out")
    second = shutterline("export", another.path, *options, "--version", 2)

    assert (again.code, again.document["status"]) == (0, "present")
    assert message.endswith(
        "version 1 of classifier is there and is another model; a version is never replaced: name the next one, such "
        "as --version 2"
    )
    assert unchanged == first
    assert second.code == 0
    assert files(tmp_path / "out") == first | {"classifier/2/model.onnx": (another.path / "model.onnx").read_bytes()}


def test_versions_share_classes_and_images(
    shutterline: Shutterline, refused: Refused, tmp_path: Path, model: Model
) -> None:
    options = ["--layout", "triton", "-o", tmp_path / "out", "--version", 2]
    renamed = write_onnx_directory(tmp_path / "renamed", classes=["cat", "dog", "owl"])
    larger = write_onnx_directory(tmp_path / "larger", shape=(16, 8, 3))
    assert shutterline("export", model.path, "--layout", "triton", "-o", tmp_path / "out").code == 0
    before = files(tmp_path / "out")

    for other in (renamed, larger):
        assert "has other classes or images, and all versions of a model share them" in refused(
            "export", other.path, *options
        )

    assert files(tmp_path / "out") == before
    assert shutterline("export", renamed.path, *options, "--name", "birds", "--max-batch", 1).code == 0
    assert config_of(tmp_path / "out" / "birds" / "config.pbtxt").max_batch_size == 1


def test_what_is_somebody_elses_stays_theirs(refused: Refused, tmp_path: Path, model: Model) -> None:
    theirs = tmp_path / "theirs" / "classifier"
    (theirs / "1").mkdir(parents=True)
    (theirs / "config.pbtxt").write_text('name: "classifier"\n')

    message = refused("export", model.path, "--layout", "triton", "-o", theirs.parent)

    assert f"{theirs.parent}: holds other files, such as classifier/" in message
    assert files(theirs.parent) == {"classifier/config.pbtxt": b'name: "classifier"\n'}


def test_what_cannot_be_written_whole_leaves_nothing(tmp_path: Path, model: Model) -> None:
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); "
        "from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, "export", str(model.path), "--layout", "triton", "-o", "out"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "File too large (limit 600 bytes): " in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_attempt_that_was_cut_off_is_taken_up(shutterline: Shutterline, tmp_path: Path, model: Model) -> None:
    options = ["export", model.path, "--layout", "triton", "-o"]
    assert shutterline(*options, tmp_path / "whole").code == 0
    for name in ("classifier/labels.txt", "classifier/config.pbtxt"):  # in the order of writing
        cut = tmp_path / "cut"
        (cut / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "whole" / name, cut / name)

        assert shutterline(*options, cut).code == 0, name

        assert files(cut) == files(tmp_path / "whole")
        shutil.rmtree(cut / "classifier" / "1")


def test_from_a_bucket_into_a_bucket(
    shutterline: Shutterline, refused: Refused, bucket: Bucket, model: Model, another: Model
) -> None:
    for file in model.path.iterdir():
        bucket.write(f"model/{file.name}", file.read_bytes())
    target = f"{bucket.uri}/served"

    done = shutterline("export", f"{bucket.uri}/model", "--layout", "kserve", "-o", target, "--name", "pets")
    again = shutterline("export", model.path, "--layout", "kserve", "-o", target, "--name", "pets")
    message = refused("export", another.path, "--layout", "kserve", "-o", target, "--name", "pets")
    foreign = refused("export", model.path, "--layout", "kserve", "-o", f"{bucket.uri}/model", "--name", "pets")

    assert (done.code, again.code) == (0, 0), done.err + again.err
    assert sorted(bucket.names("served/")) == [
        f"served/{name}"
        for name in ("inference-service.yaml", "pets/1/model.onnx", "pets/config.pbtxt", "pets/labels.txt")
    ]
    assert bucket.read("served/pets/1/model.onnx") == (model.path / "model.onnx").read_bytes()
    service = yaml.safe_load(bucket.read("served/inference-service.yaml"))
    assert service["spec"]["predictor"]["model"]["storageUri"] == target
    assert "version 1 of pets is there and is another model" in message
    assert "holds other files, such as model.json" in foreign


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--layout", "kserve"], "say by --storage-uri where the cluster finds the repository"),
        (["--layout", "kserve", "--storage-uri", "models/pets"], "--storage-uri: must be such as gs://BUCKET/FOLDER"),
        (["--layout", "kserve", "--storage-uri", "https://me:key@host/x"], "with no login"),
        (["--layout", "kserve", "--storage-uri", "gs://b/x", "--name", "Pets"], "for KServe must be up to 47 small"),
        (["--layout", "triton", "--name", "../pets"], "--name ../pets: must be up to 100 letters"),
        (["--layout", "triton", "--name", "pe\nts"], "--name pe\\nts: must be up to 100 letters"),
    ],
)
def test_what_the_servers_do_not_take_is_refused(
    refused: Refused, tmp_path: Path, model: Model, options: list[str], expected: str
) -> None:
    message = refused("export", model.path, "-o", tmp_path / "out", *options)

    assert expected in message
    assert "key" not in message
    assert not (tmp_path / "out").exists()


def test_models_without_an_onnx_file_are_refused(refused: Refused, tmp_path: Path, model: Model) -> None:
    alone = refused("export", model.path / "model.onnx", "--layout", "triton", "-o", tmp_path / "out")
    assert alone == f"{model.path}/model.onnx: is a file; name the model's directory, whose model.json is needed, too"
    old = write_onnx_directory(tmp_path / "old", onnx=None)

    message = refused("export", old.path, "--layout", "triton", "-o", tmp_path / "out")

    assert "has no model.onnx, being of version 0.8 or earlier; train it again" in message
    assert old.manifest.classes == CLASSES
