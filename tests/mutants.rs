//! Kernels broken in the ways people get wrong. The emulation of the sources must catch each of them, either by its
//! report on a launch or because the numbers are not the reference's, and so must the machine that runs what nvcc
//! makes of them; and they must find nothing in the kernels as they are, by the same probe.
//!
//! The kernels use no shared memory, so there is no `__syncwarp` in them to leave out: what a missing one does
//! is shown on a kernel of its own in `machines/emulation.rs`.
//!
//! `cargo test --test mutants -- --nocapture` prints what caught each.
#![cfg(feature = "cuda")]

mod emulator;
#[path = "support/fused_cases.rs"]
mod fused_cases;
mod ptx_machine;
mod support;

use std::{fs, path::PathBuf};

use drop_activation::cuda::{Addresses, Pass, launch::plan};
use drop_activation::half::{bf16, f16};
use drop_activation::{Activation, DropActivation, MaskKey, RRelu, reference};
use emulator::{Blocks, Buffer, BuildError, Emulator, Machine, Order, device_address};
use fused_cases::{Finding, Kind, Real64, Source};
use ptx_machine::Ptx;
use support::activations::{self, SMOOTH};
use support::data::{Bits, Rng, same_bits, ulp};
use support::guarded::Guarded;

/// One change to one file of `kernels/`.
struct Mutant {
    file: &'static str,
    /// Stands there exactly once, so that this table can't outlive what it is about.
    find: &'static str,
    replace: &'static str,
    /// Entry points that show it, without their `da_`.
    entries: &'static [&'static str],
    caught: By,
}

/// What a mutant is caught by.
enum By {
    /// A report that says this.
    Report(&'static str),
    /// Numbers that are not the reference's.
    Numbers,
}
use By::{Numbers, Report};

/// One test for each mutant, and all of them as a table.
macro_rules! mutants {
    ($($(#[$meta:meta])+ $name:ident: $file:literal $find:literal => $replace:literal, $entries:expr, $by:expr;)+) => {
        const MUTANTS: &[Mutant] = &[
            $(Mutant { file: $file, find: $find, replace: $replace, entries: &$entries, caught: $by }),+
        ];

        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy)]
        enum Name { $($name),+ }

        mod as_source {
            use super::*;

            $($(#[$meta])+
            #[test]
            fn $name() {
                let name = stringify!($name);
                is_caught(name, &MUTANTS[Name::$name as usize], build(name, &MUTANTS[Name::$name as usize]));
            })+
        }

        mod as_compiled {
            use super::*;

            $($(#[$meta])+
            #[test]
            fn $name() {
                let name = stringify!($name);
                is_caught(name, &MUTANTS[Name::$name as usize], compile(name, &MUTANTS[Name::$name as usize]));
            })+
        }
    };
}

mutants! {
    // prmt.cuh

    /// CUDA's intrinsic for PTX's instruction, of which it has no sign mode: what the kernels did until the compiled
    /// code was first executed.
    byte_perm_for_prmt_in_pairs: "select.cuh" "return prmt(shifted[2 * j], " => "return __byte_perm(shifted[2 * j], ",
        ["train_forward_relu_bf16", "train_backward_relu_f16"], Numbers;
    /// The same for f32.
    byte_perm_for_prmt_in_words: "select.cuh" "return prmt(shifted[4 * (k % 2) + e], " =>
        "return __byte_perm(shifted[4 * (k % 2) + e], ",
        ["train_forward_relu_f32", "train_backward_relu_f32"], Numbers;

    // warp.cuh: lanes, words and bits

    /// A lane mask short by one lane.
    mask_without_the_last_lane: "warp.cuh" "kFullWarp = 0xFFFFFFFFu" => "kFullWarp = 0x7FFFFFFFu",
        ["train_forward_relu_bf16"], Report("which does not name it");
    /// The halves of the warp take each other's part of the exchange.
    selectors_swapped: "warp.cuh" "upper ? 0x3276 : 0x5410" => "upper ? 0x5410 : 0x3276",
        ["train_forward_relu_bf16"], Numbers;
    /// One digit of a byte selector.
    selector_off_by_one: "warp.cuh" "0x3715" => "0x3725", ["train_backward_relu_bf16"], Numbers;
    /// Both lanes of an exchange rotate in the same direction.
    rotation_in_one_direction: "warp.cuh" "upper ? 32 - width : width" => "width", ["train_backward_relu_f32"], Numbers;
    /// Each lane keeps the half that it should give away.
    other_half_kept: "warp.cuh" "low << (upper ? width : 0)" => "low << (upper ? 0 : width)",
        ["train_backward_relu_f32"], Numbers;
    /// Each lane takes the word of its own number, whatever the packs are.
    word_of_the_lane: "warp.cuh" "return lane / kLanesPerWord + E * (lane % kLanesPerWord);" => "return lane;",
        ["train_forward_relu_f32"], Numbers;

    // philox.cuh, keep_stream.cuh: the random bits

    /// A multiplier with two digits exchanged.
    philox_constant: "philox.cuh" "0xCD9E8D57u * counter.z" => "0xCD9E8D75u * counter.z", ["train_forward_relu_f32"], Numbers;
    /// The halves of a round's key exchanged.
    round_key_of_the_other_half: "philox.cuh" "counter.y ^ round_keys[2 * round]," =>
        "counter.y ^ round_keys[2 * round + 1],",
        ["train_forward_relu_f32"], Numbers;
    /// Nine rounds of ten.
    philox_rounds: "philox.cuh" "round < 10" => "round < 9", ["train_forward_relu_f32"], Numbers;
    /// A bit of T against the wrong random word.
    plane_of_the_neighbour: "keep_stream.cuh" "compare(r.z, planes[2]" => "compare(r.z, planes[1]",
        ["train_forward_relu_f32"], Numbers;
    /// The same where the planes are made in the kernel.
    plane_of_the_neighbour_in_the_loop: "keep_stream.cuh" "plane(bits << 1)" => "plane(bits << 2)",
        ["train_forward_relu_f32"], Numbers;
    /// Two planes exchanged: the one that decides less overrules the other.
    planes_exchanged: "keep_stream.cuh"
        "compare(r.y, planes[1], less, equal);\n        compare(r.x, planes[0], less, equal);" =>
        "compare(r.x, planes[0], less, equal);\n        compare(r.y, planes[1], less, equal);",
        ["train_forward_relu_f32"], Numbers;
    /// A later block overrules what an earlier one has settled.
    settled_again: "keep_stream.cuh" "keep |= undecided & less" => "keep |= less", ["train_forward_relu_f32"], Numbers;
    /// The warp stops when the first lane is done, not the last.
    stops_with_the_first_lane: "keep_stream.cuh" "__any_sync(kFullWarp" => "__all_sync(kFullWarp",
        ["train_forward_relu_f32"], Numbers;
    /// A lane that is done leaves the others alone with the vote.
    leaves_before_the_vote: "keep_stream.cuh" "4 * block < a.planes && __any" => "4 * block < a.planes && undecided && __any",
        ["train_forward_relu_f32"], Report("deadlock");
    /// Nobody asks for a fourth call.
    leaves_after_three_calls: "keep_stream.cuh" "uint32_t block = 3" => "uint32_t block = 8",
        ["train_forward_relu_f32"], Numbers;
    /// Where two calls are all there can be, the second is left out.
    leaves_after_one_call: "keep_stream.cuh" "if (a.planes > 4)" => "if (a.planes > 8)", ["train_forward_relu_f32"], Numbers;
    /// The blocks of one word run into another's.
    block_number_misplaced: "keep_stream.cuh" "block << 29" => "block << 28", ["train_forward_relu_f32"], Numbers;
    /// Word indices of 32 bits: tensors beyond 2^37 elements repeat their masks.
    word_index_truncated: "keep_stream.cuh" "static_cast<uint32_t>(w >> 32) |" => "", ["train_forward_relu_f32"],
        Numbers;

    // offset.cuh: the base in device memory

    /// The base is not looked at, so that every replay of a graph draws the same.
    base_ignored: "offset.cuh" "offset += __ldcg(a.offset_at)" => "(void)0", ["train_forward_relu_f32"], Numbers;
    /// A sum of 32 bits.
    base_without_carry: "offset.cuh" "offset += __ldcg(a.offset_at)" =>
        "offset = (__ldcg(a.offset_at) & 0xFFFFFFFF00000000) | static_cast<uint32_t>(__ldcg(a.offset_at) + offset)",
        ["train_forward_relu_f32"], Numbers;
    /// A generator's seed is not looked at, so that a graph's keys are other than those of the steps without it.
    seed_ignored: "offset.cuh" "if (a.seed_at != nullptr)" => "if (false)", ["train_forward_relu_f16"], Numbers;
    /// The generator's offset counts numbers, of which a block has four.
    block_of_one_number: "offset.cuh" "static_cast<uint32_t>(offset / 4), y" => "static_cast<uint32_t>(offset), y",
        ["train_forward_relu_f32"], Numbers;
    /// The upper half of the place is left out.
    block_truncated: "offset.cuh" "y = static_cast<uint32_t>(offset / 4 >> 32)" => "y = 0",
        ["train_forward_relu_bf16"], Numbers;
    /// The words of what is drawn exchanged.
    drawn_halves_exchanged: "offset.cuh" "uint64_t{x} << 32 | y" => "uint64_t{y} << 32 | x",
        ["train_forward_relu_f32"], Numbers;
    /// A power of two for the bound.
    drawn_below_another_bound: "offset.cuh" "(drawn & bound) + (drawn >> 63)" => "drawn & bound",
        ["rrelu_train_backward_f32"], Numbers;
    /// The same key in each round.
    drawn_without_key_schedule: "offset.cuh" "low += 0x9E3779B9u" => "low += 0", ["train_forward_relu_f32"], Numbers;
    /// By elements only.
    base_ignored_by_elements: "tile.cuh"
        "const uint64_t offset = kDraws ? whole_offset(a) : 0;\n        uint32_t bits = 0;  // lane l: word l" =>
        "const uint64_t offset = a.offset;\n        uint32_t bits = 0;  // lane l: word l",
        ["rrelu_train_backward_f32"], Numbers;

    // tile.cuh: the loops over tiles, packs and elements

    /// The warps of a block forget that there are others.
    stride_too_short: "tile.cuh" "uint64_t{gridDim.x} * warps_per_block" => "uint64_t{gridDim.x}",
        ["relu_forward_f32"], Report("some of them for the second time");
    /// All tiles go by packs, whole or not.
    partial_tile_by_packs: "tile.cuh" "tile < a.full_tiles" => "tile < a.tiles",
        ["relu_forward_f64"], Report("outside every buffer");
    /// A tail that is no whole word is left out.
    tail_word_left_out: "tile.cuh" "(count + 31) / 32" => "count / 32",
        ["relu_forward_f32"], Report("are never written");
    /// One element too many.
    tail_off_by_one: "tile.cuh" "inside = i < count" => "inside = i <= count",
        ["relu_forward_f32"], Report("outside every buffer");
    /// Lanes beyond the end have a say in the mask.
    vote_of_lanes_outside: "tile.cuh" "inside && bit" => "bit", ["train_forward_relu_bf16"], Numbers;
    /// A collective that only some lanes come to.
    shuffle_of_lanes_inside: "tile.cuh" "if constexpr (Op::kBitsIn != BitsIn::kNone) bit =" => "if (inside) bit =",
        ["train_forward_relu_bf16"], Report("deadlock");
    /// Every lane keeps the last vote.
    vote_kept_by_all: "tile.cuh" "if (lane == j) bits_out = vote;" => "bits_out = vote;",
        ["train_forward_relu_bf16"], Numbers;
    /// Mask words past the end of the mask are stored.
    mask_stored_past_the_end: "tile.cuh" "if (lane < words) __stcs(" => "__stcs(",
        ["train_forward_relu_bf16"], Report("writes 4 bytes outside every buffer");
    /// And loaded.
    mask_loaded_past_the_end: "tile.cuh" "if (lane < words) bits =" => "bits =",
        ["train_backward_relu_bf16"], Report("reads 4 bytes outside every buffer");
    /// A pack's bits replace those of the packs before.
    bits_of_the_last_pack: "tile.cuh" "bits_out |= pack_bits << field" => "bits_out = pack_bits << field",
        ["train_forward_relu_f64"], Numbers;
    /// The second step works on the first one's packs.
    step_loaded_again: "tile.cuh" "load_step(input, at + 32 * step, input_packs)" => "load_step(input, at, input_packs)",
        ["relu_forward_f32"], Numbers;
    /// A pack is loaded once more after its result was stored, which harms in place only.
    pack_loaded_again: "tile.cuh" "__stwb(out + at + 32 * (step + k), input_packs[k].raw);" =>
        "__stwb(out + at + 32 * (step + k), input_packs[k].raw); input_packs[k].raw = __ldcs(input + at + 32 * (step + k));",
        ["relu_forward_f32"], Report("after this launch has written there");
    /// Plain loads, which no cache hint and no check sees.
    plain_loads: "tile.cuh" "packs[k].raw = __ldcs(from + at + 32 * k)" => "packs[k].raw = from[at + 32 * k]",
        ["relu_forward_f32"], Report("by itself");
    /// Loads through the cache that need not see what the launch has written.
    read_only_path: "tile.cuh" "packs[k].raw = __ldcs(" => "packs[k].raw = __ldg(",
        ["relu_forward_f32"], Report("by the read-only path");
    /// Indices of 32 bits, by packs.
    packs_truncated: "tile.cuh" "const uint64_t at = tile" => "const uint32_t at = tile",
        ["relu_forward_f64"], Report("outside every buffer");
    /// The same by elements.
    elements_truncated: "tile.cuh" "const uint64_t base = tile" => "const uint32_t base = tile",
        ["relu_forward_f64"], Report("outside every buffer");

    // select.cuh: whole tiles

    /// The high element's mask out of the low one's register.
    pair_from_one_register: "select.cuh" "high = kSignOfByte | (4 + k)" => "high = kSignOfByte | k", ["train_backward_relu_f16"], Numbers;
    /// A bit next to the one that is meant.
    pair_shift_off_by_one: "select.cuh" "bits << (7 - e)" => "bits << (8 - e)", ["train_backward_relu_bf16"], Numbers;
    /// Two packs gather their bits in one place.
    places_collide: "select.cuh" "2 * j + 1;" => "2 * j;", ["train_forward_relu_f16"], Numbers;
    /// The bits of high elements are left as differences.
    sum_of_differences: "select.cuh" "sum * 0x10001u" => "0u - sum", ["train_forward_relu_f16"], Numbers;
    /// The byte of another pack.
    word_from_the_wrong_byte: "select.cuh" "top = kSignOfByte | (k / 2)" => "top = kSignOfByte | (k % 4)", ["train_backward_relu_f32"], Numbers;
    /// A byte that is copied instead of its top bit.
    word_of_copied_bytes: "select.cuh" "top = kSignOfByte | (k / 2)" => "top = k / 2", ["train_backward_relu_f32"], Numbers;
    /// A bit next to the one that is meant.
    word_shift_off_by_one: "select.cuh" "word_bits << (7 - place)" => "word_bits << (8 - place)",
        ["train_backward_relu_f32"], Numbers;
    /// A sum whose last place counts halves.
    sum_begins_too_low: "select.cuh" "{0x1p23f, 0x1p23f}" => "{0x1p22f, 0x1p22f}", ["train_forward_relu_f32"], Numbers;
    /// The two sums take each other's half of the word.
    sums_exchanged: "select.cuh" "0x5410" => "0x1054", ["train_forward_relu_f32"], Numbers;
    /// Sixteen elements in a sum, and the places of eight.
    places_of_a_sum_collide: "select.cuh" "1u << (place % 16)" => "1u << (place % 8)", ["train_forward_relu_f32"], Numbers;
    /// NaN counts as negative, by packs.
    nan_blocked_by_packs: "select.cuh" "F32::real(packs[k].get(e)) <= 0" => "!(F32::real(packs[k].get(e)) > 0)",
        ["train_forward_relu_f32"], Numbers;

    // What is computed

    /// Kept elements pass and dropped ones are blocked.
    keep_inverted: "relu.cu" "!(keep && T::real(x) <= 0)" => "!(!keep && T::real(x) <= 0)",
        ["train_forward_relu_f32"], Numbers;
    /// The gradient at zero.
    zero_passes: "relu.cu" "keep && T::real(x) <= 0" => "keep && T::real(x) < 0", ["train_forward_relu_f32"], Numbers;
    /// NaN counts as negative.
    nan_blocked: "relu.cu" "keep && T::real(x) <= 0" => "keep && !(T::real(x) > 0)",
        ["train_forward_relu_f32"], Numbers;
    /// p == 1 left to multiplication by 0, which gives -0 and, at -inf, NaN.
    slope_of_zero: "relu.cu" "weights.mixture == DA_MIXTURE_SIGMA ? Bits{0} : T::bits(weights.slope * value)" =>
        "T::bits(weights.slope * value)",
        ["infer_forward_relu_f32"], Numbers;
    /// The same by pairs.
    slope_of_zero_by_pairs: "relu.cu" "IS_SIGMA ? 0 : T::bits(" => "T::bits(",
        ["infer_forward_relu_f16"], Numbers;
    /// The high element's product in the place of the low one's.
    products_exchanged: "relu.cu" "T::bits(weights.slope * low, weights.slope * high)" =>
        "T::bits(weights.slope * high, weights.slope * low)",
        ["infer_forward_relu_bf16"], Numbers;
    /// Rounding towards zero.
    rounding_by_truncation: "dtype.cuh" "__bfloat16_as_ushort(__float2bfloat16_rn(r))" =>
        "static_cast<Bits>(__float_as_uint(r) >> 16)",
        ["infer_forward_relu_bf16"], Numbers;
    // activation.cuh, and what calls it

    /// A digit of a coefficient: e^x.
    exponential_coefficient: "activation.cuh" "0.166665778f" => "0.166565778f", ["infer_forward_sigmoid_f32"], Numbers;
    /// Two digits of one exchanged, in f64.
    exponential_coefficient_of_f64: "activation.cuh" "0.04166666666662431" => "0.04166666666626431",
        ["infer_forward_sigmoid_f64"], Numbers;
    /// The normal distribution's tail.
    tail_coefficient: "activation.cuh" "0.230017707f" => "0.230071707f",
        ["infer_forward_gelu_f32", "infer_backward_gelu_f32"], Numbers;
    /// The polynomial about the zero of SiLU'.
    silu_coefficient: "activation.cuh" "0.0188747775f" => "0.0188477775f", ["infer_backward_silu_f32"], Numbers;
    /// Where e^-x ceases to be a normal number, though not yet 0.
    exponential_cut_off: "activation.cuh" "kExpLimit = 110.0f" => "kExpLimit = 87.0f",
        ["infer_forward_sigmoid_f32", "infer_forward_silu_f32"], Numbers;
    /// GELU has a tail of its own.
    gelu_cut_off: "activation.cuh" "kGeluLimit = 14.75f" => "kGeluLimit = 12.75f", ["infer_forward_gelu_f32"], Numbers;
    /// A NaN that comes out as a limit.
    nan_cut_off: "activation.cuh" "return a > limit ? limit : a" => "return a < limit ? a : limit",
        ["infer_forward_sigmoid_f32"], Numbers;
    /// One step of Newton's short.
    newton_step: "activation.cuh" "i < 3; ++i) y = fmaf" => "i < 2; ++i) y = fmaf", ["infer_forward_tanh_f32"], Numbers;
    /// The scale of powers of two.
    power_undone_twice: "activation.cuh" "kUndo = 0x1p-128" => "kUndo = 0x1p-127", ["infer_forward_sigmoid_f64"], Numbers;
    /// tanh without its sign.
    sign_lost: "activation.cuh" "return with_sign(quotient(difference, 2 + difference), x)" =>
        "return quotient(difference, 2 + difference)",
        ["infer_forward_tanh_f32"], Numbers;
    /// Sides exchanged.
    branch_exchanged: "activation.cuh" "quotient(x < 0 ? e : T(1), 1 + e)" => "quotient(x > 0 ? e : T(1), 1 + e)",
        ["infer_forward_sigmoid_f32"], Numbers;
    /// -0.0 and what is next to it take the other side.
    branch_at_the_wrong_place: "activation.cuh" "return x < 0 ? negative : positive" =>
        "return x < -1 ? negative : positive",
        ["infer_forward_gelu_f32"], Numbers;
    /// No branch where the formula cancels.
    branch_left_out: "activation.cuh" "return absolute(z) < C::kSiluHalfWidth ? z * C::silu(z) : far" => "return far",
        ["infer_backward_silu_f32"], Numbers;
    /// The second word of a zero of GELU'.
    root_of_one_word: "activation.cuh" "(x - C::kGeluRoot) - C::kGeluRootLow" => "(x - C::kGeluRoot)",
        ["infer_backward_gelu_f32"], Numbers;
    /// A rounding error that grows with the square.
    error_of_the_square: "activation.cuh" "T(-0.5) * multiply_add(a, a, -(a * a))" => "T(-0.0)",
        ["infer_forward_gelu_f32"], Numbers;
    /// tanh' at half its height.
    derivative_halved: "activation.cuh" "kExpLimit / 2), T(4))" => "kExpLimit / 2), T(2))",
        ["infer_backward_tanh_f32"], Numbers;
    /// The function for its derivative.
    value_for_derivative: "activation.cuh" "return activation::derivative(A{}, x)" => "return activation::value(A{}, x)",
        ["train_backward_silu_f32"], Numbers;
    /// Kept elements pass as they are, and dropped ones go through σ.
    sigma_of_the_dropped: "smooth.cu" "return keep ? T::bits(sigma<Act>(T::real(x))) : x" =>
        "return keep ? x : T::bits(sigma<Act>(T::real(x)))",
        ["train_forward_gelu_f32"], Numbers;
    /// The derivative without the gradient.
    gradient_left_out: "smooth.cu" "T::bits(T::real(dy) * sigma_derivative<Act>(T::real(x)))" =>
        "T::bits(sigma_derivative<Act>(T::real(x)))",
        ["train_backward_sigmoid_bf16"], Numbers;
    /// p and 1 - p exchanged.
    weights_exchanged: "smooth.cu" "fma(weights.p, s, weights.slope * value)" => "fma(weights.slope, s, weights.p * value)",
        ["infer_forward_silu_f16"], Numbers;
    /// σ alone, though p is not 1.
    mixture_left_out: "smooth.cu" "weights.mixture == DA_MIXTURE_SIGMA ? d : fma(weights.p, d, weights.slope)" => "d",
        ["infer_backward_tanh_f64"], Numbers;

    // channels.cuh, channel_tile.cuh, gradient.cuh and what is made of them

    /// Packs of a column as if it were one.
    columns_side_by_side: "channel_tile.cuh" "* 32 + lane, 32 * columns}" => "* 32 + lane, 32}",
        ["fused_forward_relu_f32"], Report("for the second time");
    /// The mask word of neighbouring segments.
    word_of_neighbouring_segments: "channel_tile.cuh" "word = segment * kPack + lane / kPacks" =>
        "word = tile * 32 + lane / kPacks + kPack * (lane % kPacks)",
        ["fused_forward_relu_bf16"], Numbers;
    /// Each pack with the first one's channels.
    values_of_the_first_pack: "channel_tile.cuh" "step + k == 0 || !down_a_column" => "step + k == 0",
        ["fused_forward_relu_f64"], Numbers;
    /// The same in a straight tile.
    straight_values_of_the_first_pack: "fused_forward.cuh" "values[k % CHANNELS]" => "values[0]",
        ["fused_forward_relu_f16"], Numbers;
    /// The first column's channels for all.
    channels_of_the_first_column: "channel_tile.cuh" "Place<uint32_t>::channel_of(a, walk.element(0))" =>
        "kPack * lane % static_cast<uint32_t>(a.channels)",
        ["fused_backward_relu_bf16"], Numbers;
    /// Bits of the first step for the second.
    bits_of_the_first_step: "channel_tile.cuh" "values, bits >> (kPack * step), results" => "values, bits, results",
        ["fused_backward_relu_f32"], Numbers;
    /// The groups of columns overlap.
    groups_of_columns_overlap: "channel_tile.cuh" "kPacks * (tile - column)" => "(tile - column)",
        ["fused_forward_relu_bf16"], Report("for the second time");
    /// Half a quotient.
    half_a_quotient: "divisor.cuh" "2 * dividend" => "dividend", ["fused_forward_relu_f64"], Report("outside every buffer");
    /// The last channel's neighbour.
    channels_without_an_end: "channels.cuh" "channel + 1 == static_cast<Index>(a.channels) ? 0 :" => "",
        ["fused_forward_relu_f64"], Report("outside every buffer");
    /// Two channels in a pack that has more of the second.
    boundary_off_by_one: "channels.cuh" "e < next_at ?" => "e <= next_at ?", ["fused_forward_relu_f32"], Numbers;
    /// A shift of +0, which makes a negative zero positive.
    absent_shift_of_zero: "gradient.cuh" "(a.shift, Real(-0.0))" => "(a.shift, Real(0))", ["fused_forward_relu_f32"], Numbers;
    /// The residual is left out.
    residual_left_out: "gradient.cuh" "RESIDUAL ? z + D::real(loaded.residual.get(e)) : z" => "z",
        ["fused_forward_relu_f16"], Numbers;
    /// NaN counts as negative.
    fused_nan_blocked: "gradient.cuh" "bit && z <= 0;" => "bit && !(z > 0);", ["fused_forward_relu_f32"], Numbers;
    /// Packs ahead are those of this step.
    step_ahead_is_this_one: "channel_tile.cuh" "load_all(walk, step + kStep, packs)" => "load_all(walk, step, packs)",
        ["fused_forward_relu_f64"], Numbers;
    /// Gamma for beta.
    linear_part_exchanged: "fused_backward.cuh" "fma(values.beta.of[e], distance, values.gamma.of[e])" =>
        "fma(values.gamma.of[e], distance, values.beta.of[e])",
        ["fused_backward_relu_f32"], Numbers;
    /// x by itself.
    mean_left_out: "fused_backward.cuh"
        "const Real distance = loaded.x(e) - values.mean.of[e];" => "const Real distance = loaded.x(e);",
        ["fused_backward_relu_bf16"], Numbers;

    // channel_sums.cuh, moments.cuh

    /// The upper half takes the lower one up.
    halves_exchanged: "channel_sums.cuh" "lower_one[n] = upper ? taken : first" => "lower_one[n] = upper ? other : first",
        ["fused_products_relu_f32"], Numbers;
    /// An accumulator with nothing in it counts.
    empty_accumulator_counts: "channel_sums.cuh" "if (n_others != 0) {" => "{", ["fused_moments_f32"], Numbers;
    /// The chunks in another order.
    chunks_in_threads_of_a_block: "channel_sums.cuh" "k += 32" => "k += blockDim.x", ["fused_moments_f32"], Numbers;
    /// A variance below zero.
    variance_below_zero: "moments.cuh" "squares < 0 ? Real(0) : squares" => "squares", ["fused_moments_f32"], Numbers;
    /// The first element is taken relative to zero.
    first_is_zero: "moments.cuh" "sums[e][0] = first ? x : sums[e][0];" => "sums[e][0] = first ? Real(0) : sums[e][0];",
        ["fused_moments_f64"], Numbers;

    /// Another 24 of the 32 random bits.
    uniform_shift: "rrelu.cu" "uniform >> 8" => "uniform & 0xFFFFFF", ["rrelu_train_forward_f32"], Numbers;
    /// Another word of the four, by elements only.
    uniform_word: "uniforms.cuh" "const uint32_t low = e & 1 ? words.y : words.x" =>
        "const uint32_t low = e & 1 ? words.x : words.y",
        ["rrelu_train_backward_bf16"], Numbers;
}

// ---------------------------------------------------------------------------------------------------
// The probe: a few launches of an entry point that between them show most that can go wrong

/// One launch. Places are in elements past a 64-byte boundary.
struct Case {
    p: f64,
    n: usize,
    /// Elements that come before and are other blocks' work.
    before: u64,
    /// The key's `first`.
    first: u64,
    input: usize,
    output: usize,
    saved: usize,
    in_place: bool,
    /// The part of the key's offset that is in device memory.
    base: u64,
    /// A generator's seed there, which draws the offset.
    seed: Option<u64>,
    /// Those of the plan if `None`.
    geometry: Option<(u32, u32)>,
    order: Order,
}

const PLAIN: Case = Case {
    p: 0.95,
    n: 1025,
    before: 0,
    first: 0,
    input: 0,
    output: 0,
    saved: 0,
    in_place: false,
    base: 0,
    seed: None,
    geometry: None,
    order: Order::Forward,
};

/// Of the key.
const OFFSET: u64 = 0xFEDC_BA98_7654_3210;

const CASES: &[Case] = &[
    Case { n: 1, input: 1, ..PLAIN },
    Case { n: 33, output: 1, base: OFFSET, order: Order::Reversed, ..PLAIN },
    Case { n: 1023, in_place: true, ..PLAIN },
    // A carry from the lower half of the offset.
    Case { p: 0.5, base: OFFSET - 0x8000_0000, ..PLAIN },
    // One of the two draws the top bit.
    Case { p: 0.5, base: OFFSET - 0x8000_0000, seed: Some(0x0123_4567_89AB_CDEF), ..PLAIN },
    Case { output: 1, base: OFFSET - 8, seed: Some(u64::MAX - 5), ..PLAIN },
    Case { input: 1, saved: 1, order: Order::Random(1), ..PLAIN },
    // Seven planes.
    Case { output: 1, p: 121.0 / 128.0, ..PLAIN },
    Case { saved: 1, ..PLAIN },
    Case { input: 3, saved: 3, in_place: true, order: Order::Reversed, ..PLAIN },
    // More tiles than warps. One element in 4096 takes more planes than the first three calls give, and so close
    // to 1 they decide.
    Case { n: 40 * 1024 + 40, p: 1.0 - 1e-9, geometry: Some((1, 64)), order: Order::Random(2), ..PLAIN },
    // Across the carry into the upper half of word indices.
    Case { n: 7 * 1024 + 40, geometry: Some((3, 32)), in_place: true, first: (1 << 37) - 2048, ..PLAIN },
    Case { n: 4096, p: 1.0, ..PLAIN },
    // Element and pack indices beyond 32 bits: the last block of a long tensor.
    Case { before: 1 << 34, ..PLAIN },
];

impl Case {
    /// That of the key.
    fn offset(&self) -> u64 {
        self.seed.map_or(OFFSET, |seed| reference::drawn_offset(seed, OFFSET))
    }
}

fn probe(machine: &impl Machine, entry: &str) -> Result<(), Finding> {
    if entry.starts_with("fused_") {
        return probe_fused(machine, entry);
    }
    let (stem, dtype) = entry.rsplit_once('_').expect("an entry ends with its type");
    let run = match dtype {
        "f32" => run_case::<f32, _>,
        "f16" => run_case::<f16, _>,
        "bf16" => run_case::<bf16, _>,
        "f64" => run_case::<f64, _>,
        other => panic!("no type {other}"),
    };
    CASES.iter().try_for_each(|case| run(machine, stem, case))
}

/// The same for a pass over channels.
fn probe_fused(machine: &impl Machine, entry: &str) -> Result<(), Finding> {
    fn over<T: Bits<Real: Real64>>(machine: &impl Machine, stem: &str) -> Result<(), Finding> {
        let of_entry = |case: &fused_cases::Case| {
            let activation = case.activation.name();
            let relu = case.activation == Activation::Relu && case.source == Source::Inference;
            match case.kind {
                Kind::Statistics => stem == "fused_moments",
                Kind::Forward | Kind::Infer => stem == format!("fused_forward_{activation}"),
                Kind::Backward if case.source == Source::Training => stem == format!("fused_backward_{activation}"),
                Kind::Sums if case.source == Source::Training && case.present[4] => {
                    stem == format!("fused_products_{activation}")
                }
                _ => relu && stem == "fused_infer_backward_relu" && case.kind == Kind::Backward,
            }
        };
        for case in fused_cases::cases::<T>().iter().filter(|case| of_entry(case)) {
            fused_cases::run::<T, _>(machine, case, Order::Random(5))?;
        }
        Ok(())
    }
    let (stem, dtype) = entry.rsplit_once('_').expect("an entry ends with its type");
    match dtype {
        "f32" => over::<f32>(machine, stem),
        "f16" => over::<f16>(machine, stem),
        "bf16" => over::<bf16>(machine, stem),
        _ => over::<f64>(machine, stem),
    }
}

/// A pass on given numbers and what must come of it.
struct Work<T> {
    pass: Pass,
    input: Vec<T>,
    saved: Option<Vec<T>>,
    mask_read: Option<Vec<u32>>,
    output: Vec<T>,
    /// How far from `output` a result may be, element by element; as many zeros where it is exact.
    tolerance: Vec<f64>,
    mask_written: Option<Vec<u32>>,
}

impl<T: Bits> Work<T> {
    fn new(stem: &str, case: &Case) -> Self {
        let (op, rrelu) = (DropActivation::relu(case.p).unwrap(), RRelu::default());
        let of_all = MaskKey::new(0x0123_4567_89AB_CDEF, case.offset()).shard(case.first).unwrap();
        let key = of_all.shard(case.first + case.before).unwrap();
        let mut rng = Rng::new(case.n as u64);
        let (x, dy) = (rng.values::<T>(case.n), rng.values::<T>(case.n));
        let (y, mask) = reference::forward(&op, key, &x).unwrap();

        let exact = |pass, input, output| {
            let tolerance = vec![0.0; case.n];
            Self { pass, input, saved: None, mask_read: None, output, tolerance, mask_written: None }
        };
        match stem {
            "train_forward_relu" => {
                Self { mask_written: Some(mask.into_words()), ..exact(Pass::Forward { op, key: of_all }, x, y) }
            }
            "train_backward_relu" => {
                let dx = reference::backward(&op, &mask, None, &dy).unwrap();
                Self { mask_read: Some(mask.into_words()), ..exact(Pass::Backward { op }, dy, dx) }
            }
            "train_backward_relu_from_output" => {
                let dx = reference::backward_from_output(&op, &y, &dy).unwrap();
                Self { saved: Some(y), ..exact(Pass::BackwardFromOutput { op }, dy, dx) }
            }
            "infer_forward_relu" => {
                let y = reference::infer(&op, &x);
                exact(Pass::Infer { op }, x, y)
            }
            "rrelu_train_forward" => {
                let (y, signs) = reference::rrelu_forward(&rrelu, key, &x).unwrap();
                let pass = Pass::RreluForward { op: rrelu, key: of_all };
                Self { mask_written: Some(signs.into_words()), ..exact(pass, x, y) }
            }
            "rrelu_train_backward" => {
                let (_, signs) = reference::rrelu_forward(&rrelu, key, &x).unwrap();
                let dx = reference::rrelu_backward(&rrelu, &signs, &dy).unwrap();
                let pass = Pass::RreluBackward { op: rrelu, key: of_all };
                Self { mask_read: Some(signs.into_words()), ..exact(pass, dy, dx) }
            }
            "relu_forward" => {
                let y = reference::relu_forward(&x);
                exact(Pass::ReluForward, x, y)
            }
            smooth => Self::smooth(smooth, case, of_all, key),
        }
    }

    /// Of a nonlinearity whose kernel and reference need only both be within the documented bounds.
    fn smooth(stem: &str, case: &Case, of_all: MaskKey, key: MaskKey) -> Self {
        let (pass, name) = stem.rsplit_once('_').expect("a pass and a nonlinearity");
        let activation = Activation::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name));
        let activation = activation.unwrap_or_else(|| panic!("the probe does not know {stem}"));
        let op = DropActivation::new(activation, case.p).unwrap();
        let x: Vec<T> = telling_points(case.n);
        let dy: Vec<T> = (0..case.n).map(|i| T::rounded([1.0, -1.0, 0.75][i % 3])).collect();
        let (y, mask) = reference::forward(&op, key, &x).unwrap();
        let (pass, input, saved, output, reads, writes) = match pass {
            "train_forward" => (Pass::Forward { op, key: of_all }, x, None, y, false, true),
            "train_backward" => {
                let dx = reference::backward(&op, &mask, Some(&x), &dy).unwrap();
                (Pass::Backward { op }, dy, Some(x), dx, true, false)
            }
            "infer_forward" => {
                let y = reference::infer(&op, &x);
                (Pass::Infer { op }, x, None, y, false, false)
            }
            "infer_backward" => {
                let dx = reference::infer_backward(&op, &x, &dy).unwrap();
                (Pass::InferBackward { op }, dy, Some(x), dx, false, false)
            }
            other => panic!("the probe does not know {other}"),
        };
        // Each of the two may be off; and where p mixes in the identity their sum may cancel.
        let ulps = 2.0 * activations::smooth(activation).bound;
        let cancels = case.p != 1.0 && stem.starts_with("infer");
        let of = |v: &T| ulps * if cancels { ulp::<T>(v.to_f64()).max(ulp::<T>(1.0)) } else { ulp::<T>(v.to_f64()) };
        let tolerance = output.iter().map(of).collect();
        let words = mask.into_words();
        let mask_read = reads.then(|| words.clone());
        Self { pass, input, saved, mask_read, output, tolerance, mask_written: writes.then_some(words) }
    }
}

/// Where smooth nonlinearities bend, vanish, cancel or are cut off, among numbers of every size.
fn telling_points<T: Bits>(n: usize) -> Vec<T> {
    let mut rng = Rng::new(n as u64);
    let beside = |v: f64, rng: &mut Rng| T::from_bits(T::rounded(v).bits().wrapping_add(rng.below(9) as u64) - 4);
    let roots: Vec<f64> = SMOOTH.iter().filter_map(|row| row.derivative.root).collect();
    let value = |i: usize, rng: &mut Rng| match i % 8 {
        0 | 1 => beside(roots[i / 8 % roots.len()], rng),
        2 => T::rounded(roots[i / 8 % roots.len()] + 0.4 * (rng.unit() - 0.5)),
        3 => T::rounded(30.0 * (rng.unit() - 0.5)),
        4 => T::rounded(-75.0 - 40.0 * rng.unit()),
        5 => rng.values::<T>(1)[0],
        _ => T::rounded(2.0 * rng.normal()),
    };
    (0..n).map(|i| value(i, &mut rng)).collect()
}

fn run_case<T: Bits, M: Machine>(machine: &M, stem: &str, case: &Case) -> Result<(), Finding> {
    let work = Work::<T>::new(stem, case);
    let mut input = Guarded::new(&work.input, case.input);
    let mut output = Guarded::garbage(case.n, case.output);
    let saved = work.saved.map(|saved| Guarded::new(&saved, case.saved));
    let mut words = work.mask_read.clone().unwrap_or(vec![u32::MAX; case.n.div_ceil(32)]);

    let (base, seed) = ([case.base], case.seed.map(|seed| [seed]));

    // The tensor's own beginning, whether or not anything is there.
    let start = |slice: &[T]| device_address(slice.as_ptr()) - case.before * size_of::<T>() as u64;
    let at = Addresses {
        input: start(input.slice()),
        saved: saved.as_ref().map_or(0, |saved| start(saved.slice())),
        output: start(if case.in_place { input.slice() } else { output.slice() }),
        mask: device_address(words.as_ptr()) - case.before / 8,
        offset_at: if case.base == 0 { 0 } else { device_address(base.as_ptr()) },
        seed_at: seed.as_ref().map_or(0, |seed| device_address(seed.as_ptr())),
        ..Addresses::default()
    };
    let n = case.before as usize + case.n;
    let mut launch = plan(&work.pass, T::DTYPE, n, at).unwrap().expect("there are elements");
    assert_eq!(launch.entry.name(), format!("da_{stem}_{}", T::DTYPE.name()));
    let (grid, block) = case.geometry.unwrap_or((launch.grid, launch.block));
    let blocks = if case.before == 0 { 0..grid } else { grid - 1..grid };

    let mut buffers = Vec::new();
    if case.in_place {
        buffers.push(Buffer::in_place("input and output", input.slice_mut()));
    } else {
        buffers.push(Buffer::input("input", input.slice()));
        buffers.push(Buffer::output("output", output.slice_mut()));
    }
    buffers.extend(saved.as_ref().map(|saved| Buffer::input("saved", saved.slice())));
    if work.mask_read.is_some() {
        buffers.push(Buffer::input("mask", &words));
    } else if work.mask_written.is_some() {
        buffers.push(Buffer::output("mask", &mut words));
    }
    if !launch.args.offset_at.is_null() {
        launch.args.offset = OFFSET.wrapping_sub(case.base);
        buffers.push(Buffer::input("base", &base));
        buffers.extend(seed.as_ref().map(|seed| Buffer::input("seed", seed)));
    }
    machine
        .launch_blocks(launch.entry.name(), Blocks { grid, block, which: blocks }, &launch.args, &buffers, case.order)
        .map_err(Finding::Report)?;

    let given = if case.in_place { input.slice() } else { output.slice() };
    let numbers = |message| Err(Finding::Numbers(format!("{} of {} elements: {message}", launch.entry.name(), case.n)));
    let right = |i: usize| {
        let (given, expected) = (given[i], work.output[i]);
        let near = (given.to_f64() - expected.to_f64()).abs() <= work.tolerance[i];
        same_bits(given, expected) || (work.tolerance[i] != 0.0 && (near || given.is_nan() && expected.is_nan()))
    };
    if let Some(i) = (0..case.n).find(|&i| !right(i)) {
        return numbers(format!("element {i} is {:?}, not {:?}", given[i], work.output[i]));
    }
    if let Some(expected) = work.mask_written
        && let Some(w) = (0..words.len()).find(|&w| words[w] != expected[w])
    {
        return numbers(format!("mask word {w} is {:08X}, not {:08X}", words[w], expected[w]));
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------

/// Kernels, or why there are none.
enum Built<M> {
    Machine(M),
    Unavailable(String),
    Failed(String),
}

/// The sources with this one change and with the entries that show it, no others.
fn mutated(name: &str, mutant: &Mutant) -> Result<PathBuf, String> {
    let kernels = emulator::root().join("kernels");
    let files = fs::read_dir(&kernels).map_err(|_| format!("its sources are not here: {}", kernels.display()))?;
    let folder = emulator::scratch_folder(&format!("mutant-{name}"));
    let mut changed = false;
    for entry in files {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let file = path.file_name().unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        if file == mutant.file {
            let count = text.matches(mutant.find).count();
            assert_eq!(count, 1, "{:?} stands in {} {count} times: change the table", mutant.find, mutant.file);
            text = text.replace(mutant.find, mutant.replace);
            changed = true;
        }
        if path.extension().is_some_and(|extension| extension == "cu") {
            let Some(reduced) = with_entries(&text, mutant.entries) else { continue };
            text = reduced;
        }
        fs::write(folder.join(file), text).unwrap();
    }
    assert!(changed, "there is no {}", mutant.file);
    Ok(folder)
}

/// The emulation of the sources with this one change.
fn build(name: &str, mutant: &Mutant) -> Built<Emulator> {
    let folder = match mutated(&format!("{name}-source"), mutant) {
        Ok(folder) => folder,
        Err(why) => return Built::Unavailable(why),
    };
    let built = match Emulator::build(&folder) {
        Ok(emulator) => Built::Machine(emulator),
        Err(BuildError::Unavailable(why)) => Built::Unavailable(why),
        Err(BuildError::Failed(why)) => Built::Failed(why),
    };
    let _ = fs::remove_dir_all(&folder);
    built
}

/// What nvcc makes of them, for sm_90.
fn compile(name: &str, mutant: &Mutant) -> Built<Ptx> {
    if let Err(why) = ptx_machine::compile::nvcc() {
        return Built::Unavailable(why.into());
    }
    let folder = match mutated(&format!("{name}-compiled"), mutant) {
        Ok(folder) => folder,
        Err(why) => return Built::Unavailable(why),
    };
    let built = ptx_machine::compile::of_folder(&folder, 90);
    let _ = fs::remove_dir_all(&folder);
    built.map_or_else(Built::Failed, Built::Machine)
}

/// A source with a line for each entry, where a macro makes those of all smooth activations.
fn written_out(source: &str) -> String {
    let lines = source.lines().flat_map(|line| {
        let Some(of) = line.strip_prefix("DA_SMOOTH_ACTIVATIONS(") else { return vec![line.to_owned()] };
        let definition = format!("#define {}(name, Act) ", of.trim_end_matches(')'));
        let body = source.lines().find_map(|line| line.strip_prefix(&definition)).expect("a macro for one activation");
        let of = |activation: Activation| {
            body.replace("##name", activation.name()).replace("<Act>", &format!("<{activation:?}>"))
        };
        SMOOTH.iter().map(|row| of(row.activation)).collect()
    });
    lines.map(|line| line + "\n").collect()
}

/// A source that defines only these entries, `None` if it has none of them.
fn with_entries(source: &str, entries: &[&str]) -> Option<String> {
    let mut any = false;
    let written_out = written_out(source);
    let reduced = written_out.lines().map(|line| {
        let fused = if line.starts_with("DA_FUSED_ENTRIES") { "FUSED_" } else { "" };
        let declared = line.strip_prefix("DA_").and_then(|rest| rest.strip_prefix(fused)?.strip_prefix("ENTRIES(da_"));
        let Some(declared) = declared else { return format!("{line}\n") };
        let (stem, operation) = declared.trim_end_matches(')').split_once(", ").expect("a name and an operation");
        let wanted = entries.iter().filter_map(|entry| entry.rsplit_once('_').filter(|(of, _)| *of == stem));
        let defined: Vec<_> = wanted
            .map(|(_, dtype)| format!("DA_{fused}ENTRY(da_{stem}_{dtype}, {operation}<{}>) ", dtype.to_uppercase()))
            .collect();
        any |= !defined.is_empty();
        defined.concat() + "\n"
    });
    let reduced: String = reduced.collect();
    any.then_some(reduced)
}

fn is_caught(name: &str, mutant: &Mutant, built: Built<impl Machine>) {
    let machine = match built {
        Built::Machine(machine) => machine,
        Built::Unavailable(why) => return emulator::tell_skipped(&why),
        Built::Failed(why) => panic!("{name} does not compile: {why}"),
    };
    // Each entry that is named shows it.
    for entry in mutant.entries {
        match (probe(&machine, entry), &mutant.caught) {
            (Ok(()), _) => panic!("{name} survives in {entry}"),
            (Err(Finding::Report(report)), Report(expected)) if report.contains(expected) => {
                println!("{name}: {report}");
            }
            (Err(Finding::Numbers(numbers)), Numbers) => println!("{name}: {numbers}"),
            (Err(Finding::Report(other) | Finding::Numbers(other)), _) => {
                panic!("{name} is caught by another: {other}");
            }
        }
    }
}

/// The kernels as they are pass the probe that the mutants fail.
fn nothing_is_found(machine: &impl Machine) {
    let mut entries: Vec<_> = MUTANTS.iter().flat_map(|mutant| mutant.entries).collect();
    entries.sort();
    entries.dedup();
    for entry in entries {
        if let Err(Finding::Report(found) | Finding::Numbers(found)) = probe(machine, entry) {
            panic!("{found}");
        }
    }
}

#[test]
fn nothing_is_found_in_the_sources_themselves() {
    if let Some(emulator) = Emulator::load_or_tell() {
        nothing_is_found(emulator);
    }
}

#[test]
fn nothing_is_found_in_what_is_shipped() {
    nothing_is_found(ptx_machine::compile::shipped());
}

#[test]
fn nothing_is_found_in_a_fresh_compile() {
    if let Some(ptx) = ptx_machine::compile::fresh_90() {
        nothing_is_found(ptx);
    }
}
