"""The CPU's way through a batch normalisation with Drop-Activation in it: one native operator forward and one backward
give what the operators give that PyTorch knows, keep no more than they need, and refuse what they cannot take."""

import copy

import pytest
from conftest import flags_of, large_pages

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

import drop_activation.torch as dt
from drop_activation import _library as library
from drop_activation.torch import _batch_norm as modules
from drop_activation.torch import _channels as channels
from drop_activation.torch import _batch_norm_operators as operators
from drop_activation.torch._operators import DTYPES

CASES = {
    "ReLU": {},
    "no parameters": {"affine": False},
    "frozen": {"frozen": True},
    "no running statistics": {"track_running_stats": False},
    "cumulative average": {"momentum": None},
    "GELU": {"activation": "gelu"},
    "all kept": {"p": 1.0},
    "none kept": {"p": 0.0},
}


def step(layer, x, r, dy):
    for leaf in (x, r, *layer.parameters()):
        leaf.grad = None
    torch.manual_seed(5)
    y = layer(x, r)
    y.backward(dy)
    return y, x.grad, r.grad, *(p.grad for p in layer.parameters()), *layer.buffers(), torch.rand(3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("memory", ["channels first", "channels last", "strided"])
def test_the_native_operators_give_what_the_others_do(monkeypatch, case, dtype, memory):
    """Bit for bit, and they leave the generator in the same state."""
    torch.manual_seed(0)
    layer = dt.BatchNormDropActivation2d(6, **{"p": 0.7, **CASES[case]})
    layer = layer.double() if dtype == torch.float64 else layer
    other = copy.deepcopy(layer)
    x, r, dy = (torch.randn(9, 6, 8, 7).to(dtype) for _ in range(3))
    if memory == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif memory == "strided":
        x, dy = x[:, :, ::2, 1:], dy[:, :, :4, :1].expand(9, 6, 4, 6)
        r = r.transpose(2, 3)[:, :, :4, :6]
    x, r = x.detach().requires_grad_(), r.detach().requires_grad_()
    given = step(layer, x, r, dy)
    quick = modules.quick_batch_norm
    monkeypatch.setattr(modules, "quick_batch_norm", lambda *arguments: None)
    expected = step(other, x, r, dy)
    assert quick(x, None, None, None, None, None, 1e-5, 0.5, "relu") is not None
    assert len(given) == len(expected)
    for a, b in zip(given, expected):
        assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [0, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_cuda_s_vectors_are_those_of_the_cpu(monkeypatch, dtype, activation, frozen):
    """What Python computes between the passes for CUDA tensors, and the library for the CPU's: with one backend's passes
    the same bits."""
    monkeypatch.setattr(channels, "_enqueue", lambda pass_, tensors, x: library.cpu_run(pass_, tensors))
    x, r, dy = (torch.randn(9, 6, 8, 7).to(dtype) for _ in range(3))
    weight, bias, mean, variance = (torch.rand(6, dtype=channels.real_of(x)) + 0.5 for _ in range(4))
    given = (mean, variance) if frozen else (None, None)
    results = []
    for forward, backward in (
        (operators.batch_norm, operators.batch_norm_backward),
        (operators._batch_norm, operators._batch_norm_backward),
    ):
        y, mask, *used = forward(x, r, weight, bias, *given, torch.tensor([7]), 1e-5, 0.7, activation, 0)
        gradients = backward(dy, mask, x, r, weight, bias, *used, not frozen, 1e-5, 0.7, activation, 0)
        results.append((y, mask, *used, *gradients))
    for a, b in zip(*results):
        assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_may_have_any_type_and_stride(dtype):
    x, key = torch.randn(5, 6, 4, 3), torch.tensor([3])
    weight, bias = torch.rand(12).to(dtype)[::2], torch.rand(12).to(dtype)[1::2]
    y, *_ = operators.batch_norm(x, None, weight, bias, None, None, key, 1e-5, 1.0, 0, 0)
    expected = torch.relu(torch.nn.functional.batch_norm(x, None, None, weight.float(), bias.float(), True))
    assert torch.allclose(y, expected, atol=1e-5)
    layer = dt.BatchNormDropActivation2d(6)
    layer.weight, layer.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
    layer(x).sum().backward()
    assert layer.weight.grad.dtype == dtype and layer.bias.grad.dtype == dtype


def test_no_result_depends_on_the_number_of_threads():
    x, dy = torch.randn(40, 30, 20, 10, requires_grad=True), torch.randn(40, 30, 20, 10)
    layer, before, results = dt.BatchNormDropActivation2d(30), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(step(copy.deepcopy(layer), x, dy.clone().requires_grad_(), dy))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("through_operator", [False, True])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_what_is_kept_for_the_backward_pass(monkeypatch, activation, through_operator):
    """x and a bit for each element; ReLU's derivative is in the bit, and the residual is not kept for it."""
    if through_operator:
        monkeypatch.setattr(modules, "quick_batch_norm", lambda *arguments: None)
    layer, kept = dt.BatchNormDropActivation2d(6, activation=activation), []
    x, r = torch.randn(5, 6, 8, 8, requires_grad=True), torch.randn(5, 6, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(x, r)
    large = [t for t in kept if t.shape == x.shape]
    assert len(large) == (1 if activation == "relu" else 2)
    assert sum(t.numel() for t in kept) <= len(large) * x.numel() + x.numel() // 32 + 4 * 6
    y.sum().backward()
    assert r.grad is not None


def test_gradients_that_nobody_asks_for():
    """A residual without one, and a y whose gradient does not exist."""
    layer, x, r = dt.BatchNormDropActivation2d(6), torch.randn(5, 6, 8, 8, requires_grad=True), torch.randn(5, 6, 8, 8)
    layer(x, r).sum().backward()
    assert x.grad is not None and r.grad is None

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, dy):
            return None

    x.grad = None
    Nothing.apply(layer(x)).sum().backward()
    assert x.grad is None or not x.grad.any()


@large_pages
def test_large_results_are_in_large_pages_where_the_system_has_them():
    # 36 MiB: from 32 on, glibc gives every allocation pages of its own, which nothing before it has asked for.
    x = torch.randn(64, 64, 48, 48, requires_grad=True)
    y = dt.BatchNormDropActivation2d(64)(x)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    for tensor, asked in ((y, True), (dx, True), (dt.drop_activation(x.detach()), True), (torch.relu(x), False)):
        assert ("hg" in flags_of(tensor)) == asked


X, V, KEY = torch.randn(4, 5, 3, 3), torch.ones(5), torch.tensor([1])
MASK = operators.batch_norm(X, None, V, V, None, None, KEY, 1e-5, 0.5, 0, 0)[1]
ALL = channels.given(X, V, V, V, KEY)


def forward(x=X, residual=X, weight=V, bias=V, mean=V, variance=V, key=KEY, eps=1e-5, p=0.5, activation=0, layout=0):
    return operators._forward_on_cpu(x, residual, weight, bias, mean, variance, key, ALL, eps, p, activation, layout)


def backward(dy=X, mask=MASK, x=X, residual=X, weight=V, bias=V, mean=V, variance=V, eps=1e-5, p=0.5, activation=0):
    tensors = dy, mask, x, residual, weight, bias, mean, variance
    return operators._backward_on_cpu(*tensors, ALL - 16, eps, p, activation, 0, True, True)


@pytest.mark.parametrize("call", [forward, backward])
@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"x": X.long()}, ["x must have dtype torch.float32", "torch.int64"]),
        ({"x": V}, ["x must have a batch and channels", "got 1"]),
        ({"residual": X[:2]}, ["residual must be like x", "(2, 5, 3, 3)"]),
        ({"residual": X.double()}, ["residual must be like x", "torch.float64"]),
        ({"weight": V[:4]}, ["weight must have shape (5,)", "(4,)"]),
        ({"bias": V.long()}, ["bias must have dtype", "torch.int64"]),
        ({"mean": V.reshape(1, 5)}, ["mean must have shape (5,)", "(1, 5)"]),
        ({"variance": V[:2]}, ["variance must have shape (5,)", "(2,)"]),
        ({"eps": 0.0}, ["eps must be positive", "0"]),
        ({"eps": float("nan")}, ["eps must be positive", "NaN"]),
        ({"p": 1.5}, ["p must be in [0, 1]", "1.5"]),
        ({"activation": 9}, ["activation must be one of", "got 9"]),
        ({"activation": -1}, ["activation must be a code", "got -1"]),
    ],
)
def test_the_native_operators_refuse(call, arguments, words):
    refused(call, arguments, words)


@pytest.mark.parametrize(
    "call, arguments, words",
    [
        (forward, {"key": KEY.float()}, ["key must be one torch.int64", "torch.float32"]),
        (forward, {"key": torch.tensor([1, 2])}, ["key must be one torch.int64", "(2,)"]),
        (forward, {"layout": 2}, ["layout must be", "got 2"]),
        (forward, {"x": X[:, :0], "residual": X[:, :0]}, ["shape must have a channel", "[0, 0, 9]"]),
        (backward, {"dy": X[:2]}, ["dy must be like x", "(2, 5, 3, 3)"]),
        (backward, {"dy": X.double()}, ["dy must be like x", "torch.float64"]),
        (backward, {"mask": MASK[:1]}, ["mask must be torch.int32, shape (6,)", "(1,)"]),
        (backward, {"mask": MASK.float()}, ["mask must be torch.int32", "torch.float32"]),
    ],
)
def test_the_native_operators_refuse_also(call, arguments, words):
    refused(call, arguments, words)


def refused(call, arguments, words):
    call()
    with pytest.raises(RuntimeError) as error:
        call(**arguments)
    for word in words:
        assert word in str(error.value)


def test_a_layer_whose_parameters_were_spoilt_says_so_and_moves_nothing():
    layer = dt.BatchNormDropActivation2d(5)
    layer.weight = torch.nn.Parameter(torch.ones(4))
    before = [buffer.clone() for buffer in layer.buffers()]
    with pytest.raises(RuntimeError, match=r"weight must have shape \(5,\), a value for each channel of x, got \(4,\)"):
        layer(X)
    layer.weight = torch.nn.Parameter(torch.ones(5, device="meta"))
    with pytest.raises(ValueError, match="weight must be on the device of x, cpu, got meta"):
        layer(X)
    assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), before))
