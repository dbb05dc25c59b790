//! The loaders, on small files of each original format, written here.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use experiments::data::{Dataset, load};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// A folder of its own for each test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("experiments-loaders-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> &Self {
        fs::write(self.0.join(name), bytes).expect("a file");
        self
    }

    fn load(&self) -> Dataset {
        load(&self.0).expect("a data set")
    }

    /// Loads, which must fail and name the file, what was found and what is expected.
    #[track_caller]
    fn refused(&self, file: &str, found: &str, expected: &str) {
        let error = load(&self.0).expect_err("an error").to_string();
        let text = format!("{}: found {found}, expected {expected}", self.0.join(file).display());
        assert!(error.starts_with(&text), "{error}\n{text}");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn idx(dims: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| file.extend(d.to_be_bytes()));
    file.extend(bytes);
    file
}

const FASHION: [&str; 4] =
    ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

fn fashion(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.put(FASHION[0], &gzip(&idx(&[3, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])));
    folder.put(FASHION[1], &gzip(&idx(&[3], &[9, 0, 4])));
    folder.put(FASHION[2], &idx(&[1, 2, 2], &[12, 13, 14, 15])).put(FASHION[3], &idx(&[1], &[7]));
    folder
}

#[test]
fn fashion_mnist_zipped_and_not() {
    let data = fashion("fashion").load();
    assert_eq!((data.name, data.classes), ("Fashion-MNIST", 10));
    assert_eq!((data.train.channels, data.train.height, data.train.width), (1, 2, 2));
    assert_eq!(data.train.image(1), [4, 5, 6, 7]);
    assert_eq!((data.train.labels, data.test.labels), (vec![9, 0, 4], vec![7]));
}

#[test]
fn damaged_idx_files_are_refused() {
    let folder = fashion("idx");
    folder.put(FASHION[3], &idx(&[1], &[10]));
    folder.refused(FASHION[3], "label 10 of image 0", "labels from 0 to 9");
    folder.put(FASHION[3], &idx(&[2], &[1, 2]));
    folder.refused(FASHION[3], "2 labels", "one for each of the [1, 2, 2]");
    folder.put(FASHION[2], &idx(&[1, 2, 2], &[1, 2, 3]));
    folder.refused(FASHION[2], "3 bytes after the header", "a byte for each of [1, 2, 2]");
    folder.put(FASHION[2], &idx(&[u32::MAX, u32::MAX, u32::MAX], &[1]));
    folder.refused(FASHION[2], "1 bytes after the header", "a byte for each of");
    folder.put(FASHION[2], &[0, 0, 13, 3]);
    folder.refused(
        FASHION[2],
        "4 bytes that begin with [0, 0, 13, 3]",
        "at least 16 bytes that begin with [0, 0, 8, 3]",
    );
    let mut cut = gzip(&idx(&[3, 2, 2], &[0; 12]));
    cut.truncate(20);
    folder.put(FASHION[0], &cut);
    let error = load(&folder.0).expect_err("an error").to_string();
    assert!(error.contains(FASHION[0]) && error.ends_with("expected a whole gzip stream"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let folder = fashion("missing");
    fs::remove_file(folder.0.join(FASHION[1])).expect("it was there");
    let error = load(&folder.0).expect_err("an error").to_string();
    assert!(error.contains(FASHION[1]) && error.ends_with("expected a readable file"), "{error}");
    let nothing = Folder::new("nothing");
    let error = load(&nothing.0).expect_err("an error").to_string();
    let text = format!("{}: found none of them, expected data_batch_1.bin (CIFAR-10)", nothing.0.display());
    assert!(error.starts_with(&text), "{error}");
}

#[test]
fn emnist_stands_upright() {
    let folder = Folder::new("emnist");
    for (part, images) in [("train", 2), ("test", 1)] {
        let pixels: Vec<u8> = (0..images * 6).collect();
        let file = |what: &str| format!("emnist-balanced-{part}-{what}-ubyte.gz");
        folder.put(&file("images-idx3"), &gzip(&idx(&[u32::from(images), 3, 2], &pixels)));
        folder.put(&file("labels-idx1"), &gzip(&idx(&[u32::from(images)], &vec![46; usize::from(images)])));
    }
    let data = folder.load();
    assert_eq!((data.name, data.classes, data.flip), ("EMNIST (balanced)", 47, false));
    assert_eq!((data.train.height, data.train.width), (2, 3));
    assert_eq!(data.train.image(0), [0, 2, 4, 1, 3, 5]);
    assert_eq!(data.train.labels, [46, 46]);

    let letters = Folder::new("letters");
    for part in ["train", "test"] {
        let file = |what: &str| format!("emnist-letters-{part}-{what}-ubyte");
        letters.put(&file("images-idx3"), &idx(&[2, 1, 1], &[5, 6])).put(&file("labels-idx1"), &idx(&[2], &[1, 26]));
    }
    assert_eq!(letters.load().train.labels, [0, 25], "that split counts from 1");
    letters.put("emnist-letters-train-labels-idx1-ubyte", &idx(&[2], &[0, 26]));
    letters.refused("emnist-letters-train-labels-idx1-ubyte", "label 255 of image 0", "labels from 0 to 25");
}

/// Records of CIFAR's binary version: the label bytes, then pixels that count up from the label.
fn cifar(labels: &[&[u8]]) -> Vec<u8> {
    let record = |l: &&[u8]| [l.to_vec(), (0..3072).map(|i| (i % 256) as u8 ^ l[l.len() - 1]).collect()].concat();
    labels.iter().flat_map(record).collect()
}

#[test]
fn cifar_10() {
    let folder = Folder::new("cifar10");
    for i in 1..=5u8 {
        folder.put(&format!("data_batch_{i}.bin"), &cifar(&[&[i], &[i + 1]]));
    }
    folder.put("test_batch.bin", &cifar(&[&[9]]));
    let data = folder.load();
    assert_eq!((data.name, data.classes), ("CIFAR-10", 10));
    assert_eq!((data.train.channels, data.train.height, data.train.width), (3, 32, 32));
    assert_eq!(data.train.labels, [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]);
    assert_eq!(data.train.image(3)[..3], [3, 2, 1]);
    folder.put("data_batch_3.bin", &[0; 3072]);
    folder.refused("data_batch_3.bin", "3072 bytes", "a multiple of 3073 bytes");
    folder.put("data_batch_3.bin", &cifar(&[&[3], &[10]]));
    folder.refused("data_batch_3.bin", "label 10 of image 1", "labels from 0 to 9");
}

#[test]
fn cifar_100_has_fine_labels() {
    let folder = Folder::new("cifar100");
    folder.put("train.bin", &cifar(&[&[19, 99], &[0, 1]])).put("test.bin", &cifar(&[&[3, 50]]));
    let data = folder.load();
    assert_eq!((data.name, data.classes), ("CIFAR-100", 100));
    assert_eq!((data.train.labels, data.test.labels), (vec![99, 1], vec![50]));
    folder.put("test.bin", &[]);
    folder.refused("test.bin", "0 bytes", "a multiple of 3074 bytes");
}

/// An element of a MATLAB file, padded.
fn element(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// A small element: up to four bytes in the tag itself.
fn small(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = (kind | (data.len() as u32) << 16).to_le_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(8, 0);
    bytes
}

fn matrix(name: &str, class: u32, dims: &[u32], kind: u32, values: &[u8]) -> Vec<u8> {
    let flags = element(6, &[class.to_le_bytes(), 0u32.to_le_bytes()].concat());
    let dims = element(5, &dims.iter().flat_map(|d| d.to_le_bytes()).collect::<Vec<_>>());
    element(14, &[flags, dims, small(1, name.as_bytes()), element(kind, values)].concat())
}

fn compressed(matrix: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(matrix).expect("memory");
    let data = encoder.finish().expect("memory");
    // Without padding, as MATLAB writes it.
    [[15u32.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat(), data].concat()
}

fn mat(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"MATLAB 5.0 MAT-file".to_vec();
    file.resize(124, b' ');
    file.extend([0, 1, b'I', b'M']);
    file.extend(elements.concat());
    file
}

/// The images of cropped SVHN: pixel (row, column, channel, image) is a function of the four.
fn pixel(row: usize, column: usize, channel: usize, image: usize) -> u8 {
    (7 * row + 3 * column + 50 * channel + 11 * image) as u8
}

fn svhn_images(count: usize) -> Vec<u8> {
    let mut values = Vec::new();
    for i in 0..count * 3 * 1024 {
        values.push(pixel(i % 32, i / 32 % 32, i / 1024 % 3, i / 3072));
    }
    values
}

fn svhn(labels: &[u8], double: bool) -> Vec<u8> {
    let count = labels.len() as u32;
    let x = matrix("X", 9, &[32, 32, 3, count], 2, &svhn_images(labels.len()));
    let y = if double {
        let values: Vec<u8> = labels.iter().flat_map(|l| f64::from(*l).to_le_bytes()).collect();
        matrix("y", 6, &[count, 1], 9, &values)
    } else {
        matrix("y", 9, &[count, 1], 2, labels)
    };
    mat(&[compressed(&x), compressed(&y)])
}

#[test]
fn svhn_with_its_additional_images() {
    let folder = Folder::new("svhn");
    folder.put("train_32x32.mat", &svhn(&[1, 10, 9], false)).put("test_32x32.mat", &svhn(&[5, 6], true));
    let data = folder.load();
    assert_eq!((data.name, data.classes, data.crop, data.flip), ("SVHN", 10, false, false));
    assert_eq!((&data.train.labels, &data.test.labels), (&vec![1, 0, 9], &vec![5, 6]), "10 stands for 0");
    for (channel, row, column) in [(0, 0, 0), (2, 31, 30), (1, 4, 17)] {
        assert_eq!(data.train.image(2)[(channel * 32 + row) * 32 + column], pixel(row, column, channel, 2));
    }
    let mut scaled = Vec::new();
    data.scale.apply(data.train.image(1), &mut scaled);
    assert_eq!(scaled[0], f32::from(data.train.image(1)[0]) / 255.0, "to [0, 1] and no further");
    folder.put("extra_32x32.mat", &svhn(&[2, 3], false));
    assert_eq!(folder.load().train.labels, [1, 0, 9, 2, 3]);
}

#[test]
fn matlab_files_uncompressed_or_with_other_things_in_them() {
    let folder = Folder::new("mat");
    let cell = element(14, &element(6, &[1u32.to_le_bytes(), 0u32.to_le_bytes()].concat()));
    let (x, y) = (matrix("X", 9, &[32, 32, 3], 2, &svhn_images(1)), matrix("y", 9, &[1, 1], 2, &[4]));
    folder.put("train_32x32.mat", &mat(&[cell, y, x])).put("test_32x32.mat", &svhn(&[5], false));
    assert_eq!(folder.load().train.labels, [4]);
}

#[test]
fn damaged_matlab_files_are_refused() {
    let folder = Folder::new("damaged");
    folder.put("test_32x32.mat", &svhn(&[5], false));
    let x = |count: u32, images: usize| matrix("X", 9, &[32, 32, 3, count], 2, &svhn_images(images));
    let y = |kind, values: &[u8]| matrix("y", 9, &[2, 1], kind, values);
    let half = [0.5f64.to_le_bytes(), 1f64.to_le_bytes()].concat();
    let file = "train_32x32.mat";
    for (content, found, expected) in [
        (vec![0; 200], "200 bytes without that header", "a little-endian MATLAB file of level 5"),
        (mat(&[x(2, 2)]), "the arrays [\"X\"]", "an array y"),
        (mat(&[x(1, 1), y(2, &[1, 2])]), "X of [32, 32, 3, 1]", "[32, 32, 3, 2]"),
        (mat(&[x(2, 1), y(2, &[1, 2])]), "array X with 3072 values", "one for each of [32, 32, 3, 2]"),
        (mat(&[x(2, 2), y(2, &[1, 11])]), "label 11 of image 1", "labels from 0 to 9"),
        (mat(&[x(2, 2), y(9, &half)]), "0.5 in array y", "whole numbers from 0 to 255"),
        (mat(&[x(2, 2), y(7, &[0; 8])]), "array y with values of type 7", "bytes (2) or doubles (9)"),
        (mat(&[x(2, 2)[..100].to_vec()]), "an element cut short after 100 bytes", "6"),
        (mat(&[vec![1; 5]]), "an element cut short after 5 bytes", "8 bytes"),
        (mat(&[compressed(&x(2, 2)), vec![15, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4]]), "", ""),
    ] {
        folder.put(file, &content);
        if found.is_empty() {
            let error = load(&folder.0).expect_err("an error").to_string();
            assert!(error.contains(file) && error.ends_with("expected a whole zlib stream"), "{error}");
        } else {
            folder.refused(file, found, expected);
        }
    }
}

/// Whatever byte is damaged, the loader gives an error or a data set, and never panics.
#[test]
fn no_damage_makes_the_loader_panic() {
    let folder = Folder::new("fuzz");
    folder.put("test_32x32.mat", &svhn(&[5], false));
    let whole =
        mat(&[matrix("y", 6, &[1, 1], 9, &5f64.to_le_bytes()), matrix("X", 9, &[32, 32, 3, 1], 2, &svhn_images(1))]);
    for at in 124..300 {
        for value in [0, 1, 0x7f, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            folder.put("train_32x32.mat", &damaged);
            let _ = load(&folder.0);
        }
    }
    for len in 0..300 {
        folder.put("train_32x32.mat", &whole[..len]);
        assert!(load(&folder.0).is_err(), "cut after {len} bytes");
    }
}
