//! The end: what runs may finish, what is new is refused, what takes too long is cut.

use super::support::*;
use serde_json::json;
use std::time::{Duration, Instant};
use trtc_server::{Config, Ended, Listener, ServerError};

#[test]
fn running_requests_end_and_new_ones_are_refused() {
    let mut server = start(config());
    server.control.pause(Duration::from_millis(5));
    let body = json!({ "prompt": "w1", "max_tokens": 100, "ignore_eos": true, "stream": true });
    let mut streams: Vec<_> = (0..8).map(|_| server.open("/v1/completions", &body)).collect();
    streams.iter_mut().for_each(|s| drop(s.event(&mut 0).unwrap()));
    server.handle.drain();
    server.get("/ready").fails(503, "server_error", None, None);
    server.get("/health").ok();
    server.post("/v1/completions", &body).fails(503, "server_error", None, None);
    for stream in streams {
        // The first was read before.
        assert_eq!(stream.events().len(), 100, "tokens but the first, and the last chunk");
    }
    assert_eq!(server.ended().unwrap(), Ended { cut: 0 });
    assert!(std::net::TcpStream::connect(server.address).is_err(), "nobody listens any more");
}

#[test]
fn what_takes_longer_than_it_may_is_cut_and_told() {
    let mut server = start(Config { drain_timeout: Duration::from_millis(300), ..config() });
    server.control.pause(Duration::from_millis(50));
    let body = json!({ "prompt": "w1", "max_tokens": 120, "ignore_eos": true, "stream": true });
    let stream = server.open("/v1/completions", &body);
    let begin = Instant::now();
    server.handle.drain();
    let events = stream.events();
    assert_eq!(events.last().unwrap()["error"]["type"], "server_error");
    assert_eq!(server.ended().unwrap(), Ended { cut: 1 });
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[test]
fn an_idle_server_with_open_connections_ends_at_once() {
    let mut server = start(config());
    let idle: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(server.address).unwrap()).collect();
    server.await_metric("trtc_http_connections", 4.0);
    let begin = Instant::now();
    server.handle.drain();
    assert_eq!(server.ended().unwrap(), Ended { cut: 0 });
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    drop(idle);
}

#[test]
fn many_who_come_at_once_are_let_in_before_anybody_looks() {
    // More than the standard library has room for; nobody takes them yet.
    const MANY: usize = 300;
    let engines = vec![("tiny".to_owned(), engine(&std::sync::Arc::default()))];
    let server = Listener::bind(config()).unwrap().serve(engines, None, std::sync::Arc::new(|_| ())).unwrap();
    let address = server.address().unwrap();
    // Who finds no room tries again after a second.
    let most = Duration::from_millis(900);
    let connect = |_| std::net::TcpStream::connect_timeout(&address, most).unwrap();
    let inside: Vec<_> = (0..MANY).map(connect).collect();
    assert_eq!(inside.len(), MANY);
    server.handle().drain();
    assert_eq!(server.run().unwrap(), Ended { cut: 0 });
}

#[test]
fn addresses_and_names_are_taken_once() {
    let server = start(config());
    let taken = Listener::bind(Config { address: server.address, ..config() });
    assert!(matches!(taken, Err(ServerError::Bind { .. })));
    let none = Listener::bind(config()).unwrap().serve(Vec::new(), None, std::sync::Arc::new(|_| ()));
    assert!(matches!(none, Err(ServerError::Models(_))));
    let twice = (0..2).map(|_| ("a".to_owned(), engine(&server.control))).collect();
    let twice = Listener::bind(config()).unwrap().serve(twice, None, std::sync::Arc::new(|_| ()));
    assert!(matches!(twice, Err(ServerError::Models(what)) if what.contains("\"a\"")));
}
