//! Safetensors files: the header, checked against the file's length.
//!
//! The `safetensors` crate parses and validates. Where it refuses a file, the header is read once more here to
//! name the tensor at fault.

use crate::frontend::gguf::dequant::Encoding;
use crate::frontend::weights::{Tensor, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use trtc_ir::{Diag, Loc};

/// Bytes before the header's text: its length.
const PREFIX: usize = 8;

/// The tensors of a file, in file order; `bytes` is the whole file and `loc` names it. Never panics.
pub fn tensors(bytes: &[u8], loc: &Loc) -> Result<Vec<(String, Tensor)>, Diag> {
    let (length, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|e| explain(bytes, loc, &e.to_string()))?;
    let start = PREFIX + length;
    let mut out = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else {
            continue;
        };
        let (from, to) = info.data_offsets;
        let encoding = encoding(info.dtype);
        let info = TensorInfo {
            shape: info.shape.iter().map(|&n| n as u64).collect(),
            dtype: format!("{:?}", info.dtype),
        };
        out.push((name, Tensor { info, encoding, file: 0, bytes: start + from..start + to, scales: None }));
    }
    Ok(out)
}

/// The element types that can be read.
fn encoding(dtype: Dtype) -> Option<Encoding> {
    match dtype {
        Dtype::F32 => Some(Encoding::F32),
        Dtype::F16 => Some(Encoding::F16),
        Dtype::BF16 => Some(Encoding::Bf16),
        Dtype::F8_E4M3 => Some(Encoding::F8E4M3),
        _ => None,
    }
}

/// Finds what is wrong with a file that was refused with `reason`.
fn explain(bytes: &[u8], loc: &Loc, reason: &str) -> Diag {
    let user = |message: String| Diag::user(loc, message);
    let again = "the file is damaged or not complete: fetch it again";
    let Some((length, rest)) = bytes.split_first_chunk::<PREFIX>() else {
        return user(format!("is not a safetensors file: it has {} bytes", bytes.len())).help(again);
    };
    let length = u64::from_le_bytes(*length);
    let Some(header) = usize::try_from(length).ok().and_then(|n| rest.get(..n)) else {
        let message = format!(
            "is not a whole safetensors file: the header takes {length} bytes, the file has {}",
            bytes.len()
        );
        return user(message).help(again);
    };
    let data = (rest.len() - header.len()) as u64;
    let Ok(header) = serde_json::from_slice::<Map<String, Value>>(header) else {
        return user(format!("has a header that cannot be read: {reason}")).help(again);
    };
    let mut spans = Vec::new();
    for (name, value) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        match span(value) {
            Err(what) => return user(format!("tensor {name:?} {what}")).help(again),
            Ok((from, to)) if to > data => {
                let message =
                    format!("tensor {name:?} takes bytes {from} to {to} of the data, which has {data}");
                return user(message).help(again);
            }
            Ok((from, to)) => spans.push((from, to, name)),
        }
    }
    spans.sort_unstable();
    let mut end = 0;
    let mut last = "the header";
    for (from, to, name) in spans {
        if from != end {
            let what = if from < end { "overlaps" } else { "leaves a gap after" };
            return user(format!(
                "tensor {name:?} begins at byte {from} and {what} {last:?}, which ends at {end}"
            ))
            .help(again);
        }
        (end, last) = (to, name);
    }
    if end != data {
        return user(format!("has {} bytes after its last tensor {last:?}", data - end)).help(again);
    }
    user(format!("is refused: {reason}")).help(again)
}

/// First and last byte of one entry, or what is wrong with it.
fn span(value: &Value) -> Result<(u64, u64), String> {
    let number = |v: Option<&Value>| v.and_then(Value::as_u64);
    let offsets = value.get("data_offsets");
    let at = |i: usize| number(offsets.and_then(|o| o.get(i)));
    let (Some(from), Some(to)) = (at(0), at(1)) else {
        return Err("has no pair of data_offsets".into());
    };
    if from > to {
        return Err(format!("has data_offsets {from} to {to}, which run backwards"));
    }
    let dtype = value.get("dtype").and_then(Value::as_str).ok_or("has no dtype")?;
    let dtype: Dtype = serde_json::from_value(Value::String(dtype.into()))
        .map_err(|_| format!("has the unknown element type {dtype:?}"))?;
    let shape = value.get("shape").and_then(Value::as_array).ok_or("has no shape")?;
    let bits = shape
        .iter()
        .try_fold(1u64, |n, d| n.checked_mul(d.as_u64()?))
        .and_then(|n| n.checked_mul(dtype.bitsize() as u64))
        .ok_or("has a shape that is not a list of sizes, or too large")?;
    if bits.div_ceil(8) != to - from {
        return Err(format!("takes {} bytes, but its shape and type take {}", to - from, bits.div_ceil(8)));
    }
    Ok((from, to))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file with this header and this many bytes of data.
    pub(crate) fn file(header: &str, data: usize) -> Vec<u8> {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.extend((0..data).map(|i| i as u8));
        out
    }

    fn message(header: &str, data: usize) -> String {
        tensors(&file(header, data), &Loc::name("m.safetensors")).err().unwrap().to_string()
    }

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},
        "a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"I64","shape":[1],"data_offsets":[16,24]}}"#;

    #[test]
    fn a_good_file_is_read_in_file_order() {
        let t = tensors(&file(GOOD, 24), &Loc::Unknown).unwrap();
        assert_eq!(t.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(t[0].1.bytes, 8 + GOOD.len()..8 + GOOD.len() + 16);
        assert_eq!((t[0].1.encoding, t[1].1.encoding), (Some(Encoding::F32), None));
        assert_eq!(t[1].1.info.dtype, "I64");
    }

    #[test]
    fn errors_name_the_file_and_the_tensor() {
        let m = message(GOOD, 20);
        assert!(
            m.contains("\"b\" takes bytes 16 to 24 of the data, which has 20") && m.contains("m.safetensors"),
            "{m}"
        );
        let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
        assert!(message(overlap, 12).contains("\"b\" begins at byte 4 and overlaps \"a\""));
        let gap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}"#;
        assert!(message(gap, 16).contains("leaves a gap after \"a\""));
        let size = r#"{"a":{"dtype":"F16","shape":[3],"data_offsets":[0,8]}}"#;
        assert!(message(size, 8).contains("\"a\" takes 8 bytes, but its shape and type take 6"));
        let backwards = r#"{"a":{"dtype":"F16","shape":[3],"data_offsets":[8,2]}}"#;
        assert!(message(backwards, 8).contains("run backwards"));
        let huge = r#"{"a":{"dtype":"F16","shape":[9223372036854775807, 4],"data_offsets":[0,8]}}"#;
        assert!(message(huge, 8).contains("\"a\" has a shape"));
        let unknown = r#"{"a":{"dtype":"F7","shape":[3],"data_offsets":[0,6]}}"#;
        assert!(message(unknown, 6).contains("unknown element type \"F7\""));
        assert!(message(GOOD, 30).contains("6 bytes after its last tensor \"b\""));
    }

    #[test]
    fn broken_prefixes_and_headers() {
        let loc = Loc::Unknown;
        assert!(tensors(b"abc", &loc).err().unwrap().message.contains("not a safetensors file"));
        assert!(tensors(&u64::MAX.to_le_bytes(), &loc).err().unwrap().message.contains("the header takes"));
        assert!(tensors(&file("{not json", 0), &loc).err().unwrap().message.contains("cannot be read"));
    }

    #[test]
    fn every_prefix_of_a_good_file_is_refused() {
        let good = file(GOOD, 24);
        for n in 0..good.len() {
            assert!(tensors(&good[..n], &Loc::Unknown).is_err(), "{n}");
        }
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic(at in 0usize..200, byte in any::<u8>(), cut in 0usize..300) {
            let mut f = file(GOOD, 24);
            let at = at % f.len();
            f[at] = byte;
            f.truncate(cut);
            let _ = tensors(&f, &Loc::Unknown);
        }
    }
}
