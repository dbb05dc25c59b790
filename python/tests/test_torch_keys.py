"""Keys that a call on a GPU takes from the generator without a kernel, with stand-ins for the generator and the GPU."""

import types

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

from torch.fx.experimental.proxy_tensor import make_fx

import drop_activation.torch as dt
from drop_activation.torch import _functions as functions
from drop_activation.torch import _keys as keys
from drop_activation.torch import _operators as operators
from drop_activation.torch._plain import is_plain

SEED = 0x0123456789ABCDEF


def philox(seed, offset):
    """`torch.randint(2**63 - 1, (1,))` on a GPU, by the definition of Philox4x32-10."""
    block = offset // 4
    c, k = [block % 2**32, block >> 32, 0, 0], [seed % 2**32, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return (c[0] << 32 | c[1]) % (2**63 - 1)


def signed(number):
    return number - 2**64 if number >= 2**63 else number


class Generator:
    """A GPU's generator: a seed and an offset."""

    device = torch.device("cpu")  # where the stand-in for the GPU's randint draws

    def __init__(self, seed=SEED, offset=0, captures=False):
        self.seed, self.offset, self.captures = seed, offset, captures

    def philox_state(self, increment):
        seed, offset = (torch.tensor([signed(number)]) for number in (self.seed, self.offset))
        self.offset += (increment + 3) // 4 * 4
        on = "meta" if self.captures else "cpu"
        return seed.to(on), offset.to(on), torch.zeros(1, dtype=torch.int64)

    def get_offset(self):
        return self.offset


def test_the_first_numbers_of_philox_are_the_published_ones():
    """For the key 0 and the counter 0 they begin with 6627e8d5 e169c58d (Random123's known answers)."""
    key = operators.philox_key(torch.tensor([0]), torch.tensor([0]))
    assert key.item() == 0x6627E8D5E169C58D and key.shape == (1,) and key.dtype == torch.int64


@pytest.mark.parametrize("seed", [0, 1, SEED, 2**63, 2**64 - 1])
@pytest.mark.parametrize("offset", [0, 4, 2**34 - 4, 2**34, 2**63, 2**64 - 4])
def test_a_key_is_what_randint_draws_at_its_place(seed, offset):
    key = operators.philox_key(torch.tensor([signed(seed)]), torch.tensor([signed(offset)]))
    assert key.item() == philox(seed, offset)


def test_what_is_no_place_is_refused():
    good = torch.tensor([1])
    for seed, offset, words in (
        (torch.tensor([1.0]), good, "seed must be one torch.int64 on the CPU, got dtype torch.float32"),
        (good, torch.tensor([1, 2]), r"offset must be .*got dtype torch.int64, shape \(2,\)"),
    ):
        with pytest.raises(RuntimeError, match=words):
            operators.philox_key(seed, offset)


def test_keys_follow_the_generator():
    generator = Generator(offset=8)
    assert [keys.key_at(generator).item() for _ in range(3)] == [philox(SEED, offset) for offset in (8, 12, 16)]
    assert generator.offset == 20
    assert keys.key_at(Generator(captures=True)) is None


def randint_of(draw, increment=4):
    """A stand-in for PyTorch's randint on a GPU."""

    def randint(high, size, *, dtype, device, generator):
        assert (high, size, dtype) == (2**63 - 1, (1,), torch.int64)
        number = draw(generator.seed, generator.offset)
        generator.offset += increment
        return torch.tensor([number])

    return randint


def test_a_pytorch_that_draws_otherwise_is_noticed(monkeypatch):
    for randint, same in (
        (randint_of(philox), True),
        (randint_of(lambda seed, offset: philox(seed, offset) ^ 1), False),
        (randint_of(lambda seed, offset: philox(seed, 0)), False),
        (randint_of(philox, increment=8), False),
    ):
        monkeypatch.setattr(torch, "randint", randint)
        assert keys.agree(Generator(), Generator()) is same
    monkeypatch.setattr(torch, "randint", randint_of(philox))
    assert keys.agree(Generator(captures=True), Generator()) is False


class OnGpu(torch.Tensor):
    """Says that it is on a GPU, and is taken for a plain tensor."""

    is_cuda, device = True, torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU's generator and what is asked of it, for x of `OnGpu`."""
    asked = types.SimpleNamespace(generator=Generator(), capturing=False, waits=0, tried=0)
    monkeypatch.setattr(keys, "_TELLS", True)
    monkeypatch.setattr(torch.cuda, "default_generators", (asked.generator,))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: asked.capturing)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: asked.waits)
    monkeypatch.setattr(keys, "is_plain", lambda x: type(x) is OnGpu)
    monkeypatch.setattr(keys, "_AGREES", {OnGpu.device: True})
    asked.x = torch.ones(4).as_subclass(OnGpu)
    return asked


def test_a_call_that_python_makes_launches_nothing_for_its_key(gpu, monkeypatch):
    monkeypatch.setattr(torch, "randint", None)  # would launch
    drawn = [keys.draw_key(gpu.x) for _ in range(2)]
    assert [key.item() for key in drawn] == [philox(SEED, 0), philox(SEED, 4)]
    assert all(key.device.type == "cpu" for key in drawn)
    gpu.generator.seed, gpu.generator.offset = 7, 0  # manual_seed
    assert keys.draw_key(gpu.x).item() == philox(7, 0)


def test_what_runs_again_draws_on_the_gpu(gpu, monkeypatch):
    """What records calls: there randint moves the generator, each time it runs. A captured graph draws in the pass."""

    def nothing(y):
        assert keys.key_on_cpu(gpu.x) is None and gpu.generator.offset == 0
        return y

    gpu.capturing = True
    nothing(None)
    gpu.capturing = False
    make_fx(nothing)(torch.ones(1))
    torch.jit.trace(nothing, (torch.ones(1),), check_trace=False)
    with monkeypatch.context() as patched:
        patched.setattr(torch.compiler, "is_compiling", lambda: True)
        nothing(None)
    with monkeypatch.context() as patched:
        patched.setattr(keys, "_TELLS", False)
        nothing(None)
    with monkeypatch.context() as patched:
        patched.setattr(keys, "is_plain", lambda x: False)
        nothing(None)
    assert keys.key_on_cpu(gpu.x) is not None and gpu.generator.offset == 4


@pytest.fixture
def place(gpu, monkeypatch):
    """While a graph is captured: what is given to the operators that draw their key, and their other arguments."""
    gpu.capturing, gpu.generator.captures, gpu.calls = True, True, []
    monkeypatch.setattr(torch, "randint", None)  # would be a kernel of its own
    for name in ("forward_at", "forward_at_", "rrelu_forward_at"):
        operator = lambda *arguments, name=name: gpu.calls.append((name, *arguments)) or (gpu.x, None, None)
        monkeypatch.setattr(keys.operators, name, operator)
    return gpu


def seen(call, tensors):
    name, x, *rest = call
    seed, offset, moved = rest[tensors - 1 : tensors + 2]
    assert type(x) is OnGpu and seed.device.type == offset.device.type == "meta" and moved.item() == 0
    return name, *rest[tensors + 2 :]


def test_in_a_captured_graph_the_pass_draws_its_key(place):
    x = place.x
    keys._draw_forward_on_cuda(x, 0.5, 3, 32, 0)
    keys.draw_forward_(x, torch.zeros(1), 0.5, 32, 0)
    keys._draw_rrelu_forward_on_cuda(x, 0.25, 0.5, 32, 0)
    forward, over, rrelu = place.calls
    assert seen(forward, 1) == ("forward_at", 0.5, 3, 32, 0) and seen(rrelu, 1) == ("rrelu_forward_at", 0.25, 0.5, 32, 0)
    assert seen(over, 2) == ("forward_at_", 0.5, 32, 0) and place.generator.offset == 12


def test_in_a_captured_graph_every_call_of_a_user_s_comes_there(place, monkeypatch):
    monkeypatch.setattr(functions, "is_plain", lambda x: True)
    monkeypatch.setattr(functions, "is_dense", lambda x, layout: True)
    monkeypatch.setattr(operators, "draw_forward", keys._draw_forward_on_cuda)  # as PyTorch would choose for such an x
    monkeypatch.setattr(operators, "draw_rrelu_forward", keys._draw_rrelu_forward_on_cuda)
    monkeypatch.setattr(operators, "empty_mask", lambda x: torch.zeros(1))
    for call in (
        lambda x: dt.drop_activation(x, 0.5),
        lambda x: dt.drop_activation(x, 0.5, "gelu"),
        lambda x: dt.drop_activation(x, 0.5, inplace=True),
        dt.rrelu,
    ):
        call(place.x)
    assert [name for name, *_ in place.calls] == ["forward_at", "forward_at", "forward_at_", "rrelu_forward_at"]
    assert place.generator.offset == 16


def test_a_graph_that_is_captured_before_any_call_has_its_keys_drawn_by_kernels(place, monkeypatch):
    """Whether PyTorch draws the same would have to be tried, which waits for the GPU."""
    keys._AGREES.clear()
    drawn = torch.tensor([7])
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: drawn)
    monkeypatch.setattr(keys.operators, "forward", lambda x, key, *rest: key)
    assert keys._draw_forward_on_cuda(place.x, 0.5, 3, 32, 0) is drawn and place.generator.offset == 0


def test_compiled_code_draws_its_key_as_python_does(gpu, monkeypatch):
    """It calls an operator that knows the generator, and launches nothing for the key."""
    monkeypatch.setattr(torch, "randint", None)
    assert torch._C._dispatch_has_kernel_for_dispatch_key("drop_activation::draw_forward", "CUDA")
    monkeypatch.setattr(keys.operators, "forward", lambda x, key, *rest: (key.item(), key.device.type, rest))
    for offset in (0, 4):
        assert keys._draw_forward_on_cuda(gpu.x, 0.5, 3, 32, 0) == (philox(SEED, offset), "cpu", (0.5, 3, 32, 0))


def test_compiled_rrelu_has_its_key_stored_on_the_gpu_by_its_kernel(gpu, monkeypatch):
    """Where the key was drawn there by a kernel it is returned as it is."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key("drop_activation::draw_rrelu_forward", "CUDA")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("drop_activation::_rrelu_forward_storing_key", "CUDA")
    monkeypatch.setattr(torch, "randint", None)  # would launch
    stored = lambda x, key, *rest: ("y", "signs", (key.item(), key.device.type, rest))
    monkeypatch.setattr(keys.operators, "rrelu_forward_storing_key", stored)
    for offset in (0, 4):
        expected = ("y", "signs", (philox(SEED, offset), "cpu", (0.25, 0.5, 32, 0)))
        assert keys._draw_rrelu_forward_on_cuda(gpu.x, 0.25, 0.5, 32, 0) == expected
    drawn = types.SimpleNamespace(device=OnGpu.device)
    monkeypatch.setattr(keys, "draw_key", lambda x: drawn)
    monkeypatch.setattr(keys.operators, "rrelu_forward", lambda x, key, *rest: ("y", "signs"))
    assert keys._draw_rrelu_forward_on_cuda(gpu.x, 0.25, 0.5, 32, 0) == ("y", "signs", drawn)


def jvp(function):
    return lambda x: torch.func.jvp(function, (x,), (x,))


@pytest.mark.parametrize("transformed", [torch.vmap, torch.func.grad, jvp])
def test_what_a_transformation_looks_at_is_not_plain(transformed):
    assert is_plain(torch.ones(3)) and is_plain(torch.nn.Parameter(torch.ones(3)))
    seen = []
    transformed(lambda x: (seen.append(is_plain(x)), x.sum())[1])(torch.ones(3))
    assert seen == [False] and not is_plain(torch.ones(3).as_subclass(OnGpu))


def test_it_is_tried_once_whether_pytorch_draws_the_same(gpu, monkeypatch):
    tried = []
    monkeypatch.setattr(keys, "agree", lambda *generators: tried.append(generators) or False)
    generator = lambda device: types.SimpleNamespace(manual_seed=lambda seed: (device, seed))
    monkeypatch.setattr(torch, "Generator", generator)
    keys._AGREES.clear()
    gpu.waits = 1
    assert keys.key_on_cpu(gpu.x) is None and not tried, "it would wait, which was forbidden"
    gpu.waits = 0
    for _ in range(2):
        assert keys.key_on_cpu(gpu.x) is None
    assert len(tried) == 1 and {device for device, _ in tried[0]} == {OnGpu.device} and gpu.generator.offset == 0


def test_on_the_cpu_nothing_changes():
    x = torch.ones(8)
    torch.manual_seed(3)
    key = keys.draw_key(x)
    torch.manual_seed(3)
    assert torch.equal(key, torch.randint(2**63 - 1, (1,)))


@pytest.mark.parametrize("budget", [0.0, 0.5])
@pytest.mark.parametrize(
    "layer",
    [
        dt.DropActivation(0.5),
        dt.DropActivation(0.5, inplace=True),
        dt.RReLU(),
        dt.BatchNormDropActivation2d(16, p=0.5, frozen=True),
        dt.BiasDropActivation(16, p=0.5),
    ],
    ids=str,
)
def test_compiled_with_a_memory_budget_the_backward_pass_has_the_mask_of_the_forward_pass(layer, budget):
    """There torch.compile computes again what is large, draws included: at 0.0 F.dropout's gradient has another mask."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: layer(x.sin().cos() - 0.8).exp(), backend="aot_eager_decomp_partition")
    x = torch.randn(8, 16, 16, 16, requires_grad=True)
    with torch._functorch.config.patch(activation_memory_budget=budget):
        y = compiled(x)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    # y = exp(slope z).
    inner = x.detach().sin()
    logarithm, z = y.detach().log(), inner.cos() - 0.8
    dz = -inner.sin() * x.detach().cos()
    far = (z.abs() > 0.01) & (dz.abs() > 0.01)
    slope = (logarithm / z)[far]
    assert torch.allclose(slope, (dx / y.detach() / dz)[far], rtol=1e-3, atol=1e-3) and slope.std() > 0.1
