//! How weights lie in the file, byte by byte, and the pure functions that pack and unpack them.
//!
//! A matrix is `(n, k)`: outputs, inputs. `Rows` is row-major, elements as they are (f32 or bf16, little-endian).
//! `Panel16` groups 16 outputs into a panel; rows are padded with zeros to a multiple of 16, inputs to a multiple
//! of 2 (f32, bf16, i8) or 8 (i4). Within panel `p` and with `r` the row within the panel:
//!
//! | encoding | payload order | element |
//! |---|---|---|
//! | f32 | `[p][k][r]` | f32 |
//! | bf16 | `[p][k / 2][r][k % 2]` | bf16 |
//! | i8_channel | `[p][k / 2][r][k % 2]` | i8; scale `[p][r]` f32 |
//! | i4_group | `[p][k / 8][word w]`, 16-bit little-endian words, `w = 2 r + k % 2`, nibble `(k % 8) / 2` from the low end | `q + 8`; scale `[p][k / group][r]` bf16, zero `[p][k / group][r]` i8 |
