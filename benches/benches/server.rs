//! What the server adds to an engine: to the time of a first token, and to each token of many streams, over real sockets. The device
//! computes nothing, so all that is measured is the host's work, and that of the clients, who share the cores.
//!
//! The figure to hold: a first token adds less than a millisecond to the engine's.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use trtc_benches::steady::{Steady, Wants};
use trtc_runtime::{Engine, Events, Finish, Request, Sampling};
use trtc_server::api::Endpoint;
use trtc_server::api::answer::Answer;
use trtc_server::api::chunks::Chunks;
use trtc_server::api::whole::Shape;
use trtc_server::desk::Update;
use trtc_server::{Bounds, Config, Ended, Handle, Listener, ServerError};

const PROMPT: u32 = 128;
/// Of each answer of many.
const TOKENS: u32 = 128;

fn engine() -> Engine {
    Steady::new(256, Wants::Text).expect("an engine").engine
}

struct Serving {
    address: SocketAddr,
    handle: Handle,
    thread: Option<JoinHandle<Result<Ended, ServerError>>>,
}

impl Serving {
    fn new() -> Serving {
        let config = Config {
            address: ([127, 0, 0, 1], 0).into(),
            queue: Bounds { wait: None, ..Config::default().queue },
            ..Config::default()
        };
        let engines = vec![("m".to_owned(), engine())];
        let server = Listener::bind(config).and_then(|l| l.serve(engines, None, Arc::new(|_| ())));
        let server = server.expect("a server");
        let (address, handle) = (server.address().expect("an address"), server.handle());
        Serving { address, handle, thread: Some(std::thread::spawn(|| server.run())) }
    }

    fn connect(&self) -> Stream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Stream(BufReader::new(stream))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.handle.drain();
        self.thread.take().map(JoinHandle::join);
    }
}

/// A connection that is used again.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn ask(&mut self, prompt: u32, tokens: u32) {
        let ids: Vec<String> = (0..PROMPT).map(|i| ((prompt * 977 + i * 31) % 40_000).to_string()).collect();
        let body = format!(
            r#"{{"prompt":[{}],"max_tokens":{tokens},"temperature":0,"ignore_eos":true,"stream":true}}"#,
            ids.join(",")
        );
        let head =
            format!("POST /v1/completions HTTP/1.1\r\nhost: b\r\ncontent-length: {}\r\n\r\n", body.len());
        self.0.get_mut().write_all((head + &body).as_bytes()).expect("the server reads");
    }

    /// Reads to the first event, and then to the end; gives the time of the first.
    fn read(&mut self) -> Instant {
        let mut line = String::new();
        let mut next = |stream: &mut BufReader<TcpStream>| {
            line.clear();
            assert!(stream.read_line(&mut line).expect("an answer") > 0, "the connection was closed");
            line.starts_with("data: ").then(|| line.contains("[DONE]"))
        };
        while next(&mut self.0).is_none() {}
        let first = Instant::now();
        while next(&mut self.0) != Some(true) {}
        // An empty line that ends the event, the end of its chunk, and the chunk without bytes.
        self.0.read_exact(&mut [0; "\n\r\n0\r\n\r\n".len()]).expect("the end of the body");
        first
    }
}

/// An engine's first token, from the request on.
fn first_alone(engine: &mut Engine, events: &mut Events, prompt: u32) -> Duration {
    let ids = (0..PROMPT).map(|i| (prompt * 977 + i * 31) % 40_000).collect();
    let request =
        Request { max_tokens: 1, ignore_eos: true, sampling: Sampling::greedy(), ..Request::new(ids) };
    let begin = Instant::now();
    engine.submit(request).expect("a request");
    while !engine.is_idle() {
        engine.step_into(events).expect("a step");
        if events.drain().count() > 0 {
            break;
        }
    }
    let time = begin.elapsed();
    while !engine.is_idle() {
        engine.step_into(events).expect("a step");
        events.drain().for_each(drop);
    }
    time
}

fn first_token(c: &mut Criterion) {
    let mut group = c.benchmark_group("first token");
    let (mut alone, mut events, mut prompt) = (engine(), Events::new(), 0);
    let mut next = || {
        prompt += 1;
        prompt
    };
    group.bench_function("engine", |b| {
        b.iter_custom(|n| (0..n).map(|_| first_alone(&mut alone, &mut events, next())).sum());
    });
    let server = Serving::new();
    let mut stream = server.connect();
    group.bench_function("server", |b| {
        b.iter_custom(|n| {
            let one = |_| {
                let begin = Instant::now();
                stream.ask(next(), 1);
                stream.read() - begin
            };
            (0..n).map(one).sum()
        });
    });
    drop(stream);
    group.finish();
}

/// Time of a token of so many answers at once: all of it over all tokens.
fn tokens(c: &mut Criterion) {
    let mut group = c.benchmark_group("token of many");
    group.sample_size(10);
    for streams in [1, 64, 256_u32] {
        let per_token = |time: Duration| time / (streams * TOKENS);
        let (mut alone, mut events, mut prompt) = (engine(), Events::new(), 0);
        group.bench_function(BenchmarkId::new("engine", streams), |b| {
            b.iter_custom(|n| {
                let mut run = || {
                    let begin = Instant::now();
                    for _ in 0..streams {
                        prompt += 1;
                        let ids = (0..PROMPT).map(|i| (prompt * 977 + i * 31) % 40_000).collect();
                        let sampling = Sampling::greedy();
                        let request =
                            Request { max_tokens: TOKENS, ignore_eos: true, sampling, ..Request::new(ids) };
                        alone.submit(request).expect("a request");
                    }
                    while !alone.is_idle() {
                        alone.step_into(&mut events).expect("a step");
                        events.drain().for_each(drop);
                    }
                    per_token(begin.elapsed())
                };
                (0..n).map(|_| run()).sum()
            });
        });
        let server = Serving::new();
        let mut clients: Vec<Stream> = (0..streams).map(|_| server.connect()).collect();
        group.bench_function(BenchmarkId::new("server", streams), |b| {
            b.iter_custom(|n| {
                let mut run = || {
                    let begin = Instant::now();
                    std::thread::scope(|scope| {
                        for (client, i) in clients.iter_mut().zip(0..) {
                            prompt += 1;
                            client.ask(prompt + i, TOKENS);
                        }
                        clients.iter_mut().for_each(|client| drop(scope.spawn(|| client.read())));
                    });
                    per_token(begin.elapsed())
                };
                (0..n).map(|_| run()).sum()
            });
        });
        drop(clients);
    }
    group.finish();
}

/// A token made into an event.
fn event(c: &mut Criterion) {
    let mut group = c.benchmark_group("event");
    for (name, endpoint) in [("completion", Endpoint::Completions), ("chat", Endpoint::Chat)] {
        let shape = Shape {
            endpoint,
            id: format!("{}0123456789abcdef", endpoint.prefix()),
            created: 1_700_000_000,
            model: "model".into(),
            tokenizer: None,
            n: 1,
            prompts: Vec::new(),
            prompt_tokens: 7,
            echo: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            tools: None,
            asked: Default::default(),
        };
        let mut chunks = Chunks::new(shape, 1, false);
        let (part, index, token) = (0, 0, 7);
        let update = || Update::Token { part, index, token, text: " word".to_owned(), logprob: None };
        let mut out = String::new();
        group.bench_function(name, |b| {
            let take = |update| {
                out.clear();
                chunks.take(update, &mut out);
                out.len()
            };
            b.iter_batched(update, take, BatchSize::SmallInput);
        });
        chunks.take(
            Update::Done { part, index, finish: Finish::Stop, text: String::new(), cached: 0 },
            &mut out,
        );
        assert!(out.contains("stop"));
    }
    group.finish();
}

criterion_group!(benches, event, first_token, tokens);
criterion_main!(benches);
