//! The PTX that is shipped, file by file: what users run whose driver refuses the machine code.

use std::{io::Read, sync::OnceLock};

/// Names and texts.
pub fn ptx() -> &'static [(&'static str, String); 6] {
    static UNPACKED: OnceLock<[(&'static str, String); 6]> = OnceLock::new();
    let unpacked = |name, compressed: &[u8]| {
        let mut text = String::new();
        flate2::read::GzDecoder::new(compressed).read_to_string(&mut text).expect("it was packed as gzip");
        (name, text)
    };
    UNPACKED.get_or_init(|| {
        [
            unpacked("relu.ptx", include_bytes!("../../kernels/prebuilt/relu.ptx.gz")),
            unpacked("smooth.ptx", include_bytes!("../../kernels/prebuilt/smooth.ptx.gz")),
            unpacked("rrelu.ptx", include_bytes!("../../kernels/prebuilt/rrelu.ptx.gz")),
            unpacked("fused.ptx", include_bytes!("../../kernels/prebuilt/fused.ptx.gz")),
            unpacked("fused_smooth.ptx", include_bytes!("../../kernels/prebuilt/fused_smooth.ptx.gz")),
            unpacked("advance.ptx", include_bytes!("../../kernels/prebuilt/advance.ptx.gz")),
        ]
    })
}
