//! The page at `/`: how it is served, and what it does in a browser.

use super::browser::Browser;
use super::client::Reply;
use super::support::*;
use serde_json::json;
use std::time::Duration;
use trtc_server::{Config, Keys};

/// The files that a text of the page refers to, as paths from the root.
fn references(text: &str) -> Vec<String> {
    let after = |mark: &str| -> Vec<String> {
        text.split(mark).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let pages = after("href=\"").into_iter().chain(after("src=\"")).filter(|r| r.starts_with("page/"));
    let modules = after("from \"./").into_iter().map(|name| format!("page/{name}"));
    pages.chain(modules).map(|path| format!("/{path}")).collect()
}

fn keys() -> Keys {
    let mut keys = Keys::none();
    keys.add("alice", "sk-1");
    keys
}

#[test]
fn all_its_files_are_served_with_strict_headers_and_need_no_key() {
    let server = start(Config { keys: keys(), ..config() });
    let (mut paths, mut at) = (vec!["/".to_owned()], 0);
    while at < paths.len() {
        let reply = server.get(&paths[at]);
        assert_eq!(reply.status, 200, "{}", paths[at]);
        let policy = reply.header("content-security-policy").unwrap();
        for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"] {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("cache-control"), Some("no-cache"));
        // What a model writes is a text, and nothing is loaded from elsewhere.
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "https://",
            "style=\"",
        ] {
            assert!(!reply.text.contains(word), "{} has {word}", paths[at]);
        }
        for path in references(&reply.text) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        at += 1;
    }
    assert_eq!(paths.len(), 8, "{paths:?}");
    let kind = |path: &str| server.get(path).header("content-type").unwrap().to_owned();
    assert_eq!(kind("/"), "text/html; charset=utf-8");
    assert_eq!(kind("/page/main.js"), "text/javascript; charset=utf-8");
    // It opens no door beside it.
    for path in ["/page", "/page/", "/page/none.js", "/page/../metrics", "//", "/metrics", "/v1/models"] {
        server.get(path).fails(401, "authentication_error", Some("invalid_api_key"), None);
    }
    assert!(server.records().iter().all(|r| r.status == 401), "its own files are not worth a line");
}

#[test]
fn a_file_that_is_known_is_not_sent_again() {
    let server = start(config());
    let first = server.get("/page/chat.js");
    let tag = first.header("etag").unwrap().to_owned();
    assert_ne!(server.get("/").header("etag"), Some(&*tag));
    let ask = |tag: &str| server.send("GET", "/page/chat.js", &[("if-none-match", tag)], "").whole();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        let reply = ask(&known);
        assert_eq!((reply.status, reply.header("etag"), &*reply.text), (304, Some(&*tag), ""), "{known}");
        assert!(reply.header("content-security-policy").is_some());
    }
    assert_eq!(ask("\"x\"").text, first.text);
    let head = server.send("HEAD", "/", &[], "");
    assert_eq!(head.status, 200);
    server.post("/", &json!({})).fails(405, "invalid_request_error", Some("method_not_allowed"), None);
}

#[test]
fn it_can_be_left_out() {
    let missing = |reply: Reply| reply.fails(404, "invalid_request_error", Some("unknown_url"), None);
    let server = start(Config { page: false, ..config() });
    missing(server.get("/"));
    missing(server.get("/page/main.js"));
    let server = start(Config { page: false, keys: keys(), ..config() });
    server.get("/").fails(401, "authentication_error", Some("invalid_api_key"), None);
}

/// The last answer on the page.
const ANSWER: &str = "[...document.querySelectorAll('#log .assistant .said')].at(-1)?.textContent ?? ''";
const NOTE: &str = "[...document.querySelectorAll('#log .assistant .note')].at(-1)?.textContent ?? ''";
/// No answer is under way, and one was.
const ANSWERED: &str = "document.getElementById('log').getAttribute('aria-busy') === 'false' \
                        && document.querySelector('#log .assistant .note')?.textContent > ''";
/// The models are known and the dashboard reads.
const LIVE: &str = "document.getElementById('model').value === 'tiny' \
                    && document.getElementById('state').textContent === 'Live'";
/// Nothing is wider than the window.
const FITS: &str = "document.documentElement.scrollWidth <= innerWidth";

fn url(server: &Running) -> String {
    format!("http://{}/", server.address)
}

#[test]
fn a_keyboard_is_enough_to_chat_on_a_phone_and_on_a_desk() {
    let Some(mut browser) = Browser::start() else { return };
    let server = start(config());
    for (width, height) in [(375, 700), (1280, 800)] {
        browser.open(&url(&server), width, height);
        browser.await_true(LIVE);
        browser.press("Tab");
        assert_eq!(browser.eval("document.activeElement.className"), "skip", "the first stop");
        browser.press("Enter");
        browser.await_true("document.activeElement.id === 'input'");
        browser.write("w1 w2 <img src=x>");
        browser.tab_to("temperature");
        browser.write("0");
        browser.tab_to("max-tokens");
        browser.write("12");
        browser.tab_to("send");
        browser.press("Enter");
        browser.await_true(ANSWERED);
        let messages = json!([{ "role": "user", "content": "w1 w2 <img src=x>" }]);
        let body = json!({ "messages": messages, "temperature": 0, "max_tokens": 12 });
        let whole = server.post("/v1/chat/completions", &body).ok();
        assert_eq!(browser.eval(ANSWER), whole["choices"][0]["message"]["content"]);
        let note = browser.eval(NOTE).as_str().unwrap().to_owned();
        let tokens = whole["usage"]["completion_tokens"].to_string();
        assert!(note.contains(&format!("{tokens} tokens")), "{note}");
        assert_eq!(browser.eval("document.activeElement.id"), "input", "the focus is where one goes on");
        assert_eq!(browser.eval("document.querySelectorAll('#log img').length"), 0, "texts stay texts");
        // A second message, and what was said before goes with it.
        browser.write("w3");
        browser.press("Enter");
        browser.await_true("document.querySelectorAll('#log article').length === 4");
        browser.await_true(ANSWERED);
        let cell = "document.querySelector('#totals tr:nth-child(2) td').textContent";
        let total = server.metric("trtc_generation_tokens_total{model=\"tiny\"}");
        browser.await_true(&format!("{cell} === '{total}'"));
        browser.await_true("document.querySelectorAll('#charts path')[0].getAttribute('d').length > 10");
        assert_eq!(browser.eval("document.querySelectorAll('#charts figure').length"), 6);
        browser.await_true(
            "document.querySelectorAll('#charts figure')[2].querySelector('dd').textContent !== '–'",
        );
        assert_eq!(browser.eval(FITS), true, "at {width}");
        assert_eq!(browser.complaints(), [""; 0], "at {width}");
    }
}

#[test]
fn an_answer_can_be_stopped_and_long_words_fit() {
    let Some(mut browser) = Browser::start() else { return };
    let server = start(config());
    server.control.pause(Duration::from_millis(20));
    browser.open(&url(&server), 375, 700);
    browser.await_true(LIVE);
    browser.eval("document.getElementById('input').focus()");
    browser.write(&"x".repeat(500));
    browser.press("Enter");
    browser.await_true(&format!("({ANSWER}).length > 5"));
    assert_eq!(browser.eval(FITS), true);
    browser.press("Escape");
    browser.await_true(ANSWERED);
    assert_eq!(browser.eval(NOTE), "Stopped");
    server.is_empty();
    assert_eq!(server.metric("trtc_request_success_total{model=\"tiny\",finished_reason=\"abort\"}"), 1.0);
    // By the button too, and the focus is not lost.
    browser.write("w1");
    browser.press("Enter");
    browser.await_true("!document.getElementById('stop').disabled");
    browser.tab_to("stop");
    browser.press("Enter");
    browser.await_true("document.activeElement.id === 'input' && document.getElementById('stop').disabled");
    server.is_empty();
    browser.tab_to("pause");
    browser.press("Enter");
    browser.await_true("document.getElementById('state').textContent === 'Paused'");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn a_key_is_asked_for_and_kept_by_the_tab_alone() {
    let Some(mut browser) = Browser::start() else { return };
    let server = start(Config { keys: keys(), ..config() });
    browser.open(&url(&server), 375, 700);
    browser.await_true("document.getElementById('state').textContent === 'This server asks for an API key.'");
    browser.tab_to("key");
    browser.write("sk-2");
    browser.press("Enter");
    browser
        .await_true("document.getElementById('state').textContent === 'The server does not take this key.'");
    browser.eval("document.getElementById('key').select()");
    browser.write("sk-1");
    browser.press("Enter");
    browser.await_true(LIVE);
    assert_eq!(browser.eval("sessionStorage.length"), 1);
    assert_eq!(browser.eval("localStorage.length + document.cookie.length"), 0);
    browser.eval("document.getElementById('input').focus()");
    browser.write("w1");
    browser.press("Enter");
    browser.await_true(ANSWERED);
    assert!(browser.eval(ANSWER).as_str().is_some_and(|text| !text.is_empty()));
    let clients: Vec<String> =
        server.records().into_iter().filter(|r| r.model.is_some()).map(|r| r.client).collect();
    assert_eq!(clients, ["alice"]);
}

#[test]
fn models_without_a_template_continue_texts_and_figures_are_computed_right() {
    let Some(mut browser) = Browser::start() else { return };
    let server = start_that(Speaks::Alone, config());
    browser.open(&url(&server), 1280, 800);
    browser.await_true(LIVE);
    browser
        .eval("document.getElementById('temperature').value = '0', document.getElementById('input').focus()");
    browser.write("w5 w6");
    browser.press("Enter");
    browser.await_true(ANSWERED);
    let whole = server.post("/v1/completions", &json!({ "prompt": "w5 w6", "temperature": 0 })).ok();
    assert_eq!(browser.eval(ANSWER), whole["choices"][0]["text"]);
    assert!(browser.eval(NOTE).as_str().unwrap().contains("no chat template"));
    let figures = r#"import("/page/metrics.js").then(({ parse, value, rate, quantile }) => {
        const text = (a, b, c) => `# TYPE x counter\nx{model="a \\"}, b"} ${a}\nx{model="c"} 7\n` +
            `t_bucket{model="c",le="1"} ${b}\nt_bucket{model="c",le="2"} ${c}\nt_bucket{model="c",le="+Inf"} ${c}\n`;
        const [old, now] = [parse(text(1, 2, 2), 10), parse(text(7, 3, 5), 12)];
        const of = { model: "a \"}, b" }, c = { model: "c" };
        return [value(now, "x"), value(now, "none"), rate(now, old, "x", of), rate(old, now, "x", of),
            quantile(now, old, "t", c, 1 / 3), quantile(now, old, "t", c, 0.5), quantile(now, now, "t", c, 0.5)];
    })"#;
    assert_eq!(browser.eval(figures), json!([14, null, 3, null, 1, 1.25, null]));
}
