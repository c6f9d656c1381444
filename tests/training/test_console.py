from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from spectralgpt_hf.training import console
from spectralgpt_hf.training.console import ConsoleLog, describe_pretraining_step, describe_seconds


@pytest.fixture
def log(monkeypatch) -> ConsoleLog:
    now = iter([100.0])
    # The name in this module, not `time.monotonic` itself: other threads of the test run ask for the time too.
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(now, 110.0)))
    return ConsoleLog("miou")


def test_steps_and_scores_are_printed_with_rate_and_time_left(log, tmp_path, capsys):
    arguments = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, use_cpu=True)
    state, control = TrainerState(max_steps=40, num_train_epochs=2, logging_steps=10), TrainerControl()
    log.on_train_begin(arguments, state, control)
    state.global_step, state.epoch = 10, 0.5
    log.on_log(arguments, state, control, logs={"loss": 0.25})
    log.on_evaluate(arguments, state, control, metrics={"eval_loss": 0.5, "eval_miou": 0.75})
    log.on_log(arguments, state, control, logs={"eval_loss": 0.5})  # the same again
    log.on_evaluate(arguments, state, control, metrics={"test_loss": 0.5, "test_miou": 0.75})  # printed at the end
    assert capsys.readouterr().out.splitlines() == [
        "training: 40 steps in 2 epochs",
        "epoch 0.5  step 10/40  loss 0.2500  learning rate 0.0e+00  4.0 images/s  30 s left",
        "epoch 0.5  validation loss 0.5000  miou 0.750",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_have_the_unit_that_suits_them(seconds, text):
    assert describe_seconds(seconds) == text


def test_a_step_of_pretraining_is_printed_with_rate_and_time_left():
    record = {"epoch": 0.25, "loss": 0.5, "learning_rate": 1e-4, "samples_per_second": 16.0}
    line = "epoch 0.2  step 10/40  loss 0.5000  learning rate 1.0e-04  16.0 images/s  15 s left"
    assert describe_pretraining_step(10, 40, 8, record) == line
