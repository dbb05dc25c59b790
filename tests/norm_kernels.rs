//! The kernels that sum over channels have the bits of the reference, as sources and as nvcc compiles them, in every
//! layout and any order of lanes. (For the smooth nonlinearities, whose last bits may differ, they are near it.)
#![cfg(feature = "cuda")]

mod emulator;
mod ptx_machine;

use std::ops::Range;
use std::sync::OnceLock;

use drop_activation::cuda::launch;
use drop_activation::fused::{Before, Centred, Gradient, Preactivation, Shape, reference};
use drop_activation::half::{bf16, f16};
use drop_activation::{Activation, DropActivation, Dtype, Element, MaskKey, Real};
use emulator::{Buffer, BuildError, Emulator, Machine, Order, device_address};
use ptx_machine::{Ptx, compile};

/// `kernels/fused/drop_activation.h` has the same.
#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    pass: launch::da_args,
    channels: u64,
    inner: u64,
    count: u64,
    chunks: u64,
    residual: u64,
    scale: u64,
    shift: u64,
    mean: u64,
    partial: u64,
    results: [u64; 2],
    layout: u64,
}

const NOTHING: Args = Args {
    pass: launch::NOTHING,
    channels: 0,
    inner: 0,
    count: 0,
    chunks: 0,
    residual: 0,
    scale: 0,
    shift: 0,
    mean: 0,
    partial: 0,
    results: [0; 2],
    layout: 0,
};

/// The kernels, as sources and as nvcc compiles them for 7.5 and 9.0.
struct Kernels {
    sources: Emulator,
    compiled: Vec<Ptx>,
}

fn kernels() -> Option<&'static Kernels> {
    static BUILT: OnceLock<Option<Kernels>> = OnceLock::new();
    let build = || {
        let folder = emulator::root().join("kernels/fused");
        assert_eq!(emulator::untested(&folder), [""; 0], "words of CUDA that nobody compares with the compiler");
        let sources = match Emulator::build(&folder) {
            Ok(emulator) => emulator,
            Err(BuildError::Unavailable(why)) => {
                emulator::tell_skipped(&why);
                return None;
            }
            Err(BuildError::Failed(why)) => panic!("{why}"),
        };
        let compiled = match compile::nvcc() {
            Ok(_) => [75, 90].map(|c| compile::of_folder(&folder, c).unwrap_or_else(|e| panic!("{e}"))).into(),
            Err(why) => {
                compile::tell_skipped(why);
                Vec::new()
            }
        };
        Some(Kernels { sources, compiled })
    };
    BUILT.get_or_init(build).as_ref()
}

/// Elements at an address that is so many elements behind a multiple of 16 bytes.
struct Placed<T> {
    memory: Vec<T>,
    range: Range<usize>,
}

impl<T: Copy + Default> Placed<T> {
    fn new(values: &[T], behind: usize) -> Self {
        let mut memory = vec![T::default(); values.len() + 32];
        let start = memory.as_ptr().align_offset(16) + behind;
        memory[start..start + values.len()].copy_from_slice(values);
        Self { memory, range: start..start + values.len() }
    }

    fn values(&self) -> &[T] {
        &self.memory[self.range.clone()]
    }

    fn values_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.range.clone()]
    }
}

const ELEMENTS: u64 = 0;
const ROWS: u64 = 1;
const PLANES: u64 = 2;

struct Launcher<'a, M> {
    machine: &'a M,
    shape: Shape,
    order: Order,
}

impl<M: Machine> Launcher<'_, M> {
    /// Both launches. Gives the results of a kernel with so many sums.
    fn run<T: Element>(
        &self,
        kernel: &str,
        layout: u64,
        args: Args,
        buffers: Vec<Buffer<'_>>,
        sums: usize,
    ) -> [Vec<T::Real>; 2] {
        let Self { machine, shape, order } = *self;
        let chunks = shape.count().div_ceil(1024);
        let mut partial = vec![T::Real::ZERO; sums * shape.channels() * chunks];
        let args = Args {
            channels: shape.channels() as u64,
            inner: shape.inner() as u64,
            count: shape.count() as u64,
            chunks: chunks as u64,
            partial: device_address(partial.as_ptr()),
            layout,
            ..args
        };
        let mut all = buffers;
        all.push(Buffer::output("partial", &mut partial));
        let entry = format!("{kernel}_{}", T::DTYPE.name());
        let done = machine.launch(&entry, 2, 64, &args, &all, order);
        done.unwrap_or_else(|report| panic!("{report} ({shape:?})"));
        drop(all);

        let results = if kernel.starts_with("da_sums") { 1 } else { 2 };
        let mut vectors = [vec![T::Real::ZERO; shape.channels()], vec![T::Real::ZERO; shape.channels()]];
        let args = Args { results: [0, 1].map(|i| device_address(vectors[i].as_ptr())), ..args };
        let [first, second] = &mut vectors;
        let mut all = vec![Buffer::input("partial", &partial), Buffer::output("result 0", first)];
        if results == 2 {
            all.push(Buffer::output("result 1", second));
        }
        let real = if T::DTYPE == Dtype::F64 { "f64" } else { "f32" };
        let total = match kernel {
            "da_moments" => "da_moments_total",
            _ if results == 1 => "da_sums_total",
            _ => "da_products_total",
        };
        let done = machine.launch(&format!("{total}_{real}"), 1, 96, &args, &all, order);
        done.unwrap_or_else(|report| panic!("{report} ({shape:?})"));
        drop(all);
        vectors
    }
}

fn bits<R: Real>(values: &[R]) -> Vec<u64> {
    values.iter().map(|value| value.to_f64().to_bits()).collect()
}

fn numbers<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::from_real(T::Real::from_f64((state as i64 >> 40) as f64 / f64::from(1 << 21) + 1.0))
    };
    (0..len).map(|_| next()).collect()
}

/// Shapes, the layouts that they allow, and by how many elements their tensors are out of place.
fn cases<T: Element>() -> Vec<(Shape, u64, usize)> {
    let shape = |outer, channels, inner| Shape::new(outer, channels, inner).unwrap();
    let pack = 16 / size_of::<T>();
    let mut cases = vec![
        (shape(70, 2 * pack, 1), ROWS, 0),
        (shape(1100, 3 * pack, 1), ROWS, 0),
        (shape(1, 9 * pack, 1), ROWS, 0),
        (shape(33 * 1024 + 5, pack, 1), ROWS, 0),
        (shape(3, 2, 40 * pack), PLANES, 0),
        (shape(1, 1, 640 * pack), PLANES, 0),
        (shape(2, 3, 1024 + pack), PLANES, 0),
        (shape(150, 2, pack), PLANES, 0),
        (shape(1, 2, 34 * 1024), PLANES, 0),
        (shape(1, 1, 1), ELEMENTS, 0),
        (shape(33, 3, 1), ELEMENTS, 0),
        (shape(1500, 2, 1), ELEMENTS, 0),
        (shape(5, 3, 49), ELEMENTS, 0),
        (shape(2, 2, 1100), ELEMENTS, 0),
    ];
    // What could go by packs does not have to, and cannot at other addresses.
    cases.push((shape(70, 2 * pack, 1), ELEMENTS, 1));
    cases.push((shape(3, 2, 40 * pack), ELEMENTS, 1));
    cases
}

fn moments<T: Element>(machine: &impl Machine, order: Order) {
    // All but the first of each accumulator are so small that their squared distances from it vanish, though not their
    // sum's square: a variance is not below zero.
    let tiny = if T::DTYPE == Dtype::F64 { 0.632 * 2f64.powi(-537) } else { 0.89 * 2f64.powi(-75) };
    let vanishing = |shape: Shape| -> Vec<T> {
        let t = |i: usize| i / (shape.channels() * shape.inner()) * shape.inner() + i % shape.inner();
        let value = |i: usize| if t(i) % 1024 < 32 { 0.0 } else { tiny };
        (0..shape.len()).map(|i| T::from_real(T::Real::from_f64(value(i)))).collect()
    };
    let of_both = |case: (Shape, u64, usize)| [(case, numbers::<T>(case.0.len(), 1)), (case, vanishing(case.0))];
    for ((shape, layout, behind), values) in cases::<T>().into_iter().flat_map(of_both) {
        let x = Placed::new(&values, behind);
        let x_at = device_address(x.values().as_ptr()) as *const _;
        let pass = launch::da_args { n: shape.len() as u64, x: x_at, ..launch::NOTHING };
        let args = Args { pass, ..NOTHING };
        let buffers = vec![Buffer::input("x", x.values())];
        let launcher = Launcher { machine, shape, order };
        let [mean, variance] = launcher.run::<T>("da_moments", layout, args, buffers, 3);
        let expected = reference::statistics(shape, x.values()).unwrap();
        let what = format!("{} {shape:?}, layout {layout}, x from {:?}", T::DTYPE.name(), values[0]);
        assert_eq!(bits(&mean), bits(&expected.mean), "{what}: mean");
        assert_eq!(bits(&variance), bits(&expected.variance), "{what}: variance");
    }
}

fn gradients<T: Element>(machine: &impl Machine, order: Order) {
    for (i, (shape, layout, behind)) in cases::<T>().into_iter().enumerate() {
        let place = |seed| Placed::new(&numbers::<T>(shape.len(), seed), behind);
        let (x, dy, residual) = (place(1), place(2), place(3));
        let vector = |factor: f64| -> Vec<T::Real> {
            (0..shape.channels()).map(|c| T::Real::from_f64(factor * (c as f64 - 3.0) + 0.5)).collect()
        };
        let (mean, scale, shift) = (vector(0.01), vector(0.1), vector(-0.2));
        let activations = if i % 3 == 0 { &Activation::ALL[..] } else { &[Activation::Relu, Activation::Gelu] };
        for (activation, (product, store, bits_read)) in activations.iter().flat_map(|a| {
            [(true, true, true), (false, false, true), (true, false, false), (false, true, false)].map(|c| (*a, c))
        }) {
            let smooth = activation != Activation::Relu;
            if smooth && !(product && bits_read) {
                continue;
            }
            let op = DropActivation::new(activation, 0.6).unwrap();
            let before = Before {
                scale: (i % 2 == 0).then_some(&scale[..]),
                shift: (i % 4 < 2).then_some(&shift[..]),
                residual: (i % 5 != 0).then_some(residual.values()),
            };
            let z = Preactivation { x: x.values(), before };
            let (_, mask) = reference::forward(&op, MaskKey::new(5, 6), shape, &z).unwrap();
            let by = if bits_read { Gradient::Training(&op, &mask, smooth.then_some(z)) } else { Gradient::Given };
            let centred = Centred { x: x.values(), mean: &mean };
            let (sums, dr) = reference::reduce(shape, dy.values(), &by, product.then_some(&centred), true).unwrap();

            let kernel = match (product, bits_read) {
                (false, false) => "da_sums".to_owned(),
                (false, true) => "da_sums_relu".to_owned(),
                (true, false) => "da_products".to_owned(),
                (true, true) => format!("da_products_{}", activation.name()),
            };
            let mut out = Placed::new(&numbers::<T>(shape.len(), 9), behind);
            let optional = |given: bool, at: u64| if given { at } else { 0 };
            let pass = launch::da_args {
                n: shape.len() as u64,
                x: optional(product, device_address(x.values().as_ptr())) as *const _,
                dy: device_address(dy.values().as_ptr()) as *const _,
                out: optional(store, device_address(out.values().as_ptr())) as *mut _,
                mask: device_address(mask.words().as_ptr()) as *mut _,
                ..launch::NOTHING
            };
            let args = Args {
                pass,
                mean: device_address(mean.as_ptr()),
                scale: optional(before.scale.is_some(), device_address(scale.as_ptr())),
                shift: optional(before.shift.is_some(), device_address(shift.as_ptr())),
                residual: optional(before.residual.is_some(), device_address(residual.values().as_ptr())),
                ..NOTHING
            };
            let mut buffers = vec![
                Buffer::input("dy", dy.values()),
                Buffer::input("mask", mask.words()),
                Buffer::input("mean", &mean),
                Buffer::input("scale", &scale),
                Buffer::input("shift", &shift),
                Buffer::input("residual", residual.values()),
            ];
            if product {
                buffers.push(Buffer::input("x", x.values()));
            }
            if store {
                buffers.push(Buffer::output("dr", out.values_mut()));
            }
            let launcher = Launcher { machine, shape, order };
            let given = launcher.run::<T>(&kernel, layout, args, buffers, if product { 2 } else { 1 });
            let what = format!("{kernel} {} {shape:?}, layout {layout}", T::DTYPE.name());
            let expected = [Some(&sums.gradient), sums.product.as_ref()];
            for (s, (given, expected)) in given.iter().zip(expected).enumerate() {
                let Some(expected) = expected else { continue };
                if smooth {
                    // Sums of numbers of about 1, of which each may be off by some ulps.
                    let unit = if T::DTYPE == Dtype::F64 { 1e-14 } else { 1e-6 };
                    let bound = unit * 40.0 * shape.count() as f64;
                    for (c, (given, expected)) in given.iter().zip(expected).enumerate() {
                        let error = (given.to_f64() - expected.to_f64()).abs();
                        assert!(error <= bound, "{what}: sum {s} of channel {c} is off by {error:e}");
                    }
                } else {
                    assert_eq!(bits(given), bits(expected), "{what}: sum {s}");
                }
            }
            if store {
                for (given, expected) in out.values().iter().zip(dr.unwrap()) {
                    let (given, expected) = (given.to_real().to_f64(), expected.to_real().to_f64());
                    let ulp = match T::DTYPE {
                        Dtype::Bf16 => 1e-2,
                        Dtype::F16 => 1e-3,
                        Dtype::F32 => 1e-6,
                        Dtype::F64 => 1e-14,
                    };
                    let near = smooth && (given - expected).abs() <= ulp * expected.abs();
                    assert!(near || given.to_bits() == expected.to_bits(), "{what}: dr {given} {expected}");
                }
            }
        }
    }
}

macro_rules! types {
    ($($test:ident)*) => {$(
        mod $test {
            use super::*;

            fn on_all_machines<T: Element>() {
                let Some(kernels) = kernels() else { return };
                for order in Order::ALL {
                    super::$test::<T>(&kernels.sources, order);
                }
                for (ptx, order) in kernels.compiled.iter().zip([Order::Reversed, Order::Random(3)]) {
                    super::$test::<T>(ptx, order);
                }
            }

            #[test]
            fn f32() {
                on_all_machines::<f32>();
            }

            #[test]
            fn f64() {
                on_all_machines::<f64>();
            }

            #[test]
            fn f16() {
                on_all_machines::<super::f16>();
            }

            #[test]
            fn bf16() {
                on_all_machines::<super::bf16>();
            }
        }
    )*};
}

types!(moments gradients);
