//! What tests over several crates share: the file tests' harness.

pub mod filetest;
