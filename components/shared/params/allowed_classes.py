"""Which classes params may name, and why the others may not be.

A config is data: it may choose among classes that turn one tensor into one tensor (layers, and torchvision's
architectures without their heads), step parameters (optimisers), set a learning rate from an epoch count or a metric
(schedulers) or change one image (transforms). Nothing here takes a callable, reads a file or runs code. Names are text,
so that containers without torch check a config too; a test compares them with the installed torch.

Operators allow modules of their own by the environment variable ``SHUTTERLINE_MODULES`` (comma-separated dotted module
names); a config itself can never widen the list.
"""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import dataclass
from typing import Any

from components.shared.text import shortened

MODULES_VARIABLE = "SHUTTERLINE_MODULES"


def _dims(*names: str, dims: str = "123") -> set[str]:
    return {f"{name}{dim}d" for name in names for dim in dims}


@dataclass(frozen=True)
class ClassFamily:
    """The classes one kind of params entry may name.

    Attributes:
        kind: What a member is called in messages, such as ``layer``.
        module: The module they are in, such as ``torch.nn``.
        allowed: Class names inside the module.
        refused: Class names that exist but cannot be used, each with the reason.
        beside: Families of other modules whose members may be named as well.
        members: What the members are together, such as ``classes``.
    """

    kind: str
    module: str
    allowed: frozenset[str]
    refused: dict[str, str]
    beside: tuple[ClassFamily, ...] = ()
    members: str = "classes"

    def full_names(self) -> list[str]:
        """Dotted names of all members, sorted, and of those beside."""
        own = [f"{self.module}.{name}" for name in sorted(self.allowed)]
        return own + [name for family in self.beside for name in family.full_names()]

    def permits(self, dotted: str) -> bool:
        """Whether a config may name this class."""
        module, _, name = dotted.rpartition(".")
        own = (module == self.module and name in self.allowed) or module in operator_modules()
        return own or any(family.permits(dotted) for family in self.beside)

    def why_not(self, dotted: str) -> str:
        """The message for a name that :meth:`permits` denies."""
        module, _, name = dotted.rpartition(".")
        for family in (self, *self.beside):
            if module in ("", family.module) and name in family.refused:
                article = "an" if family.kind[0] in "aeiou" else "a"
                return f"{family.module}.{name} cannot be used as {article} {family.kind}: {family.refused[name]}"
        by_folded = {known.rpartition(".")[2].casefold(): known for known in self.full_names()}
        near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
        what = f"did you mean {by_folded[near[0]]}?" if near else self.hint()
        return f"{shortened(dotted)} is not an allowed {self.kind}; {what}"

    def hint(self) -> str:
        """What is allowed instead."""
        families = (self, *self.beside)
        named = (f"{one.members} of {one.module} such as {one.full_names()[0]}" for one in families)
        return f"allowed are {', or '.join(named)}"

    def name_of(self, value: Any) -> str | None:
        """The dotted name of a class, or of a function that builds one, as JSON or YAML has it; None: it is neither."""
        name = str(getattr(value, "__name__", ""))
        for family in (self, *self.beside) if name else ():
            if getattr(sys.modules.get(family.module), name, None) is value:
                return f"{family.module}.{name}"
        return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else None


def operator_modules() -> frozenset[str]:
    """Modules the operator of this machine allows beside the built-in lists."""
    return frozenset(name for part in os.environ.get(MODULES_VARIABLE, "").split(",") if (name := part.strip()))


def _reasons(*groups: tuple[str, str]) -> dict[str, str]:
    return {name: reason for names, reason in groups for name in names.split()}


def _backbones() -> frozenset[str]:
    sized = {
        "convnext_": "base large small tiny",
        "densenet": "121 161 169 201",
        "efficientnet_": "b0 b1 b2 b3 b4 b5 b6 b7 v2_l v2_m v2_s",
        "mnasnet": "0_5 0_75 1_0 1_3",
        "mobilenet_": "v2 v3_large v3_small",
        "regnet_x_": "16gf 1_6gf 32gf 3_2gf 400mf 800mf 8gf",
        "regnet_y_": "128gf 16gf 1_6gf 32gf 3_2gf 400mf 800mf 8gf",
        "resnet": "101 152 18 34 50",
        "resnext": "101_32x8d 101_64x4d 50_32x4d",
        "shufflenet_v2_": "x0_5 x1_0 x1_5 x2_0",
        "squeezenet": "1_0 1_1",
        "swin_": "b s t v2_b v2_s v2_t",
        "vgg": "11 11_bn 13 13_bn 16 16_bn 19 19_bn",
        "vit_": "b_16 b_32 h_14 l_16 l_32",
        "wide_resnet": "101_2 50_2",
    }
    return frozenset(
        {"alexnet", "maxvit_t"} | {f"{name}{size}" for name, sizes in sized.items() for size in sizes.split()}
    )


BACKBONES = ClassFamily(
    kind="layer",
    module="torchvision.models",
    members="architectures",
    allowed=_backbones(),
    refused=_reasons(
        ("googlenet inception_v3", "while it trains it gives the outputs of further heads beside its own"),
        (
            "AlexNet ConvNeXt DenseNet EfficientNet GoogLeNet Inception3 MNASNet MaxVit MobileNetV2 MobileNetV3 RegNet "
            "ResNet ShuffleNetV2 SqueezeNet SwinTransformer VGG VisionTransformer",
            "it is built from other modules; name an architecture such as torchvision.models.resnet18",
        ),
        (
            "get_model get_model_builder get_model_weights get_weight list_models",
            "name the architecture itself, such as torchvision.models.resnet18",
        ),
        ("Weights WeightsEnum", "nothing is downloaded: name a file by initial_weights"),
        ("GoogLeNetOutputs InceptionOutputs", "it is not a module"),
    ),
)

LOSSES = ClassFamily(
    kind="loss",
    module="torch.nn",
    allowed=frozenset("BCEWithLogitsLoss CrossEntropyLoss MultiMarginLoss".split()),
    refused=_reasons(
        (
            "CosineEmbeddingLoss GaussianNLLLoss HingeEmbeddingLoss HuberLoss L1Loss MSELoss MarginRankingLoss "
            "PoissonNLLLoss SmoothL1Loss SoftMarginLoss TripletMarginLoss TripletMarginWithDistanceLoss "
            "MultiLabelMarginLoss KLDivLoss CTCLoss",
            "it does not take logits and a class",
        ),
        ("NLLLoss NLLLoss2d", "it takes log-probabilities; CrossEntropyLoss is the same on logits"),
        ("BCELoss", "it takes probabilities; use BCEWithLogitsLoss"),
        ("MultiLabelSoftMarginLoss", "it is BCEWithLogitsLoss under another name"),
        (
            "AdaptiveLogSoftmaxWithLoss LinearCrossEntropyLoss LinearCrossEntropyOptions",
            "it has a classifying layer of its own",
        ),
    ),
)

LAYERS = ClassFamily(
    kind="layer",
    module="torch.nn",
    allowed=frozenset(
        _dims("AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool", "MaxPool", "LPPool", "BatchNorm", "InstanceNorm")
        | _dims("Conv", "ConvTranspose", "Dropout", "CircularPad", "ConstantPad", "ReflectionPad")
        | _dims("ReplicationPad", "ZeroPad")
        | _dims("FractionalMaxPool", dims="23")
        | set(
            "AlphaDropout CELU ChannelShuffle Dropout ELU FeatureAlphaDropout Flatten Fold GELU GLU GroupNorm "
            "Hardshrink Hardsigmoid Hardswish Hardtanh Identity LayerNorm LeakyReLU Linear LocalResponseNorm "
            "LogSigmoid LogSoftmax Mish PReLU PixelShuffle PixelUnshuffle RMSNorm RReLU ReLU ReLU6 SELU SiLU "
            "Sigmoid Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold Unflatten "
            "Unfold Upsample UpsamplingBilinear2d UpsamplingNearest2d".split()
        )
    ),
    refused=_reasons(
        (" ".join({*LOSSES.allowed, *LOSSES.refused}), "it is a loss, not a layer; the key loss names it"),
        (
            "GRU GRUCell LSTM LSTMCell RNN RNNBase RNNCell RNNCellBase MultiheadAttention Transformer "
            "TransformerDecoder TransformerDecoderLayer Bilinear CosineSimilarity PairwiseDistance "
            "MaxUnpool1d MaxUnpool2d MaxUnpool3d",
            "it does not turn one tensor into one tensor",
        ),
        ("TransformerEncoder TransformerEncoderLayer", "it is built from other modules or expects a sequence"),
        ("Embedding EmbeddingBag", "it looks up whole numbers, and images are real numbers"),
        (
            "Sequential ModuleList ModuleDict ParameterList ParameterDict Container Module",
            "it holds other modules; list the layers in net_arch itself",
        ),
        ("DataParallel SyncBatchNorm", "placement on several devices is not a layer's business"),
        ("Buffer Parameter UninitializedBuffer UninitializedParameter", "it is not a module"),
        ("CrossMapLRN2d", "it is kept by torch for old files only; use torch.nn.LocalResponseNorm"),
        (
            " ".join(_dims("LazyBatchNorm", "LazyConv", "LazyConvTranspose", "LazyInstanceNorm") | {"LazyLinear"}),
            "its shape is unknown until data arrives; use the class without Lazy and state the size",
        ),
    ),
    beside=(BACKBONES,),
)

OPTIMIZERS = ClassFamily(
    kind="optimiser",
    module="torch.optim",
    allowed=frozenset("ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax NAdam RAdam RMSprop Rprop SGD".split()),
    refused=_reasons(
        ("LBFGS", "it needs the loss computed several times a step"),
        ("SparseAdam", "it takes sparse gradients only, and image networks have dense ones"),
        ("Muon", "it takes two-dimensional parameters only"),
        ("Optimizer", "it is the base of the others"),
    ),
)

SCHEDULERS = ClassFamily(
    kind="learning-rate schedule",
    module="torch.optim.lr_scheduler",
    allowed=frozenset(
        "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR LinearLR MultiStepLR "
        "OneCycleLR PolynomialLR ReduceLROnPlateau StepLR".split()
    ),
    refused=_reasons(
        ("LambdaLR MultiplicativeLR", "it takes a function, and a config is data"),
        ("ChainedScheduler", "list the schedules in learning_rate_schedule itself: they act together"),
        (
            "SequentialLR",
            "list the schedules in learning_rate_schedule itself, and its milestones in the key milestones: each "
            "schedule acts alone, from its milestone on",
        ),
        ("LRScheduler", "it is the base of the others"),
    ),
)

TRANSFORMS = ClassFamily(
    kind="transform",
    module="torchvision.transforms.v2",
    allowed=frozenset(
        "AugMix AutoAugment CenterCrop ColorJitter Compose ConvertImageDtype ElasticTransform GaussianBlur "
        "GaussianNoise Grayscale Identity JPEG Pad RGB RandAugment RandomAdjustSharpness RandomAffine "
        "RandomApply RandomAutocontrast RandomChannelPermutation RandomChoice RandomCrop RandomEqualize "
        "RandomErasing RandomGrayscale RandomHorizontalFlip RandomInvert RandomOrder RandomPerspective "
        "RandomPhotometricDistort RandomPosterize RandomResize RandomResizedCrop RandomRotation "
        "RandomShortestSize RandomSolarize RandomVerticalFlip RandomZoomOut Resize ScaleJitter ToDtype ToImage "
        "ToPureTensor TrivialAugmentWide".split()
    ),
    refused=_reasons(
        ("Lambda", "it takes a function, and a config is data"),
        ("LinearTransformation", "it takes tensors, and a config is data"),
        (
            "Normalize",
            "it would go for training images alone; set normalise_images, normalise_mean and normalise_std, which go "
            "for the images of every split",
        ),
        ("CutMix", "it mixes several images and their labels; the key cutmix_alpha does that"),
        ("MixUp", "it mixes several images and their labels; the key mixup_alpha does that"),
        ("FiveCrop TenCrop UniformTemporalSubsample", "it does not turn one image into one image"),
        (
            "ClampBoundingBoxes ClampKeyPoints ConvertBoundingBoxFormat RandomIoUCrop SanitizeBoundingBoxes "
            "SanitizeKeyPoints SetClampingMode",
            "it is for boxes and key points",
        ),
        ("PILToTensor ToTensor ToPILImage", "images are tensors from the start and stay so"),
        ("AutoAugmentPolicy InterpolationMode Transform", "it is not a transform"),
    ),
)

# Transforms whose `transforms` argument is a list of further {class, kwargs} entries.
NESTING_TRANSFORMS = frozenset(
    f"{TRANSFORMS.module}.{name}" for name in ("Compose", "RandomApply", "RandomChoice", "RandomOrder")
)
