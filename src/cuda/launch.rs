//! From a pass to the launch that does it: which entry point, which grid, which arguments.
//!
//! Nothing here calls CUDA. The CPU emulation of the kernels executes the very plans that a GPU gets, with
//! host pointers. For the crate and its tests; not part of the stable interface.

use std::ffi::c_void;

use super::addresses::{Addresses, checked, optional};
use super::channels::{self, FusedAddresses};
pub use super::entry::Entry;
use super::error::Result as CudaResult;
use super::geometry;
pub use super::layout::da_args;
use super::layout::{DA_PACK_BYTES, DA_TILE_ELEMENTS};
pub use super::parameters::NOTHING;
use super::parameters::parameters;
pub use super::planned::Launch;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::pass::Pass;

/// Plans any pass over `n` elements of type `dtype` at the addresses `at`: at most two launches, to be made in this
/// order.
pub fn plan_all(pass: &Pass, dtype: Dtype, n: usize, at: &FusedAddresses) -> Result<[Option<Launch>; 2]> {
    match pass.shape() {
        Some(shape) => channels::plan(pass, shape, dtype, n, at),
        None => Ok([plan(pass, dtype, n, at.tensors)?, None]),
    }
}

/// Plans `pass`, which is not over channels, over `n` elements of type `dtype` at the addresses `at`; `None` if there
/// is nothing to do. Addresses that the pass has no use for are not looked at.
pub fn plan(pass: &Pass, dtype: Dtype, n: usize, at: Addresses) -> Result<Option<Launch>> {
    pass.check_without_tensors(n)?;
    if pass.shape().is_some() {
        return Err(Error::HasChannels { function: "plan" });
    }
    if n == 0 {
        return Ok(None);
    }
    let input = checked(pass.input(), at.input, dtype.size())?;
    let output = checked(pass.output(), at.output, dtype.size())?;
    let saved = pass.saved().map_or(Ok(0), |name| checked(name, at.saved, dtype.size()))?;
    let mask = if pass.writes_mask() || pass.reads_mask() { checked("mask", at.mask, size_of::<u32>())? } else { 0 };

    // An address that the pass has no use for is 0, which is aligned.
    let aligned = (input | output | saved).is_multiple_of(DA_PACK_BYTES.into());
    let (x, dy) = if pass.is_forward() { (input, 0) } else { (saved, input) };
    let mut args = da_args {
        n: n as u64,
        tiles: (n as u64).div_ceil(DA_TILE_ELEMENTS.into()),
        full_tiles: if aligned { n as u64 / u64::from(DA_TILE_ELEMENTS) } else { 0 },
        x: x as *const c_void,
        dy: dy as *const c_void,
        out: output as *mut c_void,
        mask: mask as *mut u32,
        ..parameters(pass, dtype)
    };
    if pass.key().is_some() {
        (args.offset_at, args.seed_at) = at.base()?;
    }
    if let Pass::RreluForward { .. } = pass {
        args.offset_out = optional("offset_out", at.offset_out)? as *mut u64;
    }
    Ok(Some(Launch {
        entry: Entry::of(pass, dtype, false),
        grid: geometry::grid(args.n),
        block: geometry::BLOCK,
        args,
    }))
}

/// Plans what stores `value` at `base`, counted from what is there if `on_top`.
pub fn plan_advance(base: u64, value: u64, on_top: bool) -> CudaResult<Launch> {
    let base = checked("base", base, size_of::<u64>())?;
    let offset_at = if on_top { base as *const u64 } else { std::ptr::null() };
    let args = da_args { offset: value, offset_at, offset_out: base as *mut u64, ..NOTHING };
    Ok(Launch { entry: Entry::ADVANCE, grid: 1, block: geometry::WARP, args })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::cuda::error::CudaError;
    use crate::cuda::test_passes::{AT, DTYPES, key, op, other_passes, passes};
    use crate::key::MaskKey;
    use crate::operation::{DropActivation, RRelu};

    fn planned(pass: &Pass, dtype: Dtype) -> Launch {
        plan(pass, dtype, 5, AT).unwrap().unwrap()
    }

    #[test]
    fn tiles_are_full_where_they_are_whole_and_all_tensors_aligned() {
        let of = |pass: &Pass, n: usize, at: Addresses| {
            let args = plan(pass, Dtype::Bf16, n, at).unwrap().unwrap().args;
            (args.tiles, args.full_tiles)
        };
        let relu = Pass::ReluForward;
        assert_eq!([1, 1023, 1024, 1025, 2048].map(|n| of(&relu, n, AT)), [(1, 0), (1, 0), (1, 1), (2, 1), (2, 2)]);
        let smooth = Pass::Backward { op: op(Activation::Gelu, 0.5) };
        for pass in [relu, Pass::ReluBackward, smooth] {
            let saved = if pass.saved().is_some() { (2, 0) } else { (2, 1) };
            assert_eq!(of(&pass, 1500, AT), (2, 1));
            assert_eq!(of(&pass, 1500, Addresses { input: AT.input + 8, ..AT }), (2, 0), "{pass:?}");
            assert_eq!(of(&pass, 1500, Addresses { output: AT.output + 2, ..AT }), (2, 0), "{pass:?}");
            assert_eq!(of(&pass, 1500, Addresses { saved: AT.saved + 4, ..AT }), saved, "{pass:?}");
            assert_eq!(of(&pass, 1500, Addresses { mask: AT.mask + 4, ..AT }), (2, 1), "{pass:?}");
        }
    }

    #[test]
    fn addresses_go_where_the_kernels_look() {
        let at = |pass: &Pass| {
            let args = planned(pass, Dtype::F32).args;
            [args.x as u64, args.dy as u64, args.out as u64, args.mask as u64]
        };
        for activation in Activation::ALL {
            let saved = if activation == Activation::Relu { 0 } else { AT.saved };
            let [forward, backward, infer, infer_backward] = passes(activation).try_into().unwrap();
            assert_eq!(at(&forward), [AT.input, 0, AT.output, AT.mask]);
            assert_eq!(at(&backward), [saved, AT.input, AT.output, AT.mask]);
            assert_eq!(at(&infer), [AT.input, 0, AT.output, 0]);
            assert_eq!(at(&infer_backward), [AT.saved, AT.input, AT.output, 0]);
        }
        let expected = [
            [AT.input, 0, AT.output, 0],
            [AT.saved, AT.input, AT.output, 0],
            [AT.input, 0, AT.output, AT.mask],
            [0, AT.input, AT.output, AT.mask],
            [AT.input, 0, AT.output, 0],
            [AT.saved, AT.input, AT.output, 0],
            [AT.input, 0, AT.output, 0],
            [AT.saved, AT.input, AT.output, 0],
        ];
        for (pass, expected) in other_passes().iter().zip(expected) {
            assert_eq!(at(pass), expected, "{pass:?}");
        }
    }

    #[test]
    fn offsets_may_be_counted_from_device_memory() {
        let offsets =
            |args: &da_args| (args.offset, args.offset_at as u64, args.seed_at as u64, args.offset_out as u64);
        let (op, rrelu, key) = (DropActivation::default(), RRelu::default(), key());
        for pass in
            [Pass::Forward { op, key }, Pass::ForwardWithoutMask { op, key }, Pass::RreluBackward { op: rrelu, key }]
        {
            assert_eq!(offsets(&planned(&pass, Dtype::F32).args), (7, AT.offset_at, AT.seed_at, 0), "{pass:?}");
        }
        let forward = Pass::RreluForward { op: rrelu, key };
        assert_eq!(offsets(&planned(&forward, Dtype::F32).args), (7, AT.offset_at, AT.seed_at, AT.offset_out));
        let without = Addresses { offset_at: 0, seed_at: 0, offset_out: 0, ..AT };
        assert_eq!(offsets(&plan(&forward, Dtype::F32, 5, without).unwrap().unwrap().args), (7, 0, 0, 0));
        for pass in [Pass::Backward { op }, Pass::Infer { op }, Pass::RreluInfer { op: rrelu }, Pass::ReluForward] {
            let odd = Addresses { offset_at: 1, seed_at: 1, offset_out: 1, ..AT };
            let plan = plan(&pass, Dtype::F32, 5, odd).unwrap().unwrap();
            assert_eq!(offsets(&plan.args), (0, 0, 0, 0), "not needed, not looked at");
        }
        let odd = |argument, address| Err(CudaError::Misaligned { argument, address, alignment: 8 }.into());
        let given = |at| plan(&forward, Dtype::F64, 5, at).map(|_| ());
        assert_eq!(given(Addresses { offset_at: 0x5004, ..AT }), odd("offset_at", 0x5004));
        assert_eq!(given(Addresses { seed_at: 0x5802, ..AT }), odd("seed_at", 0x5802));
        assert_eq!(given(Addresses { offset_out: 0x6001, ..AT }), odd("offset_out", 0x6001));
        let seed_alone = given(Addresses { offset_at: 0, ..AT });
        assert_eq!(seed_alone, Err(CudaError::NullPointer { argument: "offset_at" }.into()));
    }

    #[test]
    fn a_base_of_offsets_advances_or_is_set() {
        let planned = |on_top| {
            let Launch { grid, block, args, .. } = plan_advance(0x5000, 3, on_top).unwrap();
            (grid, block, args.offset, args.offset_at as u64, args.offset_out as u64)
        };
        assert_eq!(planned(true), (1, 32, 3, 0x5000, 0x5000));
        assert_eq!(planned(false), (1, 32, 3, 0, 0x5000));
        assert_eq!(plan_advance(0, 3, true).unwrap_err(), CudaError::NullPointer { argument: "base" });
        let misaligned = CudaError::Misaligned { argument: "base", address: 0x5004, alignment: 8 };
        assert_eq!(plan_advance(0x5004, 3, true).unwrap_err(), misaligned);
    }

    #[test]
    fn bad_addresses_are_errors() {
        let gelu = Pass::Backward { op: op(Activation::Gelu, 0.5) };
        let error = |pass: &Pass, dtype, at| plan(pass, dtype, 1, at).unwrap_err();
        let null = |argument| Error::from(CudaError::NullPointer { argument });
        assert_eq!(error(&gelu, Dtype::F32, Addresses { input: 0, ..AT }), null("dy"));
        assert_eq!(error(&gelu, Dtype::F32, Addresses { saved: 0, ..AT }), null("x"));
        assert_eq!(error(&gelu, Dtype::F32, Addresses { output: 0, ..AT }), null("dx"));
        assert_eq!(error(&gelu, Dtype::F32, Addresses { mask: 0, ..AT }), null("mask"));
        assert_eq!(error(&Pass::ReluForward, Dtype::F32, Addresses { output: 0, ..AT }), null("y"));
        assert_eq!(error(&Pass::ReluBackward, Dtype::F32, Addresses { saved: 0, ..AT }), null("y"));

        for dtype in DTYPES {
            let address = AT.input + dtype.size() as u64 / 2;
            let misaligned = CudaError::Misaligned { argument: "x", address, alignment: dtype.size() };
            assert_eq!(error(&Pass::ReluForward, dtype, Addresses { input: address, ..AT }), misaligned.into());
            let odd_element = Addresses { input: AT.input + dtype.size() as u64, ..AT };
            assert!(plan(&Pass::ReluForward, dtype, 1, odd_element).is_ok());
        }
        let odd_mask = CudaError::Misaligned { argument: "mask", address: AT.mask + 2, alignment: 4 };
        assert_eq!(error(&gelu, Dtype::F16, Addresses { mask: AT.mask + 2, ..AT }), odd_mask.into());

        let relu = Pass::Backward { op: DropActivation::default() };
        assert!(plan(&relu, Dtype::F32, 1, Addresses { saved: 3, ..AT }).is_ok(), "not needed, not looked at");
    }

    #[test]
    fn bad_passes_are_errors_and_empty_ones_are_nothing() {
        let (gelu, key) = (op(Activation::Gelu, 0.5), MaskKey::new(0, 0).shard(u64::MAX - 31).unwrap());
        for pass in [Pass::ForwardWithoutMask { op: gelu, key }, Pass::BackwardFromOutput { op: gelu }] {
            for n in [0, 1] {
                let error = plan(&pass, Dtype::F32, n, AT).unwrap_err();
                assert_eq!(error, Error::NeedsMask { activation: Activation::Gelu });
            }
        }
        let relu = DropActivation::default();
        let rrelu = RRelu::default();
        for pass in [
            Pass::Forward { op: gelu, key },
            Pass::ForwardWithoutMask { op: relu, key },
            Pass::RreluForward { op: rrelu, key },
            Pass::RreluBackward { op: rrelu, key },
        ] {
            assert!(plan(&pass, Dtype::F32, 32, AT).unwrap().is_some());
            let error = plan(&pass, Dtype::F32, 33, AT).unwrap_err();
            assert_eq!(error, Error::IndexRange { first: key.first(), len: 33 });
        }
        for pass in [passes(Activation::Silu), other_passes()].concat() {
            assert!(plan(&pass, Dtype::Bf16, 0, Addresses::default()).unwrap().is_none(), "{pass:?}");
        }
    }
}
