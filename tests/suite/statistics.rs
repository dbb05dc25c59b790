//! What the statistical tests share. They draw from fixed seeds, so that each passes always or never;
//! the limits say how seldom a perfect generator would have failed.

/// Deviations from the mean that a normal variable exceeds, on either side, with probability 2e-9. With
/// the some 20,000 comparisons of the suite, a perfect generator had 1 chance in 20,000 to fail any.
pub const LIMIT: f64 = 6.0;

/// `value` has this mean and standard deviation, and is normal to good accuracy.
pub fn assert_normal(what: &dyn Fn() -> String, value: f64, mean: f64, deviation: f64) {
    let z = (value - mean) / deviation;
    assert!(z.abs() <= LIMIT, "{}: {value} is {z:.1} standard deviations from {mean}", what());
}

/// Pearson's statistic over cells with these counts and expectations, none of them small: neither too
/// large nor, for that would be no chance either, too small (Wilson and Hilferty's approximation).
pub fn assert_chi_square(what: &dyn Fn() -> String, cells: &[(u64, f64)]) {
    let statistic: f64 = cells.iter().map(|&(count, mean)| (count as f64 - mean).powi(2) / mean).sum();
    let freedom = (cells.len() - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    assert_normal(&|| format!("{}, chi-square", what()), (statistic / freedom).cbrt(), 1.0 - spread, spread.sqrt());
}

/// Kolmogorov and Smirnov: these values are uniform on [0, 1). For large n the statistic exceeds 3.2
/// with probability 2 exp(-2 * 3.2^2) = 3e-9, and is below 0.2 even more seldom.
pub fn assert_uniform(what: &dyn Fn() -> String, values: &mut [f64]) {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let gap = |(i, v): (usize, &f64)| (v - i as f64 / n).abs().max(((i + 1) as f64 / n - v).abs());
    let statistic = values.iter().enumerate().map(gap).fold(0.0, f64::max) * n.sqrt();
    assert!((0.2..=3.2).contains(&statistic), "{}: Kolmogorov-Smirnov {statistic}", what());
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The unbiased one.
pub fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

/// `values` are independent measurements whose mean should be `mean`.
pub fn assert_mean(what: &dyn Fn() -> String, values: &[f64], expected: f64) {
    let deviation = (variance(values) / values.len() as f64).sqrt();
    assert_normal(what, mean(values), expected, deviation);
}
