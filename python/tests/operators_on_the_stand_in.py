"""The operators' kernels as on CUDA tensors, where there is no GPU: LibTorch says of some tensors that they are on one, and
the driver is the stand-in, which runs the emulated kernels, and whose memory is the host's. test_stand_in.py runs this
in a process of its own."""

import ctypes
import pathlib
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_uint32, c_void_p

import torch

from drop_activation import _library as library

STREAM = 0xABC
driver = ctypes.CDLL("libcuda.so.1")
driver.fake_log.restype = c_char_p
libtorch = ctypes.CDLL(str(pathlib.Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
CPU, CUDA = libtorch.aoti_torch_device_type_cpu(), libtorch.aoti_torch_device_type_cuda()

# LibTorch's functions, where they would know that there is no GPU.

on_gpu, kept = set(), []  # addresses, and tensors, so that no other tensor has one of these
libraries = {}
# These kernels are for CUDA alone; what PyTorch takes for a CPU's tensors is to find them.
FOR_CUDA = (b"_forward_at", b"_forward_at_", b"_rrelu_forward_at", b"_rrelu_forward_storing_key")


def address_of(handle):
    address = c_void_p()
    assert libtorch.aoti_torch_get_data_ptr(c_void_p(handle), byref(address)) == 0
    return address.value


def get_device_type(handle, result):
    result[0] = CUDA if address_of(handle) in on_gpu else CPU
    return 0


def get_device_index(handle, result):
    result[0] = 0 if address_of(handle) in on_gpu else -1
    return 0


def empty_strided(dim, sizes, strides, dtype, device, index, result):
    make = libtorch.aoti_torch_empty_strided
    status = make(c_int64(dim), c_void_p(sizes), c_void_p(strides), dtype, CPU, -1, c_void_p(result))
    if device == CUDA:
        assert index == 0
        made = ctypes.cast(result, POINTER(c_void_p))[0]
        on_gpu.add(address_of(made))
        status |= libtorch.aoti_torch_new_tensor_handle(c_void_p(made), byref(c_void_p()))  # which keeps it
    return status


def library_init_impl(namespace, device, file, line, result):
    status = libtorch.aoti_torch_library_init_impl(namespace, device, file, line, c_void_p(result))
    libraries[device] = ctypes.cast(result, POINTER(c_void_p))[0]
    return status


def library_impl(registered, name, kernel):
    status = libtorch.aoti_torch_library_impl(c_void_p(registered), name, c_void_p(kernel))
    if name in FOR_CUDA:
        status |= libtorch.aoti_torch_library_impl(c_void_p(libraries[b"CPU"]), name, c_void_p(kernel))
    return status


def get_current_cuda_stream(index, result):
    result[0] = STREAM
    return 0


of_tensor = ctypes.CFUNCTYPE(c_int32, c_void_p, POINTER(c_int32))
INSTEAD = {
    b"aoti_torch_get_device_type": of_tensor(get_device_type),
    b"aoti_torch_get_device_index": of_tensor(get_device_index),
    b"aoti_torch_empty_strided": ctypes.CFUNCTYPE(
        c_int32, c_int64, c_void_p, c_void_p, c_int32, c_int32, c_int32, c_void_p
    )(empty_strided),
    b"aoti_torch_library_init_impl": ctypes.CFUNCTYPE(c_int32, c_char_p, c_char_p, c_char_p, c_uint32, c_void_p)(
        library_init_impl
    ),
    b"aoti_torch_library_impl": ctypes.CFUNCTYPE(c_int32, c_void_p, c_char_p, c_void_p)(library_impl),
    b"aoti_torch_get_current_cuda_stream": ctypes.CFUNCTYPE(c_int32, c_int32, POINTER(c_void_p))(
        get_current_cuda_stream
    ),
}
register = library.torch_register
library.torch_register = lambda find: register(
    lambda name: ctypes.cast(INSTEAD[name], c_void_p).value if name in INSTEAD else find(name)
)

from test_torch_keys import philox, signed

from drop_activation.torch import _keys as keys
from drop_activation.torch import _operators as operators


def gpu(tensor):
    on_gpu.add(tensor.data_ptr())
    kept.append(tensor)
    return tensor


def launched():
    lines = [line for line in driver.fake_log().decode().splitlines() if line.startswith("launch ")]
    assert all(line.endswith(f" on {STREAM:#x}") for line in lines), lines
    return [line.split()[1].removeprefix("da_") for line in lines]


def expect_error(words, call):
    try:
        call()
    except RuntimeError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")


SEED, BASE = 2**64 - 6, 2**63 + 2**35
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}


def the_key_is_drawn_in_the_pass():
    """One launch, and the numbers of the CPU with the key that randint would draw at that place."""
    seed, offset = (gpu(torch.tensor([signed(number)])) for number in (SEED, BASE))
    for moved in (0, 4, 2**34):
        place = seed, offset, torch.tensor([moved])
        drawn = philox(SEED, BASE + moved)
        key = torch.tensor([drawn])
        for name, dtype in TYPES.items():
            x = torch.randn(3, 1001, dtype=dtype)
            expected = operators.forward(x, key, 0.7, 0, 32, 0)
            smooth = operators.forward(x, key, 0.7, 1, 0, 0)
            rrelu = operators.rrelu_forward(x, key, 0.125, 0.5, 64, 0)
            back = operators.rrelu_backward(x, rrelu[1], key, 0.125, 0.5, 64, 0)
            gpu(x), launched()
            assert all(map(torch.equal, operators.forward_at(x, *place, 0.7, 0, 32, 0), expected))
            assert torch.equal(operators.forward_at(x, *place, 0.7, 1, 0, 0)[1], smooth[1])
            *given, stored = operators.rrelu_forward_at(x, *place, 0.125, 0.5, 64, 0)
            assert all(map(torch.equal, given, rrelu)) and stored.item() == drawn and stored.data_ptr() in on_gpu
            assert torch.equal(operators.rrelu_backward(x, gpu(given[1]), stored, 0.125, 0.5, 64, 0), back)
            y, mask = gpu(x.clone()), gpu(torch.empty_like(expected[1]))
            operators.forward_at_(y, mask, *place, 0.7, 32, 0)
            assert torch.equal(y, expected[0]) and torch.equal(mask, expected[1])
            smooth_name = f"train_forward_{library.activation_names()[1]}_{name}"
            relu, slopes = f"train_forward_relu_{name}", f"rrelu_train_forward_{name}"
            assert launched() == [relu, smooth_name, slopes, f"rrelu_train_backward_{name}", relu]


def what_is_no_place_is_refused():
    x, number = gpu(torch.ones(8)), lambda: gpu(torch.tensor([1]))
    on_cpu, good = torch.tensor([1]), torch.tensor([0])
    launched()
    for words, place in (
        ("seed must be one torch.int64 on cuda:0, got dtype torch.int64, shape (1,)", (on_cpu, number(), good)),
        ("offset must be one torch.int64 on cuda:0", (number(), gpu(torch.tensor([1.0])), good)),
        ("offset must be one torch.int64 on cuda:0", (number(), gpu(torch.tensor([1, 2])), good)),
        ("moved must be one torch.int64 on the CPU", (number(), number(), number())),
    ):
        expect_error(words, lambda: operators.forward_at(x, *place, 0.5, 0, 0, 0))
        expect_error(words, lambda: operators.rrelu_forward_at(x, *place, 0.125, 0.5, 0, 0))
        mask = gpu(torch.zeros(1, dtype=torch.int32))
        expect_error(words, lambda: operators.forward_at_(x, mask, *place, 0.5, 0, 0))
    assert torch.equal(x, torch.ones(8)) and launched() == []


class Generator:
    """A GPU's, while a graph is captured: the graph counts from numbers on the GPU."""

    def __init__(self):
        self.seed, self.offset, self.moved = gpu(torch.tensor([0])), gpu(torch.tensor([0])), 0

    def philox_state(self, increment):
        moved, self.moved = self.moved, self.moved + increment
        return self.seed, self.offset, torch.tensor([moved])


def a_captured_pass_is_one_launch_and_draws_anew_in_each_replay():
    generator = Generator()
    torch.cuda.is_current_stream_capturing = lambda: True
    torch.cuda.default_generators = {None: generator}
    torch.randint = None  # would be a kernel of its own
    keys._AGREES[torch.device("cpu")] = True
    x = torch.randn(2048)
    over = gpu(x.clone())
    mask = gpu(torch.empty(64, dtype=torch.int32))
    gpu(x), launched()
    assert driver.cuStreamBeginCapture_v2(c_void_p(STREAM), 0) == 0
    y, _ = keys._draw_forward_on_cuda(x, 0.7, 0, 0, 0)
    keys.draw_forward_(over, mask, 0.7, 0, 0)
    slopes, signs, key = keys._draw_rrelu_forward_on_cuda(x, 0.125, 0.5, 0, 0)
    dx = operators.rrelu_backward(x, gpu(signs), key, 0.125, 0.5, 0, 0)
    graph, runnable = c_void_p(), c_void_p()
    assert driver.cuStreamEndCapture(c_void_p(STREAM), byref(graph)) == 0
    assert driver.cuGraphInstantiateWithFlags(byref(runnable), graph, ctypes.c_ulonglong(0)) == 0
    relu, of_slopes = "train_forward_relu_f32", ("rrelu_train_forward_f32", "rrelu_train_backward_f32")
    assert launched() == [relu, relu, *of_slopes] and generator.moved == 12
    on_gpu.discard(x.data_ptr())
    seen = set()
    for seed, offset in ((7, 0), (7, 12), (SEED, BASE)):  # what PyTorch writes there before each replay
        generator.seed[0], generator.offset[0] = signed(seed), signed(offset)
        over.copy_(x)
        assert driver.cuGraphLaunch(runnable, c_void_p(STREAM)) == 0
        drawn = [torch.tensor([philox(seed, offset + 4 * call)]) for call in range(3)]
        assert torch.equal(y, operators.forward(x, drawn[0], 0.7, 0, 0, 0)[0])
        assert torch.equal(over, operators.forward(x, drawn[1], 0.7, 0, 0, 0)[0])
        of_step, of_sign = operators.rrelu_forward(x, drawn[2], 0.125, 0.5, 0, 0)
        assert torch.equal(slopes, of_step)
        assert torch.equal(dx, operators.rrelu_backward(x, of_sign, drawn[2], 0.125, 0.5, 0, 0))
        seen.add(tuple(y.tolist()))
    assert len(seen) == 3 and launched() == []
    driver.cuGraphExecDestroy(runnable), driver.cuGraphDestroy(graph)


torch.manual_seed(1)
the_key_is_drawn_in_the_pass()
what_is_no_place_is_refused()
a_captured_pass_is_one_launch_and_draws_anew_in_each_replay()
print("as on the CPU")
