//! The paper's data sets and Fashion-MNIST, from their original files.

mod cifar;
mod idx;
mod mat;
mod mnist;
mod svhn;

pub mod augment;
mod policy;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::random;

/// What is wrong with a file of a data set.
#[derive(Debug, thiserror::Error)]
#[error("{}: found {found}, expected {expected}", .file.display())]
pub struct DataError {
    /// The file or folder.
    pub file: PathBuf,
    /// What is there.
    pub found: String,
    /// What belongs there.
    pub expected: String,
}

impl DataError {
    fn new(file: &Path, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { file: file.into(), found: found.into(), expected: expected.into() }
    }
}

type Result<T> = std::result::Result<T, DataError>;

/// Images of one size with a class each.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// 1 for grey, 3 for red, green, blue.
    pub channels: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Image by image, channel by channel, row by row.
    pub pixels: Vec<u8>,
    /// The class of each image.
    pub labels: Vec<u8>,
}

impl Images {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of one image.
    pub fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// The pixels of image `i`.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.pixels[i * self.image_len()..][..self.image_len()]
    }

    /// `count` images (or all, if there are fewer) drawn without replacement; the same for the same seed.
    pub fn sample(&self, count: usize, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..self.len()).collect();
        let (drawn, _) = order.partial_shuffle(&mut random::generator(seed, random::SAMPLE, 0), count.min(self.len()));
        self.select(drawn)
    }

    /// The images with these numbers.
    pub fn select(&self, numbers: &[usize]) -> Self {
        Self {
            pixels: numbers.iter().flat_map(|i| self.image(*i)).copied().collect(),
            labels: numbers.iter().map(|i| self.labels[*i]).collect(),
            ..*self
        }
    }

    fn extend(&mut self, more: Self) {
        self.pixels.extend(more.pixels);
        self.labels.extend(more.labels);
    }
}

/// How pixels become numbers: `(pixel / 255 - mean) / deviation`, channel by channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Scale {
    /// To [0, 1] and no further.
    fn unit(channels: usize) -> Self {
        Self { mean: vec![0.0; channels], deviation: vec![1.0; channels] }
    }

    /// To mean 0 and variance 1 over these images.
    fn standard(images: &Images) -> Self {
        let plane = images.height * images.width;
        let count = (images.len() * plane) as f64;
        let moments = |channel: usize| {
            let (mut sum, mut squares) = (0u64, 0u64);
            for image in images.pixels.chunks_exact(images.image_len()) {
                for v in &image[channel * plane..][..plane] {
                    sum += u64::from(*v);
                    squares += u64::from(*v).pow(2);
                }
            }
            let mean = sum as f64 / count;
            (mean, (squares as f64 / count - mean * mean).max(0.0).sqrt())
        };
        let (mean, deviation) = (0..images.channels)
            .map(|c| {
                let (mean, deviation) = moments(c);
                ((mean / 255.0) as f32, if deviation > 0.0 { (deviation / 255.0) as f32 } else { 1.0 })
            })
            .unzip();
        Self { mean, deviation }
    }

    /// One image.
    pub fn apply(&self, image: &[u8], out: &mut Vec<f32>) {
        let plane = image.len() / self.mean.len();
        for (pixels, (mean, deviation)) in image.chunks_exact(plane).zip(self.mean.iter().zip(&self.deviation)) {
            out.extend(pixels.iter().map(|v| (f32::from(*v) / 255.0 - mean) / deviation));
        }
    }
}

/// A data set as the experiments use it.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The name that results carry.
    pub name: &'static str,
    /// How many classes there are.
    pub classes: usize,
    /// The training images.
    pub train: Images,
    /// The test images.
    pub test: Images,
    /// From the training images.
    pub scale: Scale,
    /// The standard augmentation: random crops, and flips where a mirror image keeps its class.
    pub crop: bool,
    /// See `crop`.
    pub flip: bool,
}

impl Dataset {
    /// A part of it; all of it where `train` or `test` ask for more than there is.
    pub fn part(&self, train: usize, test: usize, seed: u64) -> Self {
        Self { train: self.train.sample(train, seed), test: self.test.sample(test, seed), ..self.clone() }
    }
}

/// Reads the data set whose original files are in `folder`.
///
/// # Errors
/// [`DataError`] if no data set's files are there, or one of them is not what it should be.
pub fn load(folder: &Path) -> Result<Dataset> {
    let has = |name: &str| folder.join(name).is_file() || folder.join(format!("{name}.gz")).is_file();
    if has("data_batch_1.bin") {
        cifar::cifar10(folder)
    } else if has("train.bin") {
        cifar::cifar100(folder)
    } else if has("train_32x32.mat") {
        svhn::svhn(folder)
    } else if has("train-images-idx3-ubyte") {
        mnist::fashion_mnist(folder)
    } else if let Some(split) = mnist::emnist_split(folder) {
        mnist::emnist(folder, split)
    } else {
        let found = if folder.is_dir() { "none of them" } else { "no folder" };
        let expected = "data_batch_1.bin (CIFAR-10), train.bin (CIFAR-100), train_32x32.mat (SVHN), \
                        emnist-balanced-train-images-idx3-ubyte[.gz] (EMNIST) or train-images-idx3-ubyte[.gz] \
                        (Fashion-MNIST)";
        Err(DataError::new(folder, found, expected))
    }
}

/// The 1,000 Fashion-MNIST images that the repository carries, 800 to train on and 200 to test.
///
/// # Errors
/// [`DataError`] if the files are damaged.
pub fn carried() -> Result<Dataset> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data");
    mnist::carried(&folder)
}

fn dataset(name: &'static str, classes: usize, train: Images, test: Images) -> Dataset {
    let scale = Scale::standard(&train);
    Dataset { name, classes, train, test, scale, crop: true, flip: true }
}

/// The whole file, unpacked if it is gzipped; `name` or `name.gz`.
fn read(folder: &Path, name: &str) -> Result<(PathBuf, Vec<u8>)> {
    let plain = folder.join(name);
    let file = if plain.is_file() { plain } else { folder.join(format!("{name}.gz")) };
    let bytes = fs::read(&file).map_err(|e| DataError::new(&file, e.to_string(), "a readable file"))?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok((file, bytes));
    }
    let mut unpacked = Vec::new();
    match GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked) {
        Ok(_) => Ok((file, unpacked)),
        Err(e) => Err(DataError::new(&file, e.to_string(), "a whole gzip stream")),
    }
}

/// That each label names one of `classes` classes.
fn check_labels(file: &Path, labels: &[u8], classes: usize) -> Result<()> {
    match labels.iter().position(|l| usize::from(*l) >= classes) {
        Some(i) => Err(DataError::new(
            file,
            format!("label {} of image {i}", labels[i]),
            format!("labels from 0 to {}", classes - 1),
        )),
        None => Ok(()),
    }
}

/// A random order of `len` images.
pub fn shuffled(len: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(rng);
    order
}
