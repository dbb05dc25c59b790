//! What host and device share, made by bindgen from kernels/drop_activation.h (86927666d639bc5a).
//! `BLESS=1 cargo test -p layout` makes it anew.
#![allow(dead_code, non_camel_case_types)]

pub const DA_TILE_ELEMENTS: u32 = 1024;
pub const DA_MAX_BLOCK_THREADS: u32 = 256;
pub const DA_PACK_BYTES: u32 = 16;
pub const DA_CHUNK_ELEMENTS: u32 = 1024;
pub const DA_MIXTURE_IDENTITY: da_mixture = 0;
pub const DA_MIXTURE_SIGMA: da_mixture = 1;
pub const DA_MIXTURE_MIXED: da_mixture = 2;
pub type da_mixture = ::core::ffi::c_uint;
pub const DA_LAYOUT_ELEMENTS: da_layout = 0;
pub const DA_LAYOUT_ROWS: da_layout = 1;
pub const DA_LAYOUT_IMAGES: da_layout = 2;
pub const DA_LAYOUT_UNEVEN: da_layout = 3;
pub type da_layout = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct da_divisor {
    pub multiplier: u64,
    pub shift: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of da_divisor"][::core::mem::size_of::<da_divisor>() - 16usize];
    ["Alignment of da_divisor"][::core::mem::align_of::<da_divisor>() - 8usize];
    ["Offset of field: da_divisor::multiplier"][::core::mem::offset_of!(da_divisor, multiplier) - 0usize];
    ["Offset of field: da_divisor::shift"][::core::mem::offset_of!(da_divisor, shift) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct da_args {
    pub n: u64,
    pub tiles: u64,
    pub full_tiles: u64,
    pub x: *const ::core::ffi::c_void,
    pub dy: *const ::core::ffi::c_void,
    pub out: *mut ::core::ffi::c_void,
    pub mask: *mut u32,
    pub shard_start: u64,
    pub offset: u64,
    pub offset_at: *const u64,
    pub seed_at: *const u64,
    pub offset_out: *mut u64,
    pub threshold: u32,
    pub planes: u32,
    pub constant_word: u32,
    pub mixture: u32,
    pub p: f64,
    pub slope: f64,
    pub p_f32: f32,
    pub slope_f32: f32,
    pub lower: f32,
    pub upper: f32,
    pub round_keys: [u32; 20usize],
    pub plane_masks: [u32; 12usize],
    pub channels: u64,
    pub inner: u64,
    pub by_channels: da_divisor,
    pub by_inner: da_divisor,
    pub layout: u64,
    pub step_channels: u32,
    pub step_within: u32,
    pub columns: u64,
    pub by_columns: da_divisor,
    pub column_tiles: u64,
    pub straight_tiles: u64,
    pub residual: *const ::core::ffi::c_void,
    pub scale: *const ::core::ffi::c_void,
    pub shift: *const ::core::ffi::c_void,
    pub alpha: *const ::core::ffi::c_void,
    pub beta: *const ::core::ffi::c_void,
    pub gamma: *const ::core::ffi::c_void,
    pub mean: *const ::core::ffi::c_void,
    pub count: u64,
    pub chunks: u64,
    pub across: u64,
    pub by_across: da_divisor,
    pub row_step: u64,
    pub within_step: u64,
    pub partial: *mut ::core::ffi::c_void,
    pub results: [*mut ::core::ffi::c_void; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of da_args"][::core::mem::size_of::<da_args>() - 512usize];
    ["Alignment of da_args"][::core::mem::align_of::<da_args>() - 8usize];
    ["Offset of field: da_args::n"][::core::mem::offset_of!(da_args, n) - 0usize];
    ["Offset of field: da_args::tiles"][::core::mem::offset_of!(da_args, tiles) - 8usize];
    ["Offset of field: da_args::full_tiles"][::core::mem::offset_of!(da_args, full_tiles) - 16usize];
    ["Offset of field: da_args::x"][::core::mem::offset_of!(da_args, x) - 24usize];
    ["Offset of field: da_args::dy"][::core::mem::offset_of!(da_args, dy) - 32usize];
    ["Offset of field: da_args::out"][::core::mem::offset_of!(da_args, out) - 40usize];
    ["Offset of field: da_args::mask"][::core::mem::offset_of!(da_args, mask) - 48usize];
    ["Offset of field: da_args::shard_start"][::core::mem::offset_of!(da_args, shard_start) - 56usize];
    ["Offset of field: da_args::offset"][::core::mem::offset_of!(da_args, offset) - 64usize];
    ["Offset of field: da_args::offset_at"][::core::mem::offset_of!(da_args, offset_at) - 72usize];
    ["Offset of field: da_args::seed_at"][::core::mem::offset_of!(da_args, seed_at) - 80usize];
    ["Offset of field: da_args::offset_out"][::core::mem::offset_of!(da_args, offset_out) - 88usize];
    ["Offset of field: da_args::threshold"][::core::mem::offset_of!(da_args, threshold) - 96usize];
    ["Offset of field: da_args::planes"][::core::mem::offset_of!(da_args, planes) - 100usize];
    ["Offset of field: da_args::constant_word"][::core::mem::offset_of!(da_args, constant_word) - 104usize];
    ["Offset of field: da_args::mixture"][::core::mem::offset_of!(da_args, mixture) - 108usize];
    ["Offset of field: da_args::p"][::core::mem::offset_of!(da_args, p) - 112usize];
    ["Offset of field: da_args::slope"][::core::mem::offset_of!(da_args, slope) - 120usize];
    ["Offset of field: da_args::p_f32"][::core::mem::offset_of!(da_args, p_f32) - 128usize];
    ["Offset of field: da_args::slope_f32"][::core::mem::offset_of!(da_args, slope_f32) - 132usize];
    ["Offset of field: da_args::lower"][::core::mem::offset_of!(da_args, lower) - 136usize];
    ["Offset of field: da_args::upper"][::core::mem::offset_of!(da_args, upper) - 140usize];
    ["Offset of field: da_args::round_keys"][::core::mem::offset_of!(da_args, round_keys) - 144usize];
    ["Offset of field: da_args::plane_masks"][::core::mem::offset_of!(da_args, plane_masks) - 224usize];
    ["Offset of field: da_args::channels"][::core::mem::offset_of!(da_args, channels) - 272usize];
    ["Offset of field: da_args::inner"][::core::mem::offset_of!(da_args, inner) - 280usize];
    ["Offset of field: da_args::by_channels"][::core::mem::offset_of!(da_args, by_channels) - 288usize];
    ["Offset of field: da_args::by_inner"][::core::mem::offset_of!(da_args, by_inner) - 304usize];
    ["Offset of field: da_args::layout"][::core::mem::offset_of!(da_args, layout) - 320usize];
    ["Offset of field: da_args::step_channels"][::core::mem::offset_of!(da_args, step_channels) - 328usize];
    ["Offset of field: da_args::step_within"][::core::mem::offset_of!(da_args, step_within) - 332usize];
    ["Offset of field: da_args::columns"][::core::mem::offset_of!(da_args, columns) - 336usize];
    ["Offset of field: da_args::by_columns"][::core::mem::offset_of!(da_args, by_columns) - 344usize];
    ["Offset of field: da_args::column_tiles"][::core::mem::offset_of!(da_args, column_tiles) - 360usize];
    ["Offset of field: da_args::straight_tiles"][::core::mem::offset_of!(da_args, straight_tiles) - 368usize];
    ["Offset of field: da_args::residual"][::core::mem::offset_of!(da_args, residual) - 376usize];
    ["Offset of field: da_args::scale"][::core::mem::offset_of!(da_args, scale) - 384usize];
    ["Offset of field: da_args::shift"][::core::mem::offset_of!(da_args, shift) - 392usize];
    ["Offset of field: da_args::alpha"][::core::mem::offset_of!(da_args, alpha) - 400usize];
    ["Offset of field: da_args::beta"][::core::mem::offset_of!(da_args, beta) - 408usize];
    ["Offset of field: da_args::gamma"][::core::mem::offset_of!(da_args, gamma) - 416usize];
    ["Offset of field: da_args::mean"][::core::mem::offset_of!(da_args, mean) - 424usize];
    ["Offset of field: da_args::count"][::core::mem::offset_of!(da_args, count) - 432usize];
    ["Offset of field: da_args::chunks"][::core::mem::offset_of!(da_args, chunks) - 440usize];
    ["Offset of field: da_args::across"][::core::mem::offset_of!(da_args, across) - 448usize];
    ["Offset of field: da_args::by_across"][::core::mem::offset_of!(da_args, by_across) - 456usize];
    ["Offset of field: da_args::row_step"][::core::mem::offset_of!(da_args, row_step) - 472usize];
    ["Offset of field: da_args::within_step"][::core::mem::offset_of!(da_args, within_step) - 480usize];
    ["Offset of field: da_args::partial"][::core::mem::offset_of!(da_args, partial) - 488usize];
    ["Offset of field: da_args::results"][::core::mem::offset_of!(da_args, results) - 496usize];
};
