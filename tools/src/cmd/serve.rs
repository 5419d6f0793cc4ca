//! `trtc serve`: engines behind HTTP. Arguments, signals and output; the server itself is the crate `trtc-server`.

use crate::options::{DeviceArgs, EngineArgs, MemoryArgs, PlaceArgs, bytes, seconds, seconds_or_never};
use crate::render::Failure;
use crate::session::Session;
use crate::{descriptors, env, signal};
use clap::ValueEnum;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use trtc_server::{Bounds, Config, Entry, Files, Handle, Keys, Listener, Log, tls};

/// Lines of the log that may wait for a slow reader of stderr; more are dropped, and it is told how many.
const LINES: usize = 4096;

/// Serve engines over HTTP, as OpenAI's clients expect it
///
/// Answers POST /v1/completions, /v1/chat/completions, /tokenize, /detokenize and GET /v1/models, /health,
/// /health_generate, /ready, /version, /metrics. At / is a page to chat with a model and to watch the server. The field
/// "model" chooses the engine, and may be left out if there is one. Ctrl-C or SIGTERM: no new requests, those that run may end, then the server does; a second one ends it at once.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    trtc serve model.engine\n  \
    trtc serve small=a.engine large=b.engine --host 0.0.0.0 --port 8080 --api-key-file keys.txt\n  \
    trtc serve model.engine --host 0.0.0.0 --api-key-file keys.txt --tls-cert server.pem --tls-key server.key\n  \
    curl http://127.0.0.1:8000/v1/completions -d '{\"prompt\": \"The capital of France is\", \"max_tokens\": 8}'\n  \
    curl http://127.0.0.1:8000/v1/chat/completions -d '{\"stream\": true, \"messages\": [{\"role\": \"user\", \
    \"content\": \"Hello\"}]}'\n\n\
    Environment: TRTC_API_KEY, a key that clients must send as 'Authorization: Bearer KEY'.\n\
    The address is printed on stdout once requests are taken; the log, one line a request, goes to stderr.")]
pub struct Args {
    /// Engines, each under a name; without one it is that of the file: model.engine is model
    #[arg(value_name = "[NAME=]ENGINE", required = true, value_parser = named)]
    engines: Vec<Named>,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Address to listen at; 0.0.0.0 is all of this machine's
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = host)]
    host: IpAddr,
    /// Port to listen at; 0 takes one that is free
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// Keys that clients may send, one a line: NAME:KEY, or KEY alone. Requests of each name have their turns
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    api_key_file: Option<PathBuf>,
    /// Speak TLS (1.2 and 1.3) with this certificate, PEM; those between it and its authority behind it. It is read anew when
    /// the file changes
    #[arg(long, value_name = "FILE", help_heading = "Access", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM and without a password
    #[arg(long, value_name = "FILE", help_heading = "Access", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let in only clients with a certificate of these authorities, PEM
    #[arg(long, value_name = "FILE", help_heading = "Access", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Give /metrics to everybody, also where keys are needed
    #[arg(long, help_heading = "Access")]
    public_metrics: bool,
    /// Have no page at /. It needs no key; all that it shows does
    #[arg(long, help_heading = "Access")]
    no_page: bool,
    /// Pages of this origin may read answers, such as https://example.org; * is all. May be repeated
    #[arg(long, value_name = "ORIGIN", help_heading = "Access")]
    cors_origin: Vec<String>,
    /// Answers that may wait for a place in an engine; more are refused with 429
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Limits")]
    max_queue: u64,
    /// Tokens of prompts that may wait
    #[arg(long, value_name = "N", default_value_t = 4 << 20, help_heading = "Limits")]
    max_queue_tokens: u64,
    /// Longest body of a request, such as 512K or 32M
    #[arg(long, value_name = "BYTES", default_value = "32M", value_parser = bytes, help_heading = "Limits")]
    max_body: u64,
    /// Open connections; more wait until one is closed
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Limits")]
    max_connections: u32,
    /// How long a request may take in all, seconds; without it there is no limit, and the field "timeout" can set one
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Limits")]
    request_timeout: Option<Duration>,
    /// How long a client may take for the handshake of TLS, to send a request's head, and its body, seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds, help_heading = "Limits")]
    read_timeout: Duration,
    /// How long a client may read nothing of its answer before it is given up, seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds, help_heading = "Limits")]
    write_timeout: Duration,
    /// How long running requests may go on once the server is told to end, seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds, help_heading = "Limits")]
    drain_timeout: Duration,
    /// How long a step may take before /health says 503, seconds; 0 is never
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds_or_never, help_heading = "Limits")]
    watchdog: Never,
    /// End the server then, with exit code 3
    #[arg(long, help_heading = "Limits")]
    watchdog_exit: bool,
    /// Lines of the log: auto is text on a terminal and JSON elsewhere
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    log_format: Format,
}

/// A time, or none; clap takes an `Option` of its own for an argument that may be left out.
type Never = std::option::Option<Duration>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Auto,
    Text,
    Json,
    None,
}

/// An engine and its name.
#[derive(Clone, Debug, PartialEq)]
struct Named {
    name: String,
    path: PathBuf,
}

/// `NAME=ENGINE`, or `ENGINE`. What stands before `=` is no name if it has a slash in it.
fn named(text: &str) -> Result<Named, String> {
    if let Some((name, path)) = text.split_once('=')
        && !name.contains('/')
        && !name.is_empty()
    {
        return Ok(Named { name: name.to_owned(), path: path.into() });
    }
    let stem = Path::new(text).file_stem().map(|s| s.to_string_lossy().into_owned());
    let name = stem.ok_or_else(|| format!("'{text}' is no file"))?;
    Ok(Named { name, path: text.into() })
}

/// An address of this machine.
fn host(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| "an address such as 127.0.0.1, 0.0.0.0 or ::1".to_owned())
}

/// Serves until it is told to end.
pub fn run(args: &Args) -> Result<(), Failure> {
    let handle: Arc<OnceLock<Handle>> = Arc::default();
    let serving = Arc::clone(&handle);
    let told = OnceLock::new();
    signal::on_end(move |signal| match serving.get() {
        Some(handle) if told.set(()).is_ok() => handle.drain(),
        _ => signal::end_now(signal),
    })
    .map_err(|e| Failure::user(format!("cannot wait for signals: {e}")))?;
    // A connection is a file to the system.
    descriptors::raise();
    let listener = Listener::bind(config(args)?)?;
    let mut engines = Vec::new();
    let mut out = std::io::stdout().lock();
    for Named { name, path } in &args.engines {
        let engine = EngineArgs {
            on: DeviceArgs { engine: path.clone(), place: args.place.clone() },
            memory: args.memory.clone(),
        };
        let session = Session::open(&engine)?;
        let m = session.manifest();
        let device = session.engine.device_name();
        writeln!(out, "{name}: {} {}, on {device}", m.model.name, m.precision)?;
        out.flush()?;
        engines.push((name.clone(), session.engine));
    }
    let writer = log(args.log_format)?;
    let log: Log = match &writer {
        Some(Writer { lines, .. }) => {
            let lines = Arc::clone(lines);
            Arc::new(move |entry| lines.put(entry))
        }
        None => Arc::new(|_| ()),
    };
    let server = listener.serve(engines, log)?;
    let address = server.address().map_err(|e| Failure::user(format!("the address is not known: {e}")))?;
    // Nobody else sets it.
    let _ = handle.set(server.handle());
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    writeln!(out, "listening on {scheme}://{address}")?;
    out.flush()?;
    drop(out);
    let ended = server.run();
    writer.iter().for_each(Writer::close);
    let ended = ended?;
    if ended.cut > 0 {
        eprintln!("{} requests were given up: --drain-timeout was over", ended.cut);
    }
    Ok(())
}

fn config(args: &Args) -> Result<Config, Failure> {
    let keys = keys(args)?;
    if !args.host.is_loopback() {
        if keys.is_empty() && args.tls_client_ca.is_none() {
            eprintln!(
                "warning: everybody who can reach this machine can use the server; --api-key-file asks for keys"
            );
        }
        if args.tls_cert.is_none() {
            eprintln!(
                "warning: what clients send and get, keys too, can be read on its way; --tls-cert encrypts it, \
                 or a proxy before the server"
            );
        }
    }
    let tls = args.tls_cert.clone().zip(args.tls_key.clone()).map(|(certificate, key)| Files {
        certificate,
        key,
        client_authority: args.tls_client_ca.clone(),
        look: tls::LOOK,
    });
    Ok(Config {
        address: SocketAddr::new(args.host, args.port),
        tls,
        keys,
        public_metrics: args.public_metrics,
        page: !args.no_page,
        cors_origins: args.cors_origin.clone(),
        queue: Bounds { answers: args.max_queue, tokens: args.max_queue_tokens },
        max_body: usize::try_from(args.max_body).unwrap_or(usize::MAX),
        max_connections: args.max_connections as usize,
        request_timeout: args.request_timeout,
        read_timeout: args.read_timeout,
        write_timeout: args.write_timeout,
        drain_timeout: args.drain_timeout,
        watchdog: args.watchdog,
        watchdog_exit: args.watchdog_exit,
        ..Config::default()
    })
}

fn keys(args: &Args) -> Result<Keys, Failure> {
    let mut keys = Keys::none();
    if let Some(key) = env::api_key() {
        keys.add("default", &key);
    }
    if let Some(file) = &args.api_key_file {
        let text = std::fs::read_to_string(file).map_err(|e| Failure::file("read", file, &e))?;
        let before = keys.len();
        keys.add_lines(&text).map_err(|e| Failure::user(format!("'{}', {e}", file.display())))?;
        if keys.len() == before {
            return Err(Failure::user(format!("'{}' has no key", file.display()))
                .help("write one key a line, such as alice:SECRET"));
        }
    }
    Ok(keys)
}

/// Where lines go: to a thread that writes them, so that a reader of stderr who is slow delays no answer.
struct Lines {
    json: bool,
    /// None ends the thread.
    sender: SyncSender<Option<String>>,
    /// Lines for which there was no room since one was told of.
    dropped: AtomicU64,
}

/// The log, and the thread that writes it.
struct Writer {
    lines: Arc<Lines>,
    thread: JoinHandle<()>,
}

impl Lines {
    fn put(&self, entry: &Entry) {
        let line = |entry: &Entry| match self.json {
            true => serde_json::to_string(entry).unwrap_or_default(),
            false => entry.to_string(),
        };
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message = format!("{lost} lines of the log were dropped");
            let note = Entry::Note { time_ms: 0, message };
            if self.sender.try_send(Some(line(&note))).is_err() {
                self.dropped.fetch_add(lost, Ordering::Relaxed);
            }
        }
        if self.sender.try_send(Some(line(entry))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The log of a format; none if nothing is to be written.
fn log(format: Format) -> Result<Option<Writer>, Failure> {
    let json = match format {
        Format::None => return Ok(None),
        Format::Text => false,
        Format::Json => true,
        Format::Auto => !std::io::stderr().is_terminal(),
    };
    let (sender, lines) = sync_channel::<Option<String>>(LINES);
    let write = move || {
        for line in lines.iter().map_while(|line| line) {
            // A stderr that nobody reads changes nothing about the answers.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        }
    };
    let thread = std::thread::Builder::new().name("log".to_owned()).spawn(write);
    let thread = thread.map_err(|e| Failure::user(format!("cannot start a thread for the log: {e}")))?;
    Ok(Some(Writer { lines: Arc::new(Lines { json, sender, dropped: AtomicU64::new(0) }), thread }))
}

impl Writer {
    /// Lets the last lines out, unless nobody reads them.
    fn close(&self) {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut told = false;
        while !self.thread.is_finished() && Instant::now() < deadline {
            told = told || self.lines.sender.try_send(None).is_ok();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_have_names() {
        let of = |text: &str| named(text).map(|n| (n.name, n.path.display().to_string()));
        assert_eq!(of("a/b/model.engine"), Ok(("model".into(), "a/b/model.engine".into())));
        assert_eq!(of("m=a/x.engine"), Ok(("m".into(), "a/x.engine".into())));
        assert_eq!(of("a=1/x.engine"), Ok(("a".into(), "1/x.engine".into())));
        assert_eq!(of("./a=1/x.engine"), Ok(("x".into(), "./a=1/x.engine".into())));
        assert!(of("/").is_err());
    }

    #[test]
    fn hosts_are_addresses() {
        assert_eq!(host("localhost"), Ok(Ipv4Addr::LOCALHOST.into()));
        assert!(host("::1").is_ok_and(|a| a.is_loopback()));
        assert!(host("example.org").is_err());
    }

    #[test]
    fn lines_that_nobody_reads_are_dropped_and_counted() {
        let (sender, lines) = sync_channel(1);
        let log = |json| Lines { json, sender: sender.clone(), dropped: AtomicU64::new(2) };
        let note = |message: &str| Entry::Note { time_ms: 1, message: message.to_owned() };
        let text = log(false);
        text.put(&note("first"));
        assert_eq!(lines.try_recv(), Ok(Some("2 lines of the log were dropped".to_owned())));
        assert_eq!(text.dropped.load(Ordering::Relaxed), 1, "there was room for one");
        let json = log(true);
        json.dropped.store(0, Ordering::Relaxed);
        json.put(&note("second"));
        assert_eq!(lines.try_recv(), Ok(Some(r#"{"time_ms":1,"message":"second"}"#.to_owned())));
        assert!(lines.try_recv().is_err());
    }
}
