//! Where an op comes from. A location survives fusion, so profiles and errors can name the source.

use std::fmt;

/// The origin of an op.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Loc {
    /// Nothing is known.
    #[default]
    Unknown,
    /// A name in the model: `model.layers.0.self_attn`.
    Name(String),
    /// A place in a text file.
    File {
        /// Path as given.
        path: String,
        /// From 1.
        line: u32,
        /// From 1.
        col: u32,
    },
    /// An op that was made from several.
    Fused(Vec<Loc>),
}

impl Loc {
    /// A named location.
    pub fn name(name: impl Into<String>) -> Loc {
        Loc::Name(name.into())
    }

    /// The location of an op made from ops at `parts`: flat, in order, without repeats or unknowns.
    pub fn fuse<'a>(parts: impl IntoIterator<Item = &'a Loc>) -> Loc {
        let mut out: Vec<Loc> = Vec::new();
        let mut add = |l: &Loc| {
            if *l != Loc::Unknown && !out.contains(l) {
                out.push(l.clone());
            }
        };
        for part in parts {
            match part {
                Loc::Fused(inner) => inner.iter().for_each(&mut add),
                one => add(one),
            }
        }
        match out.len() {
            0 => Loc::Unknown,
            1 => out.remove(0),
            _ => Loc::Fused(out),
        }
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loc::Unknown => f.write_str("unknown"),
            Loc::Name(n) => write!(f, "{n:?}"),
            Loc::File { path, line, col } => write!(f, "{path:?}:{line}:{col}"),
            Loc::Fused(parts) => {
                f.write_str("fused[")?;
                for (i, p) in parts.iter().enumerate() {
                    write!(f, "{}{p}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
        }
    }
}
