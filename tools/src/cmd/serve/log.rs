//! The log of `trtc serve` on stderr. What a line says is the server's business.

use crate::render::Failure;
use clap::ValueEnum;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use trtc_server::Entry;

/// Lines of the log that may wait for a slow reader of stderr; more are dropped, and it is told how many.
const LINES: usize = 4096;

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Auto,
    Text,
    Json,
    None,
}

/// Where lines go: to a thread that writes them, so that a reader of stderr who is slow delays no answer.
pub struct Lines {
    json: bool,
    /// None ends the thread.
    sender: SyncSender<Option<String>>,
    /// Lines for which there was no room since one was told of.
    dropped: AtomicU64,
}

/// The log, and the thread that writes it.
pub struct Writer {
    pub lines: Arc<Lines>,
    thread: JoinHandle<()>,
}

impl Lines {
    /// Writes a line, or counts it if there is no room.
    pub fn put(&self, entry: &Entry) {
        let line = |entry: &Entry| match self.json {
            true => serde_json::to_string(entry).unwrap_or_default(),
            false => entry.to_string(),
        };
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message = format!("{lost} lines of the log were dropped");
            let note = Entry::Note { time_ms: 0, message };
            if self.sender.try_send(Some(line(&note))).is_err() {
                self.dropped.fetch_add(lost, Ordering::Relaxed);
            }
        }
        if self.sender.try_send(Some(line(entry))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The log of a format; none if nothing is to be written.
pub fn log(format: Format) -> Result<Option<Writer>, Failure> {
    let json = match format {
        Format::None => return Ok(None),
        Format::Text => false,
        Format::Json => true,
        Format::Auto => !std::io::stderr().is_terminal(),
    };
    let (sender, lines) = sync_channel::<Option<String>>(LINES);
    let write = move || {
        for line in lines.iter().map_while(|line| line) {
            // A stderr that nobody reads changes nothing about the answers.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        }
    };
    let thread = std::thread::Builder::new().name("log".to_owned()).spawn(write);
    let thread = thread.map_err(|e| Failure::user(format!("cannot start a thread for the log: {e}")))?;
    Ok(Some(Writer { lines: Arc::new(Lines { json, sender, dropped: AtomicU64::new(0) }), thread }))
}

impl Writer {
    /// Lets the last lines out, unless nobody reads them.
    pub fn close(&self) {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut told = false;
        while !self.thread.is_finished() && Instant::now() < deadline {
            told = told || self.lines.sender.try_send(None).is_ok();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_nobody_reads_are_dropped_and_counted() {
        let (sender, lines) = sync_channel(1);
        let log = |json| Lines { json, sender: sender.clone(), dropped: AtomicU64::new(2) };
        let note = |message: &str| Entry::Note { time_ms: 1, message: message.to_owned() };
        let text = log(false);
        text.put(&note("first"));
        assert_eq!(lines.try_recv(), Ok(Some("2 lines of the log were dropped".to_owned())));
        assert_eq!(text.dropped.load(Ordering::Relaxed), 1, "there was room for one");
        let json = log(true);
        json.dropped.store(0, Ordering::Relaxed);
        json.put(&note("second"));
        assert_eq!(lines.try_recv(), Ok(Some(r#"{"time_ms":1,"message":"second"}"#.to_owned())));
        assert!(lines.try_recv().is_err());
    }
}
