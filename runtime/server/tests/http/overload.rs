//! Four times more than the engine can do: who is let in has what it would have had, others are told at once, and no less
//! is done. Steps take a set time, so nothing of it depends on the machine's speed.

use super::support::*;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use trtc_server::{Bounds, Config};

/// Of a step: far more than the small engine needs.
const STEP: Duration = Duration::from_millis(10);
/// Of an answer.
const TOKENS: u32 = 16;
/// How long a request may be expected to wait: about three answers' time.
const WAIT: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);

/// What one client saw.
struct Seen {
    status: u16,
    at: Instant,
    /// Until the head; and for an answer, until its first and last token.
    head: Duration,
    first: Duration,
    last: Duration,
}

fn ask(server: &Running, seed: u64) -> Seen {
    let at = Instant::now();
    let body =
        json!({ "prompt": [3, 4, 5 + seed % 100], "max_tokens": TOKENS, "ignore_eos": true, "stream": true });
    let mut open = server.open("/v1/completions", &body);
    let (head, mut first, mut tokens) = (at.elapsed(), Duration::ZERO, 0);
    let mut last = Duration::ZERO;
    while open.status == 200 {
        let event = open.event(&mut 0).unwrap().expect("a stream ends with [DONE]");
        if event == "[DONE]" {
            assert_eq!(tokens, TOKENS + 1, "every token, and the reason to end");
            break;
        }
        tokens += 1;
        last = at.elapsed();
        if tokens == 1 {
            first = last;
        }
    }
    Seen { status: open.status, at, head, first, last }
}

fn quantile(mut times: Vec<Duration>, q: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * q) as usize]
}

/// Answers a second that ended between two moments.
fn rate(seen: &[Seen], from: Instant, to: Instant) -> f64 {
    let ended = |s: &&Seen| s.status == 200 && (from..to).contains(&(s.at + s.last));
    seen.iter().filter(ended).count() as f64 / (to - from).as_secs_f64()
}

#[test]
fn four_times_too_much_costs_those_who_are_let_in_nothing() {
    let queue = Bounds { wait: Some(WAIT), ..config().queue };
    let server = start(Config { queue, ..config() });
    server.control.pause(STEP);

    // As much as it can do: as many clients as it has places and some that wait, each asking again and again.
    let stop = AtomicBool::new(false);
    let (begin, peak) = std::thread::scope(|scope| {
        let client = |i: u64| {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    seen.push(ask(server, i));
                }
                seen
            })
        };
        let clients: Vec<_> = (0..2 * u64::from(BATCH)).map(client).collect();
        std::thread::sleep(Duration::from_secs(1));
        let begin = Instant::now();
        std::thread::sleep(MEASURED);
        stop.store(true, Ordering::Relaxed);
        (begin, clients.into_iter().flat_map(|c| c.join().unwrap()).collect::<Vec<Seen>>())
    });
    let capacity = rate(&peak, begin, begin + MEASURED);
    assert!(peak.iter().all(|s| s.status == 200));

    // Requests come by themselves, four times as many: exponential gaps.
    let (begin, seen) = std::thread::scope(|scope| {
        let begin = Instant::now();
        let (mut clients, mut at, mut state) =
            (Vec::new(), 1.0 / (4.0 * capacity), 88_172_645_463_325_252_u64);
        while at < MEASURED.as_secs_f64() + 1.0 {
            std::thread::sleep(
                (begin + Duration::from_secs_f64(at)).saturating_duration_since(Instant::now()),
            );
            let server = &server;
            let number = clients.len() as u64;
            clients.push(scope.spawn(move || ask(server, number)));
            // Xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            at -= (1.0 - (state >> 11) as f64 / (1u64 << 53) as f64).ln() / (4.0 * capacity);
        }
        (begin, clients.into_iter().map(|c| c.join().unwrap()).collect::<Vec<Seen>>())
    });
    let second = Duration::from_secs(1);
    let goodput = rate(&seen, begin + second, begin + second + MEASURED);
    let of = |seen: &[Seen], status, f: &dyn Fn(&Seen) -> Duration| -> Vec<Duration> {
        seen.iter().filter(|s| s.status == status).map(f).collect()
    };
    let decode = |seen: &[Seen]| quantile(of(seen, 200, &|s| s.last - s.first), 0.9);
    let refusals = of(&seen, 429, &|s| s.head);
    let (refused, all) = (refusals.len(), seen.len());
    let first = quantile(of(&seen, 200, &|s| s.first), 0.99);
    let report = json!({
        "capacity": capacity, "goodput": goodput, "requests": all, "refused": refused,
        "refusal p99": format!("{:?}", quantile(refusals.clone(), 0.99)),
        "first token p99": format!("{first:?}"),
        "decode p90": format!("{:?} and {:?}", decode(&peak), decode(&seen)),
    });
    println!("{report}");
    assert_eq!(
        of(&seen, 200, &|s| s.last).len() + refused,
        all,
        "answers and refusals, nothing else: {report}"
    );
    assert!(goodput >= 0.9 * capacity, "{report}");
    assert!(refused > all / 2, "{report}");
    assert!(quantile(refusals, 0.99) < Duration::from_millis(250), "{report}");
    // The wait that was promised, the answer before, and as much again for a machine that does other things.
    assert!(first < 2 * (WAIT + STEP * TOKENS), "{report}");
    assert!(decode(&seen) < decode(&peak).mul_f64(1.25) + 2 * STEP, "{report}");
    let value: Value = server.get("/health").ok();
    assert!(value.is_object());
    server.is_empty();
}
