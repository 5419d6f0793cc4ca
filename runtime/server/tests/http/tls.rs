//! TLS: certificates of servers and of clients, those who cannot shake hands, and certificates that change.

use super::client::{self, Open};
use super::support::*;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned, SupportedProtocolVersion};
use trtc_server::{Config, Ended, Files, Listener, ServerError, tls};

type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A file of those that `make.sh` makes.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tls").join(name)
}

fn files() -> Files {
    Files {
        certificate: golden("server.pem"),
        key: golden("server.key"),
        client_authority: None,
        look: Duration::from_millis(20),
    }
}

fn secure() -> Config {
    Config { tls: Some(files()), ..config() }
}

/// A client that trusts the authority of the tests, and shows this certificate.
fn client_of(shows: Option<&str>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let roots = tls::authorities(&golden("authority.pem")).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match shows {
        None => config.with_no_client_auth(),
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_file(golden(&format!("{name}.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(golden(&format!("{name}.key"))).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

fn both() -> [&'static SupportedProtocolVersion; 2] {
    [&TLS12, &TLS13]
}

/// Shakes hands and sends a request.
fn ask(server: &Running, config: ClientConfig, request: &[u8]) -> std::io::Result<Secure> {
    let socket = TcpStream::connect(server.address)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(request)?;
    Ok(stream)
}

fn get(server: &Running, config: ClientConfig, path: &str) -> std::io::Result<client::Reply> {
    Ok(client::read_head(ask(server, config, &client::request("GET", path, &[], ""))?)?.whole())
}

fn post(server: &Running, path: &str, body: &serde_json::Value) -> Open {
    let request = client::request("POST", path, &[], &body.to_string());
    client::read_head(ask(server, client_of(None, &both()), &request).unwrap()).unwrap()
}

/// The value of a series, once it is this.
#[track_caller]
fn await_metric(server: &Running, series: &str, want: f64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = get(server, client_of(None, &both()), "/metrics").unwrap().text;
        if text.lines().any(|l| l == format!("{series} {want}")) {
            return;
        }
        assert!(Instant::now() < deadline, "{series} is not {want}: {text}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn chats_and_streams_are_as_they_are_without() {
    let (server, open) = (start(secure()), start(config()));
    for version in [&TLS12, &TLS13] {
        let mut config = client_of(None, &[version]);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut stream = ask(&server, config, &client::request("GET", "/v1/models", &[], "")).unwrap();
        let mut whole = String::new();
        // An end without TLS's own would be an error.
        stream.read_to_string(&mut whole).unwrap();
        assert!(whole.starts_with("HTTP/1.1 200 OK\r\n") && whole.contains("\"tiny\""), "{whole}");
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    let chat = json!({
        "messages": [{ "role": "user", "content": "w5" }], "max_tokens": 8, "temperature": 0, "ignore_eos": true,
    });
    let path = "/v1/chat/completions";
    let said = |whole: serde_json::Value| whole["choices"][0]["message"]["content"].clone();
    assert_eq!(said(post(&server, path, &chat).whole().ok()), said(open.post(path, &chat).ok()));
    let body = json!({ "prompt": "w1", "max_tokens": 100, "ignore_eos": true, "stream": true });
    assert_eq!(post(&server, "/v1/completions", &body).events().len(), 101);
    // A body that no record of TLS holds.
    let long = json!({ "prompt": vec!["w1"; 20], "max_tokens": 60, "ignore_eos": true, "logprobs": 20 });
    let long = post(&server, "/v1/completions", &long).whole();
    assert!(long.text.len() > 100_000, "{}", long.text.len());
    assert_eq!(long.ok()["usage"]["completion_tokens"], 1200);
}

#[test]
fn what_is_no_tls_costs_its_connection_and_no_line() {
    let server = start(Config { read_timeout: Duration::from_millis(300), ..secure() });
    let plain = client::request("GET", "/health", &[], "");
    let garbage: Vec<u8> = (0..20_000u32).map(|i| (i * 31 % 251) as u8).collect();
    // A record that is as long as a record may say that it is, and too little of it.
    let endless = [&[22, 3, 1, 0x3f, 0xff, 1][..], &[0; 100]].concat();
    for bytes in [&plain[..], &garbage, &[], &[0x16], &endless] {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let begin = Instant::now();
        // The other end may have hung up in the middle.
        let _ = socket.write_all(bytes);
        let mut said = Vec::new();
        match socket.read_to_end(&mut said) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
        }
        assert!(said.len() < 20, "nothing but an alert: {said:?}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
    await_metric(&server, "trtc_tls_failed_handshakes_total", 5.0);
    await_metric(&server, "trtc_http_connections", 1.0);
    assert_eq!((server.notes(), server.records().len()), (Vec::new(), 0));
}

#[test]
fn handshakes_that_stall_hold_a_place_until_their_time_is_over() {
    let limit = Duration::from_millis(300);
    let server = start(Config { max_connections: 2, read_timeout: limit, ..secure() });
    let mut silent: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    silent[0].write_all(&[0x16, 3, 1]).unwrap();
    let begin = Instant::now();
    get(&server, client_of(None, &both()), "/health").unwrap().ok();
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
    // After the handshake the time for the head begins.
    let slow = ask(&server, client_of(None, &both()), b"GET /health HTTP/1.1\r\nhos").unwrap();
    let begin = Instant::now();
    assert!(client::read_head(slow).map_or(true, |reply| reply.status == 408));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn an_idle_server_ends_at_once_whatever_its_connections_are_about() {
    let mut server = start(secure());
    let mut shaking = TcpStream::connect(server.address).unwrap();
    shaking.write_all(&[0x16, 3, 1]).unwrap();
    // One that is kept for a next request.
    let request = b"GET /health HTTP/1.1\r\nhost: t\r\n\r\n";
    let mut idle = ask(&server, client_of(None, &both()), request).unwrap();
    idle.read_exact(&mut [0; 16]).unwrap();
    await_metric(&server, "trtc_http_connections", 3.0);
    let begin = Instant::now();
    server.handle.drain();
    assert_eq!(server.ended().unwrap(), Ended { cut: 0 });
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    // The end is told, and no stranger's doing.
    idle.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(shaking.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn who_reads_nothing_or_leaves_is_given_up() {
    let server = start(Config { write_timeout: Duration::from_millis(200), ..secure() });
    // Answers that no socket's buffers hold.
    let body = json!({
        "prompt": vec!["w1"; 200], "max_tokens": 120, "ignore_eos": true, "stream": true, "logprobs": 20,
    });
    let deaf = post(&server, "/v1/completions", &body);
    await_metric(&server, "trtc_request_gone_total", 1.0);
    await_metric(&server, "trtc_num_requests_running{model=\"tiny\"}", 0.0);
    drop(deaf);
    server.control.pause(Duration::from_millis(20));
    let body = json!({ "prompt": "w1", "max_tokens": 120, "ignore_eos": true, "stream": true });
    let mut leaves = post(&server, "/v1/completions", &body);
    leaves.event(&mut 0).unwrap().unwrap();
    drop(leaves);
    await_metric(&server, "trtc_request_gone_total", 2.0);
    assert!(server.records().iter().filter(|r| r.stream).all(|r| r.gone && r.completion_tokens < 24_000));
}

#[test]
fn a_slow_reader_within_tls_gets_everything() {
    let server = start(secure());
    let body = json!({
        "prompt": vec!["w1"; 60], "max_tokens": 120, "ignore_eos": true, "stream": true, "logprobs": 20,
    });
    let mut slow = post(&server, "/v1/completions", &body);
    let mut events = 0;
    while slow.event(&mut 0).unwrap().is_some() {
        // All buffers between are full for most of the time.
        if events % 40 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        events += 1;
    }
    assert!(events > 7000, "{events}");
}

#[test]
fn clients_show_a_certificate_of_the_authority_or_are_not_heard() {
    let tls = Files { client_authority: Some(golden("authority.pem")), ..files() };
    let server = start(Config { tls: Some(tls), ..config() });
    for version in [&TLS12, &TLS13] {
        get(&server, client_of(Some("client"), &[version]), "/v1/models").unwrap().ok();
        for shows in [None, Some("stranger"), Some("server")] {
            // The last is of the authority, and for servers.
            let refused = get(&server, client_of(shows, &[version]), "/v1/models");
            assert!(refused.is_err(), "{shows:?}: {refused:?}");
        }
    }
    assert_eq!(server.records().len(), 2, "who was refused asked for nothing");
    assert_eq!(server.notes(), Vec::<String>::new());
}

/// The certificate that a server shows.
fn shown(server: &Running) -> CertificateDer<'static> {
    let mut stream =
        ask(server, client_of(None, &both()), &client::request("GET", "/health", &[], "")).unwrap();
    stream.read_to_string(&mut String::new()).unwrap();
    stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

#[track_caller]
fn await_note(server: &Running, words: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !server.notes().last().is_some_and(|n| n.contains(words)) {
        assert!(Instant::now() < deadline, "no {words:?} in {:?}", server.notes());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn certificates_are_renewed_and_streams_go_on() {
    // As Kubernetes has secrets: links to a folder that is a link, which is switched.
    let dir = tempfile::tempdir().unwrap();
    let switch = |name: &str| {
        let folder = dir.path().join(format!("{name}.d"));
        std::fs::create_dir_all(&folder).unwrap();
        for (from, to) in [("pem", "tls.crt"), ("key", "tls.key")] {
            std::fs::copy(golden(&format!("{name}.{from}")), folder.join(to)).unwrap();
        }
        std::os::unix::fs::symlink(&folder, dir.path().join("new")).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("data")).unwrap();
    };
    switch("server");
    let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    for file in [&certificate, &key] {
        let target = Path::new("data").join(file.file_name().unwrap());
        std::os::unix::fs::symlink(target, file).unwrap();
    }
    let tls = Files { certificate: certificate.clone(), key: key.clone(), ..files() };
    let server = start(Config { tls: Some(tls), ..config() });
    let of = |name: &str| CertificateDer::from_pem_file(golden(&format!("{name}.pem"))).unwrap();
    assert_eq!(shown(&server), of("server"));

    server.control.pause(Duration::from_millis(10));
    let body = json!({ "prompt": "w1", "max_tokens": 120, "ignore_eos": true, "stream": true });
    let mut stream = post(&server, "/v1/completions", &body);
    stream.event(&mut 0).unwrap().unwrap();
    switch("renewed");
    await_note(&server, "read anew");
    assert_eq!(shown(&server), of("renewed"));
    assert_eq!(stream.events().len(), 120, "tokens but the first, and the last chunk");

    // What is wrong is told once, and the certificate stays.
    std::fs::write(dir.path().join("data/tls.key"), std::fs::read(golden("server.key")).unwrap()).unwrap();
    await_note(&server, "does not belong");
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(server.notes().iter().filter(|n| n.contains("stays as it was")).count(), 1);
    assert_eq!(shown(&server), of("renewed"));
    std::fs::remove_file(&certificate).unwrap();
    await_note(&server, "cannot read");
    assert_eq!(shown(&server), of("renewed"));
    std::os::unix::fs::symlink("data/tls.crt", &certificate).unwrap();
    switch("server");
    await_note(&server, "read anew");
    assert_eq!(shown(&server), of("server"));
}

#[test]
fn files_that_are_wrong_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let empty = write("empty.pem", "");
    let noise = write("noise.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let cut = write("cut.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n");
    let old =
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let old = write("old.key", old);
    let none = dir.path().join("none.pem");
    let (pem, key) = (golden("server.pem"), golden("server.key"));
    let both = write("both.pem", &[&pem, &key].map(|f| std::fs::read_to_string(f).unwrap()).concat());
    for (certificate, key, authority, words) in [
        (&none, &key, None, "cannot read"),
        (&pem, &none, None, "cannot read"),
        (&empty, &key, None, "empty.pem' has no certificate"),
        (&key, &pem, None, "server.key' has no certificate"),
        (&pem, &empty, None, "empty.pem' has no private key"),
        (&pem, &pem, None, "server.pem' has no private key"),
        (&noise, &key, None, "noise.pem' is damaged"),
        (&pem, &cut, None, "cut.pem' is damaged"),
        (&pem, &golden("encrypted.key"), None, "encrypted.key' is encrypted"),
        (&pem, &old, None, "old.key' is encrypted"),
        (&pem, &golden("renewed.key"), None, "renewed.key' does not belong to the certificate"),
        (&pem, &key, Some(&empty), "empty.pem' has no certificate"),
        (&pem, &key, Some(&noise), "noise.pem' is damaged"),
        (&pem, &key, Some(&none), "cannot read"),
    ] {
        let tls = Files {
            certificate: certificate.clone(),
            key: key.clone(),
            client_authority: authority.cloned(),
            ..files()
        };
        let error = Listener::bind(Config { tls: Some(tls), ..config() }).err();
        let Some(ServerError::Tls(error)) = error else { panic!("{words}: {error:?}") };
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(!error.help().is_empty());
    }
    // One file may have both.
    let tls = Files { certificate: both.clone(), key: both, ..files() };
    assert!(Listener::bind(Config { tls: Some(tls), ..config() }).is_ok());
}
