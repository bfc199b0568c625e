"""Trainings of the tests on a GPU: what may be on in a step, each on the digits."""

from __future__ import annotations

import json
from typing import Any

from components.shared.params.params import Params
from tests.configs import layer, schedule, transform
from tests.examples import SMALL
from tests.gpu.conftest import DEVICE
from tests.kill import lives

ON_GPU = DEVICE.startswith("cuda")
LR = "learning_rate_schedule"
DROPOUT = [*SMALL["net_arch"], layer("Dropout", p=0.2)]
EVERYTHING: dict[str, Any] = {**lives.EVERYTHING, "net_arch": DROPOUT}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": EVERYTHING,
    "images on the host": {"data_placement": "host", "net_arch": DROPOUT},
    "SGD with momentum, one cycle": {
        "optim_class": "torch.optim.SGD",
        "optim_kwargs": {"momentum": 0.9, "nesterov": True},
        LR: [schedule("OneCycleLR", max_lr=0.1, cycle_momentum=False) | {"interval": "batch"}],
    },
    "AdamW, clipping": {"optim_class": "torch.optim.AdamW", "max_grad_norm": 0.1},
    "an optimiser without a fused step": {"optim_class": "torch.optim.RMSprop"},
    "an optimiser that cannot be captured": {"optim_class": "torch.optim.Adafactor"},
    "balanced classes, smoothed labels": {
        "class_weights": "balanced",
        "loss": {"class": "torch.nn.CrossEntropyLoss", "kwargs": {"label_smoothing": 0.1}},
    },
    "cutmix, parts of stored images": {
        "cutmix_alpha": 1.0,
        "image_height": 6,
        "image_width": 6,
        "stored_height": 8,
        "stored_width": 8,
    },
    "transforms on the whole batch": {
        "additional_transforms": [
            transform("RandomResizedCrop", size=[8, 8], scale=[0.5, 1.0]),
            transform("RandAugment", num_ops=2),
            transform("RandomErasing", p=0.5),
        ]
    },
    "transforms image by image": {
        "additional_transforms": [transform("ElasticTransform", alpha=5.0, sigma=0.5, fill={"others": 0})]
    },
    **({"tf32": {"precision": "tf32"}} if ON_GPU else {}),
    "bf16": {"precision": "bf16"},
}


def settings(step: str, **changes: Any) -> Params:
    """Params of a small network on the device under test, its step made as `step` says."""
    base = {
        "device": DEVICE,
        "precision": "fp32",
        "flip_images": True,
        "num_epochs": 3,
        "step": step,
    }
    return Params.from_dict(json.loads(json.dumps({**SMALL, **base, **changes})))
