//! What a decode step costs the host: planning, filling buffers, launching, reading tokens, text and events, on a device
//! that computes nothing.
//!
//! Time is the thread's own: what others take on a machine that is shared does not count, but for what they do to caches.
//! The figures to hold: 50 microseconds at 256 requests, 10 at one.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::time::Duration;
use trtc_benches::clock::thread_time;
use trtc_benches::steady::{STEPS, Steady, Wants};
use trtc_runtime::Events;

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode step");
    for wants in [Wants::Tokens, Wants::Text, Wants::All] {
        for requests in [1, 64, 256] {
            let mut steady = Steady::new(requests, wants).expect("the engine is loaded");
            let mut events = Events::new();
            let id = BenchmarkId::new(format!("{wants:?}"), requests);
            group.bench_function(id, |b| {
                b.iter_custom(|iterations| {
                    let mut time = Duration::ZERO;
                    let mut left = iterations;
                    while left > 0 {
                        let count = left.min(u64::from(STEPS));
                        steady.begin().expect("requests run");
                        let begin = thread_time();
                        for _ in 0..count {
                            steady.engine.step_into(&mut events).expect("steps do not fail");
                            events.drain().for_each(|event| drop(std::hint::black_box(event)));
                        }
                        time += thread_time() - begin;
                        left -= count;
                    }
                    time
                });
            });
        }
    }
    group.finish();
}

criterion_group!(host_loop, steps);
criterion_main!(host_loop);
