//! The policy that AutoAugment found for CIFAR-10 (Cubuk et al., 2018, appendix), on grey or colour images.
//!
//! One of its 25 sub-policies is drawn for each image; each of the two operations in it is applied with its
//! probability. Magnitudes go from 0 to 9. `Color` leaves a grey image as it is.

use Operation::*;
use rand::Rng;
use rand::seq::IndexedRandom;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    AutoContrast,
    Invert,
    Equalize,
    Solarize,
    Posterize,
    Contrast,
    Color,
    Brightness,
    Sharpness,
}

/// Operation, probability, magnitude.
type Step = (Operation, f64, u8);

#[rustfmt::skip]
const POLICY: [[Step; 2]; 25] = [
    [(Invert, 0.1, 7), (Contrast, 0.2, 6)],
    [(Rotate, 0.7, 2), (TranslateX, 0.3, 9)],
    [(Sharpness, 0.8, 1), (Sharpness, 0.9, 3)],
    [(ShearY, 0.5, 8), (TranslateY, 0.7, 9)],
    [(AutoContrast, 0.5, 8), (Equalize, 0.9, 2)],
    [(ShearY, 0.2, 7), (Posterize, 0.3, 7)],
    [(Color, 0.4, 3), (Brightness, 0.6, 7)],
    [(Sharpness, 0.3, 9), (Brightness, 0.7, 9)],
    [(Equalize, 0.6, 5), (Equalize, 0.5, 1)],
    [(Contrast, 0.6, 7), (Sharpness, 0.6, 5)],
    [(Color, 0.7, 7), (TranslateX, 0.5, 8)],
    [(Equalize, 0.3, 7), (AutoContrast, 0.4, 8)],
    [(TranslateY, 0.4, 3), (Sharpness, 0.2, 6)],
    [(Brightness, 0.9, 6), (Color, 0.2, 8)],
    [(Solarize, 0.5, 2), (Invert, 0.0, 3)],
    [(Equalize, 0.2, 0), (AutoContrast, 0.6, 0)],
    [(Equalize, 0.2, 8), (Equalize, 0.6, 4)],
    [(Color, 0.9, 9), (Equalize, 0.6, 6)],
    [(AutoContrast, 0.8, 4), (Solarize, 0.2, 8)],
    [(Brightness, 0.1, 3), (Color, 0.7, 0)],
    [(Solarize, 0.4, 5), (AutoContrast, 0.9, 3)],
    [(TranslateY, 0.9, 9), (TranslateY, 0.7, 9)],
    [(AutoContrast, 0.9, 2), (Solarize, 0.8, 3)],
    [(Equalize, 0.8, 8), (Invert, 0.1, 3)],
    [(TranslateY, 0.7, 9), (AutoContrast, 0.9, 1)],
];

/// What the geometric operations show outside the image.
const FILL: u8 = 128;

/// Applies a sub-policy drawn at random to an image of `channels` planes.
pub fn apply(image: &mut Vec<u8>, channels: usize, height: usize, width: usize, rng: &mut impl Rng) {
    let steps = POLICY.choose(rng).expect("25 sub-policies");
    for (operation, probability, magnitude) in steps {
        if rng.random_bool(*probability) {
            // Drawn always, so that what follows does not depend on which operation this is.
            let sign = if rng.random() { 1.0 } else { -1.0 };
            operate(*operation, f32::from(*magnitude) / 9.0, sign, image, channels, height, width);
        }
    }
}

/// `strength` is the magnitude as a part of its range; `sign` the direction where there are two.
fn operate(
    operation: Operation,
    strength: f32,
    sign: f32,
    image: &mut Vec<u8>,
    channels: usize,
    height: usize,
    width: usize,
) {
    let factor = 1.0 + sign * 0.9 * strength;
    let (h, w) = (height as f32, width as f32);
    let plane = height * width;
    // Each affine map gives the place in the old image, relative to its centre.
    let warp = |image: &[u8], map: &dyn Fn(f32, f32) -> (f32, f32)| -> Vec<u8> {
        let mut out = vec![FILL; image.len()];
        for (to, from) in out.chunks_exact_mut(plane).zip(image.chunks_exact(plane)) {
            for (i, v) in to.iter_mut().enumerate() {
                let (y, x) = ((i / width) as f32 + 0.5 - h / 2.0, (i % width) as f32 + 0.5 - w / 2.0);
                let (y, x) = map(y, x);
                let (y, x) = ((y + h / 2.0).floor(), (x + w / 2.0).floor());
                if (0.0..h).contains(&y) && (0.0..w).contains(&x) {
                    *v = from[y as usize * width + x as usize];
                }
            }
        }
        out
    };
    let shear = sign * 0.3 * strength;
    let shift = sign * strength * 150.0 / 331.0;
    match operation {
        ShearY => *image = warp(image, &|y, x| (y + shear * x, x)),
        TranslateX => *image = warp(image, &|y, x| (y, x + shift * w)),
        TranslateY => *image = warp(image, &|y, x| (y + shift * h, x)),
        Rotate => {
            let (sin, cos) = (sign * 30.0 * strength).to_radians().sin_cos();
            *image = warp(image, &|y, x| (cos * y + sin * x, cos * x - sin * y));
        }
        AutoContrast => image.chunks_exact_mut(plane).for_each(stretch),
        Equalize => image.chunks_exact_mut(plane).for_each(equalize),
        Invert => image.iter_mut().for_each(|v| *v = !*v),
        Solarize => {
            let threshold = 256.0 * (1.0 - strength);
            image.iter_mut().filter(|v| f32::from(**v) >= threshold).for_each(|v| *v = !*v);
        }
        Posterize => {
            let bits = 8 - (4.0 * strength).round() as u32;
            image.iter_mut().for_each(|v| *v &= !0 << (8 - bits));
        }
        Contrast => {
            let grey = grey(image, channels);
            let mean = (grey.iter().sum::<f32>() / grey.len() as f32).round();
            image.iter_mut().for_each(|v| *v = blend(mean, *v, factor));
        }
        Brightness => image.iter_mut().for_each(|v| *v = blend(0.0, *v, factor)),
        Color => {
            let grey = grey(image, channels);
            let pixels = image.chunks_exact_mut(plane);
            pixels.for_each(|plane| plane.iter_mut().zip(&grey).for_each(|(v, g)| *v = blend(*g, *v, factor)));
        }
        Sharpness => image.chunks_exact_mut(plane).for_each(|p| sharpen(p, height, width, factor)),
    }
}

/// `factor` 0 gives `base`, 1 the pixel, more goes beyond it.
fn blend(base: f32, pixel: u8, factor: f32) -> u8 {
    (base + factor * (f32::from(pixel) - base)).clamp(0.0, 255.0) as u8
}

/// The brightness of each pixel, with the weights of ITU-R 601.
fn grey(image: &[u8], channels: usize) -> Vec<f32> {
    if channels != 3 {
        return image.iter().map(|v| f32::from(*v)).collect();
    }
    let plane = image.len() / 3;
    let weigh = |i: usize| {
        let (r, g, b) = (image[i], image[plane + i], image[2 * plane + i]);
        (0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)).round()
    };
    (0..plane).map(weigh).collect()
}

/// The darkest pixel becomes black, the brightest white.
fn stretch(plane: &mut [u8]) {
    let (low, high) = plane.iter().fold((255, 0), |(low, high), v| (low.min(*v), high.max(*v)));
    if high > low {
        let scale = 255.0 / f32::from(high - low);
        plane.iter_mut().for_each(|v| *v = (f32::from(*v - low) * scale) as u8);
    }
}

/// As many pixels of each brightness, as nearly as a map of brightnesses can.
fn equalize(plane: &mut [u8]) {
    let mut counts = [0usize; 256];
    plane.iter().for_each(|v| counts[usize::from(*v)] += 1);
    let brightest = counts.iter().rposition(|c| *c > 0).map_or(0, |i| counts[i]);
    let step = (plane.len() - brightest) / 255;
    if step == 0 {
        return;
    }
    let mut below = step / 2;
    let map = counts.map(|count| {
        let to = (below / step).min(255) as u8;
        below += count;
        to
    });
    plane.iter_mut().for_each(|v| *v = map[usize::from(*v)]);
}

/// Away from (or towards) the mean of a pixel and its neighbours, the pixel counted five times.
fn sharpen(plane: &mut [u8], height: usize, width: usize, factor: f32) {
    let old = plane.to_vec();
    for row in 1..height.saturating_sub(1) {
        for column in 1..width.saturating_sub(1) {
            let at = row * width + column;
            let around: u32 = (0..9).map(|k| u32::from(old[at + (k / 3) * width + k % 3 - width - 1])).sum();
            let smooth = ((around + 4 * u32::from(old[at])) as f32 / 13.0).round();
            plane[at] = blend(smooth, old[at], factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;

    fn after(operation: Operation, strength: f32, sign: f32, image: &[u8], channels: usize, width: usize) -> Vec<u8> {
        let mut image = image.to_vec();
        let height = image.len() / channels / width;
        operate(operation, strength, sign, &mut image, channels, height, width);
        image
    }

    #[test]
    fn operations_do_what_their_names_say() {
        let ramp: Vec<u8> = (0..16).map(|i| 10 * i).collect();
        assert_eq!(after(Invert, 1.0, 1.0, &ramp, 1, 4)[..2], [255, 245]);
        assert_eq!(after(Solarize, 0.5, 1.0, &ramp, 1, 4)[11..14], [110, 120, 125]);
        assert_eq!(after(Posterize, 1.0, 1.0, &[0xff, 0x1f, 0x10, 0x0f], 1, 2), [0xf0, 0x10, 0x10, 0x00]);
        assert_eq!(after(AutoContrast, 0.0, 1.0, &[10, 20, 30, 60], 1, 2), [0, 51, 102, 255]);
        assert_eq!(after(Brightness, 1.0, -1.0, &[100, 200], 1, 2), [10, 20]);
        assert_eq!(after(Brightness, 1.0, 1.0, &[100, 200], 1, 2), [190, 255]);
        assert_eq!(after(Contrast, 1.0, -1.0, &[100, 200], 1, 2), [145, 155]);
        assert_eq!(after(TranslateX, 1.0, 1.0, &[1, 2, 3, 4], 1, 4), [3, 4, FILL, FILL]);
        assert_eq!(after(TranslateY, 1.0, -1.0, &[1, 2, 3, 4], 1, 1), [FILL, FILL, 1, 2]);
        assert_eq!(after(Equalize, 0.0, 1.0, &ramp, 1, 4), ramp, "too few pixels to equalise");
        let dark: Vec<u8> = (0..1024).map(|i| (i / 16) as u8).collect();
        assert!(after(Equalize, 0.0, 1.0, &dark, 1, 32).iter().any(|v| *v > 250));
        let flat = [7; 25];
        assert_eq!(after(Sharpness, 1.0, 1.0, &flat, 1, 5), flat);
        let mut dot = [0; 25];
        dot[12] = 130;
        assert_eq!(after(Sharpness, 1.0, -1.0, &dot, 1, 5)[12], 58, "50 + 0.1 * 80");
    }

    #[test]
    fn colour_moves_colours_and_no_greys() {
        assert_eq!(after(Color, 1.0, 1.0, &[1, 2, 3, 4], 1, 2), [1, 2, 3, 4]);
        assert_eq!(after(Color, 1.0, -1.0, &[255, 0, 0], 3, 1), [93, 68, 68], "towards 76");
    }

    #[test]
    fn turning_and_shearing_keep_the_centre() {
        let image: Vec<u8> = (0..25).collect();
        for operation in [Rotate, ShearY] {
            let out = after(operation, 1.0, 1.0, &image, 1, 5);
            assert_eq!(out[12], 12, "{operation:?}");
            assert_ne!(out, image, "{operation:?}");
        }
    }

    #[test]
    fn the_policy_is_random_and_repeatable() {
        let draw = |seed| {
            let mut image: Vec<u8> = (0..784).map(|i| (i % 251) as u8).collect();
            apply(&mut image, 1, 28, 28, &mut generator(seed, 0, 0));
            image
        };
        assert!((0..20).all(|s| draw(s) == draw(s)));
        assert!((1..20).filter(|s| draw(*s) != draw(0)).count() > 10);
    }
}
