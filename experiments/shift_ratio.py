"""Figure 6: the variance at inference over the variance in training, at the output of a ResNet's second stage and, in
that stage's last block, before the second batch normalisation, which is the place that Property 5.2 speaks of."""

import copy

import torch
from torch import Tensor, nn

from . import seeds

#: How many training images it is measured on.
IMAGES = 200


def measure(network: nn.Module, x: Tensor, seed: int, epoch: int) -> list[float]:
    """The ratios at the stage's output and within its last block, of the same images with the same weights.

    Training mode draws masks and normalises by the batch, evaluation by the running averages. The network, and the
    random numbers of its training, stay as they are.
    """
    network = copy.deepcopy(network)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seeds.seed(seed, "shift ratio", epoch))
        test = _variances(network.eval(), x)
        train = _variances(network.train(), x)
    return [(a / b).item() for a, b in zip(test, train)]


def _variances(network, x):
    """The means of the channels' variances at both places."""
    seen = {}
    stage = network.stages[1]
    places = (stage, stage[-1].conv2)
    hooks = [
        place.register_forward_hook(lambda _, __, output, i=i: seen.__setitem__(i, output.transpose(0, 1).flatten(1)))
        for i, place in enumerate(places)
    ]
    network(x)
    for hook in hooks:
        hook.remove()
    return [seen[i].var(1).mean() for i in range(len(places))]
