//! The entry points of the device code: their names, their modules, and which one does a pass.

use super::modules::Module;
use crate::activation::Activation;
use crate::element::Dtype;
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

/// The kernels with their modules: first those of passes that have an activation, in the order of [`Activation::ALL`].
macro_rules! kernels {
    (of every activation { $($stem:literal)+ } $($module:ident { $($name:literal)+ })+) => {
        const KERNELS: &[(Module, [&str; 4])] = &[
            $(
                (Module::Relu, names!($stem "_relu")),
                (Module::Smooth, names!($stem "_sigmoid")),
                (Module::Smooth, names!($stem "_tanh")),
                (Module::Smooth, names!($stem "_gelu")),
                (Module::Smooth, names!($stem "_silu")),
            )+
            $($((Module::$module, names!($name)),)+)+
        ];
    };
}

kernels! {
    of every activation { "train_forward" "train_backward" "infer_forward" "infer_backward" }
    Relu { "train_forward_relu_nomask" "train_backward_relu_from_output" "relu_forward" "relu_backward" }
    Rrelu { "rrelu_train_forward" "rrelu_train_backward" "rrelu_infer_forward" "rrelu_infer_backward" }
}

const _: () = assert!(KERNELS.len() == 4 * Activation::ALL.len() + 8, "a kernel for every activation");

/// The place of a pass among the [`KERNELS`]: the one function that tells passes apart on this side. Those without a mask
/// exist for ReLU alone, as [`Pass::check_without_tensors`] has made sure.
fn place_of(pass: &Pass) -> u8 {
    const ACTIVATIONS: u8 = Activation::ALL.len() as u8;
    const OTHERS: u8 = 4 * ACTIVATIONS;
    match pass {
        Pass::Forward { op, .. } => op.activation() as u8,
        Pass::Backward { op } => ACTIVATIONS + op.activation() as u8,
        Pass::Infer { op } => 2 * ACTIVATIONS + op.activation() as u8,
        Pass::InferBackward { op } => 3 * ACTIVATIONS + op.activation() as u8,
        Pass::ForwardWithoutMask { .. } => OTHERS,
        Pass::BackwardFromOutput { .. } => OTHERS + 1,
        Pass::ReluForward => OTHERS + 2,
        Pass::ReluBackward => OTHERS + 3,
        Pass::RreluForward { .. } => OTHERS + 4,
        Pass::RreluBackward { .. } => OTHERS + 5,
        Pass::RreluInfer { .. } => OTHERS + 6,
        Pass::RreluInferBackward { .. } => OTHERS + 7,
        Pass::FusedForward { .. }
        | Pass::FusedInfer { .. }
        | Pass::Statistics { .. }
        | Pass::FusedSums { .. }
        | Pass::FusedBackward { .. } => unreachable!("refused"),
    }
}

/// An entry point of the device code: a kernel for one element type, or what advances a sequence of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry(u8);

impl Entry {
    const OF_PASSES: usize = 4 * KERNELS.len();

    /// How many there are.
    pub const COUNT: usize = Self::OF_PASSES + 1;

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

    /// Those of passes: all but [`Entry::ADVANCE`].
    pub const PASSES: [Self; Self::OF_PASSES] = {
        let mut passes = [Self(0); Self::OF_PASSES];
        let mut i = 0;
        while i < passes.len() {
            passes[i] = Self::ALL[i];
            i += 1;
        }
        passes
    };

    pub(super) fn of(pass: &Pass, dtype: Dtype) -> Self {
        Self(4 * place_of(pass) + dtype as u8)
    }

    /// The symbol's name.
    pub const fn name(self) -> &'static str {
        if self.index() == Self::OF_PASSES {
            return "da_advance";
        }
        let (_, names) = KERNELS[self.index() / 4];
        names[self.index() % 4]
    }

    /// The module that it is in.
    pub(crate) const fn module(self) -> Module {
        if self.index() == Self::OF_PASSES { Module::Advance } else { KERNELS[self.index() / 4].0 }
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
    use crate::cuda::test_passes::{DTYPES, other_passes, passes};

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
                    let entry = Entry::of(pass, dtype);
                    assert_eq!(entry.name(), format!("da_{stem}_{activation}_{}", dtype.name()));
                    entries.insert(entry);
                }
            }
            for (pass, stem) in other_passes().iter().zip(others) {
                let entry = Entry::of(pass, dtype);
                assert_eq!(entry.name(), format!("da_{stem}_{}", dtype.name()));
                entries.insert(entry);
            }
        }
        entries.insert(Entry::ADVANCE);
        assert_eq!(entries, HashSet::from(Entry::ALL));
        assert_eq!(Entry::ALL.map(Entry::name).into_iter().collect::<HashSet<_>>().len(), Entry::COUNT);
    }

    /// `DA_ENTRIES(da_relu_forward, ...)` and `DA_ENTRY(da_name_f32, ...)` of every .cu file.
    #[test]
    fn the_sources_define_these_entries_and_no_others() {
        let mut defined = HashSet::new();
        let advance = include_str!("../../kernels/advance.cu");
        assert_eq!(advance.matches("__global__").count(), 1);
        assert!(advance.contains(" da_advance("));
        defined.insert((Module::Advance, "da_advance".to_owned()));
        for (module, file) in [(Module::Relu, "relu"), (Module::Smooth, "smooth"), (Module::Rrelu, "rrelu")] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(file).with_extension("cu");
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines() {
                if let Some(stem) = line.strip_prefix("DA_ENTRIES(").and_then(|rest| rest.split_once(',')) {
                    defined.extend(DTYPES.map(|dtype| (module, format!("{}_{}", stem.0, dtype.name()))));
                } else if let Some(name) = line.strip_prefix("DA_ENTRY(").and_then(|rest| rest.split_once(',')) {
                    defined.insert((module, name.0.to_owned()));
                }
            }
        }
        let known: HashSet<_> = Entry::ALL.map(|entry| (entry.module(), entry.name().to_owned())).into();
        assert_eq!(defined, known);
    }
}
