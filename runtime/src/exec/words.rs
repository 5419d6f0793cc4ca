//! Lists of numbers as the bytes that devices take and give.

// Buffers are little-endian, as the engine file and all devices are.
const _: () = assert!(cfg!(target_endian = "little"));

/// A number of four bytes in which every bit pattern is a value.
pub trait Word: Copy {}
impl Word for i32 {}
impl Word for u32 {}
impl Word for f32 {}

/// A list's bytes.
pub fn bytes<T: Word>(list: &[T]) -> &[u8] {
    // SAFETY: i32, u32 and f32 have no padding, any byte is a valid u8, and the length is that of the slice.
    unsafe { std::slice::from_raw_parts(list.as_ptr().cast(), size_of_val(list)) }
}

/// Appends the floats of these bytes.
pub fn floats(bytes: &[u8], into: &mut Vec<f32>) {
    into.extend(bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])));
}
