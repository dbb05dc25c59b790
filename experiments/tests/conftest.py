"""A plan of tiny runs that has every kind of network, augmentation and activation."""

import pytest
import torch

from experiments import plan
from experiments.config import Run

SMALL = {
    "simple": {"kind": "simple", "widths": [4, 8, 8], "hidden": 8},
    "resnet": {"kind": "resnet", "depth": 8, "width": 4},
    "resnet18": {"kind": "resnet18"},
    "preresnet": {"kind": "preresnet", "depth": 11, "width": 8},
    "wide": {"kind": "wide", "depth": 10, "factor": 1, "width": 8, "dropout": 0.1},
    "densenet": {"kind": "densenet", "depth": 10, "growth": 4},
    "resnext": {"kind": "resnext", "depth": 11, "groups": 2, "group_width": 4, "width": 8},
}
ACTIVATIONS = ("relu", "rrelu", "drop-activation 0.8", "relu+dropout 0.1")


def tiny(network="simple", activation="drop-activation 0.8", epochs=3, seed=0, **fields) -> Run:
    recipe = {"epochs": epochs, "rate": 0.05, "batch": 32}
    defaults = {"data": "synthetic", "train_images": 96}
    return Run.of(network=SMALL[network], activation=activation, recipe=recipe, seed=seed, **(defaults | fields))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PLAN = """
[level.cpu]
data = "synthetic"

[[rung]]
name = "tiny"
title = "a rung"
level = "cpu"
seeds = 2
activations = ["relu", "rrelu", "drop-activation 0.95"]
run.network = { kind = "simple", widths = [4, 8, 8], hidden = 8 }
run.train_images = 64
run.recipe = { epochs = 2, rate = 0.05 }
cells = [{ label = "plain" }, { label = "crop", run = { augmentation = ["crop"] } }]
"""


@pytest.fixture
def tiny_plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def tiny_rung(tiny_plan):
    return plan.rungs(tiny_plan)["tiny"]
