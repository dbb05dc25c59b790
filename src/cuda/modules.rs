//! The device code that build.rs embedded in the library.

/// A module of device code: one for each `kernels/*.cu`, and for what a program loads together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Module {
    /// Plain ReLU, and ReLU with Drop-Activation.
    Relu,
    /// The other activations.
    Smooth,
    Rrelu,
    /// What advances a sequence of keys.
    Advance,
}

impl Module {
    pub(crate) const ALL: [Self; 4] = [Self::Relu, Self::Smooth, Self::Rrelu, Self::Advance];

    /// A fatbin, or PTX closed by a zero byte. `cuModuleLoadData` tells them apart, so both go through
    /// cudarc's `Ptx::from_binary`; it does not take a length, which is why PTX must bring its own end.
    pub(crate) fn image(self) -> &'static [u8] {
        match self {
            Self::Relu => include_bytes!(concat!(env!("OUT_DIR"), "/relu.image")),
            Self::Smooth => include_bytes!(concat!(env!("OUT_DIR"), "/smooth.image")),
            Self::Rrelu => include_bytes!(concat!(env!("OUT_DIR"), "/rrelu.image")),
            Self::Advance => include_bytes!(concat!(env!("OUT_DIR"), "/advance.image")),
        }
    }
}

/// What the images are: "fatbin by nvcc 13.0.88 for sm_75, ..." or "prebuilt PTX by nvcc ...".
pub(crate) const ORIGIN: &str = env!("DROP_ACTIVATION_EMBEDDED");

#[cfg(test)]
mod tests {
    use super::*;

    const FATBIN_MAGIC: [u8; 4] = 0xBA55_ED50_u32.to_le_bytes();

    #[test]
    fn images_are_what_their_origin_says() {
        for module in Module::ALL {
            let bytes = module.image();
            if ORIGIN.starts_with("fatbin by nvcc") {
                assert_eq!(bytes[..4], FATBIN_MAGIC, "{module:?}");
            } else {
                assert!(ORIGIN.starts_with("prebuilt PTX"), "{ORIGIN}");
                let end = bytes.iter().position(|&byte| byte == 0);
                assert_eq!(end, Some(bytes.len() - 1), "{module:?} has no one closing zero");
                let text = std::str::from_utf8(&bytes[..bytes.len() - 1]).unwrap();
                assert!(text.contains(".visible .entry da_"), "{module:?}");
            }
        }
    }
}
