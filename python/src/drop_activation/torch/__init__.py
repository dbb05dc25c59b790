"""Drop-Activation for PyTorch: modules and functions with gradients, on CPU and CUDA tensors.

    layer = DropActivation(p=0.95)                  # wherever there was nn.ReLU()
    y = layer(x)                                    # training; layer.eval() for inference
    replaced = replace_relu(model, p=0.95)          # every ReLU of a model; restore_relu(model) undoes it
    fold(model.eval())                              # a trained model of PyTorch's modules alone

In training a mask of one bit per element is kept for the backward pass, and for ReLU nothing else. Each call draws the
key of its mask from PyTorch's generator for the tensor's device: so masks follow `torch.manual_seed`, and checkpointing
recomputes the same mask. The generators of the CPU and of CUDA draw different keys; a key that is given names the same
mask on both. On CUDA the work is enqueued on PyTorch's current stream, and only the first call waits for the device.

A pass is one launch, eager or compiled, with PyTorch 2.15; an older one draws the key by a kernel of its own. It may be
captured into a CUDA graph (`torch.cuda.graph`, `mode="reduce-overhead"`, after a first call without one), whose replays
draw the masks that the calls would draw without it, and is one launch there too: the pass reads the generator's seed and
offset on the GPU. Only a call that was never made before the capture, one within torch.func's transformations, and a
layer with a batch normalisation or a bias in it have their key drawn by a kernel of its own there.

In evaluation mode, and where p is 0 or 1, PyTorch's own operations are called: leaky_relu for ReLU, relu for p = 1. So
a model in evaluation mode is exported, traced and compiled like any other. There x = 0 and NaN have PyTorch's derivatives.

Derivatives of any order and direction, torch.func's transformations and vmap's randomness are as for F.dropout, but for
derivatives within torch.func.functionalize: functionalize(grad(f)) is refused, and grad(functionalize(f)) is not.
A layer with a batch normalisation or a bias in it has derivatives of the first order, and of these the former's has no
forward mode: what it has not is refused by name. DTensors get the mask of the whole tensor. Equal keys give equal masks;
`first` makes a tensor a shard.

A tensor is read in the order in which it lies in memory, if it is contiguous or channels_last; any other is made
contiguous first.
"""

from ._batch_norm import BatchNormDropActivation1d, BatchNormDropActivation2d
from ._bias import BiasDropActivation, bias_drop_activation
from ._fold import fold
from ._functions import drop_activation, rrelu
from ._fuse_batch_norm import FusedModel, fuse_batch_norm
from ._modules import DropActivation, RReLU
from ._left import Left
from ._replace import Replaced, replace_relu, restore_relu

__all__ = [
    "BatchNormDropActivation1d",
    "BatchNormDropActivation2d",
    "BiasDropActivation",
    "DropActivation",
    "FusedModel",
    "Left",
    "RReLU",
    "Replaced",
    "bias_drop_activation",
    "drop_activation",
    "fold",
    "fuse_batch_norm",
    "replace_relu",
    "restore_relu",
    "rrelu",
]
