//! For adapters: a pass chosen at run time, over memory that belongs to somebody else.
//!
//!     cargo run --example 06_adapter
//!
//! A framework hands over addresses, a type and a length. On the CPU they become slices, and `cpu::run` takes them with
//! the pass. On a GPU `cuda::Kernels::launch_raw` takes the addresses themselves:
//!
//! ```text
//! let at = cuda::Addresses { input: x, output: y, mask, ..Default::default() };   // device addresses, as u64
//! unsafe { kernels.launch_raw(stream, &pass, Dtype::F32, n, at) }?;               // stream: a CUstream
//! ```
//!
//! It is `unsafe`, because nobody but the caller knows what is at an address; its documentation lists what to promise.
//! It returns before the work is done, allocates nothing and waits for nothing.

use drop_activation::{DropActivation, Error, MaskKey, Pass, Result, cpu};

/// A tensor as a framework may describe it.
struct Foreign {
    data: *mut f32,
    len: usize,
}

/// What an adapter does: the description becomes slices, and the pass is made on them.
///
/// # Safety
/// `x` and `y` describe `len` elements each, which nobody else uses meanwhile, and are either one or do not overlap.
unsafe fn apply(pass: &Pass, x: &Foreign, y: &Foreign, mask: cpu::MaskWords<'_>) -> Result<()> {
    // SAFETY: the elements of y are there and nobody else uses them, by this function's contract.
    let output = unsafe { std::slice::from_raw_parts_mut(y.data, y.len) };
    if x.data == y.data {
        // In place. There is one slice then: two, of which one can be written, would not be allowed.
        return cpu::run(pass, output, None, mask);
    }
    // SAFETY: the elements of x are there, apart from those of y, by this function's contract.
    let input = unsafe { std::slice::from_raw_parts(x.data, x.len) };
    cpu::run(pass, (input, output), None, mask)
}

fn main() -> Result<()> {
    // Memory of the framework's. A mask is one bit for each element, in words of 32.
    let mut memory: Vec<f32> = (0..200).map(|i| (i % 100) as f32 / 10.0 - 5.0).collect();
    let mut words = vec![0u32; 100_usize.div_ceil(32)];
    let data = memory.as_mut_ptr();
    let x = Foreign { data, len: 100 };
    let y = Foreign { data: data.wrapping_add(100), len: 100 };

    let (op, key) = (DropActivation::relu(0.95)?, MaskKey::new(42, 0));
    let forward = Pass::Forward { op, key };
    // What the framework needs to know of the pass before it can make its memory ready:
    println!("{} -> {}, mask written: {}", forward.input(), forward.output(), forward.writes_mask());
    // SAFETY: both are halves of `memory`, which is not used otherwise until they are done with.
    unsafe { apply(&forward, &x, &y, cpu::MaskWords::Write(&mut words)) }?;

    // The gradient takes the place of y.
    let backward = Pass::Backward { op };
    assert!(backward.reads_mask() && backward.saved().is_none());
    // SAFETY: as above.
    unsafe { apply(&backward, &y, &y, cpu::MaskWords::Read(&words)) }?;

    // A call that does not fit is an error, and nothing was written.
    let short = Foreign { data: y.data, len: 99 };
    // SAFETY: as above; `short` is a part of the second half.
    let error = unsafe { apply(&forward, &x, &short, cpu::MaskWords::Write(&mut words)) }.unwrap_err();
    assert_eq!(error, Error::Length { argument: "y", given: 99, other: "x", expected: 100 });
    println!("refused: {error}");
    println!("x = {:?} ..., dx = {:?} ...", &memory[..3], &memory[100..103]);
    Ok(())
}
