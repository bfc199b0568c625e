"""The reference's keys of the params, in its spelling; `params.py` has our own beside them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from components.shared.events import targets
from components.shared.params import rules
from components.shared.params.parsed import Parsed, keep_sound
from components.shared.params.types import (
    DivisorsOrAuto,
    KeywordArguments,
    LayerSpec,
    MeansOrAuto,
    OptimizerName,
    Positive,
    Real,
    ScheduleSpec,
    Share,
    Side,
    SizeOrAuto,
    Text,
    TransformSpec,
    Truth,
    Whole,
)
from components.shared.params.written import WrittenParams

DEVICE_RULE = (r"auto|cpu|cuda(:[0-9]{1,3})?", 'must be "auto", "cpu", "cuda" or "cuda:N"')

_KEPT = WrapValidator(keep_sound)
_PubSubName = Annotated[Text, AfterValidator(rules.following(targets.PUB_SUB_NAME_RULE))]


class ReferenceParams(WrittenParams):
    """The reference's keys; each value that is sound is kept, for checks that go on where others are not."""

    GOOGLE_APPLICATION_CREDENTIALS: Annotated[Text, BeforeValidator(rules.credentials_reference)] | None = Field(
        None,
        description="Path of the service-account file for Pub/Sub and gs://; null: application default credentials.",
    )
    PUB_SUB_PROJECT: Annotated[Text, AfterValidator(rules.following(targets.PUB_SUB_PROJECT_RULE))] | None = Field(
        None, description="Google Cloud project that status is published to."
    )
    PUB_SUB_TOPIC: _PubSubName | None = Field(
        None, description="Pub/Sub topic that status is published to; it must exist."
    )
    PUB_SUB_SUBSCRIPTION: _PubSubName | None = Field(
        None, description="Pub/Sub subscription a watcher pulls from; it must exist."
    )
    TIMEOUT: Annotated[Real, Field(gt=0, le=3600)] = Field(
        3.0, description="Seconds for one Pub/Sub operation and for the final flush."
    )
    KAFKA_HOST: Annotated[Text, AfterValidator(rules.servers)] | None = Field(
        None, description="Kafka brokers, comma-separated; without a port, 9092."
    )
    KAFKA_TOPIC: Annotated[Text, AfterValidator(rules.following(targets.KAFKA_TOPIC_RULE))] | None = Field(
        None, description="Kafka topic to publish to and subscribe from."
    )

    batch_size: SizeOrAuto = Field(
        512,
        description='Images in a training batch; "auto": chosen as training begins, on a GPU by trying; 8 to 4,096, '
        "and of more than 8 so few that an epoch has 20 steps.",
    )
    image_height: Side = Field(
        description="Input height of the model in pixels; data prep resizes to it, or to stored_height."
    )
    image_width: Side = Field(
        description="Input width of the model in pixels; data prep resizes to it, or to stored_width."
    )
    is_image_color: Truth = Field(False, description="true: 3 channels (RGB); false: 1 (grayscale).")
    shuffle_dataset: Truth = Field(
        True, description="Shuffle the training images each epoch; false: the stored order, every epoch."
    )
    flip_images: Truth = Field(
        False, description="Flip training images at random, horizontally and vertically, each image for itself."
    )
    flip_probability: Share = Field(0.5, description="Probability of each of the two flips.")
    normalise_images: Truth = Field(
        True, description="Subtract normalise_mean and divide by normalise_std, per channel, after scaling to 0..1."
    )
    normalise_mean: MeansOrAuto = Field("auto", description='1 or 3 numbers; "auto": of the training images.')
    normalise_std: DivisorsOrAuto = Field(
        "auto", description='1 or 3 positive numbers; "auto": of the training images.'
    )
    additional_transforms: list[Annotated[TransformSpec, _KEPT]] | None = Field(
        None, description="Further training transforms, torchvision.transforms.v2, applied per image in order."
    )
    manual_seed: Annotated[Whole, Field(ge=0, lt=2**64)] = Field(
        0, description="Seeds everything random; same seed, same machine: the same bits."
    )
    net_arch: Annotated[list[Annotated[LayerSpec, _KEPT]], Field(min_length=1, max_length=10_000)] = Field(
        description="The feature layers; Flatten and the classifying Linear(n_classes) are appended."
    )
    n_classes: Annotated[Whole, Field(ge=2, le=1_000_000)] = Field(
        description="Number of classes; must agree with the data."
    )
    num_epochs: Positive = Field(description="Epochs to train.")
    eval_freq: Positive = Field(1, description="Evaluate after every eval_freq epochs, and after the last.")
    save_freq: Positive = Field(5, description="Checkpoint after every save_freq epochs, and after the last.")
    optim_class: OptimizerName = Field("torch.optim.AdamW", description="Optimiser, a class of torch.optim.")
    optim_kwargs: Annotated[KeywordArguments, AfterValidator(rules.optimiser_kwargs)] = Field(
        default_factory=dict, description="The optimiser's keyword arguments, without the learning rate."
    )
    learning_rate: Annotated[Real, Field(gt=0)] = Field(1e-3, description="Initial learning rate.")
    learning_rate_schedule: Annotated[
        list[Annotated[ScheduleSpec, _KEPT]], BeforeValidator(rules.none_as_empty), AfterValidator(rules.unique_names)
    ] = Field(
        default_factory=list,
        description="Schedules, which multiply the rate together, each stepped once an epoch in order, or with "
        "interval: batch after every optimiser step; ReduceLROnPlateau with the evaluated loss (mode min) or accuracy "
        "(mode max).",
    )
    device: Annotated[Text, AfterValidator(rules.following(DEVICE_RULE))] = Field(
        "auto", description='"cpu", "cuda", "cuda:N" or "auto": a GPU if there is one.'
    )
    mode: Literal["notebook", "script"] = Field(
        "script", description="Which progress bar; without a terminal, script prints one line an epoch."
    )
    eval_metric_compute_freq: Literal["epoch", "batch"] = Field(
        "epoch", description="Log metrics once over the whole split, or also batch by batch."
    )
    eval_batch_size: Positive = Field(
        512, description="Images in one evaluated batch of the logs; never changes a metric."
    )

    @field_validator("*", mode="wrap")
    @classmethod
    def _keep(cls, value: object, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Keep each value that is sound, for checks that go on where others are not."""
        checked = check(value)
        if isinstance(info.context, Parsed):
            info.context.values[str(info.field_name)] = checked
        return checked
