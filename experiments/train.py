"""One run: a network trained by a recipe, and what came out."""

import math
import os
import pathlib
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from . import activations, networks, seeds, shift_ratio
from .config import Run
from .data import Images, Parts, batches, parts


class Training:
    """A run under way. It can be saved between epochs, and a saved one goes on as if it had never stopped."""

    def __init__(self, run: Run, folder: str, device: torch.device, workers: int = 0):
        self.run, self.device, self.workers = run, device, workers
        self.parts: Parts = parts(run, folder).on(device, with_images=not run.augmentation)
        self.network = network(run, self.parts).to(device, memory_format=torch.channels_last)
        recipe = run.recipe
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), recipe.rate, 0.9, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
        )
        self.epoch, self.history = 0, {"loss": [], "error": [], "seconds": [], "cpu_seconds": [], "shift_ratios": []}

    def save(self, path: pathlib.Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
        }
        draft = path.with_suffix(".new")
        torch.save(state, draft)
        os.replace(draft, path)

    def load(self, path: pathlib.Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.history = state["epoch"], self.history | state["history"]

    def next_epoch(self) -> None:
        run, recipe = self.run, self.run.recipe
        start, cpu_start = time.perf_counter(), time.process_time()
        steps = math.ceil(len(self.parts.train) / recipe.batch)
        torch.manual_seed(seeds.seed(run.seed, "masks", self.epoch))
        self.network.train()
        loss_sum, wrong = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for step, batch in enumerate(
            batches(run, self.parts, self.epoch, self.device, self.workers), steps * self.epoch
        ):
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate_at(self.epoch, step, steps * recipe.epochs)
            self.optimizer.zero_grad(set_to_none=True)
            logits = self.logits(batch.x)
            loss = F.cross_entropy(logits, batch.y)
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach() * len(batch)
            wrong += (logits.detach().argmax(1) != batch.y).sum()
        self.history["loss"].append(loss_sum.item() / len(self.parts.train))
        self.history["error"].append(100 * wrong.item() / len(self.parts.train))
        self.history["seconds"].append(time.perf_counter() - start)
        self.history["cpu_seconds"].append(time.process_time() - cpu_start)
        if run.shift_ratio:
            x = self.input(self.parts.train.x[: shift_ratio.IMAGES].to(self.device))
            self.history["shift_ratios"].append(shift_ratio.measure(self.network, x, run.seed, self.epoch))
        self.epoch += 1

    def input(self, x):
        return self.parts.scaled(x).contiguous(memory_format=torch.channels_last)

    def logits(self, x):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.run.precision == "bfloat16"):
            return self.network(self.input(x)).float()

    @torch.no_grad()
    def error(self, images: Images) -> float:
        """In percent, in evaluation mode."""
        self.network.eval()
        wrong = torch.zeros((), device=self.device)
        for x, y in zip(images.x.split(500), images.y.split(500)):
            wrong += (self.logits(x.to(self.device)).argmax(1) != y.to(self.device)).sum()
        return 100 * wrong.item() / len(images)

    def result(self) -> dict[str, Any]:
        """Errors in percent. `running_error` is that of the last epoch's batches while they were learned from, and
        `train_error` that of the finished network on the training images as they are, with the labels it was given."""
        history = self.history
        seconds = sorted(history["seconds"])[len(history["seconds"]) // 2]
        result = {
            "test_error": self.error(self.parts.test),
            "train_error": self.error(self.parts.train),
            "running_error": history["error"][-1],
            "loss": [float(f"{loss:.4g}") for loss in history["loss"]],
            "running_errors": [float(f"{error:.4g}") for error in history["error"]],
            "parameters": networks.parameters(self.network),
            "images_per_second": round(len(self.parts.train) / seconds, 1),
            "cpu_seconds": round(sum(history["cpu_seconds"]), 1),
        }
        return result | ({"shift_ratios": history["shift_ratios"]} if self.run.shift_ratio else {})


def network(run: Run, parts: Parts) -> nn.Module:
    """With the initial weights of the run's seed, whatever its activation."""
    torch.manual_seed(seeds.seed(run.seed, "weights"))
    channels, side = parts.train.x.shape[1], parts.train.x.shape[-1]
    built = networks.build(channels=channels, classes=parts.classes, side=side, **run.network)
    return activations.replace(built, run.activation)


def train(
    run: Run,
    folder: str,
    device: torch.device,
    workers: int = 0,
    checkpoint: pathlib.Path | None = None,
    every: float = 60,
    watch=lambda training: None,
) -> dict[str, Any]:
    """Trains to the end, from where `checkpoint` is, which is written every so many seconds and removed at the end."""
    training = Training(run, folder, device, workers)
    if checkpoint and checkpoint.exists():
        training.load(checkpoint)
    saved = time.monotonic()
    while training.epoch < run.recipe.epochs:
        training.next_epoch()
        watch(training)
        if checkpoint and time.monotonic() - saved >= every and training.epoch < run.recipe.epochs:
            training.save(checkpoint)
            saved = time.monotonic()
    result = training.result()
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return result
