//! Numbers for the tests, and the exact sums that they are compared with.

use drop_activation::Element;
use drop_activation::fused::Shape;

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform on (-1, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() as i64 >> 11) as f64 / (1u64 << 52) as f64
    }

    /// Nearly normal, with variance 1.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() / 2.0
    }
}

/// What can be hard to sum.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Normal,
    /// Mean 1000, variance 1.
    FarFromZero,
    /// Large numbers that cancel each other, and small ones.
    Cancelling,
    /// One number of a million among normal ones, as the first of its channel.
    OneHuge,
    Equal,
    /// From 2^-30 to 2^10 in magnitude.
    ManyMagnitudes,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Normal, Self::FarFromZero, Self::Cancelling, Self::OneHuge, Self::Equal, Self::ManyMagnitudes];

    pub fn values<T: Element<Real: From<f32>>>(self, shape: Shape, seed: u64) -> Vec<T> {
        let mut random = Random(seed);
        let mut huge = vec![false; shape.channels()];
        let mut value = |i: usize| {
            let normal = random.normal();
            match self {
                Self::Normal => normal,
                Self::FarFromZero => 1000.0 + normal,
                Self::Cancelling => normal + if (i / shape.inner()).is_multiple_of(2) { 3e4 } else { -3e4 },
                Self::OneHuge => match std::mem::replace(&mut huge[shape.channel(i)], true) {
                    false => 6e4,
                    true => normal,
                },
                Self::Equal => 0.1 + shape.channel(i) as f64,
                Self::ManyMagnitudes => normal * 2f64.powi((random.bits() % 40) as i32 - 30),
            }
        };
        (0..shape.len()).map(|i| of_f64(value(i))).collect()
    }
}

/// Rounded to f32 first, which is as good here: the values are what they are.
pub fn of_f64<T: Element<Real: From<f32>>>(value: f64) -> T {
    T::from_real((value as f32).into())
}

/// A number as the sum of two that do not overlap, with some 106 bits.
#[derive(Clone, Copy, Default)]
pub struct Wide(f64, f64);

impl Wide {
    pub fn of(value: f64) -> Self {
        Self(value, 0.0)
    }

    /// Knuth's sum of two, with what its rounding left.
    fn two_sum(a: f64, b: f64) -> (f64, f64) {
        let sum = a + b;
        let of_b = sum - a;
        (sum, (a - (sum - of_b)) + (b - of_b))
    }

    pub fn plus(self, other: Self) -> Self {
        let (high, low) = Self::two_sum(self.0, other.0);
        let (high, low) = Self::two_sum(high, low + (self.1 + other.1));
        Self(high, low)
    }

    pub fn minus(self, other: Self) -> Self {
        self.plus(Self(-other.0, -other.1))
    }

    pub fn times(self, other: Self) -> Self {
        let product = self.0 * other.0;
        let low = self.0.mul_add(other.0, -product) + (self.0 * other.1 + self.1 * other.0);
        let (high, low) = Self::two_sum(product, low);
        Self(high, low)
    }

    pub fn value(self) -> f64 {
        self.0 + self.1
    }

    pub fn over(self, count: usize) -> Self {
        let divisor = count as f64;
        let high = self.value() / divisor;
        let rest = self.minus(Self::of(high).times(Self::of(divisor)));
        Self(high, rest.value() / divisor)
    }
}
