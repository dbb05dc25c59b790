"""Drop-Activation in models that were written without it: what is replaced, what is left, and that both are said."""

import contextlib
import copy
import functools
import io
import pickle
import threading
import weakref

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import drop_activation.torch as dt
from drop_activation.torch import _other_names as other_names
from drop_activation.torch._other_names import REASON

inplace = functools.partial(F.relu, inplace=True)


class Calls(nn.Module):
    """A module that does what it is given."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def statement(call):
    """A call whose result nobody takes."""

    def function(module, x):
        x = x * 1
        call(x)
        return x

    return function


SPELLINGS = {
    "F.relu": lambda module, x: F.relu(x),
    "F.relu by keyword": lambda module, x: F.relu(input=x),
    "torch.relu": lambda module, x: torch.relu(x),
    "torch.relu by keyword": lambda module, x: torch.relu(input=x),
    "Tensor.relu": lambda module, x: x.relu(),
    "Tensor.relu, unbound": lambda module, x: torch.Tensor.relu(x),
    "torch._VF.relu": lambda module, x: torch._VF.relu(x),
    "aten.relu": lambda module, x: torch.ops.aten.relu(x),
    "aten.relu.default": lambda module, x: torch.ops.aten.relu.default(x),
    "in place": statement(inplace),
    "in place by position": statement(lambda x: F.relu(x, True)),
    "Tensor.relu_": statement(lambda x: x.relu_()),
    "F.relu_": statement(lambda x: F.relu_(x)),
    "torch.relu_": statement(lambda x: torch.relu_(x)),
    "aten.relu_": statement(lambda x: torch.ops.aten.relu_(x)),
    "aten.relu_.default": statement(lambda x: torch.ops.aten.relu_.default(x)),
}


class Attribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.partial, self.chosen = F.relu, functools.partial(F.relu), {"relu": torch.relu}

    def forward(self, x):
        return self.act(x) + self.partial(x - 1) + self.chosen["relu"](x + 1) + getattr(torch, "re" + "lu")(x - 2)


class Static(nn.Module):
    @staticmethod
    def act(x):
        return F.relu(x)

    @classmethod
    def other(cls, x):
        return x.relu()

    def forward(self, x):
        return self.act(x) + self.other(x - 1)


class Decorated(nn.Module):
    @torch.autocast("cpu", enabled=False)
    def forward(self, x):
        return F.relu(x)


class Scaled(nn.ReLU):
    def forward(self, x):
        return 2 * super().forward(x)


class Quantizable(nn.Module):
    def __init__(self):
        super().__init__()
        self.add = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x):
        return self.add.add_relu(x, x - 1)


class Shortcut(nn.Module):
    """Its shortcut sees the tensor that the body overwrites."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU())

    def forward(self, x):
        x = x * 1
        return self.body(x) + x


class Statements(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = (x * 1).t()
        self.act(x)
        y = (x - 1).t()
        y.relu_()
        return y


class Listed(nn.Module):
    """A ReLU that is no registered module, and a helper that is no method."""

    def __init__(self):
        super().__init__()
        self.acts = [nn.ReLU(), torch.relu]

    def forward(self, x):
        return helper(self.acts[1](self.acts[0](x) - 1))


def helper(x):
    return (x + 0).relu_()


class Recomputed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.linear, self.reentrant = nn.Linear(8, 8), reentrant

    def part(self, x):
        return torch.sin(F.relu(self.linear(x)))

    def forward(self, x):
        return checkpoint(self.part, x, use_reentrant=self.reentrant)


class Hooked(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 8))
        self[0].register_forward_hook(lambda module, args, y: F.relu(y))


class Recurrent(nn.Module):
    """torch.compile leaves an LSTM to Python, and the mode with it."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8)

    def forward(self, x):
        return F.relu(self.lstm(x)[0])


class AsksForItsClass(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x):
        found = []
        for part in self.body:
            x = part(x)
            if isinstance(part, nn.ReLU):
                found.append(x)
        return x + sum(found)


@torch.jit.script
def scripted(x):
    return torch.relu(x) - 1


def patched():
    module = nn.Linear(8, 8)
    module.forward = lambda x, plain=module.forward: F.relu(plain(x))
    return nn.Sequential(module)


def transformer(activation):
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)


PATTERNS = {name: functools.partial(Calls, call) for name, call in SPELLINGS.items()} | {
    "attribute": Attribute,
    "static method": Static,
    "decorated": Decorated,
    "subclass": lambda: nn.Sequential(Scaled()),
    "FloatFunctional": Quantizable,
    "shortcut": Shortcut,
    "statements": Statements,
    "listed": Listed,
    "checkpoint": lambda: Recomputed(False),
    "reentrant checkpoint": lambda: Recomputed(True),
    "hook": Hooked,
    "patched forward": patched,
    "recurrent": Recurrent,
    "asks for its class": AsksForItsClass,
    "script function": functools.partial(Calls, lambda module, x: scripted(x)),
    "module": lambda: nn.Sequential(nn.ReLU(), nn.Linear(8, 8), nn.ReLU(inplace=True)),
    "transformer of modules": lambda: transformer(nn.ReLU()),
    "transformer of functions": lambda: transformer("relu"),
}


def made(name, training=True):
    torch.manual_seed(0)
    return PATTERNS[name]().train(training)


def images(name):
    torch.manual_seed(1)
    return torch.randn(3, 4, 8) if "transformer" in name else torch.randn(8, 8)


def results(model, x):
    """y, and the gradients of x and of the parameters."""
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters())]


class ReluIsIdentity(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what reaches the kernels as ReLU, and leaves it out."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = str(operator)
        if name.startswith(("aten.relu", "aten.threshold", "aten.clamp_min", "aten._transformer")):
            self.count += 1
            return args[0] * 1 if "relu_" not in name else args[0]
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PATTERNS)
def test_with_p_1_it_is_the_model_and_with_p_0_it_has_no_relu(name, training):
    x, model = images(name), made(name, training)
    expected = results(made(name, training), x)
    replaced = dt.replace_relu(model, 1.0)
    got = results(model, x)
    assert all(map(torch.equal, got, expected))
    with torch.no_grad():
        # Without gradients PyTorch's own code may take other operations, which a swapped Transformer must not.
        assert torch.equal(model(x), expected[0] if "transformer" in name else made(name, training)(x))
    assert replaced.modules or replaced.functional, replaced
    assert not replaced.left

    model = made(name, training)
    dt.replace_relu(model, 0.0)
    with ReluIsIdentity() as mode:
        results(model, x)
        with torch.no_grad():
            y = model(x)
    assert mode.count == 0, mode.count
    plain = made(name, training)
    # PyTorch's fused path has no ReLU of its own to leave out.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ReluIsIdentity() as mode, torch.no_grad():
            without = plain(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert mode.count > 0
    torch.testing.assert_close(y, without)


# torch.compile does not take the last; the first are compiled as others are.
NOT_COMPILED = ("Tensor", "keyword", "reentrant")


@pytest.mark.parametrize("name", [name for name in PATTERNS if not any(part in name for part in NOT_COMPILED)])
def test_compiled_it_is_what_it_is_eagerly(name):
    x = images(name)
    for p, training in ((0.0, True), (0.0, False), (1.0, True), (0.7, False)):
        model = made(name, training)
        dt.replace_relu(model, p)
        expected = results(model, x)
        model.zero_grad()
        torch._dynamo.reset()
        got = results(torch.compile(model, backend="aot_eager"), x)
        for a, b in zip(got, expected):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("activation", [nn.ReLU(), "relu"])
@pytest.mark.parametrize("whole", [False, True])
def test_compiled_without_gradients_a_transformer_takes_no_fused_path(whole, activation):
    """Eagerly what catches calls keeps it from that, which torch.compile does not see."""
    model, x = transformer(activation).eval(), images("transformer")
    model = model if whole else model.layers[0]
    padding = (torch.arange(4) == 3).expand(3, 4)  # with which whole ones take nested tensors
    dt.replace_relu(model, 0.0)
    expected = model(x, src_key_padding_mask=padding)[:, :3].detach()
    torch._dynamo.reset()
    with torch.no_grad():
        got = torch.compile(model, backend="eager")(x, src_key_padding_mask=padding)[:, :3]
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_both_branches_of_torch_cond_are_caught(compiled):
    """It is compiled also where the model is not."""

    class Cond(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() < 0, lambda x: F.relu(x - 1), lambda x: torch.relu(x) + 5, (x,))

    for sign in (1.0, -1.0):
        x = sign * torch.tensor([-1.0, 2.0, 3.0])
        expected = {1.0: results(Cond(), x), 0.0: results(Calls(lambda _, x: x - 1 if sign < 0 else x + 5), x)}
        for p in (1.0, 0.0):
            torch._dynamo.reset()
            model = Cond()
            dt.replace_relu(model, p)
            run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
            assert all(map(torch.equal, results(run, x), expected[p])), (sign, p)


def test_a_branch_that_torch_cond_s_operator_calls_in_python_is_caught():
    def direct(module, x):
        return torch.ops.higher_order.cond(x.sum() < 0, lambda x: F.relu(x), lambda x: x + 5, (x,))

    model, x = Calls(direct), -torch.ones(3)
    assert torch.equal(model(x), torch.zeros(3))
    dt.replace_relu(model, 0.0)
    assert torch.equal(model(x), x)


class Breaks(nn.Module):
    """A graph break between two calls, as a decision on a value makes one."""

    def forward(self, x):
        x = F.relu(x)
        if x.sum().item() < 1e9:
            x = x - 1
        return F.relu(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.inner = nn.Linear(8, 8), Breaks()

    def forward(self, x):
        return F.relu(self.inner(self.linear(x)))


def test_what_torch_compile_leaves_to_python_is_caught_too():
    x = torch.randn(8, 8)
    for p in (0.0, 1.0):
        model = Outer()
        plain = model.linear(x)
        expected = plain - 1 if p == 0 else F.relu(F.relu(plain) - 1)
        dt.replace_relu(model, p)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager")
        for _ in range(2):
            torch.testing.assert_close(compiled(x), expected)
            torch.testing.assert_close(model(x), expected)
        model.inner = torch.compile(model.inner, backend="eager")
        torch.testing.assert_close(model(x), expected)


def test_a_compiled_function_belongs_to_whoever_calls_it():
    function = torch.compile(lambda x: F.relu(x - 1), backend="eager")
    models, x = [Calls(lambda module, x: function(x)) for _ in range(3)], -torch.ones(8)
    for model, p in zip(models, (0.0, 0.25, 1.0)):
        dt.replace_relu(model.eval(), p)
    torch._dynamo.reset()
    for _ in range(2):
        assert torch.equal(function(x), torch.zeros(8))
        for model, expected in zip(models, (-2.0, -1.5, 0.0)):
            assert torch.equal(model(x), torch.full((8,), expected))


def test_the_report_says_what_happened():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)
            self.same = self.relu
            self.relu6, self.rnn = nn.ReLU6(), nn.RNN(8, 8, nonlinearity="relu")
            self.calls, self.never = Calls(SPELLINGS["F.relu"]), Calls(SPELLINGS["F.relu"])
            self.script = torch.jit.script(torch.nn.Sequential(nn.ReLU()))

        def forward(self, x):
            x = F.threshold(F.relu6(self.relu6(self.same(self.relu(x)))), 0, 0)
            return self.script(self.calls(self.rnn(x)[0]))

    model = nn.Sequential(Model())
    replaced = dt.replace_relu(model, 0.5)
    assert isinstance(model[0], Model) and type(model[0]).__name__ == "Model"
    assert model[0].relu is model[0].same and model[0].relu.inplace
    assert replaced.modules == ("0.relu", "0.same") and replaced.functional == ()
    assert [left.name for left in replaced.left] == ["0.relu6", "0.rnn", "0.script"]
    model(torch.randn(8, 8))
    modules, functional, left = replaced
    assert functional == ("0.calls",) and modules == replaced.modules
    reasons = {(name, reason.partition(":")[0]) for name, reason in left[3:]}
    assert reasons == {("0", "relu6"), ("0", "threshold"), ("0", "rnn_relu")}, left
    assert "TorchScript" in left[2].reason and "ReLU6" in left[0].reason and "cell" in left[1].reason
    assert repr(replaced).startswith("Replaced(modules=('0.relu', '0.same'), functional=('0.calls',), left=(Left(")


ZERO = torch.zeros(())


def frozen_prelu(slope):
    return nn.PReLU(init=slope).requires_grad_(False)


#: By the name under which it is left: each of these is ReLU, exactly, whatever x is.
OTHER_NAMES = {
    "clamp": [lambda x: x.clamp(0), lambda x: torch.clamp(x, min=0.0), lambda x: x.clamp(0, torch.inf)],
    "clamp_": [lambda x: torch.clamp_(x, min=0.0)],
    "clip": [lambda x: torch.clip(x, 0, None)],
    "clamp_min": [lambda x: x.clamp_min(0)],
    "clamp_min.default": [lambda x: torch.ops.aten.clamp_min.default(x, 0)],
    "threshold": [lambda x: torch.threshold(x, 0, 0), lambda x: torch.ops.aten.threshold(x, 0, 0), nn.Threshold(0, 0)],
    "threshold_": [lambda x: F.threshold_(x, 0, value=0)],
    "leaky_relu": [lambda x: F.leaky_relu(x, 0), lambda x: F.leaky_relu(x, negative_slope=0.0), nn.LeakyReLU(0)],
    "leaky_relu_": [lambda x: F.leaky_relu_(x, 0.0)],
    "prelu": [lambda x: F.prelu(x, torch.zeros(1)), lambda x: torch.prelu(x, weight=ZERO), frozen_prelu(0)],
    "rrelu": [
        *(lambda x: F.rrelu(x, 0, 0), lambda x: F.rrelu(x, lower=0.0, upper=0.0, training=True), nn.RReLU(0, 0)),
        lambda x: torch.rrelu(x, 0, 0),
    ],
    "rrelu_": [lambda x: F.rrelu_(x, 0.0, 0.0)],
    "hardtanh": [lambda x: F.hardtanh(x, 0, torch.inf), nn.Hardtanh(0, torch.inf)],
    "maximum": [
        lambda x: torch.maximum(x, torch.tensor(0.0)),
        lambda x: torch.zeros(8).maximum(x),
        lambda x: torch.maximum(x, ZERO),
    ],
    "max": [lambda x: torch.max(x, torch.zeros_like(x)), lambda x: x.new_zeros(8).max(x)],
    "fmax": [lambda x: torch.fmax(x, x.new_zeros(()))],
    "mul": [lambda x: x * (x > 0), lambda x: (x >= 0) * x, lambda x: torch.mul(x, torch.gt(x, 0))],
    "mul_": [lambda x: x.mul_(0 < x)],
    "where": [
        lambda x: torch.where(x > 0, x, 0),
        lambda x: torch.where(x <= 0, torch.zeros_like(x), x),
        lambda x: x.where(x > 0, 0.0),
    ],
    "masked_fill": [lambda x: x.masked_fill(x < 0, 0)],
    "masked_fill_": [lambda x: x.masked_fill_(x < 0, 0.0)],
    "setitem": [lambda x: (x.__setitem__(x < 0, 0), x)[1]],
}
#: What these functions do besides.
NO_RELU = [
    *(lambda x: x.clamp(0, 1), lambda x: x.clamp(-1), lambda x: x.clamp(max=0), lambda x: x.long().clamp(0)),
    *(lambda x: x.clamp(x, x + 1), lambda x: F.leaky_relu(x), lambda x: F.leaky_relu(x, 0.1), nn.LeakyReLU()),
    *(lambda x: F.prelu(x, torch.ones(1)), frozen_prelu(0.25), nn.PReLU(init=0.0), lambda x: F.rrelu(x)),
    *(lambda x: F.rrelu(x, 0, 0.5), lambda x: F.rrelu(x, upper=0.125), nn.RReLU(), nn.RReLU(0, 0.5)),
    *(lambda x: F.hardtanh(x), lambda x: F.hardtanh(x, 0, 1), nn.Hardtanh(0, 1), lambda x: F.threshold(x, 0, 1)),
    *(lambda x: F.threshold(x, 1, 0), lambda x: torch.maximum(x, x / 2), lambda x: torch.max(x, 0), lambda x: x.max()),
    *(lambda x: x.long().maximum(x.long() * 0), lambda x: x * 2, lambda x: x * x, lambda x: x * (x < 0)),
    *(lambda x: x * (2 * x > 0), lambda x: x * (x > 1), lambda x: (x > 0) * torch.randn(8)),
    *(lambda x: torch.where(x < 0, x, 0), lambda x: x * (x > 0).logical_not_()),
    *(lambda x: torch.where(x > 0, x, 1), lambda x: torch.where(x > 0, 2 * x, 0), lambda x: x.masked_fill(x > 0, 0)),
    *(lambda x: x.masked_fill(x < 0, 1), lambda x: x.maximum(x.new_zeros(8).add_(1))),
    lambda x: torch.where(x > 0, x.neg_(), 0),
]


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_what_is_relu_under_another_name_is_named(name):
    for call in OTHER_NAMES[name]:
        x = torch.randn(8)
        assert torch.equal(call(x.clone()), torch.relu(x)), "it is ReLU"
        model = Calls(lambda module, x: call(x))
        replaced = dt.replace_relu(model, 0.5)
        for _ in range(2):
            assert torch.equal(model(x.clone()), torch.relu(x)), "and stays so"
        assert replaced.left == (dt.Left("", f"{name}: {REASON}"),) and not replaced.functional, call


def test_what_is_another_function_is_not_named():
    for i, call in enumerate(NO_RELU):
        model = Calls(lambda module, x: call(x))
        replaced = dt.replace_relu(model, 0.5)
        model(torch.randn(8))
        assert not replaced.left and not replaced.functional, (i, replaced)


def test_modules_that_are_relu_by_their_parameters_are_named():
    modules = nn.LeakyReLU(0), nn.Hardtanh(0, torch.inf), nn.Threshold(0, 0)
    others = nn.LeakyReLU(), nn.Hardtanh(0, 1), nn.Threshold(0, 1), nn.Threshold(0.5, 0)
    replaced = dt.replace_relu(nn.Sequential(*modules, *others), 0.5)
    assert [name for name, _ in replaced.left] == ["0", "1", "2"]
    assert [reason.partition(":")[0] for _, reason in replaced.left] == ["LeakyReLU", "Hardtanh", "Threshold"]


def test_what_is_known_of_tensors_does_not_keep_them():
    def function(module, x):
        module.positive = x > 0
        return x * module.positive

    model, x = Calls(function), torch.randn(8)
    replaced, seen = dt.replace_relu(model, 0.5), weakref.ref(x)
    model(x)
    del x
    assert replaced.left and seen() is None and len(other_names._known.of) == 1
    del model.positive
    assert not other_names._known.of


def test_integers_keep_their_relu_and_are_named():
    model = Calls(lambda module, x: torch.relu(x.long()))
    replaced, x = dt.replace_relu(model, 0.0), torch.tensor([-1.0, 2.0])
    expected = torch.tensor([0, 2])
    assert torch.equal(model(x), expected) and torch.equal(torch.compile(model, backend="eager")(x), expected)
    assert replaced.left == (dt.Left("", "relu: x has dtype torch.int64"),) and replaced.functional == ()


def test_a_script_function_without_its_source_is_named():
    script = torch.jit.trace(lambda x: torch.relu(x), torch.ones(3))
    del script._torchdynamo_inline
    model, x = Calls(lambda module, x: script(x)), -torch.ones(3)
    replaced = dt.replace_relu(model, 0.0)
    assert torch.equal(model(x), torch.zeros(3))
    ((name, reason),) = replaced.left
    assert name == "" and "TorchScript" in reason
    assert torch.equal(scripted(x), torch.zeros(3) - 1), "outside of a model it is what it was"


def test_an_element_that_is_overwritten_later_is_not_kept():
    """As ReLU it keeps its result, and as the identity nothing."""

    def rows(module, x):
        y = x * 1
        y[0] = y[0].relu()
        return y

    x = torch.randn(4, 8)
    expected = results(Calls(rows), x)
    for p in (1.0, 0.0):
        for training in (True, False):
            model = Calls(rows).train(training)
            dt.replace_relu(model, p)
            assert all(map(torch.equal, results(model, x), expected if p else [x, 2 * x]))


def test_sparse_and_nested_tensors_keep_their_relu_and_are_refused_else():
    x = torch.randn(4, 8)
    kinds = {"sparse": x.to_sparse(), "nested": torch.nested.as_nested_tensor([x[:1], x[1:]])}
    for words, x in kinds.items():
        dense = (lambda y: y.to_dense()) if words == "sparse" else (lambda y: y.to_padded_tensor(0.0))
        for p, expected in ((1.0, torch.relu(x)), (0.0, x)):
            assert torch.equal(dense(dt.DropActivation(p)(x)), dense(expected))
        with pytest.raises(TypeError, match=f"x must be a dense tensor.*{words}"):
            dt.DropActivation(0.5)(x)


def test_what_torch_compile_has_made_is_swapped_within():
    x, linear = torch.randn(8, 8), nn.Linear(8, 8)
    expected = linear(x)
    for make in (lambda: nn.Sequential(linear, torch.compile(nn.ReLU(), backend="eager")),
                 lambda: torch.compile(nn.Sequential(linear, nn.ReLU()), backend="eager"),
                 lambda: torch.compile(Calls(lambda module, x: F.relu(linear(x))), backend="eager")):
        model = make()
        before = model(x)
        for _ in range(2):
            replaced = dt.replace_relu(model, 0.0)
            assert torch.equal(model(x), expected)
            assert len(replaced.modules + replaced.functional) <= 1
        dt.restore_relu(model)
        assert torch.equal(model(x), before) and not torch.equal(before, expected)
    model = nn.Sequential(linear, torch.compile(nn.ReLU(), backend="eager")).eval()
    dt.replace_relu(model, 0.5)
    model(x)
    dt.fold(model)
    assert type(model[1]._orig_mod) is nn.LeakyReLU and torch.equal(model(x), F.leaky_relu(expected, 0.5))


def test_a_part_of_a_model_is_caught_when_it_is_called_by_itself():
    """Also one of PyTorch's modules that calls what it was given."""
    decoder = nn.TransformerDecoderLayer(8, 2, 16, 0.0, lambda x: F.relu(x), batch_first=True)
    model, x = nn.ModuleList([Hooked(), decoder]), torch.randn(3, 4, 8)
    replaced = dt.replace_relu(model, 0.0)
    with ReluIsIdentity() as mode:
        model[0][0](x), model[1](x, x)
    assert mode.count == 0
    assert replaced.functional == ("0.0", "1")


def test_another_method_is_caught_where_forward_calls_it_and_not_from_outside():
    """From outside it may be a loss, whose ReLU is no activation: said in `replace_relu`'s documentation."""

    class Encoder(nn.Module):
        def encode(self, x):
            return F.relu(x)

        def forward(self, x):
            return self.encode(x)

    model, x = Encoder(), -torch.ones(8)
    replaced = dt.replace_relu(model, 0.0)
    assert torch.equal(model.encode(x), torch.zeros(8)) and replaced.functional == ()
    assert torch.equal(model(x), x) and replaced.functional == ("",)
    assert "from outside" in dt.replace_relu.__doc__


def test_a_forward_that_was_put_on_a_module_is_caught_however_it_is_called():
    (module,), x = patched(), torch.randn(8, 8)
    linear = F.linear(x, module.weight, module.bias)
    dt.replace_relu(module, 0.0)
    assert torch.equal(module(x), linear) and torch.equal(module.forward(x), linear)


def test_a_second_call_changes_p():
    model = nn.Sequential(nn.ReLU(), Calls(SPELLINGS["F.relu"]), dt.DropActivation(0.5))
    dt.replace_relu(model, 1.0)
    x = -torch.ones(8, 8)
    assert torch.equal(model[:2](x), torch.zeros(8, 8))
    again = dt.replace_relu(model, 0.0)
    assert again.modules == ("0",) and model[2].p == 0.5
    assert torch.equal(model[:2](x), x) and again.functional == ("1",)
    # And what the calls are made of.
    dt.replace_relu(model, 0.5, fused=False)
    graph = torch.fx.experimental.proxy_tensor.make_fx(model[:2])(x).graph
    assert not [node for node in graph.nodes if "drop_activation" in str(node.target)]


@pytest.mark.parametrize("name", PATTERNS)
def test_restore_relu_undoes_it(name):
    x, model = images(name), made(name, False)
    classes, attributes = [type(m) for m in model.modules()], [dict(vars(m)) for m in model.modules()]
    attributes = [{k: v for k, v in one.items() if k != "_modules"} for one in attributes]
    with torch.no_grad():
        expected = model(x)
        replaced = dt.replace_relu(model, 0.0)
        model(x)
        assert dt.restore_relu(model) == replaced.modules
        assert torch.equal(model(x), expected)
    assert [type(m) for m in model.modules()] == classes
    for module, before in zip(model.modules(), attributes):
        assert {k: v for k, v in vars(module).items() if k != "_modules"} == before


def test_a_class_that_is_made_of_a_watched_one_stays():
    """As FSDP2 and parametrisations make them."""
    model, x = Calls(SPELLINGS["F.relu"]), -torch.ones(8)
    dt.replace_relu(model, 0.0)
    made = model.__class__ = type("Made", (type(model),), {})
    assert torch.equal(model(x), x)
    dt.restore_relu(model)
    assert type(model) is made and torch.equal(model(x), F.relu(x))
    dt.replace_relu(model, 0.0)
    assert torch.equal(model(x), x) and torch.equal(copy.deepcopy(model)(x), x)


def test_hooks_and_state_stay_with_a_swapped_module():
    model, seen = nn.Sequential(nn.ReLU().eval(), nn.Linear(8, 8)), []
    handle = model[0].register_forward_hook(lambda module, args, y: seen.append(type(module)))
    model[0].note = "kept"
    dt.replace_relu(model)
    model(torch.randn(8, 8))
    assert len(seen) == 1 and issubclass(seen[0], dt.DropActivation)
    assert model[0].note == "kept" and not model[0].training
    handle.remove()
    model(torch.randn(8, 8))
    assert len(seen) == 1


def test_a_swapped_module_is_nn_relu_by_isinstance_and_not_by_its_type():
    """Which is said in `replace_relu`'s documentation."""
    model = nn.Sequential(nn.ReLU())
    dt.replace_relu(model)
    assert isinstance(model[0], nn.ReLU) and type(model[0]) is not nn.ReLU
    assert "`type(module) is nn.ReLU` does not" in dt.replace_relu.__doc__


def swapped_relu():
    model = nn.Sequential(nn.ReLU())
    dt.replace_relu(model, 0.0)
    return model[0]


@pytest.mark.parametrize("act", [swapped_relu, functools.partial(dt.DropActivation, 0.0), dt.RReLU])
@pytest.mark.parametrize("given", ["at first", "later", "later to a copy"])
def test_a_transformer_that_is_given_one_has_no_relu_of_its_own(act, given):
    """In evaluation mode and without gradients PyTorch's fused operation would compute plain ReLU."""
    act, x = act(), images("transformer")
    make = functools.partial(nn.TransformerEncoderLayer, 8, 2, 16, 0.0, batch_first=True)
    layer = make(activation=act if given == "at first" else "relu")
    if given == "later to a copy":
        layer = copy.deepcopy(layer)
    layer.activation = act
    layers = [layer.eval(), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()]
    for model in [*layers, pickle.loads(pickle.dumps(layer))]:
        with torch.no_grad():
            got = model(x)
        torch.testing.assert_close(got, model(x).detach())


def test_a_module_of_the_model_s_own_is_not_caught():
    """Its code calls what ReLU is in evaluation mode while the model's runs."""
    model = nn.Sequential(dt.DropActivation(1.0), dt.DropActivation(0.5, "relu"))
    replaced = dt.replace_relu(model, 0.0)
    for training in (True, False):
        model[0].train(training)
        assert torch.equal(model(-torch.ones(8)), torch.zeros(8))
    assert replaced.modules == replaced.functional == replaced.left == ()


def test_each_module_s_own_mode_counts():
    model = nn.Sequential(Calls(SPELLINGS["F.relu"]), Calls(SPELLINGS["F.relu"]))
    dt.replace_relu(model, 0.5)
    model[1].eval()
    x = -torch.ones(64, 64)
    assert set(model[0](x).unique().tolist()) == {-1.0, 0.0}
    assert torch.equal(model[1](x), x / 2) and set(model(x).unique().tolist()) == {-0.5, 0.0}


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Linear(8, 8), nn.ReLU()

    def forward(self, x, scale: float = 1.0):
        return F.relu(self.relu(self.conv(x)) - scale)


def test_a_swapped_model_is_copied_stored_and_inspected():
    import inspect

    model = Named()
    keys, signature = list(model.state_dict()), inspect.signature(model.forward)
    dt.replace_relu(model, 0.0)
    assert list(model.state_dict()) == keys and inspect.signature(model.forward) == signature
    x, file = torch.randn(8, 8), io.BytesIO()
    expected = model(x, scale=2.0)
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))]
    for other in [*copies, torch.load(file, weights_only=False)]:
        assert isinstance(other, Named) and torch.equal(other(x, scale=2.0), expected)
    # A copy is its own: what is done to it is not done to the model.
    dt.replace_relu(copies[0], 1.0)
    assert torch.equal(model(x, scale=2.0), expected) and not torch.equal(copies[0](x, scale=2.0), expected)
    dt.restore_relu(copies[2])
    assert type(copies[2]) is Named and torch.equal(model(x, scale=2.0), expected)


def test_fx_keeps_modules_and_their_modes():
    model = Named()
    plain = copy.deepcopy(model)
    dt.replace_relu(model, 0.0)
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == [
        "conv",
        "relu",
        "drop_activation",
    ]
    x = torch.randn(8, 8)
    assert torch.equal(traced(x), model(x))
    dt.replace_relu(model, 0.5)
    traced.eval()
    model.eval()
    assert torch.equal(traced(x), model(x))

    # A graph whose ReLUs are swapped, and which is changed and copied afterwards.
    graph = torch.fx.symbolic_trace(plain)
    expected = graph(x)
    for p in (1.0, 0.0):
        dt.replace_relu(graph, p)
        graph.recompile()
        assert torch.equal(graph(x), expected) == (p == 1.0)
        assert torch.equal(graph.forward(x), graph(x))
        assert torch.equal(copy.deepcopy(graph)(x), graph(x))
        assert torch.equal(pickle.loads(pickle.dumps(graph))(x), graph(x))
    other = copy.deepcopy(graph)
    dt.restore_relu(other)
    assert torch.equal(other(x), expected) and not torch.equal(graph(x), expected)


class Signature(nn.Module):
    def forward(self, x, /, scale=2.0, *more, shift, bound: float = 1.0, **rest):
        return F.relu(x * scale + sum(more) + shift - bound) + sum(rest.values())


class KeywordOnly(nn.Module):
    def forward(self, x, *, scale=1.0):
        return F.relu(x * scale)


def test_a_watched_forward_has_the_signature_that_it_had():
    import inspect

    x = torch.randn(8)
    for p in (1.0, 0.0):
        model, plain = Signature(), Signature()
        dt.replace_relu(model, p)
        assert inspect.signature(model.forward) == inspect.signature(plain.forward)
        code, expected = type(model).forward.__code__, Signature.forward.__code__
        for field in ("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_flags"):
            mask = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS if field == "co_flags" else -1
            assert getattr(code, field) & mask == getattr(expected, field) & mask
        for args, kwargs in (((x,), {"shift": 1.0}), ((x, 3.0, 1, 2), {"shift": 2.0, "bound": 0.5, "other": 7.0})):
            y = model(*args, **kwargs)
            assert torch.equal(y, model.forward(*args, **kwargs))
            if p == 1.0:
                assert torch.equal(y, plain(*args, **kwargs))
            else:
                assert y.min() < 0 or "other" in kwargs
        with pytest.raises(TypeError, match="shift"):
            model(x)
    model = KeywordOnly()
    dt.replace_relu(model, 0.0)
    assert torch.equal(torch.fx.symbolic_trace(model)(x, scale=3.0), x * 3)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x, scale=3.0), x * 3)


def test_replicas_in_threads_are_swapped():
    def together(module, x):
        barrier.wait()  # all threads are in the model's code, but the one that calls none
        return F.relu(x)

    model, outputs = Calls(together), {}
    dt.replace_relu(model, 0.0)
    replica = model._replicate_for_data_parallel()
    x, barrier = -torch.ones(8, 8), threading.Barrier(3)

    def run(name, module):
        for _ in range(20):
            outputs.setdefault(name, []).append(torch.equal(module(x), x))

    others = {"model": model, "replica": replica}
    threads = [threading.Thread(target=run, args=item) for item in others.items()]
    for thread in threads:
        thread.start()
    # Nothing of it reaches another thread's ReLUs.
    zeros = []
    for _ in range(20):
        barrier.wait()
        zeros.append(torch.equal(F.relu(x), torch.zeros(8, 8)))
    assert all(zeros)
    for thread in threads:
        thread.join()
    assert all(map(all, outputs.values())) and len(outputs) == 2


def test_an_error_leaves_nothing_behind():
    def fails(module, x):
        F.relu(x)
        raise ArithmeticError

    model = Calls(fails)
    dt.replace_relu(model, 0.0)
    for _ in range(2):
        with contextlib.suppress(ArithmeticError):
            model(torch.ones(3))
    assert torch.equal(F.relu(-torch.ones(3)), torch.zeros(3))
    assert not torch.overrides._get_current_function_mode_stack()


def test_scripting_is_refused_with_the_reason():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    dt.replace_relu(model, 0.9)
    with pytest.raises(TypeError, match=r"cannot be scripted"):
        torch.jit.script(model)
    with pytest.raises(TypeError, match=r"training mode"):
        torch.jit.script(dt.DropActivation(0.9))
    x = torch.randn(8, 8)
    layer = dt.DropActivation(0.9).eval()
    assert torch.equal(torch.jit.script(layer)(x), layer(x))


class OwnDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.relu(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (x > 0)


class OwnDerivativeOfItsResult(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.relu()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return dy * (y > 0)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("function", [OwnDerivative, OwnDerivativeOfItsResult])
def test_what_computes_relu_s_derivative_by_itself_keeps_relu_and_is_named(function, compiled):
    x, model = torch.randn(8, 8), Calls(lambda module, x: function.apply(x) + F.relu(x - 1))
    replaced = dt.replace_relu(model, 0.0)
    torch._dynamo.reset()
    y, dx = results(torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model, x)
    expected = F.relu(x) + (x - 1)
    assert torch.equal(y, expected) and torch.equal(dx, 2 * expected * ((x > 0) + 1.0))
    if not compiled:
        assert replaced.left == (dt.Left("", "relu: an autograd.Function computes its derivative"),)
        assert replaced.functional == ("",)


def test_modules_that_an_autograd_function_calls_are_swapped():
    """As reversible networks do, which call them again in the backward pass."""

    class Reversible(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, module):
            ctx.x, ctx.module = x.detach(), module
            return module(x)

        @staticmethod
        def backward(ctx, dy):
            with torch.enable_grad():
                x = ctx.x.requires_grad_()
                return *torch.autograd.grad(ctx.module(x), x, dy), None

    part, x = Calls(lambda module, x: F.relu(x)), torch.randn(8, 8)
    model = nn.ModuleList([part])
    model.forward = lambda x: Reversible.apply(x, part)
    replaced = dt.replace_relu(model, 0.0)
    assert all(map(torch.equal, results(model, x), [x, 2 * x])) and not replaced.left


@pytest.mark.parametrize("operator", [torch.ops.aten.relu, torch.ops.aten.relu.out])
def test_what_writes_its_result_elsewhere_keeps_relu_and_is_named(operator):
    def into(module, x):
        out = torch.empty_like(x)
        operator(x, out=out)
        return out

    model, x = Calls(into), torch.randn(8, 8)
    replaced = dt.replace_relu(model, 0.0)
    assert torch.equal(model(x), F.relu(x)) and torch.equal(torch.compile(model, backend="eager")(x), F.relu(x))
    assert len(replaced.left) == 1 and "given as `out`" in replaced.left[0].reason


def test_operations_with_relu_in_them_are_named():
    model = Calls(lambda module, x: torch._addmm_activation(x[0], x, x))
    replaced = dt.replace_relu(model, 0.0)
    model(torch.randn(8, 8))
    assert replaced.left == (dt.Left("", "addmm_activation: it computes ReLU inside of another operation"),)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("first", [False, True])
def test_parametrizations_come_and_go(first):
    from torch.nn.utils import parametrize

    class Weighted(nn.Linear):
        def forward(self, x):
            return F.relu(super().forward(x))

    def parametrized(module):
        parametrize.register_parametrization(module, "weight", Doubled())

    model, x = nn.Sequential(Weighted(8, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))), torch.randn(8, 8)
    if first:
        parametrized(model[0])
    dt.replace_relu(model, 0.0)
    if not first:
        parametrized(model[0])
    linear = lambda: F.linear(F.linear(x, model[0].weight, model[0].bias), model[1].weight, model[1].bias)
    assert torch.equal(model(x), linear()) and torch.equal(copy.deepcopy(model)(x), linear())
    for module in model:
        parametrize.remove_parametrizations(module, "weight")
    assert torch.equal(model(x), linear())
    dt.restore_relu(model)
    assert torch.equal(model[0](x), F.relu(F.linear(x, model[0].weight, model[0].bias)))


class WhenInitialised(nn.Module):
    def forward(self, x):
        return F.relu(F.linear(x, self.weight))


class Lazy(nn.modules.lazy.LazyModuleMixin, WhenInitialised):
    cls_to_become = WhenInitialised

    def __init__(self):
        super().__init__()
        self.weight = nn.parameter.UninitializedParameter()

    def initialize_parameters(self, x):
        if self.has_uninitialized_params():
            with torch.no_grad():
                self.weight.materialize((4, x.shape[-1]))
                self.weight.fill_(-1.0)


def test_a_lazy_module_stays_swapped_when_it_becomes_another():
    model, x = Lazy(), torch.ones(2, 8)
    dt.replace_relu(model, 0.0)
    for other in (model, model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(other, WhenInitialised) and torch.equal(other(x), torch.full((2, 4), -8.0))
    dt.restore_relu(model)
    assert type(model) is WhenInitialised and torch.equal(model(x), torch.zeros(2, 4))


def test_classes_that_guard_their_subclasses_or_attributes_are_swapped():
    class Registered(nn.Module):
        registry = {}

        def __init_subclass__(cls, name):
            assert name not in cls.registry
            cls.registry[name] = cls

    class Net(Registered, name="net"):
        def __setattr__(self, name, value):
            raise AttributeError(f"{name} may not be set")

        def forward(self, x):
            return F.relu(x)

    model, x = Net.__new__(Net), -torch.ones(8)
    vars(model).update(vars(nn.Module()))
    dt.replace_relu(model, 0.0)
    assert torch.equal(model(x), x) and Registered.registry == {"net": Net}
    dt.restore_relu(model)
    assert torch.equal(model(x), torch.zeros(8)) and type(model) is Net


def test_compiled_before_it_was_restored_it_is_restored():
    model, x = nn.Sequential(nn.ReLU(), Calls(SPELLINGS["F.relu"])).eval(), -torch.ones(8)
    dt.replace_relu(model, 0.5)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(x), x / 4)
    dt.restore_relu(model)
    assert torch.equal(compiled(x), x * 0)
    dt.replace_relu(model, 0.25)
    assert torch.equal(compiled(x), x * 9 / 16)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_functions_that_pytorch_s_operators_call_are_caught(p, compiled):
    from torch._higher_order_ops.map import map as mapped
    from torch._higher_order_ops.scan import scan
    from torch._higher_order_ops.while_loop import while_loop

    class Region(nn.Module):
        @torch.compiler.nested_compile_region
        def part(self, x):
            return F.relu(x) - 1

        def forward(self, x):
            return self.part(self.part(x))

    def loop(module, x):
        return while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, F.relu(x) - 1), (torch.tensor(0), x))[1]

    def scanned(module, x):
        return scan(lambda carry, row: (carry + row, F.relu(row) - 1), torch.zeros(8), x)[1]

    def marked(x):
        return x

    torch.compiler.nested_compile_region(marked)
    if not hasattr(marked, "__marked_compile_region_config__"):  # an older PyTorch, which refuses it
        Region.forward = lambda self, x: F.relu(F.relu(x) - 1) - 1
    x = torch.randn(8, 8)
    once = (F.relu(x) if p else x) - 1
    twice = (F.relu(once) if p else once) - 1
    for model, expected in (
        (Region(), twice),
        (Calls(loop), twice),
        (Calls(lambda module, x: mapped(lambda row: F.relu(row) - 1, x)), once),
        (Calls(scanned), once),
    ):
        dt.replace_relu(model, p)
        torch._dynamo.reset()
        got = (torch.compile(model, backend="eager") if compiled else model)(x)
        assert torch.equal(got, expected), type(model)


def test_mistakes_are_named():
    for call, error, words in [
        (lambda: dt.replace_relu(nn.ReLU()), TypeError, "itself a ReLU"),
        (lambda: dt.replace_relu(F.relu), TypeError, "model must be a module, got a function"),
        (lambda: dt.replace_relu(nn.Sequential(), 1.5), ValueError, r"p must be in \[0, 1\], got 1.5"),
    ]:
        with pytest.raises(error, match=words):
            call()


class Generates(nn.Module):
    def forward(self, x):
        yield F.relu(x)


class Waits(nn.Module):
    async def forward(self, x):
        return F.relu(x)


@pytest.mark.parametrize("kind", [Generates, Waits])
def test_code_that_runs_when_the_call_is_over_is_named(kind):
    def result(later):
        try:
            return later.send(None)
        except StopIteration as stop:
            return stop.value

    x = -torch.ones(64)
    inner = kind()
    model = Calls(lambda module, x: result(inner(x)))
    model.inner = inner
    replaced = dt.replace_relu(model, p=0.0)
    assert [name for name, _ in replaced.left] == ["inner"] and "whose code runs later" in replaced.left[0].reason
    assert torch.equal(model(x), x) and replaced.functional == ("",)
    assert torch.equal(result(inner(x)), 0 * x)
    dt.restore_relu(model)
    assert torch.equal(model(x), 0 * x)
