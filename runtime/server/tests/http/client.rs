//! A small HTTP/1.1 client: one request a connection, whole answers, or server-sent events as they come.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub text: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The body, if it is JSON.
    pub fn json_or_null(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// Holds the answer to success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// Holds the answer to an error of OpenAI's shape; gives its message.
    #[track_caller]
    pub fn fails(&self, status: u16, kind: &str, code: Option<&str>, param: Option<&str>) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        let error = &self.json()["error"];
        assert_eq!(error["type"], kind, "{error}");
        assert_eq!(error["code"].as_str(), code, "{error}");
        assert_eq!(error["param"].as_str(), param, "{error}");
        assert!(self.header("x-request-id").is_some());
        error["message"].as_str().unwrap().to_owned()
    }
}

/// An answer whose body is still to be read.
pub struct Open {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    body: Box<dyn BufRead + Send>,
}

/// The body of a chunked message.
struct Chunked<R> {
    inner: BufReader<R>,
    left: usize,
    over: bool,
}

impl<R: Read> Read for Chunked<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && !self.over {
            let mut line = String::new();
            self.inner.read_line(&mut line)?;
            self.left = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            self.over = self.left == 0;
        }
        if self.over {
            return Ok(0);
        }
        let most = buf.len().min(self.left);
        let n = self.inner.read(&mut buf[..most])?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n;
        if self.left == 0 {
            self.inner.read_line(&mut String::new())?;
        }
        Ok(n)
    }
}

/// Sends bytes as they are and reads the head of the answer.
pub fn send_raw(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Open> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(bytes)?;
    read_head(stream)
}

/// Reads the head of an answer.
pub fn read_head(stream: impl Read + Send + 'static) -> std::io::Result<Open> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no status in {line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let of = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let body: Box<dyn BufRead + Send> = match of("content-length").and_then(|n| n.parse().ok()) {
        Some(length) => Box::new(reader.take(length)),
        None if of("transfer-encoding").is_some() => {
            Box::new(BufReader::new(Chunked { inner: reader, left: 0, over: false }))
        }
        None => Box::new(reader),
    };
    Ok(Open { status, headers, body })
}

/// A request as bytes.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl Open {
    /// Reads the rest.
    pub fn whole(self) -> Reply {
        self.try_whole().unwrap()
    }

    /// The same where the connection may break.
    pub fn try_whole(mut self) -> std::io::Result<Reply> {
        let mut text = String::new();
        // HEAD has a length and no body.
        self.body.read_to_string(&mut text)?;
        Ok(Reply { status: self.status, headers: self.headers, text })
    }

    /// The data of the next event; none at the end. Comments are counted in `comments`.
    pub fn event(&mut self, comments: &mut usize) -> std::io::Result<Option<String>> {
        loop {
            let mut line = String::new();
            if self.body.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            if let Some(data) = line.strip_prefix("data: ") {
                let mut empty = String::new();
                self.body.read_line(&mut empty)?;
                assert_eq!(empty, "\n", "an event ends with an empty line");
                return Ok(Some(data.trim_end().to_owned()));
            }
            *comments += usize::from(line.starts_with(':'));
        }
    }

    /// All events up to `[DONE]`.
    pub fn events(self) -> Vec<Value> {
        let mut data = self.data();
        assert_eq!(data.pop().as_deref(), Some("[DONE]"), "{data:?}");
        data.iter().map(|d| serde_json::from_str(d).unwrap_or_else(|e| panic!("{e}: {d}"))).collect()
    }

    /// The data of all events.
    pub fn data(mut self) -> Vec<String> {
        assert_eq!(self.status, 200);
        std::iter::from_fn(|| self.event(&mut 0).unwrap()).collect()
    }
}
