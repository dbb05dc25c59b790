//! A matrix product by cuBLASLt whose epilogue applies a ReLU bit mask and sums the gradient of a bias. The library is
//! looked for where programs find it, and in the folder CUBLASLT_PATH.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use libloading::Library;

/// What cuBLASLt calls things (cublasLt.h, library_types.h).
const COMPUTE_32F: i32 = 68;
const R_32F: i32 = 0;
const DESC_EPILOGUE: i32 = 7;
const DESC_BIAS_POINTER: i32 = 8;
const DESC_EPILOGUE_AUX_POINTER: i32 = 11;
const DESC_EPILOGUE_AUX_LD: i32 = 12;
const EPILOGUE_DRELU_BGRAD: i32 = 152;

pub fn load() -> Result<Library, String> {
    let folder = std::env::var("CUBLASLT_PATH").ok().filter(|folder| !folder.is_empty());
    let names = ["libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12", "cublasLt64_13.dll", "cublasLt64_12.dll"];
    let places =
        names.iter().flat_map(|name| [folder.as_ref().map(|folder| format!("{folder}/{name}")), Some((*name).into())]);
    let mut why = "no name to try".to_owned();
    for place in places.flatten() {
        // SAFETY: NVIDIA's library, whose initialisers have no conditions.
        match unsafe { Library::new(&place) } {
            Ok(library) => return Ok(library),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// Addresses in device memory, of f32 unless said otherwise.
pub struct Product {
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
    /// \[rows, depth\].
    pub left: u64,
    /// \[depth, cols\].
    pub right: u64,
    /// \[rows, cols\], the product where the mask's bit is set and zero elsewhere.
    pub product: u64,
    /// Bits: element \[row, col\] is bit `row * cols + col`.
    pub mask: u64,
    /// \[cols\], the sums over rows of what was written.
    pub bias: u64,
    pub stream: *mut c_void,
}

impl Product {
    /// Enqueues it.
    ///
    /// # Safety
    /// The addresses are of as much memory as they say, in the current context, whose stream it is.
    pub unsafe fn run(&self, library: &Library) -> Result<(), String> {
        let ok = |what: &str, status: i32| if status == 0 { Ok(()) } else { Err(format!("{what}: status {status}")) };
        macro_rules! function {
            ($name:literal, $($type:ty),*) => {
                // SAFETY: the signature in cublasLt.h.
                unsafe { library.get::<unsafe extern "C" fn($($type),*) -> i32>($name) }.map_err(|e| e.to_string())?
            };
        }
        let create = function!("cublasLtCreate", *mut *mut c_void);
        let new_description = function!("cublasLtMatmulDescCreate", *mut *mut c_void, i32, i32);
        let set = function!("cublasLtMatmulDescSetAttribute", *mut c_void, i32, *const c_void, usize);
        let new_layout = function!("cublasLtMatrixLayoutCreate", *mut *mut c_void, i32, u64, u64, i64);
        #[rustfmt::skip]
        let matmul = function!(
            "cublasLtMatmul",
            *mut c_void, *mut c_void, *const c_void, u64, *mut c_void, u64, *mut c_void, *const c_void, u64,
            *mut c_void, u64, *mut c_void, *const c_void, *mut c_void, usize, *mut c_void
        );
        let (mut handle, mut description) = (null_mut(), null_mut());
        // SAFETY: pointers to what the functions set or read, of the sizes that they are told; the rest is the caller's
        // promise. What is created lives as long as the process, which is a test.
        unsafe {
            ok("cublasLtCreate", create(&mut handle))?;
            ok("cublasLtMatmulDescCreate", new_description(&mut description, COMPUTE_32F, R_32F))?;
            let (epilogue, ld) = (EPILOGUE_DRELU_BGRAD, self.cols as i64);
            let attributes: [(i32, *const c_void, usize); 4] = [
                (DESC_EPILOGUE, (&raw const epilogue).cast(), 4),
                (DESC_EPILOGUE_AUX_POINTER, (&raw const self.mask).cast(), 8),
                (DESC_EPILOGUE_AUX_LD, (&raw const ld).cast(), 8),
                (DESC_BIAS_POINTER, (&raw const self.bias).cast(), 8),
            ];
            for (attribute, value, bytes) in attributes {
                ok("cublasLtMatmulDescSetAttribute", set(description, attribute, value, bytes))?;
            }
            // By columns, as cuBLASLt has its matrices, each is its own transpose: product' = right' left'.
            let (rows, cols, depth) = (self.rows as u64, self.cols as u64, self.depth as u64);
            let mut layouts = [null_mut(); 3];
            for (layout, (high, wide)) in layouts.iter_mut().zip([(cols, depth), (depth, rows), (cols, rows)]) {
                ok("cublasLtMatrixLayoutCreate", new_layout(layout, R_32F, high, wide, high as i64))?;
            }
            let (one, zero) = (1f32, 0f32);
            let [right, left, product] = layouts;
            #[rustfmt::skip]
            let status = matmul(
                handle, description, (&raw const one).cast(), self.right, right, self.left, left, (&raw const zero).cast(),
                self.product, product, self.product, product, null(), null_mut(), 0, self.stream,
            );
            ok("cublasLtMatmul", status)
        }
    }
}
