//! The phases of a build, one readable list. Each is a name and a sentence; a build can stop after any of them.

/// A phase.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// See [`Phase::summary`].
    Import,
    /// See [`Phase::summary`].
    Canonicalize,
    /// See [`Phase::summary`].
    Quantize,
    /// See [`Phase::summary`].
    Fuse,
    /// See [`Phase::summary`].
    KvLayout,
    /// See [`Phase::summary`].
    Select,
    /// See [`Phase::summary`].
    Plan,
    /// See [`Phase::summary`].
    Codegen,
    /// See [`Phase::summary`].
    Pack,
}

/// Name and sentence of each phase, in order.
const TABLE: [(Phase, &str, &str); 9] = [
    (Phase::Import, "import", "Read the checkpoint's configuration and build the graph."),
    (Phase::Canonicalize, "canonicalize", "Fold, merge equal ops, drop dead ones."),
    (Phase::Quantize, "quantize", "Decide how each weight is stored."),
    (Phase::Fuse, "fuse", "Merge ops that one kernel can compute."),
    (Phase::KvLayout, "kv-layout", "Decide element type and page size of the KV cache."),
    (Phase::Select, "select", "Choose a kernel for each op and range of token counts."),
    (Phase::Plan, "plan", "Give every activation its place in one arena."),
    (Phase::Codegen, "codegen", "Generate the kernels' code."),
    (Phase::Pack, "pack", "Write weights, kernels and manifest into the engine file."),
];

impl Phase {
    /// All phases, in order.
    pub fn all() -> impl Iterator<Item = Phase> {
        TABLE.iter().map(|row| row.0)
    }

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// What it does, one sentence.
    pub fn summary(self) -> &'static str {
        TABLE[self as usize].2
    }

    /// The phase called `name`.
    pub fn named(name: &str) -> Option<Phase> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_enum_order() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, i);
            assert_eq!(Phase::named(row.1), Some(row.0));
        }
    }
}
