"""PyTorch: gradients, transformations, memory formats, and whole models against the unfused composition."""

import copy
import functools

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

from conftest import unpacked
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import drop_activation as da
import drop_activation.torch as dt
from drop_activation._activations import CODES, curvature, derived_curvature
from drop_activation.torch import _operators as operators
from drop_activation.torch._fused import composition_moves_less
from drop_activation.torch._keys import draw_key

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
SIGMA = {name: getattr(nn.functional, name) for name in da.ACTIVATIONS}


def key_tensor(offset=5):
    return torch.tensor([offset])


def keep_bits(x, p, key):
    words = da.keep_mask(x.numel(), p, 0, key.item())
    return torch.from_numpy(unpacked(words, x.numel())).reshape(x.shape)


def tensor(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", da.ACTIVATIONS)
def test_it_is_the_composition_with_the_same_mask(activation, dtype):
    x, dy = tensor(7, 33, dtype=dtype).requires_grad_(), tensor(7, 33, dtype=dtype, seed=1)
    y = dt.drop_activation(x, 0.7, activation, key=key_tensor())
    (dx,) = torch.autograd.grad(y, x, dy)
    wide = x.detach().double().requires_grad_()
    expected = torch.where(keep_bits(x, 0.7, key_tensor()), SIGMA[activation](wide), wide)
    (expected_dx,) = torch.autograd.grad(expected, wide, dy.double())
    tolerance = max(2 * torch.finfo(dtype).eps, 1e-13)
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dx.double(), expected_dx, rtol=tolerance, atol=tolerance)

    y = dt.drop_activation(x, 0.7, activation, training=False)
    (dx,) = torch.autograd.grad(y, x, dy)
    expected = 0.3 * wide + 0.7 * SIGMA[activation](wide)
    (expected_dx,) = torch.autograd.grad(expected, wide, dy.double())
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dx.double(), expected_dx, rtol=2 * tolerance, atol=2 * tolerance)


FUNCTIONS = {name: functools.partial(dt.drop_activation, p=0.7, activation=name) for name in da.ACTIVATIONS}
FUNCTIONS["rrelu"] = dt.rrelu


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_both_orders_and_directions_are_central_differences(name, training):
    function = functools.partial(FUNCTIONS[name], training=training, key=key_tensor())
    x = tensor(5, 13).requires_grad_()
    both = {"check_batched_grad": True, "check_fwd_over_rev": True}
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_forward_grad=True)
    assert torch.autograd.gradgradcheck(function, x, **both)


@pytest.mark.parametrize("activation", da.ACTIVATIONS[1:])
def test_curvatures_are_those_that_pytorch_derives(activation):
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    torch.testing.assert_close(curvature(activation)(x), derived_curvature(activation)(x))


@pytest.mark.parametrize("activation", da.ACTIVATIONS)
def test_the_operators_keep_pytorch_s_rules(activation):
    x, key = tensor(4, 9, dtype=torch.float32).requires_grad_(), key_tensor()
    code = CODES[activation]
    with torch.no_grad():
        y, mask = operators.forward(x, key, 0.7, code, 0, 0)
        signs = operators.rrelu_forward(x, key, 0.2, 0.4, 0, 0)[1]
    saved, dy = x.detach().requires_grad_(), torch.ones_like(y).requires_grad_()
    checks = [
        (operators.forward, (x, key, 0.7, code, 0, 0)),
        (operators.backward_saved, (dy, mask, saved, code, 0)),
    ]
    if activation == "relu":
        checks = [
            checks[0],
            (operators.backward, (dy, mask, 0)),
            (operators.draw_forward, (x, 1.0, code, 0, 0)),  # they are compared, so nothing may depend on the key
            (operators.forward_, (x.detach().clone(), torch.zeros_like(mask), key, 0.7, 0, 0)),
            (operators.rrelu_forward, (x, key, 0.2, 0.4, 0, 0)),
            (operators.draw_rrelu_forward, (x.detach().abs(), 0.2, 0.4, 0, 0)),
            (operators.rrelu_backward, (dy, signs, key, 0.2, 0.4, 0, 0)),
            (operators.philox_key, (key, key)),
        ]
        assert {operator for operator, _ in checks} == set(operators.ALL) - {operators.backward_saved}
    for operator, arguments in checks:
        torch.library.opcheck(operator, arguments)


def test_seeds_follow_manual_seed_and_calls_differ():
    x = -torch.ones(4096)
    layer = dt.DropActivation(0.5)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first) and torch.equal(layer(x), second) and not torch.equal(first, second)
    # However the key is drawn, it is the same.
    for call in (lambda: layer(x.clone().requires_grad_()), lambda: dt.drop_activation(x.clone(), 0.5, inplace=True)):
        torch.manual_seed(3)
        assert torch.equal(call(), first)
    torch.manual_seed(3)
    assert torch.equal(dt.drop_activation(x, 0.5, key=torch.randint(2**63 - 1, (1,))), first)
    # Keys may be drawn for many calls at once.
    keys = torch.randint(2**63 - 1, (3,))
    for function in (functools.partial(dt.drop_activation, p=0.5), dt.rrelu):
        ys = [function(x, key=key) for key in keys]
        assert not torch.equal(ys[0], ys[1])
        assert all(torch.equal(y, function(x, key=torch.tensor([key]))) for y, key in zip(ys, keys.tolist()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", da.ACTIVATIONS)
def test_a_call_that_draws_its_key_is_the_call_with_that_key(activation, dtype):
    layer = dt.DropActivation(0.5, activation)
    shapes = [torch.randn(()), torch.randn(0, 3), torch.randn(3, 5, 7), torch.randn(2, 5, 4, 3)]
    shapes += [shapes[-1].to(memory_format=torch.channels_last), torch.randn(6, 8)[:, ::2], torch.randn(1, 7).expand(5, 7)]
    for x in (x.to(dtype) for x in shapes):
        dy = torch.randn(x.shape).to(dtype)
        for call in (layer, functools.partial(dt.drop_activation, p=0.5, activation=activation)):
            torch.manual_seed(3)
            without = call(x)
            torch.manual_seed(3)
            leaf = x.detach().requires_grad_()
            y = call(leaf)
            (dx,) = torch.autograd.grad(y, leaf, dy)
            torch.manual_seed(3)
            expected = dt.drop_activation(leaf, 0.5, activation, key=torch.randint(2**63 - 1, (1,)))
            assert torch.equal(without, expected) and torch.equal(y, expected)
            assert without.stride() == y.stride() == expected.stride()
            assert torch.equal(dx, torch.autograd.grad(expected, leaf, dy)[0])


class Seen(torch.utils._python_dispatch.TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_who_looks_on_sees_operators_that_have_derivatives(activation):
    """A graph of others would have no gradients."""
    layer, leaf = dt.DropActivation(0.5, activation), torch.randn(64, requires_grad=True)
    before = layer(leaf)
    with Seen() as seen:
        layer(leaf.detach()), torch.autograd.grad((before + layer(leaf)).sum(), leaf)
    ours = [name for name in seen.names if name.startswith("drop_activation.")]
    backward = "drop_activation.backward.default" if activation == "relu" else "drop_activation.backward_saved.default"
    assert ours == ["drop_activation.forward.default"] * 2 + [backward] * 2
    graph = make_fx(layer)(leaf.detach())
    (dx,) = torch.autograd.grad(graph(leaf).sum(), leaf)
    assert dx.count_nonzero() > 0


def test_a_mode_is_not_asked_for_each_attribute_of_x():
    """Of PyTorch's own tensors; in a swapped model such a mode is in force."""

    class Asked(torch.overrides.TorchFunctionMode):
        count = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.count += 1
            return function(*args, **(kwargs or {}))

    x, key = torch.randn(64), key_tensor()
    for layer in (dt.DropActivation(0.5), dt.DropActivation(0.5, "gelu"), dt.DropActivation(0.5, inplace=True).eval()):
        x.requires_grad_(layer.training)
        with Asked() as asked:
            layer(x), dt.drop_activation(x, key=key)
        assert asked.count == 0


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_key_is_drawn_on_the_device_of_the_tensor(device):
    with FakeTensorMode():  # knows shapes and devices alone, so it needs no GPU
        assert draw_key(torch.empty(8, device=device)).device == torch.device(device)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_recomputes_the_same_mask(reentrant):
    block = nn.Sequential(nn.Linear(64, 64), dt.DropActivation(0.5), nn.Linear(64, 64), dt.DropActivation(0.5, "tanh"))
    x = torch.randn(32, 64)

    def gradients(run):
        torch.manual_seed(11)
        block.zero_grad()
        leaf = x.clone().requires_grad_()
        run(leaf).square().sum().backward()
        return [leaf.grad, *(p.grad.clone() for p in block.parameters())]

    plain = gradients(block)
    kept = gradients(lambda leaf: checkpoint(block, leaf, use_reentrant=reentrant))
    assert all(torch.equal(a, b) for a, b in zip(plain, kept))


def test_compiled_it_draws_a_mask_for_each_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = dt.DropActivation(0.5)

        def forward(self, x):
            return self.act(x), self.act(x)

    model = torch.compile(Twice(), fullgraph=True)
    x = -torch.ones(64, 64)
    try:
        torch.manual_seed(5)
        a, b = model(x)
    except Exception as error:  # a machine without a C++ compiler
        if "compiler" in str(error).lower() and "InvalidCxxCompiler" in type(error).__name__ + str(error):
            pytest.skip("SKIPPED: torch.compile finds no C++ compiler")
        raise
    assert not torch.equal(a, b)
    torch.manual_seed(5)
    assert all(map(torch.equal, Twice()(x), (a, b)))  # as without torch.compile
    for y in (a, b):
        assert set(y.unique().tolist()) <= {-1.0, 0.0} and 0.4 < (y == 0).float().mean() < 0.6
    torch.manual_seed(5)
    assert all(torch.equal(*pair) for pair in zip(model(x), (a, b)))
    c, _ = model(x)
    assert not torch.equal(c, a)
    # What is blocked in y is blocked in the gradient: forward and backward have the same mask.
    leaf = x.clone().requires_grad_()
    y, _ = model(leaf)
    y.sum().backward()
    assert torch.equal(leaf.grad, (y != 0).float())


def targets_when_compiled(function, x):
    """The names of what torch.compile makes of a step, forward and backward."""
    targets = []

    def compiler(graph, example):
        targets.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    torch.compile(function, backend=aot_autograd(fw_compiler=compiler), fullgraph=True)(x).sum().backward()
    return targets


@pytest.mark.parametrize(
    "layer, forward, backward",
    [
        (dt.DropActivation(0.5), "draw_forward", "backward"),
        (dt.DropActivation(0.5, inplace=True), "draw_forward", "backward"),
        (dt.DropActivation(0.5, "gelu"), "draw_forward", "backward_saved"),
        (dt.RReLU(), "draw_rrelu_forward", "rrelu_backward"),
    ],
)
def test_compiled_a_pass_is_one_operator_and_nothing_draws_its_key_before_it(layer, forward, backward):
    targets = targets_when_compiled(lambda x: layer(layer(x * 1)), tensor(64).requires_grad_())
    for operator in (forward, backward):
        assert targets.count(f"drop_activation.{operator}.default") == 2
    assert not [target for target in targets if "rand" in target]


def test_compiled_rrelu_has_the_slopes_that_it_would_have_without():
    layer, x = dt.RReLU(), -torch.ones(64, 64)
    results = []
    torch._dynamo.reset()
    for function in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(3)
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), leaf)))
    assert all(map(torch.equal, *results)) and torch.equal(results[0][1], -results[0][0])
    # And so by its name.
    for randomness, same in (("same", True), ("different", False)):
        draw = lambda x: operators.draw_rrelu_forward(x, 0.2, 0.4, 0, 0)
        y, signs, key = torch.vmap(draw, randomness=randomness)(x)
        again = torch.vmap(lambda x, key: operators.rrelu_forward(x, key, 0.2, 0.4, 0, 0))(x, key.expand(64, 1))
        assert torch.equal(again[0], y) and torch.equal(y[0], y[1]) == same and torch.equal(signs, again[1])


@pytest.mark.parametrize("transposed", [False, True])
def test_compiled_in_place_is_over_x_too(transposed):
    layer = dt.DropActivation(0.5, inplace=True)

    def statement(x):
        x = (x * 1).t() if transposed else x * 1
        layer(x)
        return x

    leaf = -torch.ones(64, 32, requires_grad=True)
    torch._dynamo.reset()
    y = torch.compile(statement, backend="aot_eager", fullgraph=True)(leaf)
    assert y.is_contiguous() is not transposed and 0.4 < (y == 0).float().mean() < 0.6
    (dx,) = torch.autograd.grad(y.sum(), leaf)
    assert torch.equal(-dx, y.t() if transposed else y)


@pytest.mark.parametrize("backend", ["aot_eager_decomp_partition", "inductor"])
def test_what_a_checkpoint_computes_again_when_compiled_has_the_same_mask(backend):
    layer, x = dt.DropActivation(0.5), -torch.ones(4096)
    torch._dynamo.reset()
    part = lambda x: layer(x.sin()).cos()
    step = torch.compile(lambda x: checkpoint(part, x, use_reentrant=False), backend=backend, fullgraph=True)
    seen = []
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        y = step(leaf)
        y.sum().backward()
        dropped = y != 1
        assert 0.4 < dropped.float().mean() < 0.6
        # Where ReLU was kept, y is cos(0) and has no gradient.
        assert torch.equal(leaf.grad != 0, dropped)
        seen.append(dropped)
    assert not torch.equal(*seen)


@pytest.mark.parametrize("activation", da.ACTIVATIONS)
def test_made_of_pytorch_s_operations_it_has_a_mask_of_theirs(activation):
    x, dy = tensor(64, 64), tensor(64, 64, seed=1)
    leaf = x.clone().requires_grad_()
    torch.manual_seed(3)
    y = dt.DropActivation(0.7, activation, fused=False)(leaf)
    torch.manual_seed(3)
    keep = torch.rand(x.shape) < 0.7
    wide = x.clone().requires_grad_()
    expected = torch.where(keep, SIGMA[activation](wide), wide)
    assert torch.equal(y, expected)
    assert torch.equal(torch.autograd.grad(y, leaf, dy)[0], torch.autograd.grad(expected, wide, dy)[0])
    for fused in (True, False):
        layer = dt.DropActivation(0.7, activation, fused=fused)
        nodes = make_fx(layer)(x).graph.nodes
        assert any("drop_activation" in str(node.target) for node in nodes) == fused
    with pytest.raises(ValueError, match="fused must be True .*got False"):
        dt.drop_activation(x, 0.7, activation, key=key_tensor(), fused=False)


def test_auto_is_the_operator_but_on_a_gpu_under_torch_compile(monkeypatch):
    less = {(d, c): composition_moves_less(d, c) for d in ("cpu", "cuda", "meta") for c in (False, True)}
    assert [place for place, composed in less.items() if composed] == [("cuda", True)]

    layer, asked, x = dt.DropActivation(0.7, fused="auto"), [], tensor(64)
    assert "fused='auto'" in repr(layer) and copy.deepcopy(layer).fused == "auto"
    model = nn.Sequential(nn.ReLU(), nn.Sequential())
    dt.replace_relu(model, 0.7, fused="auto")
    assert model[0].fused == model._drop_activation.fused == "auto"

    def is_fused(function):
        return any("drop_activation" in str(node.target) for node in make_fx(function)(x).graph.nodes)

    key = key_tensor()
    assert is_fused(layer) and is_fused(model)
    for composed in (True, False):
        rule = lambda device, compiling: asked.append((device, compiling)) or composed
        monkeypatch.setattr("drop_activation.torch._functions.composition_moves_less", rule)
        assert is_fused(layer) is not composed and is_fused(model) is not composed
        # A mask that is named is the operator's.
        assert is_fused(lambda x: dt.drop_activation(x, 0.7, key=key, fused="auto"))
        assert is_fused(lambda x: dt.drop_activation(x, 0.7, first=32, fused="auto"))
        for fused in (True, False):
            assert is_fused(functools.partial(dt.drop_activation, p=0.7, fused=fused)) == fused
    torch._dynamo.reset()
    torch.compile(layer, backend="eager", fullgraph=True)(x)
    assert set(asked) == {("cpu", False), ("cpu", True)}


def test_autocast_keeps_the_type_it_is_given():
    model = nn.Sequential(nn.Linear(32, 32), dt.DropActivation(0.5), nn.Linear(32, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model[1](model[0](torch.randn(8, 32)))
        loss = model(torch.randn(8, 32)).float().sum()
    assert hidden.dtype == torch.bfloat16
    loss.backward()
    assert model[0].weight.grad.dtype == torch.float32 and model[0].weight.grad.abs().sum() > 0


FORMATS = {
    "contiguous": lambda: torch.randn(2, 5, 4, 3),
    "channels_last": lambda: torch.randn(2, 5, 4, 3).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda: torch.randn(2, 5, 4, 3, 2).to(memory_format=torch.channels_last_3d),
    "transposed": lambda: torch.randn(5, 7).t(),
    "strided": lambda: torch.randn(20, 7)[::2],
    "expanded": lambda: torch.randn(1, 7).expand(5, 7),
    "0-d": lambda: torch.randn(()),
    "empty": lambda: torch.randn(0, 3),
}


@pytest.mark.parametrize("activation, inplace", [("relu", False), ("relu", True), ("gelu", False)])
@pytest.mark.parametrize("name", FORMATS)
def test_memory_formats(name, inplace, activation):
    x = FORMATS[name]()
    given = x.clone().requires_grad_() if name != "expanded" else x.requires_grad_()
    # In the order in which the elements lie in memory, or as numpy would count them.
    keep = torch.empty_like(x.contiguous() if name in ("transposed", "strided", "expanded") else x, dtype=torch.bool)
    flat = keep.as_strided((keep.numel(),), (1,))
    flat.copy_(torch.from_numpy(unpacked(da.keep_mask(x.numel(), 0.5, 0, 5), x.numel())))
    if name == "transposed":
        given = x.requires_grad_()
    z = given * 1 if name not in ("transposed", "expanded") else given
    y = dt.drop_activation(z, 0.5, activation, inplace=inplace and not z.is_leaf, key=key_tensor())
    wide = x.detach().clone().requires_grad_()
    expected = torch.where(keep, SIGMA[activation](wide), wide)
    torch.testing.assert_close(y, expected)
    # A gradient that lies in memory in another order than x.
    dy = torch.randn(x.shape[::-1]).permute(tuple(reversed(range(x.dim()))))
    (dx,) = torch.autograd.grad(y, given, dy)
    (expected_dx,) = torch.autograd.grad(expected, wide, dy)
    torch.testing.assert_close(dx, expected_dx)


def test_in_place_it_takes_x_s_memory_and_keeps_nothing_else():
    x = torch.randn(64, 64, requires_grad=True)
    z = x * 1
    y = dt.DropActivation(0.5, inplace=True)(z)
    assert y.data_ptr() == z.data_ptr()
    (saved,) = y.grad_fn.saved_tensors
    assert saved.dtype == torch.int32 and saved.numel() == 128
    y.sum().backward()
    assert torch.equal(x.grad, (y != 0).float())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "expanded"])
def test_in_place_means_over_x_whatever_its_strides(name, training):
    x = FORMATS[name]()
    for p, function in ((0.5, functools.partial(dt.drop_activation, key=key_tensor())), (1.0, dt.drop_activation)):
        expected = function(x, p, training=training)
        for grad in (False, True):
            base = x.clone().requires_grad_(grad)
            z = torch.empty_strided(x.size(), x.stride())
            z.copy_(base)
            y = function(z, p, training=training, inplace=True)
            assert y is z and torch.equal(z, expected), (p, grad)
            if grad:
                (dx,) = torch.autograd.grad(z.sum(), base)
                leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
                (expected_dx,) = torch.autograd.grad(function(leaf, p, training=training).sum(), leaf)
                assert torch.equal(dx, expected_dx)


COPIES = {
    "hooks": lambda: torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda saved: saved),
    "a mode": torch.autograd.graph.allow_mutation_on_saved_tensors,
}


@pytest.mark.parametrize("view", [lambda z: z, lambda z: z.view(64, 64), lambda z: z.t().t()[:]])
@pytest.mark.parametrize("name", COPIES)
def test_in_place_a_copy_of_the_mask_is_one_of_what_was_written(name, view):
    """Hooks copy what is saved when it is saved."""
    x = -torch.ones(64, 64, requires_grad=True)
    (expected,) = torch.autograd.grad(dt.drop_activation(x, 0.5, key=key_tensor()).sum(), x)
    with COPIES[name]():
        z = x * 1
        dt.drop_activation(view(z), 0.5, inplace=True, key=key_tensor())
        (dx,) = torch.autograd.grad(z.sum(), x)
    assert torch.equal(dx, expected) and 0.4 < dx.mean() < 0.6


@pytest.mark.parametrize("inplace", [False, True])
def test_what_a_selective_checkpoint_saves_is_not_computed_again(inplace):
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    block = nn.Sequential(nn.Linear(64, 64), dt.DropActivation(0.5, inplace=inplace), nn.Linear(64, 64), nn.Tanh())
    x = torch.randn(32, 64)
    for policy in (CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE):
        calls = []

        def choose(context, operator, *args, policy=policy, calls=calls, **kwargs):
            ours = str(operator).startswith("drop_activation.")
            calls += [operator] * ours
            return policy if ours else CheckpointPolicy.PREFER_RECOMPUTE

        contexts = functools.partial(create_selective_checkpoint_contexts, choose)
        gradients = []
        for run in (block, lambda x, contexts=contexts: checkpoint(block, x, use_reentrant=False, context_fn=contexts)):
            torch.manual_seed(3)
            leaf = x.clone().requires_grad_()
            gradients.append(torch.autograd.grad(run(leaf).sum(), [leaf, *block.parameters()]))
        assert calls and all(map(torch.equal, *gradients))


@pytest.mark.parametrize("training", [True, False])
def test_what_pytorch_refuses_to_overwrite_is_refused_before_anything_is_written(training):
    def leaf():
        x = torch.full((4, 8), -1.0, requires_grad=True)
        return x, x

    def chunk():
        x = torch.full((4, 8), -1.0, requires_grad=True) * 1
        return x, x.chunk(2)[0]

    def expanded():
        x = torch.full((1, 8), -1.0)
        return x, x.expand(4, 8)

    for make in (leaf, chunk, expanded):
        with pytest.raises(RuntimeError):
            torch.relu_(make()[1])
        memory, x = make()
        with pytest.raises(RuntimeError):
            dt.drop_activation(x, 0.5, training=training, inplace=True)
        assert (memory == -1).all(), make


def test_mistakes_are_named():
    x = torch.ones(4)
    for call, error, words in [
        (lambda: dt.DropActivation(1.5), ValueError, r"p must be in \[0, 1\], got 1.5"),
        (lambda: dt.DropActivation(0.5, "elu"), ValueError, "activation must be one of relu.*got 'elu'"),
        (lambda: dt.DropActivation(0.5, "gelu", inplace=True), ValueError, "inplace must be False for gelu.*got True"),
        (lambda: dt.RReLU(0.5, 0.25), ValueError, "lower and upper must be .*got lower = 0.5"),
        (lambda: dt.DropActivation(fused="always"), ValueError, "fused must be True, False or 'auto', got 'always'"),
        (lambda: dt.drop_activation(x, fused=1), TypeError, "fused must be .*got a int"),
        (lambda: dt.replace_relu(nn.Sequential(), fused=None), TypeError, "fused must be .*got a NoneType"),
        (lambda: dt.drop_activation(x.long()), TypeError, "x must have dtype torch.float32.*got torch.int64"),
        (lambda: dt.drop_activation(x, key=torch.ones(1)), ValueError, "key must be one torch.int64.*got dtype torch.float32"),
        (lambda: dt.drop_activation(x, first=5), ValueError, "first must be a multiple of 32.*got 5"),
        (lambda: dt.drop_activation(x, 0.5, "gelu", inplace=True), ValueError, "inplace must be False for gelu.*got True"),
        (lambda: dt.drop_activation([1.0]), TypeError, "x must be a tensor, got a list"),
        (lambda: dt.rrelu(None), TypeError, "x must be a tensor, got a NoneType"),
        (lambda: dt.drop_activation(x, key=5), TypeError, "key must be .*got a int"),
        (lambda: dt.drop_activation(x, 10**400), ValueError, "p must be a number that a float can hold"),
        (lambda: dt.drop_activation(x, first=2**64), ValueError, "first must be from 0 .*got 18446744073709551616"),
        (lambda: dt.drop_activation(x, first=-32), ValueError, "first must be from 0 .*got -32"),
    ]:
        with pytest.raises(error, match=words):
            call()


def test_the_last_elements_of_a_tensor_of_2_to_the_64():
    x = -torch.ones(64)
    for first in (2**63, 2**64 - 64):
        y = dt.drop_activation(x, 0.5, key=key_tensor(), first=first)
        assert torch.equal(y == 0, torch.from_numpy(unpacked(da.keep_mask(64, 0.5, 0, 5, first), 64)))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pytorch_s_threads_share_a_long_tensor(dtype, activation):
    """Which part of it a thread takes shows in nothing, wherever the tensor begins in the larger one."""
    n = 5 * (1 << 16) + 17
    x, dy = tensor(n, dtype=dtype), tensor(n, dtype=dtype, seed=1)
    threads = torch.get_num_threads()
    for first in (0, 96, 2**64 - 65536):
        if first + n > 2**64:
            with pytest.raises(RuntimeError, match="first"):
                dt.drop_activation(x, 0.7, activation, key=key_tensor(), first=first)
            continue
        outputs = []
        for count in (1, 3):
            torch.set_num_threads(count)
            try:
                leaf = x.clone().requires_grad_()
                y = dt.drop_activation(leaf, 0.7, activation, key=key_tensor(), first=first)
                r = dt.rrelu(leaf, key=key_tensor(), first=first)
                over = dt.drop_activation(x.clone(), 0.7, inplace=True, key=key_tensor(), first=first)
                results = y, *torch.autograd.grad(y, leaf, dy), r, *torch.autograd.grad(r, leaf, dy), over
            finally:
                torch.set_num_threads(threads)
            outputs.append([result.detach() for result in results])
        assert all(map(torch.equal, *outputs))
        y, dx = torch.empty_like(x), torch.empty_like(x)
        key = {"seed": 0, "offset": 5, "first": first}
        _, mask = da.forward(x, 0.7, **key, activation=activation, out=y)
        da.backward(dy, mask, None if activation == "relu" else x, p=0.7, activation=activation, out=dx)
        assert torch.equal(outputs[0][0], y) and torch.equal(outputs[0][1], dx)
        _, mask = da.rrelu_forward(x, **key, out=y)
        da.rrelu_backward(dy, mask, **key, out=dx)
        assert torch.equal(outputs[0][2], y) and torch.equal(outputs[0][3], dx)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.3, 0.95, 1.0])
def test_evaluation_by_pytorch_is_the_library_s_to_the_last_bit(p, dtype):
    x = torch.cat([tensor(1000), torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 6e-8, -6e-8])]).to(dtype)
    expected = torch.empty_like(x)
    da.infer(x, p, out=expected)
    y = dt.drop_activation(x, p, training=False)
    assert torch.equal(y.nan_to_num(), expected.nan_to_num()) and torch.equal(y.isnan(), expected.isnan())


def test_a_view_with_the_negative_bit_is_what_it_stands_for():
    plain = -torch.ones(64)
    dense = lambda: torch._neg_view(torch.ones(64))
    strided = lambda: torch.complex(torch.ones(64), torch.ones(64)).conj().imag
    for make in (dense, strided):
        x = make()
        assert x.is_neg() and torch.equal(dt.drop_activation(x, 1.0), torch.zeros(64))
        assert torch.equal(dt.drop_activation(x, 0.0), plain)
        for function in (functools.partial(dt.drop_activation, p=0.5), dt.rrelu):
            function = functools.partial(function, key=key_tensor())
            expected = function(plain)
            assert torch.equal(function(x), expected) and expected.unique().numel() > 1
            leaf = make().requires_grad_()
            (dx,) = torch.autograd.grad(function(leaf), leaf, dense())
            (expected_dx,) = torch.autograd.grad(function(leaf), leaf, plain)
            assert torch.equal(dx, expected_dx)
        for grad in (False, True):
            y = make().requires_grad_(grad) * 1 if grad else make()
            over = dt.drop_activation(y, 0.5, inplace=True, key=key_tensor())
            assert over is y and torch.equal(y, dt.drop_activation(plain, 0.5, key=key_tensor()))
        y = dt.drop_activation(x, 1.0, inplace=True)
        assert y is x and torch.equal(x, torch.zeros(64))


def test_per_sample_gradients_and_mapped_calls():
    layer = dt.DropActivation(0.5)
    rows = torch.vmap(layer, randomness="different")(-torch.ones(8, 64))
    assert len({tuple(row.tolist()) for row in rows}) == 8
    rows = torch.vmap(layer, randomness="same")(-torch.ones(8, 64))
    assert len({tuple(row.tolist()) for row in rows}) == 1 and 0 < (rows == 0).float().mean() < 1
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(layer)(rows)

    x, function = tensor(6, 5), functools.partial(dt.drop_activation, p=0.5, activation="gelu", key=key_tensor())
    by_sample = torch.vmap(torch.func.grad(lambda x: function(x).sum()))(x)
    for sample, gradient in zip(x, by_sample):
        (expected,) = torch.autograd.grad(function(sample.requires_grad_()).sum(), sample)
        assert torch.equal(gradient, expected)
    # A sample of images that lie as channels_last is in no such order.
    images = tensor(3, 4, 5, 6, 7).movedim(2, -1)
    keep = torch.vmap(functools.partial(dt.drop_activation, p=0.5, key=key_tensor()))(-images.abs())
    one = dt.drop_activation(-images[0].abs().contiguous(), 0.5, key=key_tensor())
    assert torch.equal(keep[0], one)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_func_s_jacobians_are_autograd_s(name):
    function, x = functools.partial(FUNCTIONS[name], key=key_tensor()), tensor(40)
    jacobian = torch.autograd.functional.jacobian(function, x)
    assert torch.equal(jacobian, torch.diag(jacobian.diagonal())) and jacobian.count_nonzero() >= 20
    assert torch.equal(torch.func.jacrev(function)(x), jacobian)
    assert torch.equal(torch.func.jacfwd(function)(x), jacobian)
    y, pushforward = torch.func.linearize(function, x)
    assert torch.equal(y, function(x)) and torch.equal(pushforward(x), jacobian.diagonal() * x)
    total = lambda x: function(x).sin().sum()
    hessian = torch.autograd.functional.hessian(total, x)
    torch.testing.assert_close(torch.func.hessian(total)(x), hessian)


@pytest.mark.parametrize("remove", ["mutations", "mutations_and_views"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functionalized_it_is_itself(name, remove):
    """Also within other transformations, and around those that take no derivatives."""
    function, x = functools.partial(FUNCTIONS[name], key=key_tensor()), tensor(3, 8)
    functionalized = torch.func.functionalize(function, remove=remove)
    assert torch.equal(functionalized(x), function(x))
    for transformed in (
        lambda f: torch.func.grad(lambda x: f(x).square().sum()),
        lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1],
        lambda f: torch.vmap(f, randomness="same"),
    ):
        assert torch.equal(transformed(functionalized)(x), transformed(function)(x))
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(function(leaf).square().sum(), leaf)
    assert all(map(torch.equal, torch.autograd.grad(functionalized(leaf).square().sum(), leaf), expected))
    mapped = torch.vmap(function, randomness="same")
    assert torch.equal(torch.func.functionalize(mapped, remove=remove)(x), mapped(x))


DRAWING = {
    "apart": lambda x: dt.drop_activation(x, 0.5),
    "in place": lambda x: dt.drop_activation(x * 1, 0.5, inplace=True),
    "overwritten later": lambda x: dt.drop_activation(x, 0.5).add_(1),
    "rrelu": lambda x: dt.rrelu(x),
}


@pytest.mark.parametrize("draw", DRAWING.values(), ids=DRAWING)
def test_functionalized_it_draws_what_it_would_draw(draw):
    x, ys = torch.randn(64), []
    for function in (draw, torch.func.functionalize(draw)):
        torch.manual_seed(3)
        ys.append(function(x))
    assert torch.equal(*ys) and not torch.equal(ys[0], draw(x))
    graph = make_fx(torch.func.functionalize(draw))(x)
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sum(name.startswith("drop_activation.") for name in names) == 1
    assert not any(name.split(".")[1].endswith("_") for name in names if "." in name)


@pytest.mark.parametrize("transform", [torch.func.grad, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))])
def test_derivatives_within_functionalize_are_refused_with_the_way_out(transform):
    loss = lambda fused: lambda x: dt.drop_activation(x, 0.5, fused=fused).sum()
    with pytest.raises(NotImplementedError, match="grad.functionalize.f.., got functionalize.grad.f.*fused=False"):
        torch.func.functionalize(transform(loss(True)))(torch.randn(8))
    torch.func.functionalize(transform(loss(False)))(torch.randn(8))


@pytest.mark.parametrize("randomness, masks", [("different", 16), ("same", 1)])
def test_a_model_has_gradients_for_each_sample(randomness, masks):
    model, x = nn.Sequential(nn.Linear(8, 64), nn.ReLU()), torch.ones(16, 8)
    dt.replace_relu(model, 0.5)
    nn.init.constant_(model[0].bias, -100.0)  # ReLU blocks all, where it is kept
    parameters = dict(model.named_parameters())
    loss = lambda parameters, sample: torch.func.functional_call(model, parameters, (sample,)).sum()
    gradients = torch.vmap(torch.func.grad(loss), (None, 0), randomness=randomness)(parameters, x)
    passed = gradients["0.bias"]
    assert set(passed.unique().tolist()) == {0.0, 1.0} and len(passed.unique(dim=0)) == masks
    assert torch.equal(gradients["0.weight"], passed.unsqueeze(2).expand(16, 64, 8))


@pytest.mark.parametrize("inplace", [False, True])
def test_inference_mode(inplace):
    layer = dt.DropActivation(0.5, inplace=inplace)
    for made_inside in (False, True):
        x = -torch.ones(4096)
        with torch.inference_mode():
            x = x * 1 if made_inside else x
            y = layer(x)
            assert (y is x) == inplace and 0.4 < (y == 0).float().mean() < 0.6
            assert torch.equal(layer.eval()(torch.full((4,), -1.0)), torch.full((4,), -0.5))
        layer.train()


def test_what_inference_mode_has_made_is_not_overwritten_outside_of_it():
    with torch.inference_mode():
        x = -torch.ones(64)
    for training in (True, False):
        with pytest.raises(RuntimeError, match="[Ii]nference"):
            dt.DropActivation(0.5, inplace=True).train(training)(x)
        assert (x == -1).all()
