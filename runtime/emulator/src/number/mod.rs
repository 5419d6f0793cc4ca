//! Numbers as the ISA has them: formats, rounding, approximate functions, the sums of matrix instructions.
