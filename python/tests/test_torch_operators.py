"""The operators by their names, which anybody may call: what they refuse, and that transformations reach them."""

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import drop_activation.torch as dt
from drop_activation.torch import _operators as operators

KEY = torch.tensor([5])
X = torch.linspace(-2, 2, 100)
MASK = operators.forward(X, KEY, 0.5, 0, 0, 0)[1]
SHORT = MASK[:2].clone()


@pytest.mark.parametrize(
    "operator, arguments, words",
    [
        (operators.forward, (X.long(), KEY, 0.5, 0, 0, 0), ["x must have dtype torch.float32", "got torch.int64"]),
        (operators.forward, (X, KEY.float(), 0.5, 0, 0, 0), ["key must be one torch.int64", "got dtype torch.float32"]),
        (operators.forward, (X, KEY[:0], 0.5, 0, 0, 0), ["key must be", "0 elements"]),
        (operators.forward, (X, KEY.to("meta"), 0.5, 0, 0, 0), ["key must be", "cpu", "meta"]),
        (operators.forward_, (X, MASK, KEY.to("meta"), 0.5, 0, 0), ["key must be", "cpu", "meta"]),
        (operators.rrelu_forward, (X, KEY.to("meta"), 0.1, 0.3, 0, 0), ["key must be", "cpu", "meta"]),
        (operators.rrelu_backward, (X, MASK, KEY.to("meta"), 0.1, 0.3, 0, 0), ["key must be", "cpu", "meta"]),
        (operators.forward, (X, KEY, 1.5, 0, 0, 0), ["p ", "1.5"]),
        (operators.forward, (X, KEY, float("nan"), 0, 0, 0), ["p ", "NaN"]),
        (operators.forward, (X, KEY, 0.5, 99, 0, 0), ["activation must be one of 0 (relu), ", "got 99"]),
        (operators.forward, (X, KEY, 0.5, -1, 0, 0), ["activation must be", "got -1"]),
        (operators.forward, (X, KEY, 0.5, 0, 5, 0), ["first ", " 5", "of 32"]),
        (operators.forward, (X, KEY, 0.5, 0, 0, 1), ["layout must be", "got 1 for 1 dimensions"]),
        (operators.forward, (X, KEY, 0.5, 0, 0, -1), ["layout must be", "got -1"]),
        (operators.forward_, (X[:1].expand(100), MASK, KEY, 0.5, 0, 0), ["x must be dense in layout 0", "shape (100,) and strides (0,)"]),
        (operators.forward_, (X[::2], SHORT, KEY, 0.5, 0, 0), ["x must be dense in layout 0", "shape (50,) and strides (2,)"]),
        (operators.forward_, (X, SHORT, KEY, 0.5, 0, 0), ["mask must be", "shape (4,)", "100 elements of x", "shape (2,)"]),
        (operators.forward_, (X, MASK, KEY.float(), 0.5, 0, 0), ["key must be one torch.int64", "got dtype torch.float32"]),
        (operators.backward, (X, SHORT, 0), ["mask must be", "shape (4,)", "100 elements of dy", "shape (2,)"]),
        (operators.backward, (X, MASK.long(), 0), ["mask must be torch.int32", "got dtype torch.int64"]),
        (operators.backward, (X, MASK.repeat(2)[::2], 0), ["mask must be", "contiguous"]),
        (operators.backward, (X, MASK.to("meta"), 0), ["mask", "meta", "cpu"]),
        (operators.backward_saved, (X, MASK, X[:50], 3, 0), ["x must be like dy", "shape (100,)", "got dtype torch.float32, shape (50,)"]),
        (operators.backward_saved, (X, MASK, X.double(), 3, 0), ["x must be like dy", "torch.float32", "got dtype torch.float64"]),
        (operators.rrelu_forward, (X, KEY, 0.5, 0.25, 0, 0), ["lower = 0.5", "upper = 0.25"]),
        (operators.rrelu_forward, (X, KEY.repeat(2), 0.25, 0.5, 0, 0), ["key must be", "2 elements"]),
        (operators.rrelu_backward, (X, SHORT, KEY, 0.25, 0.5, 0, 0), ["mask must be", "shape (4,)", "shape (2,)"]),
        (operators.rrelu_backward, (X, MASK, KEY.int(), 0.25, 0.5, 0, 0), ["key must be", "got dtype torch.int32"]),
        (operators.rrelu_backward, (X, MASK, KEY, 0.25, 0.5, 33, 0), ["first ", " 33", "of 32"]),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_mistakes_are_named_and_nothing_is_written(operator, arguments, words, grad):
    before, mask_before = X.clone(), MASK.clone()
    with torch.set_grad_enabled(grad), pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
        operator(*arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert torch.equal(X, before) and torch.equal(MASK, mask_before)


@pytest.mark.parametrize("name", ["forward", "rrelu_forward", "backward", "rrelu_backward"])
def test_forward_mode_is_the_backward_pass_of_the_tangent(name):
    x, tangent = X.clone(), torch.linspace(1, 3, 100)
    calls = {
        "forward": lambda x: operators.forward(x, KEY, 0.5, 0, 0, 0)[0],
        "rrelu_forward": lambda x: operators.rrelu_forward(x, KEY, 0.25, 0.5, 0, 0)[0],
        "backward": lambda dy: operators.backward(dy, MASK, 0),
        "rrelu_backward": lambda dy: operators.rrelu_backward(dy, MASK, KEY, 0.25, 0.5, 0, 0),
    }
    call, leaf = calls[name], x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(call(leaf), leaf, tangent)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(call(forward_ad.make_dual(x, tangent)))
    assert expected.count_nonzero() >= 50 and torch.equal(dual.tangent, expected)
    assert torch.equal(torch.func.jvp(call, (x,), (tangent,))[1], expected)
    assert torch.equal(torch.func.vjp(call, x)[1](tangent)[0], expected)


def test_an_operator_over_its_argument_counts_as_a_write():
    x = X.clone().requires_grad_()
    z, mask = x * 1, torch.zeros_like(MASK)
    y = z.exp()
    operators.forward_(z, mask, KEY, 0.5, 0, 0)
    assert torch.equal(mask, MASK) and torch.equal(z, operators.forward(X, KEY, 0.5, 0, 0, 0)[0])
    (dx,) = torch.autograd.grad(z.sum(), x, retain_graph=True)
    assert torch.equal(dx, operators.backward(torch.ones_like(X), MASK, 0))
    # What needs the overwritten elements is refused.
    w = x * 1
    square = w.square()
    operators.forward_(w, mask, KEY, 0.5, 0, 0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.sum().backward()
    with torch.no_grad():
        version = z._version
        operators.forward_(z, mask, KEY, 0.5, 0, 0)
        assert z._version > version
    assert torch.equal(y, X.exp())


@pytest.mark.parametrize(
    "mask",
    [SHORT, MASK.repeat(2, 1), MASK.long(), MASK.float(), MASK.repeat(2)[::2], MASK.to("meta")],
    ids=["short", "shape", "int64", "float32", "strided", "meta"],
)
def test_with_gradients_too_an_operator_refuses_before_it_writes(mask):
    x, before = X.clone().requires_grad_() * 1, mask.clone()
    with pytest.raises(ValueError, match=r"mask must be torch.int32, shape \(4,\), contiguous, on cpu"):
        operators.forward_(x, mask, KEY, 0.5, 0, 0)
    assert torch.equal(x, X) and (mask.is_meta or torch.equal(mask, before))


@pytest.mark.parametrize("device", ["meta", "cuda:0"])
@pytest.mark.parametrize("training", [True, False])
def test_tensors_without_numbers(device, training):
    with FakeTensorMode():
        for layer in (dt.DropActivation(0.5), dt.DropActivation(0.5, "gelu"), dt.RReLU()):
            x = torch.empty(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last)
            x.requires_grad_(device == "meta")  # autograd wants the device to be there
            y = layer.train(training)(x)
            if x.requires_grad:
                y.sum().backward()
                assert x.grad.shape == x.shape and x.grad.device == x.device
            assert (y.shape, y.device, y.dtype, y.stride()) == (x.shape, x.device, x.dtype, x.stride())
        drawn, mask = operators.draw_forward(x.detach(), 0.5, 0, 0, 1)  # what compiled code calls
        assert drawn.stride() == x.stride() and mask.shape == (4,) and mask.device == x.device
