//! What is looked at besides an instruction's own work: registers that nobody has written, and those that a matrix
//! instruction is using.

use crate::decode::{Checks, Kernel};
use crate::fault::{FaultKind, Outcome, trap, trap_at};
use crate::warp::Warp;

/// Before an instruction.
pub fn before(warp: &Warp, kernel: &Kernel, checks: &Checks, mask: u32) -> Outcome<()> {
    let accumulating = match checks.reads_if {
        None => mask,
        Some((p, negated)) => mask & (warp.pred(p) ^ if negated { !0 } else { 0 }),
    };
    for &(index, reg) in &checks.reads {
        let mut missing = mask & !warp.written[index as usize];
        if missing != 0 && checks.reads_if.is_some() && checks.writes.contains(&index) {
            missing &= accumulating;
        }
        if missing != 0 {
            let name = &kernel.registers[reg.0 as usize];
            let lane = missing.trailing_zeros() as usize;
            let what = format!("register {name} is read, which this thread has not written");
            return trap_at(FaultKind::UninitialisedRegister, lane, what);
        }
    }
    for &index in &checks.in_flight {
        let line = warp.in_flight[index as usize];
        if line != 0 {
            let what = format!(
                "a register of the instruction of line {line} is used, which is under way: the wait is missing"
            );
            return trap(FaultKind::RegisterInFlight, what);
        }
    }
    Ok(())
}

/// After it.
pub fn after(warp: &mut Warp, checks: &Checks, mask: u32) {
    for &index in &checks.writes {
        warp.written[index as usize] |= mask;
    }
    for &index in &checks.unfenced {
        warp.unfenced[index as usize] = true;
    }
}
