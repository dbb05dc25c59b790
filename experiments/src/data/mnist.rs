//! Fashion-MNIST and EMNIST.

use std::path::Path;

use super::{DataError, Dataset, Images, Result, check_labels, dataset, idx};

/// A split of EMNIST: its name, the number of its classes, and the label of the first.
type Split = (&'static str, usize, u8);

/// The paper's split first.
const SPLITS: [Split; 6] = [
    ("balanced", 47, 0),
    ("byclass", 62, 0),
    ("bymerge", 47, 0),
    ("letters", 26, 1),
    ("digits", 10, 0),
    ("mnist", 10, 0),
];

fn images(folder: &Path, images: &str, labels: &str, classes: usize, first: u8) -> Result<Images> {
    let (images_file, dims, pixels) = idx::bytes(folder, images, 3)?;
    let (labels_file, counts, mut labels) = idx::bytes(folder, labels, 1)?;
    if counts[0] != dims[0] || dims.contains(&0) {
        let found = format!("{} labels", counts[0]);
        return Err(DataError::new(
            &labels_file,
            found,
            format!("one for each of the {dims:?} in {}", images_file.display()),
        ));
    }
    // A label below the first wraps to one that no data set has.
    labels.iter_mut().for_each(|l| *l = l.wrapping_sub(first));
    check_labels(&labels_file, &labels, classes)?;
    Ok(Images { channels: 1, height: dims[1], width: dims[2], pixels, labels })
}

/// The four files of Fashion-MNIST.
pub fn fashion_mnist(folder: &Path) -> Result<Dataset> {
    let train = images(folder, "train-images-idx3-ubyte", "train-labels-idx1-ubyte", 10, 0)?;
    let test = images(folder, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10, 0)?;
    Ok(dataset("Fashion-MNIST", 10, train, test))
}

/// The images that the repository carries.
pub fn carried(folder: &Path) -> Result<Dataset> {
    let all = images(folder, "fashion-mnist-1000-images-idx3-ubyte", "fashion-mnist-1000-labels-idx1-ubyte", 10, 0)?;
    let (train, test): (Vec<usize>, Vec<usize>) = (0..all.len()).partition(|i| i % 5 > 0);
    Ok(dataset("Fashion-MNIST, 1,000 test images", 10, all.select(&train), all.select(&test)))
}

/// The split of EMNIST whose files are there.
pub fn emnist_split(folder: &Path) -> Option<Split> {
    SPLITS.into_iter().find(|(name, ..)| {
        let file = format!("emnist-{name}-train-images-idx3-ubyte");
        folder.join(&file).is_file() || folder.join(file + ".gz").is_file()
    })
}

/// EMNIST stores its images column by column; here they stand upright.
pub fn emnist(folder: &Path, (split, classes, first): Split) -> Result<Dataset> {
    let part = |part: &str| {
        let name = |what: &str| format!("emnist-{split}-{part}-{what}-ubyte");
        let mut images = images(folder, &name("images-idx3"), &name("labels-idx1"), classes, first)?;
        let (columns, rows) = (images.height, images.width);
        let upright = |image: &[u8]| -> Vec<u8> {
            (0..rows * columns).map(|i| image[(i % columns) * rows + i / columns]).collect()
        };
        images.pixels = images.pixels.chunks_exact(rows * columns).flat_map(upright).collect();
        (images.height, images.width) = (rows, columns);
        Ok(images)
    };
    let name = if split == "balanced" { "EMNIST (balanced)" } else { "EMNIST" };
    // The mirror image of a letter is no letter.
    Ok(Dataset { flip: false, ..dataset(name, classes, part("train")?, part("test")?) })
}
