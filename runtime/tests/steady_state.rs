//! Decode steps of the scheduler allocate nothing. In a binary of its own: it counts every allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use trtc_engine::manifest::Dims;
use trtc_runtime::kv::KvPool;
use trtc_runtime::sched::{NewSequence, Plan, Scheduler};

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

fn allocations() -> usize {
    COUNT.with(Cell::get)
}

/// One step; every complete sequence gets a token.
fn step(s: &mut Scheduler, plan: &mut Plan, token: u32) {
    s.schedule(plan);
    s.commit(plan);
    for chunk in &plan.chunks {
        if s.sequence(chunk.seq).is_some_and(|q| q.complete()) {
            s.push(chunk.seq, token + chunk.seq.0);
        }
    }
}

fn decode_steps(pages: u32, prefix_cache: bool) -> (usize, u64) {
    let limits = Dims { max_batch: 8, max_seq_len: 4096, max_step_tokens: 64, max_logit_rows: 8 };
    let mut s = Scheduler::new(limits, KvPool::new(pages, 16, prefix_cache));
    let mut plan = Plan::new(&limits);
    for i in 0..8 {
        let tokens = vec![i; 20];
        s.add(NewSequence { tokens, max_len: 2048, priority: 0, all_logits: false, leader: None }).unwrap();
    }
    let mut token = 0;
    while !(plan.chunks.len() == 8 && plan.decode_only()) {
        step(&mut s, &mut plan, token);
        token += 8;
    }
    // Over many ends of pages: growing, publishing and giving up idle pages are part of it.
    let before = allocations();
    for _ in 0..1000 {
        step(&mut s, &mut plan, token);
        assert!(plan.decode_only() && plan.chunks.len() == 8);
        token += 8;
    }
    (allocations() - before, u64::from(s.pool().held()))
}

#[test]
fn decode_steps_do_not_allocate() {
    assert!(allocations() > 0, "the counter counts");
    for prefix_cache in [true, false] {
        let (count, held) = decode_steps(1024, prefix_cache);
        assert!(held >= 8 * 63, "pages were taken meanwhile: {held}");
        assert_eq!(count, 0, "prefix cache: {prefix_cache}");
    }
}

/// Sequences that come and go, and lose their pages, need memory only when they come.
#[test]
fn preemption_does_not_allocate() {
    let limits = Dims { max_batch: 4, max_seq_len: 256, max_step_tokens: 64, max_logit_rows: 8 };
    let mut s = Scheduler::new(limits, KvPool::new(24, 8, true));
    let mut plan = Plan::new(&limits);
    for i in 0..4 {
        let tokens = vec![i; 8];
        s.add(NewSequence { tokens, max_len: 160, priority: 0, all_logits: false, leader: None }).unwrap();
    }
    let (mut preempted, mut counted, mut token) = (0, 0, 0);
    while !s.is_idle() {
        let before = allocations();
        s.schedule(&mut plan);
        s.commit(&plan);
        for chunk in &plan.chunks {
            let Some(seq) = s.sequence(chunk.seq).filter(|q| q.complete()) else {
                continue;
            };
            token += 1;
            if seq.tokens().len() + 1 < 160 { s.push(chunk.seq, token) } else { s.remove(chunk.seq) }
        }
        counted += allocations() - before;
        preempted += plan.preempted;
    }
    assert!(preempted > 2, "{preempted}");
    assert_eq!(counted, 0);
}
