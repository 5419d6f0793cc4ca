//! The command line as scripts see it: exit codes, messages, outputs, and what bad input does.
//!
//! Numbers are checked in `golden.rs`; here a small checkpoint with random weights stands for every model.
#![cfg(feature = "compiler")]

mod attention;
mod building;
mod calibration;
mod chains;
mod checkpoints;
mod checks;
mod emulator;
mod engines;
mod load;
mod measurements;
mod models;
mod requests;
mod serving;
mod soak;
mod support;
mod tuning;
mod usage;
