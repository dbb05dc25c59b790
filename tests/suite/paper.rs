//! The paper's own claims, through the operation itself: Property 5.1, Property 5.2, and that inference
//! is the average of training. The CPU backend computes it; the other backends have the same numbers.

use drop_activation::{Activation, DropActivation, MaskKey, RRelu, cpu};

use crate::data::Rng;
use crate::statistics::{assert_mean, assert_normal, mean, variance};

/// A network with one hidden layer, y = W2 f(W1 x), and data to fit (the paper's equation 7).
struct Network {
    second: Vec<Vec<f64>>,
    /// For each training sample the hidden layer's input v = W1 x and the target.
    samples: Vec<(Vec<f64>, Vec<f64>)>,
}

impl Network {
    fn new(inputs: usize, hidden: usize, outputs: usize, samples: usize) -> Self {
        let mut rng = Rng::new(71);
        let mut vector = |len: usize| -> Vec<f64> { (0..len).map(|_| rng.normal()).collect() };
        let first: Vec<Vec<f64>> = (0..hidden).map(|_| vector(inputs)).collect();
        let second = (0..outputs).map(|_| vector(hidden)).collect();
        let samples = (0..samples).map(|_| (times(&first, &vector(inputs)), vector(outputs))).collect();
        Self { second, samples }
    }

    /// The same with as many outputs as hidden units and orthogonal columns in W2: a reflection, with
    /// columns of different lengths.
    fn orthogonal(inputs: usize, hidden: usize, samples: usize) -> Self {
        let mut network = Self::new(inputs, hidden, hidden, samples);
        let u = network.second[0].clone();
        let square: f64 = u.iter().map(|u| u * u).sum();
        for (i, row) in network.second.iter_mut().enumerate() {
            for (j, w) in row.iter_mut().enumerate() {
                *w = (f64::from(i == j) - 2.0 * u[i] * u[j] / square) * (0.5 + j as f64 / 4.0);
            }
        }
        network
    }

    /// ||W2 h - y||^2 for the hidden layer's output h.
    fn loss(&self, h: &[f64], y: &[f64]) -> f64 {
        squared_distance(&times(&self.second, h), y)
    }

    /// What Drop-Activation adds to the loss, but for the coefficient (1-p)/p: the sum over the hidden
    /// units of ||(column of W2) (v - r_p(v))||^2.
    fn penalty(&self, v: &[f64], inferred: &[f64]) -> f64 {
        let squares = |row: &Vec<f64>| -> f64 { (0..v.len()).map(|i| (row[i] * (v[i] - inferred[i])).powi(2)).sum() };
        self.second.iter().map(squares).sum()
    }

    /// The paper's form of it (equation 11): ||W2 v - W2 r_p(v)||^2.
    fn printed_penalty(&self, v: &[f64], inferred: &[f64]) -> f64 {
        squared_distance(&times(&self.second, v), &times(&self.second, inferred))
    }

    /// The loss averaged over all keep patterns, each with its probability p^k (1-p)^(d-k).
    fn average_loss(&self, patterns: &[MaskKey], p: f64, v: &[f64], y: &[f64]) -> f64 {
        let term = |(pattern, key): (usize, &MaskKey)| {
            let mut h = v.to_vec();
            cpu::forward(&half(), *key, &mut h).unwrap();
            let kept = pattern.count_ones() as i32;
            p.powi(kept) * (1.0 - p).powi(v.len() as i32 - kept) * self.loss(&h, y)
        };
        patterns.iter().enumerate().map(term).sum()
    }
}

fn times(matrix: &[Vec<f64>], v: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum()).collect()
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

fn infer(p: f64, v: &[f64]) -> Vec<f64> {
    let mut h = v.to_vec();
    cpu::infer(&DropActivation::relu(p).unwrap(), &mut h).unwrap();
    h
}

/// All 2^d keep patterns of d elements: keys under which the operation itself draws them.
fn patterns(d: usize) -> Vec<MaskKey> {
    let mut keys = vec![None; 1 << d];
    let mut missing = keys.len();
    let mut offset = 0;
    while missing > 0 {
        let key = MaskKey::new(72, offset);
        let pattern = cpu::keep_mask(&half(), key, d).unwrap()[0] as usize;
        missing -= usize::from(keys[pattern].replace(key).is_none());
        offset += 1;
    }
    keys.into_iter().flatten().collect()
}

fn half() -> DropActivation {
    DropActivation::relu(0.5).unwrap()
}

/// Property 5.1 by enumeration: the loss averaged over all keep patterns is the loss of the inference
/// network plus (1-p)/p times the penalty.
///
/// The appendix derives the penalty as the trace of W2 diag(v) (I-D)^2 diag(v) W2^T, which is the sum over
/// the hidden units, and then writes ||W2 (I-D) v||^2 for it, which has the products of different units
/// as well. The two agree where the columns of W2 are orthogonal, and there the property holds as printed.
/// In general the sum is right, as masks that are drawn independently would have it.
#[test]
fn property_5_1_exactly() {
    const HIDDEN: usize = 10;
    let patterns = patterns(HIDDEN);
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b;
    for (network, orthogonal) in [(Network::new(4, HIDDEN, 3, 3), false), (Network::orthogonal(4, HIDDEN, 3), true)] {
        for (v, y) in &network.samples {
            for p in [0.05, 0.3, 0.5, 0.6, 0.95, 0.999] {
                let average = network.average_loss(&patterns, p, v, y);
                let inferred = infer(p, v);
                let loss = network.loss(&inferred, y);
                let coefficient = (1.0 - p) / p;
                let claimed = loss + coefficient * network.penalty(v, &inferred);
                assert!(close(average, claimed), "p = {p}: {average}, claimed {claimed}");
                let printed = loss + coefficient * network.printed_penalty(v, &inferred);
                assert_eq!(close(average, printed), orthogonal, "p = {p}: {average}, printed {printed}");
                // Were the penalty a rounding error, any coefficient would do.
                assert!(claimed - loss > 1e-6 * loss, "p = {p}: {claimed} beside {loss} shows nothing");
            }
        }
    }
}

/// The smallest case in which the sum over units and the printed penalty differ, with numbers that can be
/// checked by hand: W2 = (1 1), v = (-1, -1), y = 0, p = 1/2.
#[test]
fn property_5_1_by_hand() {
    let network = Network { second: vec![vec![1.0, 1.0]], samples: vec![] };
    let (v, y) = ([-1.0, -1.0], [0.0]);
    let inferred = infer(0.5, &v);
    assert_eq!(network.average_loss(&patterns(2), 0.5, &v, &y), 1.5); // (4 + 1 + 1 + 0) / 4
    assert_eq!(network.loss(&inferred, &y), 1.0);
    assert_eq!(network.penalty(&v, &inferred), 0.5);
    assert_eq!(network.printed_penalty(&v, &inferred), 1.0);
}

/// The same by sampling: the mean loss over many keys.
#[test]
fn property_5_1_by_sampling() {
    const DRAWS: usize = 40_000;
    const HIDDEN: usize = 24;
    let network = Network::new(6, HIDDEN, 4, 2);
    for (n, p) in [0.6, 0.95].into_iter().enumerate() {
        let op = DropActivation::relu(p).unwrap();
        for (i, (v, y)) in network.samples.iter().enumerate() {
            // One long tensor: every copy of v gets other keep bits.
            let mut h = v.repeat(DRAWS);
            cpu::forward(&op, MaskKey::new(73, (2 * n + i) as u64), &mut h).unwrap();
            let losses: Vec<f64> = h.chunks(HIDDEN).map(|h| network.loss(h, y)).collect();
            let inferred = infer(p, v);
            let added = (1.0 - p) / p * network.penalty(v, &inferred);
            assert_mean(&|| format!("p = {p}, sample {i}"), &losses, network.loss(&inferred, y) + added);
            // The measurement is fine enough to miss what is added.
            let deviation = (variance(&losses) / DRAWS as f64).sqrt();
            assert!(added > 20.0 * deviation, "p = {p}: {added}, measured to {deviation}");
        }
    }
}

/// Equation 15.
fn shift_ratio(p: f64) -> f64 {
    let tau = std::f64::consts::TAU;
    ((0.5 - 1.0 / tau) * p * p - p + 1.0) / (1.0 - 0.5 * p - p * p / tau)
}

/// Property 5.2: behind a linear layer, the variance at inference over the variance in training is
/// equation 15, which is 0.9377 at p = 0.95; and both means are p sum(w) / sqrt(2 pi).
#[test]
fn property_5_2() {
    assert!((shift_ratio(0.95) - 0.9377).abs() < 5e-5);
    const WIDTH: usize = 4;
    const SAMPLES: usize = 4_000;
    const BATCHES: usize = 250;
    let w = [0.7, -1.3, 0.4, 2.0];
    let mut rng = Rng::new(74);
    for p in [0.95, 0.6] {
        let op = DropActivation::relu(p).unwrap();
        let (mut ratios, mut train_means, mut test_means) = (vec![], vec![], vec![]);
        for batch in 0..BATCHES {
            let x: Vec<f64> = (0..WIDTH * SAMPLES).map(|_| rng.normal()).collect();
            let output = |h: &[f64]| -> Vec<f64> {
                h.chunks(WIDTH).map(|h| h.iter().zip(w).map(|(h, w)| h * w).sum()).collect()
            };
            let mut h = x.clone();
            cpu::forward(&op, MaskKey::new(75, batch as u64), &mut h).unwrap();
            let train = output(&h);
            cpu::infer(&op, (&x, &mut h)).unwrap();
            let test = output(&h);
            ratios.push(variance(&test) / variance(&train));
            train_means.push(mean(&train));
            test_means.push(mean(&test));
        }
        assert_mean(&|| format!("p = {p}: shift ratio"), &ratios, shift_ratio(p));
        // To four digits, and far from no shift at all.
        let deviation = (variance(&ratios) / BATCHES as f64).sqrt();
        assert!(deviation < 1e-3 && 1.0 - mean(&ratios) > 20.0 * deviation, "{deviation}");
        let expected = p * w.iter().sum::<f64>() / std::f64::consts::TAU.sqrt();
        assert_mean(&|| format!("p = {p}: mean in training"), &train_means, expected);
        assert_mean(&|| format!("p = {p}: mean at inference"), &test_means, expected);
    }
}

/// Equation 5, term by term: inference is p times the kept result plus 1-p times the dropped one.
#[test]
fn inference_is_the_mean_of_kept_and_dropped() {
    let mut rng = Rng::new(76);
    let x: Vec<f64> = (0..2_000).map(|_| 3.0 * rng.normal()).collect();
    for activation in Activation::ALL {
        let forward = |p: f64| {
            let mut y = x.clone();
            cpu::forward(&DropActivation::new(activation, p).unwrap(), MaskKey::new(77, 0), &mut y).unwrap();
            y
        };
        let (kept, dropped) = (forward(1.0), forward(0.0));
        for p in [0.0, 0.1, 0.5, 0.95, 1.0] {
            let mut y = x.clone();
            cpu::infer(&DropActivation::new(activation, p).unwrap(), &mut y).unwrap();
            for i in 0..x.len() {
                let terms = (p * kept[i], (1.0 - p) * dropped[i]);
                // The roundings of two products and a sum.
                let tolerance = 3.0 * f64::EPSILON * (terms.0.abs() + terms.1.abs());
                assert!((y[i] - (terms.0 + terms.1)).abs() <= tolerance, "{activation}, p = {p}, x = {}", x[i]);
            }
        }
    }
}

/// And by sampling, through the drawn masks, for every element on its own.
#[test]
fn inference_is_the_average_of_training() {
    const DRAWS: usize = 20_000;
    let mut rng = Rng::new(78);
    let x: Vec<f64> = (0..64).map(|_| 2.0 * rng.normal()).collect();
    for (n, activation) in Activation::ALL.into_iter().enumerate() {
        for (m, p) in [0.3, 0.95].into_iter().enumerate() {
            let op = DropActivation::new(activation, p).unwrap();
            let mut y = x.repeat(DRAWS);
            cpu::forward(&op, MaskKey::new(79, (2 * n + m) as u64), &mut y).unwrap();
            let mut expected = x.clone();
            cpu::infer(&op, &mut expected).unwrap();
            let mut sigma = x.clone();
            cpu::infer(&DropActivation::new(activation, 1.0).unwrap(), &mut sigma).unwrap();
            for i in 0..x.len() {
                let average = y.iter().skip(i).step_by(x.len()).sum::<f64>() / DRAWS as f64;
                let deviation = (x[i] - sigma[i]).abs() * (p * (1.0 - p) / DRAWS as f64).sqrt();
                let what = || format!("{activation}, p = {p}, x = {}", x[i]);
                // What σ does not change is not random; its average is rounded all the same.
                assert_normal(&what, average, expected[i], deviation + 1e-13 * x[i].abs());
            }
        }
    }
}

/// Equation 6 and the slope that stands for it at inference.
#[test]
fn rrelu_inference_is_the_average_of_its_training() {
    const DRAWS: usize = 200_000;
    let op = RRelu::default();
    let (lower, upper) = (f64::from(op.lower()), f64::from(op.upper()));
    let mut y = vec![-1.0f64; DRAWS];
    cpu::rrelu_forward(&op, MaskKey::new(80, 0), &mut y).unwrap();
    let slopes: Vec<f64> = y.iter().map(|y| -y).collect();
    let mut inferred = [-1.0f64];
    cpu::rrelu_infer(&op, &mut inferred).unwrap();
    assert_eq!(-inferred[0], (lower + upper) / 2.0);
    let deviation = (upper - lower) / 12f64.sqrt();
    assert_normal(&|| "mean slope".to_owned(), mean(&slopes), -inferred[0], deviation / (DRAWS as f64).sqrt());
    assert!(slopes.iter().all(|s| (lower..upper).contains(s)));
}
