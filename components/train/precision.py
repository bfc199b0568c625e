"""The precision of the network's arithmetic, with the reason: as params say, by a fixed rule, or by measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, NamedTuple, get_args

import torch

from components.shared.errors import DeviceError
from components.shared.params.params import Params

PrecisionName = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)  # the most exact first
# What rounding may change in an image's loss, as a part of what images differ by: the root of the mean square against
# the standard deviation. Noise that is below the images' own is averaged out by training as theirs is. In bf16 and with
# random weights it was 0.005 for a small network, 0.24 for a ResNet-50 and 0.7 for a ResNet-152, and less from then on.
MOST_ROUNDING = 1.0
# Of the fastest's rate: what is within a tenth of it and more exact is taken instead. Rates of a few passes vary by
# some percent, and so little is not worth digits.
NEAR_FASTEST = 0.9
# Ampere's; see torch.cuda.get_device_capability.
_FIRST_WITH_TF32 = (8, 0)


class Precision(NamedTuple):
    """What the network computes in, and why, for the log; weights, gradients of them and the loss are float32."""

    name: PrecisionName
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """What the forward pass runs in."""
        return torch.autocast(device.type, torch.bfloat16) if self.name == "bf16" else nullcontext()

    def set_flags(self) -> None:
        """Let matrix products and convolutions of float32 round to TF32, or not; once, before the first step.

        torch reads the flags when a kernel is chosen, in the backward pass too.
        """
        # By torch's first names for them. Its newer ones, fp32_precision of matmul, conv and rnn, are set along with
        # these; once only the newer are set, reading these raises, and torch's compiler reads them.
        torch.backends.cuda.matmul.allow_tf32 = self.name == "tf32"
        torch.backends.cudnn.allow_tf32 = self.name == "tf32"


@contextmanager
def without_tf32() -> Iterator[None]:
    """Have float32 be float32 while this is open."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    Precision("fp32", "").set_flags()
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Measured(NamedTuple):
    """What was measured of a precision.

    Attributes:
        rate: Images a second of forward and backward passes.
        rounding: What it changes in an image's loss against fp32, as a part of what images differ by.
    """

    rate: float
    rounding: float


def choose_precision(params: Params, device: torch.device) -> Precision:
    """The precision that the params name, or what ``auto`` means where nothing is measured.

    Raises:
        DeviceError: The device has no such precision.
    """
    if params.precision == "auto":
        return unmeasured(device)
    if not _has(params.precision, device):
        wanted = f'precision: "{params.precision}" was asked for, and {device} has none'
        there = ", ".join(f'"{name}"' for name in PRECISIONS if _has(name, device))
        raise DeviceError(f'{wanted}; set precision to "auto" or one of {there}')
    return Precision(params.precision, "as precision says")


def kept_precision(name: PrecisionName, device: torch.device) -> Precision:
    """The precision of a checkpoint, which ``auto`` goes on with where the device has it."""
    if not _has(name, device):
        return Precision("fp32", f"the checkpoint's {name} is not on this device")
    return Precision(name, "as in the checkpoint")


def _has(name: PrecisionName, device: torch.device) -> bool:
    """Whether a device computes in a precision by itself."""
    if name == "tf32":
        return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FIRST_WITH_TF32
    return name == "fp32" or device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def candidates(device: torch.device) -> tuple[PrecisionName, ...]:
    """What ``auto`` chooses among on a device, the most exact first."""
    if device.type == "cpu":
        return ("fp32",)
    return tuple(name for name in PRECISIONS if _has(name, device))


def unmeasured(device: torch.device, why: str = "") -> Precision:
    """What ``auto`` means without measurements; `why` there are none.

    On a GPU that is bf16: on an H100 it reached 0.86 of fp32's rate where the host's launches are the bound (small
    images, a step not captured), 1.1 where they are not, and 4.6 with a ResNet-50.
    """
    if device.type == "cpu":
        return Precision("fp32", "on the CPU")
    beside = f"; not measured: {why}" if why else ""
    if _has("bf16", device):
        return Precision("bf16", f"this GPU has it{beside}")
    return Precision("fp32", f"this GPU has no bf16{beside}")


def best_of(measured: Mapping[PrecisionName, Measured]) -> Precision:
    """The most exact precision that is nearly as fast as the fastest; too much rounding excludes one."""
    exact = [
        name
        for name in PRECISIONS
        if name == "fp32" or (name in measured and measured[name].rounding <= MOST_ROUNDING)  # not of NaN
    ]
    fastest = max(measured[name].rate for name in exact)
    name = next(name for name in exact if measured[name].rate >= NEAR_FASTEST * fastest)
    return Precision(name, f"measured: {', '.join(_spelled(*each) for each in measured.items())}")


def _spelled(name: PrecisionName, found: Measured) -> str:
    rounding = f", rounding {found.rounding:.2g} of what images differ by" if name != "fp32" else ""
    return (
        f"{name} {found.rate:,.0f} images/s{rounding}{'' if found.rounding <= MOST_ROUNDING else ', which is too much'}"
    )
