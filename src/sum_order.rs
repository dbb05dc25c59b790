//! The order of sums (section 4 of `docs/fused.md`): a function of the number of elements that a channel has, and of
//! nothing else.

use crate::real::Real;

/// Accumulators of a chunk, and groups of chunks.
pub(crate) const ACCUMULATORS: usize = 32;

/// Elements of a channel that make up a chunk: each accumulator adds up to 32 of them.
pub(crate) const CHUNK: usize = 32 * ACCUMULATORS;

/// How many chunks a channel of `count` elements has.
pub(crate) const fn chunks(count: usize) -> usize {
    count.div_ceil(CHUNK)
}

/// Combines the first `present` of 32 values to one by halving: with s = 16, 8, 4, 2, 1, value i takes up value i + s
/// for each i below s, if that is present.
pub(crate) fn halve<V: Copy>(mut values: [V; ACCUMULATORS], present: usize, combine: impl Fn(V, V) -> V) -> V {
    // From the first s on that has anything to take up: a tensor may have thousands of channels with a chunk or two.
    let mut s = present.next_power_of_two() / 2;
    while s > 0 {
        for i in 0..s.min(present - s) {
            values[i] = combine(values[i], values[i + s]);
        }
        s /= 2;
    }
    values[0]
}

/// What is known of some elements of a channel: their number, `first`, which is one of them, their mean as a
/// `difference` from it, and the sum of their squared distances from the mean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments<R> {
    pub(crate) count: R,
    pub(crate) first: R,
    pub(crate) difference: R,
    pub(crate) squares: R,
}

impl<R: Real> Moments<R> {
    /// Of `count` elements, from the sums of their distances from `first` and of these squared.
    #[inline(always)]
    pub(crate) fn of_sums(count: R, first: R, distances: R, squared: R) -> Self {
        let difference = distances / count;
        let squares = (R::ZERO - distances).mul_add(difference, squared);
        // Rounding may leave less than nothing.
        let squares = if squares < R::ZERO { R::ZERO } else { squares };
        Self { count, first, difference, squares }
    }

    pub(crate) fn to_f64(self) -> Moments<f64> {
        let Self { count, first, difference, squares } = self;
        Moments {
            count: count.to_f64(),
            first: first.to_f64(),
            difference: difference.to_f64(),
            squares: squares.to_f64(),
        }
    }

    /// Of both (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
    /// 1979).
    #[inline(always)]
    pub(crate) fn with(self, other: Self) -> Self {
        let share = other.count / (self.count + other.count);
        self.with_share(other, share)
    }

    /// [`Moments::with`], given the other's share of all elements.
    #[inline(always)]
    pub(crate) fn with_share(self, other: Self, share: R) -> Self {
        let apart = (other.first - self.first) + (other.difference - self.difference);
        Self {
            count: self.count + other.count,
            first: self.first,
            difference: apart.mul_add(share, self.difference),
            squares: (apart * apart).mul_add(self.count * share, self.squares + other.squares),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which values end up in the result, and in which nesting.
    #[test]
    fn halves_are_combined() {
        let words: [String; 32] = std::array::from_fn(|i| i.to_string());
        let leaked: [&'static str; 32] = words.map(|word| &*word.leak());
        let pair = |a: &'static str, b: &'static str| -> &'static str { format!("({a}+{b})").leak() };
        assert_eq!(halve(leaked, 1, pair), "0");
        assert_eq!(halve(leaked, 3, pair), "((0+2)+1)");
        assert_eq!(halve(leaked, 5, pair), "(((0+4)+2)+(1+3))");
        assert_eq!(halve(leaked, 17, pair).matches("(0+16)").count(), 1);
        assert!(halve(leaked, 32, pair).starts_with("(((((0+16)+(8+24))+"));
    }
}
