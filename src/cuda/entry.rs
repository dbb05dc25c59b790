//! The entry points of the device code: their names, their modules, and which one does a pass.

use super::modules::Module;
use crate::activation::{Activation, smooth_activations};
use crate::element::Dtype;
use crate::fused::Dz;
use crate::pass::Pass;

/// Kernels of one name in the order of [`Dtype`].
macro_rules! names {
    ($($part:literal)+) => {
        [
            concat!("da_", $($part,)+ "_f32"),
            concat!("da_", $($part,)+ "_f16"),
            concat!("da_", $($part,)+ "_bf16"),
            concat!("da_", $($part,)+ "_f64"),
        ]
    };
}

/// Kernels of one name for every activation, in the order of [`Activation::ALL`].
macro_rules! of_activations {
    ($stem:literal $($(#[$doc:meta])* $variant:ident $name:literal $formula:literal $value:ident $derivative:ident;)*) => {
        [names!($stem "_relu"), $(names!($stem "_" $name)),*]
    };
}

const ACTIVATIONS: usize = Activation::ALL.len();

/// Of each activation so many.
const STEMS: usize = 7;

/// The passes that have an activation: those that are fused with nothing else, and the others.
const OF_ACTIVATIONS: [[[&str; 4]; ACTIVATIONS]; STEMS] = [
    smooth_activations!(of_activations "train_forward"),
    smooth_activations!(of_activations "train_backward"),
    smooth_activations!(of_activations "infer_forward"),
    smooth_activations!(of_activations "infer_backward"),
    smooth_activations!(of_activations "fused_forward"),
    smooth_activations!(of_activations "fused_backward"),
    smooth_activations!(of_activations "fused_products"),
];
const UNFUSED_STEMS: usize = 4;

/// The others, with their modules.
const OTHERS: [(Module, [&str; 4]); 12] = [
    (Module::Relu, names!("train_forward_relu_nomask")),
    (Module::Relu, names!("train_backward_relu_from_output")),
    (Module::Relu, names!("relu_forward")),
    (Module::Relu, names!("relu_backward")),
    (Module::Rrelu, names!("rrelu_train_forward")),
    (Module::Rrelu, names!("rrelu_train_backward")),
    (Module::Rrelu, names!("rrelu_infer_forward")),
    (Module::Rrelu, names!("rrelu_infer_backward")),
    (Module::Fused, names!("fused_infer_backward_relu")),
    (Module::Fused, names!("fused_infer_products_relu")),
    (Module::Fused, names!("fused_sums_relu")),
    (Module::Fused, names!("fused_moments")),
];

/// First those of activations, then the others.
const KERNELS: [(Module, [&str; 4]); STEMS * ACTIVATIONS + OTHERS.len()] = {
    let mut kernels = [OTHERS[0]; STEMS * ACTIVATIONS + OTHERS.len()];
    let mut i = 0;
    while i < kernels.len() {
        kernels[i] = if i >= STEMS * ACTIVATIONS {
            OTHERS[i - STEMS * ACTIVATIONS]
        } else {
            let is_relu = i % ACTIVATIONS == Activation::Relu as usize;
            let module = match (i / ACTIVATIONS < UNFUSED_STEMS, is_relu) {
                (true, true) => Module::Relu,
                (true, false) => Module::Smooth,
                (false, true) => Module::Fused,
                (false, false) => Module::FusedSmooth,
            };
            (module, OF_ACTIVATIONS[i / ACTIVATIONS][i % ACTIVATIONS])
        };
        i += 1;
    }
    kernels
};

/// Those of no pass by itself.
const SINGLES: [(Module, &str); 7] = [
    (Module::Advance, "da_advance"),
    (Module::Fused, "da_fused_sums_total_f32"),
    (Module::Fused, "da_fused_sums_total_f64"),
    (Module::Fused, "da_fused_products_total_f32"),
    (Module::Fused, "da_fused_products_total_f64"),
    (Module::Fused, "da_fused_moments_total_f32"),
    (Module::Fused, "da_fused_moments_total_f64"),
];

/// The place of a pass among the [`KERNELS`]: the one function that tells passes apart on this side. Those without a
/// mask exist for ReLU alone, as [`Pass::check_without_tensors`] has made sure. `centred`: whether a pass of sums has a
/// mean.
fn place_of(pass: &Pass, centred: bool) -> u8 {
    const ACTIVATIONS: u8 = self::ACTIVATIONS as u8;
    const OTHERS: u8 = STEMS as u8 * ACTIVATIONS;
    /// dz as it is given is what ReLU's kernels make of it without a mask.
    const GIVEN: u8 = Activation::Relu as u8;
    let of_gradient = |first: u8, infer_relu: u8, dz: &Dz| match dz {
        Dz::Given => first + GIVEN,
        Dz::Inference(op) if op.activation() == Activation::Relu => infer_relu,
        Dz::Training(op) | Dz::Inference(op) => first + op.activation() as u8,
    };
    match pass {
        Pass::Forward { op, .. } => op.activation() as u8,
        Pass::Backward { op } => ACTIVATIONS + op.activation() as u8,
        Pass::Infer { op } => 2 * ACTIVATIONS + op.activation() as u8,
        Pass::InferBackward { op } => 3 * ACTIVATIONS + op.activation() as u8,
        Pass::FusedForward { op, .. } | Pass::FusedInfer { op, .. } => 4 * ACTIVATIONS + op.activation() as u8,
        Pass::FusedBackward { dz, .. } => of_gradient(5 * ACTIVATIONS, OTHERS + 8, dz),
        Pass::FusedSums { dz, .. } if !dz.needs_z() && !centred => OTHERS + 10,
        Pass::FusedSums { dz, .. } => of_gradient(6 * ACTIVATIONS, OTHERS + 9, dz),
        Pass::Statistics { .. } => OTHERS + 11,
        Pass::ForwardWithoutMask { .. } => OTHERS,
        Pass::BackwardFromOutput { .. } => OTHERS + 1,
        Pass::ReluForward => OTHERS + 2,
        Pass::ReluBackward => OTHERS + 3,
        Pass::RreluForward { .. } => OTHERS + 4,
        Pass::RreluBackward { .. } => OTHERS + 5,
        Pass::RreluInfer { .. } => OTHERS + 6,
        Pass::RreluInferBackward { .. } => OTHERS + 7,
    }
}

/// An entry point of the device code: a kernel for one element type, or what advances a sequence of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry(u8);

impl Entry {
    const OF_PASSES: usize = 4 * KERNELS.len();

    /// How many there are.
    pub const COUNT: usize = Self::OF_PASSES + SINGLES.len();

    /// What advances a sequence of keys.
    pub const ADVANCE: Self = Self(Self::OF_PASSES as u8);

    /// All of them.
    pub const ALL: [Self; Self::COUNT] = {
        let mut all = [Self(0); Self::COUNT];
        let mut i = 0;
        while i < all.len() {
            all[i] = Self(i as u8);
            i += 1;
        }
        all
    };

    /// Those that passes begin with: not [`Entry::ADVANCE`], and none that ends a sum.
    pub const PASSES: [Self; Self::OF_PASSES] = {
        let mut passes = [Self(0); Self::OF_PASSES];
        let mut i = 0;
        while i < passes.len() {
            passes[i] = Self::ALL[i];
            i += 1;
        }
        passes
    };

    /// The kernel that a pass begins with. `centred`: whether a pass of sums has a mean.
    pub(super) fn of(pass: &Pass, dtype: Dtype, centred: bool) -> Self {
        Self(4 * place_of(pass, centred) + dtype as u8)
    }

    /// The kernel that ends so many sums of a pass: 1 or 2 of a gradient, 3 of statistics.
    pub(super) fn total(sums: usize, dtype: Dtype) -> Self {
        Self((Self::OF_PASSES + 2 * sums - 1) as u8 + u8::from(dtype == Dtype::F64))
    }

    /// The symbol's name.
    pub const fn name(self) -> &'static str {
        match self.index().checked_sub(Self::OF_PASSES) {
            Some(other) => SINGLES[other].1,
            None => KERNELS[self.index() / 4].1[self.index() % 4],
        }
    }

    /// The module that it is in.
    pub(crate) const fn module(self) -> Module {
        match self.index().checked_sub(Self::OF_PASSES) {
            Some(other) => SINGLES[other].0,
            None => KERNELS[self.index() / 4].0,
        }
    }

    /// Its place in [`Entry::ALL`].
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;
    use crate::cuda::test_passes::{DTYPES, fused_passes, other_passes, passes};

    #[test]
    fn every_entry_does_one_pass() {
        let stems = ["train_forward", "train_backward", "infer_forward", "infer_backward"];
        let others = [
            "train_forward_relu_nomask",
            "train_backward_relu_from_output",
            "rrelu_train_forward",
            "rrelu_train_backward",
            "rrelu_infer_forward",
            "rrelu_infer_backward",
            "relu_forward",
            "relu_backward",
        ];
        let mut entries = HashSet::new();
        for dtype in DTYPES {
            for activation in Activation::ALL {
                for (pass, stem) in passes(activation).iter().zip(stems) {
                    let entry = Entry::of(pass, dtype, false);
                    assert_eq!(entry.name(), format!("da_{stem}_{activation}_{}", dtype.name()));
                    entries.insert(entry);
                }
            }
            for (pass, stem) in other_passes().iter().zip(others) {
                let entry = Entry::of(pass, dtype, false);
                assert_eq!(entry.name(), format!("da_{stem}_{}", dtype.name()));
                entries.insert(entry);
            }
        }
        for dtype in DTYPES {
            for activation in Activation::ALL {
                for (pass, centred, stem) in fused_passes(activation) {
                    let entry = Entry::of(&pass, dtype, centred);
                    assert_eq!(entry.name(), format!("da_{stem}_{}", dtype.name()), "{pass:?}");
                    entries.insert(entry);
                }
            }
            for sums in 1..=3 {
                let entry = Entry::total(sums, dtype);
                let kind = ["sums", "products", "moments"][sums - 1];
                let real = if dtype == Dtype::F64 { "f64" } else { "f32" };
                assert_eq!(entry.name(), format!("da_fused_{kind}_total_{real}"));
                entries.insert(entry);
            }
        }
        entries.insert(Entry::ADVANCE);
        assert_eq!(entries, HashSet::from(Entry::ALL));
        assert_eq!(Entry::ALL.map(Entry::name).into_iter().collect::<HashSet<_>>().len(), Entry::COUNT);
    }

    /// `DA_ENTRIES(da_relu_forward, ...)` of every .cu file, or `DA_ENTRIES(da_train_forward_##name, ...)` where it is
    /// made for each row of `DA_SMOOTH_ACTIVATIONS`.
    #[test]
    fn the_sources_define_these_entries_and_no_others() {
        let source = |file: &str| {
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(file)).unwrap()
        };
        let before_comma = |line: &str, prefix: &str| {
            let (_, rest) = line.split_once(prefix)?;
            Some(rest.split_once(',')?.0.to_owned())
        };
        let smooth: Vec<_> =
            source("activation.cuh").lines().filter_map(|line| before_comma(line, "    ROW(")).collect();
        let mut defined = HashSet::new();
        let advance = source("advance.cu");
        assert_eq!(advance.matches("__global__").count(), 1);
        assert!(advance.contains(" da_advance("));
        defined.insert((Module::Advance, "da_advance".to_owned()));
        let files = [
            (Module::Relu, "relu.cu"),
            (Module::Smooth, "smooth.cu"),
            (Module::Rrelu, "rrelu.cu"),
            (Module::Fused, "fused.cu"),
            (Module::FusedSmooth, "fused_smooth.cu"),
        ];
        for (module, file) in files {
            let text = source(file);
            defined.extend(text.lines().filter_map(|line| Some((module, before_comma(line, "DA_TOTAL_ENTRY(")?))));
            let declared = |line| before_comma(line, "DA_ENTRIES(").or(before_comma(line, "DA_FUSED_ENTRIES("));
            for stem in text.lines().filter_map(declared) {
                let stems = match stem.strip_suffix("##name") {
                    Some(stem) => smooth.iter().map(|name| format!("{stem}{name}")).collect(),
                    None => vec![stem],
                };
                for stem in stems {
                    defined.extend(DTYPES.map(|dtype| (module, format!("{stem}_{}", dtype.name()))));
                }
            }
        }
        let known: HashSet<_> = Entry::ALL.map(|entry| (entry.module(), entry.name().to_owned())).into();
        assert_eq!(defined, known);
    }
}
