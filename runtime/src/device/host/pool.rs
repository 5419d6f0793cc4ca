//! A small pool of threads for work that lasts microseconds: the threads spin for a while before they sleep.
//!
//! One job at a time, started by the owner, who takes part in it. Which thread does what never changes a result.

use crate::error::Error;
use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Most threads: what the count of those that have joined can hold, with room to spare.
const MOST: usize = 1 << 12;

/// Pauses before an idle thread sleeps: some 50 microseconds, longer than the gap between two launches of a step.
const SPINS: u32 = 3000;

/// Pauses before the owner, waiting for the others, lets other processes run.
const OWNER_SPINS: u32 = 3000;

/// Keeps a value on cache lines of its own.
#[repr(align(128))]
struct Padded<T>(T);

/// A job with its lifetime erased; it is used only while [`Pool::split`] waits.
type Job = *const (dyn Fn(usize) + Sync);

/// In [`Shared::state`]: set while a job may be joined. Below it is the number of threads that have joined and not
/// finished, above it the number of the job.
const OPEN: u64 = 1 << 16;

struct Shared {
    /// Number of the job, whether it may be joined, and who has.
    state: Padded<AtomicU64>,
    /// The job, written while nobody has joined and nobody may.
    job: UnsafeCell<Option<Job>>,
    /// Asks the threads to end.
    stop: AtomicBool,
    /// What a job panicked with.
    panic: Mutex<Option<String>>,
    /// Which threads sleep.
    sleeping: Vec<Padded<AtomicBool>>,
    /// For each thread, the owner first, the next item of its share.
    cursors: Vec<Padded<AtomicUsize>>,
}

// SAFETY: `job` is written only by the owner while the job is closed and nobody has joined; threads read it only
// between joining an open job and leaving it.
unsafe impl Sync for Shared {}
// SAFETY: the job pointer refers to a `Sync` closure.
unsafe impl Send for Shared {}

/// The threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// Runs of items, as a thread comes to them.
pub type Runs<'a> = dyn Iterator<Item = Range<usize>> + 'a;

impl Pool {
    /// A pool in which `threads` threads work, the caller's included.
    pub fn new(threads: usize) -> Result<Pool, Error> {
        let others = threads.clamp(1, MOST) - 1;
        let shared = Arc::new(Shared {
            state: Padded(AtomicU64::new(0)),
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

    /// Calls `job(thread, items)` for runs of at most `grain` of `0..items`, as [`Pool::share`] gives them out.
    pub fn split(
        &mut self,
        items: usize,
        grain: usize,
        job: &(dyn Fn(usize, Range<usize>) + Sync),
    ) -> Result<(), Error> {
        self.share(items, grain, &|thread, runs| runs.for_each(|items| job(thread, items)))
    }

    /// Calls `job(thread, runs)` once on each thread that takes part, with all runs that the thread gets: runs of at
    /// most `grain` of `0..items`; waits until all are done. Each thread takes its own contiguous share from the
    /// front, then what is left of the others'; nobody waits for a thread that comes too late to find any. Few items
    /// are done on the caller's thread. A panic becomes an error.
    pub fn share(
        &mut self,
        items: usize,
        grain: usize,
        job: &(dyn Fn(usize, &mut Runs<'_>) + Sync),
    ) -> Result<(), Error> {
        let (grain, threads) = (grain.max(1), self.threads());
        if items <= grain || threads == 1 {
            return catch_unwind(AssertUnwindSafe(|| {
                job(0, &mut (0..items).step_by(grain).map(|i| i..(i + grain).min(items)));
            }))
            .map_err(|p| panicked(&text(&*p)));
        }
        let share = |t: usize| t * items / threads;
        for (t, cursor) in self.shared.cursors.iter().enumerate() {
            cursor.0.store(share(t), Ordering::Relaxed);
        }
        let cursors = &self.shared.cursors;
        self.run(&|thread| {
            let mut runs = (thread..threads).chain(0..thread).flat_map(|t| {
                let end = share(t + 1);
                std::iter::from_fn(move || {
                    let from = cursors[t].0.fetch_add(grain, Ordering::Relaxed);
                    (from < end).then(|| from..(from + grain).min(end))
                })
            });
            job(thread, &mut runs);
        })
    }

    /// Calls `job` with the owner's index, and with those of the threads that join before the owner is done.
    fn run(&self, job: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; this function does not return before every thread is done with it.
        let erased = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        // SAFETY: the job before is closed and everybody has left it (see `Shared`).
        unsafe { *shared.job.get() = Some(erased) };
        let number = shared.state.0.load(Ordering::Relaxed) / (2 * OPEN) + 1;
        shared.state.0.store((number * 2 * OPEN) | OPEN, Ordering::SeqCst);
        self.wake();
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        let mut joined = shared.state.0.fetch_and(!OPEN, Ordering::AcqRel) % OPEN;
        let mut spins = 0u32;
        while joined != 0 {
            spins += 1;
            if spins < OWNER_SPINS {
                std::hint::spin_loop()
            } else {
                std::thread::yield_now()
            }
            joined = shared.state.0.load(Ordering::Acquire) % OPEN;
        }
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (own, theirs) {
            (Ok(()), None) => Ok(()),
            (Err(p), _) => Err(panicked(&text(&*p))),
            (Ok(()), Some(message)) => Err(panicked(&message)),
        }
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
        // A new number without an open job: whoever waits for a change looks around.
        self.shared.state.0.fetch_add(2 * OPEN, Ordering::SeqCst);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of jobs, so there is nothing to report.
            let _ = worker.join();
        }
    }
}

/// A thread's life.
fn work(shared: &Shared, index: usize) {
    // The number of the last job seen.
    let mut seen = 0;
    let mut spins = 0u32;
    while !shared.stop.load(Ordering::Relaxed) {
        let state = shared.state.0.load(Ordering::Acquire);
        if state / (2 * OPEN) == seen {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            // The owner changes the state before it reads `sleeping`, so one of the two sees the other.
            shared.sleeping[index].0.store(true, Ordering::SeqCst);
            if shared.state.0.load(Ordering::SeqCst) / (2 * OPEN) == seen {
                std::thread::park();
            }
            shared.sleeping[index].0.store(false, Ordering::SeqCst);
            continue;
        }
        spins = 0;
        if state & OPEN == 0 {
            seen = state / (2 * OPEN);
            continue;
        }
        if shared.state.0.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue;
        }
        seen = state / (2 * OPEN);
        // SAFETY: this thread has joined an open job, so the owner has written it and waits.
        if let Some(job) = unsafe { *shared.job.get() } {
            // SAFETY: the closure lives until everybody has left the job.
            let job = unsafe { &*job };
            if let Err(p) = catch_unwind(AssertUnwindSafe(|| job(index + 1))) {
                *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(text(&*p));
            }
        }
        shared.state.0.fetch_sub(1, Ordering::Release);
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
    fn a_thread_gets_all_its_runs_in_one_call() {
        for threads in [1, 3] {
            let mut pool = Pool::new(threads).unwrap();
            let (calls, done) = ([const { AtomicUsize::new(0) }; 3], AtomicUsize::new(0));
            pool.share(1000, 7, &|thread, runs| {
                calls[thread].fetch_add(1, Ordering::Relaxed);
                runs.for_each(|run| _ = done.fetch_add(run.len(), Ordering::Relaxed));
            })
            .unwrap();
            assert_eq!(done.load(Ordering::Relaxed), 1000);
            assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) <= 1));
            assert_eq!(calls[0].load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_goes_on() {
        for threads in [1, 3] {
            let mut pool = Pool::new(threads).unwrap();
            for bad in [0, 17, 99] {
                let err =
                    pool.split(100, 1, &|_, r| assert!(r.start != bad, "item {bad} fails")).unwrap_err();
                assert!(err.message.contains(&format!("item {bad} fails")), "{}", err.message);
                let n = AtomicUsize::new(0);
                let count = |_, r: Range<usize>| {
                    n.fetch_add(r.len(), Ordering::Relaxed);
                };
                pool.split(100, 1, &count).unwrap();
                assert_eq!(n.load(Ordering::Relaxed), 100);
            }
        }
    }

    #[test]
    fn all_threads_take_part_even_after_a_sleep() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let seen = [const { AtomicUsize::new(0) }; 3];
            // Items end when every thread has come, so a thread that never wakes is a test that never ends.
            let come = |t: usize, _| {
                seen[t].fetch_add(1, Ordering::SeqCst);
                while seen.iter().any(|s| s.load(Ordering::SeqCst) == 0) {
                    std::thread::yield_now();
                }
            };
            pool.split(3, 1, &come).unwrap();
        }
    }

    #[test]
    fn there_is_at_least_one_core() {
        assert!(cores() >= 1);
    }
}
