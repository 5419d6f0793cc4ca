//! `y[t] = tokens[t]`, or where that is negative `last[-1 - tokens[t]]`. One token a thread.

use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Builder, I32, Special};

/// Threads of a block.
const THREADS: u32 = 128;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feed {
    /// Entries of `last`.
    pub last: u32,
}

impl Feed {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        (self.last == 0).then(|| "the step before had no rows".to_owned())
    }

    /// Geometry. Arguments: `[tokens, last, y]`.
    pub fn launch(&self) -> Launch {
        let grid = grid_of(Extent { of: Count::Tokens, div: THREADS, plus: None, mul: 1 });
        Launch::new(grid, THREADS, vec![ArgKind::Pointer; 3])
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let tokens = b.param_ptr::<I32>();
        let last = b.param_ptr::<I32>();
        let y = b.param_ptr::<I32>();
        let dims = b.param_dims();
        let token = b.special(Special::BlockX) * THREADS + b.special(Special::ThreadX);
        b.if_(token.lt(dims.tokens), || {
            let id = tokens.at(token).load();
            let fresh = b.value(0).le(id);
            // A row is read whether or not it is wanted: one that exists.
            let row = fresh.select(0, b.value(-1) - id).min(self.last - 1);
            y.at(token).store(fresh.select(id, last.at(row).load()));
        });
    }
}
