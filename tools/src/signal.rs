//! Ctrl-C while an answer is being written: asks it to stop, instead of ending the process.
//!
//! While no [`Watch`] lives, Ctrl-C does what it always does.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the handler, read by [`Watch::fired`].
static FIRED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_interrupt(_signal: libc::c_int) {
    FIRED.store(true, Ordering::Relaxed);
}

/// Catches Ctrl-C as long as it lives.
pub struct Watch(());

impl Watch {
    /// Begins to catch.
    pub fn new() -> Watch {
        FIRED.store(false, Ordering::Relaxed);
        let handler: extern "C" fn(libc::c_int) = on_interrupt;
        // SAFETY: the handler only stores to an atomic, which is safe in a signal handler.
        unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
        Watch(())
    }

    /// True once Ctrl-C was pressed.
    pub fn fired(&self) -> bool {
        FIRED.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: restores the default action; no memory is involved.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_caught_once_per_watch() {
        let watch = Watch::new();
        assert!(!watch.fired());
        // SAFETY: raises a signal whose handler is installed above.
        unsafe { libc::raise(libc::SIGINT) };
        assert!(watch.fired());
        drop(watch);
        assert!(!Watch::new().fired());
    }
}
