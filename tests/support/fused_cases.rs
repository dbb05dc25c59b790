//! Passes over channels, launched as the library plans them on a machine that runs kernels on a CPU, and held to the
//! reference.

use drop_activation::cuda::{Addresses, FusedAddresses, Pass, launch, workspace_bytes};
use drop_activation::fused::{Before, Centred, Dz, Gradient, Linear, Preactivation, Rest, Shape, reference};
use drop_activation::{Activation, DropActivation, MaskKey, Real};

use crate::emulator::{Access, Buffer, Machine, Order, device_address};
use crate::support::activations;
use crate::support::data::{Bits, Rng, ulp};
use crate::support::guarded::Guarded;

/// The type of the arithmetic, as a type with bits.
pub trait Real64: Real + Bits {}
impl<R: Real + Bits> Real64 for R {}

/// What is wrong with a kernel.
pub enum Finding {
    Report(String),
    Numbers(String),
}

/// What is launched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Forward,
    Infer,
    Statistics,
    Sums,
    Backward,
}

/// How dz comes about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    Given,
    Training,
    Inference,
}

/// One pass.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub kind: Kind,
    pub source: Source,
    pub activation: Activation,
    pub p: f64,
    pub shape: (usize, usize, usize),
    /// By how many elements tensors, and by how many values vectors, are behind a multiple of 64 bytes.
    pub behind: (usize, usize),
    /// Scale, shift, residual; alpha, beta and gamma; dr.
    pub present: [bool; 5],
    pub in_place: bool,
    /// Blocks and threads of elementwise passes; those of the plan if `None`.
    pub geometry: Option<(u32, u32)>,
}

/// In each layout: with columns and what is left of them, with packs of two channels, by elements; and their sums of
/// one chunk and of more than 32.
fn shapes<T>() -> Vec<(usize, usize, usize)> {
    let pack = 16 / size_of::<T>();
    vec![
        (1100, 3 * pack, 1),
        (70, 2 * pack, 1),
        (140, 16 * pack, 1),
        (1, 600 * pack, 1),
        (33 * 1024 + 5, pack, 1),
        (3, 2, 40 * pack),
        (2, 3, 1024 + pack),
        (150, 2, pack),
        (1, 2, 34 * 1024),
        (50, 3, 49),
        (90, 5, pack + 3),
        (3000, 1, 1),
        (1, 1, 1),
        (700, 3, 1),
        (300, 17, 1),
        (400, 2, pack - 1),
    ]
}

/// Each kind over each shape, with other things present or absent for each.
pub fn cases<T: Bits>() -> Vec<Case> {
    let mut cases = Vec::new();
    for (s, shape) in shapes::<T>().into_iter().enumerate() {
        let large = shape.0 * shape.1 * shape.2 > 50_000;
        for (k, kind) in
            [Kind::Forward, Kind::Infer, Kind::Statistics, Kind::Sums, Kind::Backward].into_iter().enumerate()
        {
            let sources: &[Source] = match kind {
                Kind::Sums | Kind::Backward => &[Source::Given, Source::Training, Source::Inference],
                _ => &[Source::Training],
            };
            for (j, source) in sources.iter().enumerate() {
                // Smooth activations take long to emulate: each once for a few shapes.
                let smooth = Activation::ALL[1 + (s + k + j) % (Activation::ALL.len() - 1)];
                let activations = if large || s % 3 == 1 || kind == Kind::Statistics || *source == Source::Given {
                    vec![Activation::Relu]
                } else {
                    vec![Activation::Relu, smooth]
                };
                for (a, activation) in activations.into_iter().enumerate() {
                    let i = s + k + j + a;
                    // The first three are absent together, too.
                    let present = [i % 3 != 0, i % 2 == 0, i % 4 < 2, i % 4 != 1, (i + 1) % 4 != 0];
                    let p = [0.6, 0.95, 1.0, 0.0, 0.7][i % 5];
                    let geometry = [None, Some((1, 64)), Some((3, 256))][i % 3];
                    let behind = if i % 7 == 6 {
                        (1, 0)
                    } else if i % 7 == 4 {
                        (0, 1)
                    } else {
                        (0, 0)
                    };
                    let in_place = i % 2 == 1;
                    cases.push(Case {
                        kind,
                        source: *source,
                        activation,
                        p,
                        shape,
                        behind,
                        present,
                        in_place,
                        geometry,
                    });
                }
            }
        }
    }
    cases
}

/// Each entry point once or twice, by packs and by elements.
#[allow(dead_code)] // not every test binary launches on a GPU
pub fn few_cases<T: Bits>() -> Vec<Case> {
    let mut cases = Vec::new();
    let shape = (70, 32 / size_of::<T>(), 1);
    let case = Case {
        kind: Kind::Statistics,
        source: Source::Training,
        activation: Activation::Relu,
        p: 0.7,
        shape,
        behind: (0, 0),
        present: [true; 5],
        in_place: false,
        geometry: None,
    };
    cases.push(case);
    for activation in Activation::ALL {
        for kind in [Kind::Forward, Kind::Infer] {
            cases.push(Case { kind, activation, ..case });
        }
        for source in [Source::Training, Source::Inference] {
            cases.push(Case { kind: Kind::Sums, source, activation, ..case });
            cases.push(Case { kind: Kind::Backward, source, activation, ..case });
        }
    }
    // Without a mean.
    cases.push(Case { kind: Kind::Sums, present: [false; 5], ..case });
    cases
}

/// Ordinary numbers, zeros of both signs, and a few that are infinite or NaN.
fn tensor<T: Bits>(len: usize, seed: u64, hostile: bool) -> Vec<T> {
    let mut rng = Rng::new(seed);
    let specials = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    let value = |rng: &mut Rng| match rng.below(64) {
        0 if hostile => T::rounded(specials[rng.below(specials.len())]),
        1 => T::rounded(0.0),
        _ => T::rounded(1.5 * rng.normal() + 0.3),
    };
    (0..len).map(|_| value(&mut rng)).collect()
}

/// Makes all but the first of each accumulator so small that their squared distances from it vanish, though not their
/// sum's square: a variance is not below zero.
fn vanish<T: Bits>(shape: Shape, x: &mut [T]) {
    let tiny = if size_of::<T>() == 8 { 0.632 * 2f64.powi(-537) } else { 0.89 * 2f64.powi(-75) };
    for (i, x) in x.iter_mut().enumerate() {
        let t = i / (shape.channels() * shape.inner()) * shape.inner() + i % shape.inner();
        *x = T::rounded(if t % 1024 < 32 { 0.0 } else { tiny });
    }
}

fn vector<R: Real64>(channels: usize, seed: u64) -> Vec<R> {
    let mut rng = Rng::new(seed);
    let value = |rng: &mut Rng| if rng.below(9) == 0 { 0.0 } else { rng.normal() };
    (0..channels).map(|_| R::rounded(value(&mut rng))).collect()
}

/// What must come out.
#[derive(Default)]
struct Expected<T: Bits> {
    output: Option<Vec<T>>,
    /// How far an element of the output may be off; empty where it may not.
    tolerance: Vec<f64>,
    mask: Option<Vec<u32>>,
    results: [Option<Vec<T::Real>>; 2],
    /// The same for the results.
    tolerances: [Vec<f64>; 2],
}

/// Launches a case, in an order of lanes, and looks at all that was written. Returns the entry points.
pub fn run<T: Bits<Real: Real64>, M: Machine>(
    machine: &M,
    case: &Case,
    order: Order,
) -> Result<Vec<&'static str>, Finding> {
    let (outer, channels, inner) = case.shape;
    let shape = Shape::new(outer, channels, inner).unwrap();
    let n = shape.len();
    let op = DropActivation::new(case.activation, case.p).unwrap();
    let key = MaskKey::new(0x0123_4567_89AB_CDEF, 5).shard(1 << 20).unwrap();
    let elementwise = matches!(case.kind, Kind::Forward | Kind::Infer | Kind::Backward);
    let place = |seed| Guarded::new(&tensor::<T>(n, seed, elementwise), case.behind.0);
    let (mut x, mut dy, residual) = (place(1), place(2), place(3));
    if case.kind == Kind::Statistics && case.in_place {
        vanish(shape, x.slice_mut());
    }
    let of_channels = |seed| Guarded::new(&vector::<T::Real>(channels, seed), case.behind.1);
    let [scale, shift, alpha, beta, gamma, mean] = [11, 12, 13, 14, 15, 16].map(of_channels);
    let [has_scale, has_shift, has_residual, has_alpha, has_rest] = case.present;
    let is_sums = case.kind == Kind::Sums;
    // For sums the last two say whether there is a mean, and whether dr is wanted.
    let (has_mean, has_dr) = (has_rest, has_alpha);

    let before = Before {
        scale: has_scale.then_some(scale.slice()),
        shift: has_shift.then_some(shift.slice()),
        residual: has_residual.then_some(residual.slice()),
    };
    let z = Preactivation { x: x.slice(), before };
    let (forward, mask) = reference::forward(&op, key, shape, &z).unwrap();
    let (dz, by) = match case.source {
        Source::Given => (Dz::Given, Gradient::Given),
        Source::Training => (Dz::Training(op), Gradient::Training(&op, &mask, Some(z))),
        Source::Inference => (Dz::Inference(op), Gradient::Inference(&op, z)),
    };
    let centred = Centred { x: x.slice(), mean: mean.slice() };
    let rest = Rest { beta: beta.slice(), gamma: gamma.slice(), centred };
    let linear = Linear { alpha: has_alpha.then_some(alpha.slice()), rest: has_rest.then_some(rest) };

    let smooth = case.activation != Activation::Relu && case.source != Source::Given && case.kind != Kind::Statistics;
    let ulps = if smooth { 2.0 * activations::smooth(case.activation).bound + 2.0 } else { 0.0 };
    let of_real = |v: f64| ulps * ulp::<T::Real>(v);
    let rounded = |v: &T, inner: f64| if smooth { inner + 2.0 * ulp::<T>(v.to_f64()) } else { 0.0 };
    let expected = match case.kind {
        Kind::Forward => {
            let tolerance = forward.iter().map(|y| rounded(y, of_real(y.to_f64()))).collect();
            Expected {
                output: Some(forward.clone()),
                tolerance,
                mask: Some(mask.words().to_vec()),
                ..Default::default()
            }
        }
        Kind::Infer => {
            let y = reference::infer(&op, shape, &z).unwrap();
            // Identity and σ may cancel.
            let tolerance = y.iter().map(|y| rounded(y, of_real(y.to_f64().abs().max(16.0)))).collect();
            Expected { output: Some(y), tolerance, ..Default::default() }
        }
        Kind::Statistics => {
            let statistics = reference::statistics(shape, x.slice()).unwrap();
            Expected { results: [Some(statistics.mean), Some(statistics.variance)], ..Default::default() }
        }
        Kind::Sums => {
            let centred = has_mean.then_some(&centred);
            let (sums, dr) = reference::reduce(shape, dy.slice(), &by, centred, true).unwrap();
            // Of dz at most as large as dy, each off by some ulps; times at most 16.
            let bound = of_real(8.0) * shape.count() as f64;
            let off = |by: f64| if smooth { vec![by; channels] } else { Vec::new() };
            let dr = dr.filter(|_| has_dr);
            let tolerance = dr.iter().flatten().map(|v| rounded(v, of_real(8.0))).collect();
            let results = [Some(sums.gradient), sums.product];
            Expected {
                output: dr,
                tolerance,
                results,
                tolerances: [off(bound), off(16.0 * bound)],
                ..Default::default()
            }
        }
        Kind::Backward => {
            let dx = reference::backward(shape, dy.slice(), &by, &linear).unwrap();
            let tolerance = dx.iter().map(|v| rounded(v, 8.0 * of_real(8.0))).collect();
            Expected { output: Some(dx), tolerance, ..Default::default() }
        }
    };
    let pass = match case.kind {
        Kind::Forward => Pass::FusedForward { op, key, shape },
        Kind::Infer => Pass::FusedInfer { op, shape },
        Kind::Statistics => Pass::Statistics { shape },
        Kind::Sums => Pass::FusedSums { dz, shape },
        Kind::Backward => Pass::FusedBackward { dz, shape },
    };

    let mut output = Guarded::<T>::garbage(n, case.behind.0);
    let words = mask.words();
    let mask_written = vec![0xA5A5_A5A5; words.len()];
    let mut results = [0, 1].map(|_| Guarded::<T::Real>::garbage(channels, case.behind.1));
    let mut workspace = vec![T::Real::rounded(f64::NAN); workspace_bytes(&pass, T::DTYPE) / size_of::<T::Real>()];
    let forwards = pass.is_forward();
    let in_place = case.in_place && expected.output.is_some();
    let input = if forwards { x.slice() } else { dy.slice() };
    let optional = |present: bool, slice: &[T::Real]| if present { device_address(slice.as_ptr()) } else { 0 };
    let reads_x = pass.saved().is_some() || (is_sums && has_mean) || (case.kind == Kind::Backward && has_rest);
    let at = FusedAddresses {
        tensors: Addresses {
            input: device_address(input.as_ptr()),
            saved: if !forwards && reads_x { device_address(x.slice().as_ptr()) } else { 0 },
            output: match expected.output {
                None => 0,
                Some(_) if in_place => device_address(input.as_ptr()),
                Some(_) => device_address(output.slice().as_ptr()),
            },
            mask: device_address(if pass.writes_mask() { mask_written.as_ptr() } else { words.as_ptr() }),
            ..Addresses::default()
        },
        residual: if has_residual { device_address(residual.slice().as_ptr()) } else { 0 },
        scale: optional(has_scale, scale.slice()),
        shift: optional(has_shift, shift.slice()),
        mean: optional(if is_sums { has_mean } else { has_rest }, mean.slice()),
        alpha: optional(has_alpha, alpha.slice()),
        beta: optional(has_rest, beta.slice()),
        gamma: optional(has_rest, gamma.slice()),
        results: [0, 1].map(|i| device_address(results[i].slice().as_ptr())),
        workspace: device_address(workspace.as_ptr()),
    };
    let launches = launch::plan_all(&pass, T::DTYPE, n, &at).unwrap();

    // What each launch may touch: all of it is given, or the launch is wrong.
    let z_is_read = pass.computes_z();
    let (x_out, dy_out) = (in_place && forwards, in_place && !forwards);
    for (i, launch) in launches.iter().flatten().enumerate() {
        let mut buffers = Vec::new();
        let is_total = launch.entry.name().contains("_total_");
        // SAFETY: the memory is that of vectors and slices that live until the launch is done and that nobody else
        // uses.
        let raw = |name, at: *const u8, bytes, access| unsafe { Buffer::raw(name, at.cast_mut(), bytes, access) };
        macro_rules! buffer {
            ($name:literal, $slice:expr, $access:expr) => {
                buffers.push(raw($name, $slice.as_ptr().cast(), size_of_val($slice), $access))
            };
        }
        if is_total {
            buffer!("workspace", &workspace[..], Access::Input);
            buffer!("first result", results[0].slice(), Access::Output);
            if expected.results[1].is_some() {
                buffer!("second result", results[1].slice(), Access::Output);
            }
        } else {
            if forwards || reads_x {
                buffer!("x", x.slice(), if x_out { Access::InPlace } else { Access::Input });
            }
            if !forwards {
                buffer!("dy", dy.slice(), if dy_out { Access::InPlace } else { Access::Input });
            }
            if expected.output.is_some() && !in_place {
                buffer!("output", output.slice(), Access::Output);
            }
            if pass.reads_mask() {
                buffer!("mask", words, Access::Input);
            } else if pass.writes_mask() {
                buffer!("mask", &mask_written[..], Access::Output);
            }
            if z_is_read && has_residual {
                buffer!("residual", residual.slice(), Access::Input);
            }
            if z_is_read {
                buffer!("scale", scale.slice(), Access::Input);
                buffer!("shift", shift.slice(), Access::Input);
            }
            buffer!("mean", mean.slice(), Access::Input);
            buffer!("alpha", alpha.slice(), Access::Input);
            buffer!("beta", beta.slice(), Access::Input);
            buffer!("gamma", gamma.slice(), Access::Input);
            if pass.results().is_some() {
                // As large as the kernel's number of sums.
                let used = match case.kind {
                    Kind::Statistics => workspace.len(),
                    _ if launch.entry.name().contains("_sums_") => workspace.len() / 2,
                    _ => workspace.len(),
                };
                buffer!("workspace", &workspace[..used], Access::Output);
            }
        }
        let (grid, block) = case.geometry.unwrap_or((launch.grid, launch.block));
        let order = if i == 0 { order } else { Order::Reversed };
        machine.launch(launch.entry.name(), grid, block, &launch.args, &buffers, order).map_err(Finding::Report)?;
    }
    let numbers = |what: String| Err(Finding::Numbers(format!("{pass:?} over {}: {what}", T::DTYPE.name())));
    if let Some(expected_output) = &expected.output {
        let given = match (in_place, forwards) {
            (true, true) => x.slice_mut(),
            (true, false) => dy.slice_mut(),
            _ => output.slice_mut(),
        };
        if let Some((i, given, wanted)) = first_difference(given, expected_output, &expected.tolerance) {
            return numbers(format!("element {i} is {given:?}, not {wanted:?}"));
        }
    }
    if let Some(words) = expected.mask
        && let Some(w) = (0..words.len()).find(|&w| words[w] != mask_written[w])
    {
        return numbers(format!("mask word {w} is {:08X}, not {:08X}", mask_written[w], words[w]));
    }
    for (i, wanted) in expected.results.iter().enumerate() {
        let Some(wanted) = wanted else { continue };
        if let Some((c, given, wanted)) = first_difference(results[i].slice_mut(), wanted, &expected.tolerances[i]) {
            return numbers(format!("result {i} of channel {c} is {given:?}, not {wanted:?}"));
        }
    }
    workspace.clear();
    Ok(launches.iter().flatten().map(|launch| launch.entry.name()).collect())
}

/// The first number that is neither the wanted one nor within its tolerance. NaNs are alike.
fn first_difference<T: Bits>(given: &[T], wanted: &[T], tolerance: &[f64]) -> Option<(usize, T, T)> {
    let same = |i: usize| {
        let (given, wanted) = (given[i], wanted[i]);
        let near = tolerance.get(i).is_some_and(|t| *t > 0.0 && (given.to_f64() - wanted.to_f64()).abs() <= *t);
        given.bits() == wanted.bits() || given.is_nan() && wanted.is_nan() || near
    };
    (0..wanted.len()).find(|&i| !same(i)).map(|i| (i, given[i], wanted[i]))
}
