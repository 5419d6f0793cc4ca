//! A record of what one warp executes: each instruction with its threads and what it wrote.

use crate::decode::{Inst, Kernel};
use crate::ptx::Class;
use crate::warp::{LANES, Warp};
use crate::world::World;
use std::cell::RefCell;

/// Takes lines of a trace.
pub struct Tracer<'a> {
    /// Block whose warp is watched; `None`: every one.
    pub block: Option<[u32; 3]>,
    /// Warp in the block; `None`: every one.
    pub warp: Option<usize>,
    /// Thread whose values are shown.
    pub lane: usize,
    /// Where lines go.
    pub line: RefCell<&'a mut dyn FnMut(&str)>,
}

impl Tracer<'_> {
    /// One instruction that was executed.
    pub fn step(&self, world: &World<'_>, warp: &Warp, inst: &Inst, at: usize, mask: u32) {
        let block = world.blocks[warp.block].id;
        if self.block.is_some_and(|b| b != block) || self.warp.is_some_and(|w| w != warp.index) {
            return;
        }
        let text = world.kernel.lines.get((inst.line as usize).wrapping_sub(1)).map_or("", |l| l.trim());
        let lane = self.lane.min(LANES - 1);
        let values = values(world.kernel, warp, at, lane);
        let [x, y, z] = block;
        (self.line.borrow_mut())(&format!(
            "({x}, {y}, {z}) warp {:2} {mask:08x} {:5}: {text}{values}",
            warp.index, inst.line
        ));
    }
}

/// What an instruction has written, of one thread.
fn values(kernel: &Kernel, warp: &Warp, at: usize, lane: usize) -> String {
    let mut out = String::new();
    for (reg, slot, class) in &kernel.written[at] {
        let row = |i: u32| warp.rows[(slot.0 + i) as usize][lane];
        let value = match class {
            Class::Pred => format!("{}", warp.preds[slot.0 as usize] >> lane & 1),
            Class::Word16 => format!("{:#06x}", row(0)),
            Class::Word32 => format!("{:#x} ({})", row(0), f32::from_bits(row(0))),
            Class::Word64 => format!("{:#x}", u64::from(row(0)) | u64::from(row(1)) << 32),
            Class::Word128 => format!("{:#x}:{:#x}:{:#x}:{:#x}", row(3), row(2), row(1), row(0)),
        };
        let name = &kernel.registers[reg.0 as usize];
        out.push_str(&format!("  {name} = {value}"));
    }
    out
}
