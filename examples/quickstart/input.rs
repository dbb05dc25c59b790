//! The pre-activations: real images through a fixed random layer, or anybody's own tensor.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use drop_activation::reference::philox4x32_10;
use flate2::read::GzDecoder;

const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/fashion-mnist-1000-images-idx3-ubyte.gz");
const PIXELS: usize = 784;
const HIDDEN: usize = 1024;

/// 1,000 standardised Fashion-MNIST images times a fixed random 784 x 1024 matrix.
pub fn fashion_mnist() -> Result<Vec<f32>, Box<dyn Error>> {
    let mut idx = Vec::new();
    GzDecoder::new(File::open(IMAGES)?).read_to_end(&mut idx)?;
    let (header, pixels) = idx.split_first_chunk::<16>().ok_or("the image file is cut short")?;
    let images = u32::from_be_bytes(header[4..8].try_into()?) as usize;
    if pixels.len() != images * PIXELS {
        return Err(format!("{} pixels for {images} images", pixels.len()).into());
    }

    let mean = pixels.iter().map(|p| f64::from(*p)).sum::<f64>() / pixels.len() as f64;
    let variance = pixels.iter().map(|p| (f64::from(*p) - mean).powi(2)).sum::<f64>() / pixels.len() as f64;
    let images_by_pixels: Vec<f32> = pixels.iter().map(|p| ((f64::from(*p) - mean) / variance.sqrt()) as f32).collect();

    // Uniform weights of variance 1 / PIXELS keep the pre-activations' variance near 1.
    let bound = (3.0 / PIXELS as f32).sqrt();
    let weights: Vec<f32> = (0..(PIXELS * HIDDEN / 4) as u32)
        .flat_map(|i| philox4x32_10([i, 0, 0, 0], [0, 0]))
        .map(|word| bound * ((word >> 8) as f32 / (1 << 23) as f32 - 1.0))
        .collect();

    let mut out = vec![0.0; images * HIDDEN];
    let (rows, inner, columns) = (images, PIXELS, HIDDEN);
    // SAFETY: the three slices hold rows x inner, inner x columns and rows x columns elements, laid
    // out row by row as the strides say, and `out` overlaps neither.
    unsafe {
        matrixmultiply::sgemm(
            rows,
            inner,
            columns,
            1.0,
            images_by_pixels.as_ptr(),
            inner as isize,
            1,
            weights.as_ptr(),
            columns as isize,
            1,
            0.0,
            out.as_mut_ptr(),
            columns as isize,
            1,
        );
    }
    Ok(out)
}

/// A float32 or float64 array of any shape, flattened.
pub fn npy(path: &Path) -> Result<Vec<f32>, Box<dyn Error>> {
    let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let file = File::open(path).map_err(|e| named(&e))?;
    let bytes = file.metadata()?.len();
    let npy = npyz::NpyFile::new(BufReader::new(file)).map_err(|e| named(&e))?;
    // The shape is anybody's to write; no more is read than the file can hold.
    let fits = npy.shape().iter().try_fold(1u64, |n, d| n.checked_mul(*d)).is_some_and(|n| n <= bytes);
    if !fits {
        return Err(named(&format!("shape {:?} is more than its {bytes} bytes hold", npy.shape())).into());
    }
    match npy.dtype().descr().trim_matches('\'').trim_start_matches(['<', '>', '=', '|']) {
        "f4" => Ok(npy.into_vec::<f32>().map_err(|e| named(&e))?),
        "f8" => Ok(npy.into_vec::<f64>().map_err(|e| named(&e))?.into_iter().map(|v| v as f32).collect()),
        other => Err(named(&format!("type must be float32 or float64, got {other:?}")).into()),
    }
}
