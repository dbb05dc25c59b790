//! Means with 95 % confidence intervals.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, StudentsT};

/// A mean, and how far the 95 % interval of Student's t reaches to either side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean of the sample.
    pub mean: f64,
    /// Half of the interval's width; nothing from a single value.
    pub half: Option<f64>,
    /// The size of the sample.
    pub count: usize,
}

impl Interval {
    /// Of independent values.
    pub fn of(values: &[f64]) -> Self {
        Self::at_level(values, 0.95)
    }

    /// With another confidence than 95 %: for several intervals that shall all hold at once.
    pub fn at_level(values: &[f64], level: f64) -> Self {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let half = (count > 1).then(|| {
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
            quantile(0.5 + level / 2.0, count - 1) * (variance / count as f64).sqrt()
        });
        Self { mean, half, count }
    }

    /// Of the differences `a - b` of values that belong together pair by pair.
    pub fn of_differences(a: &[f64], b: &[f64]) -> Self {
        Self::of(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
    }

    /// The lower end; the mean where there is no interval.
    pub fn low(&self) -> f64 {
        self.mean - self.half.unwrap_or(0.0)
    }

    /// The upper end.
    pub fn high(&self) -> f64 {
        self.mean + self.half.unwrap_or(0.0)
    }

    /// What a difference of errors says: of `a - b`, whether a is better.
    pub fn verdict(&self) -> &'static str {
        match self.half {
            None => "one seed",
            Some(_) if self.high() < 0.0 => "better",
            Some(_) if self.low() > 0.0 => "worse",
            Some(_) => "not told apart",
        }
    }

    /// The same without judging: which of the two is greater.
    pub fn direction(&self) -> &'static str {
        match self.verdict() {
            "better" => "lower",
            "worse" => "higher",
            other => other,
        }
    }

    /// Whether the interval holds `value`.
    pub fn contains(&self, value: f64) -> bool {
        (self.low()..=self.high()).contains(&value)
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        match self.half {
            Some(half) => write!(f, "{:.digits$} ± {half:.digits$}", self.mean),
            None => write!(f, "{:.digits$}", self.mean),
        }
    }
}

/// The value in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

/// How likely `count` fair coins are to fall as unevenly as `heads` of them being heads, to either side.
pub fn sign_test(heads: usize, count: usize) -> f64 {
    let fair = Binomial::new(0.5, count as u64).expect("a probability");
    (2.0 * fair.cdf(heads.min(count - heads) as u64)).min(1.0)
}

fn quantile(probability: f64, freedom: usize) -> f64 {
    StudentsT::new(0.0, 1.0, freedom as f64).expect("degrees of freedom from 1").inverse_cdf(probability)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles from the tables in any textbook.
    #[test]
    fn quantiles_are_the_tables() {
        for (probability, freedom, expected) in
            [(0.975, 1, 12.706), (0.975, 4, 2.776), (0.975, 19, 2.093), (0.95, 9, 1.833), (0.995, 30, 2.750)]
        {
            assert!((quantile(probability, freedom) - expected).abs() < 6e-4, "{probability} {freedom}");
        }
    }

    #[test]
    fn an_interval_by_hand() {
        let interval = Interval::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((interval.mean, interval.count), (3.0, 5));
        assert!((interval.half.expect("five values") - 2.776 * 0.5f64.sqrt()).abs() < 1e-3);
        assert!(interval.contains(1.1) && !interval.contains(1.0));
        assert_eq!(Interval::of(&[7.0]).half, None);
        assert_eq!(Interval::of_differences(&[3.0, 5.0], &[1.0, 3.0]).half, Some(0.0));
        assert_eq!(format!("{:.1}", Interval::of(&[7.0])), "7.0");
    }

    #[test]
    fn medians_and_signs_by_hand() {
        assert_eq!([median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])], [2.0, 2.5]);
        assert!((sign_test(5, 5) - 2.0 / 32.0).abs() < 1e-12);
        assert!((sign_test(1, 4) - 10.0 / 16.0).abs() < 1e-12);
        assert_eq!(sign_test(2, 4), 1.0);
    }

    #[test]
    fn verdicts_need_an_interval_without_zero() {
        let verdict = |mean, half| Interval { mean, half, count: 3 }.verdict();
        assert_eq!(verdict(-2.0, Some(1.0)), "better");
        assert_eq!(verdict(2.0, Some(1.0)), "worse");
        assert_eq!([verdict(-1.0, Some(1.0)), verdict(0.5, Some(1.0))], ["not told apart"; 2]);
        assert_eq!(verdict(-2.0, None), "one seed");
    }
}
