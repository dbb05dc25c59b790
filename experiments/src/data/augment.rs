//! What is done to a training image before the network sees it.

use rand::Rng;
use serde::Serialize;

use super::{Dataset, Images, policy};

/// The standard augmentation's margin, as in He et al. (2015).
const MARGIN: usize = 4;

/// Which augmentations to apply, in this order: policy, crop, flip, cutout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Augmentation {
    /// AutoAugment's policy for CIFAR-10 (Cubuk et al., 2018).
    pub policy: bool,
    /// A random window of the image with [`MARGIN`] pixels of zeros around it.
    pub crop: bool,
    /// A mirror image, half of the time.
    pub flip: bool,
    /// The side of a square that is set to the data's mean (DeVries and Taylor, 2017).
    pub cutout: Option<usize>,
}

impl Augmentation {
    /// What is standard for these data.
    pub fn standard(data: &Dataset) -> Self {
        Self { crop: data.crop, flip: data.flip, ..Self::default() }
    }

    /// Appends image `i` of `images`, augmented and scaled, to `out`.
    pub fn apply(&self, data: &Dataset, images: &Images, i: usize, rng: &mut impl Rng, out: &mut Vec<f32>) {
        let (height, width) = (images.height, images.width);
        let mut image = images.image(i).to_vec();
        if self.policy {
            policy::apply(&mut image, images.channels, height, width, rng);
        }
        if self.crop {
            let (down, right) = (rng.random_range(0..=2 * MARGIN), rng.random_range(0..=2 * MARGIN));
            image = shifted(&image, height, width, down as isize - MARGIN as isize, right as isize - MARGIN as isize);
        }
        if self.flip && rng.random() {
            image.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        let start = out.len();
        data.scale.apply(&image, out);
        if let Some(side) = self.cutout {
            cut(&mut out[start..], height, width, side, rng);
        }
    }
}

/// Pixel (row, column) comes from (row + down, column + right), zero outside.
fn shifted(image: &[u8], height: usize, width: usize, down: isize, right: isize) -> Vec<u8> {
    let mut out = vec![0; image.len()];
    for (to, from) in out.chunks_exact_mut(height * width).zip(image.chunks_exact(height * width)) {
        for row in 0..height {
            let Some(source) = row.checked_add_signed(down).filter(|r| *r < height) else { continue };
            for column in 0..width {
                if let Some(c) = column.checked_add_signed(right).filter(|c| *c < width) {
                    to[row * width + column] = from[source * width + c];
                }
            }
        }
    }
    out
}

/// A square around any pixel, with what sticks out of the image cut off.
fn cut(image: &mut [f32], height: usize, width: usize, side: usize, rng: &mut impl Rng) {
    let (row, column) = (rng.random_range(0..height), rng.random_range(0..width));
    let span = |center: usize, end: usize| center.saturating_sub(side / 2)..(center + side.div_ceil(2)).min(end);
    for plane in image.chunks_exact_mut(height * width) {
        for r in span(row, height) {
            plane[r * width..][span(column, width)].fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;

    #[test]
    fn shifts_show_zeros_at_the_border() {
        assert_eq!(shifted(&[1, 2, 3, 4], 2, 2, 1, 0), [3, 4, 0, 0]);
        assert_eq!(shifted(&[1, 2, 3, 4], 2, 2, 0, -1), [0, 1, 0, 3]);
    }

    #[test]
    fn cutout_clears_a_square_and_what_sticks_out_is_lost() {
        let mut rng = generator(1, 0, 0);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut image = vec![1.0; 2 * 64];
            cut(&mut image, 8, 8, 4, &mut rng);
            let cleared = image[..64].iter().filter(|v| **v == 0.0).count();
            assert_eq!(image[..64], image[64..], "all channels alike");
            seen.insert(cleared);
        }
        assert_eq!((seen.first(), seen.last()), (Some(&4), Some(&16)), "{seen:?}");
    }

    #[test]
    fn the_standard_augmentation_moves_and_mirrors() {
        let data = crate::data::carried().expect("the carried images");
        let augmentation = Augmentation::standard(&data);
        let draw = |seed| {
            let mut out = Vec::new();
            augmentation.apply(&data, &data.train, 0, &mut generator(seed, 0, 0), &mut out);
            out
        };
        assert_eq!(draw(1), draw(1));
        assert_eq!(draw(1).len(), 784);
        assert!((2..40).filter(|s| draw(*s) != draw(1)).count() > 30);
    }
}
