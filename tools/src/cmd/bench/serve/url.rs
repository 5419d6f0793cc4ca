//! The address of a server: from what the user gave to where to connect and which paths to ask for. Resolves no name.

use crate::render::Failure;
use hyper::Uri;

/// Where a server answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Within TLS.
    pub secure: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What the header `Host` says.
    pub authority: String,
    /// What stands before `/v1`.
    base: String,
}

impl Target {
    /// Reads `http://HOST[:PORT][/PATH][/v1]`, or the same with `https://`; without either `http://` is meant.
    pub fn parse(text: &str) -> Result<Target, Failure> {
        let wrong = |what: &str| {
            Failure::user(format!("'{text}' is no address of a server: {what}"))
                .help("give one such as http://127.0.0.1:8000, with or without /v1 at its end")
        };
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = whole.parse().map_err(|e| wrong(&format!("{e}")))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it begins with neither http:// nor https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?.as_str();
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(|| wrong("it names no host"))?;
        if authority.contains('@') {
            return Err(wrong("it names a user"));
        }
        let port = match authority.strip_prefix(host).and_then(|rest| rest.strip_prefix(':')) {
            None if secure => 443,
            None => 80,
            Some(port) => port.parse().ok().filter(|&p| p > 0).ok_or_else(|| wrong("its port is none"))?,
        };
        let path = uri.path().trim_end_matches('/');
        let base = path.strip_suffix("/v1").unwrap_or(path);
        if uri.query().is_some() || base.contains("/v1/") {
            return Err(wrong("something stands behind /v1"));
        }
        Ok(Target {
            secure,
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.to_owned(),
            base: base.to_owned(),
        })
    }

    /// The path of an endpoint such as `/completions`.
    pub fn path(&self, endpoint: &str) -> String {
        format!("{}/v1{endpoint}", self.base)
    }

    /// All of its address.
    pub fn url(&self, endpoint: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path(endpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Exit;

    #[test]
    fn addresses_are_understood() {
        let of = |text: &str| {
            let t = Target::parse(text).expect("an address");
            (t.host.clone(), t.port, t.authority.clone(), t.path("/models"))
        };
        let want = |host: &str, port, authority: &str, path: &str| {
            (host.to_owned(), port, authority.to_owned(), path.to_owned())
        };
        for text in ["http://a:8000", "http://a:8000/", "http://a:8000/v1", "HTTP://a:8000/v1/", "a:8000/v1"]
        {
            assert_eq!(of(text), want("a", 8000, "a:8000", "/v1/models"), "{text}");
        }
        assert_eq!(of("http://a"), want("a", 80, "a", "/v1/models"));
        assert_eq!(of("127.0.0.1:1"), want("127.0.0.1", 1, "127.0.0.1:1", "/v1/models"));
        assert_eq!(of("http://[::1]:80/x/v1"), want("::1", 80, "[::1]:80", "/x/v1/models"));
        assert_eq!(of("http://a/openai"), want("a", 80, "a", "/openai/v1/models"));
        assert_eq!(of("https://a/v1"), want("a", 443, "a", "/v1/models"));
        assert_eq!(of("https://a:8443"), want("a", 8443, "a:8443", "/v1/models"));
        for (text, secure, url) in [
            ("[::1]:80/x/", false, "http://[::1]:80/x/v1/completions"),
            ("HTTPS://a/v1", true, "https://a/v1/completions"),
        ] {
            let target = Target::parse(text).expect("an address");
            assert_eq!((target.secure, &*target.url("/completions")), (secure, url));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "http://",
            "http://:80",
            "ftp://a",
            "http://a:99999",
            "http://a:0",
            "http://me@a",
            "http://a/v1/completions",
            "http://a/v1?x=1",
            "http://a b",
        ] {
            let Err(Failure::Reports(reports)) = Target::parse(text) else { panic!("{text} is taken") };
            assert_eq!(reports[0].exit, Exit::User, "{text}");
        }
    }
}
