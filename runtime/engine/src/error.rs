//! What can go wrong with an engine file, whose fault it is and what to do next.

use crate::manifest::FORMAT;

/// Whose fault an error is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The input is wrong.
    User,
    /// The input is fine, and this build or machine cannot do it.
    Unsupported,
    /// An invariant broke: the caller gave what it promised not to give.
    Bug,
}

/// An error of reading or writing an engine file.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Where it happened.
    #[error("{path}: {error}")]
    At {
        /// The file.
        path: String,
        /// What happened.
        error: Box<EngineError>,
    },
    /// The operating system refused.
    #[error("cannot {doing}: {error}")]
    Io {
        /// `open the file`.
        doing: &'static str,
        /// Its reason.
        error: std::io::Error,
    },
    /// The disk is too small for what is written.
    #[error("the disk is full: the engine needs {need} bytes, {free} are free")]
    NoSpace {
        /// Bytes of the whole file.
        need: u64,
        /// Bytes that are free, and what an unfinished file took.
        free: u64,
    },
    /// A file, but not an engine.
    #[error("not an engine file: {found}")]
    NotAnEngine {
        /// What it is instead.
        found: String,
        /// True if it is something that `trtc build` reads.
        checkpoint: bool,
    },
    /// Another version of the format.
    #[error("the engine has format {found}, this version of trtc reads format {FORMAT}")]
    Format {
        /// The file's version.
        found: u64,
    },
    /// Bytes are missing, too many or changed.
    #[error("the file is damaged: {0}")]
    Damaged(String),
    /// The manifest contradicts itself.
    #[error("manifest: {at}: {found}")]
    Manifest {
        /// `launch 3 (l0.attn.q), argument 2`.
        at: String,
        /// One sentence.
        found: String,
    },
    /// A combination of shape, encoding and layout that does not exist.
    #[error("{0}")]
    Layout(String),
    /// The caller of this crate broke its contract.
    #[error("{0}")]
    Contract(String),
}

impl EngineError {
    /// Adds the file's name.
    pub fn at(self, path: &std::path::Path) -> EngineError {
        EngineError::At { path: path.display().to_string(), error: Box::new(self) }
    }

    /// The error without the file's name.
    pub fn root(&self) -> &EngineError {
        match self {
            EngineError::At { error, .. } => error.root(),
            other => other,
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self.root() {
            EngineError::Layout(_) | EngineError::Contract(_) => Fault::Bug,
            EngineError::Format { .. } => Fault::Unsupported,
            _ => Fault::User,
        }
    }

    /// What to do next.
    pub fn help(&self) -> Option<String> {
        let text = match self.root() {
            EngineError::NoSpace { .. } => "free some space or write to another disk",
            EngineError::NotAnEngine { checkpoint: true, .. } => {
                "build an engine from it first: trtc build MODEL -o model.engine --target TARGET"
            }
            EngineError::NotAnEngine { checkpoint: false, .. } => "give a file that `trtc build` wrote",
            EngineError::Format { found } if *found < u64::from(FORMAT) => {
                "it is from an older trtc: build the engine again with this one"
            }
            EngineError::Format { .. } => {
                "it is from a newer trtc: install that version, or build the engine again with this one"
            }
            EngineError::Damaged(_) => "copy the file again, or build the engine again",
            EngineError::Manifest { .. } => "build the engine again",
            _ => return None,
        };
        Some(text.into())
    }
}
