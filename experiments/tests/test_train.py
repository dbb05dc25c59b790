"""Training: it learns, it is paired, and what was interrupted is what was not."""

import math

import pytest
import torch
from conftest import ACTIVATIONS, SMALL, tiny

from experiments import shift_ratio
from experiments import train as training
from experiments.train import Training, train

CPU = torch.device("cpu")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_losses_fall_and_the_stripes_are_learned(activation):
    result = train(tiny(activation=activation, epochs=8, train_images=192), "", CPU)
    assert result["loss"][-1] < 0.7 * result["loss"][0]
    assert result["test_error"] < 50 and result["train_error"] < 50, "of four classes, 75 is chance"


def test_bfloat16_learns_as_well_and_is_another_run():
    wide, narrow = (train(tiny("wide", precision=p, epochs=4), "", CPU)["loss"] for p in ("float32", "bfloat16"))
    assert narrow[-1] < narrow[0] and narrow[0] == pytest.approx(wide[0], rel=0.1) and narrow != wide


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "resnet18"])
def test_losses_of_every_network_fall(kind):
    losses = train(tiny(kind, epochs=3), "", CPU)["loss"]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"augmentation": ["crop", "flip", "cutout 4"]},
        {"network": "wide", "wrong_labels": 0.25},
        {"network": "resnet", "shift_ratio": True},
    ],
    ids=str,
)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(fields, tmp_path):
    run, checkpoint = tiny(**fields), tmp_path / "checkpoint.pt"
    whole, first, second = (Training(run, "", CPU) for _ in range(3))
    for _ in range(3):
        whole.next_epoch()
    first.next_epoch()
    first.save(checkpoint)
    torch.rand(7)  # another process has drawn other random numbers
    second.load(checkpoint)
    for _ in range(2):
        second.next_epoch()
    for (name, a), b in zip(whole.network.state_dict().items(), second.network.state_dict().values()):
        assert torch.equal(a, b), name
    a, b = whole.result(), second.result()
    times = {"images_per_second": 0, "cpu_seconds": 0}
    assert a | times == b | times


def test_train_goes_on_from_its_checkpoint_and_removes_it(tmp_path):
    run, checkpoint, epochs = tiny(), tmp_path / "checkpoint.pt", []

    def interrupt(training):
        epochs.append(training.epoch)
        if training.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, "", CPU, checkpoint=checkpoint, every=0, watch=interrupt)
    assert checkpoint.exists()
    result = train(run, "", CPU, checkpoint=checkpoint, every=0, watch=lambda t: epochs.append(t.epoch))
    assert epochs == [1, 2, 2, 3], "the second epoch, whose end was not saved, is repeated"
    assert not checkpoint.exists()
    assert result["loss"] == train(run, "", CPU)["loss"]


def test_activations_begin_from_the_same_weights_and_p_1_is_relu():
    runs = [tiny(activation=a, epochs=2) for a in ("relu", "drop-activation 1", "drop-activation 0.8")]
    states = [Training(run, "", CPU).network.state_dict() for run in runs]
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[2].values()))
    relu, one, dropped = (train(run, "", CPU) for run in runs)
    assert relu["loss"] == one["loss"] and relu["test_error"] == one["test_error"]
    assert relu["loss"] != dropped["loss"]


def test_errors_are_counted_in_evaluation_mode():
    under_way = Training(tiny(), "", CPU)
    under_way.next_epoch()
    test = under_way.parts.test
    found = [under_way.error(test) for _ in range(2)]
    under_way.network.eval()
    with torch.no_grad():
        wrong = (under_way.logits(test.x).argmax(1) != test.y).sum().item()
    assert found == [100 * wrong / len(test)] * 2


@pytest.mark.parametrize(
    "fields,text",
    [
        ({"measured_on": "train"}, "measured_on must be one of test, validation, got 'train'"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, got 'float16'"),
        ({"wrong_labels": 1.5}, "wrong_labels must be in \\[0, 1\\), got 1.5"),
    ],
)
def test_what_a_run_cannot_be_is_named(fields, text):
    with pytest.raises(ValueError, match=text):
        tiny(**fields)


def test_rates_follow_the_recipe():
    def recipe(**fields):
        return training.Run.of(
            data="", network={}, activation="relu", seed=0, recipe={"epochs": 200, "rate": 0.1, **fields}
        ).recipe

    steps = recipe(milestones=[60, 120, 160], factor=0.2, warm_up_rate=0.01, warm_up_steps=400)
    found = [steps.rate_at(epoch, 1000, 2000) for epoch in (0, 59, 60, 119, 120, 160)]
    assert found == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.0008])
    assert [steps.rate_at(0, step, 2000) for step in (399, 400)] == [0.01, 0.1]
    cosine = recipe()
    assert [cosine.rate_at(0, step, 2000) for step in (0, 1000, 2000)] == pytest.approx([0.1, 0.05, 0])


def test_the_shift_ratio_leaves_the_training_as_it_is():
    plain, measured = (Training(tiny("resnet", shift_ratio=measure), "", CPU) for measure in (False, True))
    for _ in range(2):
        plain.next_epoch()
        measured.next_epoch()
    assert plain.history["loss"] == measured.history["loss"]
    for a, b in zip(plain.network.state_dict().values(), measured.network.state_dict().values()):
        assert torch.equal(a, b)
    assert len(measured.history["shift_ratios"]) == 2
    state = torch.get_rng_state()
    shift_ratio.measure(plain.network, plain.input(plain.parts.train.x), 0, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_shift_ratio_of_dropout_is_lower():
    """At the same rate of disturbance, of a network with its initial weights and running averages that have settled."""
    ratios = {}
    for activation in ("relu", "drop-activation 0.7", "relu+dropout 0.3"):
        under_way = Training(tiny("resnet", activation, train_images=400), "", CPU)
        x = under_way.input(under_way.parts.train.x)
        under_way.network.train()
        with torch.no_grad():
            for _ in range(60):
                under_way.network(x)
        ratios[activation] = shift_ratio.measure(under_way.network, x, 0, 0)[1]
    assert ratios["relu"] == pytest.approx(1, abs=0.02)
    assert ratios["relu+dropout 0.3"] < ratios["drop-activation 0.7"] - 0.1 < 1
