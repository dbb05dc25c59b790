"""Drop-Activation in JAX: a small network learns two interleaved half circles, with a fresh mask in each step.

pip install drop-activation[jax]
"""

import jax
import jax.numpy as jnp
import numpy as np

import drop_activation
from drop_activation.jax import drop_activation as training
from drop_activation.jax import forward, infer

SEED, P, WIDTH, STEPS = 42, 0.95, 64, 300


def half_circles(n, seed):
    random = np.random.default_rng(seed)
    angle, label = random.uniform(0, np.pi, n), random.integers(0, 2, n)
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * (1 - 2 * label[:, None]) + label[:, None] * [1, 0.5]
    return (points + random.normal(scale=0.15, size=points.shape)).astype(np.float32), label


def logits(weights, x, activation):
    w1, b1, w2, b2, w3, b3 = weights
    hidden = activation(x @ w1 + b1, 0)
    hidden = activation(hidden @ w2 + b2, 1)
    return hidden @ w3 + b3


@jax.jit
def step(weights, x, label, number):
    # Two layers, and so two offsets for each step. The number of the step is traced: this is compiled once.
    def loss(weights):
        drop = lambda x, layer: training(x, 2 * number + layer, p=P, seed=SEED)  # noqa: E731
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits(weights, x, drop)), label[:, None], 1)
        return -chosen.mean()

    value, gradients = jax.value_and_grad(loss)(weights)
    return [w - 0.5 * g for w, g in zip(weights, gradients)], value


def main():
    random = np.random.default_rng(0)
    sizes = [(2, WIDTH), (WIDTH, WIDTH), (WIDTH, 2)]
    weights = []
    for inputs, outputs in sizes:
        weights += [random.normal(scale=(2 / inputs) ** 0.5, size=(inputs, outputs)).astype(np.float32)]
        weights += [np.zeros(outputs, np.float32)]
    x, label = half_circles(512, seed=1)
    for number in range(STEPS):
        weights, loss = step(weights, x, label, number)
        if number % 100 == 0:
            print(f"step {number}: loss {loss:.3f}")
    x, label = half_circles(512, seed=2)
    right = logits(weights, x, lambda x, _: infer(x, p=P)).argmax(1) == label
    print(f"step {STEPS}: loss {loss:.3f}, {right.mean():.1%} of unseen points right")
    assert right.mean() > 0.95

    # The masks are those of every other language and device.
    _, ours = forward(x, 7, p=P, seed=SEED)
    _, numpys = drop_activation.forward(x, P, seed=SEED, offset=7)
    assert (np.asarray(ours) == numpys).all()
    print("and the mask of offset 7 is NumPy's")


if __name__ == "__main__":
    main()
