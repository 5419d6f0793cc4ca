//! Tests of `write.rs`.
