"""What a start imports: nothing that only a later part of the run needs, or another kind of run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.train.gpu_context import wake_gpu
from tests.configs import digits_config
from tests.examples import small

# torch's compiler and what it brings; what transforms, TensorBoard's curves, a model's files, brokers, stores need.
HEAVY = [
    *("torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes", "sympy", "triton", "networkx"),
    *("torchvision", "torch.utils.tensorboard", "boto3", "onnx", "onnxruntime", "onnxscript", "jinja2"),
    *("google.cloud.storage", "google.cloud.pubsub_v1", "kafka", "mlflow", "kfp"),
    *("components.train_job", "kubernetes"),
]


@pytest.mark.parametrize(
    ("options", "until"), [(["--model", "model"], " epoch 1/"), (["--smoke"], " were learnt ")], ids=["train", "smoke"]
)
def test_the_first_steps_are_made_without(options: list[str], until: str, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(json.dumps(small(net_arch=digits_config()["net_arch"]).to_dict()))
    arguments = ["-m", "components.train", "--dataset", str(dataset), "--params", "params.json", *options]
    command = [sys.executable, "-X", "importtime", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        names, lines = set(), []
        for line in process.stderr:
            if line.startswith("import time:"):
                names.add(line.rpartition("|")[2].strip())
            else:
                lines.append(line)
                if until in line:
                    break
        process.kill()
    assert until in lines[-1], "".join(lines)
    assert "torch.optim" in names
    assert names.isdisjoint(HEAVY), names & {*HEAVY}


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="there is an NVIDIA driver")
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_without_a_driver_no_gpu_is_woken(device: str) -> None:
    assert wake_gpu(device) is None
