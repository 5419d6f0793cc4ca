//! The time that a thread has executed: what other programs on the machine take does not count.

use std::time::Duration;

/// As the system's C library has it on every 64-bit Linux.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// CLOCK_THREAD_CPUTIME_ID.
const THREAD: i32 = 3;

unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
}

/// Time that this thread has executed so far.
pub fn thread_time() -> Duration {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the struct is what the function fills, and is valid whatever it does.
    unsafe { clock_gettime(THREAD, &mut time) };
    Duration::new(time.seconds as u64, time.nanoseconds as u32)
}
