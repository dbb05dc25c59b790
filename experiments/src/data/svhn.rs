//! SVHN, cropped digits: `X`, 32 x 32 x 3 x n bytes, and `y`, n labels, in which 10 stands for the digit 0.

use std::path::Path;

use super::{DataError, Dataset, Images, Result, Scale, check_labels, mat, read};

const SIDE: usize = 32;

fn images(folder: &Path, name: &str) -> Result<Images> {
    let (file, bytes) = read(folder, name)?;
    let arrays = mat::arrays(&file, &bytes)?;
    let find = |name: &str| {
        let names: Vec<&str> = arrays.iter().map(|a| a.name.as_str()).collect();
        let found = || format!("the arrays {names:?}");
        arrays.iter().find(|a| a.name == name).ok_or_else(|| DataError::new(&file, found(), format!("an array {name}")))
    };
    let (x, y) = (find("X")?, find("y")?);
    let count = y.values.len();
    if x.dims != [SIDE, SIDE, 3, count] && !(count == 1 && x.dims == [SIDE, SIDE, 3]) {
        return Err(DataError::new(&file, format!("X of {:?}", x.dims), format!("{:?}", [SIDE, SIDE, 3, count])));
    }
    // Column by column there, row by row here.
    let upright = |plane: &[u8]| -> Vec<u8> { (0..SIDE * SIDE).map(|i| plane[(i % SIDE) * SIDE + i / SIDE]).collect() };
    let pixels = x.values.chunks_exact(SIDE * SIDE).flat_map(upright).collect();
    let labels: Vec<u8> = y.values.iter().map(|l| if *l == 10 { 0 } else { *l }).collect();
    check_labels(&file, &labels, 10)?;
    Ok(Images { channels: 3, height: SIDE, width: SIDE, pixels, labels })
}

/// Training and additional images (where the file is there) together, as the paper does; no augmentation.
pub fn svhn(folder: &Path) -> Result<Dataset> {
    let mut train = images(folder, "train_32x32.mat")?;
    if folder.join("extra_32x32.mat").is_file() {
        train.extend(images(folder, "extra_32x32.mat")?);
    }
    let test = images(folder, "test_32x32.mat")?;
    let scale = Scale::unit(3);
    Ok(Dataset { name: "SVHN", classes: 10, train, test, scale, crop: false, flip: false })
}
