//! Tests of `dummy.rs`.
