//! Numeric arrays of small whole numbers in MATLAB's level 5 files, compressed or not.
//!
//! After a header of 128 bytes come elements: a tag of two u32 (type, length), the bytes, padding to a
//! multiple of eight. A compressed element holds one other element. Up to four bytes may stand in the tag
//! itself, whose first half is then length and type. An array is an element of elements: flags, dimensions,
//! name, values.

use std::io::Read;
use std::path::Path;

use flate2::read::ZlibDecoder;

use super::{DataError, Result};

const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT32: u32 = 5;
const DOUBLE: u32 = 9;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

/// One array; values column by column, as MATLAB stores them.
pub struct Array {
    pub name: String,
    pub dims: Vec<usize>,
    pub values: Vec<u8>,
}

/// All numeric arrays of a file.
pub fn arrays(file: &Path, bytes: &[u8]) -> Result<Vec<Array>> {
    let little_endian_level_5 = bytes.len() >= 128 && bytes[124..128] == [0x00, 0x01, b'I', b'M'];
    if !little_endian_level_5 {
        let found = format!("{} bytes without that header", bytes.len());
        return Err(DataError::new(file, found, "a little-endian MATLAB file of level 5"));
    }
    let mut arrays = Vec::new();
    let mut rest = &bytes[128..];
    while !rest.is_empty() {
        let (kind, data, next) = element(file, rest, Padding::Compressed)?;
        rest = next;
        match kind {
            COMPRESSED => {
                let mut inner = Vec::new();
                let unpacked = ZlibDecoder::new(data).read_to_end(&mut inner);
                unpacked.map_err(|e| DataError::new(file, e.to_string(), "a whole zlib stream"))?;
                let (kind, data, _) = element(file, &inner, Padding::Always)?;
                arrays.extend(if kind == MATRIX { array(file, data)? } else { None });
            }
            MATRIX => arrays.extend(array(file, data)?),
            _ => {}
        }
    }
    Ok(arrays)
}

/// Compressed elements alone have no padding.
enum Padding {
    Compressed,
    Always,
}

/// The type and bytes of the first element, and what follows it.
fn element<'a>(file: &Path, bytes: &'a [u8], padding: Padding) -> Result<(u32, &'a [u8], &'a [u8])> {
    let short = |expected: usize| {
        DataError::new(file, format!("an element cut short after {} bytes", bytes.len()), format!("{expected} bytes"))
    };
    let word = |i: usize| bytes.get(i..i + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let (first, second) = (word(0).ok_or_else(|| short(8))?, word(4).ok_or_else(|| short(8))?);
    if first >> 16 != 0 {
        let len = (first >> 16) as usize;
        let data = bytes[4..8].get(..len).ok_or_else(|| {
            DataError::new(file, format!("a small element of {len} bytes"), "at most 4 bytes in a small element")
        })?;
        return Ok((first & 0xffff, data, &bytes[8..]));
    }
    let len = second as usize;
    let data = bytes[8..].get(..len).ok_or_else(|| short(len.saturating_add(8)))?;
    let padded = match padding {
        Padding::Compressed if first == COMPRESSED => len,
        _ => len.next_multiple_of(8),
    };
    Ok((first, data, bytes[8..].get(padded..).unwrap_or_default()))
}

/// The array in a matrix element, or nothing if it is not numeric (a cell, a structure, text).
fn array(file: &Path, data: &[u8]) -> Result<Option<Array>> {
    let (_, flags, rest) = element(file, data, Padding::Always)?;
    let numeric = flags.first().is_some_and(|class| (6..=15).contains(class));
    if !numeric {
        return Ok(None);
    }
    let (kind, dims, rest) = element(file, rest, Padding::Always)?;
    if kind != INT32 {
        return Err(DataError::new(file, format!("dimensions of type {kind}"), format!("type {INT32}")));
    }
    let dims: Vec<usize> =
        dims.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
    let (kind, name, rest) = element(file, rest, Padding::Always)?;
    if kind != INT8 {
        return Err(DataError::new(file, format!("a name of type {kind}"), format!("type {INT8}")));
    }
    let name = String::from_utf8_lossy(name).into_owned();
    let (kind, data, _) = element(file, rest, Padding::Always)?;
    let values = match kind {
        UINT8 => data.to_vec(),
        DOUBLE => doubles(file, &name, data)?,
        _ => {
            let expected = format!("bytes ({UINT8}) or doubles ({DOUBLE})");
            return Err(DataError::new(file, format!("array {name} with values of type {kind}"), expected));
        }
    };
    if dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)) != Some(values.len()) {
        let found = format!("array {name} with {} values", values.len());
        return Err(DataError::new(file, found, format!("one for each of {dims:?}")));
    }
    Ok(Some(Array { name, dims, values }))
}

fn doubles(file: &Path, name: &str, data: &[u8]) -> Result<Vec<u8>> {
    let values = data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes")));
    values
        .map(|v| {
            let whole = v.fract() == 0.0 && (0.0..=255.0).contains(&v);
            let wrong = || DataError::new(file, format!("{v} in array {name}"), "whole numbers from 0 to 255");
            whole.then_some(v as u8).ok_or_else(wrong)
        })
        .collect()
}
