//! PyTorch's operators: kernels that the Python package registers with the PyTorch that it finds.
//!
//! They use the C functions that LibTorch keeps stable for extensions (`torch/csrc/stable/c/shim.h` and
//! `torch/csrc/inductor/aoti_torch/c/shim.h`), which Python looks up for us. Nothing of PyTorch is needed to build
//! this, and one build serves every version that has these functions. Schemas, derivatives and what a tensor without
//! numbers gives are Python's part.

mod batch_norm;
mod bias;
mod channels;
mod threads;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{ptr, slice};

use drop_activation::cpu::as_part_of;
use drop_activation::reference::drawn_offset;

use crate::cuda::{KeyAt, run_with_key_at};
use crate::error::{Failure, guarded, taken};
use crate::large_pages::ask_for_large_pages;
use crate::opened::kernels;
use crate::*;

/// How a call of LibTorch's ended: 0 if all went well.
type Status = i32;
type Handle = *mut c_void;
type Library = *mut c_void;
/// A kernel: arguments are in `stack`, one in each word, and belong to it; results go there.
type Kernel = unsafe extern "C-unwind" fn(stack: *mut u64, inputs: u64, outputs: u64);
type Part = unsafe extern "C" fn(begin: i64, end: i64, context: *mut c_void);

/// The functions of LibTorch that are used, by their names.
macro_rules! functions {
    (required { $($name:ident: $kind:ty,)* } optional { $($maybe:ident: $maybe_kind:ty,)* }) => {
        struct Functions {
            $($name: $kind,)*
            $($maybe: Option<$maybe_kind>,)*
        }

        impl Functions {
            /// # Safety
            /// `find` returns null or the address of LibTorch's function of that name.
            unsafe fn find(find: impl Fn(&CStr) -> *mut c_void) -> Result<Self, Failure> {
                $(
                    let address = find(to_c(concat!(stringify!($name), "\0")));
                    if address.is_null() {
                        return Err(Failure::unsupported(format!(
                            "PyTorch must be a version that has {}, got one without it",
                            stringify!($name)
                        )));
                    }
                    // SAFETY: not null, and so the function of this name, whose type LibTorch's headers state.
                    let $name = unsafe { std::mem::transmute::<*mut c_void, $kind>(address) };
                )*
                $(
                    let address = find(to_c(concat!(stringify!($maybe), "\0")));
                    // SAFETY: as above; null is None.
                    let $maybe = unsafe { std::mem::transmute::<*mut c_void, Option<$maybe_kind>>(address) };
                )*
                Ok(Self { $($name,)* $($maybe,)* })
            }
        }
    };
}

/// high, sizes and their number, type, layout, kind and index of the device, pinning, and the result.
type Randint = unsafe extern "C" fn(
    i64,
    *const i64,
    i64,
    *const i32,
    *const i32,
    *const i32,
    i32,
    *const i32,
    *mut Handle,
) -> Status;
type Code = unsafe extern "C" fn() -> i32;

functions! {
    required {
        aoti_torch_library_init_impl:
            unsafe extern "C" fn(*const c_char, *const c_char, *const c_char, u32, *mut Library) -> Status,
        aoti_torch_library_impl: unsafe extern "C" fn(Library, *const c_char, Kernel) -> Status,
        aoti_torch_check: unsafe extern "C-unwind" fn(bool, *const c_char, *const c_char, u32, *const c_char),
        aoti_torch_delete_tensor_object: unsafe extern "C" fn(Handle) -> Status,
        aoti_torch_get_data_ptr: unsafe extern "C" fn(Handle, *mut *mut c_void) -> Status,
        aoti_torch_get_dim: unsafe extern "C" fn(Handle, *mut i64) -> Status,
        aoti_torch_get_sizes: unsafe extern "C" fn(Handle, *mut *mut i64) -> Status,
        aoti_torch_get_strides: unsafe extern "C" fn(Handle, *mut *mut i64) -> Status,
        aoti_torch_get_dtype: unsafe extern "C" fn(Handle, *mut i32) -> Status,
        aoti_torch_get_device_type: unsafe extern "C" fn(Handle, *mut i32) -> Status,
        aoti_torch_get_device_index: unsafe extern "C" fn(Handle, *mut i32) -> Status,
        aoti_torch_empty_strided:
            unsafe extern "C" fn(i64, *const i64, *const i64, i32, i32, i32, *mut Handle) -> Status,
        aoti_torch_cpu_randint: Randint,
        aoti_torch_copy_: unsafe extern "C" fn(Handle, Handle, i32) -> Status,
        torch_parallel_for: unsafe extern "C" fn(i64, i64, i64, Part, *mut c_void) -> Status,
        torch_get_num_threads: unsafe extern "C" fn(*mut u32) -> Status,
        aoti_torch_device_type_cpu: Code,
        aoti_torch_device_type_cuda: Code,
        aoti_torch_dtype_float32: Code,
        aoti_torch_dtype_float16: Code,
        aoti_torch_dtype_bfloat16: Code,
        aoti_torch_dtype_float64: Code,
        aoti_torch_dtype_int8: Code,
        aoti_torch_dtype_int16: Code,
        aoti_torch_dtype_int32: Code,
        aoti_torch_dtype_int64: Code,
        aoti_torch_dtype_uint8: Code,
        aoti_torch_dtype_bool: Code,
        aoti_torch_dtype_complex64: Code,
        aoti_torch_dtype_complex128: Code,
    }
    optional {
        aoti_torch_cpu_randint_low_out: unsafe extern "C" fn(Handle, i64, i64, *const i64, i64) -> Status,
        // In a PyTorch that is built for CUDA.
        aoti_torch_get_current_cuda_stream: unsafe extern "C" fn(i32, *mut *mut c_void) -> Status,
    }
}

/// What was found, and PyTorch's numbers for types and devices.
struct Torch {
    functions: Functions,
    cpu: i32,
    cuda: i32,
    int32: i32,
    int64: i32,
    /// PyTorch's number, its name, and ours for the types that passes take.
    dtypes: [(i32, &'static str, u32); 12],
}

static TORCH: OnceLock<Torch> = OnceLock::new();
static REGISTERED: AtomicBool = AtomicBool::new(false);

fn to_c(text: &str) -> &CStr {
    CStr::from_bytes_with_nul(text.as_bytes()).unwrap_or_default()
}

/// Registers the kernels of the operators `drop_activation::...`, which are defined already, for CPU and CUDA tensors.
/// `find` returns the address of LibTorch's function of a name, or NULL. Does nothing a second time.
///
/// # Safety
/// `find` is NULL or such a function, and LibTorch stays loaded. `error` is NULL or the address of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_torch_register(
    find: Option<unsafe extern "C" fn(*const c_char) -> *mut c_void>,
    error: *mut *mut dact_error,
) -> dact_status {
    let register = || {
        let find = find.ok_or_else(|| Failure::invalid("find must be a function, got NULL".into()))?;
        if REGISTERED.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // SAFETY: `find` is as `Functions::find` asks, by this function's contract.
        let functions = unsafe { Functions::find(|name| find(name.as_ptr())) }
            .inspect_err(|_| REGISTERED.store(false, Ordering::SeqCst))?;
        let f = &functions;
        // SAFETY: these functions take nothing and give a number.
        let torch = unsafe {
            let named = [
                ((f.aoti_torch_dtype_float32)(), "float32", DACT_DTYPE_F32),
                ((f.aoti_torch_dtype_float16)(), "float16", DACT_DTYPE_F16),
                ((f.aoti_torch_dtype_bfloat16)(), "bfloat16", DACT_DTYPE_BF16),
                ((f.aoti_torch_dtype_float64)(), "float64", DACT_DTYPE_F64),
                ((f.aoti_torch_dtype_int8)(), "int8", 0),
                ((f.aoti_torch_dtype_int16)(), "int16", 0),
                ((f.aoti_torch_dtype_int32)(), "int32", 0),
                ((f.aoti_torch_dtype_int64)(), "int64", 0),
                ((f.aoti_torch_dtype_uint8)(), "uint8", 0),
                ((f.aoti_torch_dtype_bool)(), "bool", 0),
                ((f.aoti_torch_dtype_complex64)(), "complex64", 0),
                ((f.aoti_torch_dtype_complex128)(), "complex128", 0),
            ];
            Torch {
                cpu: (f.aoti_torch_device_type_cpu)(),
                cuda: (f.aoti_torch_device_type_cuda)(),
                int32: (f.aoti_torch_dtype_int32)(),
                int64: (f.aoti_torch_dtype_int64)(),
                dtypes: named,
                functions,
            }
        };
        TORCH.get_or_init(|| torch).register()
    };
    // SAFETY: `error` is as `guarded` asks, by this function's contract.
    unsafe { guarded(error, register) }
}

impl Torch {
    fn register(&self) -> Result<(), Failure> {
        let kernels: [(&CStr, Kernel); 7] = [
            (c"philox_key", philox_key),
            (c"forward", forward),
            (c"forward_", forward_in_place),
            (c"backward", backward),
            (c"backward_saved", backward_saved),
            (c"rrelu_forward", rrelu_forward),
            (c"rrelu_backward", rrelu_backward),
        ];
        let done = |status: Status, what: &str| match status {
            0 => Ok(()),
            _ => Err(Failure::unsupported(format!("PyTorch refuses to register {what}"))),
        };
        for device in [c"CPU", c"CUDA"] {
            let mut library = ptr::null_mut();
            let f = &self.functions;
            // SAFETY: texts that are closed by a zero byte, and the address of a pointer. The library is never freed:
            // that would take the kernels away.
            let status = unsafe {
                let file = c"drop_activation".as_ptr();
                (f.aoti_torch_library_init_impl)(c"drop_activation".as_ptr(), device.as_ptr(), file, 0, &mut library)
            };
            done(status, "a library")?;
            for (name, kernel) in kernels {
                // SAFETY: the library is alive, the text is closed by a zero byte, and the kernel is one for the schema
                // of that name.
                done(unsafe { (f.aoti_torch_library_impl)(library, name.as_ptr(), kernel) }, "a kernel")?;
            }
            let of_device: &[(&CStr, Kernel)] = match device == c"CPU" {
                true => &[
                    (c"draw_forward", draw_forward),
                    (c"draw_rrelu_forward", draw_rrelu_forward),
                    (c"_draw", draw),
                    (c"_draw_without_mask", draw_without_mask),
                    (c"_backward", backward),
                    (c"_batch_norm", batch_norm::forward),
                    (c"_batch_norm_backward", batch_norm::backward),
                    (c"_bias", bias::forward),
                    (c"_bias_backward", bias::backward),
                ],
                // Here it is Python that knows the generator.
                false => &[
                    (c"_rrelu_forward_storing_key", rrelu_forward_storing_key),
                    (c"_forward_at", forward_at),
                    (c"_forward_at_", forward_at_in_place),
                    (c"_rrelu_forward_at", rrelu_forward_at),
                ],
            };
            for (name, kernel) in of_device {
                // SAFETY: as above.
                done(unsafe { (f.aoti_torch_library_impl)(library, name.as_ptr(), *kernel) }, "a kernel")?;
            }
        }
        Ok(())
    }

    fn dtype_name(&self, code: i32) -> String {
        let known = self.dtypes.iter().find(|(number, ..)| *number == code);
        known.map_or_else(|| format!("number {code}"), |(_, name, _)| format!("torch.{name}"))
    }

    fn device_name(&self, (kind, index): (i32, i32)) -> String {
        match kind {
            kind if kind == self.cpu => "cpu".into(),
            kind if kind == self.cuda => format!("cuda:{index}"),
            kind => format!("a device of kind {kind}"),
        }
    }
}

/// What a kernel fails with: a text for the caller. PyTorch's exceptions have no other kinds that C can make.
type Outcome<T> = Result<T, String>;

fn ok(status: Status, what: &str) -> Outcome<()> {
    if status == 0 { Ok(()) } else { Err(format!("PyTorch's {what} failed")) }
}

/// A tensor that is ours to free.
struct Tensor {
    torch: &'static Torch,
    handle: Handle,
    sizes: &'static [i64],
    strides: &'static [i64],
    dtype: i32,
    device: (i32, i32),
    len: usize,
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and given back once.
        unsafe { (self.torch.functions.aoti_torch_delete_tensor_object)(self.handle) };
    }
}

impl Tensor {
    /// # Safety
    /// `handle` is a tensor's, which is given away.
    unsafe fn take(torch: &'static Torch, handle: u64) -> Outcome<Self> {
        let handle = handle as usize as Handle;
        let mut tensor = Self { torch, handle, sizes: &[], strides: &[], dtype: 0, device: (0, 0), len: 0 };
        let f = &torch.functions;
        let (mut dim, mut sizes, mut strides) = (0, ptr::null_mut(), ptr::null_mut());
        // SAFETY: the handle is a tensor's, and what is written to are numbers and pointers of those types. Sizes and
        // strides are the tensor's own, which nobody changes while we hold it; they are used no longer than it lives.
        unsafe {
            ok((f.aoti_torch_get_dim)(handle, &mut dim), "dim")?;
            ok((f.aoti_torch_get_sizes)(handle, &mut sizes), "sizes")?;
            ok((f.aoti_torch_get_strides)(handle, &mut strides), "strides")?;
            ok((f.aoti_torch_get_dtype)(handle, &mut tensor.dtype), "dtype")?;
            ok((f.aoti_torch_get_device_type)(handle, &mut tensor.device.0), "device type")?;
            ok((f.aoti_torch_get_device_index)(handle, &mut tensor.device.1), "device index")?;
            if dim > 0 {
                tensor.sizes = slice::from_raw_parts(sizes, dim as usize);
                tensor.strides = slice::from_raw_parts(strides, dim as usize);
            }
        }
        tensor.len = tensor.sizes.iter().product::<i64>() as usize;
        Ok(tensor)
    }

    fn empty(torch: &'static Torch, sizes: &[i64], strides: &[i64], dtype: i32, device: (i32, i32)) -> Outcome<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: as many sizes and strides as are said, and the address of a pointer, which is then a tensor's handle
        // that is ours.
        unsafe {
            let (dim, sizes, strides) = (sizes.len() as i64, sizes.as_ptr(), strides.as_ptr());
            let make = torch.functions.aoti_torch_empty_strided;
            ok(make(dim, sizes, strides, dtype, device.0, device.1, &mut handle), "empty_strided")?;
            Self::take(torch, handle as usize as u64)
        }
    }

    /// The same for what is as large as a tensor that a pass is given.
    fn empty_large(&self, strides: &[i64]) -> Outcome<Self> {
        let empty = Self::empty(self.torch, self.sizes, strides, self.dtype, self.device)?;
        if empty.device.0 == empty.torch.cpu {
            ask_for_large_pages(empty.address()?, empty.len * bytes(empty.element("a tensor")?));
        }
        Ok(empty)
    }

    fn empty_mask(&self) -> Outcome<Self> {
        let words = dact_mask_words(self.len) as i64;
        Self::empty(self.torch, &[words], &[1], self.torch.int32, self.device)
    }

    /// The number of a key, drawn by PyTorch's generator for the CPU.
    fn draw_offset(torch: &'static Torch) -> Outcome<u64> {
        thread_local! {
            /// Where PyTorch writes what it draws: one integer, which is never freed.
            static DRAWN: Cell<Option<(Handle, *mut u64)>> = const { Cell::new(None) };
        }
        let Some(randint_out) = torch.functions.aoti_torch_cpu_randint_low_out else {
            return Self::draw_key(torch)?.integer("key");
        };
        let (handle, address) = match DRAWN.get() {
            Some(drawn) => drawn,
            None => {
                let key = Self::empty(torch, &[1], &[1], torch.int64, (torch.cpu, -1))?;
                let drawn = (key.handle, key.address()?.cast());
                std::mem::forget(key);
                DRAWN.set(Some(drawn));
                drawn
            }
        };
        // SAFETY: a handle that is ours, and one size.
        ok(unsafe { randint_out(handle, 0, i64::MAX, [1].as_ptr(), 1) }, "randint")?;
        // SAFETY: the address of one integer of 64 bits, which PyTorch has written.
        Ok(unsafe { address.read() })
    }

    /// A key, drawn by PyTorch's generator for the CPU.
    fn draw_key(torch: &'static Torch) -> Outcome<Self> {
        let randint = torch.functions.aoti_torch_cpu_randint;
        let (none, mut handle) = (ptr::null(), ptr::null_mut());
        // SAFETY: one size, the addresses of a type and of a kind of device, and that of a pointer, which is then a
        // tensor's handle that is ours.
        unsafe {
            let status = randint(i64::MAX, [1].as_ptr(), 1, &torch.int64, none, &torch.cpu, -1, none, &mut handle);
            ok(status, "randint")?;
            Self::take(torch, handle as usize as u64)
        }
    }

    fn address(&self) -> Outcome<*mut c_void> {
        let mut address = ptr::null_mut();
        // SAFETY: the handle is a tensor's, and the result goes to a pointer.
        ok(unsafe { (self.torch.functions.aoti_torch_get_data_ptr)(self.handle, &mut address) }, "data_ptr")?;
        Ok(address)
    }

    fn is_dense(&self, strides: &[i64]) -> bool {
        let holds = |((size, stride), expected): ((&i64, &i64), &i64)| *size == 1 || stride == expected;
        self.len == 0 || self.sizes.iter().zip(self.strides).zip(strides).all(holds)
    }

    /// This tensor if it lies in this order, else a copy that does.
    fn dense(self, strides: &[i64]) -> Outcome<Self> {
        if self.is_dense(strides) {
            return Ok(self);
        }
        let copy = self.empty_large(strides)?;
        // SAFETY: two tensors' handles.
        ok(unsafe { (self.torch.functions.aoti_torch_copy_)(copy.handle, self.handle, 0) }, "copy_")?;
        Ok(copy)
    }

    fn empty_like(&self, strides: &[i64]) -> Outcome<Self> {
        self.empty_large(strides)
    }

    /// Our number for the type of its elements.
    fn element(&self, name: &str) -> Outcome<u32> {
        let known = self.torch.dtypes.iter().find(|(code, _, ours)| *code == self.dtype && *ours != 0);
        known.map(|(.., ours)| *ours).ok_or_else(|| {
            let given = self.torch.dtype_name(self.dtype);
            format!("{name} must have dtype torch.float32, torch.float16, torch.bfloat16 or torch.float64, got {given}")
        })
    }

    fn describe(&self) -> String {
        let (dtype, device) = (self.torch.dtype_name(self.dtype), self.torch.device_name(self.device));
        format!("dtype {dtype}, shape {}, device {device}", tuple(self.sizes))
    }

    /// The strides of a dense tensor of this shape whose elements are in this order.
    fn strides_of(&self, name: &str, layout: i64) -> Outcome<Strides> {
        let dim = self.sizes.len();
        if !(0..=2).contains(&layout) || layout != 0 && dim as i64 != 3 + layout {
            return Err(format!(
                "layout must be 0, 1 for 4 dimensions (channels last) or 2 for 5, got {layout} for {dim} dimensions \
                 of {name}"
            ));
        }
        let mut strides = Strides::new(dim);
        let mut next = 1;
        let mut lay = |i: usize| {
            strides.of_mut()[i] = next;
            next *= self.sizes[i].max(1);
        };
        if layout != 0 {
            lay(1);
        }
        (0..dim).rev().filter(|i| layout == 0 || *i != 1).for_each(&mut lay);
        Ok(strides)
    }

    fn check_mask(&self, x: &Self, name: &str) -> Outcome<()> {
        let words = dact_mask_words(x.len) as i64;
        let right = self.dtype == self.torch.int32
            && self.sizes == [words]
            && (words <= 1 || self.strides == [1])
            && self.device == x.device;
        if right {
            return Ok(());
        }
        let (given, device) = (self.describe(), self.torch.device_name(x.device));
        Err(format!(
            "mask must be torch.int32, shape {}, contiguous, on {device}, for the {} elements of {name}, got {given}",
            tuple(&[words]),
            x.len
        ))
    }

    /// The integer that it holds, in the memory of the CPU.
    fn integer(&self, name: &str) -> Outcome<u64> {
        if self.dtype != self.torch.int64 || self.len != 1 || self.device.0 != self.torch.cpu {
            return Err(format!("{name} must be one torch.int64 on the CPU, got {}", self.describe()));
        }
        // SAFETY: the address of one integer of 64 bits, as was checked.
        Ok(unsafe { self.address()?.cast::<u64>().read() })
    }

    /// The key whose offset is what this tensor holds. In the memory of a GPU it is read by the kernel.
    fn key(&self, x: &Self, first: u64) -> Outcome<dact_key> {
        let on_cpu = self.device.0 == self.torch.cpu;
        if self.dtype != self.torch.int64 || self.len != 1 || !(on_cpu || self.device == x.device) {
            let (dtype, device) = (self.torch.dtype_name(self.dtype), self.torch.device_name(self.device));
            return Err(format!(
                "key must be one torch.int64 on the CPU or on the device of the tensor, {}, got dtype {dtype}, {} \
                 elements, device {device}",
                self.torch.device_name(x.device),
                self.len
            ));
        }
        let address = self.address()?.cast::<u64>();
        if !on_cpu {
            return Ok(dact_key { seed: 0, offset: 0, first, device_offset: address });
        }
        // SAFETY: the address of one integer of 64 bits, as was checked.
        Ok(dact_key { seed: 0, offset: unsafe { address.read() }, first, device_offset: ptr::null() })
    }

    /// The address of the integer that it holds, in the memory of x's GPU.
    fn integer_beside(&self, name: &str, x: &Self) -> Outcome<*const u64> {
        if self.dtype != self.torch.int64 || self.len != 1 || self.device != x.device {
            let device = self.torch.device_name(x.device);
            return Err(format!("{name} must be one torch.int64 on {device}, got {}", self.describe()));
        }
        Ok(self.address()?.cast::<u64>().cast_const())
    }
}

/// Where a generator stands in a graph that is being captured: what `Generator.philox_state` returns.
struct Place {
    seed: Tensor,
    offset: Tensor,
    moved: Tensor,
}

impl Place {
    /// The key that the generator draws there, when the kernel runs.
    fn key(&self, x: &Tensor, first: u64) -> Outcome<(dact_key, KeyAt)> {
        let device_offset = self.offset.integer_beside("offset", x)?;
        let seed = self.seed.integer_beside("seed", x)?.addr() as u64;
        let key = dact_key { seed: 0, offset: self.moved.integer("moved")?, first, device_offset };
        Ok((key, KeyAt { seed, ..KeyAt::default() }))
    }
}

/// Strides of a tensor of few dimensions, as nearly all are, without an allocation.
enum Strides {
    Few([i64; 8], usize),
    Many(Vec<i64>),
}

impl Strides {
    fn new(dim: usize) -> Self {
        if dim <= 8 { Self::Few([0; 8], dim) } else { Self::Many(vec![0; dim]) }
    }

    fn of(&self) -> &[i64] {
        match self {
            Self::Few(strides, dim) => &strides[..*dim],
            Self::Many(strides) => strides,
        }
    }

    fn of_mut(&mut self) -> &mut [i64] {
        match self {
            Self::Few(strides, dim) => &mut strides[..*dim],
            Self::Many(strides) => strides,
        }
    }
}

/// As Python writes it.
fn tuple(numbers: &[i64]) -> String {
    let mut text = String::from("(");
    for (i, number) in numbers.iter().enumerate() {
        let _ = write!(text, "{}{number}", if i > 0 { ", " } else { "" });
    }
    text.push_str(if numbers.len() == 1 { ",)" } else { ")" });
    text
}

/// Runs a pass over tensors that lie in memory in the same order.
fn run(
    pass: &dact_pass,
    element: u32,
    input: &Tensor,
    output: &Tensor,
    saved: Option<&Tensor>,
    mask: Option<&Tensor>,
) -> Outcome<()> {
    run_with(pass, element, input, output, saved, mask, KeyAt::default())
}

/// On a GPU with a part of the key there.
fn run_with(
    pass: &dact_pass,
    element: u32,
    input: &Tensor,
    output: &Tensor,
    saved: Option<&Tensor>,
    mask: Option<&Tensor>,
    key_at: KeyAt,
) -> Outcome<()> {
    let tensors = dact_tensors {
        dtype: element,
        len: input.len,
        input: input.address()?,
        saved: saved.map_or(Ok(ptr::null_mut()), Tensor::address)?,
        output: output.address()?,
        mask: mask.map_or(Ok(ptr::null_mut()), Tensor::address)?.cast(),
        ..dact_tensors::INIT
    };
    let torch = input.torch;
    if input.device.0 == torch.cpu {
        run_on_cpu(torch, pass, &tensors)
    } else {
        run_on_cuda(torch, pass, &tensors, input, key_at)
    }
}

/// Elements of a part that one thread does by itself: no more than the library gives to one thread.
const PART: usize = 1 << 16;

fn run_on_cpu(torch: &Torch, pass: &dact_pass, tensors: &dact_tensors) -> Outcome<()> {
    let whole = tensors.len * bytes(tensors.dtype);
    let part = |begin: usize, end: usize| {
        let at = |address: *const c_void| -> *mut c_void {
            if address.is_null() {
                ptr::null_mut()
            } else {
                address.cast_mut().wrapping_byte_add(begin * bytes(tensors.dtype))
            }
        };
        let mut pass = *pass;
        pass.key.first = pass.key.first.wrapping_add(begin as u64);
        let tensors = dact_tensors {
            len: end - begin,
            input: at(tensors.input),
            saved: at(tensors.saved),
            output: at(tensors.output),
            mask: if tensors.mask.is_null() { tensors.mask } else { tensors.mask.wrapping_add(begin / 32) },
            ..*tensors
        };
        let mut error = ptr::null_mut();
        // SAFETY: the tensors hold what their lengths say, as was checked, and PyTorch keeps others from them.
        let status = as_part_of(whole, || unsafe { dact_cpu_run(&pass, &tensors, &mut error) });
        outcome(status, error)
    };
    let key_fits = pass.key.first.checked_add(tensors.len as u64).is_some();
    if tensors.len <= PART || !key_fits {
        return part(0, tensors.len);
    }

    /// What all threads share.
    struct Shared<F> {
        part: F,
        len: usize,
        failure: Mutex<Option<String>>,
    }
    unsafe extern "C" fn parts<F: Fn(usize, usize) -> Outcome<()>>(begin: i64, end: i64, context: *mut c_void) {
        // SAFETY: the address of what is given to `torch_parallel_for` below, which outlives that call.
        let shared = unsafe { &*context.cast::<Shared<F>>() };
        for i in begin as usize..end as usize {
            if let Err(text) = (shared.part)(i * PART, ((i + 1) * PART).min(shared.len)) {
                *shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            }
        }
    }
    fn parts_of<F: Fn(usize, usize) -> Outcome<()>>(_: &Shared<F>) -> Part {
        parts::<F>
    }
    let shared = Shared { part, len: tensors.len, failure: Mutex::new(None) };
    let count = tensors.len.div_ceil(PART) as i64;
    let context = (&raw const shared).cast_mut().cast::<c_void>();
    // SAFETY: `parts_of` is for what `context` is the address of; parts touch different memory.
    let status = unsafe { (torch.functions.torch_parallel_for)(0, count, 1, parts_of(&shared), context) };
    ok(status, "parallel_for")?;
    shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn bytes(element: u32) -> usize {
    match element {
        DACT_DTYPE_F64 => 8,
        DACT_DTYPE_F32 => 4,
        _ => 2,
    }
}

fn run_on_cuda(torch: &Torch, pass: &dact_pass, tensors: &dact_tensors, input: &Tensor, key_at: KeyAt) -> Outcome<()> {
    let index = input.device.1;
    let stream_of = torch.functions.aoti_torch_get_current_cuda_stream;
    let stream_of = stream_of.ok_or_else(|| "this PyTorch says nothing of CUDA's streams".to_string())?;
    let mut stream = ptr::null_mut();
    // SAFETY: the address of a pointer.
    ok(unsafe { stream_of(index, &mut stream) }, "current stream")?;
    let kernels = kernels(index).map_err(|failure| failure.message)?;
    let mut error = ptr::null_mut();
    // SAFETY: the kernels are never closed; the stream is one of the device, whose primary context PyTorch uses; the
    // tensors hold what their lengths say, and PyTorch's allocator keeps them until the stream is done with them, as it
    // does a key, and what is a part of one, which are tensors of their own.
    let status = unsafe { run_with_key_at(kernels.0, stream, pass, tensors, key_at, &mut error) };
    outcome(status, error)
}

fn outcome(status: dact_status, error: *mut dact_error) -> Outcome<()> {
    // SAFETY: the error is null or came with this status.
    unsafe { taken(status, error) }.map_err(|failure| failure.message)
}

/// The arguments of a call, from the first on.
struct Arguments {
    torch: &'static Torch,
    stack: *mut u64,
    next: usize,
}

impl Arguments {
    fn word(&mut self) -> u64 {
        // SAFETY: kernels take as many arguments as their schema has, and PyTorch puts those there.
        let word = unsafe { self.stack.add(self.next).read() };
        self.next += 1;
        word
    }

    fn tensor(&mut self) -> Outcome<Tensor> {
        let handle = self.word();
        // SAFETY: kernels take a tensor where their schema has one, and it is theirs.
        unsafe { Tensor::take(self.torch, handle) }
    }

    fn float(&mut self) -> f64 {
        f64::from_bits(self.word())
    }

    fn integer(&mut self) -> i64 {
        self.word() as i64
    }

    /// Gives results back, in the place of the arguments.
    fn give<const N: usize>(&self, results: [Tensor; N]) {
        for (i, result) in results.into_iter().enumerate() {
            // SAFETY: there is room for as many results as the schema has.
            unsafe { self.stack.add(i).write(result.handle as usize as u64) };
            std::mem::forget(result);
        }
    }
}

/// Does a kernel's work, and makes a failure an exception of PyTorch's.
///
/// # Safety
/// `stack` is that of a kernel's call, and `work` takes the arguments of its schema, tensors first.
unsafe fn call(stack: *mut u64, work: fn(&mut Arguments) -> Outcome<()>) {
    let Some(torch) = TORCH.get() else { return };
    let mut arguments = Arguments { torch, stack, next: 0 };
    // What is half-done when a call panics lives in `work` alone, or is its output.
    let result = catch_unwind(AssertUnwindSafe(|| work(&mut arguments)));
    let text = match result {
        Ok(Ok(())) => return,
        Ok(Err(text)) => text,
        Err(_) => "defect in drop_activation, please report it: a panic".into(),
    };
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: texts that are closed by a zero byte. It throws, through frames of "C-unwind" alone, which own nothing
    // but this text.
    unsafe {
        (torch.functions.aoti_torch_check)(false, c"drop_activation".as_ptr(), c"torch.rs".as_ptr(), 0, text.as_ptr())
    }
}

fn pass(kind: u32) -> dact_pass {
    dact_pass { kind, p: 0.5, lower: 0.125, upper: 0.25, ..dact_pass::INIT }
}

/// All tensors are taken before anything can fail, so that all are freed.
macro_rules! kernel {
    ($(#[$doc:meta])* $visible:vis $name:ident($arguments:ident; $($tensor:ident),*) $body:block) => {
        $(#[$doc])*
        $visible unsafe extern "C-unwind" fn $name(stack: *mut u64, _: u64, _: u64) {
            fn work($arguments: &mut Arguments) -> Outcome<()> {
                $(let $tensor = $arguments.tensor();)*
                $(let $tensor = $tensor?;)*
                $body
            }
            // SAFETY: PyTorch calls it with a stack of the schema's arguments, of which tensors are the first.
            unsafe { call(stack, work) }
        }
    };
}
use kernel;

kernel! {
    /// forward(Tensor x, Tensor key, float p, int activation, SymInt first, int layout) -> (Tensor, Tensor)
    forward(arguments; x, key) {
        let (p, activation) = (arguments.float(), arguments.integer());
        let (first, layout) = (arguments.integer() as u64, arguments.integer());
        forward_with(arguments, x, p, activation, layout, |x| Ok((key.key(x, first)?, KeyAt::default())))
    }
}

kernel! {
    /// draw_forward(Tensor x, float p, int activation, SymInt first, int layout) -> (Tensor, Tensor), on a CPU
    draw_forward(arguments; x) {
        let (p, activation) = (arguments.float(), arguments.integer());
        let (first, layout) = (arguments.integer() as u64, arguments.integer());
        forward_with(arguments, x, p, activation, layout, |x| drawn_key(x, first))
    }
}

kernel! {
    /// _draw(Tensor x, float p, int activation, int layout) -> (Tensor, Tensor), on a CPU
    draw(arguments; x) {
        let (p, activation, layout) = (arguments.float(), arguments.integer(), arguments.integer());
        forward_with(arguments, x, p, activation, layout, |x| drawn_key(x, 0))
    }
}

fn drawn_key(x: &Tensor, first: u64) -> Outcome<(dact_key, KeyAt)> {
    let offset = Tensor::draw_offset(x.torch)?;
    Ok((dact_key { seed: 0, offset, first, device_offset: ptr::null() }, KeyAt::default()))
}

fn forward_with(
    arguments: &Arguments,
    x: Tensor,
    p: f64,
    activation: i64,
    layout: i64,
    key: impl FnOnce(&Tensor) -> Outcome<(dact_key, KeyAt)>,
) -> Outcome<()> {
    let element = x.element("x")?;
    let strides = x.strides_of("x", layout)?;
    let activation = code(activation)?;
    let (key, key_at) = key(&x)?;
    let pass = dact_pass { p, activation, key, ..pass(DACT_PASS_FORWARD) };
    let x = x.dense(strides.of())?;
    let (y, mask) = (x.empty_like(strides.of())?, x.empty_mask()?);
    run_with(&pass, element, &x, &y, None, Some(&mask), key_at)?;
    arguments.give([y, mask]);
    Ok(())
}

kernel! {
    /// _forward_at(Tensor x, Tensor seed, Tensor offset, Tensor moved, float p, int activation, SymInt first,
    /// int layout) -> (Tensor, Tensor), on a GPU
    forward_at(arguments; x, seed, offset, moved) {
        let (p, activation) = (arguments.float(), arguments.integer());
        let (first, layout) = (arguments.integer() as u64, arguments.integer());
        let place = Place { seed, offset, moved };
        forward_with(arguments, x, p, activation, layout, |x| place.key(x, first))
    }
}

kernel! {
    /// _draw_without_mask(Tensor x, float p, int layout) -> Tensor, on a CPU
    draw_without_mask(arguments; x) {
        let (p, layout) = (arguments.float(), arguments.integer());
        let element = x.element("x")?;
        let strides = x.strides_of("x", layout)?;
        let pass = dact_pass { p, key: drawn_key(&x, 0)?.0, ..pass(DACT_PASS_FORWARD_WITHOUT_MASK) };
        let x = x.dense(strides.of())?;
        let y = x.empty_like(strides.of())?;
        run(&pass, element, &x, &y, None, None)?;
        arguments.give([y]);
        Ok(())
    }
}

kernel! {
    /// forward_(Tensor(a!) x, Tensor(b!) mask, Tensor key, float p, SymInt first, int layout) -> ()
    forward_in_place(arguments; x, mask, key) {
        forward_over(arguments, &x, &mask, |first| Ok((key.key(&x, first)?, KeyAt::default())))
    }
}

kernel! {
    /// _forward_at_(Tensor(a!) x, Tensor(b!) mask, Tensor seed, Tensor offset, Tensor moved, float p, SymInt first,
    /// int layout) -> (), on a GPU
    forward_at_in_place(arguments; x, mask, seed, offset, moved) {
        let place = Place { seed, offset, moved };
        forward_over(arguments, &x, &mask, |first| place.key(&x, first))
    }
}

fn forward_over(
    arguments: &mut Arguments,
    x: &Tensor,
    mask: &Tensor,
    key: impl FnOnce(u64) -> Outcome<(dact_key, KeyAt)>,
) -> Outcome<()> {
    let (p, first, layout) = (arguments.float(), arguments.integer() as u64, arguments.integer());
    let element = x.element("x")?;
    let strides = x.strides_of("x", layout)?;
    mask.check_mask(x, "x")?;
    if !x.is_dense(strides.of()) {
        return Err(format!(
            "x must be dense in layout {layout}, got shape {} and strides {}",
            tuple(x.sizes),
            tuple(x.strides)
        ));
    }
    let (key, key_at) = key(first)?;
    let pass = dact_pass { p, key, ..pass(DACT_PASS_FORWARD) };
    run_with(&pass, element, x, x, None, Some(mask), key_at)
}

kernel! {
    /// backward(Tensor dy, Tensor mask, int layout) -> Tensor
    backward(arguments; dy, mask) {
        let layout = arguments.integer();
        let element = dy.element("dy")?;
        let strides = dy.strides_of("dy", layout)?;
        mask.check_mask(&dy, "dy")?;
        let dy = dy.dense(strides.of())?;
        let dx = dy.empty_like(strides.of())?;
        run(&pass(DACT_PASS_BACKWARD), element, &dy, &dx, None, Some(&mask))?;
        arguments.give([dx]);
        Ok(())
    }
}

kernel! {
    /// backward_saved(Tensor dy, Tensor mask, Tensor x, int activation, int layout) -> Tensor
    backward_saved(arguments; dy, mask, x) {
        let (activation, layout) = (arguments.integer(), arguments.integer());
        let element = dy.element("dy")?;
        let strides = dy.strides_of("dy", layout)?;
        mask.check_mask(&dy, "dy")?;
        if (x.dtype, x.sizes, x.device) != (dy.dtype, dy.sizes, dy.device) {
            return Err(format!("x must be like dy, {}, got {}", dy.describe(), x.describe()));
        }
        let pass = dact_pass { activation: code(activation)?, ..pass(DACT_PASS_BACKWARD) };
        let (dy, x) = (dy.dense(strides.of())?, x.dense(strides.of())?);
        let dx = dy.empty_like(strides.of())?;
        run(&pass, element, &dy, &dx, Some(&x), Some(&mask))?;
        arguments.give([dx]);
        Ok(())
    }
}

kernel! {
    /// rrelu_forward(Tensor x, Tensor key, float lower, float upper, SymInt first, int layout) -> (Tensor, Tensor)
    rrelu_forward(arguments; x, key) {
        let (y, mask) = rrelu_forward_with(arguments, x, |x, first| Ok((key.key(x, first)?, KeyAt::default())))?;
        arguments.give([y, mask]);
        Ok(())
    }
}

kernel! {
    /// draw_rrelu_forward(Tensor x, float lower, float upper, SymInt first, int layout) -> (Tensor, Tensor, Tensor), on
    /// a CPU
    draw_rrelu_forward(arguments; x) {
        let key = Tensor::draw_key(x.torch)?;
        let (y, mask) = rrelu_forward_with(arguments, x, |x, first| Ok((key.key(x, first)?, KeyAt::default())))?;
        arguments.give([y, mask, key]);
        Ok(())
    }
}

kernel! {
    /// _rrelu_forward_storing_key(Tensor x, Tensor key, float lower, float upper, SymInt first, int layout) ->
    /// (Tensor, Tensor, Tensor), on a GPU, where the third is the key then
    rrelu_forward_storing_key(arguments; x, key) {
        rrelu_forward_storing(arguments, x, |x, first| Ok((key.key(x, first)?, KeyAt::default())))
    }
}

kernel! {
    /// _rrelu_forward_at(Tensor x, Tensor seed, Tensor offset, Tensor moved, float lower, float upper, SymInt first,
    /// int layout) -> (Tensor, Tensor, Tensor), on a GPU, where the third is the key then
    rrelu_forward_at(arguments; x, seed, offset, moved) {
        let place = Place { seed, offset, moved };
        rrelu_forward_storing(arguments, x, |x, first| place.key(x, first))
    }
}

/// The kernel stores its key in the third result.
fn rrelu_forward_storing(
    arguments: &mut Arguments,
    x: Tensor,
    key: impl FnOnce(&Tensor, u64) -> Outcome<(dact_key, KeyAt)>,
) -> Outcome<()> {
    let stored = Tensor::empty(x.torch, &[1], &[1], x.torch.int64, x.device)?;
    let offset_out = stored.address()?.addr() as u64;
    let (y, mask) = rrelu_forward_with(arguments, x, |x, first| {
        let (key, key_at) = key(x, first)?;
        Ok((key, KeyAt { offset_out, ..key_at }))
    })?;
    arguments.give([y, mask, stored]);
    Ok(())
}

fn rrelu_forward_with(
    arguments: &mut Arguments,
    x: Tensor,
    key: impl FnOnce(&Tensor, u64) -> Outcome<(dact_key, KeyAt)>,
) -> Outcome<(Tensor, Tensor)> {
    let (lower, upper) = (arguments.float() as f32, arguments.float() as f32);
    let (first, layout) = (arguments.integer() as u64, arguments.integer());
    let element = x.element("x")?;
    let strides = x.strides_of("x", layout)?;
    let (key, key_at) = key(&x, first)?;
    let pass = dact_pass { lower, upper, key, ..pass(DACT_PASS_RRELU_FORWARD) };
    let x = x.dense(strides.of())?;
    let (y, mask) = (x.empty_like(strides.of())?, x.empty_mask()?);
    run_with(&pass, element, &x, &y, None, Some(&mask), key_at)?;
    Ok((y, mask))
}

kernel! {
    /// rrelu_backward(Tensor dy, Tensor mask, Tensor key, float lower, float upper, SymInt first, int layout) -> Tensor
    rrelu_backward(arguments; dy, mask, key) {
        let (lower, upper) = (arguments.float() as f32, arguments.float() as f32);
        let (first, layout) = (arguments.integer() as u64, arguments.integer());
        let element = dy.element("dy")?;
        let strides = dy.strides_of("dy", layout)?;
        mask.check_mask(&dy, "dy")?;
        let pass = dact_pass { lower, upper, key: key.key(&dy, first)?, ..pass(DACT_PASS_RRELU_BACKWARD) };
        let dy = dy.dense(strides.of())?;
        let dx = dy.empty_like(strides.of())?;
        run(&pass, element, &dy, &dx, None, Some(&mask))?;
        arguments.give([dx]);
        Ok(())
    }
}

kernel! {
    /// philox_key(Tensor seed, Tensor offset) -> Tensor
    philox_key(arguments; seed, offset) {
        let (seed, offset) = (seed.integer("seed")?, offset.integer("offset")?);
        let torch = arguments.torch;
        let key = Tensor::empty(torch, &[1], &[1], torch.int64, (torch.cpu, -1))?;
        // SAFETY: the address of one integer of 64 bits.
        unsafe { key.address()?.cast::<u64>().write(drawn_offset(seed, offset)) };
        arguments.give([key]);
        Ok(())
    }
}

fn code(activation: i64) -> Outcome<u32> {
    u32::try_from(activation).map_err(|_| format!("activation must be a code of DACT_ACTIVATION_, got {activation}"))
}
