//! Ctrl-C while an answer is being written: asks it to stop, instead of ending the process. And what tells a server to
//! end: [`on_end`].
//!
//! While no [`Watch`] lives and nobody called [`on_end`], signals do what they always do.

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

/// Tells `told` of each Ctrl-C and each request to end (SIGINT, SIGTERM), on a thread of its own, for as long as the
/// process lives. To be called before other threads are started: they inherit that these signals are not theirs.
pub fn on_end(told: impl Fn(libc::c_int) + Send + 'static) -> std::io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised by `sigemptyset` before anything reads it; both signals exist.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        set.assume_init()
    };
    // SAFETY: the set is a valid one, and the old mask is not asked for.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if blocked != 0 {
        return Err(std::io::Error::from_raw_os_error(blocked));
    }
    let wait = move || {
        loop {
            let mut signal = 0;
            // SAFETY: both are valid for the call; the signals are blocked in this thread, which inherited the mask.
            if unsafe { libc::sigwait(&set, &mut signal) } == 0 {
                told(signal);
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

/// Ends the process at once, as a signal would have.
pub fn end_now(signal: libc::c_int) -> ! {
    // SAFETY: runs nothing of this process any more.
    unsafe { libc::_exit(128 + signal) }
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
