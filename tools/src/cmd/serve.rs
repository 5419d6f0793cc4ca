//! `trtc serve`: engines behind HTTP. Arguments, signals and output; the server itself is the crate `trtc-server`.

mod engines;
mod log;

use crate::options::{MemoryArgs, PlaceArgs, bytes, seconds, seconds_or_never};
use crate::render::Failure;
use crate::{descriptors, env, signal};
use engines::{Opener, Share, share};
use log::{Format, Writer};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use trtc_server::{
    Bounds, Collector, Config, Endpoint, Files, Handle, Keys, Library, Listener, Log, openapi, tls,
};

/// Serve engines over HTTP, as OpenAI's clients expect it
///
/// Answers POST /v1/completions, /v1/chat/completions, /v1/responses, /tokenize, /detokenize and GET /v1/models, /health,
/// /health_generate, /ready, /version, /metrics, /openapi.json. At / is a page to chat with a model and to watch the server. The field
/// "model" chooses the engine, and may be left out if there is one. Ctrl-C or SIGTERM: no new requests, those that run may end, then the server does; a second one ends it at once.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    trtc serve model.engine\n  \
    trtc serve small=a.engine large=b.engine --host 0.0.0.0 --port 8080 --api-key-file keys.txt\n  \
    trtc serve model.engine --host 0.0.0.0 --api-key-file keys.txt --tls-cert server.pem --tls-key server.key\n  \
    trtc serve model.engine --otlp-endpoint http://127.0.0.1:4318\n  \
    trtc serve --openapi > openapi.json\n  \
    trtc serve chat=a.engine code=b.engine --gpu-memory-fraction 0.9 --kv-share chat=0.6,code=0.4\n  \
    TRTC_ADMIN_KEY=SECRET trtc serve chat=/srv/engines/a.engine --engine-dir /srv/engines\n  \
    curl http://127.0.0.1:8000/v1/models/load -H 'Authorization: Bearer SECRET' -d '{\"model\": \"code\", \"engine\": \"b.engine\"}'\n  \
    curl http://127.0.0.1:8000/v1/models/unload -H 'Authorization: Bearer SECRET' -d '{\"model\": \"chat\"}'\n  \
    curl http://127.0.0.1:8000/v1/completions -d '{\"prompt\": \"The capital of France is\", \"max_tokens\": 8}'\n  \
    curl http://127.0.0.1:8000/v1/chat/completions -d '{\"stream\": true, \"messages\": [{\"role\": \"user\", \
    \"content\": \"Hello\"}]}'\n\n\
    Environment: TRTC_API_KEY, a key that clients must send as 'Authorization: Bearer KEY'; TRTC_ADMIN_KEY, one of who may\n\
    load and unload models.\n\
    The address is printed on stdout once requests are taken; the log, one line a request, goes to stderr.")]
pub struct Args {
    /// Engines, each under a name; without one it is that of the file: model.engine is model
    #[arg(value_name = "[NAME=]ENGINE", required_unless_present_any = ["engine_dir", "openapi"], value_parser = named)]
    engines: Vec<Named>,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Parts of the memory for KV caches that engines have, such as chat=0.6,code=0.4; those without one share what is
    /// left equally. The memory is that of --kv-memory, or what all engines' weights and activations leave of
    /// --gpu-memory-fraction or of what is free; what nobody has is for engines that are loaded later
    #[arg(long, value_name = "NAME=F", value_delimiter = ',', value_parser = share)]
    kv_share: Vec<Share>,
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
    /// Engines in this folder may be loaded while the server runs, and models unloaded, by who has an admin's key: POST
    /// /v1/models/load and /v1/models/unload
    #[arg(long, value_name = "DIR", help_heading = "Access")]
    engine_dir: Option<PathBuf>,
    /// Keys of who may do so, one a line as in --api-key-file
    #[arg(long, value_name = "FILE", requires = "engine_dir", help_heading = "Access")]
    admin_key_file: Option<PathBuf>,
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
    /// How long a request may be expected to wait for its place, seconds; what would wait longer is refused with 429. 0 is
    /// without a limit, for work that may wait. The expectation is the queue before it by the rate at which answers have been
    /// ending
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds_or_never, help_heading = "Limits")]
    max_queue_wait: Never,
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
    /// Tell this collector of OpenTelemetry of each request: OTLP over HTTP, with JSON, at ADDRESS/v1/traces. Nothing of prompts
    /// and answers is in it
    #[arg(long, value_name = "ADDRESS", value_parser = Endpoint::parse)]
    otlp_endpoint: Option<Endpoint>,
    /// Print the OpenAPI document of the API, which the server also has at /openapi.json, and serve nothing
    #[arg(long)]
    openapi: bool,
    /// Lines of the log: auto is text on a terminal and JSON elsewhere
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    log_format: Format,
}

/// A time, or none; clap takes an `Option` of its own for an argument that may be left out.
type Never = std::option::Option<Duration>;

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
    if args.openapi {
        return Ok(write!(std::io::stdout().lock(), "{}", openapi::text())?);
    }
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
    let mut out = std::io::stdout().lock();
    let opener = Opener { place: args.place.clone(), memory: args.memory.clone() };
    let library = library(args, &opener)?;
    let engines = opener.all(&args.engines, &args.kv_share, |name, engine| {
        let (m, device) = (engine.manifest(), engine.device_name());
        writeln!(out, "{name}: {} {}, on {device}", m.model.name, m.precision)?;
        Ok(out.flush()?)
    })?;
    let writer = log::log(args.log_format)?;
    let log: Log = match &writer {
        Some(Writer { lines, .. }) => {
            let lines = Arc::clone(lines);
            Arc::new(move |entry| lines.put(entry))
        }
        None => Arc::new(|_| ()),
    };
    let server = listener.serve(engines, library, log)?;
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
    let keys = keys(("default", env::api_key()), args.api_key_file.as_deref())?;
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
        queue: Bounds { answers: args.max_queue, tokens: args.max_queue_tokens, wait: args.max_queue_wait },
        max_body: usize::try_from(args.max_body).unwrap_or(usize::MAX),
        max_connections: args.max_connections as usize,
        request_timeout: args.request_timeout,
        read_timeout: args.read_timeout,
        write_timeout: args.write_timeout,
        drain_timeout: args.drain_timeout,
        watchdog: args.watchdog,
        watchdog_exit: args.watchdog_exit,
        collector: args.otlp_endpoint.clone().map(Collector::new),
        ..Config::default()
    })
}

/// What may be loaded later, if anything may.
fn library(args: &Args, opener: &Opener) -> Result<Option<Library>, Failure> {
    let Some(dir) = &args.engine_dir else {
        return Ok(None);
    };
    let keys = keys(("admin", env::admin_key()), args.admin_key_file.as_deref())?;
    if keys.is_empty() {
        return Err(Failure::user("--engine-dir is for who has an admin's key, and there is no such key")
            .help("give --admin-key-file, or TRTC_ADMIN_KEY in the environment"));
    }
    let opener = opener.clone();
    let library = Library::new(keys, dir, Box::new(move |path, wish| opener.one(path, wish)));
    library.map(Some).map_err(|e| Failure::file("use the folder", dir, &e))
}

/// The key of the environment, under a name, and those of a file.
fn keys((name, key): (&str, Option<String>), file: Option<&Path>) -> Result<Keys, Failure> {
    let mut keys = Keys::none();
    if let Some(key) = key {
        keys.add(name, &key);
    }
    if let Some(file) = file {
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
}
