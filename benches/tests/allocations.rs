//! Decode steps in steady state take no memory from the allocator: the scheduler, the step's buffers, launches, tokens,
//! their text, stop strings and the events that the caller takes. In a binary of its own: it counts every allocation.
//!
//! On the null device, whose own calls are counted too; what a driver takes is not seen here.
#![allow(clippy::unwrap_used, reason = "a test that cannot load its engine has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use trtc_benches::steady::{STEPS, Steady, Wants};
use trtc_runtime::{Event, Events};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread.
fn allocations() -> usize {
    COUNT.with(Cell::get)
}

/// Steps before counting: lists of events and results have grown to what a step needs.
const WARM: u32 = 32;

/// Allocations of `STEPS` decode steps of `requests` requests, with `extra` done by the caller for each token.
fn count(requests: u32, wants: Wants, mut extra: impl FnMut(&Event<&str>)) -> usize {
    let mut steady = Steady::new(requests, wants).unwrap();
    steady.begin().unwrap();
    let mut events = Events::new();
    let (mut tokens, mut bytes, mut before, mut pages) = (0, 0, 0, 0);
    for step in 0..WARM + STEPS {
        if step == WARM {
            (before, pages) = (allocations(), steady.engine.stats().pages_held);
            (tokens, bytes) = (0, 0);
        }
        steady.engine.step_into(&mut events).unwrap();
        for event in events.drain() {
            extra(&event);
            if let Event::Token { text, logprob, .. } = event {
                tokens += 1;
                bytes += text.len();
                assert_eq!(logprob.is_some(), wants == Wants::All);
            }
        }
    }
    let counted = allocations() - before;
    // What was counted is what was meant: steps of all requests, over ends of pages, with text.
    let stats = steady.engine.stats();
    assert_eq!((tokens, stats.running as u32), (requests * STEPS, requests));
    assert_eq!(stats.pages_held - pages, requests * STEPS / 64, "pages were taken meanwhile");
    assert_eq!(bytes > 0, wants != Wants::Tokens);
    counted
}

#[test]
fn steps_in_steady_state_do_not_allocate() {
    for wants in [Wants::Tokens, Wants::Text, Wants::All] {
        for requests in [1, 64, 256] {
            assert_eq!(count(requests, wants, |_| ()), 0, "{requests} requests, {wants:?}");
        }
    }
}

#[test]
fn an_allocation_is_counted() {
    let mut kept = String::new();
    let counted = count(64, Wants::Text, |event| {
        if let Event::Token { text, .. } = event {
            // One for each text that is not empty.
            kept = (*text).to_owned();
        }
    });
    assert!(counted > 64 * STEPS as usize * 9 / 10, "{counted}");
}

/// Texts that callers of [`trtc_runtime::Engine::step`] own, and the list of a step's events, are all that it allocates.
#[test]
fn owned_events_cost_their_texts() {
    let mut steady = Steady::new(64, Wants::Text).unwrap();
    steady.begin().unwrap();
    let (mut texts, mut lists) = (0, 0);
    for _ in 0..WARM {
        steady.engine.step().unwrap();
    }
    let before = allocations();
    for _ in 0..STEPS {
        let events = steady.engine.step().unwrap();
        lists += 1;
        texts += events.iter().filter(|e| matches!(e, Event::Token { text, .. } if !text.is_empty())).count();
    }
    assert_eq!(allocations() - before, texts + lists);
}
