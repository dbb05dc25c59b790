//! CIFAR-10 and CIFAR-100, binary version: records of one or two label bytes and 3 x 32 x 32 pixels.

use std::path::Path;

use super::{DataError, Dataset, Images, Result, check_labels, dataset, read};

const PIXELS: usize = 3 * 32 * 32;

/// Records of `labels` label bytes, of which the last is the class.
fn records(folder: &Path, name: &str, labels: usize, classes: usize) -> Result<Images> {
    let (file, bytes) = read(folder, name)?;
    let record = labels + PIXELS;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        return Err(DataError::new(&file, format!("{} bytes", bytes.len()), format!("a multiple of {record} bytes")));
    }
    let mut images = Images { channels: 3, height: 32, width: 32, pixels: Vec::new(), labels: Vec::new() };
    for record in bytes.chunks_exact(record) {
        images.labels.push(record[labels - 1]);
        images.pixels.extend(&record[labels..]);
    }
    check_labels(&file, &images.labels, classes)?;
    Ok(images)
}

/// Five training files and one for the test.
pub fn cifar10(folder: &Path) -> Result<Dataset> {
    let mut train = records(folder, "data_batch_1.bin", 1, 10)?;
    for i in 2..=5 {
        train.extend(records(folder, &format!("data_batch_{i}.bin"), 1, 10)?);
    }
    Ok(dataset("CIFAR-10", 10, train, records(folder, "test_batch.bin", 1, 10)?))
}

/// The fine labels.
pub fn cifar100(folder: &Path) -> Result<Dataset> {
    Ok(dataset("CIFAR-100", 100, records(folder, "train.bin", 2, 100)?, records(folder, "test.bin", 2, 100)?))
}
