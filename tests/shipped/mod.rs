//! The PTX that is shipped, file by file: what users run who have no nvcc.

pub const PTX: [(&str, &str); 5] = [
    ("relu.ptx", include_str!("../../kernels/prebuilt/relu.ptx")),
    ("smooth.ptx", include_str!("../../kernels/prebuilt/smooth.ptx")),
    ("rrelu.ptx", include_str!("../../kernels/prebuilt/rrelu.ptx")),
    ("norm.ptx", include_str!("../../kernels/prebuilt/norm.ptx")),
    ("advance.ptx", include_str!("../../kernels/prebuilt/advance.ptx")),
];
