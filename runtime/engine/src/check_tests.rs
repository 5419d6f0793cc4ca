//! Tests of `check.rs`.
