//! The IDX format of MNIST and its heirs: two zero bytes, the type (8: unsigned bytes), the number of
//! dimensions, each dimension as a big-endian u32, the bytes.

use std::path::Path;

use super::{DataError, Result, read};

/// The dimensions and bytes of the file `name` or `name.gz`, which must have `rank` dimensions.
pub fn bytes(folder: &Path, name: &str, rank: usize) -> Result<(std::path::PathBuf, Vec<usize>, Vec<u8>)> {
    let (file, mut content) = read(folder, name)?;
    let magic = [0, 0, 8, rank as u8];
    let header = 4 + 4 * rank;
    if content.len() < header || content[..4] != magic {
        let found = format!("{} bytes that begin with {:?}", content.len(), &content[..content.len().min(4)]);
        return Err(DataError::new(&file, found, format!("at least {header} bytes that begin with {magic:?}")));
    }
    let dims: Vec<usize> =
        content[4..header].chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
    let expected = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let found = content.len() - header;
    if expected != Some(found) {
        return Err(DataError::new(
            &file,
            format!("{found} bytes after the header"),
            format!("a byte for each of {dims:?}"),
        ));
    }
    content.drain(..header);
    Ok((file, dims, content))
}
