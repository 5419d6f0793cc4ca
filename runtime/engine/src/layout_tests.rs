//! Tests of `layout.rs`.
