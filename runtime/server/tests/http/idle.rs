//! Many streams that wait cost little memory. Measured in a process of its own, as memory is the process's.

use super::client;
use super::support::*;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};
use trtc_server::{Bounds, Config};

const STREAMS: u32 = 2000;
/// For all of them, KiB.
const MOST: u64 = 50_000;

/// Tells the process that the test starts that it is the one to measure.
const ALONE: &str = "TRTC_TEST_IDLE_ALONE";

#[test]
fn two_thousand_streams_that_wait_take_less_than_fifty_megabytes() {
    if std::env::var_os(ALONE).is_some() {
        return measure();
    }
    let name = "idle::two_thousand_streams_that_wait_take_less_than_fifty_megabytes";
    let mut alone = Command::new(std::env::current_exe().unwrap());
    let out = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let said = out.status.success() && text.contains("streams that wait: ") && text.contains("1 passed");
    assert!(said, "{text}{}", String::from_utf8_lossy(&out.stderr));
    print!("{text}");
}

/// Resident memory of this process, KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A connection is two files here.
fn raise_the_limit_of_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for both calls; the limit is this process's own.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    assert!(limit.rlim_cur > 2 * u64::from(STREAMS) + 100, "too few files: {}", limit.rlim_cur);
}

/// Reads a stream until it has this in it.
fn read_until(stream: &mut TcpStream, what: &str) {
    let mut text = Vec::new();
    let mut part = [0; 512];
    while !text.windows(what.len()).any(|w| w == what.as_bytes()) {
        let n = stream.read(&mut part).unwrap();
        assert!(n > 0, "no {what:?} in {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&part[..n]);
    }
}

fn measure() {
    raise_the_limit_of_files();
    let queue = Bounds { answers: 4096, tokens: 1 << 22, wait: None };
    let server = start(Config { queue, keep_alive: Duration::from_millis(500), ..config() });
    server.control.pause(Duration::from_millis(500));
    let chat = json!({ "messages": [{ "role": "user", "content": "w5 ".repeat(30) }], "max_tokens": 60, "stream": true,
        "ignore_eos": true, "stream_options": { "include_usage": true } });
    let bytes = client::request("POST", "/v1/chat/completions", &[], &chat.to_string());
    let open = || {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(&bytes).unwrap();
        stream
    };
    // All places of the engine and some of the queue, so that whatever is made once is made.
    let _first: Vec<TcpStream> = (0..50).map(|_| open()).collect();
    server.await_metric("trtc_num_requests_running{model=\"tiny\"}", f64::from(BATCH));
    let (before, begin) = (resident(), Instant::now());
    let mut streams: Vec<TcpStream> = (0..STREAMS).map(|_| open()).collect();
    // Each has its head, and a comment that keeps it open.
    streams.iter_mut().for_each(|s| read_until(s, ": waiting"));
    let waiting = server.metric("trtc_queue_requests{model=\"tiny\"}");
    assert!(waiting >= f64::from(STREAMS), "{waiting} wait");
    let grown = resident().saturating_sub(before);
    println!("{STREAMS} streams that wait: {grown} KiB, opened in {:?}", begin.elapsed());
    assert!(grown < MOST, "{STREAMS} streams take {grown} KiB");
    drop(streams);
    server.control.pause(Duration::ZERO);
}
