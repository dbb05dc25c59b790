"""What a run is: all that its result depends on. A run is named by it, so that a result is that of its configuration or
is not found."""

import dataclasses
import hashlib
import json
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum 0.9. Without milestones the learning rate falls by half a cosine, step
    by step, to zero."""

    epochs: int
    rate: float
    batch: int = 64
    weight_decay: float = 5e-4
    nesterov: bool = True
    #: The epochs before which the rate is multiplied by `factor`.
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    #: A lower rate to begin with, and for how many steps.
    warm_up_rate: float = 0.0
    warm_up_steps: int = 0

    def rate_at(self, epoch: int, step: int, steps: int) -> float:
        """The learning rate of a step, counted from zero over all epochs, of `steps` in all."""
        if step < self.warm_up_steps:
            return self.warm_up_rate
        if self.milestones:
            return self.rate * self.factor ** sum(epoch >= milestone for milestone in self.milestones)
        return self.rate * (1 + math.cos(math.pi * step / steps)) / 2


@dataclasses.dataclass(frozen=True)
class Run:
    data: str
    network: dict[str, Any]
    activation: str
    recipe: Recipe
    seed: int
    #: How many images are drawn from the training part; None for all.
    train_images: int | None = None
    #: The share of training labels that are wrong.
    wrong_labels: float = 0.0
    #: Of `data.TRANSFORMS`, in this order.
    augmentation: tuple[str, ...] = ()
    #: "test", or "validation": images of the training set that no run trains on.
    measured_on: str = "test"
    #: "float32", or "bfloat16" by autocast.
    precision: str = "float32"
    #: Whether the shift ratio is measured after each epoch.
    shift_ratio: bool = False

    def __post_init__(self):
        for field, allowed in (("measured_on", ("test", "validation")), ("precision", ("float32", "bfloat16"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}, got {getattr(self, field)!r}")
        if not 0 <= self.wrong_labels < 1:
            raise ValueError(f"wrong_labels must be in [0, 1), got {self.wrong_labels}")

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults, so that a field that comes later leaves the names of runs as they are."""
        return _changed(self) | {"recipe": _changed(self.recipe)}

    @classmethod
    def of(cls, **fields) -> "Run":
        """From what JSON or TOML has."""
        fields["recipe"] = Recipe(**_tuples(fields["recipe"]))
        return cls(**_tuples(fields))

    @property
    def name(self) -> str:
        """The same for equal configurations alone."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def _changed(fields):
    return {f.name: v for f in dataclasses.fields(fields) if (v := getattr(fields, f.name)) != f.default}


def _tuples(fields):
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
