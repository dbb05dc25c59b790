//! The passes as functions of apache/tvm-ffi, a calling convention that JAX, PyTorch, CuPy, Paddle and others share: a
//! framework loads the library and calls `__tvm_ffi_dact_...` with tensors of its own. `docs/abi.md` lists them.
//!
//! The convention is tvm-ffi's stable C interface (`tvm/ffi/c_api.h`). What is used of it is declared here, and the two
//! functions that are called are looked up in the process when they are needed, so that nothing of it is needed to
//! build this or to load it.

use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::{mem, ptr, slice};

use drop_activation::Activation;

use crate::error::{Failure, taken};
use crate::opened::kernels;
use crate::*;

/// An argument: what it is, and its value or address. The result of a call is one too; ours have none.
#[repr(C)]
struct Any {
    kind: i32,
    /// The length of a string that is its own value; else 0.
    short_len: u32,
    value: u64,
}

const NONE: i32 = 0;
const INTEGER: i32 = 1;
const BOOLEAN: i32 = 2;
const FLOAT: i32 = 3;
const TENSOR_ADDRESS: i32 = 7;
const C_STRING: i32 = 8;
const SHORT_STRING: i32 = 11;
const STRING: i32 = 65;
const TENSOR: i32 = 70;

/// What objects on the heap begin with: the count of references, their kind, and how to free them.
const OBJECT_HEADER: usize = 24;

#[repr(C)]
struct Text {
    data: *const u8,
    len: usize,
}

/// DLPack's tensor.
#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: DlType,
    shape: *const i64,
    /// In elements; null for a contiguous tensor.
    strides: *const i64,
    byte_offset: u64,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Device {
    kind: i32,
    index: i32,
}

const CPU: i32 = 1;
const CUDA: i32 = 2;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct DlType {
    code: u8,
    bits: u8,
    lanes: u16,
}

const SIGNED: u8 = 0;
const UNSIGNED: u8 = 1;
const IEEE: u8 = 2;
const BFLOAT: u8 = 4;

/// What a call fails with: tvm-ffi's name for the kind of error, which Python makes an exception of, and a text.
struct Refusal {
    kind: &'static CStr,
    text: String,
}

type Outcome<T> = Result<T, Refusal>;

fn wrong_type(text: String) -> Refusal {
    Refusal { kind: c"TypeError", text }
}

fn wrong_value(text: String) -> Refusal {
    Refusal { kind: c"ValueError", text }
}

impl From<Failure> for Refusal {
    fn from(Failure { status, message }: Failure) -> Self {
        let kind = if status == DACT_INVALID_ARGUMENT { c"ValueError" } else { c"RuntimeError" };
        Self { kind, text: message }
    }
}

/// What an argument is to a pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Input,
    Saved,
    Output,
    Mask,
    Offset,
    P,
    Activation,
    Lower,
    Upper,
    Seed,
    First,
}

/// An argument's name, and its role.
type Parameter = (&'static str, Role);

macro_rules! functions {
    ($($(#[$doc:meta])* $function:ident: $kind:ident($($name:literal $role:ident),*);)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// At `arguments` there are `count` arguments of tvm-ffi's, whose tensors hold what they say until the pass has
        /// run, on the CPU until this function returns. No other work writes what is read or touches what is written.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $function(_: *mut c_void, arguments: *const Any, count: i32, _: *mut Any) -> i32 {
            // SAFETY: by this function's contract.
            unsafe { call($kind, &[$(($name, Role::$role)),*], arguments, count) }
        }
    )*};
}

functions! {
    /// Training forward.
    __tvm_ffi_dact_forward: DACT_PASS_FORWARD("x" Input, "offset" Offset, "y" Output, "mask" Mask, "p" P,
        "activation" Activation, "seed" Seed, "first" First);
    /// Training forward of ReLU, without a mask.
    __tvm_ffi_dact_forward_without_mask: DACT_PASS_FORWARD_WITHOUT_MASK("x" Input, "offset" Offset, "y" Output, "p" P,
        "seed" Seed, "first" First);
    /// ReLU's training backward.
    __tvm_ffi_dact_backward: DACT_PASS_BACKWARD("dy" Input, "mask" Mask, "dx" Output);
    /// Training backward of every activation.
    __tvm_ffi_dact_backward_saved: DACT_PASS_BACKWARD("dy" Input, "mask" Mask, "x" Saved, "dx" Output,
        "activation" Activation);
    /// ReLU's training backward without a mask.
    __tvm_ffi_dact_backward_from_output: DACT_PASS_BACKWARD_FROM_OUTPUT("dy" Input, "y" Saved, "dx" Output);
    /// Inference forward.
    __tvm_ffi_dact_infer: DACT_PASS_INFER("x" Input, "y" Output, "p" P, "activation" Activation);
    /// Inference backward.
    __tvm_ffi_dact_infer_backward: DACT_PASS_INFER_BACKWARD("dy" Input, "x" Saved, "dx" Output, "p" P,
        "activation" Activation);
    /// RReLU's training forward.
    __tvm_ffi_dact_rrelu_forward: DACT_PASS_RRELU_FORWARD("x" Input, "offset" Offset, "y" Output, "mask" Mask,
        "lower" Lower, "upper" Upper, "seed" Seed, "first" First);
    /// RReLU's training backward.
    __tvm_ffi_dact_rrelu_backward: DACT_PASS_RRELU_BACKWARD("dy" Input, "mask" Mask, "offset" Offset, "dx" Output,
        "lower" Lower, "upper" Upper, "seed" Seed, "first" First);
    /// RReLU's inference forward.
    __tvm_ffi_dact_rrelu_infer: DACT_PASS_RRELU_INFER("x" Input, "y" Output, "lower" Lower, "upper" Upper);
    /// RReLU's inference backward.
    __tvm_ffi_dact_rrelu_infer_backward: DACT_PASS_RRELU_INFER_BACKWARD("dy" Input, "x" Saved, "dx" Output,
        "lower" Lower, "upper" Upper);
    /// Plain ReLU.
    __tvm_ffi_dact_relu_forward: DACT_PASS_RELU_FORWARD("x" Input, "y" Output);
    /// Plain ReLU's backward.
    __tvm_ffi_dact_relu_backward: DACT_PASS_RELU_BACKWARD("dy" Input, "y" Saved, "dx" Output);
}

/// Runs a pass, and makes a failure an error of tvm-ffi's. Returns 0 if all went well, else -1.
///
/// # Safety
/// As for the functions above.
unsafe fn call(kind: u32, parameters: &[Parameter], arguments: *const Any, count: i32) -> i32 {
    // What is half-done when a call panics lives in here alone, or is its output.
    let work = AssertUnwindSafe(|| {
        let given = if arguments.is_null() { 0 } else { count };
        if given != parameters.len() as i32 {
            let names: Vec<_> = parameters.iter().map(|(name, _)| *name).collect();
            let (expected, names) = (parameters.len(), names.join(", "));
            return Err(wrong_type(format!("there must be {expected} arguments, {names}, got {given}")));
        }
        // SAFETY: so many arguments are there, by this function's contract.
        let arguments = unsafe { slice::from_raw_parts(arguments, parameters.len()) };
        // SAFETY: as above.
        unsafe { run(kind, parameters, arguments) }
    });
    let result = catch_unwind(work).unwrap_or_else(|_| {
        let text = "defect in drop_activation, please report it: a panic".into();
        Err(Refusal { kind: c"RuntimeError", text })
    });
    let Err(Refusal { kind, text }) = result else { return 0 };
    if let Some(runtime) = Runtime::get() {
        let text = CString::new(text.replace('\0', "\\0")).unwrap_or_default();
        // SAFETY: two texts that are closed by a zero byte.
        unsafe { (runtime.set_error)(kind.as_ptr(), text.as_ptr()) };
    }
    -1
}

/// # Safety
/// As for `call`.
unsafe fn run(kind: u32, parameters: &[Parameter], arguments: &[Any]) -> Outcome<()> {
    let find =
        |role| parameters.iter().zip(arguments).find(|((_, of), _)| *of == role).map(|((name, _), a)| (*name, a));
    // SAFETY: arguments of tvm-ffi's, by this function's contract.
    let tensor = |role| find(role).map(|(name, argument)| unsafe { Tensor::of(name, argument) }).transpose();
    let number = |role| find(role).map_or(Ok(0.0), |(name, argument)| argument.number(name));
    let integer = |role| find(role).map_or(Ok(0), |(name, argument)| argument.integer(name));

    let (Some(input), Some(output)) = (tensor(Role::Input)?, tensor(Role::Output)?) else {
        return Err(Failure::invalid("a pass has an input and an output".into()).into());
    };
    let (saved, mask) = (tensor(Role::Saved)?, tensor(Role::Mask)?);
    let dtype = input.element()?;
    output.same_as(&input)?;
    saved.as_ref().map_or(Ok(()), |saved| saved.same_as(&input))?;
    mask.as_ref().map_or(Ok(()), |mask| mask.is_mask_of(&input))?;

    let mut key =
        dact_key { seed: integer(Role::Seed)?, offset: 0, first: integer(Role::First)?, device_offset: ptr::null() };
    if let Some((name, argument)) = find(Role::Offset) {
        // SAFETY: an argument of tvm-ffi's.
        unsafe { read_offset(name, argument, &input, &mut key) }?;
    }
    let activation = match find(Role::Activation) {
        // SAFETY: an argument of tvm-ffi's.
        Some((name, argument)) => unsafe { argument.activation(name) }? as u32,
        None => Activation::Relu as u32,
    };
    let pass = dact_pass {
        kind,
        activation,
        p: number(Role::P)?,
        lower: number(Role::Lower)? as f32,
        upper: number(Role::Upper)? as f32,
        key,
        ..dact_pass::INIT
    };
    let address = |tensor: &Option<Tensor>| tensor.as_ref().map_or(ptr::null_mut(), |tensor| tensor.data);
    let tensors = dact_tensors {
        dtype,
        len: input.len,
        input: input.data,
        saved: address(&saved),
        output: output.data,
        mask: address(&mask).cast(),
        ..dact_tensors::INIT
    };
    let mut error = ptr::null_mut();
    // SAFETY: the tensors hold what they say, by this function's contract. Kernels are never closed, and the stream is
    // the framework's for that device, in its primary context.
    let status = unsafe {
        if input.device.kind == CPU {
            dact_cpu_run(&pass, &tensors, &mut error)
        } else {
            let index = input.device.index;
            let runtime =
                Runtime::get().ok_or_else(|| Failure::unsupported("there is no tvm-ffi in this process".into()))?;
            let stream = (runtime.stream)(CUDA, index);
            dact_cuda_run(kernels(index)?.0, stream, &pass, &tensors, &mut error)
        }
    };
    // SAFETY: the error is null or came with this status.
    Ok(unsafe { taken(status, error) }?)
}

/// The key's offset: an integer, or a tensor that holds one, so that it may differ from call to call of a compiled
/// program. In the memory of a GPU it is read by the kernel.
///
/// # Safety
/// `argument` is one of tvm-ffi's.
unsafe fn read_offset(name: &'static str, argument: &Any, input: &Tensor, key: &mut dact_key) -> Outcome<()> {
    if !matches!(argument.kind, TENSOR | TENSOR_ADDRESS) {
        key.offset = argument.integer(name)?;
        return Ok(());
    }
    // SAFETY: by this function's contract.
    let tensor = unsafe { Tensor::of(name, argument) }?;
    let whole = matches!(tensor.dtype, DlType { code: SIGNED | UNSIGNED, bits: 64, lanes: 1 }) && tensor.len == 1;
    let halves = matches!(tensor.dtype, DlType { code: SIGNED | UNSIGNED, bits: 32, lanes: 1 }) && tensor.len == 2;
    if !whole && !halves {
        let given = tensor.describe();
        return Err(wrong_type(format!(
            "{name} must be one integer of 64 bits, or two of 32 bits, the low one first, got {given}"
        )));
    }
    if tensor.device.kind != CPU {
        tensor.on_device_of(input)?;
        key.device_offset = tensor.data.cast();
        return Ok(());
    }
    // SAFETY: the tensor has 8 bytes, in the memory of the host.
    key.offset = unsafe {
        if whole {
            tensor.data.cast::<u64>().read_unaligned()
        } else {
            let half = |i| u64::from(tensor.data.cast::<u32>().add(i).read_unaligned());
            half(0) | half(1) << 32
        }
    };
    Ok(())
}

impl Any {
    fn describe(&self) -> &'static str {
        match self.kind {
            NONE => "None",
            INTEGER => "an integer",
            BOOLEAN => "a boolean",
            FLOAT => "a float",
            TENSOR | TENSOR_ADDRESS => "a tensor",
            C_STRING | SHORT_STRING | STRING => "a string",
            _ => "something else",
        }
    }

    /// 64 bits; a number above 2^63 - 1 comes as the negative one of the same bits.
    fn integer(&self, name: &str) -> Outcome<u64> {
        match self.kind {
            INTEGER => Ok(self.value),
            _ => Err(wrong_type(format!("{name} must be an integer of 64 bits, got {}", self.describe()))),
        }
    }

    fn number(&self, name: &str) -> Outcome<f64> {
        match self.kind {
            FLOAT => Ok(f64::from_bits(self.value)),
            INTEGER => Ok(self.value as i64 as f64),
            _ => Err(wrong_type(format!("{name} must be a number, got {}", self.describe()))),
        }
    }

    /// # Safety
    /// An argument of tvm-ffi's.
    unsafe fn activation(&self, name: &str) -> Outcome<Activation> {
        let address = self.value as usize;
        // SAFETY: by its kind, the string is the value itself, where the value points to, or behind the header of the
        // object there.
        let bytes = unsafe {
            match self.kind {
                SHORT_STRING => {
                    let most = size_of_val(&self.value);
                    slice::from_raw_parts((&raw const self.value).cast::<u8>(), (self.short_len as usize).min(most))
                }
                C_STRING => CStr::from_ptr(address as *const c_char).to_bytes(),
                STRING => {
                    let text = &*((address + OBJECT_HEADER) as *const Text);
                    slice::from_raw_parts(text.data, text.len)
                }
                _ => return Err(wrong_type(format!("{name} must be a string, got {}", self.describe()))),
            }
        };
        String::from_utf8_lossy(bytes).parse().map_err(|error: drop_activation::Error| wrong_value(error.to_string()))
    }
}

/// A tensor of the caller's: contiguous, and where we can compute.
struct Tensor<'a> {
    name: &'static str,
    data: *mut c_void,
    dtype: DlType,
    shape: &'a [i64],
    device: Device,
    len: usize,
}

impl<'a> Tensor<'a> {
    /// # Safety
    /// `argument` is one of tvm-ffi's, which lives as long as the result.
    unsafe fn of(name: &'static str, argument: &'a Any) -> Outcome<Self> {
        let address = match argument.kind {
            TENSOR => argument.value as usize + OBJECT_HEADER,
            TENSOR_ADDRESS if argument.value != 0 => argument.value as usize,
            TENSOR_ADDRESS => return Err(wrong_type(format!("{name} must be a tensor, got NULL"))),
            _ => return Err(wrong_type(format!("{name} must be a tensor, got {}", argument.describe()))),
        };
        // SAFETY: the address of a tensor, by this function's contract.
        let tensor = unsafe { &*(address as *const DlTensor) };
        let dim = usize::try_from(tensor.ndim).unwrap_or(0);
        // SAFETY: a tensor has an extent, and a stride if there are any, for each of its dimensions.
        let numbers = |at: *const i64| unsafe { if dim == 0 { &[] } else { slice::from_raw_parts(at, dim) } };
        let shape = numbers(tensor.shape);
        let len = shape.iter().try_fold(1usize, |len, extent| len.checked_mul(usize::try_from(*extent).ok()?));
        let Some(len) = len else {
            return Err(wrong_value(format!("{name} must have no more elements than memory, got shape {shape:?}")));
        };
        if !tensor.strides.is_null() && len > 0 {
            let (strides, mut expected) = (numbers(tensor.strides), 1);
            for (extent, stride) in shape.iter().zip(strides).rev() {
                if *extent != 1 && *stride != expected {
                    return Err(wrong_value(format!(
                        "{name} must be contiguous, row-major, got shape {shape:?} and strides {strides:?}"
                    )));
                }
                expected *= extent;
            }
        }
        if !matches!(tensor.device.kind, CPU | CUDA) {
            let kind = tensor.device.kind;
            return Err(wrong_value(format!(
                "{name} must be on a device of DLPack's kind {CPU} (CPU) or {CUDA} (CUDA), got {kind}"
            )));
        }
        let data = tensor.data.wrapping_byte_add(tensor.byte_offset as usize);
        Ok(Self { name, data, dtype: tensor.dtype, shape, device: tensor.device, len })
    }

    /// The C interface's number for the type of its elements.
    fn element(&self) -> Outcome<u32> {
        match self.dtype {
            DlType { code: IEEE, bits: 32, lanes: 1 } => Ok(DACT_DTYPE_F32),
            DlType { code: IEEE, bits: 16, lanes: 1 } => Ok(DACT_DTYPE_F16),
            DlType { code: BFLOAT, bits: 16, lanes: 1 } => Ok(DACT_DTYPE_BF16),
            DlType { code: IEEE, bits: 64, lanes: 1 } => Ok(DACT_DTYPE_F64),
            _ => Err(wrong_type(format!(
                "{} must have dtype float32, float16, bfloat16 or float64, got {}",
                self.name,
                self.describe()
            ))),
        }
    }

    fn describe(&self) -> String {
        let DlType { code, bits, lanes } = self.dtype;
        let named = match code {
            SIGNED => "int",
            UNSIGNED => "uint",
            IEEE => "float",
            BFLOAT => "bfloat",
            _ => "DLPack's code ",
        };
        let code = if named.ends_with(' ') { format!("{code}, bits ") } else { String::new() };
        let lanes = if lanes == 1 { String::new() } else { format!(" x {lanes}") };
        format!("dtype {named}{code}{bits}{lanes}, shape {:?}", self.shape)
    }

    fn same_as(&self, input: &Tensor) -> Outcome<()> {
        self.on_device_of(input)?;
        if self.dtype == input.dtype && self.shape == input.shape {
            return Ok(());
        }
        let (name, other, expected) = (self.name, input.name, input.describe());
        let text = format!("{name} must be like {other}, {expected}, got {}", self.describe());
        Err(if self.dtype == input.dtype { wrong_value(text) } else { wrong_type(text) })
    }

    fn on_device_of(&self, input: &Tensor) -> Outcome<()> {
        if self.device == input.device {
            return Ok(());
        }
        let of = |tensor: &Tensor| match tensor.device {
            Device { kind: CPU, .. } => "the CPU".to_string(),
            Device { index, .. } => format!("CUDA device {index}"),
        };
        let (name, other) = (self.name, input.name);
        Err(wrong_value(format!("{name} must be where {other} is, on {}, got {}", of(input), of(self))))
    }

    fn is_mask_of(&self, input: &Tensor) -> Outcome<()> {
        self.on_device_of(input)?;
        let words = dact_mask_words(input.len) as i64;
        if matches!(self.dtype, DlType { code: SIGNED | UNSIGNED, bits: 32, lanes: 1 }) && self.shape == [words] {
            return Ok(());
        }
        let (name, other, len) = (self.name, input.name, input.len);
        Err(wrong_value(format!(
            "{name} must have dtype uint32 or int32, shape [{words}], for the {len} elements of {other}, got {}",
            self.describe()
        )))
    }
}

/// The functions of tvm-ffi that are called.
struct Runtime {
    set_error: unsafe extern "C" fn(kind: *const c_char, text: *const c_char),
    stream: unsafe extern "C" fn(device_kind: i32, device_index: i32) -> *mut c_void,
}

impl Runtime {
    /// None if nobody has loaded it.
    fn get() -> Option<&'static Self> {
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        if let Some(runtime) = RUNTIME.get() {
            return Some(runtime);
        }
        let (set_error, stream) = (find(c"TVMFFIErrorSetRaisedFromCStr")?, find(c"TVMFFIEnvGetStream")?);
        // SAFETY: the functions of these names, whose types tvm-ffi's headers state.
        let runtime = unsafe {
            Self {
                set_error: mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, *const c_char)>(set_error),
                stream: mem::transmute::<*mut c_void, unsafe extern "C" fn(i32, i32) -> *mut c_void>(stream),
            }
        };
        Some(RUNTIME.get_or_init(|| runtime))
    }
}

/// The address of tvm-ffi's function of a name: where all libraries of the process find it, else in its own library,
/// which is loaded already. Neither is ever unloaded.
fn find(name: &CStr) -> Option<*mut c_void> {
    #[cfg(unix)]
    let libraries = {
        use libloading::os::unix::{Library, RTLD_LAZY};
        let file = if cfg!(target_os = "macos") { "libtvm_ffi.dylib" } else { "libtvm_ffi.so" };
        let loaded_before = if cfg!(target_os = "macos") { 0x10 } else { 4 };
        // SAFETY: the library is loaded already, and so nothing of it runs now.
        [Some(Library::this()), unsafe { Library::open(Some(file), RTLD_LAZY | loaded_before) }.ok()]
    };
    #[cfg(windows)]
    let libraries = [libloading::os::windows::Library::open_already_loaded("tvm_ffi.dll").ok()];
    libraries.into_iter().flatten().find_map(|library| {
        // SAFETY: the symbol is only looked at as an address.
        let symbol = unsafe { library.get::<*mut c_void>(name.to_bytes_with_nul()) }.ok()?;
        Some(symbol.as_raw_ptr()).filter(|address| !address.is_null())
    })
}
