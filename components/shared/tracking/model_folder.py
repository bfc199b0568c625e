"""MLflow's description of a model.onnx, by which its tools load, check and serve the file.

mlflow's own ONNX flavour needs pandas, splits the weights off, and runs onnxruntime to write the same.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from uuid import uuid4

import yaml

from components.shared.artifacts.model import ModelManifest

FOLDER = "model"
_PACKAGES = ("mlflow", "numpy", "onnx", "onnxruntime", "pandas")


def model_folder(manifest: ModelManifest, onnx_file: str, run_id: str, mlflow_version: str) -> dict[str, str]:
    """The texts beside the ONNX file, by name; MLmodel is the last, without which a folder is no model."""
    image, stored = manifest.image, manifest.stored_image
    images = {"dtype": "uint8", "shape": [-1, image.height, image.width, image.channels]}
    probabilities = {"dtype": "float32", "shape": [-1, len(manifest.classes)]}
    python = platform.python_version()
    document = {
        "artifact_path": FOLDER,
        "flavors": {
            # Without a list of providers mlflow asks for CUDA, and warns where there is none.
            "onnx": {"data": onnx_file, "onnx_version": _version("onnx"), "providers": ["CPUExecutionProvider"]},
            "python_function": {
                "data": onnx_file,
                "env": {"virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.onnx",
                "python_version": python,
            },
        },
        "metadata": {
            "shutterline.classes": manifest.classes,
            "shutterline.version": manifest.created_by.removeprefix("shutterline "),
            # What images are resized to before their middle is taken.
            **({"shutterline.stored_image": list(stored.as_tuple())} if stored is not None else {}),
            "shutterline.image_fit": manifest.image_fit,
            "shutterline.image_interpolation": manifest.image_interpolation,
        },
        "mlflow_version": mlflow_version,
        "model_uuid": uuid4().hex,
        "run_id": run_id,
        "signature": {"inputs": _tensor("images", images), "outputs": _tensor("probabilities", probabilities)},
        "utc_time_created": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}",
    }
    environment = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    packages = {"mlflow": f"mlflow=={mlflow_version}"}
    return {
        "requirements.txt": "\n".join(packages.get(name, name) for name in _PACKAGES) + "\n",
        "python_env.yaml": yaml.safe_dump(environment, sort_keys=False),
        "MLmodel": yaml.safe_dump(document, allow_unicode=True),
    }


def _tensor(name: str, spec: Mapping[str, object]) -> str:
    return json.dumps([{"name": name, "type": "tensor", "tensor-spec": spec}])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
