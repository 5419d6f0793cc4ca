//! Errors as clients see them: a status, and the body that OpenAI's API has.

use serde_json::{Value, json};
use trtc_runtime::error::Fault;

/// The classes of errors, with OpenAI's names for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is wrong.
    Invalid,
    /// No key, or a wrong one.
    Authentication,
    /// Too much is asked for at once.
    RateLimit,
    /// The time that the request was given is over.
    Timeout,
    /// The server cannot, though the request is right.
    Server,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] =
        [Kind::Invalid, Kind::Authentication, Kind::RateLimit, Kind::Timeout, Kind::Server];

    /// OpenAI's name.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Invalid => "invalid_request_error",
            Kind::Authentication => "authentication_error",
            Kind::RateLimit => "rate_limit_error",
            Kind::Timeout => "timeout_error",
            Kind::Server => "server_error",
        }
    }
}

/// OpenAI's names of all classes.
pub const NAMES: [&str; Kind::ALL.len()] = {
    let mut names = [""; Kind::ALL.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = Kind::ALL[i].name();
        i += 1;
    }
    names
};

/// An error with everything that is said of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Its class.
    pub kind: Kind,
    /// What was found, and what to do next.
    pub message: String,
    /// The parameter at fault.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// Seconds until it makes sense to try again.
    pub retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: u16, kind: Kind, message: impl Into<String>) -> ApiError {
        ApiError { status, kind, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// The request is wrong: 400.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(400, Kind::Invalid, message)
    }

    /// The request is wrong in another way than 400 says.
    pub fn refused(status: u16, message: impl Into<String>) -> ApiError {
        ApiError::new(status, Kind::Invalid, message)
    }

    /// A parameter that nobody takes: it would have had no effect.
    pub fn unsupported(name: impl Into<String>, why: &str) -> ApiError {
        let name = name.into();
        ApiError::invalid(format!("{name}: {why}")).param(name).code("unsupported_parameter")
    }

    /// No key, or a wrong one: 401.
    pub fn unauthorised(message: impl Into<String>) -> ApiError {
        ApiError::new(401, Kind::Authentication, message).code("invalid_api_key")
    }

    /// Not with this key, or not on this server: 403.
    pub fn forbidden(message: impl Into<String>) -> ApiError {
        ApiError::new(403, Kind::Authentication, message).code("forbidden")
    }

    /// Too many wait: 429.
    pub fn busy(message: impl Into<String>, retry_after: u64) -> ApiError {
        let error = ApiError::new(429, Kind::RateLimit, message).code("rate_limit_exceeded");
        ApiError { retry_after: Some(retry_after), ..error }
    }

    /// The time is over: 504.
    pub fn timeout(message: impl Into<String>) -> ApiError {
        ApiError::new(504, Kind::Timeout, message).code("timeout")
    }

    /// An invariant broke: 500.
    pub fn broken(message: impl Into<String>) -> ApiError {
        ApiError::new(500, Kind::Server, message)
    }

    /// Not now: 503.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(503, Kind::Server, message)
    }

    /// Names the parameter at fault.
    pub fn param(self, name: impl Into<String>) -> ApiError {
        ApiError { param: Some(name.into()), ..self }
    }

    /// Names the parameter at fault as another endpoint does.
    pub fn renamed(self, from: &str, to: &str) -> ApiError {
        let param = self.param.map(|param| if param == from { to.to_owned() } else { param });
        ApiError { param, ..self }
    }

    /// Adds the word for programs.
    pub fn code(self, code: &'static str) -> ApiError {
        ApiError { code: Some(code), ..self }
    }

    /// The body.
    pub fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message,
            "type": self.kind.name(),
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl From<trtc_runtime::Error> for ApiError {
    fn from(e: trtc_runtime::Error) -> ApiError {
        let message = match e.help {
            Some(help) => format!("{}: {help}", e.message),
            None => e.message,
        };
        match e.fault {
            Fault::User | Fault::Unsupported => ApiError::invalid(message),
            Fault::Bug => ApiError::broken(message),
        }
    }
}
