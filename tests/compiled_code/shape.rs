//! What the entries are, told from their names: how much they read and write, and what they do besides.

use crate::path::{Marks, Wanted};

/// What there is to know of an entry point besides its code.
pub struct Shape {
    /// Without `da_` and type.
    pub stem: &'static str,
    /// Of an element, in bytes.
    pub size: u32,
    /// Tensors that are read.
    pub inputs: u32,
    pub reads_mask: bool,
    pub writes_mask: bool,
    pub draws_keep_bits: bool,
    pub kind: Kind,
    /// Whether there are channels.
    pub fused: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// ReLU and its kin do nearly nothing but move the tensors.
    Moves,
    /// RReLU in training draws a number for each element.
    Draws,
    /// The smooth activations.
    Computes,
    /// Sums over channels.
    Sums,
}

/// Of an element.
fn bytes(dtype: &str) -> u32 {
    match dtype {
        "f64" => 8,
        "f32" => 4,
        _ => 2,
    }
}

impl Shape {
    pub fn of(name: &'static str) -> Self {
        let name = name.strip_prefix("da_").expect("entries begin with da_");
        let (stem, dtype) = name.rsplit_once('_').expect("entries end with their type");
        let has = |word| stem.split('_').any(|part| part == word);
        if has("fused") {
            return Self::of_fused(stem, dtype);
        }
        let kind = match () {
            _ if stem.starts_with("rrelu_train") => Kind::Draws,
            _ if has("relu") || has("rrelu") => Kind::Moves,
            _ => Kind::Computes,
        };
        let (train, backward) = (has("train"), has("backward"));
        let with_mask = train && !has("nomask") && !has("output");
        let backward_by_mask_alone = with_mask && kind != Kind::Computes;
        Self {
            stem,
            size: bytes(dtype),
            inputs: if backward && !backward_by_mask_alone { 2 } else { 1 },
            reads_mask: with_mask && backward,
            writes_mask: with_mask && !backward,
            draws_keep_bits: train && !backward && kind != Kind::Draws,
            kind,
            fused: false,
        }
    }

    /// Of a pass over channels: a batch normalisation in training, without a residual.
    fn of_fused(stem: &'static str, dtype: &str) -> Self {
        let has = |word| stem.split('_').any(|part| part == word);
        let kind = match () {
            _ if has("moments") || has("sums") || has("products") => Kind::Sums,
            _ if has("relu") && !has("infer") => Kind::Moves,
            _ => Kind::Computes,
        };
        let backward = has("backward");
        Self {
            stem,
            size: bytes(dtype),
            inputs: if backward { 2 } else { 1 },
            reads_mask: backward && !has("infer"),
            writes_mask: has("forward"),
            draws_keep_bits: has("forward"),
            kind,
            fused: true,
        }
    }

    /// Whether random numbers are drawn, at an offset that may be in device memory.
    pub fn draws(&self) -> bool {
        self.draws_keep_bits || self.kind == Kind::Draws
    }

    /// Packs of a tensor that a lane has in a tile.
    pub fn packs(&self) -> u32 {
        32 * self.size / 16
    }

    /// Packs of all inputs that a lane loads before it stores one.
    pub fn packs_ahead(&self) -> u32 {
        let at_once = match self.kind {
            Kind::Moves if self.inputs == 1 && self.stem != "relu_forward" => 8,
            Kind::Moves => 4,
            Kind::Draws | Kind::Computes | Kind::Sums => 2,
        };
        self.inputs * self.packs().min(if self.size == 8 { at_once / 2 } else { at_once })
    }

    /// Bytes that one element's pass moves.
    pub fn bytes(&self) -> f64 {
        let mask = if self.reads_mask || self.writes_mask { 0.125 } else { 0.0 };
        f64::from(self.size * (self.inputs + 1)) + mask
    }

    /// A full tile whose keep bits take this many calls of Philox. Up to four of a call's twenty products are
    /// made only once for all calls of a word.
    pub fn full_tile(&self, calls: u32) -> Wanted {
        let (votes, products) = match self.kind {
            _ if self.draws_keep_bits => ((calls + 1).saturating_sub(FIRST_VOTE), 16 * calls..=20 * calls),
            Kind::Draws => (0, 0..=u32::MAX),
            _ => (0, 0..=0),
        };
        let marks = Marks {
            wide_loads: self.inputs * self.packs(),
            wide_stores: self.packs(),
            narrow_loads: self.reads_mask.into(),
            narrow_stores: self.writes_mask.into(),
            votes,
            ..Marks::default()
        };
        Wanted { marks, products, guarded: None, spreads: None, additions: None, leaves_out_loads: true }
    }
}

/// The call of Philox after which the warp first asks whether all its lanes are done.
pub const FIRST_VOTE: u32 = 3;

/// How many calls of Philox a tile takes on average where all 32 planes matter. After m planes an element is
/// undecided with probability 2^-m whatever T is, and a call gives 4 planes.
pub fn mean_calls() -> f64 {
    let undecided_after = |calls: u32| 1.0 - (1.0 - 0.5f64.powi(4 * calls as i32)).powi(1024);
    f64::from(FIRST_VOTE) + (FIRST_VOTE..8).map(undecided_after).sum::<f64>()
}

#[test]
fn calls_of_philox() {
    // By hand: 1024 / 2^12 elements are left after the third call, less the chance that they share a tile, and so on.
    assert!((mean_calls() - 3.2378).abs() < 1e-4, "{}", mean_calls());
}
