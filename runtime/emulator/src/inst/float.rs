//! Arithmetic on floats.

use crate::decode::{Decoder, Run};
use crate::ptx::Malformed;

/// Decodes an instruction that integers have too.
pub fn decode(name: &'static str, d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.refuse(format_args!("the emulator does not know {name} of floats"))
}
