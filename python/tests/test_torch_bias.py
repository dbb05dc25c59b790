"""A bias, a residual and Drop-Activation in one: against the composition of PyTorch's operations in f64 with the same mask,
and bit for bit the functions on arrays; on every way that a call can take, and as a module among PyTorch's."""

import copy

import pytest
from conftest import flags_of, large_pages

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from test_torch_batch_norm import keep_of, key_drawn

import drop_activation as da
import drop_activation.torch as dt
from drop_activation import _library as library
from drop_activation.torch import _bias as functions
from drop_activation.torch import _bias_operators as operators
from drop_activation.torch import _channels as channels
from drop_activation._activations import CODES
from drop_activation.torch._layout import layout_of
from drop_activation.torch._operators import DTYPES

#: Shape, memory format, and which dimension has the channels.
CASES = {
    "rows": ((33, 6), None, 1),
    "one feature": ((70, 1), None, 1),
    "sequence": ((4, 6, 9), None, 1),
    "tokens": ((4, 9, 6), None, -1),
    "many tokens": ((3, 700, 6), None, 2),
    "planes": ((5, 6, 7, 3), None, 1),
    "images": ((5, 6, 8, 8), torch.channels_last, 1),
    "rows of images": ((5, 3, 6, 8), torch.channels_last, 2),
    "volumes": ((2, 6, 4, 5, 3), torch.channels_last_3d, 1),
    "batch": ((6, 40), None, 0),
    "vector": ((40,), None, -1),
}


def tensors(case, dtype, seed=0):
    """x, a bias, a residual and dy. No sum is so near 0 that rounding decides what ReLU does."""
    torch.manual_seed(seed)
    shape, memory, dim = CASES[case]
    make = lambda: torch.randn(shape, dtype=torch.float64).to(dtype)
    x, r, dy, bias = make(), make(), make(), torch.randn(shape[dim], dtype=channels.real_of(make()))
    x = torch.where((z_of(x, bias, r, dim).abs() < 0.05) | (z_of(x, bias, None, dim).abs() < 0.05), x + 4, x)
    x = x if memory is None else x.contiguous(memory_format=memory)
    assert (z_of(x, bias, r, dim).abs() > 0.04).all() and (z_of(x, bias, None, dim).abs() > 0.04).all()
    return [t.requires_grad_() for t in (x, bias, r)] + [dy]


def z_of(x, bias, r, dim):
    z = x.double() + bias.double().view([-1 if i == dim % x.dim() else 1 for i in range(x.dim())])
    return z if r is None else z + r.double()


@pytest.fixture(params=["native", "operators", "CUDA's"])
def way(request, monkeypatch):
    """The native operators, PyTorch's way to those that it knows, and what is run for CUDA tensors, by the CPU's passes."""
    if request.param != "native":
        monkeypatch.setattr(functions, "quick_bias", lambda *arguments: None)
    if request.param == "CUDA's":
        monkeypatch.setattr(channels, "_enqueue", lambda pass_, tensors, x: library.cpu_run(pass_, tensors))
        monkeypatch.setattr(operators, "forward_on_cpu", lambda *arguments: operators._bias(*arguments))
        monkeypatch.setattr(operators, "backward_on_cpu", lambda *arguments: operators._bias_backward(*arguments))
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("activation", da.ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
def test_it_is_the_composition(dtype, case, activation, with_residual):
    x, bias, r, dy = tensors(case, dtype)
    dim = CASES[case][2]
    leaves = [x, bias, r] if with_residual else [x, bias]
    torch.manual_seed(7)
    y = dt.bias_drop_activation(x, bias, r if with_residual else None, 0.7, activation, dim=dim)
    gradients = torch.autograd.grad(y, leaves, dy)

    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    z = z_of(wide[0], wide[1], wide[2] if with_residual else None, dim)
    sigma = z.relu() if activation == "relu" else getattr(F, activation)(z)
    expected = torch.where(keep_of(key_drawn(7), x, 0.7), sigma, z)
    of_composition = torch.autograd.grad(expected, wide, dy.double())

    eps, real = torch.finfo(dtype).eps, torch.finfo(bias.dtype).eps
    assert y.dtype == dtype and y.stride() == x.stride()
    near(y, expected, 0.51 * eps * expected.abs() + 32 * real * (1 + x.abs().max() + bias.abs().max() + r.abs().max()))
    for given, expected in zip((gradients[0], *gradients[2:]), (of_composition[0], *of_composition[2:])):
        assert given.dtype == dtype and given.stride() == x.stride()
        near(given, expected, 0.51 * eps * expected.abs() + 64 * real * (1 + dy.abs().max()))
    assert gradients[1].dtype == bias.dtype
    absolute = sum_over(of_composition[0].abs(), dim)
    near(gradients[1], of_composition[1], 64 * real * (absolute + 1))


def sum_over(x, dim):
    return x.transpose(0, dim).flatten(1).sum(1) if x.dim() > 1 else x


def near(given, expected, bound):
    off = (given.double() - expected).abs() > bound.double()
    assert not off.any(), (given[off][:5], expected[off][:5])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_it_is_what_the_functions_on_arrays_compute(dtype, case, activation, with_residual):
    """Bit for bit, the mask too."""
    x, bias, r, dy = (t.detach() for t in tensors(case, dtype))
    _, memory, dim = CASES[case]
    r, key = r if with_residual else None, torch.tensor([11])
    arguments = 0.7, CODES[activation], dim, layout_of(x)
    y, mask = operators.bias_(x, r, bias, key, *arguments)
    dx, of_bias = operators.bias_backward(dy, mask, x, r, bias, *arguments)

    order = [0, *range(2, x.dim()), 1] if memory is not None else list(range(x.dim()))
    axis, in_order = order.index(dim % x.dim()), lambda t: None if t is None else t.permute(order).contiguous()
    before = {"shift": bias, "residual": in_order(r), "axis": axis, "activation": activation}
    out = torch.empty_like(in_order(x))
    _, words = da.fused_forward(in_order(x), 0.7, seed=0, offset=11, **before, out=out)
    assert torch.equal(in_order(y), out)
    assert torch.equal(mask, torch.from_numpy(words.view("int32")))
    out = torch.empty_like(in_order(x))
    sums, _ = da.fused_sums(in_order(dy), words, in_order(x), p=0.7, **before, out=out)
    assert torch.equal(in_order(dx), out) and torch.equal(of_bias, torch.from_numpy(sums))


@pytest.mark.parametrize("p", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_every_way_gives_the_same_and_draws_the_same(monkeypatch, way, p, case, dtype, activation):
    *leaves, dy = tensors(case, dtype)
    step = lambda: of_step(leaves, dy, p, activation, CASES[case][2])
    given = step()
    monkeypatch.undo()
    for a, b in zip(given, step()):
        assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    torch.manual_seed(5)
    assert torch.equal(given[-1], torch.rand(3)) == (p in (0, 1)), "nothing is drawn where p is 0 or 1"


def of_step(leaves, dy, p=0.7, activation="relu", dim=1):
    torch.manual_seed(5)
    y = dt.bias_drop_activation(*leaves, p, activation, dim=dim)
    return y, *torch.autograd.grad(y, leaves, dy), torch.rand(3)


def test_with_p_of_0_and_1_it_is_exact(way):
    *leaves, dy = tensors("planes", torch.float64)
    z = leaves[0] + leaves[1].view(-1, 1, 1) + leaves[2]
    for p, expected in ((0.0, z), (1.0, z.relu())):
        y = dt.bias_drop_activation(*leaves, p)
        assert torch.equal(y, expected)
        assert torch.equal(torch.autograd.grad(y, leaves[0], dy)[0], torch.autograd.grad(expected, leaves[0], dy)[0])


def test_a_key_names_the_mask(way):
    x, bias, r, dy = tensors("rows", torch.float32)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        y = dt.bias_drop_activation(x, bias, r, 0.5, key=torch.tensor([9]))
        results.append((y, *torch.autograd.grad(y, (x, bias, r), dy)))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, *results))
    assert not torch.equal(dt.bias_drop_activation(x, bias, r, 0.5, key=torch.tensor([8])), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_bias_may_have_any_type_and_stride(way, dtype):
    x, bias = torch.randn(5, 6, 4, 3), torch.randn(12).to(dtype)[::2].requires_grad_()
    y = dt.bias_drop_activation(x, bias, p=1.0)
    assert y.dtype == x.dtype and torch.equal(y, torch.relu(x + bias.float().view(-1, 1, 1)))
    (of_bias,) = torch.autograd.grad(y.sum(), bias)
    assert of_bias.dtype == dtype and torch.equal(of_bias, (y > 0).sum((0, 2, 3)).to(dtype))


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_any_strides(way, activation):
    x, bias, r = (t.detach() for t in tensors("planes", torch.float32)[:3])
    dy = torch.randn(6, 1, 1).expand(5, 6, 4, 2)
    dense = [t.clone(memory_format=torch.contiguous_format) for t in (x[:, :, ::2, 1:], bias, r.flip(3)[:, :, :4, 1:])]
    strided = [x[:, :, ::2, 1:], bias, r.flip(3)[:, :, :4, 1:].transpose(2, 3).contiguous().transpose(2, 3)]
    results = [of_step([t.requires_grad_() for t in leaves], dy, activation=activation) for leaves in (dense, strided)]
    assert not strided[0].is_contiguous() and not strided[2].is_contiguous()
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize(
    "shape, dim", [((0, 5), 1), ((0, 5, 3, 3), 1), ((4, 5, 0), 1), ((4, 0), 1), ((0, 7, 5), -1), ((0,), 0)]
)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_without_elements(way, shape, dim, activation):
    x, r = (torch.empty(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    bias = torch.ones(shape[dim], requires_grad=True)
    y = dt.bias_drop_activation(x, bias, r, 0.5, activation, dim=dim)
    y.sum().backward()
    assert y.shape == x.grad.shape == r.grad.shape == shape and y.dtype == torch.bfloat16
    assert torch.equal(bias.grad, torch.zeros(shape[dim]))
    assert dt.bias_drop_activation(x, bias, r, 0.5, activation, False, dim=dim).shape == shape


def test_no_result_depends_on_the_number_of_threads():
    before, results = torch.get_num_threads(), []
    x, r, dy = (torch.randn(40, 30, 20, 10) for _ in range(3))
    leaves = [t.requires_grad_() for t in (x, torch.randn(30), r)]
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(of_step(leaves, dy))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("activation, expected", [("relu", 0), ("silu", 2)])
def test_what_is_kept_for_the_backward_pass(way, activation, expected):
    """A bit for each element. The derivative of ReLU is in the bit, and the others' needs what z was computed from."""
    x, bias, r, _ = tensors("images", torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        dt.bias_drop_activation(x, bias, r, 0.7, activation)
    assert sum(t.shape == x.shape for t in kept) == expected
    assert sum(t.numel() for t in kept) <= expected * x.numel() + x.numel() // 32 + 6


def test_gradients_are_tensors_of_their_own_and_those_that_are_asked_for(way):
    x, bias, r, dy = tensors("rows", torch.float32)
    dt.bias_drop_activation(x, bias, r, 1.0).backward(dy)
    assert torch.equal(x.grad, r.grad) and x.grad.data_ptr() != r.grad.data_ptr()
    for i, leaf in enumerate((x, bias, r)):
        alone = [t.detach() for t in (x, bias, r)]
        alone[i].requires_grad_()
        dt.bias_drop_activation(*alone, 1.0).backward(dy)
        assert torch.equal(alone[i].grad, leaf.grad)
    with torch.no_grad():
        assert not dt.bias_drop_activation(x, bias, r, 0.5).requires_grad


@large_pages
def test_large_results_are_in_large_pages_where_the_system_has_them():
    x, bias = torch.randn(64, 64, 48, 48, requires_grad=True), torch.zeros(64)
    y = dt.bias_drop_activation(x, bias)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    for tensor, asked in ((y, True), (dx, True), (torch.relu(x), False)):
        assert ("hg" in flags_of(tensor)) == asked


# ---- Modes and transformations.


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evaluation_is_made_of_pytorch_s_operations(activation, dtype):
    layer = dt.BiasDropActivation(6, 0.9, activation, dim=-1).eval()
    nn.init.normal_(layer.bias)
    x, r = torch.randn(4, 9, 6).to(dtype), torch.randn(4, 9, 6).to(dtype)
    y = layer(x, r)
    assert y.dtype == dtype
    assert torch.equal(y, dt.drop_activation(x + layer.bias + r, 0.9, activation, False).to(dtype))
    assert torch.equal(layer(x), dt.drop_activation(x + layer.bias, 0.9, activation, False).to(dtype))
    graph = torch.export.export(layer, (x, r)).graph
    assert not any("drop_activation" in str(node.target) for node in graph.nodes)


def test_evaluation_is_the_expected_value_of_training():
    layer, x = dt.BiasDropActivation(5, 0.6), torch.randn(1, 5, 8)
    nn.init.normal_(layer.bias)
    mean = layer(x.expand(40_000, 5, 8).contiguous()).mean(0)
    assert torch.allclose(mean, layer.eval()(x)[0], atol=0.02)


def test_autocast_keeps_the_bias_in_f32():
    net = nn.Sequential(nn.Linear(8, 6, bias=False), dt.BiasDropActivation(6), nn.Linear(6, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert net[1](net[0](torch.randn(4, 8))).dtype == torch.bfloat16
        y = net(torch.randn(4, 8))
    y.float().sum().backward()
    assert net[1].bias.grad.dtype == torch.float32 and net[0].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("case", ["rows", "tokens", "images"])
def test_compiled_it_is_the_same(activation, case):
    _, memory, dim = CASES[case]
    *leaves, dy = tensors(case, torch.float32)
    layer = dt.BiasDropActivation(6, 0.6, activation, dim=dim)
    other = copy.deepcopy(layer)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    results = []
    for net, of in ((layer, layer), (compiled, other)):
        torch.manual_seed(4)
        y = net(leaves[0], leaves[2])
        results.append((y, *torch.autograd.grad(y, (leaves[0], leaves[2], of.bias), dy)))
    assert all(a.stride() == b.stride() and torch.equal(a, b) for a, b in zip(*results))


def test_a_checkpoint_draws_the_same_mask():
    *leaves, dy = tensors("rows", torch.float32)
    results = []
    for call in (lambda f, *t: f(*t), lambda f, *t: checkpoint(f, *t, use_reentrant=False)):
        torch.manual_seed(3)
        y = call(lambda *t: dt.bias_drop_activation(*t, 0.5), *leaves)
        results.append((y, *torch.autograd.grad(y, leaves, dy)))
    assert all(map(torch.equal, *results))


KEY = torch.tensor([9])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_derivatives_of_both_directions_and_over_a_batch(activation):
    *leaves, dy = tensors("planes", torch.float64)
    x, bias, r = (leaf.detach() for leaf in leaves)
    f = lambda *t: dt.bias_drop_activation(*t, 0.5, activation, key=KEY)
    gradients = torch.autograd.grad(f(*leaves), leaves, dy)
    of_func = torch.func.grad(lambda *t: (f(*t) * dy).sum(), argnums=(0, 1, 2))(x, bias, r)
    assert all(map(torch.equal, of_func, gradients))
    tangents = [torch.randn_like(t) for t in (x, bias, r)]
    # <J t, dy> = <t, J' dy>, for each argument and for all.
    for which in ([0], [1], [2], [0, 1, 2]):
        expected = sum((tangents[i] * gradients[i]).sum() for i in which)
        some = lambda *t: f(*(t[which.index(i)] if i in which else (x, bias, r)[i] for i in range(3)))
        of = [[ts[i] for i in which] for ts in ((x, bias, r), tangents)]
        y, tangent = torch.func.jvp(some, *map(tuple, of))
        assert torch.equal(y, f(x, bias, r)) and torch.allclose((tangent * dy).sum(), expected, rtol=1e-10)
        with forward_ad.dual_level():
            y = some(*(forward_ad.make_dual(*pair) for pair in zip(*of)))
            assert torch.equal(forward_ad.unpack_dual(y).tangent, tangent)
    batch, many = torch.randn(3, *x.shape, dtype=x.dtype), torch.tensor([[1], [2], [3]])
    each = lambda x, key: dt.bias_drop_activation(x, bias, None, 0.5, activation, key=key)
    mapped = torch.func.vmap(each)(batch, many)
    assert all(torch.equal(y, each(x, key)) for y, x, key in zip(mapped, batch, many))
    of_each = torch.func.grad(lambda x, key: each(x, key).sum())
    mapped = torch.func.vmap(of_each)(batch, many)
    assert all(torch.equal(dx, of_each(x, key)) for dx, x, key in zip(mapped, batch, many))
    assert torch.equal(torch.func.functionalize(f)(x, bias, r), f(x, bias, r))


def test_second_derivatives_are_refused(way):
    x, bias, _, _ = tensors("rows", torch.float32)
    (dx,) = torch.autograd.grad(dt.bias_drop_activation(x, bias, p=0.5).sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"a bias .* no second derivatives: use x \+ bias and DropActivation"):
        dx.sum().backward()
    f = lambda x: dt.bias_drop_activation(x, bias.detach(), p=0.5, key=KEY).sin().sum()
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.func.jvp(torch.func.grad(f), (x.detach(),), (x.detach(),))


def test_pytorch_s_own_check_of_the_operators():
    x, r, dy = (torch.randn(3, 4, 5, 5, requires_grad=True) for _ in range(3))
    bias = torch.zeros(4, requires_grad=True)
    for activation in (0, 3):
        torch.library.opcheck(operators.bias_, (x, r, bias, KEY, 0.7, activation, 1, 0))
        mask = operators.bias_(x, r, bias, KEY, 0.7, activation, 1, 0)[1]
        arguments = [t.detach() for t in (dy, mask, x, r, bias)]
        torch.library.opcheck(operators.bias_backward, (*arguments, 0.7, activation, 1, 0))
    rows = torch.randn(7, 3, 4, requires_grad=True)
    torch.library.opcheck(operators.bias_, (rows, None, bias.detach(), KEY, 0.7, 0, -1, 0))
    images = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(operators.bias_, (images, None, bias, KEY, 0.7, 1, 1, 1))


@pytest.mark.parametrize("device", ["meta", "cuda:0"])
def test_tensors_without_numbers(device):
    with FakeTensorMode():
        layer = dt.BiasDropActivation(3, activation="gelu", device=device)
        x = torch.empty(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last)
        if device == "meta":  # autograd wants the device to be there
            x.requires_grad_()
        y = layer(x)
        assert (y.shape, y.device, y.stride()) == (x.shape, x.device, x.stride())
        if device == "meta":
            y.sum().backward()
            assert x.grad.stride() == x.stride() and layer.bias.grad.shape == (3,)


def test_torch_fx_calls_it_as_it_is():
    net = nn.Sequential(nn.Linear(8, 6, bias=False), dt.BiasDropActivation(6), nn.Linear(6, 2))
    traced = torch.fx.symbolic_trace(net)
    assert [node.op for node in traced.graph.nodes].count("call_module") == 3
    x = torch.randn(4, 8)
    for training in (True, False):
        torch.manual_seed(1)
        expected = net.train(training)(x)
        torch.manual_seed(1)
        assert torch.equal(traced.train(training)(x), expected)

    class Called(nn.Module):
        def forward(self, x, bias):
            return dt.bias_drop_activation(x, bias, x, 0.5, dim=1)

    calls = torch.fx.symbolic_trace(Called())
    torch.manual_seed(2)
    expected = Called()(x, x[0])
    torch.manual_seed(2)
    assert torch.equal(calls(x, x[0]), expected)


def test_a_module_trains_and_is_stored():
    torch.manual_seed(0)
    make = lambda: nn.Sequential(nn.Linear(8, 32, bias=False), dt.BiasDropActivation(32), nn.Linear(32, 2))
    net, x = make(), torch.randn(256, 8)
    labels = (x[:, :2].prod(1) > 0).long()
    optimiser, losses = torch.optim.SGD(net.parameters(), 0.2, 0.9), []
    for _ in range(60):
        optimiser.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0] and net[1].bias.abs().min() > 0
    assert list(net[1].state_dict()) == ["bias"]
    other = make()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(x), net.eval()(x))
    assert repr(dt.BiasDropActivation(5, dim=-1)) == "BiasDropActivation(5, p=0.95, activation='relu', dim=-1)"


# ---- Mistakes.

X, B = torch.randn(4, 5, 3, 3), torch.ones(5)
MASK = operators.bias_(X, None, B, KEY, 0.5, 0, 1, 0)[1]


def function(x=X, bias=B, residual=None, p=0.5, activation="relu", training=True, dim=1, key=None):
    return dt.bias_drop_activation(x, bias, residual, p, activation, training, dim=dim, key=key)


def forward(x=X, residual=None, bias=B, key=KEY, p=0.5, activation=0, dim=1, layout=0):
    return operators.bias_(x, residual, bias, key, p, activation, dim, layout)


def backward(dy=X, mask=MASK, x=X, residual=None, bias=B, p=0.5, activation=0, dim=1, layout=0):
    return operators.bias_backward(dy, mask, x, residual, bias, p, activation, dim, layout)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: function(x=None), ["x must be a tensor", "NoneType"]),
        (lambda: function(x=X.long()), ["x must have dtype torch.float32", "torch.int64"]),
        (lambda: function(x=X.to_sparse()), ["x must be a dense tensor", "torch.sparse_coo"]),
        (lambda: function(x=torch.nested.nested_tensor([X])), ["x must be a dense tensor", "nested"]),
        (lambda: function(bias=None), ["bias must be a tensor", "NoneType"]),
        (lambda: function(bias=B[:4]), ["bias must have shape (5,)", "(4,)"]),
        (lambda: function(bias=B[:, None]), ["bias must have shape (5,)", "(5, 1)"]),
        (lambda: function(bias=B.long()), ["bias must have a floating-point dtype", "torch.int64"]),
        (lambda: function(bias=B.to("meta")), ["bias must be on the device of x, cpu", "got meta"]),
        (lambda: function(residual=1.0), ["residual must be a tensor or None", "float"]),
        (lambda: function(residual=X[:2]), ["residual must have the shape of x", "(2, 5, 3, 3)"]),
        (lambda: function(residual=X.double()), ["residual must have the dtype of x", "torch.float64"]),
        (lambda: function(residual=X.to("meta")), ["residual must have the device of x, cpu", "got meta"]),
        (lambda: function(p=1.5), ["p must be in [0, 1]", "1.5"]),
        (lambda: function(p="much"), ["p must be a number", "str"]),
        (lambda: function(activation="elu"), ["activation must be one of relu", "'elu'"]),
        (lambda: function(dim=4), ["dim must be one of the 4 dimensions of x", "got 4"]),
        (lambda: function(dim=-5), ["dim must be one of the 4 dimensions of x", "got -5"]),
        (lambda: function(dim=1.0), ["dim must be an integer", "float"]),
        (lambda: function(x=X[0, 0, 0], bias=B[:3]), ["dim must be one of the 1 dimensions of x", "got 1"]),
        (lambda: function(x=X[0, 0, 0, 0]), ["dim must be one of the 0 dimensions of x", "got 1"]),
        (lambda: function(key=KEY.float()), ["key must be one torch.int64", "torch.float32"]),
        (lambda: function(key=3), ["key must be a tensor of one torch.int64", "int"]),
        (lambda: dt.BiasDropActivation(5, p=-0.5), ["p must be in [0, 1]", "-0.5"]),
        (lambda: dt.BiasDropActivation(5, activation=0), ["activation must be one of relu", "int"]),
        (lambda: dt.BiasDropActivation(4)(X), ["bias must have shape (5,)", "(4,)"]),
        (lambda: dt.BiasDropActivation(5)(X, X[:1]), ["residual must have the shape of x"]),
        (lambda: forward(x=X.long()), ["x must have dtype torch.float32", "torch.int64"]),
        (lambda: forward(residual=X[:2]), ["residual must have the shape of x", "(2, 5, 3, 3)"]),
        (lambda: forward(residual=X.to("meta")), ["residual must have the device of x, cpu", "got meta"]),
        (lambda: forward(bias=B[:4]), ["bias must have shape (5,)", "(4,)"]),
        (lambda: forward(bias=B.to("meta")), ["bias must be on the device of x, cpu", "got meta"]),
        (lambda: forward(key=KEY.float()), ["key must be one torch.int64", "torch.float32"]),
        (lambda: forward(key=KEY.to("meta")), ["key must be one torch.int64", "cpu", "device meta"]),
        (lambda: forward(p=1.5), ["p must be in [0, 1]", "1.5"]),
        (lambda: forward(activation=9), ["activation must be one of", "got 9"]),
        (lambda: forward(dim=4), ["dim must be one of the 4 dimensions", "got 4"]),
        (lambda: forward(layout=2), ["layout must be", "got 2 for 4 dimensions"]),
        (lambda: forward(layout=-1), ["layout must be", "got -1"]),
        (lambda: backward(dy=X.long()), ["dy must have dtype torch.float32", "torch.int64"]),
        (lambda: backward(dy=X[:2]), ["mask must be torch.int32, shape (3,)", "(6,)"]),
        (lambda: backward(mask=MASK[:1]), ["mask must be torch.int32, shape (6,)", "(1,)"]),
        (lambda: backward(mask=MASK.float()), ["mask must be torch.int32", "torch.float32"]),
        (lambda: backward(mask=MASK.to("meta")), ["mask must have the device of dy, cpu", "got meta"]),
        (lambda: backward(x=X.double()), ["x must have the dtype of dy", "torch.float64"]),
        (lambda: backward(residual=X[:1]), ["residual must have the shape of dy"]),
        (lambda: backward(bias=B[:1]), ["bias must have shape (5,)", "(1,)"]),
        (lambda: backward(activation=3, x=None), ["x and bias must be given", "None"]),
        (lambda: backward(activation=3, bias=None), ["x and bias must be given", "None"]),
        (lambda: backward(p=float("nan")), ["p must be in [0, 1]", "nan"]),
        (lambda: backward(activation=9), ["activation must be one of", "got 9"]),
        (lambda: backward(dim=-5), ["dim must be one of the 4 dimensions", "got -5"]),
        (lambda: backward(layout=1), None),
        (lambda: backward(layout=3), ["layout must be", "got 3"]),
        # What CUDA tensors take.
        (lambda: operators._bias(X, None, B, KEY.float(), 0.5, 0, 1, 0), ["key must be one torch.int64", "float32"]),
        (lambda: operators._bias(X, None, B, KEY, 0.5, 0, 1, 2), ["layout must be", "got 2"]),
        (lambda: operators._bias_backward(X, MASK, None, None, None, 0.5, 0, 1, -1), ["layout must be", "got -1"]),
    ],
)
def test_mistakes_are_named(call, words):
    if words is None:
        call()
        return
    before = torch.get_rng_state()
    with pytest.raises((TypeError, ValueError, IndexError, RuntimeError)) as error:
        call()
    for word in words:
        assert word in str(error.value)
    assert torch.equal(torch.get_rng_state(), before)


def native_forward(x=X, residual=X, bias=B, key=KEY, given=3, dim=1, p=0.5, activation=0, layout=0):
    return operators._forward_on_cpu(x, residual, bias, key, given, dim, p, activation, layout)


def native_backward(dy=X, mask=MASK, x=X, residual=X, bias=B, given=3, dim=1, p=0.5, activation=3, layout=0):
    return operators._backward_on_cpu(dy, mask, x, residual, bias, given, dim, p, activation, layout)


@pytest.mark.parametrize(
    "call, arguments, words",
    [
        (native_forward, {"x": X.long()}, ["x must have dtype torch.float32", "torch.int64"]),
        (native_forward, {"key": KEY.float()}, ["key must be one torch.int64", "torch.float32"]),
        (native_forward, {"x": X[:, :0], "residual": X[:, :0]}, ["shape must have a channel", "[0, 0, 9]"]),
        (native_backward, {"dy": X.long()}, ["dy must have dtype torch.float32", "torch.int64"]),
        (native_backward, {"x": X[:2]}, ["x must be like dy", "(2, 5, 3, 3)"]),
        (native_backward, {"x": X.double()}, ["x must be like dy", "torch.float64"]),
        (native_backward, {"given": 1}, ["x must be given for gelu"]),
        (native_backward, {"mask": MASK[:1]}, ["mask must be torch.int32, shape (6,)", "(1,)"]),
        *(
            (call, *mistake)
            for call in (native_forward, native_backward)
            for mistake in (
                ({"residual": X[:2]}, ["residual must be like", "(2, 5, 3, 3)"]),
                ({"residual": X.double()}, ["residual must be like", "torch.float64"]),
                ({"bias": B[:4]}, ["bias must have shape (5,)", "(4,)"]),
                ({"bias": B.long()}, ["bias must have dtype", "torch.int64"]),
                ({"bias": B.reshape(1, 5)}, ["bias must have shape (5,)", "(1, 5)"]),
                ({"p": 1.5}, ["p must be in [0, 1]", "1.5"]),
                ({"activation": 9}, ["activation must be one of", "got 9"]),
                ({"activation": -1}, ["activation must be a code", "got -1"]),
                ({"dim": 4}, ["dim must be one of the 4 dimensions", "got 4"]),
                ({"dim": -1}, ["dim must be one of the 4 dimensions", "got -1"]),
                ({"layout": 2}, ["layout must be", "got 2"]),
            )
        ),
    ],
)
def test_the_native_operators_refuse(call, arguments, words):
    call()
    with pytest.raises(RuntimeError) as error:
        call(**arguments)
    for word in words:
        assert word in str(error.value)
