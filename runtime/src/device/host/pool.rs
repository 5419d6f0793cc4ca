//! A small pool of threads for work that lasts microseconds: the threads spin for a while before they sleep.
//!
//! One job at a time, started by the owner, who takes part in it. Which thread does what never changes a result.

use crate::error::Error;
use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Pauses before an idle thread sleeps: about a fifth of a millisecond, longer than the gap between two launches.
const SPINS: u32 = 10_000;

/// Pauses before the owner, waiting for the others, lets other processes run.
const OWNER_SPINS: u32 = 20_000;

/// Keeps a value on cache lines of its own.
#[repr(align(128))]
struct Padded<T>(T);

/// A job with its lifetime erased; it is used only while [`Pool::run`] waits.
type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Counts jobs; a change starts one.
    epoch: Padded<AtomicU32>,
    /// Threads that have not finished the job.
    pending: Padded<AtomicUsize>,
    /// The job, written while `pending` is 0.
    job: UnsafeCell<Option<Job>>,
    /// Asks the threads to end.
    stop: AtomicBool,
    /// What a job panicked with.
    panic: Mutex<Option<String>>,
    /// Which threads sleep.
    sleeping: Vec<Padded<AtomicBool>>,
    /// For each thread, the owner first, the next item of its share in [`Pool::split`].
    cursors: Vec<Padded<AtomicUsize>>,
}

// SAFETY: `job` is written only by the owner while no thread reads it: threads read it after they have seen a new
// epoch and before they lower `pending`, and the owner writes it when `pending` is 0.
unsafe impl Sync for Shared {}
// SAFETY: the job pointer refers to a `Sync` closure.
unsafe impl Send for Shared {}

/// The threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool in which `threads` threads work, the caller's included.
    pub fn new(threads: usize) -> Result<Pool, Error> {
        let others = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: Padded(AtomicU32::new(0)),
            pending: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleeping: (0..others).map(|_| Padded(AtomicBool::new(false))).collect(),
            cursors: (0..=others).map(|_| Padded(AtomicUsize::new(0))).collect(),
        });
        let mut pool = Pool { shared, workers: Vec::with_capacity(others) };
        for index in 0..others {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("trtc-host-{}", index + 1))
                .spawn(move || work(&shared, index))
                .map_err(|e| {
                    Error::unsupported(format!("cannot start thread {} of {threads}: {e}", index + 2))
                        .help("use fewer threads")
                })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that work, the owner's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job` with each thread's index, at once, and waits for all. A panic becomes an error.
    pub fn run(&mut self, job: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
        if self.workers.is_empty() {
            return catch_unwind(AssertUnwindSafe(|| job(0))).map_err(|p| panicked(&text(&*p)));
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; this function does not return before every thread is done with it.
        let erased = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        // SAFETY: `pending` is 0, so no thread reads it (see `Shared`).
        unsafe { *shared.job.get() = Some(erased) };
        shared.pending.0.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        self.wake();
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        let mut spins = 0u32;
        while shared.pending.0.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < OWNER_SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (own, theirs) {
            (Ok(()), None) => Ok(()),
            (Err(p), _) => Err(panicked(&text(&*p))),
            (Ok(()), Some(message)) => Err(panicked(&message)),
        }
    }

    /// Calls `job(thread, items)` for runs of at most `grain` of `0..items`. Each thread takes its own contiguous
    /// share from the front, then what is left of the others'. Few items are done on the caller's thread.
    pub fn split(
        &mut self,
        items: usize,
        grain: usize,
        job: &(dyn Fn(usize, Range<usize>) + Sync),
    ) -> Result<(), Error> {
        let (grain, threads) = (grain.max(1), self.threads());
        if items <= grain || threads == 1 {
            return catch_unwind(AssertUnwindSafe(|| {
                (0..items).step_by(grain).for_each(|i| job(0, i..(i + grain).min(items)));
            }))
            .map_err(|p| panicked(&text(&*p)));
        }
        let share = |t: usize| t * items / threads;
        for (t, cursor) in self.shared.cursors.iter().enumerate() {
            cursor.0.store(share(t), Ordering::Relaxed);
        }
        let shared = Arc::clone(&self.shared);
        self.run(&|thread| {
            for t in (thread..threads).chain(0..thread) {
                let end = share(t + 1);
                loop {
                    let from = shared.cursors[t].0.fetch_add(grain, Ordering::Relaxed);
                    if from >= end {
                        break;
                    }
                    job(thread, from..(from + grain).min(end));
                }
            }
        })
    }

    /// Wakes the threads that sleep.
    fn wake(&self) {
        for (worker, sleeping) in self.workers.iter().zip(&self.shared.sleeping) {
            if sleeping.0.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of jobs, so there is nothing to report.
            let _ = worker.join();
        }
    }
}

/// A thread's life.
fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0u32;
        loop {
            if shared.epoch.0.load(Ordering::Acquire) != seen {
                seen = seen.wrapping_add(1);
                break;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            // The owner raises the epoch before it reads `sleeping`, so one of the two sees the other.
            shared.sleeping[index].0.store(true, Ordering::SeqCst);
            if shared.epoch.0.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            shared.sleeping[index].0.store(false, Ordering::SeqCst);
        }
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the epoch has changed, so the owner has written the job and waits for `pending`.
        if let Some(job) = unsafe { *shared.job.get() } {
            // SAFETY: the closure lives until the owner has seen `pending` at 0.
            let job = unsafe { &*job };
            if let Err(p) = catch_unwind(AssertUnwindSafe(|| job(index + 1))) {
                *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(text(&*p));
            }
        }
        shared.pending.0.fetch_sub(1, Ordering::Release);
    }
}

fn panicked(message: &str) -> Error {
    Error::bug(format!("a host kernel panicked: {message}"))
}

/// The message of a panic.
fn text(payload: &(dyn Any + Send)) -> String {
    let word = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    word.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Physical cores that this process may use.
pub fn cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(logical, |p| p.clamp(1, logical))
}

/// Distinct cores among the processors of this process's affinity mask.
#[cfg(target_os = "linux")]
fn physical_cores() -> Option<usize> {
    // SAFETY: an all-zero mask is a valid empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is the mask's own.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return None;
    }
    let id = |cpu: usize, what: &str| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/{what}")).ok()
    };
    let mut seen = std::collections::BTreeSet::new();
    for cpu in 0..8 * size_of::<libc::cpu_set_t>() {
        // SAFETY: the index is within the mask.
        if unsafe { libc::CPU_ISSET(cpu, &set) } {
            seen.insert((id(cpu, "physical_package_id")?, id(cpu, "core_id")?));
        }
    }
    Some(seen.len())
}

/// Other systems do not say; the number of logical processors is taken.
#[cfg(not(target_os = "linux"))]
fn physical_cores() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads).unwrap();
            for items in [0, 1, 2, 7, 64, 1001] {
                for grain in [1, 3, 64] {
                    let seen: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                    pool.split(items, grain, &|t, r| {
                        assert!(t < threads && r.len() <= grain);
                        r.for_each(|i| {
                            seen[i].fetch_add(1, Ordering::Relaxed);
                        });
                    })
                    .unwrap();
                    assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{threads} {items} {grain}");
                }
            }
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_goes_on() {
        let mut pool = Pool::new(3).unwrap();
        for bad in 0..3 {
            let err = pool.run(&|t| assert!(t != bad, "thread {t} fails")).unwrap_err();
            assert!(err.message.contains(&format!("thread {bad} fails")), "{}", err.message);
            let n = AtomicUsize::new(0);
            pool.run(&|_| {
                n.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(n.load(Ordering::Relaxed), 3);
        }
    }

    #[test]
    fn sleeping_threads_wake() {
        let mut pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let n = AtomicUsize::new(0);
            pool.run(&|_| {
                n.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(n.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn there_is_at_least_one_core() {
        assert!(cores() >= 1);
    }
}
