//! Reading positions and metadata values of a GGUF file: every length is checked before it is used.

use std::fmt::Display;
use std::ops::Range;
use trtc_ir::{Diag, Loc};

/// Nested arrays beyond this are refused.
const MAX_DEPTH: u32 = 4;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Meta {
    /// Any unsigned integer type.
    Uint(u64),
    /// Any signed integer type.
    Int(i64),
    /// Either floating-point type.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Str(String),
    /// An array, still in the file.
    Array(Array),
}

/// An array of metadata: where its elements lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// Type number of an element.
    pub elem: u32,
    /// Number of elements.
    pub count: u64,
    /// Bytes of the elements within the file, checked.
    pub bytes: Range<usize>,
}

impl Array {
    /// The elements of an array of integers or floats, as f64 (exact up to 53 bits).
    pub fn numbers(&self, file: &[u8], loc: &Loc) -> Result<Vec<f64>, Diag> {
        let mut r =
            Cursor { bytes: file.get(..self.bytes.end).unwrap_or_default(), at: self.bytes.start, loc };
        let mut out =
            Vec::with_capacity(self.bytes.len() / scalar_size(self.elem).unwrap_or(usize::MAX).max(1));
        for _ in 0..self.count {
            out.push(match r.value(self.elem, "an array", 0)? {
                Meta::Uint(n) => n as f64,
                Meta::Int(n) => n as f64,
                Meta::Float(f) => f,
                Meta::Bool(b) => f64::from(u8::from(b)),
                Meta::Str(_) | Meta::Array(_) => {
                    return Err(r.user("an array of numbers holds something else"));
                }
            });
        }
        Ok(out)
    }

    /// The elements of an array of strings.
    pub fn strings<'a>(&self, file: &'a [u8], loc: &Loc) -> Result<Vec<&'a str>, Diag> {
        let mut r =
            Cursor { bytes: file.get(..self.bytes.end).unwrap_or_default(), at: self.bytes.start, loc };
        if self.elem != STRING {
            return Err(r.user("an array of strings holds something else"));
        }
        // A string takes at least its length of 8 bytes.
        let mut out = Vec::with_capacity(self.bytes.len() / 8);
        for i in 0..self.count {
            out.push(r.string(&format_args!("string {i} of an array"))?);
        }
        Ok(out)
    }
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a value of a scalar type.
fn scalar_size(ty: u32) -> Option<usize> {
    match ty {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// A reading position. Errors say what was being read.
pub struct Cursor<'a, 'l> {
    bytes: &'a [u8],
    at: usize,
    loc: &'l Loc,
}

impl<'a, 'l> Cursor<'a, 'l> {
    /// At the beginning of a file that `loc` names.
    pub fn new(bytes: &'a [u8], loc: &'l Loc) -> Cursor<'a, 'l> {
        Cursor { bytes, at: 0, loc }
    }

    /// The position.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn user(&self, message: impl Into<String>) -> Diag {
        Diag::user(self.loc, message).note(format!("at byte {} of the file", self.at))
    }

    pub fn take(&mut self, n: u64, what: impl Display) -> Result<&'a [u8], Diag> {
        let left = self.bytes.len().saturating_sub(self.at);
        let got =
            usize::try_from(n).ok().filter(|&n| n <= left).and_then(|n| self.bytes.get(self.at..self.at + n));
        match got {
            Some(got) => {
                self.at += got.len();
                Ok(got)
            }
            None => Err(self
                .user(format!("ends within {what}: {n} bytes are needed, {left} are left"))
                .help("the file is damaged or not complete: fetch it again")),
        }
    }

    pub fn array<const N: usize>(&mut self, what: impl Display) -> Result<[u8; N], Diag> {
        let bytes = self.take(N as u64, what)?;
        let mut out = [0; N];
        out.copy_from_slice(bytes);
        Ok(out)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, Diag> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: impl Display) -> Result<u64, Diag> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub fn string(&mut self, what: &dyn Display) -> Result<&'a str, Diag> {
        let n = self.u64(what)?;
        let bytes = self.take(n, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.user(format!("{what} is not UTF-8")))
    }

    pub fn value(&mut self, ty: u32, key: &str, depth: u32) -> Result<Meta, Diag> {
        Ok(match ty {
            0 => Meta::Uint(u8::from_le_bytes(self.array(key)?).into()),
            1 => Meta::Int(i8::from_le_bytes(self.array(key)?).into()),
            2 => Meta::Uint(u16::from_le_bytes(self.array(key)?).into()),
            3 => Meta::Int(i16::from_le_bytes(self.array(key)?).into()),
            4 => Meta::Uint(u32::from_le_bytes(self.array(key)?).into()),
            5 => Meta::Int(i32::from_le_bytes(self.array(key)?).into()),
            6 => Meta::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => Meta::Bool(u8::from_le_bytes(self.array(key)?) != 0),
            STRING => Meta::Str(self.string(&format_args!("`{key}`"))?.to_owned()),
            ARRAY => {
                let (elem, count) = (self.u32(key)?, self.u64(key)?);
                let start = self.at;
                self.skip_array(elem, count, key, depth)?;
                Meta::Array(Array { elem, count, bytes: start..self.at })
            }
            10 => Meta::Uint(u64::from_le_bytes(self.array(key)?)),
            11 => Meta::Int(i64::from_le_bytes(self.array(key)?)),
            12 => Meta::Float(f64::from_le_bytes(self.array(key)?)),
            _ => return Err(self.user(format!("`{key}` has the unknown type {ty}"))),
        })
    }

    /// Moves past the elements of an array.
    pub fn skip_array(&mut self, elem: u32, count: u64, key: &str, depth: u32) -> Result<(), Diag> {
        if let Some(size) = scalar_size(elem) {
            let total = count.saturating_mul(size as u64);
            self.take(total, format_args!("`{key}`"))?;
            return Ok(());
        }
        if depth >= MAX_DEPTH {
            return Err(self.user(format!("`{key}` has arrays nested deeper than {MAX_DEPTH}")));
        }
        // Every element moves the position on, so a count that is too large ends at the end of the file.
        for _ in 0..count {
            match elem {
                STRING => {
                    let n = self.u64(format_args!("`{key}`"))?;
                    self.take(n, format_args!("`{key}`"))?;
                }
                ARRAY => {
                    let (elem, count) = (self.u32(key)?, self.u64(key)?);
                    self.skip_array(elem, count, key, depth + 1)?;
                }
                _ => return Err(self.user(format!("`{key}` is an array of the unknown type {elem}"))),
            }
        }
        Ok(())
    }
}
