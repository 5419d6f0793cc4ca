//! Tests of `read.rs`.
