"""The operators with a batch normalisation or a bias as on CUDA tensors, where there is no GPU: on the stand-in for the driver,
which runs the emulated kernels, and whose memory is the host's. test_stand_in.py runs this in a process of its own."""

import ctypes
from types import SimpleNamespace
from unittest import mock

import torch

from drop_activation import _library as library
from drop_activation.torch import _batch_norm_operators as operators
from drop_activation.torch import _bias_operators as biases
from drop_activation.torch import _channels as channels
from drop_activation.torch._layout import layout_of

CPU = operators.batch_norm, operators.batch_norm_backward
#: What PyTorch calls for CUDA tensors.
CUDA = operators._batch_norm, operators._batch_norm_backward
BIAS_CPU, BIAS_CUDA = (biases.bias_, biases.bias_backward), (biases._bias, biases._bias_backward)

STREAM = 0xABC
driver = ctypes.CDLL("libcuda.so.1")
driver.fake_log.restype = ctypes.c_char_p


def launched():
    lines = driver.fake_log().decode().splitlines()
    names = [line.split()[1] for line in lines if line.startswith("launch ")]
    assert all(line.endswith(f" on {STREAM:#x}") for line in lines if line.startswith("launch ")), lines
    return names


def on_the_stand_in(call):
    """What comes of the call, and the names of what was launched."""
    kernels = library.Cuda(0)
    with (
        mock.patch.object(channels, "_kernels", lambda device: kernels),
        mock.patch.object(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM)),
    ):
        launched()
        return call(), launched()


def step(kernels, x, residual, weight, bias, mean, variance, dy, p, activation):
    forward, backward = kernels
    y, mask, mean_of, variance_of = forward(
        x, residual, weight, bias, mean, variance, torch.tensor([7]), 1e-5, p, activation, layout_of(x)
    )
    gradients = backward(
        dy, mask, x, residual, weight, bias, mean_of, variance_of, mean is None, 1e-5, p, activation, layout_of(x)
    )
    return y, mask, mean_of, variance_of, *gradients


def step_with_bias(kernels, x, residual, bias, dy, p, activation, dim):
    forward, backward = kernels
    y, mask = forward(x, residual, bias, torch.tensor([7]), p, activation, dim, layout_of(x))
    return y, mask, *backward(dy, mask, x, residual, bias, p, activation, dim, layout_of(x))


def end_of(dtype):
    return str(dtype).removeprefix("torch.").replace("float", "f")


def compare(expected, got, activation, names, wanted, *what):
    of_total = lambda name: name.rpartition("_")[0] if "_total_" in name else name
    assert list(map(of_total, names)) == wanted, names
    for a, b in zip(expected, got):
        assert a.stride() == b.stride() and a.dtype == b.dtype
        if activation:
            eps = torch.finfo(what[0]).eps if a.is_floating_point() else 0
            torch.testing.assert_close(b, a, rtol=64 * eps, atol=64 * eps)
        else:
            assert torch.equal(a, b), what


def main():
    torch.manual_seed(1)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        for shape, memory in (((67, 24), None), ((5, 6, 7, 7), None), ((5, 8, 8, 8), torch.channels_last)):
            for activation, frozen, with_residual in ((0, False, False), (0, True, True), (3, False, True)):
                make = lambda: torch.randn(shape, dtype=torch.float64).to(dtype)
                lie = lambda t: t if memory is None else t.contiguous(memory_format=memory)
                x, r, dy = lie(make()), lie(make()), lie(make())
                real = channels.real_of(x)
                weight, bias, mean, variance = (torch.rand(shape[1], dtype=real) + 0.5 for _ in range(4))
                given = (mean, variance) if frozen else (None, None)
                arguments = (x, r if with_residual else None, weight, bias, *given, dy, 0.7, activation)
                expected = step(CPU, *arguments)
                got, names = on_the_stand_in(lambda: step(CUDA, *arguments))
                of, end = ("gelu" if activation else "relu"), end_of(dtype)
                statistics = [] if frozen else [f"da_fused_moments_{end}", "da_fused_moments_total"]
                passes = [f"da_fused_forward_{of}_{end}", f"da_fused_products_{of}_{end}", "da_fused_products_total"]
                wanted = [*statistics, *passes, f"da_fused_backward_{of}_{end}"]
                compare(expected, got, activation, names, wanted, dtype, shape, frozen)
        images = ((5, 8, 8, 8), torch.channels_last, 1)
        for shape, memory, dim in (((67, 24), None, 1), ((5, 7, 24), None, -1), ((5, 6, 7, 7), None, 1), images):
            for activation, with_residual in ((0, False), (0, True), (3, True)):
                make = lambda: torch.randn(shape, dtype=torch.float64).to(dtype)
                lie = lambda t: t if memory is None else t.contiguous(memory_format=memory)
                x, r, dy = lie(make()), lie(make()), lie(make())
                bias = torch.randn(shape[dim], dtype=channels.real_of(x))
                arguments = (x, r if with_residual else None, bias, dy, 0.7, activation, dim)
                expected = step_with_bias(BIAS_CPU, *arguments)
                got, names = on_the_stand_in(lambda: step_with_bias(BIAS_CUDA, *arguments))
                of, end = ("gelu" if activation else "relu"), end_of(dtype)
                sums = "products" if activation else "sums"  # the others have one kernel for both
                wanted = [f"da_fused_forward_{of}_{end}", f"da_fused_{sums}_{of}_{end}", f"da_fused_{sums}_total"]
                compare(expected, got, activation, names, wanted, dtype, shape, dim)
    print("as on the CPU")


main()
