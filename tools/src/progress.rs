//! Progress of long work: a bar on a terminal, nothing in a pipe.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar on stderr, or nothing.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar for `total` units of `what`.
    pub fn new(what: &str, total: u64) -> Bar {
        Bar::styled(what, total, "{msg:12} {wide_bar} {pos}/{len} {eta}")
    }

    /// A bar for `total` bytes.
    #[cfg(feature = "compiler")]
    pub fn bytes(what: &str, total: u64) -> Bar {
        Bar::styled(what, total, "{msg:12} {wide_bar} {bytes}/{total_bytes} {eta}")
    }

    fn styled(what: &str, total: u64, template: &str) -> Bar {
        let stderr = std::io::stderr();
        let target =
            if stderr.is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Bar(bar)
    }

    /// `n` more units are done.
    pub fn advance(&self, n: u64) {
        self.0.inc(n);
    }

    /// This many units are done, of so many.
    #[cfg(feature = "compiler")]
    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
