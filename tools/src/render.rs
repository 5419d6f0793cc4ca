//! Failures: what the command line says on stderr and the exit code it ends with.
//!
//! Crates report their own error types; this is where they become one.

use std::fmt::Write as _;
use std::io::Write as _;

/// Whose fault it is, as an exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The user's fault.
    User = 1,
    /// Right, but not supported.
    Unsupported = 2,
    /// Our own fault.
    Bug = 3,
}

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// Something to say; the first one gives the exit code.
    Reports(Vec<Report>),
    /// A command line that is not understood; clap has said what is wrong with it.
    Usage,
    /// The reader of our output went away: nothing to say, and nothing went wrong.
    Closed,
}

/// What is said: where, what was found, what to do next.
#[derive(Debug)]
pub struct Report {
    pub exit: Exit,
    pub message: String,
    pub loc: Option<String>,
    pub notes: Vec<String>,
    pub help: Option<String>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure::Reports(vec![Report {
            exit,
            message: message.into(),
            loc: None,
            notes: Vec::new(),
            help: None,
        }])
    }

    /// The user's fault.
    pub fn user(message: impl Into<String>) -> Failure {
        Failure::new(Exit::User, message)
    }

    /// Our own fault.
    pub fn bug(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Bug, message)
    }

    /// Adds what to do next.
    pub fn help(mut self, help: impl Into<String>) -> Failure {
        if let Failure::Reports(reports) = &mut self
            && let Some(last) = reports.last_mut()
        {
            last.help = Some(help.into());
        }
        self
    }

    /// Adds facts, one a line.
    pub fn notes(mut self, notes: Vec<String>) -> Failure {
        if let Failure::Reports(reports) = &mut self
            && let Some(last) = reports.last_mut()
        {
            last.notes.extend(notes);
        }
        self
    }

    /// A file that cannot be read or written.
    pub fn file(doing: &str, path: &std::path::Path, e: &std::io::Error) -> Failure {
        Failure::user(format!("cannot {doing} '{}': {e}", path.display()))
    }
}

/// Output to stdout: a closed pipe is silent, a full disk is not.
impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Failure {
        match e.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::user(format!("cannot write the output: {e}")),
        }
    }
}

impl From<trtc_runtime::Error> for Failure {
    fn from(e: trtc_runtime::Error) -> Failure {
        use trtc_runtime::error::Fault;
        let exit = match e.fault {
            Fault::User => Exit::User,
            Fault::Unsupported => Exit::Unsupported,
            Fault::Bug => Exit::Bug,
        };
        let mut report = Failure::new(exit, e.message);
        if let Some(help) = e.help {
            report = report.help(help);
        }
        report
    }
}

impl From<trtc_server::TlsError> for Failure {
    fn from(e: trtc_server::TlsError) -> Failure {
        Failure::user(e.to_string()).help(e.help())
    }
}

impl From<trtc_server::ServerError> for Failure {
    fn from(e: trtc_server::ServerError) -> Failure {
        use trtc_server::ServerError;
        let report = match e {
            ServerError::Stuck(_) => Failure::bug(e.to_string()),
            _ => Failure::user(e.to_string()),
        };
        match &e {
            ServerError::Bind { .. } => {
                report.help("give another --port or --host; --port 0 takes any that is free")
            }
            ServerError::Tls(e) => report.help(e.help()),
            ServerError::Models(_) => report.help("give engines as NAME=ENGINE, each with a name of its own"),
            ServerError::Start(_) | ServerError::Stuck(_) => report,
        }
    }
}

impl From<trtc_engine::EngineError> for Failure {
    fn from(e: trtc_engine::EngineError) -> Failure {
        use trtc_engine::Fault;
        let exit = match e.fault() {
            Fault::User => Exit::User,
            Fault::Unsupported => Exit::Unsupported,
            Fault::Bug => Exit::Bug,
        };
        let report = Failure::new(exit, e.to_string());
        match e.help() {
            Some(help) => report.help(help),
            None => report,
        }
    }
}

#[cfg(feature = "compiler")]
impl From<trtc_ir::Diag> for Report {
    fn from(d: trtc_ir::Diag) -> Report {
        let exit = match d.fault {
            trtc_ir::Fault::User => Exit::User,
            trtc_ir::Fault::Unsupported => Exit::Unsupported,
            trtc_ir::Fault::Bug => Exit::Bug,
        };
        let loc = match &d.loc {
            trtc_ir::Loc::Unknown => None,
            trtc_ir::Loc::File { path, line, col } => Some(format!("{path}:{line}:{col}")),
            trtc_ir::Loc::Name(name) => Some(name.clone()),
            fused => Some(fused.to_string()),
        };
        Report { exit, message: d.message, loc, notes: d.notes, help: d.help }
    }
}

#[cfg(feature = "compiler")]
impl From<trtc_ir::Diag> for Failure {
    fn from(d: trtc_ir::Diag) -> Failure {
        Failure::Reports(vec![d.into()])
    }
}

#[cfg(feature = "compiler")]
impl From<Vec<trtc_ir::Diag>> for Failure {
    fn from(found: Vec<trtc_ir::Diag>) -> Failure {
        Failure::Reports(found.into_iter().map(Report::from).collect())
    }
}

/// The report of a panic: always our own fault.
pub fn panicked(info: &std::panic::PanicHookInfo<'_>) -> Report {
    let payload = info.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    Report {
        exit: Exit::Bug,
        message: text.unwrap_or("a panic without a message").to_owned(),
        loc: info.location().map(ToString::to_string),
        notes: Vec::new(),
        help: None,
    }
}

/// ANSI codes, or nothing.
struct Paint(bool);

impl Paint {
    fn code(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The text of a report, with or without colours.
pub fn text(report: &Report, colours: bool) -> String {
    let paint = Paint(colours);
    let (kind, colour) = match report.exit {
        Exit::User => ("error", "1;31"),
        Exit::Unsupported => ("unsupported", "1;33"),
        Exit::Bug => ("internal error", "1;35"),
    };
    let mut out =
        format!("{} {}\n", paint.code(colour, &format!("{kind}:")), paint.code("1", &report.message));
    let mut line = |mark: &str, text: &str| {
        // Continuation lines stand under the first.
        let text = text.replace('\n', "\n        ");
        let _ = writeln!(out, "  {} {text}", paint.code("1;34", mark));
    };
    if let Some(loc) = &report.loc {
        line("-->", loc);
    }
    for note in &report.notes {
        line("note:", note);
    }
    match (&report.help, report.exit) {
        (Some(help), _) => line("help:", help),
        (None, Exit::Bug) => {
            line("help:", "this is a fault in trtc: please report it with the command and this message")
        }
        (None, _) => {}
    }
    out
}

/// Says it on stderr. A stderr that cannot be written to changes nothing about the exit code.
pub fn print(report: &Report) {
    let stderr = std::io::stderr();
    let text = text(report, crate::env::colours(&stderr));
    let _ = stderr.lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            exit: Exit::User,
            message: "no such file".to_owned(),
            loc: Some("a.mlir:1:2".to_owned()),
            notes: vec!["one\ntwo".to_owned()],
            help: Some("give another".to_owned()),
        }
    }

    #[test]
    fn plain_text_has_every_part_in_order() {
        let want = "error: no such file\n  --> a.mlir:1:2\n  note: one\n        two\n  help: give another\n";
        assert_eq!(text(&report(), false), want);
    }

    #[test]
    fn colours_only_when_asked() {
        assert!(text(&report(), true).contains("\x1b[1;31merror:\x1b[0m"));
        assert!(!text(&report(), false).contains('\x1b'));
    }

    #[test]
    fn our_own_faults_ask_for_a_report() {
        let bug = Report { exit: Exit::Bug, help: None, ..report() };
        assert!(text(&bug, false).starts_with("internal error: "));
        assert!(text(&bug, false).contains("please report it"));
    }

    #[test]
    fn closed_pipe_is_no_report() {
        let e = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::from(e), Failure::Closed));
    }
}
