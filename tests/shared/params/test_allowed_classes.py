"""The lists of class names against the installed torch and torchvision: nothing missing, nothing undecided."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.shared.params.allowed_classes import (
    LAYERS,
    LOSSES,
    MODULES_VARIABLE,
    NESTING_TRANSFORMS,
    OPTIMIZERS,
    SCHEDULERS,
    TRANSFORMS,
    ClassFamily,
    operator_modules,
)
from components.shared.params.params import Params
from components.shared.text import shortened
from tests.configs import check_dict, layer, refused, schedule, small, transform

FAMILIES = [LAYERS, LOSSES, OPTIMIZERS, SCHEDULERS, TRANSFORMS]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.kind)


@each_family
def test_every_listed_name_exists(family: ClassFamily) -> None:
    module = importlib.import_module(family.module)
    listed = family.allowed | family.refused.keys()
    assert sorted(name for name in listed if not isinstance(getattr(module, name, None), type)) == []


@each_family
def test_every_public_class_is_either_allowed_or_refused(family: ClassFamily) -> None:
    # Losses and layers share torch.nn; what a loss is, torch tells by where it is made.
    made_in = "torch.nn.modules.loss" if family is LOSSES else family.module
    module = importlib.import_module(family.module)
    public = {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and not name.startswith("_") and value.__module__.startswith(made_in)
    }
    assert len(public) > 10
    assert sorted(public - family.allowed - family.refused.keys()) == []
    assert sorted(family.allowed & family.refused.keys()) == []


def test_allowed_classes_are_what_their_family_says() -> None:
    for family, base in (
        (LAYERS, torch.nn.Module),
        (LOSSES, torch.nn.modules.loss._Loss),
        (OPTIMIZERS, torch.optim.Optimizer),
        (SCHEDULERS, torch.optim.lr_scheduler.LRScheduler),
        (TRANSFORMS, torch.nn.Module),
    ):
        module = importlib.import_module(family.module)
        assert [name for name in family.allowed if not issubclass(getattr(module, name), base)] == []
    assert TRANSFORMS.allowed >= {name.rpartition(".")[2] for name in NESTING_TRANSFORMS}


def entries(family: ClassFamily, name: str) -> dict[str, object]:
    """A config that names a class where its family belongs."""
    if family is OPTIMIZERS:
        return small(optim_class=name)
    if family is LOSSES:
        return small(loss={"class": name})
    if family is SCHEDULERS:
        return small(learning_rate_schedule=[{"name": "s", "class": name}])
    return small(**{"net_arch" if family is LAYERS else "additional_transforms": [{"class": name}]})


@each_family
def test_a_refused_name_gives_its_reason(family: ClassFamily) -> None:
    article = "an" if family is OPTIMIZERS else "a"
    for name in sorted(family.refused):
        for written in (f"{family.module}.{name}", name):
            (message,) = refused(Params.from_dict, entries(family, written)).values()
            reason = family.refused[name]
            assert message == f"{family.module}.{name} cannot be used as {article} {family.kind}: {reason}"
            assert name not in ("CutMix", "MixUp") or f"the key {name.lower()}_alpha does that" in message


@each_family
def test_a_class_object_is_written_by_its_public_name(family: ClassFamily) -> None:
    module = importlib.import_module(family.module)
    assert [name for name in family.allowed if family.name_of(getattr(module, name)) != f"{family.module}.{name}"] == []


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        (LAYERS, "torch.nn.conv2D", "did you mean torch.nn.Conv2d?"),
        (LAYERS, "torch.nn.modules.conv.Conv2d", "did you mean torch.nn.Conv2d?"),
        (LAYERS, "os.system", "allowed are classes of torch.nn such as torch.nn.AdaptiveAvgPool1d"),
        (SCHEDULERS, "CosineAnealingLR", "did you mean torch.optim.lr_scheduler.CosineAnnealingLR?"),
        (TRANSFORMS, "torch.load", "is not an allowed transform"),
    ],
)
def test_an_unknown_name_leads_to_the_nearest(family: ClassFamily, name: str, message: str) -> None:
    assert message in "".join(refused(Params.from_dict, entries(family, name)).values())


def test_messages_stay_one_short_line_whatever_they_show() -> None:
    assert shortened("a" * 100) == "a" * 59 + "…"
    assert shortened("a\nb\ud800") == "a\\nb\\ud800"
    assert shortened(10**5000) == "a huge integer"
    assert shortened(["x"]) == "['x']"


OPERATORS_MODULE = """
import torch

class Doubling(torch.nn.Module):
    def __init__(self, times: int = 2) -> None:
        super().__init__()
        self.times = times
    def forward(self, images):
        return images * self.times

class Descent(torch.optim.SGD):
    pass

class Nothing:
    def __init__(self, **options) -> None:
        pass

number = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a module of the operator's own; a new one for each test, because Python keeps modules."""
    name = f"operators_own_{request.node.name}".replace("[", "_").replace("]", "")
    (tmp_path / f"{name}.py").write_text(OPERATORS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_an_operators_module_is_refused_unless_the_operator_names_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(net_arch=[{"class": f"{module}.Doubling", "kwargs": {"times": 3}}])
    monkeypatch.delenv(MODULES_VARIABLE, raising=False)
    assert "is not an allowed layer" in refused(check_dict, config)["net_arch[0].class"]
    assert module not in sys.modules
    monkeypatch.setenv(MODULES_VARIABLE, f"{module}x,{module}.sub")
    assert "is not an allowed layer" in refused(check_dict, config)["net_arch[0].class"]
    assert module not in sys.modules


def test_an_operators_module_is_let_in_by_its_name(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODULES_VARIABLE, f" other.module , {module},")
    assert operator_modules() == {"other.module", module}
    config = small(net_arch=[{"class": f"{module}.Doubling", "kwargs": {"times": 3}}], optim_class=f"{module}.Descent")
    params, table, _ = check_dict(config)
    assert [row.name for row in table.rows] == ["Doubling", "Flatten", "Linear"]
    assert Params.load(params.to_json()) == params

    imported = importlib.import_module(module)
    as_objects = {**config, "net_arch": [{"class": imported.Doubling, "kwargs": {"times": 3}}]}
    assert Params.from_dict(as_objects) == params
    unknown = {**config, "net_arch": [{"class": f"{module}.Doubling", "kwargs": {"time": 3}}]}
    assert refused(check_dict, unknown) == {
        "net_arch[0].kwargs.time": "Doubling has no such argument; did you mean times?"
    }


def test_what_an_operators_module_does_not_hold_is_refused(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODULES_VARIABLE, f"{module},nowhere_to_be_found")
    for name, message in (
        (f"{module}.Missing", "is not in this installation"),
        (f"{module}.number", "is not a class"),
        (f"{module}.", "is not in this installation"),
        ("nowhere_to_be_found.Layer", "is not in this installation"),
    ):
        assert message in refused(check_dict, small(net_arch=[{"class": name}]))["net_arch[0]"]
    assert refused(check_dict, small(net_arch=[{"class": f"{module}.Nothing"}])) == {
        "net_arch[0]": f"{module}.Nothing is not a torch.nn.Module"
    }
    assert refused(check_dict, small(optim_class=f"{module}.Nothing")) == {
        "optim_class": f"{module}.Nothing is not a torch.optim.Optimizer"
    }


def test_families_do_not_lend_each_other_classes() -> None:
    found = refused(
        Params.from_dict,
        small(
            net_arch=[{"class": "torch.optim.SGD"}],
            optim_class="torch.nn.Conv2d",
            learning_rate_schedule=[{**schedule("StepLR"), "class": "torch.optim.SGD"}],
            additional_transforms=[layer("Identity"), transform("Compose", transforms=[layer("ReLU")])],
        ),
    )
    assert set(found) == {
        "net_arch[0].class",
        "optim_class",
        "learning_rate_schedule[0].class",
        "additional_transforms[0].class",
        "additional_transforms[1].kwargs.transforms[0].class",
    }
