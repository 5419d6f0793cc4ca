//! Diagnostics: where, what was found, what to do next, and whose fault it is.
//!
//! Rendering with source lines and colours belongs to the command line.

use crate::loc::Loc;
use std::fmt;

/// Whose fault it is; the command line turns it into an exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The input is wrong: exit code 1.
    User,
    /// The input is fine, and this build cannot do it: exit code 2.
    Unsupported,
    /// An invariant of the compiler broke: exit code 3.
    Bug,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diag {
    /// Whose fault it is.
    pub fault: Fault,
    /// Where.
    pub loc: Loc,
    /// What was found: one sentence without a full stop, beginning in lower case.
    pub message: String,
    /// What to do next.
    pub help: Option<String>,
    /// Further facts, one a line.
    pub notes: Vec<String>,
}

impl Diag {
    /// A finding at `loc`.
    pub fn new(fault: Fault, loc: &Loc, message: impl Into<String>) -> Diag {
        Diag { fault, loc: loc.clone(), message: message.into(), help: None, notes: Vec::new() }
    }

    /// The user's fault.
    pub fn user(loc: &Loc, message: impl Into<String>) -> Diag {
        Diag::new(Fault::User, loc, message)
    }

    /// Right, but not supported.
    pub fn unsupported(loc: &Loc, message: impl Into<String>) -> Diag {
        Diag::new(Fault::Unsupported, loc, message)
    }

    /// Our own fault.
    pub fn bug(loc: &Loc, message: impl Into<String>) -> Diag {
        Diag::new(Fault::Bug, loc, message)
    }

    /// Adds what to do next.
    pub fn help(mut self, help: impl Into<String>) -> Diag {
        self.help = Some(help.into());
        self
    }

    /// Adds a fact.
    pub fn note(mut self, note: impl Into<String>) -> Diag {
        self.notes.push(note.into());
        self
    }
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.fault {
            Fault::User => "error",
            Fault::Unsupported => "unsupported",
            Fault::Bug => "internal error",
        };
        write!(f, "{kind}: {}", self.message)?;
        if self.loc != Loc::Unknown {
            write!(f, "\n  --> {}", self.loc)?;
        }
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diag {}
