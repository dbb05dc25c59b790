"""PyTorch on a GPU: the CPU's numbers, the current stream, no waiting, checkpoints, CUDA graphs."""

import os
from unittest import mock

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

import drop_activation as da
import drop_activation.torch as dt
from drop_activation.torch import _keys as keys

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        if os.environ.get("DROP_ACTIVATION_REQUIRE_GPU", "0") != "0":
            pytest.fail("DROP_ACTIVATION_REQUIRE_GPU is set, and PyTorch has no CUDA device")
        pytest.skip("SKIPPED: PyTorch has no CUDA device")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("activation", da.ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_cuda_is_the_cpu(dtype, activation, training):
    x, dy, key = torch.randn(3, 1001).to(dtype), torch.randn(3, 1001).to(dtype), torch.tensor([7])
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).requires_grad_()
        y = dt.drop_activation(leaf, 0.7, activation, training, key=key)
        (dx,) = torch.autograd.grad(y, leaf, dy.to(device))
        results.append((y.detach().cpu(), dx.cpu()))
    for on_cpu, on_cuda in zip(*results):
        if activation == "relu":
            assert torch.equal(on_cpu, on_cuda)
        else:
            torch.testing.assert_close(on_cuda, on_cpu, rtol=16 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape, memory", [((64, 24), None), ((5, 6, 7, 7), None), ((5, 8, 8, 8), torch.channels_last)])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_batch_norm_on_cuda_is_the_cpu_s(dtype, shape, memory, activation, frozen, with_residual):
    kind = dt.BatchNormDropActivation2d if len(shape) == 4 else dt.BatchNormDropActivation1d
    make = lambda: torch.randn(shape).to(dtype).contiguous(memory_format=memory or torch.contiguous_format)
    x, r, dy, key = make(), make(), make(), torch.tensor([7])
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(1)
        layer = kind(shape[1], p=0.7, activation=activation, frozen=frozen)
        layer = (layer.double() if dtype == torch.float64 else layer).to(device)
        leaves = [t.to(device).requires_grad_() for t in ((x, r) if with_residual else (x,))]
        with mock.patch.object(dt._batch_norm, "draw_key", lambda x: key.to(device)):
            y = layer(*leaves)
        gradients = torch.autograd.grad(y, [*leaves, layer.weight, layer.bias], dy.to(device))
        assert y.stride() == x.stride()
        results.append([t.detach().cpu() for t in (y, *gradients, layer.running_mean, layer.running_var)])
    for on_cpu, on_cuda in zip(*results):
        # The vectors between the passes are PyTorch's, whose last bits may differ.
        eps = torch.finfo(on_cpu.dtype).eps
        off = (on_cpu - on_cuda).abs() > 64 * eps * max(1.0, on_cpu.abs().max().item())
        assert off.sum() <= (1 if activation == "relu" and on_cpu.dim() > 1 else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "shape, memory, dim",
    [((64, 24), None, 1), ((5, 9, 24), None, -1), ((5, 6, 7, 7), None, 1), ((5, 8, 8, 8), torch.channels_last, 1)],
)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_a_bias_on_cuda_is_the_cpu_s(dtype, shape, memory, dim, activation, with_residual):
    make = lambda: torch.randn(shape).to(dtype).contiguous(memory_format=memory or torch.contiguous_format)
    bias = torch.randn(shape[dim], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    tensors, dy, key = (make(), bias, make())[: 3 if with_residual else 2], make(), torch.tensor([7])
    results = []
    for device in ("cpu", "cuda"):
        leaves = [t.to(device).requires_grad_() for t in tensors]
        y = dt.bias_drop_activation(*leaves, *([] if with_residual else [None]), 0.7, activation, dim=dim, key=key)
        gradients = torch.autograd.grad(y, leaves, dy.to(device))
        assert y.stride() == tensors[0].stride() == gradients[0].stride()
        results.append([t.detach().cpu() for t in (y, *gradients)])
    for on_cpu, on_cuda in zip(*results):
        if activation == "relu":
            assert torch.equal(on_cpu, on_cuda)
        else:
            eps = torch.finfo(on_cpu.dtype).eps
            torch.testing.assert_close(on_cuda, on_cpu, rtol=64 * eps, atol=64 * eps)


def step_behind_a_sleep(layer, x):
    """y of a forward and a backward pass on another stream than the default one, which the host does not wait for."""
    stream = torch.cuda.Stream()
    layer(x).sum().backward()  # what is loaded at the first call is loaded
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            y = layer(x)
            y.sum().backward()
            assert not stream.query(), "the work waits behind the sleep, and the host does not"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    return y


@pytest.mark.parametrize(
    "layer, forward, backward",
    [(dt.BatchNormDropActivation2d(16, p=0.5), 3, 3), (dt.BiasDropActivation(16, p=0.5), 1, 2)],
    ids=["batch norm", "bias"],
)
def test_a_layer_waits_for_nothing_and_its_passes_are_few_launches(layer, forward, backward):
    layer, x = layer.cuda(), torch.randn(32, 16, 64, 64, device="cuda", requires_grad=True)
    step_behind_a_sleep(layer, x)
    y, dy = layer(x), torch.ones_like(x)
    ours = lambda names: [name for name in names if name.startswith("da_")]
    assert len(ours(kernels(lambda: layer(x)))) == forward
    assert len(ours(kernels(lambda: torch.autograd.grad(y, x, dy)))) == backward


def test_a_model_is_fused_on_cuda():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).cuda()
    fused = dt.fuse_batch_norm(model, p=1.0)
    assert len(fused.fused) == 1
    x = torch.randn(4, 3, 9, 9, device="cuda")
    torch.testing.assert_close(fused.model(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "make", [lambda: dt.BatchNormDropActivation1d(16, p=0.5, frozen=True), lambda: dt.BiasDropActivation(16, p=0.5)]
)
def test_a_graph_with_a_layer_over_channels_draws_fresh_masks(make):
    layer, x = make().cuda(), -torch.ones(256, 16, device="cuda")
    layer(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
    seen = set()
    for _ in range(3):
        graph.replay()
        seen.add(tuple((y == 0).flatten().nonzero().flatten().tolist()))
    assert len(seen) == 3


def test_nothing_waits_and_the_current_stream_is_used():
    x = -torch.ones(1 << 20, device="cuda", requires_grad=True)
    before = torch.cuda.current_device()
    y = step_behind_a_sleep(dt.DropActivation(0.5), x)
    assert torch.cuda.current_device() == before
    assert 0.49 < (y == 0).float().mean().item() < 0.51


@pytest.mark.parametrize("layer", [dt.DropActivation(0.5), dt.DropActivation(0.5, "gelu"), dt.RReLU()])
def test_a_graph_replays_the_steps_that_would_be_taken_without_it(layer):
    x = torch.randn(4096, device="cuda").requires_grad_()
    dy = torch.randn(4096, device="cuda")

    def step():
        y = layer(layer(x))
        return y.detach(), *torch.autograd.grad(y, x, dy)

    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        step()
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()

    def replay():
        graph.replay()
        return tuple(tensor.clone() for tensor in captured)

    runs = []
    for take in (step, replay):
        torch.manual_seed(7)
        runs.append([take() for _ in range(4)])
    eager, replayed = runs
    for i in range(4):
        assert all(map(torch.equal, eager[i], replayed[i])), i
        for j in range(i):
            assert not any(map(torch.equal, replayed[i], replayed[j])), (i, j)


def kernels(run):
    """The names of the kernels that a call launches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    device = torch.autograd.DeviceType.CUDA
    return [event.name for event in profile.events() if event.device_type == device and "mem" not in event.name.lower()]


@pytest.mark.skipif(not hasattr(torch.Generator, "philox_state"), reason="SKIPPED: this PyTorch draws keys by a kernel")
@pytest.mark.parametrize("layer", [dt.DropActivation(0.5), dt.DropActivation(0.5, "gelu"), dt.RReLU()])
def test_a_pass_is_one_launch_and_its_key_is_what_randint_would_draw(layer):
    x = torch.randn(4096, device="cuda", requires_grad=True)
    y = layer(x)  # loads the kernels, and tries whether PyTorch draws such keys
    torch.autograd.grad(y.sum(), x)
    assert keys._AGREES == {x.device: True}
    assert len(kernels(lambda: layer(x.detach()))) == 1 and len(kernels(lambda: layer(x))) == 1
    y, dy = layer(x), torch.ones_like(x)
    assert len(kernels(lambda: torch.autograd.grad(y, x, dy))) == 1

    if isinstance(layer, dt.DropActivation):
        torch.manual_seed(11)
        torch.rand(3, device="cuda")  # the generator is somewhere
        with torch.random.fork_rng():
            first, second = layer(x), layer(x)
        for expected in (first, second):
            key = torch.randint(2**63 - 1, (1,), device="cuda")
            assert torch.equal(dt.drop_activation(x, layer.p, layer.activation, key=key), expected)


@pytest.mark.skipif(not hasattr(torch.Generator, "philox_state"), reason="SKIPPED: this PyTorch draws keys by a kernel")
@pytest.mark.parametrize("layer", [dt.DropActivation(0.5), dt.DropActivation(0.5, inplace=True), dt.RReLU()])
def test_in_a_graph_a_pass_draws_its_key_itself(layer):
    x = torch.randn(4096, device="cuda")
    layer(x.clone())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        layer(x)
    names = kernels(graph.replay)
    assert sum(name.startswith("da_") for name in names) == 1
    assert not any("distribution" in name for name in names), "those are PyTorch's that draw"


def test_a_graph_reads_a_key_on_the_gpu_and_keeps_one_on_the_cpu():
    x, keys = torch.randn(4096, device="cuda"), {name: torch.tensor([3], device=name) for name in ("cpu", "cuda")}
    dt.drop_activation(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ys = {name: dt.drop_activation(x, 0.5, key=key) for name, key in keys.items()}
    for key in keys.values():
        key.fill_(4)
    graph.replay()
    assert torch.equal(ys["cpu"], dt.drop_activation(x, 0.5, key=torch.tensor([3])))
    assert torch.equal(ys["cuda"], dt.drop_activation(x, 0.5, key=torch.tensor([4])))


def test_keys_that_are_drawn_at_once_cost_a_graph_one_kernel():
    x = -torch.ones(4096, device="cuda")
    dt.drop_activation(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keys = torch.randint(2**63 - 1, (4,), device="cuda")
        ys = [dt.drop_activation(x, 0.5, key=key) for key in keys]
    assert len(kernels(graph.replay)) == 5
    before = [y.clone() for y in ys]
    graph.replay()
    seen = [tuple((y == 0).nonzero().flatten().tolist()) for y in (*before, *ys)]
    assert len(set(seen)) == 8


@pytest.mark.skipif(not hasattr(torch.Generator, "philox_state"), reason="SKIPPED: this PyTorch draws keys by a kernel")
@pytest.mark.parametrize("plain", [dt.DropActivation(0.5), dt.RReLU()])
def test_compiled_a_pass_is_one_launch(plain):
    x = torch.randn(4096, device="cuda", requires_grad=True)
    layer = torch.compile(plain, fullgraph=True)
    torch.autograd.grad(layer(x).sum(), x)
    assert len(kernels(lambda: layer(x))) == 1
    results = []
    for run in (plain, layer):
        torch.manual_seed(3)
        y = run(x)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), x)))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("key", [-1, 0, 7, 2**63 - 1])
def test_a_key_on_the_gpu_is_the_key_on_the_cpu(key):
    x = torch.randn(1000, device="cuda")
    for function in (dt.drop_activation, dt.rrelu):
        gradients = []
        for device in ("cpu", "cuda"):
            leaf = x.clone().requires_grad_()
            y = function(leaf, 0.3, key=torch.tensor([key], device=device))
            gradients.append((y.detach(), *torch.autograd.grad(y.sum(), leaf)))
        assert all(map(torch.equal, *gradients))


def test_a_checkpoint_recomputes_the_same_mask():
    block = torch.nn.Sequential(torch.nn.Linear(64, 64), dt.DropActivation(0.5), torch.nn.Linear(64, 1)).cuda()
    x, gradients = torch.randn(32, 64, device="cuda"), []
    for run in (block, lambda x: torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)):
        torch.manual_seed(2)
        leaf = x.clone().requires_grad_()
        run(leaf).sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_compiled_for_little_overhead_each_call_has_a_mask():
    layer = torch.compile(dt.DropActivation(0.5), mode="reduce-overhead")
    x = -torch.ones(4096, device="cuda")
    ys = [layer(x).clone() for _ in range(6)]
    assert len({tuple((y == 0).nonzero().flatten().tolist()) for y in ys}) == 6


def test_masks_are_those_of_the_stream():
    x = -torch.ones(1000, device="cuda")
    y = dt.drop_activation(x, 0.5, key=torch.tensor([3]))
    words = da.keep_mask(1000, 0.5, 0, 3)
    keep = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little", count=1000)
    assert ((y == 0).cpu().numpy() == keep).all()
