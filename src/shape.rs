//! Tensors with channels.

use crate::error::{Error, Result};

/// The logical shape \[outer, channels, inner\] of a contiguous tensor: element i belongs to channel
/// `(i / inner) mod channels`.
///
/// Rows of features, and images in channels-last memory, have `inner == 1`; images in channels-first memory have
/// `inner == height * width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    outer: usize,
    channels: usize,
    inner: usize,
}

impl Shape {
    /// # Errors
    /// [`Error::Shape`] without channels, or where the number of elements does not fit a `usize`.
    pub fn new(outer: usize, channels: usize, inner: usize) -> Result<Self> {
        let fits = outer.checked_mul(channels).and_then(|rows| rows.checked_mul(inner)).is_some();
        if channels > 0 && fits && outer.checked_mul(inner).is_some() {
            Ok(Self { outer, channels, inner })
        } else {
            Err(Error::Shape { outer, channels, inner })
        }
    }

    /// The shape of `len` elements in so many channels.
    ///
    /// # Errors
    /// [`Error::ChannelsOf`] where `channels * inner` is zero or does not divide `len`.
    pub fn of_len(len: usize, channels: usize, inner: usize) -> Result<Self> {
        let row = channels.checked_mul(inner).filter(|row| *row > 0 && len.is_multiple_of(*row));
        match row {
            Some(row) => Self::new(len / row, channels, inner),
            None => Err(Error::ChannelsOf { len, channels, inner }),
        }
    }

    /// The outermost extent, that of the batch.
    pub const fn outer(&self) -> usize {
        self.outer
    }

    /// The number of channels, at least 1.
    pub const fn channels(&self) -> usize {
        self.channels
    }

    /// How many neighbouring elements belong to one channel.
    pub const fn inner(&self) -> usize {
        self.inner
    }

    /// Elements of the tensor.
    pub const fn len(&self) -> usize {
        self.outer * self.channels * self.inner
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of each channel: N.
    pub const fn count(&self) -> usize {
        self.outer * self.inner
    }

    /// The channel of element `i`. Where there is no such element, any number.
    pub const fn channel(&self, i: usize) -> usize {
        match i.checked_div(self.inner) {
            Some(row) => row % self.channels,
            None => 0,
        }
    }

    /// The index in the tensor of element `t` of channel `c`, counted in memory order among the channel's own. Where
    /// there is no such element, any number.
    pub const fn index(&self, c: usize, t: usize) -> usize {
        let Some(row) = t.checked_div(self.inner) else { return 0 };
        row.wrapping_mul(self.channels).wrapping_add(c).wrapping_mul(self.inner).wrapping_add(t % self.inner)
    }

    /// `argument` must have this shape's number of elements.
    pub(crate) fn holds(&self, argument: &'static str, given: usize) -> Result<()> {
        let Self { outer, channels, inner } = *self;
        if given == self.len() { Ok(()) } else { Err(Error::ShapeLength { argument, given, outer, channels, inner }) }
    }

    /// `argument` must have a value for each channel.
    pub(crate) fn has_channels_of(&self, argument: &'static str, given: usize) -> Result<()> {
        if given == self.channels {
            Ok(())
        } else {
            Err(Error::ChannelVector { argument, given, channels: self.channels })
        }
    }

    /// There must be something to sum.
    pub(crate) fn has_elements(&self) -> Result<()> {
        let Self { outer, channels, inner } = *self;
        if self.count() > 0 { Ok(()) } else { Err(Error::NoElements { outer, channels, inner }) }
    }
}
