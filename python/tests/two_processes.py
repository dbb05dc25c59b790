"""What each of two processes does for test_torch_processes.py: two_processes.py RANK FILE CASE."""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import drop_activation.torch as dt

KEY = torch.tensor([11])


def whole(function, x):
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    y.square().sum().backward()
    return y.detach(), leaf.grad


def dtensors(rank):
    """Every placement has the whole tensor's results, forward and backward."""
    mesh = init_device_mesh("cpu", (2,))
    functions = {
        "relu": lambda x: dt.drop_activation(x, 0.5, key=KEY),
        "relu over x": lambda x: dt.drop_activation(x * 1, 0.5, key=KEY, inplace=True),
        "gelu": lambda x: dt.drop_activation(x, 0.5, "gelu", key=KEY),
        "rrelu": lambda x: dt.rrelu(x, key=KEY),
        "evaluation": lambda x: dt.drop_activation(x, 0.5, training=False),
        "evaluation over x": lambda x: dt.drop_activation(x * 1, 0.5, training=False, inplace=True),
        "evaluation of gelu": lambda x: dt.drop_activation(x, 0.5, "gelu", training=False),
        "evaluation of rrelu": lambda x: dt.rrelu(x, training=False),
        "relu itself": lambda x: dt.drop_activation(x, 1.0),
    }
    shapes = [(8, 12), (6, 32, 2), (7, 5), (4, 3, 8, 2)]
    for shape in shapes:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        for placement in (Shard(0), Shard(1), Shard(len(shape) - 1), Replicate()):
            for name, function in functions.items():
                expected, expected_gradient = whole(function, x)
                leaf = distribute_tensor(x, mesh, [placement]).requires_grad_()
                y = function(leaf)
                assert y.placements == (placement,) and y.shape == x.shape
                y.square().sum().backward()
                torch.testing.assert_close(y.full_tensor(), expected, msg=f"{name} {shape} {placement}")
                torch.testing.assert_close(leaf.grad.full_tensor(), expected_gradient)
    # A sum that is still to be made is made first: what follows is not linear.
    half = torch.full((8, 8), -1.0 if rank else 0.5)
    y = dt.drop_activation(DTensor.from_local(half, mesh, [Partial()]), 1 - 2**-32, key=KEY)
    assert torch.equal(y.full_tensor(), torch.zeros(8, 8))
    # A key that is drawn is the same on all processes, though their seeds are not.
    torch.manual_seed(rank)
    y = dt.DropActivation(0.5)(distribute_tensor(-torch.ones(64, 64), mesh, [Replicate()])).to_local()
    others = [torch.empty_like(y) for _ in range(2)]
    dist.all_gather(others, y)
    assert torch.equal(*others) and 0 < (y == 0).sum() < y.numel()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.at = nn.Linear(16, 64), nn.Linear(64, 4), 0

    def forward(self, x):
        return self.second(dt.drop_activation(self.first(x), 0.5, key=KEY, first=self.at))


def step(wrap, rank):
    """One step on two halves of a batch is that of one process on the whole of it."""
    x, labels = torch.randn(8, 16, generator=torch.Generator().manual_seed(5)), torch.arange(8) % 4

    def stepped(model, x, labels):
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
        nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
        return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]

    torch.manual_seed(7)
    model = Net()
    torch.manual_seed(7)
    expected = stepped(Net(), x, labels)
    model.at = 4 * 64 * rank
    mine = slice(4 * rank, 4 * rank + 4)
    for got, one in zip(stepped(wrap(model), x[mine], labels[mine]), expected, strict=True):
        torch.testing.assert_close(got, one)


def ddp(rank):
    step(nn.parallel.DistributedDataParallel, rank)


def fsdp2(rank):
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))

    def wrap(model):
        fully_shard(model.first, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    step(wrap, rank)


def swapped_ddp(rank):
    """A model whose ReLUs were swapped, which stays swapped below DDP and compiled gradients' hooks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(inplace=True), nn.Linear(64, 4))
    dt.replace_relu(model, 0.0)
    model = nn.parallel.DistributedDataParallel(model)
    x = torch.randn(4, 16)
    assert torch.equal(model(x), model.module[2](model.module[0](x)))
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


if __name__ == "__main__":
    rank, file, case = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    for run in {"dtensors": [dtensors], "steps": [ddp, fsdp2, swapped_ddp]}[case]:
        run(rank)
    dist.barrier()  # nobody leaves while another still listens
    dist.destroy_process_group()
    # All is shown by now. Once in some forty runs PyTorch 2.15 aborts after this, without a frame of Python's: a thread of
    # its own that is still joinable when C++'s static objects are destroyed.
    sys.stderr.flush()
    os._exit(0)
