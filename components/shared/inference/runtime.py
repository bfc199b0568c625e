"""ONNX Runtime as it is used here: without telemetry, within the container's limits, the same bits each time."""

from __future__ import annotations

import logging
import os
import re
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

# The wheel for Linux reports telemetry: importing it writes a device id below the home directory and looks up its
# vendor's host, unless this is set before the import (1.32).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from components.shared.errors import DeviceError, InputError
from components.shared.limits import usable_cpus
from components.shared.params.reference_params import DEVICE_RULE
from components.shared.text import shortened

_CUDA = "CUDAExecutionProvider"
# Failures are raised; what the library prints beside them repeats them in its own form.
_FATAL = 4
# Folding makes of a file of 200 bytes as much as this allows, twice over for a moment.
_MAX_FOLDED = 2**24


def built_for_cuda() -> bool:
    """Whether this ONNX Runtime has the CUDA provider."""
    return _CUDA in onnxruntime.get_available_providers()


def check_device(wanted: str, log: logging.Logger) -> None:
    """Refuse, by DeviceError, a GPU that is asked for by name where this build would use one and there is none.

    A build for the CPU alone takes no notice but in the log: one ``device`` configures training and evaluation.
    InputError: It is the name of no device.
    """
    pattern, message = DEVICE_RULE
    if re.fullmatch(pattern, wanted) is None:
        raise InputError(f"device: {message}, got {shortened(wanted)}")
    if not wanted.startswith("cuda"):
        return
    if not built_for_cuda():
        log.info('device: "%s": this ONNX Runtime is built for the CPU alone, and runs there', wanted)
    elif not Path("/proc/driver/nvidia/version").exists():
        raise _no_gpu(wanted, "no NVIDIA driver is visible (in a container: is --gpus all missing?)")


def _no_gpu(wanted: str, why: str) -> DeviceError:
    return DeviceError(f'device: "{wanted}" was asked for, and {why}; set device to "auto" or "cpu"')


def open_session(file: Path | bytes, wanted: str = "cpu") -> onnxruntime.InferenceSession:
    """A session for a file that has been checked.

    Args:
        file: The ONNX file, or its content.
        wanted: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. A build for the CPU alone runs on the CPU whatever is wanted.

    Raises:
        DeviceError: A GPU was asked for by name, and it cannot be used.
        Exception: ONNX Runtime refuses the file; its errors have no common base.
    """
    onnxruntime.set_default_logger_severity(_FATAL)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # By default a thread for each core of the machine, whatever this container may use.
    options.intra_op_num_threads = usable_cpus()
    options.inter_op_num_threads = 1
    # Idle workers would spin for 30 ms after each run.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "0")
    # The arena would keep the memory of the largest batch.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(_MAX_FOLDED))
    providers: list[Any] = ["CPUExecutionProvider"]
    on_gpu = wanted != "cpu" and built_for_cuda()
    if on_gpu:
        with redirect_stdout(StringIO()):  # where it prints what it does not find
            onnxruntime.preload_dlls(directory="")  # CUDA's libraries, where pip has put them
        # What is called fp32 is fp32; and a search for the fastest algorithm ends as the machine is busy.
        cuda = {"device_id": wanted.partition(":")[2] or "0", "use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
        providers.insert(0, (_CUDA, cuda))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a provider that cannot be used, which is looked at here
        session = onnxruntime.InferenceSession(file, options, providers=providers)
    if on_gpu and wanted != "auto" and _CUDA not in session.get_providers():
        raise _no_gpu(wanted, "ONNX Runtime cannot use it (the driver may be older than its CUDA: nvidia-smi shows it)")
    return session


def describe_device(session: onnxruntime.InferenceSession) -> str:
    """The device of a session for people: a GPU, or how many threads the CPU uses."""
    if _CUDA in session.get_providers():
        return f"cuda:{session.get_provider_options()[_CUDA]['device_id']}"
    return f"cpu ({session.get_session_options().intra_op_num_threads} threads)"


def runtime_version() -> str:
    """Version of ONNX Runtime."""
    return str(onnxruntime.__version__)
