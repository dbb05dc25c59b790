//! The PTX that is shipped, file by file: what users run who have no nvcc.

pub const PTX: [(&str, &str); 4] = [
    ("relu.ptx", include_str!("../../kernels/prebuilt/relu.ptx")),
    ("smooth.ptx", include_str!("../../kernels/prebuilt/smooth.ptx")),
    ("rrelu.ptx", include_str!("../../kernels/prebuilt/rrelu.ptx")),
    ("advance.ptx", include_str!("../../kernels/prebuilt/advance.ptx")),
];
