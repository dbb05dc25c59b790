//! Numbers to test with: every element type by its bits, the values that break naive code, and a
//! generator that yields the same ones in every run.

use drop_activation::Element;
use drop_activation::half::{bf16, f16};

use super::activations::SMOOTH;

/// What the GPU backend asks of an element type besides.
#[cfg(feature = "cuda")]
pub trait OnDevice: drop_activation::cuda::cudarc::driver::DeviceRepr {}
#[cfg(feature = "cuda")]
impl<T: drop_activation::cuda::cudarc::driver::DeviceRepr> OnDevice for T {}
#[cfg(not(feature = "cuda"))]
pub trait OnDevice {}
#[cfg(not(feature = "cuda"))]
impl<T> OnDevice for T {}

/// An element type whose bits tests can see. They are carried as the low bits of a `u64`.
pub trait Bits: Element + OnDevice {
    const MANTISSA_BITS: u32;

    fn bits(self) -> u64;
    fn from_bits(bits: u64) -> Self;
    fn rounded(value: f64) -> Self;
    fn to_f64(self) -> f64;

    fn width() -> u32 {
        8 * Self::DTYPE.size() as u32
    }

    fn is_nan(self) -> bool {
        self.to_f64().is_nan()
    }
}

macro_rules! bits {
    ($type:ty, $bits:ty, $mantissa:literal, $from_f64:expr, $to_f64:expr) => {
        impl Bits for $type {
            const MANTISSA_BITS: u32 = $mantissa;

            fn bits(self) -> u64 {
                self.to_bits().into()
            }

            fn from_bits(bits: u64) -> Self {
                Self::from_bits(bits as $bits)
            }

            fn rounded(value: f64) -> Self {
                $from_f64(value)
            }

            fn to_f64(self) -> f64 {
                $to_f64(self)
            }
        }
    };
}

bits!(f32, u32, 23, |v| v as f32, f64::from);
bits!(f64, u64, 52, |v| v, |v| v);
bits!(f16, u16, 10, f16::from_f64, f16::to_f64);
bits!(bf16, u16, 7, bf16::from_f64, bf16::to_f64);

/// Both signs of zero, the ends of the subnormal and the normal range, infinity, NaNs (quiet and
/// signalling, with payloads), and where the smooth activations bend, vanish, saturate or underflow.
pub fn specials<T: Bits>() -> Vec<T> {
    let mantissa = (1 << T::MANTISSA_BITS) - 1;
    let quiet = 1 << (T::MANTISSA_BITS - 1);
    let infinity = (((1u64 << (T::width() - 1)) - 1) >> T::MANTISSA_BITS) << T::MANTISSA_BITS;
    let patterns = [
        0,
        1,
        mantissa,
        mantissa + 1,
        infinity - 1,
        infinity,
        infinity | 1,
        infinity | quiet,
        infinity | quiet | 5,
        infinity | mantissa,
    ];
    let values = [1e-8, 0.1, 0.5, 1.0, 2.0, 5.5, 9.0, 13.3, 17.3, 19.0, 38.5, 88.7, 103.9, 709.8, 745.2];
    let roots = SMOOTH.iter().flat_map(|row| [row.value.root, row.derivative.root]).flatten();
    let values = values.into_iter().chain(roots.map(f64::abs)).map(|v| T::rounded(v).bits());
    let sign = 1 << (T::width() - 1);
    patterns.into_iter().chain(values).flat_map(|bits| [T::from_bits(bits), T::from_bits(sign | bits)]).collect()
}

/// The spacing of T's numbers in the binade of `v`, or of the smallest normal numbers if that is lower.
pub fn ulp<T: Bits>(v: f64) -> f64 {
    let least_normal = 2 - (1 << (T::width() - T::MANTISSA_BITS - 2));
    let exponent = ((v.to_bits() >> 52 & 0x7FF) as i32 - 1023).max(least_normal) - T::MANTISSA_BITS as i32;
    // A subnormal power of two has a single bit.
    if exponent < -1022 { f64::from_bits(1 << (exponent + 1074)) } else { 2f64.powi(exponent) }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): nothing to do with the generator under test.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform on (0, 1).
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Mostly ordinary numbers, with special values and arbitrary bit patterns among them.
    pub fn values<T: Bits>(&mut self, len: usize) -> Vec<T> {
        let specials = specials::<T>();
        let value = |rng: &mut Self| match rng.below(8) {
            0 => specials[rng.below(specials.len())],
            1 => T::from_bits(rng.bits()),
            _ => T::rounded(2.0 * rng.normal()),
        };
        (0..len).map(|_| value(self)).collect()
    }

    /// The same without infinities, NaNs and overflows: for tests that do arithmetic on them.
    pub fn finite<T: Bits>(&mut self, len: usize) -> Vec<T> {
        self.values(len).into_iter().map(|v: T| if v.to_f64().abs() < 1e3 { v } else { T::rounded(-0.5) }).collect()
    }
}

/// Fails at the first element that differs. `same` says when two do not.
pub fn assert_each<T: Bits>(what: &dyn Fn() -> String, given: &[T], expected: &[T], same: impl Fn(T, T) -> bool) {
    assert_eq!(given.len(), expected.len(), "{}: length", what());
    if let Some(i) = (0..given.len()).find(|&i| !same(given[i], expected[i])) {
        let (g, e) = (given[i], expected[i]);
        panic!(
            "{}: element {i} of {} ({}) is {g:?} ({:#x}), expected {e:?} ({:#x})",
            what(),
            given.len(),
            T::DTYPE.name(),
            g.bits(),
            e.bits()
        );
    }
}

pub fn same_bits<T: Bits>(a: T, b: T) -> bool {
    a.bits() == b.bits()
}

/// Bit for bit, except that a NaN which comes out of arithmetic may be any NaN: processors differ in
/// the sign and payload they give it.
pub fn same_or_nan<T: Bits>(a: T, b: T) -> bool {
    a.bits() == b.bits() || (a.is_nan() && b.is_nan())
}
