//! How many files a process may have open, to which connections count.

/// Raises the limit as far as the system lets a process do by itself. Where it does not, connections fail one by one and
/// say so.
pub fn raise() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for the call, which fills it in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the structure is valid and initialised; the limit is this process's own.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_limit_is_as_high_as_it_can_be() {
        super::raise();
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 1 };
        // SAFETY: the structure is valid for the call, which fills it in.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
        assert_eq!(limit.rlim_cur, limit.rlim_max);
    }
}
