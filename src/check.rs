//! The checks that every backend makes at its door, before it writes anything.

use crate::error::{Error, Result};
use crate::key::MaskKey;
use crate::mask::MaskOrigin;
use crate::operation::{Activation, DropActivation, RRelu};

/// `argument` must be as long as `other`.
pub(crate) fn same_length(argument: &'static str, given: usize, other: &'static str, expected: usize) -> Result<()> {
    if given == expected { Ok(()) } else { Err(Error::Length { argument, given, other, expected }) }
}

/// The index of every element must fit 64 bits.
pub(crate) fn key_covers(key: MaskKey, len: usize) -> Result<()> {
    let first = key.first();
    if u128::from(first) + len as u128 <= 1 << 64 { Ok(()) } else { Err(Error::IndexRange { first, len }) }
}

/// Only ReLU's backward pass can do without a mask.
pub(crate) fn can_go_without_mask(op: &DropActivation) -> Result<()> {
    match op.activation() {
        Activation::Relu => Ok(()),
        activation => Err(Error::NeedsMask { activation }),
    }
}

/// The mask must be Drop-Activation's own, for as many elements as dy has.
pub(crate) fn mask_fits(op: &DropActivation, origin: MaskOrigin, mask_len: usize, dy_len: usize) -> Result<()> {
    if origin != MaskOrigin::DropActivation(*op) {
        return Err(Error::MaskOrigin { given: origin, expected: op.to_string() });
    }
    mask_length(mask_len, dy_len)
}

/// The mask must be this RReLU's own, for as many elements as dy has. Gives the key of its slopes.
pub(crate) fn rrelu_mask_fits(op: &RRelu, origin: MaskOrigin, mask_len: usize, dy_len: usize) -> Result<MaskKey> {
    match origin {
        MaskOrigin::RRelu(made_by, key) if made_by == *op => mask_length(mask_len, dy_len).map(|()| key),
        _ => Err(Error::MaskOrigin { given: origin, expected: op.to_string() }),
    }
}

fn mask_length(given: usize, expected: usize) -> Result<()> {
    if given == expected { Ok(()) } else { Err(Error::MaskLength { given, other: "dy", expected }) }
}

/// The saved input that this nonlinearity's backward pass needs, of dy's length. What is not needed
/// is not looked at, except that its length must be right all the same.
pub(crate) fn saved_input<V>(
    op: &DropActivation,
    x: Option<V>,
    x_len: impl Fn(&V) -> usize,
    dy_len: usize,
) -> Result<Option<V>> {
    let activation = op.activation();
    match x {
        Some(x) => {
            same_length("x", x_len(&x), "dy", dy_len)?;
            Ok(activation.backward_needs_input().then_some(x))
        }
        None if activation.backward_needs_input() => Err(Error::MissingInput { activation }),
        None => Ok(None),
    }
}
