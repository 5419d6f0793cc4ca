//! The map of addresses. The ISA leaves it open where the windows of a generic address lie; these are ours.
//!
//! An address of shared memory is an offset into a block's memory with, above it, the block's rank in its cluster plus 1;
//! 0 there means the thread's own block.

use crate::ptx::Space;

/// Bits of an offset into a block's shared memory.
pub const SHARED_BITS: u32 = 24;
/// Shared memory begins here: the system keeps what is below on every GPU from `sm_90` on, and 0 stays no address.
pub const SHARED_START: u64 = 1024;
/// Generic window of shared memory.
pub const SHARED_WINDOW: u64 = 0x7000_0000_0000;
/// Generic window of the memory of a thread.
pub const LOCAL_WINDOW: u64 = 0x7100_0000_0000;
/// Generic window of parameters.
pub const PARAM_WINDOW: u64 = 0x7200_0000_0000;
/// Bytes of a window.
const WINDOW: u64 = 1 << 32;
/// Global memory begins here, and windows end it.
pub const GLOBAL_START: u64 = 0x1_0000_0000;

/// The space of a generic address, and the address there.
pub fn split(generic: u64) -> (Space, u64) {
    for (window, space) in
        [(SHARED_WINDOW, Space::Shared), (LOCAL_WINDOW, Space::Local), (PARAM_WINDOW, Space::Param)]
    {
        if (window..window + WINDOW).contains(&generic) {
            return (space, generic - window);
        }
    }
    (Space::Global, generic)
}

/// The generic address of an address in a space.
pub fn generic(space: Space, address: u64) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW + address,
        Space::Local => LOCAL_WINDOW + address,
        Space::Param => PARAM_WINDOW + address,
        Space::Global | Space::Const => address,
    }
}

/// The rank of the block that an address of shared memory names, if it names one, and the offset there.
pub fn shared(address: u64) -> (Option<usize>, u64) {
    let rank = address >> SHARED_BITS;
    ((rank > 0).then(|| rank as usize - 1), address & ((1 << SHARED_BITS) - 1))
}

/// The address of a byte of a block of the cluster.
pub fn of_rank(rank: usize, offset: u64) -> u64 {
    ((rank as u64 + 1) << SHARED_BITS) | offset
}
