"""Answers that Kubernetes does not give, as of a proxy in between or a server that begins: asked for again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.peers.trainer.api import Asked, TrainerApi
from tests.train_job.conftest import Training
from tests.train_job.test_follow import STARTED, Told, finish, looked

ASKED = [
    ("get", "trainjobs"),
    ("list", "trainjobs"),
    ("list", "pods"),
    ("create", "selfsubjectaccessreviews"),
    ("create", "trainjobs"),
    ("get", "pods/log"),
]


@pytest.mark.parametrize(
    "foreign",
    [
        {},
        {"items": [5, None], "metadata": None, "status": "x"},
        {"items": 5, "metadata": {"name": 1, "uid": 2}},
        {"items": [{"metadata": {"name": "x", "uid": "y", "labels": 3}}], "metadata": {"name": "x", "uid": "y"}},
        (200, "<html>login</html>"),
        (200, '{"items": ['),
        (200, "[" * 100_000),
    ],
    ids=["nothing", "other types", "other numbers", "other names", "a page", "half", "deep"],
)
def test_an_answer_that_is_none_is_asked_for_again(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch, capsys: Told, foreign: Any
) -> None:
    answered = trainer_api.methods.answer
    left = list(ASKED)

    def answer(asked: Asked, *more: Any) -> Any:
        found = answered(asked, *more)
        if (asked.verb, asked.resource) in left:
            left.remove((asked.verb, asked.resource))
            return foreign
        return found

    def script() -> None:
        training.nodes.start()
        training.nodes.say(STARTED, "line")
        looked(trainer_api)
        finish(training)

    monkeypatch.setattr(trainer_api.methods, "answer", answer)
    training.nodes.play(script)

    assert training.run().status == "succeeded"
    assert (left, training.states()) == ([], ["started", "succeeded"])
    assert len(trainer_api.store.select("trainjobs")) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert not training.nodes.trouble


def test_a_job_is_gone_by_kubernetes_own_word_alone(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that begins, or a proxy, answers 404 to all; the job trains on."""
    answered, left = trainer_api.methods.answer, [("get", "trainjobs"), ("delete", "trainjobs")]

    def answer(asked: Asked, *more: Any) -> Any:
        if (asked.verb, asked.resource) in left:
            left.remove((asked.verb, asked.resource))
            return 404, "404 page not found\n"
        return answered(asked, *more)

    def script() -> None:
        training.nodes.start()
        looked(trainer_api)
        finish(training)

    monkeypatch.setattr(trainer_api.methods, "answer", answer)
    training.nodes.play(script)

    assert training.run().status == "succeeded"
    assert left == [("delete", "trainjobs")]


def test_figures_that_are_none_are_passed_over(training: Training, trainer_api: TrainerApi) -> None:
    trainer_api.denied = {("get", "pods/log")}
    figures = {"epoch": "inf", "accuracy": "nan", "train_loss": "-inf", "learning_rate": "", "f1": "0.5", "": "1"}

    def script() -> None:
        training.nodes.start()
        metrics = [{"name": name, "value": value} for name, value in figures.items()]
        training.nodes.job(
            trainerStatus={"progressPercentage": 40, "estimatedRemainingSeconds": -1, "metrics": metrics}
        )
        looked(trainer_api)
        finish(training)

    training.nodes.play(script)
    assert training.run().status == "succeeded"
    assert training.states() == ["started", "progress", "succeeded"]


def test_what_the_server_answers_never_shows_the_token(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    message = f"a proxy has refused {trainer_api.token}"
    monkeypatch.setattr(trainer_api.methods, "answer", lambda *asked: (400, f'{{"message": "{message}"}}'))

    record = training.run()

    assert record.error is not None
    assert "a proxy has refused [redacted]" in record.error.message
    assert trainer_api.token not in capsys.readouterr().err + record.model_dump_json()
