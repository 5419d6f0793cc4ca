//! What a decode step in steady state copies: positions, contexts, draws that are drawn, pages that are new, and the
//! tokens back.
#![allow(clippy::unwrap_used, reason = "a test that cannot load its engine has failed")]

use trtc_benches::steady::{STEPS, Steady, Wants};
use trtc_runtime::Events;

/// Uploads, bytes of them, fetches and replays of `STEPS` steps of 256 requests, and the pages that were taken.
fn copies(wants: Wants) -> ([u64; 4], u64) {
    let mut steady = Steady::new(256, wants).unwrap();
    steady.begin().unwrap();
    let mut events = Events::new();
    let (before, pages) = (steady.device.read(), steady.engine.stats().pages_held);
    for _ in 0..STEPS {
        steady.engine.step_into(&mut events).unwrap();
        events.drain().for_each(drop);
    }
    let after = steady.device.read();
    (std::array::from_fn(|i| after[i] - before[i]), u64::from(steady.engine.stats().pages_held - pages))
}

#[test]
fn a_step_copies_what_changed() {
    let steps = u64::from(STEPS);
    for (wants, lists, fetches) in [(Wants::Text, 2, 1), (Wants::All, 3, 2)] {
        let ([uploads, bytes, fetched, replays], pages) = copies(wants);
        println!("{wants:?}: {:.2} uploads, {} bytes a step", uploads as f64 / steps as f64, bytes / steps);
        assert_eq!((replays, fetched), (steps, fetches * steps), "{wants:?}");
        // Pages that are new in one step and lie close together in the table are one copy.
        assert!(uploads > lists * steps && uploads <= lists * steps + pages, "{wants:?}: {uploads}, {pages}");
    }
}
