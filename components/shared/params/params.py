"""Params: every option of a run, from a Python dict, a JSON or a YAML file, checked as a whole.

The reference's keys come first, in its spelling; options of our own follow. Inside a pipeline params travel as one JSON
text (:meth:`Params.to_json`), because KFP rounds large integers and makes floats of integers inside dict parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from components.shared.errors import Problem
from components.shared.events import targets
from components.shared.params import rules
from components.shared.params.gate import Gate
from components.shared.params.parsed import Parsed, as_problems
from components.shared.params.recipes import with_recipe
from components.shared.params.reference_params import ReferenceParams
from components.shared.params.source import check_size, fail, read_raw
from components.shared.params.types import (
    ClassWeights,
    ColorOfBackground,
    Fit,
    Interpolation,
    LossSpec,
    Positive,
    Real,
    Share,
    Side,
    Text,
    Truth,
    Whole,
    background_of,
)
from components.shared.text import described


class Params(ReferenceParams):
    """Every option of a run. Make one with :meth:`load` or :meth:`from_dict`; both report all problems at once."""

    stored_height: Side | None = Field(
        None,
        description="Height that data prep resizes images to where it is more than image_height. Training then crops "
        "at random: by additional_transforms that end at the model's size, else anywhere in the image. Evaluation and "
        "prediction take the middle. null: image_height.",
    )
    stored_width: Side | None = Field(
        None, description="Width that data prep resizes images to, given with stored_height; null: image_width."
    )
    test_fraction: Annotated[Real, Field(gt=0, lt=1)] = Field(
        0.2, description="Share of each class held out for testing where the data has no test split."
    )
    validation_fraction: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Share of each class of the training images held out to choose the best epoch by; 0: the test "
        "split is used for that, and its final accuracy is then a little optimistic.",
    )
    loss: LossSpec = Field(
        default_factory=lambda: LossSpec.model_validate({"class": "torch.nn.CrossEntropyLoss"}),
        description="What training minimises, a class of torch.nn on the logits, such as CrossEntropyLoss with "
        "label_smoothing. Evaluation always reports cross-entropy.",
    )
    class_weights: ClassWeights = Field(
        None,
        description='Weights of the classes in the training loss: a number each, or "balanced": inverse to how often '
        "they occur.",
    )
    mixup_alpha: Annotated[Real, Field(ge=0, le=1000)] = Field(
        0.0,
        description="Mixup: training images are blended in pairs, by a share drawn from Beta(alpha, alpha); 0: off.",
    )
    cutmix_alpha: Annotated[Real, Field(ge=0, le=1000)] = Field(
        0.0,
        description="CutMix: a box of each training image comes from another; its share is drawn from "
        "Beta(alpha, alpha); 0: off. With mixup_alpha too, each batch gets one of the two.",
    )
    ema_decay: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Decay of a moving average of the weights, such as 0.999, which is evaluated and kept; 0: off.",
    )
    max_grad_norm: Annotated[Real, Field(gt=0)] | None = Field(
        None, description="Longer gradients are scaled to this norm, over all parameters; null: they are not."
    )
    gradient_accumulation_steps: Positive = Field(
        1, description="Batches whose gradients make one optimiser step, as if they were one batch."
    )
    early_stopping_patience: Positive | None = Field(
        None, description="Stop after so many evaluations in a row without a better one; null: train all epochs."
    )
    warmup_epochs: Annotated[Real, Field(ge=0)] = Field(
        0.0,
        description="Epochs, also in part, over which the learning rate rises from a hundredth to its own, step by "
        "step.",
    )
    milestones: Annotated[list[Positive], BeforeValidator(rules.none_as_empty), AfterValidator(rules.rising)] = Field(
        default_factory=list,
        description="Let the schedules act one after the other: after so many epochs the next takes over and begins "
        "with learning_rate. [5]: the first has 5 epochs, the second the rest. Empty: all act together.",
    )
    initial_weights: Annotated[Text, AfterValidator(rules.location)] | None = Field(
        None,
        description="Where training starts from: an earlier model or run directory, or a file of weights "
        "(.safetensors, .pth, .ckpt, …), here or in a bucket; null: random weights by manual_seed.",
    )
    frozen_layers: Annotated[Whole, Field(ge=0)] = Field(
        0, description="How many of the first layers of net_arch keep the weights they start with: initial_weights."
    )
    recipe: Literal["scratch-small", "finetune", "imagenet"] | None = Field(
        None,
        description="Fills in what is left out of optimiser, rates, batch size, loss, averaging and transforms: values "
        "for small images, for earlier weights (initial_weights) or for photographs; what is given here stays.",
    )
    backbone_learning_rate: Annotated[Real, Field(gt=0)] | None = Field(
        None,
        description="Learning rate of net_arch's layers, where learning_rate is the classifying layer's; schedules "
        "keep the ratio of the two; null: learning_rate.",
    )
    decay_biases_and_norms: Truth = Field(
        True,
        description="false: no weight decay on biases, on normalisation layers, and on what else has one dimension or "
        "is a class token, a position embedding or a layer scale.",
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        "auto",
        description="What the network computes in; weights are float32. auto: fp32 on the CPU; on a GPU bf16, or in a "
        "long run the fastest that rounds the losses of images by less than they differ, as measured before the first "
        "step. Only a named one gives the same bytes in every run.",
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto", description="torch.compile of the network: auto only on a GPU, for runs long enough to pay for it."
    )
    step: Literal["auto", "graph", "eager"] = Field(
        "auto",
        description="graph: on a GPU the whole step is captured as a CUDA graph and replayed, once it is found to do "
        "what the plain step does; where it cannot be, the log says why. eager: kernel by kernel. auto: eager, as long "
        "as no GPU has shown more.",
    )
    gradient_checkpointing: Truth = Field(
        False,
        description="Compute activations of feature layers again in the backward pass instead of keeping them: less "
        "memory, more time, the same weights. Not with compile.",
    )
    data_placement: Literal["auto", "device", "host"] = Field(
        "auto",
        description="Where training images are: on the device whole, or mapped on the host and copied ahead; auto: on "
        "the device where they fit.",
    )
    sync_batch_norm: Truth = Field(
        False, description="With several GPUs, batch statistics of all of them together: SyncBatchNorm."
    )
    checkpoint_minutes: Annotated[Real, Field(gt=0)] | None = Field(
        10.0, description="Checkpoint also when the last is so many minutes old; null: after epochs only."
    )
    keep_checkpoints: Positive = Field(3, description="How many of the newest checkpoints are kept.")
    max_unreadable: Share = Field(
        0.01, description="Share of image files that may be unreadable; they are set aside and listed."
    )
    alpha_background: ColorOfBackground = Field(
        "white",
        description="What transparent parts of images are composited on: white, black, or 1 (grey) or 3 (RGB) whole "
        "numbers of 0 to 255; a grayscale run takes a color's luma. With image_fit: pad, also what surrounds images.",
    )
    image_fit: Fit = Field(
        "stretch",
        description="How an image of other proportions becomes image_height × image_width, or the stored size: stretch "
        "both sides; crop: scale it to cover, and take its middle; pad: scale it to lie within, and surround it with "
        "alpha_background. Prediction does the same.",
    )
    image_interpolation: Interpolation = Field(
        "bilinear", description="How images are resized, area-aware but for nearest. Prediction does the same."
    )
    data_layout: Literal["auto", "folders", "info-csv", "idx", "webdataset", "parquet", "manifest"] = Field(
        "auto", description="How the data are laid out: auto recognises it, and data that fit two are refused."
    )
    on_leakage: Literal["warn", "fail"] = Field(
        "warn",
        description="When an image of one split is in another, too: warn, or fail data prep.",
    )
    gate: Gate | None = Field(
        None,
        description="What evaluation must find for the model to pass: metrics with min, max or both, such as "
        "{accuracy: {min: 0.97}, recall[cat]: {min: 0.9}}, and vs_baseline: better or not_worse; null: every model "
        "passes.",
    )
    baseline: Annotated[Text, AfterValidator(rules.location)] | None = Field(
        None, description="Model directory that evaluation compares the model to, here or in a bucket; null: none."
    )
    publish_uri: Annotated[Text, AfterValidator(rules.location)] | None = Field(
        None,
        description="Directory or bucket prefix where a model that passes the gate is published, each in a folder of "
        "its own that is never replaced; null: nowhere.",
    )
    on_status_error: Literal["warn", "fail"] = Field(
        "warn",
        description="When a broker does not answer as a step starts: warn and keep status in the spool, or fail the "
        "step. A broker that refuses always fails it.",
    )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str | None = None) -> Params:
        """Check a dict as a user writes it: classes as objects or dotted names; `source` is what messages call it.

        Raises:
            ParamsError: With every problem found, each with its path.
        """
        return parse(raw, source).warned()

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Params:
        """Read params from a ``.json`` or ``.yaml`` file, a JSON text or a dict, and apply overrides.

        Args:
            source: A path, a text that begins with ``{``, or a dict.
            overrides: ``key=value`` each, as for the command line's ``--set``.

        Raises:
            ParamsError: With every problem found, each with its path.
        """
        return parse(*read_raw(source, overrides)).warned()

    @property
    def channels(self) -> int:
        """Image channels: 3 or 1."""
        return 3 if self.is_image_color else 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image as the network takes it: height, width, channels."""
        return self.image_height, self.image_width, self.channels

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """Shape of one image as data prep stores it, of which the network takes a part, or all: as `image_shape`."""
        return self.stored_height or self.image_height, self.stored_width or self.image_width, self.channels

    @property
    def images_per_batch(self) -> int:
        """The number that ``batch_size`` is, in a run that has begun: "auto" is resolved by then."""
        if isinstance(self.batch_size, str):
            raise ValueError("batch_size is still to be chosen")
        return self.batch_size

    @property
    def background(self) -> tuple[int, int, int]:
        """Red, green and blue of 0 to 255 that transparent parts of images are composited on."""
        return background_of(self.alpha_background)

    @property
    def status_targets(self) -> targets.StatusTargets:
        """The brokers these params name."""
        project = self.PUB_SUB_PROJECT
        return targets.StatusTargets(
            kafka_servers=targets.bootstrap_servers(self.KAFKA_HOST) if self.KAFKA_HOST else (),
            kafka_topic=self.KAFKA_TOPIC,
            pub_sub_topic=f"projects/{project}/topics/{self.PUB_SUB_TOPIC}" if self.PUB_SUB_TOPIC else None,
            pub_sub_subscription=(
                f"projects/{project}/subscriptions/{self.PUB_SUB_SUBSCRIPTION}" if self.PUB_SUB_SUBSCRIPTION else None
            ),
            credentials_file=self.GOOGLE_APPLICATION_CREDENTIALS,
            timeout_s=self.TIMEOUT,
        )


def parse(raw: Mapping[str, Any], source: str | None = None) -> Parsed:
    """Check options as a user writes them, all at once; `source` is what messages call their origin.

    Raises:
        ParamsError: They are no mapping, or too large to be looked at.
    """
    if not isinstance(raw, Mapping):
        fail(f"must be a mapping of options, got {described(raw)}", source)
    check_size(raw, source)
    given, dropped = rules.without_dropped_options(raw)
    parsed = Parsed(source=source, notes=[f"{path}: torch has dropped this option; it is ignored" for path in dropped])
    given = with_recipe(given)
    try:
        parsed.params = Params.model_validate(given, context=parsed)
    except ValidationError as error:
        parsed.problems = as_problems(error, Params.model_fields)
    for key, declared in Params.model_fields.items():
        if key not in given and not declared.is_required():
            parsed.values[key] = declared.get_default(call_default_factory=True)
    parsed.problems = in_document_order([*parsed.problems, *rules.cross_problems(parsed.values)])
    if parsed.problems:
        parsed.params = None
    return parsed


def in_document_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems in the order of the keys, unknown keys first, each once."""
    order = {name: index for index, name in enumerate(Params.model_fields)}
    return sorted(dict.fromkeys(problems), key=lambda one: order.get(one.path.split(".")[0].split("[")[0], -1))
