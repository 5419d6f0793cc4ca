//! What can go wrong in the runtime, with whose fault it is and what to do next.

/// Whose fault it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The input is wrong.
    User,
    /// The input is fine, and this build or machine cannot do it.
    Unsupported,
    /// An invariant broke.
    Bug,
}

/// An error of the runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Whose fault it is.
    pub fault: Fault,
    /// What was found: one sentence without a full stop.
    pub message: String,
    /// What to do next.
    pub help: Option<String>,
}

impl Error {
    /// The user's fault.
    pub fn user(message: impl Into<String>) -> Error {
        Error { fault: Fault::User, message: message.into(), help: None }
    }

    /// Right, but not supported here.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error { fault: Fault::Unsupported, message: message.into(), help: None }
    }

    /// Our own fault.
    pub fn bug(message: impl Into<String>) -> Error {
        Error { fault: Fault::Bug, message: message.into(), help: None }
    }

    /// Adds what to do next.
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.help = Some(help.into());
        self
    }
}

impl From<trtc_engine::EngineError> for Error {
    fn from(e: trtc_engine::EngineError) -> Error {
        let fault = match e.fault() {
            trtc_engine::Fault::User => Fault::User,
            trtc_engine::Fault::Unsupported => Fault::Unsupported,
            trtc_engine::Fault::Bug => Fault::Bug,
        };
        Error { fault, message: e.to_string(), help: e.help() }
    }
}
