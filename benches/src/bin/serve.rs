//! Measures a running `trtc serve` as its clients see it: tokens a second, and time to the first token.
//!
//! usage: serve ADDRESS MODEL VOCAB [--requests 64] [--clients 8] [--input-len 128] [--output-len 128] [--whole] [--logprobs]
//!
//! Prompts are random token ids, the best token is taken and end-of-sequence tokens are ignored, as in
//! `trtc bench throughput`. Each client sends its next request when it has the answer to the last. The client is small
//! and knows only what this server sends.

use clap::Parser;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Args {
    /// Where the server listens, such as 127.0.0.1:8000
    address: String,
    /// The model's name
    model: String,
    /// Entries of its vocabulary
    vocab: u32,
    /// Requests in all
    #[arg(long, default_value_t = 64)]
    requests: u32,
    /// Requests at once
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 128)]
    input_len: u32,
    /// Tokens of an answer
    #[arg(long, default_value_t = 128)]
    output_len: u32,
    /// Ask for whole answers instead of streams
    #[arg(long)]
    whole: bool,
    /// Ask for log-probabilities too: then a token without text is an event of a stream as well
    #[arg(long)]
    logprobs: bool,
}

/// Seconds to the first event of an answer, and to its end.
#[derive(Clone, Copy)]
struct Times {
    first: f64,
    all: f64,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let (next, times) = (AtomicU32::new(0), Mutex::new(Vec::new()));
    let start = Instant::now();
    std::thread::scope(|scope| -> Result<(), Failure> {
        let clients: Vec<_> =
            (0..args.clients).map(|_| scope.spawn(|| client(&args, &next, &times))).collect();
        for client in clients {
            client.join().map_err(|_| "a client panicked")??;
        }
        Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let times = times.into_inner().map_err(|_| "a client panicked")?;
    let tokens = f64::from(args.requests) * f64::from(args.output_len);
    let of = |part: fn(&Times) -> f64, quantile: f64| {
        let mut values: Vec<f64> = times.iter().map(part).collect();
        values.sort_by(f64::total_cmp);
        1e3 * values[((values.len() - 1) as f64 * quantile).round() as usize]
    };
    println!(
        "{} requests of {}+{} tokens by {} clients, {}: {:.1} output tok/s; first token {:.2} ms median, {:.2} ms p90; \
         whole {:.2} ms median",
        args.requests,
        args.input_len,
        args.output_len,
        args.clients,
        if args.whole { "whole" } else { "streamed" },
        tokens / seconds,
        of(|t| t.first, 0.5),
        of(|t| t.first, 0.9),
        of(|t| t.all, 0.5),
    );
    Ok(())
}

/// A token id, by splitmix64.
fn token(state: &mut u64, vocab: u32) -> u32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % u64::from(vocab)) as u32
}

fn client(args: &Args, next: &AtomicU32, times: &Mutex<Vec<Times>>) -> Result<(), Failure> {
    let stream = TcpStream::connect(&args.address)?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= args.requests {
            return Ok(());
        }
        // No two runs have the same prompts: nothing is found in the cache.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        let mut state = now ^ (u64::from(number) << 40);
        let prompt: Vec<u32> = (0..args.input_len).map(|_| token(&mut state, args.vocab)).collect();
        let mut body = json!({
            "model": args.model, "prompt": prompt, "max_tokens": args.output_len, "temperature": 0,
            "ignore_eos": true, "stream": !args.whole,
        });
        if !args.whole {
            body["stream_options"] = json!({ "include_usage": true });
        }
        if args.logprobs {
            body["logprobs"] = 0.into();
        }
        let body = body.to_string();
        let start = Instant::now();
        let length = body.len();
        write!(
            &stream,
            "POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        let first = answer(&mut reader, args, start)?;
        let all = start.elapsed().as_secs_f64();
        times.lock().map_err(|_| "a client panicked")?.push(Times { first: first.unwrap_or(all), all });
    }
}

/// Reads an answer to its end; gives the seconds until the first event.
fn answer(reader: &mut BufReader<TcpStream>, args: &Args, start: Instant) -> Result<Option<f64>, Failure> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200 ") {
        return Err(format!("the server says {line}").into());
    }
    let mut length = None;
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line)?;
        length =
            line.strip_prefix("content-length: ").map(|n| n.trim().parse::<usize>()).transpose()?.or(length);
    }
    if let Some(length) = length {
        let mut body = vec![0; length];
        std::io::Read::read_exact(reader, &mut body)?;
        complete(&body, args)?;
        return Ok(None);
    }
    let (mut first, mut last) = (None, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err("the stream has no end".into());
        }
        if let Some(data) = line.strip_prefix("data: {") {
            first = first.or_else(|| Some(start.elapsed().as_secs_f64()));
            last = format!("{{{data}");
        }
        // The last chunk of the encoding.
        if line == "0\r\n" {
            reader.read_line(&mut line)?;
            complete(last.as_bytes(), args)?;
            return Ok(first);
        }
    }
}

/// Holds the counts of an answer to what was asked for.
fn complete(body: &[u8], args: &Args) -> Result<(), Failure> {
    let body: Value = serde_json::from_slice(body)?;
    match body["usage"]["completion_tokens"].as_u64() == Some(u64::from(args.output_len)) {
        true => Ok(()),
        false => Err(format!("the answer has other tokens than {}: {body}", args.output_len).into()),
    }
}
