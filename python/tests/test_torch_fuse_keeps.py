"""What a model's code does and a fused model keeps, or is refused or left for: modes, writes in place, the order of
reads and writes, hooks, contexts, names and order; with p = 1 the results are the model's."""

import copy
import itertools
import operator
import pickle

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import drop_activation.torch as dt


class Code(nn.Module):
    """Its code is a function's."""

    def __init__(self, function):
        super().__init__()
        self.bn, self.other, self.conv, self.more = (
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 1),
        )
        self.relu, self.over, self.silu = nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(inplace=True)
        self.scale = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.__dict__["function"] = function

    def forward(self, x):
        return self.function(self, x)


def images(batch=3):
    return torch.randn(batch, 4, 6, 6, dtype=torch.float64)


def made(function):
    torch.manual_seed(1)
    return Code(function).double()


def equals(model, x=None):
    """Fuses a copy, and compares results, gradients and buffers in training, and results in evaluation."""
    torch.manual_seed(2)
    x = images() if x is None else x
    result, model = dt.fuse_batch_norm(copy.deepcopy(model), p=1.0), copy.deepcopy(model)
    for of in (model, result.model):
        of.x = x.clone().requires_grad_()
    expected, got = model(model.x * 1), result.model(result.model.x * 1)
    torch.testing.assert_close(got, expected)
    if expected.requires_grad and expected.numel():
        expected.sin().sum().backward(), got.sin().sum().backward()
        for (name, one), (_, other) in zip(model.named_parameters(), result.model.named_parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, msg=name)
        torch.testing.assert_close(result.model.x.grad, model.x.grad)
    for (name, one), (_, other) in zip(model.named_buffers(), result.model.named_buffers(), strict=True):
        torch.testing.assert_close(other, one, msg=name)
    torch.testing.assert_close(result.model.eval()(x * 1), model.eval()(x * 1), equal_nan=True)
    return result


@pytest.mark.parametrize(
    "lone", [nn.ReLU(), F.relu, torch.relu_, lambda x: x.relu()], ids=["module", "F", "relu_", "method"]
)
@pytest.mark.parametrize("training", [True, False])
def test_a_lone_relu_has_the_mode_of_what_it_replaces(lone, training):
    class Of(nn.Module):
        def __init__(self):
            super().__init__()
            self.lone, self.linear = lone, nn.Linear(8, 8)

        def forward(self, x):
            return self.lone(self.linear(x) * 1)

    model = nn.Sequential(Of(), nn.Linear(8, 2)).train(not training)
    model[0].train(training)
    x = torch.randn(50, 8)
    with torch.no_grad():
        fused = dt.fuse_batch_norm(model, p=0.5).model
        assert torch.equal(fused(x), fused(x)) is not training
        expected = model[1](F.leaky_relu(model[0].linear(x), 0.5))
        assert torch.equal(fused.eval()(x), expected)
        getattr(fused, "0").train()
        assert not torch.equal(fused(x), fused(x))
    assert model[0].training is training and model.training is not training


def statement(call):
    def function(self, x):
        x = self.bn(x)
        call(self, x)
        return self.conv(x)

    return function


def shortcut(call):
    def function(self, x):
        x = self.more(x)
        return self.bn(self.conv(call(self, x))) + x

    return function


def view(call):
    def function(self, x):
        x = self.more(x)
        call(self, x[:, 1:3])
        return self.bn(x)

    return function


CALLS = {
    "relu_": lambda self, x: torch.relu_(x),
    "F.relu_": lambda self, x: F.relu_(x),
    "inplace": lambda self, x: F.relu(x, inplace=True),
    "positional": lambda self, x: F.relu(x, True),
    "method": lambda self, x: x.relu_(),
    "module": lambda self, x: self.over(x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("code", [statement, shortcut, view])
def test_a_lone_relu_in_place_writes_over_its_input(code, call):
    assert equals(made(code(call))).fused == []


def moved_past_a_write_of_its_input(self, x):
    h = self.conv(x)
    a = self.bn(h)
    g = self.silu(h)
    return F.relu(a) + g


def moved_past_a_write_of_the_residual(self, x):
    r = self.more(x)
    z = self.bn(self.conv(x)) + r
    g = self.silu(r)
    return F.relu(z) * g


def written(write):
    def function(self, x):
        h = self.conv(x)
        a = self.bn(h)
        write(self, h)
        return F.relu(a + x)

    return function


WRITES = {
    "module": lambda self, h: self.silu(h),
    "method": lambda self, h: h.mul_(2),
    "function": lambda self, h: F.leaky_relu(h, 0.5, True),
    "keyword": lambda self, h: F.silu(h, inplace=True),
    "operator": lambda self, h: operator.imul(h, 2),
    "out": lambda self, h: torch.exp(h, out=h.detach()),
    "relu": lambda self, h: F.relu_(h),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_normalisation_is_not_moved_past_what_may_write(write):
    model = made(written(write)).eval()  # in training PyTorch itself refuses to write over what it has kept
    result = dt.fuse_batch_norm(copy.deepcopy(model), p=1.0)
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(result.model(x.clone()), model(x.clone()))
    assert result.fused == [] and any("may write over what is read" in left.reason for left in result.left)


@pytest.mark.parametrize("function", [moved_past_a_write_of_its_input, moved_past_a_write_of_the_residual])
def test_a_fused_call_stands_where_the_normalisation_or_the_sum_did(function):
    model = made(function).eval()
    result = dt.fuse_batch_norm(copy.deepcopy(model), p=1.0)
    assert result.fused == ["bn"]
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(result.model(x.clone()), model(x.clone()))


def test_a_sum_over_its_residual_stays():
    def function(self, x):
        r = self.more(x)
        y = operator.iadd(r, self.bn(self.conv(x)))
        return F.relu(y) * r

    result = equals(made(function))
    assert result.fused == [] and "the sum with bn is written over its residual" in [
        left.reason for left in result.left
    ]


def test_operators_that_write_do_so_in_the_graph():
    def function(self, x):
        b, c = x.shape[:2]
        c //= 2
        r = y = self.more(x)
        y *= 2
        y += self.conv(x)
        y -= 1
        z = y.mT
        z /= 3
        return F.relu(self.bn(y)) * r + c

    assert equals(made(function)).fused == ["bn"]

    def sets(self, x):
        x.data = self.conv(x)
        return F.relu(x)

    with pytest.raises(ValueError, match="its code sets data of a tensor; replace_relu takes any model"):
        dt.fuse_batch_norm(made(sets))


def test_a_sum_with_itself_stays():
    def function(self, x):
        z = self.bn(x)
        return F.relu(z + z)

    assert equals(made(function)).fused == []


def test_two_normalisations_in_a_sum_are_one_fused_and_one_residual():
    result = equals(made(lambda self, x: F.relu(self.bn(self.conv(x)) + self.other(self.more(x)))))
    assert result.fused == result.with_residual == ["bn"]


def test_frozen_normalisations_stay():
    model = made(lambda self, x: F.relu(self.bn(x)) + self.relu(self.other(x)))
    model.bn.eval(), model.other.eval()
    result = dt.fuse_batch_norm(model, p=0.5)
    assert result.fused == [] and [left.name for left in result.left] == ["relu", "relu", "bn", "other"]
    assert result.left[2].reason == "it is in evaluation mode, and its ReLU in training mode"
    x = images()
    assert not torch.equal(result.model(x), result.model(x)) and not result.model.bn.training
    assert torch.equal(model.bn.running_mean, torch.zeros(4))
    assert dt.fuse_batch_norm(model.eval()).fused == ["bn", "other"]


def forward_hook(model):
    model.bn.register_forward_hook(lambda module, x, y: 2 * y)


def pre_hook(model):
    model.bn.register_forward_pre_hook(lambda module, x: (2 * x[0] + 1,))


def backward_hook(model):
    model.bn.register_full_backward_hook(lambda module, dx, dy: (3 * dx[0],))


def own_forward(model):
    model.bn.forward = F.silu


def parametrized(model):
    parametrizations.weight_norm(model.bn, dim=None)


def hook_of_the_relu(model):
    model.relu.register_forward_hook(lambda module, x, y: y + 100)


def forward_of_the_relu(model):
    model.relu.forward = F.silu


@pytest.mark.parametrize(
    "change", [forward_hook, pre_hook, backward_hook, own_forward, parametrized, hook_of_the_relu, forward_of_the_relu]
)
def test_what_was_put_on_a_module_keeps_it_apart(change):
    model = made(lambda self, x: self.relu(self.bn(self.conv(x))))
    change(model)
    result = equals(model)
    assert result.fused == [] and result.left[-1].name == "bn"
    assert "hooks" in result.left[-1].reason or "Parametrized" in result.left[-1].reason


def test_a_pruned_normalisation_stays():
    model = made(lambda self, x: self.relu(self.bn(self.conv(x))))
    prune.l1_unstructured(model.bn, "weight", amount=2)
    result, x = dt.fuse_batch_norm(model, p=1.0), images()
    assert result.fused == [] and torch.equal(result.model(x), model(x)) and "hooks" in result.left[-1].reason


def test_a_relu_with_a_hook_becomes_one_module_that_calls_it_once():
    model, seen = made(lambda self, x: self.relu(self.conv(x))), []
    model.relu.register_forward_hook(lambda module, x, y: seen.append(module))
    fused = dt.fuse_batch_norm(model).model
    fused(images())
    assert seen == [fused.relu] and isinstance(fused.relu, dt.DropActivation) and type(model.relu) is nn.ReLU


def test_hooks_of_modules_whose_code_is_traced_are_refused():
    for of in ("0", ""):
        model = nn.Sequential(made(lambda self, x: self.relu(self.bn(x))))
        model.get_submodule(of).register_forward_hook(lambda *given: None)
        with pytest.raises(ValueError, match=rf"its module '{of}' \(a .*\) has hooks; replace_relu takes any model"):
            dt.fuse_batch_norm(model)
    model = made(lambda self, x: x)
    model.forward = lambda x: 2 * x
    with pytest.raises(ValueError, match="a forward of its own"):
        dt.fuse_batch_norm(model)


DROPOUTS = [F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout]


@pytest.mark.parametrize("dropout", DROPOUTS, ids=[of.__name__ for of in DROPOUTS])
@pytest.mark.parametrize("training", [True, False])
def test_a_function_that_is_told_the_mode_follows_it(dropout, training):
    def function(self, x):
        return dropout(self.relu(self.bn(x)), 0.3, training=self.training)

    if dropout is F.dropout1d:
        x = torch.randn(3, 4, 6).double()
        model = made(lambda self, x: dropout(F.relu(self.conv(x[..., None])[..., 0]), p=0.3, training=self.training))
    elif dropout is F.dropout3d:
        x = torch.randn(3, 4, 6, 6, 2).double()
        model = made(lambda self, x: dropout(F.relu(x), 0.3, self.training))
    else:
        x, model = images(), made(function)
    fused = dt.fuse_batch_norm(copy.deepcopy(model).train(training), p=1.0).model
    for again in (fused, copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        reference = copy.deepcopy(model)
        for mode in (True, False, True):
            torch.manual_seed(3)
            expected = reference.train(mode)(x)
            torch.manual_seed(3)
            torch.testing.assert_close(again.train(mode)(x), expected)


def test_a_function_that_is_told_the_mode_has_that_of_its_module():
    model = nn.Sequential(made(lambda self, x: F.dropout(x, training=self.training)), nn.Identity())
    model[0].eval()
    fused, x = dt.fuse_batch_norm(model).model, images()
    assert torch.equal(fused(x), x)
    assert not torch.equal(fused.train()(x), x)


class Scaled(nn.Module):
    """As what drops whole paths does, its graph is another one in each mode."""

    def forward(self, x):
        return 2 * x if self.training else x


class ReLUInOneMode(nn.Module):
    def forward(self, x):
        return F.relu(x) if self.training else x


def test_small_modules_whose_code_depends_on_the_mode_are_called_as_they_are():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), Scaled()).double()
    for training in (True, False):
        assert equals(model.train(training)).fused == ["1"]


TIMES = itertools.count()


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda self, x: self.bn(x) if self.training else x, r"bn\(x,\) in training and output\(x,\) in evaluation"),
        (lambda self, x: F.dropout(x, training=not self.training), r"dropout\(x,\)"),
        (lambda self, x: F.dropout(x, 0.1 if self.training else 0.2), "dropout"),
        (lambda self, x: F.rrelu(x, training=self.training), "rrelu"),
        (lambda self, x: x + torch.tensor(next(TIMES)), "its code makes a tensor that is another one in each call"),
    ],
)
def test_code_that_depends_on_the_mode_otherwise_is_refused(function, words):
    for training in (True, False):
        with pytest.raises(ValueError, match=f"{words}.*; replace_relu takes any model"):
            dt.fuse_batch_norm(made(function).train(training))
    with pytest.raises(ValueError, match="in the code of module '1'"):
        dt.fuse_batch_norm(nn.Sequential(nn.Conv2d(4, 4, 1), ReLUInOneMode()))


def no_grad(self, x):
    with torch.no_grad():
        h = self.conv(x)
    return F.relu(self.bn(h))


def inference(self, x):
    with torch.inference_mode():
        return F.relu(self.bn(x))


def autocast(self, x):
    with torch.autocast("cpu", torch.bfloat16):
        h = self.conv(x)
    return F.relu(self.bn(h))


@pytest.mark.parametrize(
    "function, words",
    [(no_grad, "gradients are computed"), (inference, "grad|inference"), (autocast, "autocast on cpu")],
)
def test_contexts_that_a_graph_loses_are_refused(function, words):
    model = made(function)
    with pytest.raises(ValueError, match=f"its code changes .*({words}).*replace_relu takes any model"):
        dt.fuse_batch_norm(model)


def test_code_that_writes_to_the_model_is_refused_and_the_model_stays():
    def counts(self, x):
        for buffer in self.buffers():
            buffer.add_(1)
        return F.relu(x)

    model = made(counts)
    model.register_buffer("counter", torch.zeros(()))
    with pytest.raises(ValueError, match="its code writes to counter"):
        dt.fuse_batch_norm(model)
    assert model.counter == 0
    model = made(lambda self, x: F.relu(x + torch.ones(1)))
    before = vars(model).copy()
    fused = dt.fuse_batch_norm(model, p=1.0).model
    assert vars(model) == before and fused.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(fused(images(1) * 0 - 1), torch.zeros(1, 4, 6, 6))
    assert torch.equal(copy.deepcopy(fused)(images(1) * 0), torch.ones(1, 4, 6, 6))


class Disordered(nn.Module):
    """Its definitions are in another order than its calls, and some are not called."""

    def __init__(self):
        super().__init__()
        self.scale, self.unused = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("dropped", torch.ones(3), persistent=False)
        self.head = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
        self.extra, self.conv2 = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), nn.Linear(4, 4)
        self.relu, self.act, self.never, self.conv1 = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.Linear(4, 4)
        self.bn, self.mask = nn.BatchNorm1d(4), torch.ones(4)

    def forward(self, x):
        x = self.act(self.conv2(self.relu(self.bn(self.conv1(x))))) * self.scale * self.mask
        return self.head[0](x)


def order(model):
    return [
        [name for name, _ in of] for of in (model.named_parameters(), model.named_buffers(), model.state_dict().items())
    ]


def names(model):
    return [name for name, _ in model.named_modules()]


def test_modules_parameters_and_buffers_keep_their_order():
    model = Disordered()
    before = names(model)
    result = dt.fuse_batch_norm(model)
    assert result.fused == ["bn"] and names(model) == before
    for fused in (
        result.model,
        copy.deepcopy(result.model),
        copy.copy(result.model),
        pickle.loads(pickle.dumps(result.model)),
    ):
        keys = order(fused)
        keys[1].remove("mask")  # a tensor that is no buffer: it is one in the graph, and not stored
        assert keys == order(model)
        assert names(fused) == [name for name in names(model) if name != "relu"]
        assert fused.load_state_dict(model.state_dict()) and fused(torch.randn(5, 4)).shape == (5, 2)
    assert type(model.relu) is type(model.act) is nn.ReLU and isinstance(result.model.act, dt.DropActivation)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.randn(8, 4)).sum().backward(), optimizer.step()
    other = torch.optim.SGD(result.model.parameters(), 0.1, momentum=0.9)
    other.load_state_dict(optimizer.state_dict())
    for name in ("conv1", "conv2"):
        one, two = getattr(model, name).weight, getattr(result.model, name).weight
        assert torch.equal(other.state[two]["momentum_buffer"], optimizer.state[one]["momentum_buffer"])


def test_the_order_is_kept_in_models_of_others():
    models = pytest.importorskip("torchvision", reason="SKIPPED: torchvision is not installed").models
    timm = pytest.importorskip("timm", reason="SKIPPED: timm is not installed")
    for model in (
        models.mnasnet0_5(),
        timm.create_model("resnetv2_50"),
        timm.create_model("resnet18", drop_path_rate=0.3),
    ):
        assert order(dt.fuse_batch_norm(model).model) == order(model)


def test_a_shared_module_is_one_module_under_each_of_its_names():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
    model.add_module("again", model[0])
    model.append(nn.ReLU())
    result = dt.fuse_batch_norm(model)
    assert result.fused == [] and [left.reason for left in result.left[:2]] == 2 * ["0 is called 2 times"]
    model = made(lambda self, x: self.relu(self.bn(x)))
    model.alias = model.bn
    result = dt.fuse_batch_norm(model)
    assert result.model.alias is result.model.bn and result.fused == ["bn"] and order(result.model) == order(model)
    relu = nn.ReLU()
    model = nn.Sequential(nn.BatchNorm2d(4), relu, nn.Conv2d(4, 4, 1), relu)
    result = dt.fuse_batch_norm(model, p=0.5)
    assert result.fused == ["0"] and getattr(result.model, "1") is getattr(result.model, "3")
    assert getattr(result.model, "1").p == 0.5 and relu is model[1] and type(relu) is nn.ReLU


def test_a_swapped_model_is_refused_as_it_is():
    model = made(lambda self, x: torch.relu(self.conv(self.relu(self.bn(x)))))
    dt.replace_relu(model, p=0.5)
    before = names(model)
    with pytest.raises(ValueError, match=r"call restore_relu\(model\) first"):
        dt.fuse_batch_norm(model, p=0.9)
    assert names(model) == before
    dt.restore_relu(model)
    assert dt.fuse_batch_norm(model, p=0.9).fused == ["bn"]
    with pytest.raises(TypeError, match="model must be a module, got a int"):
        dt.fuse_batch_norm(3)


def momentum(model):
    model.bn.momentum = 1.5


def untracked(model):
    model.bn.num_batches_tracked = None


def no_eps(model):
    model.bn.eps = 0.0


def no_bias(model):
    model.bn.bias = None


@pytest.mark.parametrize("change", [momentum, untracked, no_eps, no_bias])
def test_normalisations_that_the_layer_cannot_be_stay(change):
    model = made(lambda self, x: self.relu(self.bn(self.conv(x))))
    change(model)
    assert equals(model.train(change is not no_eps)).fused == []


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: F.relu(self.bn(x) + self.scale),
        lambda self, x: F.relu(self.scale + self.bn(x)),
        lambda self, x: F.relu(torch.add(self.bn(F.adaptive_avg_pool2d(self.conv(x), 1)), x)),
        lambda self, x: F.relu(self.bn(x) + x.size(0)),
        lambda self, x: F.relu(operator.iadd(self.bn(x), self.more(x).float())),
        lambda self, x: F.relu(self.bn(x.float().double()) + x.float()),
    ],
)
def test_any_summand_is_added_as_pytorch_adds_it(function):
    result = equals(made(function))
    assert result.with_residual == ["bn"]
    fused = dt.fuse_batch_norm(made(function), p=0.5).model
    assert not torch.equal(fused(images()), fused(images()))


def test_a_summand_of_another_type_under_autocast():
    for function in (
        lambda self, x: F.relu(self.bn(self.conv(x)) + x),
        lambda self, x: F.relu(operator.iadd(self.bn(self.conv(x)), x)),
    ):
        model = made(function).float()
        fused, x = dt.fuse_batch_norm(copy.deepcopy(model), p=1.0).model, images().float()
        with torch.autocast("cpu", torch.bfloat16):
            expected, got = model(x), fused(x)
        assert got.dtype is expected.dtype
        torch.testing.assert_close(got, expected)


def test_keywords_and_batches_of_no_image():
    assert equals(made(lambda self, x: self.relu(input=self.bn(input=x)))).fused == ["bn"]
    assert equals(made(lambda self, x: self.relu(input=self.conv(input=x)))).fused == []
    assert equals(made(lambda self, x: F.relu(input=self.bn(x)))).fused == ["bn"]
    assert equals(made(lambda self, x: F.relu(self.bn(self.conv(x)) + x)), images(0)).fused == ["bn"]
    assert equals(made(lambda self, x: F.relu(self.bn(self.conv(x)))), images(0)).fused == ["bn"]


def test_a_module_of_ours_with_hooks_is_not_traced_by_symbolic_trace():
    for layer in (dt.DropActivation(), dt.RReLU(), dt.BatchNormDropActivation2d(4), dt.BiasDropActivation(4)):
        torch.fx.symbolic_trace(nn.Sequential(layer))
        layer.register_forward_hook(lambda module, x, y: y + 100)
        with pytest.raises(ValueError, match="must have no hooks of its forward pass, got"):
            torch.fx.symbolic_trace(nn.Sequential(layer))


def test_scripting_is_refused_by_name():
    for layer in (
        dt.BatchNormDropActivation2d(3),
        dt.BatchNormDropActivation2d(3).eval(),
        dt.BiasDropActivation(3).eval(),
    ):
        with pytest.raises(TypeError, match=f"{type(layer).__name__} cannot be scripted.*fold"):
            torch.jit.script(nn.Sequential(layer))


class _Within(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.relu, self.bounded = nn.BatchNorm1d(8), nn.ReLU(), nn.ReLU6()
        self.function = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.module = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.ReLU(), batch_first=True)
        self.rnn = nn.RNN(8, 8, nonlinearity="relu", batch_first=True)

    def forward(self, x):
        z = self.relu(self.bn(x)).transpose(1, 2)
        return self.bounded(self.rnn(self.module(self.function(z)))[0])


def test_relus_within_modules_that_the_graph_calls_are_named():
    """torch.fx does not look into PyTorch's own modules."""
    fused, names, _, left = dt.fuse_batch_norm(_Within(), 0.9)
    assert names == ["bn"]
    reasons = dict(left)
    assert list(reasons) == ["function", "module.activation", "rnn", "bounded"]
    assert all("replace_relu takes it" in reasons[name] for name in ("function", "module.activation"))
    assert dt.replace_relu(fused, 0.9).modules == ("function.activation", "module.activation")
