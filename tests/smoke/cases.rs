//! What is launched: each pass over each type on three tiles and a rest, with what the CPU backend makes of it.

use drop_activation::cuda::{Addresses, launch};
use drop_activation::half::{bf16, f16};
use drop_activation::reference::philox4x32_10;
use drop_activation::{Activation, DropActivation, Dtype, Element, MaskKey, Pass, RRelu, Real, cpu};

/// Three tiles that go by packs, and one that goes element by element.
pub const N: usize = 3 * 1024 + 77;

/// One launch of one entry point.
pub struct Case {
    pub name: &'static str,
    pub pass: Pass,
    pub dtype: Dtype,
    pub input: Vec<u8>,
    /// x or y of the forward pass, where the pass takes it.
    pub saved: Vec<u8>,
    /// What the pass reads or is to write.
    pub mask: Vec<u32>,
    pub expected: Vec<u8>,
    /// Bit for bit; the other nonlinearities are within the bounds that `activation` states.
    exact: bool,
}

/// One for each entry point of a pass.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for pass in passes() {
        cases.extend([case::<f32>(pass), case::<f16>(pass), case::<bf16>(pass), case::<f64>(pass)]);
    }
    cases
}

fn passes() -> Vec<Pass> {
    let (key, rrelu) = (MaskKey::new(0x1234_5678_9ABC_DEF0, 7), RRelu::default());
    let mut passes = Vec::new();
    for activation in Activation::ALL {
        let op = DropActivation::new(activation, 0.95).expect("a probability");
        passes.extend([
            Pass::Forward { op, key },
            Pass::Backward { op },
            Pass::Infer { op },
            Pass::InferBackward { op },
        ]);
    }
    let op = DropActivation::default();
    passes.extend([
        Pass::ForwardWithoutMask { op, key },
        Pass::BackwardFromOutput { op },
        Pass::RreluForward { op: rrelu, key },
        Pass::RreluBackward { op: rrelu, key },
        Pass::RreluInfer { op: rrelu },
        Pass::RreluInferBackward { op: rrelu },
        Pass::ReluForward,
        Pass::ReluBackward,
    ]);
    passes
}

fn case<T: Number>(pass: Pass) -> Case {
    let (x, dy) = (values::<T>(1), values::<T>(2));
    let forward = match pass {
        Pass::Backward { op } => Some(Pass::Forward { op, key: MaskKey::new(3, 4) }),
        Pass::RreluBackward { op, key } => Some(Pass::RreluForward { op, key }),
        Pass::BackwardFromOutput { op } => Some(Pass::ForwardWithoutMask { op, key: MaskKey::new(3, 4) }),
        Pass::ReluBackward => Some(Pass::ReluForward),
        _ => None,
    };
    let mut mask = vec![0; if pass.writes_mask() || pass.reads_mask() { N.div_ceil(32) } else { 0 }];
    let mut y = x.clone();
    if let Some(forward) = forward {
        let words = if forward.writes_mask() { cpu::MaskWords::Write(&mut mask) } else { cpu::MaskWords::None };
        cpu::run(&forward, (&x, &mut y), None, words).expect("a forward pass");
    }
    let input = if pass.is_forward() { &x } else { &dy };
    let saved = pass.saved().map(|name| if name == "x" { &x } else { &y });
    let mut expected = input.clone();
    let words = match (pass.writes_mask(), pass.reads_mask()) {
        (true, _) => cpu::MaskWords::Write(&mut mask),
        (_, true) => cpu::MaskWords::Read(&mask),
        _ => cpu::MaskWords::None,
    };
    cpu::run(&pass, (input, &mut expected), saved.map(Vec::as_slice), words).expect("a pass");

    // The plan alone knows the name; it looks at these addresses' alignment and no further.
    let at = Addresses { input: 64, saved: 64, output: 64, mask: 64, ..Addresses::default() };
    let planned = launch::plan(&pass, T::DTYPE, N, at).expect("a plan").expect("something to do");
    let exact = match pass {
        Pass::Forward { op, .. } | Pass::Backward { op } | Pass::Infer { op } | Pass::InferBackward { op } => {
            op.activation() == Activation::Relu
        }
        _ => true,
    };
    Case {
        name: planned.entry.name(),
        pass,
        dtype: T::DTYPE,
        input: bytes(input),
        saved: saved.map_or_else(Vec::new, |saved| bytes(saved)),
        mask,
        expected: bytes(&expected),
        exact,
    }
}

impl Case {
    /// What is wrong with the output, if anything is.
    pub fn fault(&self, output: &[u8], mask: &[u32]) -> Option<String> {
        if let Some(word) = (0..self.mask.len()).find(|&i| mask[i] != self.mask[i]) {
            return Some(format!("mask word {word} is {:#010x}, expected {:#010x}", mask[word], self.mask[word]));
        }
        let size = self.dtype.size();
        let pairs = output.chunks_exact(size).zip(self.expected.chunks_exact(size)).zip(self.input.chunks_exact(size));
        let wrong = |((given, expected), input)| {
            let number = |bytes| number_of(self.dtype, bytes);
            given != expected && (self.exact || !self.is_near(number(given), number(expected), number(input)))
        };
        let (i, ((given, expected), input)) = pairs.enumerate().find(|(_, pair)| wrong(*pair))?;
        let [given, expected, input] = [given, expected, input].map(|bytes| number_of(self.dtype, bytes));
        let (output, input_name) = (self.pass.output(), self.pass.input());
        Some(format!("{output}[{i}] is {given:e}, expected {expected:e}, at {input_name} = {input:e}"))
    }

    /// Both backends are within 4 units in the last place of the truth, GELU 8, where its terms are at most about as
    /// large as 1 or the input; each rounds once more to its type.
    fn is_near(&self, given: f64, expected: f64, input: f64) -> bool {
        if given.is_nan() || expected.is_nan() || expected.is_infinite() {
            return given.is_nan() && expected.is_nan() || given == expected;
        }
        let (arithmetic, rounding) = match self.dtype {
            Dtype::F64 => (f64::EPSILON, f64::EPSILON),
            Dtype::F32 => (f64::from(f32::EPSILON), f64::from(f32::EPSILON)),
            Dtype::F16 => (f64::from(f32::EPSILON), f64::from(f16::EPSILON)),
            Dtype::Bf16 => (f64::from(f32::EPSILON), f64::from(bf16::EPSILON)),
        };
        // The smallest subnormal of f16, for results that are about as small.
        let smallest = if self.dtype == Dtype::F16 { 2f64.powi(-24) } else { 0.0 };
        (given - expected).abs() <= 16.0 * arithmetic * input.abs().max(1.0) + rounding * expected.abs() + smallest
    }
}

/// What the cases need of a type.
trait Number: Element + Default {
    fn put(self, to: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Number for $type {
            fn put(self, to: &mut Vec<u8>) {
                to.extend(self.to_ne_bytes());
            }
        }
    )*};
}
numbers!(f32 f16 bf16 f64);

fn bytes<T: Number>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of_val(values));
    values.iter().for_each(|value| value.put(&mut bytes));
    bytes
}

/// The number in a pattern of bytes, whose count does not tell f16 from bf16.
fn number_of(dtype: Dtype, bytes: &[u8]) -> f64 {
    match dtype {
        Dtype::F32 => f32::from_ne_bytes(bytes.try_into().expect("4 bytes")).into(),
        Dtype::F16 => f16::from_ne_bytes(bytes.try_into().expect("2 bytes")).into(),
        Dtype::Bf16 => bf16::from_ne_bytes(bytes.try_into().expect("2 bytes")).into(),
        Dtype::F64 => f64::from_ne_bytes(bytes.try_into().expect("8 bytes")),
    }
}

/// Uniform in [-3, 3), with zeros of both signs, infinities and NaN among them.
fn values<T: Number>(stream: u32) -> Vec<T> {
    let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    (0..N)
        .map(|i| {
            let word = philox4x32_10([i as u32, 0, stream, 0], [5, 6])[0];
            let value = match word % 64 {
                0 => special[word as usize / 64 % special.len()],
                _ => (word >> 8) as f32 * (6.0 / (1 << 24) as f32) - 3.0,
            };
            T::from_real(T::Real::from_f32(value))
        })
        .collect()
}
