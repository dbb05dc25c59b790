//! The device code that build.rs embedded in the library.

use std::io::Read;

/// A module of device code: one for each `kernels/*.cu`, and for what a program loads together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Module {
    /// Plain ReLU, and ReLU with Drop-Activation.
    Relu,
    /// The other activations.
    Smooth,
    Rrelu,
    /// Statistics, and what is fused with ReLU.
    Fused,
    /// What is fused with the other activations.
    FusedSmooth,
    /// What advances a sequence of keys.
    Advance,
}

macro_rules! embedded {
    ($module:expr, $extension:literal) => {{
        const RELU: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/relu.", $extension));
        const SMOOTH: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/smooth.", $extension));
        const RRELU: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rrelu.", $extension));
        const FUSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fused.", $extension));
        const FUSED_SMOOTH: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fused_smooth.", $extension));
        const ADVANCE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/advance.", $extension));
        match $module {
            Self::Relu => RELU,
            Self::Smooth => SMOOTH,
            Self::Rrelu => RRELU,
            Self::Fused => FUSED,
            Self::FusedSmooth => FUSED_SMOOTH,
            Self::Advance => ADVANCE,
        }
    }};
}

impl Module {
    pub(crate) const ALL: [Self; 6] =
        [Self::Relu, Self::Smooth, Self::Rrelu, Self::Fused, Self::FusedSmooth, Self::Advance];

    /// A fatbin: machine code for several GPUs and, if it is made by the nvcc of this machine, PTX for newer ones.
    pub(crate) fn fatbin(self) -> &'static [u8] {
        embedded!(self, "fatbin")
    }

    /// PTX for the drivers that refuse the fatbin, if there is any: text that ends with a zero byte, since
    /// `cuModuleLoadData` takes no length.
    pub(crate) fn ptx(self) -> Option<Vec<u8>> {
        let compressed = embedded!(self, "ptx.gz");
        if compressed.is_empty() {
            return None;
        }
        let mut text = Vec::new();
        // What does not unpack is as good as none; a test unpacks all.
        flate2::read::GzDecoder::new(compressed).read_to_end(&mut text).ok()?;
        text.push(0);
        Some(text)
    }
}

/// What is embedded: "fatbin by nvcc 13.0.88 for sm_75, ..." or "prebuilt fatbin by nvcc ..., and ... PTX ...".
pub(crate) const ORIGIN: &str = env!("DROP_ACTIVATION_EMBEDDED");

#[cfg(test)]
mod tests {
    use super::*;

    const FATBIN_MAGIC: [u8; 4] = 0xBA55_ED50_u32.to_le_bytes();

    #[test]
    fn modules_are_what_their_origin_says() {
        assert!(ORIGIN.contains("fatbin by nvcc "), "{ORIGIN}");
        let prebuilt = ORIGIN.starts_with("prebuilt ");
        assert_eq!(prebuilt, ORIGIN.contains("refuse it PTX"), "{ORIGIN}");
        for module in Module::ALL {
            assert_eq!(module.fatbin()[..4], FATBIN_MAGIC, "{module:?}");
            let Some(ptx) = module.ptx() else {
                assert!(!prebuilt, "{module:?} has no PTX");
                continue;
            };
            assert!(prebuilt, "{module:?} has PTX, which its origin does not tell");
            assert_eq!(
                ptx.iter().position(|&byte| byte == 0),
                Some(ptx.len() - 1),
                "{module:?} has no one closing zero"
            );
            assert!(std::str::from_utf8(&ptx).unwrap().contains(".visible .entry da_"), "{module:?}");
        }
    }
}
