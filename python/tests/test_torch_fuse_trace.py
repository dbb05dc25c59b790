"""What a model's code does once while it is traced, and would have to do in each call: a fused model does it, or the
model is refused."""

import copy
import pickle
import random

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

import numpy as np
import torch.nn.functional as F
from test_torch_fuse_keeps import Code, equals, images, made
from torch import nn
from torch.utils.checkpoint import checkpoint

import drop_activation.torch as dt


def refused(model, words):
    """It is, with the same text in both modes, and stays as it was."""
    before = {module: vars(module).copy() for module in model.modules()}
    for training in (True, False):
        with pytest.raises(ValueError, match=f"{words}.*; replace_relu takes any model"):
            dt.fuse_batch_norm(model.train(training))
        assert all(vars(module) == {**before[module], "training": training} for module in model.modules())


def plain(self, x):
    return F.relu(self.bn(self.conv(x)))


# ---- What surrounds the code, whatever surrounded it while it was traced.


def with_grad(self, x):
    with torch.enable_grad():
        return plain(self, x)


def without_grad(self, x):
    with torch.no_grad():
        return plain(self, x)


def without_autocast(device):
    def function(self, x):
        with torch.autocast(device, enabled=False):
            return plain(self, x)

    return function


def with_a_checkpoint(self, x):
    def part(x):
        return plain(self, x)

    return checkpoint(part, x, use_reentrant=False)


def kept_elsewhere(self, x):
    with torch.autograd.graph.save_on_cpu():
        return plain(self, x)


SURROUNDINGS = {
    "with gradients": (with_grad, "changes whether gradients are computed"),
    "without": (without_grad, "changes whether gradients are computed"),
    "without autocast": (without_autocast("cpu"), "changes autocast on cpu"),
    "without autocast of a GPU": (without_autocast("cuda"), "changes autocast on cuda"),
    "checkpoint": (with_a_checkpoint, "the hooks of what is kept for gradients, as a checkpoint does"),
    "save_on_cpu": (kept_elsewhere, "the hooks of what is kept for gradients"),
}


@pytest.mark.parametrize("function, words", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_code_that_changes_its_surroundings_is_refused_in_any(function, words):
    refused(made(function), f"its code .*{words}")
    with torch.no_grad(), torch.autocast("cpu"):
        refused(made(function), f"its code .*{words}")
        assert dt.fuse_batch_norm(made(plain)).fused == ["bn"]
        assert not torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, dy):
        return dy


def test_a_function_with_a_derivative_of_its_own_is_refused_without_gradients_too():
    with torch.no_grad():
        refused(made(lambda self, x: Rounded.apply(plain(self, x))), "whether gradients are computed")


def test_hooks_of_all_modules_are_refused():
    model = made(plain)
    hook = nn.modules.module.register_module_forward_hook(lambda module, given, y: 2 * y)
    try:
        refused(model, "there are hooks of all modules")
    finally:
        hook.remove()
    assert dt.fuse_batch_norm(model).fused == ["bn"]


# ---- Random numbers, of Python, NumPy and PyTorch, which decide what is called.


def seeded(self, x):
    y = plain(self, x)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return y + torch.rand_like(y)


DRAWS = {
    "random": lambda self, x: plain(self, x) if random.random() < 2 else x,
    "numpy": lambda self, x: plain(self, x) if np.random.rand() < 2 else x,
    "torch": lambda self, x: plain(self, x) if torch.rand(()) < 2 else x,
    "seeded": seeded,
}


@pytest.mark.parametrize("function", DRAWS.values(), ids=DRAWS)
def test_code_that_draws_random_numbers_while_it_is_traced_is_refused(function):
    refused(made(function), "changes the state of random numbers")


# ---- Arguments.


def by_default(self, x, other=None):
    y = self.bn(self.conv(x))
    if other is None:
        other = x
    return F.relu(y + other)


class Two(Code):
    def forward(self, x, other=None):
        return by_default(self, x, other)


def test_an_argument_that_is_not_given_is_none():
    torch.manual_seed(1)
    model = Two(None).double()
    result = equals(model)
    assert result.fused == result.with_residual == ["bn"]
    model.load_state_dict(result.model.state_dict())
    x = images()
    for fused in (result.model, pickle.loads(pickle.dumps(result.model)), copy.deepcopy(result.model)):
        torch.testing.assert_close(fused.eval()(x, other=None), model.eval()(x))
        with pytest.raises(AssertionError, match="other must be None, as it was when fuse_batch_norm traced the model"):
            fused(x, x)


def test_an_argument_that_is_a_truth_value_by_default_is_that():
    class Of(Code):
        def forward(self, x, double=False, *, negative=True):
            y = plain(self, x) * (2 if double else 1)
            return -y if negative is True else y

    torch.manual_seed(1)
    model, x = Of(None).double(), images()
    fused = equals(model).model.eval()
    torch.testing.assert_close(fused(x, False, negative=True), fused(x))
    for name, given, default in (("double", {"double": True}, False), ("negative", {"negative": False}, True)):
        with pytest.raises(AssertionError, match=f"{name} must be {default}, as it was"):
            fused(x, **given)


ONE = torch.ones(1)


def test_a_tensor_as_the_default_of_an_argument_is_refused():
    class Of(Code):
        def forward(self, x, other=ONE):
            return plain(self, x) + other

    refused(Of(None), "its argument other is a tensor by default")


def test_a_sum_with_none_is_refused_where_it_was_traced_as_a_tensor():
    class Of(Code):
        def forward(self, x, other):
            return by_default(self, x, other)

    torch.manual_seed(1)
    model = dt.fuse_batch_norm(Of(None)).model
    assert model(images().float(), images().float()).shape == (3, 4, 6, 6)
    for training in (True, False):
        with pytest.raises(TypeError, match="residual must be a tensor, got None"):
            model.train(training)(images().float(), None)


ASKS = {
    "Tensor": lambda self, x: plain(self, x) if isinstance(x, torch.Tensor) else x,
    "a result": lambda self, x: x if isinstance(plain(self, x), torch.Tensor) else 2 * plain(self, x),
    "an attribute": lambda self, x: plain(self, x) if isinstance(x.mT, (list, torch.Tensor)) else x,
    "Parameter": lambda self, x: plain(self, x) if isinstance(self.scale, nn.Parameter) else x,
}


@pytest.mark.parametrize("function", ASKS.values(), ids=ASKS)
def test_code_that_asks_for_tensors_is_refused(function):
    refused(made(function), "its code, .*lambda.*, asks whether what it computes with is a tensor")


def caught(ask):
    def function(self, x):
        try:
            return plain(self, x) if ask(self, x) else 2 * plain(self, x)
        except Exception:
            return x

    return function


def under_no_grad(self, x):
    with torch.no_grad():
        return x + 1


CAUGHT = {
    "truth": (lambda self, x: x.sum() > 0, "control flow"),
    "loop": (lambda self, x: [y for y in x], "cannot be iterated"),
    "length": (lambda self, x: len(x), "'len' is not supported"),
    "class": (lambda self, x: isinstance(x, torch.Tensor), "asks whether"),
    "context": (under_no_grad, "whether gradients are computed"),
    "data": (lambda self, x: setattr(x, "data", x), "sets data"),
}


@pytest.mark.parametrize("ask, words", CAUGHT.values(), ids=CAUGHT)
def test_a_refusal_that_code_catches_is_one(ask, words):
    refused(made(caught(ask)), f"(?s).*{words}")


def test_code_may_ask_for_lists_and_modules():
    def function(self, x):
        x = [x] if not isinstance(x, (list, tuple)) else x
        return plain(self, *x) if isinstance(self.conv, nn.Conv2d) and isinstance(x, list) else None

    assert equals(made(function)).fused == ["bn"]


# ---- Tensors that are computed without the input.


def test_what_is_computed_from_buffers_is_computed_in_each_call():
    def function(self, x):
        return plain(self, x * self.factor.sigmoid()) * self.bn.running_mean[:, None, None]

    model = made(function)
    model.register_buffer("factor", torch.ones(4, 1, 1, dtype=torch.float64))
    model.bn.running_mean.fill_(0.5)
    fused = equals(model).model
    model.factor.fill_(-3)
    fused.load_state_dict(model.state_dict())
    x = images()
    torch.testing.assert_close(fused(x), model.eval()(x))


def test_code_that_writes_to_a_buffer_does_so_in_each_call():
    def function(self, x):
        self.factor.add_(1)
        self.factor.lerp_(x.mean(), 0.5)
        return plain(self, x) * self.factor

    model = made(function)
    model.register_buffer("factor", torch.ones((), dtype=torch.float64))
    equals(model.eval())
    assert model.factor == 1


def accumulated(self, x):
    total = torch.zeros(1, 4, 1, 1, dtype=torch.float64)
    total += x.mean((0, 2, 3), keepdim=True)
    return plain(self, x) + total


def assigned(self, x):
    wide = torch.zeros(3, 5, 6, 6, dtype=torch.float64)
    wide[:, :4] = x
    return plain(self, wide[:, 1:])


def given_out(self, x):
    return plain(self, torch.exp(x, out=torch.empty(3, 4, 6, 6, dtype=torch.float64)))


def kept(self, x):
    self.sum.add_(x.mean().detach())
    return plain(self, x) * (2 * self.sum)


@pytest.mark.parametrize("function", [accumulated, assigned, given_out, kept])
def test_code_that_writes_to_a_tensor_of_its_own_is_refused(function):
    model = made(function)
    model.sum = torch.zeros((), dtype=torch.float64)
    refused(model, "its code writes to a tensor that is no buffer and not of its input, in ")


def test_code_may_read_tensors_of_its_own_where_it_writes_to_others():
    def function(self, x):
        y = self.conv(x)
        y += torch.ones(4, 1, 1, dtype=torch.float64)
        y.sub_(self.sum).div_(torch.full((), 2.0, dtype=torch.float64))
        return F.relu(self.bn(y))

    model, x = made(function), images()
    model.sum = torch.ones((), dtype=torch.float64)
    result = dt.fuse_batch_norm(copy.deepcopy(model), p=1.0)
    assert result.fused == ["bn"]
    torch.testing.assert_close(result.model(x), model(x))


def test_code_that_reads_parameters_past_their_modules_is_refused():
    def function(self, x):
        return plain(self, x) * sum(parameter.square().sum() for parameter in self.conv.parameters())

    refused(made(function), "its code reads parameters otherwise than as attributes of their modules")


def test_constants_may_be_on_the_meta_device():
    with torch.device("meta"):
        assert dt.fuse_batch_norm(Code(lambda self, x: plain(self, x) + torch.ones(4, 1, 1))).fused == ["bn"]


# ---- Running statistics, which a batch normalisation writes.


READS = {
    "mean": lambda self: self.bn.running_mean[:, None, None] * 1,
    "count": lambda self: self.bn.num_batches_tracked * 0.5,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_normalisation_is_not_moved_past_what_reads_its_statistics(read):
    def between(self, x):
        z = self.bn(self.conv(x))
        of = read(self)
        return F.relu(z + x) * of

    def before(self, x):
        of = read(self)
        return F.relu(self.bn(self.conv(x)) + x) * of

    model = made(between)
    model.bn.running_mean.fill_(0.5)
    result = equals(model)
    assert result.fused == [] and "reads its running statistics" in result.left[0].reason
    model = made(before)
    model.bn.running_mean.fill_(0.5)
    assert equals(model).fused == ["bn"]


# ---- Attributes.


def counts(self, x):
    self.calls += 1
    return plain(self, x) * self.calls


def keeps(self, x):
    self.seen.append(self.calls)
    return plain(self, x)


def names(self, x):
    self.seen_by_name["x"] = 1
    return plain(self, x)


def sets(self, x):
    self.new = x.shape
    return plain(self, x)


def freezes(self, x):
    self.bn.eval()
    return plain(self, x)


def deletes(self, x):
    del self.calls
    return plain(self, x)


ATTRIBUTES = {
    "counts": (counts, "sets calls"),
    "keeps": (keeps, "changes seen"),
    "names": (names, "changes seen_by_name"),
    "sets": (sets, "sets new"),
    "freezes": (freezes, "sets bn.training"),
    "deletes": (deletes, "sets calls"),
}


@pytest.mark.parametrize("function, words", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_code_that_changes_attributes_is_refused_and_they_stay(function, words):
    model = made(function)
    model.calls, model.seen, model.seen_by_name = 1, [7], {"y": 2}
    if function is freezes:
        with pytest.raises(ValueError, match=f"its code {words}"):
            dt.fuse_batch_norm(model)
        assert model.bn.training
    else:
        refused(model, f"its code {words}")
    assert model.calls == 1 and model.seen == [7] and model.seen_by_name == {"y": 2}


# ---- What a module does besides `forward`.


class Frozen(Code):
    def train(self, mode=True):
        super().train(mode)
        self.bn.eval()
        return self


class Extra(Code):
    def get_extra_state(self):
        return 1

    def set_extra_state(self, state):
        pass


class Saved(Code):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[f"{prefix}other"] = torch.ones(1)


class Called(Code):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Fewer(Code):
    def named_parameters(self, *given, **others):
        return ((name, of) for name, of in super().named_parameters(*given, **others) if "bn" not in name)


@pytest.mark.parametrize(
    "kind, name",
    [
        (Frozen, "train"),
        (Extra, "get_extra_state"),
        (Saved, "_save_to_state_dict"),
        (Called, "__call__"),
        (Fewer, "named_parameters"),
    ],
)
def test_modules_that_do_more_than_nn_module_are_refused(kind, name):
    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = kind(None)

        def forward(self, x):
            return plain(self.body, x)

    with pytest.raises(ValueError, match=f"its module '' .* has a {name} of its own; replace_relu takes any model"):
        dt.fuse_batch_norm(kind(plain))
    with pytest.raises(ValueError, match=f"its module 'body' .* has a {name} of its own"):
        dt.fuse_batch_norm(Calls())


def test_a_train_that_was_put_on_a_module_stays():
    model = made(plain).eval()
    model.bn.train = lambda mode=True: model.bn  # frozen for good
    result = dt.fuse_batch_norm(model)
    assert result.fused == [] and "train of its own" in result.left[1].reason
    assert not result.model.train().bn.training
    model.train = lambda mode=True: model
    with pytest.raises(ValueError, match="its module '' .* has a train of its own"):
        dt.fuse_batch_norm(model)


def test_the_versions_of_what_is_saved_are_kept():
    class Second(Code):
        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, metadata, *others):
            assert metadata["version"] == 2
            super()._load_from_state_dict(state_dict, prefix, metadata, *others)

    model = nn.Sequential(Second(plain), Second(plain))
    fused = dt.fuse_batch_norm(model).model
    model.load_state_dict(fused.state_dict())
    first = dt.fuse_batch_norm(model[0]).model
    for of in (first, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        model[0].load_state_dict(of.state_dict())


def test_a_number_of_a_tensor_may_be_added_to():
    def function(self, x):
        factor = x.sum().item()
        factor += 1
        return plain(self, x) * factor

    equals(made(function).eval())


def test_a_sparse_residual_is_added_as_pytorch_adds_it():
    result = dt.fuse_batch_norm(made(lambda self, x: F.relu(self.bn(x) + x.to_sparse())), p=1.0)
    x = images()
    assert result.with_residual == ["bn"]
    expected = F.relu(F.batch_norm(x, None, None, training=True) + x)
    torch.testing.assert_close(result.model(x), expected)
