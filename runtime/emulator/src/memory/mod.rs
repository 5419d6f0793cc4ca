//! Memory of every kind, with what is known of each byte, and who is ordered after whom.

pub mod address;
pub mod clocks;
pub mod global;
pub mod shared;

pub use clocks::Clocks;
pub use global::{Global, Image};
pub use shared::Shared;
