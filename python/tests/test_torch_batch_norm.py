"""Batch normalisation with Drop-Activation in it: against the composition of PyTorch's operations in f64 with the same
mask, values, gradients, running statistics and a training run; as a module among PyTorch's."""

import copy

import numpy as np
import pytest
from conftest import unpacked

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

import drop_activation as da
import drop_activation.torch as dt
from drop_activation.torch import _batch_norm_operators as operators

SHAPES = {"rows": (33, 6), "planes": (5, 6, 7, 3), "images": (5, 6, 8, 8), "sequence": (4, 6, 9)}
FORMATS = [("rows", None), ("sequence", None), ("planes", None), ("images", torch.channels_last)]


def keep_of(key, x, p):
    """The keep bits, in x's shape: they are counted as the elements lie in memory."""
    bits = torch.from_numpy(unpacked(da.keep_mask(x.numel(), p, 0, int(key)), x.numel()))
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if last is not None and x.is_contiguous(memory_format=last) and not x.is_contiguous():
        batch, c, *extents = x.shape
        return bits.reshape(batch, *extents, c).movedim(-1, 1)
    return bits.reshape(x.shape)


class Composed(nn.Module):
    """The composition: the layer takes the keys that the other one drew."""

    def __init__(self, of, keys):
        super().__init__()
        kind = nn.BatchNorm2d if isinstance(of, dt.BatchNormDropActivation2d) else nn.BatchNorm1d
        self.norm = kind(of.num_features, of.eps, of.momentum, of.affine, of.track_running_stats).double()
        self.norm.load_state_dict(of.state_dict())
        self.p, self.activation, self.frozen, self.keys = of.p, of.activation, of.frozen, keys

    def forward(self, x, residual=None, layout_of=None):
        norm = self.norm
        z = F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, not self.frozen, norm.momentum or 0, norm.eps
        )
        z = z if residual is None else z + residual
        keep = keep_of(next(self.keys), x if layout_of is None else layout_of, self.p)
        return torch.where(keep, getattr(torch, self.activation, None)(z) if self.activation != "gelu" else F.gelu(z), z)


def key_drawn(seed):
    torch.manual_seed(seed)
    return torch.randint(2**63 - 1, (1,), dtype=torch.int64)


TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name, memory", FORMATS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_layers_are_the_composition(dtype, name, memory, activation, frozen, with_residual):
    torch.manual_seed(1)
    kind = dt.BatchNormDropActivation2d if len(SHAPES[name]) == 4 else dt.BatchNormDropActivation1d
    layer = kind(6, p=0.7, activation=activation, frozen=frozen, momentum=0.3)
    layer = layer.double() if dtype == torch.float64 else layer
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5), layer.bias.normal_(), layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    make = lambda: torch.randn(SHAPES[name], dtype=torch.float64).to(dtype)
    x, r, dy = make() + 3, make(), make()
    if memory is not None:
        x = x.contiguous(memory_format=memory)
    x.requires_grad_(), r.requires_grad_()
    composed = Composed(layer, iter([key_drawn(7)]))
    x64, r64 = (t.detach().double().requires_grad_() for t in (x, r))

    torch.manual_seed(7)
    y = layer(x, r if with_residual else None)
    y.backward(dy)
    expected = composed(x64, r64 if with_residual else None, layout_of=x)
    expected.backward(dy.double())
    assert y.dtype == dtype and y.stride() == x.stride()

    def near(given, expected, scale=1.0):
        bound = TOLERANCE[dtype] * scale * max(1.0, expected.abs().max().item())
        # One element may lie so near 0 that its rounding decides what ReLU does.
        off = (given.double() - expected).abs() > bound
        assert off.sum() <= (1 if activation == "relu" and dtype != torch.float64 and given.dim() > 1 else 0)

    near(y, expected)
    near(x.grad, x64.grad)
    if with_residual:
        near(r.grad, r64.grad)
    near(layer.weight.grad, composed.norm.weight.grad, 3)
    near(layer.bias.grad, composed.norm.bias.grad, 3)
    near(layer.running_mean, composed.norm.running_mean)
    near(layer.running_var, composed.norm.running_var)
    assert layer.weight.grad.dtype == layer.weight.dtype
    assert layer.num_batches_tracked == (0 if frozen else 1)


class Block(nn.Module):
    """A pre-activation block of a WideResNet, or one of a ResNet with its activation behind the sum."""

    def __init__(self, norm, wide):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.one, self.conv = norm(), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.two, self.last, self.wide = norm(), nn.Conv2d(6, 6, 3, padding=1, bias=False), wide
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.first(x)
        if self.wide:
            x = x + self.last(self.two(self.conv(self.one(x))))
        else:
            x = self.two(self.conv(self.one(self.last(x))), x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("wide", [True, False], ids=["WideResNet", "ResNet"])
def test_ten_steps_of_training_are_those_of_the_composition(wide):
    torch.manual_seed(3)
    ours = Block(lambda: dt.BatchNormDropActivation2d(6, p=0.8), wide).double()
    keys = []

    def of_both():
        for key in keys:
            yield key

    theirs = copy.deepcopy(ours)
    iterator = of_both()
    theirs.one, theirs.two = Composed(ours.one, iterator), Composed(ours.two, iterator)
    x, t = torch.randn(8, 3, 8, 8).double(), torch.randint(4, (8,))
    optimizers = [torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=1e-3) for net in (ours, theirs)]
    torch.manual_seed(9)
    keys.extend(torch.randint(2**63 - 1, (1,), dtype=torch.int64) for _ in range(20))
    torch.manual_seed(9)
    losses = []
    for _ in range(10):
        for net, optimizer in zip((ours, theirs), optimizers):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), t)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.allclose(losses[::2], losses[1::2], rtol=1e-9)
    assert losses[-2] < losses[0]
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)
    for mine, other in ((ours.one, theirs.one), (ours.two, theirs.two)):
        assert torch.allclose(mine.running_var, other.norm.running_var, rtol=1e-9)


def test_checkpoints_load_both_ways():
    plain, ours = nn.BatchNorm2d(5), dt.BatchNormDropActivation2d(5)
    with torch.no_grad():
        plain.weight.normal_(), plain.running_mean.normal_(), plain.num_batches_tracked.fill_(4)
    assert list(ours.state_dict()) == list(plain.state_dict())
    ours.load_state_dict(plain.state_dict())
    other = nn.BatchNorm2d(5)
    other.load_state_dict(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), plain.state_dict().values()))


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_evaluation_is_made_of_pytorch_s_operations(activation):
    layer = dt.BatchNormDropActivation2d(5, p=0.9, activation=activation).eval()
    layer.running_mean.normal_()
    x, r = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    z = F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias) + r
    expected = dt.DropActivation(0.9, activation).eval()(z)
    assert torch.equal(layer(x, r), expected)
    graph = torch.export.export(layer, (x, r)).graph
    assert not any("drop_activation" in str(node.target) for node in graph.nodes)


def test_autocast_keeps_parameters_in_f32():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), dt.BatchNormDropActivation2d(5), nn.Conv2d(5, 2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        y = net(torch.randn(2, 3, 9, 9))
        assert net[1](net[0](torch.randn(2, 3, 9, 9))).dtype == torch.bfloat16
    y.float().sum().backward()
    assert net[1].weight.grad.dtype == torch.float32 and net[1].running_var.dtype == torch.float32


def test_compiled_it_is_the_same():
    layer = dt.BatchNormDropActivation2d(5, p=0.6)
    other = copy.deepcopy(layer)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    x, r = torch.randn(4, 5, 6, 6, requires_grad=True), torch.randn(4, 5, 6, 6)
    results = []
    for net in (layer, compiled):
        x.grad = None
        torch.manual_seed(4)
        net(x, r).sin().sum().backward()
        results.append((x.grad, net.weight.grad if net is layer else other.weight.grad))
    assert torch.equal(layer.running_var, other.running_var) and other.num_batches_tracked == 1
    for a, b in zip(*results):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)


def test_second_derivatives_are_refused():
    x = torch.randn(4, 5, 3, 3, requires_grad=True)
    y = dt.BatchNormDropActivation2d(5)(x)
    (dx,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives: use nn.BatchNorm and DropActivation"):
        dx.sum().backward()


@pytest.mark.parametrize("frozen", [False, True])
def test_transformations_are_right_or_refused_by_name(frozen):
    x, weight, bias = torch.randn(4, 5, 3, 3), torch.rand(5) + 0.5, torch.randn(5)
    statistics = (torch.randn(5), torch.rand(5) + 0.5) if frozen else (None, None)

    def f(x, weight, bias, key=KEY):
        return operators.batch_norm(x, None, weight, bias, *statistics, key, 1e-5, 0.5, 0, 0)[0]

    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    expected = torch.autograd.grad(f(*leaves).sin().sum(), leaves)
    of_func = torch.func.grad(lambda *t: f(*t).sin().sum(), argnums=(0, 1, 2))(x, weight, bias)
    assert all(map(torch.equal, of_func, expected))
    batch, many = torch.randn(3, *x.shape), torch.tensor([[1], [2], [3]])
    of_each = torch.func.grad(lambda x, key: f(x, weight, bias, key).sin().sum())
    mapped = torch.func.vmap(of_each)(batch, many)
    assert all(torch.equal(dx, of_each(x, key)) for dx, x, key in zip(mapped, batch, many))
    text = "a batch normalisation .* no forward mode: use nn.BatchNorm and DropActivation"
    with pytest.raises(NotImplementedError, match=text):
        torch.func.jvp(lambda x: f(x, weight, bias), (x,), (x,))
    with pytest.raises(NotImplementedError, match=text), forward_ad.dual_level():
        dt.BatchNormDropActivation2d(5, frozen=frozen)(forward_ad.make_dual(x, x))


@pytest.mark.parametrize("way", ["layer", "create_graph", "compiled"])
@pytest.mark.parametrize(
    "make", [lambda: dt.BatchNormDropActivation2d(4, p=0.5), lambda: dt.BiasDropActivation(4, p=0.5)], ids=["norm", "bias"]
)
def test_what_is_saved_may_come_back_in_another_order(make, way):
    """As from save_on_cpu with pinned memory. The mask's order is that of x in the forward pass."""
    layer, dy = make(), torch.randn(3, 4, 5, 6)
    layer = torch.compile(layer, backend="aot_eager") if way == "compiled" else layer
    gradients = []
    for unpack in (lambda tensor: tensor, lambda tensor: tensor.contiguous()):
        torch.manual_seed(1)
        x = torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
            y = layer(x)
        gradients += torch.autograd.grad(y, x, dy, create_graph=way == "create_graph")
    assert torch.equal(*gradients)


def test_torch_fx_calls_it_as_it_is():
    layer, x = dt.BatchNormDropActivation2d(5, p=0.5), torch.randn(4, 5, 3, 3)
    traced = torch.fx.symbolic_trace(nn.Sequential(layer))
    results = []
    for net in (layer, traced):
        torch.manual_seed(1)
        results.append(net(x))
    assert torch.equal(*results)


def test_statistics_without_momentum_or_running_ones():
    x = torch.randn(8, 5, 4, 4)
    average, plain = dt.BatchNormDropActivation2d(5, momentum=None), nn.BatchNorm2d(5, momentum=None)
    for scale in (1, 2, 3):
        average(scale * x), plain(scale * x)
    assert torch.allclose(average.running_var, plain.running_var, rtol=1e-5)
    none = dt.BatchNormDropActivation2d(5, affine=False, track_running_stats=False, p=1.0)
    expected = F.relu(F.batch_norm(x, None, None, training=True))
    assert torch.allclose(none(x), expected, atol=1e-6) and torch.allclose(none.eval()(x), expected, atol=1e-6)
    assert not list(none.parameters()) and not list(none.buffers())


def test_pytorch_s_own_check_of_the_operators():
    x, r = torch.randn(3, 4, 5, 5, requires_grad=True), torch.randn(3, 4, 5, 5, requires_grad=True)
    weight, bias = torch.rand(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    key = torch.tensor([5])
    torch.library.opcheck(operators.batch_norm, (x, r, weight, bias, None, None, key, 1e-5, 0.7, 0, 0))
    torch.library.opcheck(operators.batch_norm, (x, None, None, None, torch.zeros(4), torch.ones(4), key, 1e-5, 0.7, 1, 1))


X, V, KEY = torch.randn(4, 5, 3, 3), torch.ones(5), torch.tensor([1])
MASK = operators.batch_norm(X, None, V, V, None, None, KEY, 1e-5, 0.5, 0, 0)[1]


def forward(x=X, residual=None, weight=V, bias=V, mean=None, variance=None, key=KEY, eps=1e-5, p=0.5, activation=0, layout=0):
    return operators.batch_norm(x, residual, weight, bias, mean, variance, key, eps, p, activation, layout)


def backward(dy=X, mask=MASK, x=X, residual=None, weight=V, bias=V, mean=V, variance=V, eps=1e-5, p=0.5, layout=0):
    return operators.batch_norm_backward(dy, mask, x, residual, weight, bias, mean, variance, True, eps, p, 0, layout)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: forward(x=X.long()), ["x must have dtype torch.float32", "torch.int64"]),
        (lambda: forward(x=V), ["x must have a batch and channels", "got 1"]),
        (lambda: forward(x=X[:0]), ["x must have elements", "(0, 5, 3, 3)"]),
        (lambda: forward(residual=X[:2]), ["residual must have the shape of x", "(2, 5, 3, 3)"]),
        (lambda: forward(residual=X.double()), ["residual must have the dtype of x", "torch.float64"]),
        (lambda: forward(weight=V[:4]), ["weight must have shape (5,)", "(4,)"]),
        (lambda: forward(bias=V.long()), ["bias must have a floating-point dtype", "torch.int64"]),
        (lambda: forward(mean=V), ["mean and variance must be given both"]),
        (lambda: forward(mean=V, variance=V[:2]), ["variance must have shape (5,)", "(2,)"]),
        (lambda: forward(key=KEY.float()), ["key must be one torch.int64", "torch.float32"]),
        (lambda: forward(key=KEY.to("meta")), ["key must be one torch.int64", "cpu", "device meta"]),
        (lambda: forward(layout=2), ["layout must be", "got 2"]),
        (lambda: backward(layout=2), ["layout must be", "got 2"]),
        (lambda: forward(eps=0.0), ["eps must be positive", "0.0"]),
        (lambda: forward(p=1.5), ["p must be in [0, 1]", "1.5"]),
        (lambda: forward(activation=9), ["activation must be one of", "got 9"]),
        (lambda: backward(dy=X[:2]), ["dy must have the shape of x"]),
        (lambda: backward(dy=X.double()), ["dy must have the dtype of x"]),
        (lambda: backward(dy=X.to("meta")), ["dy must have the device of x, cpu", "got meta"]),
        (lambda: backward(mask=MASK.to("meta")), ["mask must have the device of x, cpu", "got meta"]),
        (lambda: backward(variance=V.to("meta")), ["variance must be on the device of x, cpu", "got meta"]),
        (lambda: backward(mask=MASK[:1]), ["mask must be torch.int32, shape (6,)", "(1,)"]),
        (lambda: backward(mean=V[:1]), ["mean must have shape (5,)", "(1,)"]),
        (lambda: backward(residual=X[:1]), ["residual must have the shape of x"]),
        (lambda: backward(eps=-1.0), ["eps must be positive", "-1.0"]),
        (lambda: dt.BatchNormDropActivation2d(5, p=2.0), ["p must be in [0, 1]", "2.0"]),
        (lambda: dt.BatchNormDropActivation2d(5, 1e-5, 0.1, False), ["p must be a number", "affine is given by its name"]),
        (lambda: dt.BatchNormDropActivation2d(5, 1e-5, 0.1, 2.0), ["p must be in [0, 1]", "2.0"]),
        (lambda: forward(weight=V.to("meta")), ["weight must be on the device of x, cpu", "got meta"]),
        (lambda: forward(mean=V, variance=V.to("meta")), ["variance must be on the device of x, cpu", "got meta"]),
        (lambda: forward(residual=X.to("meta")), ["residual must have the device of x, cpu", "got meta"]),
        (lambda: forward(x=X[:, :0]), ["must have shape (0,)", "(5,)"]),
        (lambda: dt.BatchNormDropActivation2d(5)(X, X.to("meta")), ["residual must have the device of x, cpu", "meta"]),
        (lambda: dt.BatchNormDropActivation2d(5, eps=0.0), ["eps must be positive", "0.0"]),
        (lambda: dt.BatchNormDropActivation2d(5, momentum=1.5), ["momentum must be in [0, 1]", "1.5"]),
        (lambda: dt.BatchNormDropActivation2d(5, frozen=True, track_running_stats=False), ["frozen must be False"]),
        (lambda: dt.BatchNormDropActivation2d(4)(X), ["x must have 4 channels", "got 5"]),
        (lambda: dt.BatchNormDropActivation1d(5)(X), ["x must have 2 or 3 dimensions", "got 4"]),
        (lambda: dt.BatchNormDropActivation2d(5)(X[:1, :, :1, :1]), ["more than one value for each channel"]),
        (lambda: dt.BatchNormDropActivation2d(5)(X, X[:1]), ["residual must have the shape of x"]),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
        call()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["BatchNormDropActivation1d", "BatchNormDropActivation2d"])
def test_a_batch_without_elements_leaves_the_statistics(name):
    x = X[:0] if name.endswith("2d") else X[:0, :, :, 0]
    layer = getattr(dt, name)(5)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    with pytest.raises(ValueError, match="x must have elements to take statistics of, got shape .0, 5, 3"):
        layer(x)
    assert all(torch.equal(before[name], buffer) for name, buffer in layer.named_buffers())
    # Where none are taken, there is nothing against it.
    assert layer.eval()(x).shape == x.shape
    frozen = getattr(dt, name)(5, frozen=True)
    assert frozen(x.requires_grad_()).shape == x.shape


def test_statistics_may_be_taken_anew_as_update_bn_takes_them():
    batches = [torch.randn(6, 5, 3, 3) * i for i in range(1, 4)]
    theirs, layer = torch.nn.BatchNorm2d(5), dt.BatchNormDropActivation2d(5)
    torch.optim.swa_utils.update_bn(batches, torch.nn.Sequential(theirs))
    layer(batches[0])
    layer.reset_running_stats()
    layer.momentum = None
    with torch.no_grad():
        for x in batches:
            layer(x)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(getattr(layer, name), buffer)
