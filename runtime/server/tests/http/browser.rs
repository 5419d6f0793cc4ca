//! Chromium without a window, driven through its DevTools protocol over two pipes. Knows nothing of the page.

use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What distributions call it.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Chromium reads commands from file 3 and writes messages to file 4.
const PIPES: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>&2";

/// A browser with one tab.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    number: u64,
    session: String,
    events: Vec<Value>,
    profile: TempDir,
}

/// The command of a Chromium on `PATH`.
fn chromium() -> Option<&'static str> {
    let there = |name: &&str| {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", name]).stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    NAMES.into_iter().find(there)
}

impl Browser {
    /// Starts it; none, and a line on stderr, if there is no Chromium.
    pub fn start() -> Option<Browser> {
        let Some(name) = chromium() else {
            // Past the test harness, which shows what macros print only when a test fails.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: no chromium on PATH, the page was not tried in a browser"
            );
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args([
                "-c",
                PIPES,
                name,
                "--headless",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
            ])
            .args(["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-extensions"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(profile.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while output.read_until(0, &mut bytes).is_ok_and(|n| n > 0) {
                let Ok(message) = serde_json::from_slice(bytes.strip_suffix(b"\0").unwrap_or(&bytes)) else {
                    break;
                };
                if sender.send(message).is_err() {
                    break;
                }
                bytes.clear();
            }
        });
        let (session, events) = (String::new(), Vec::new());
        let mut browser = Browser { child, commands, messages, number: 0, session, events, profile };
        let tab = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": tab["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach)["sessionId"].as_str().unwrap().to_owned();
        browser.session = session;
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Sends a command and gives its result.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left).unwrap_or_else(|e| {
                let said = std::fs::read_to_string(self.profile.path().join("stderr"));
                panic!("{method}: no answer ({e}); chromium said: {}", said.unwrap_or_default())
            });
            if message["id"] != self.number {
                self.events.push(message);
                continue;
            }
            assert!(message["error"].is_null(), "{method}: {}", message["error"]);
            return message["result"].clone();
        }
    }

    /// Loads a page in a window of this size, CSS pixels; forgets what was complained of before.
    pub fn open(&mut self, url: &str, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        self.call("Page.navigate", json!({ "url": url }));
        self.await_true(&format!(
            "location.href.startsWith({}) && document.readyState === 'complete'",
            json!(url)
        ));
        self.events.clear();
    }

    /// The value of an expression; promises are awaited.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn await_true(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(expression) != true {
            if Instant::now() > deadline {
                let body = self.eval("document.body.innerText");
                panic!("{expression} did not become true; {:?}; the page: {body}", self.complaints());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Presses a key: Tab, Enter, Escape.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            "Escape" => (27, None),
            other => panic!("{other} has no code here"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = text.filter(|_| kind == "keyDown");
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if let Some(text) = text {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Writes where the focus is.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Presses Tab until the focus is on the element of this id.
    #[track_caller]
    pub fn tab_to(&mut self, id: &str) {
        let mut passed = Vec::new();
        while passed.len() < 30 {
            self.press("Tab");
            let here =
                self.eval("document.activeElement.id || document.activeElement.textContent.slice(0, 20)");
            if here == id {
                return;
            }
            passed.push(here);
        }
        panic!("Tab does not lead to {id}, but to {passed:?}");
    }

    /// Errors that were thrown, written to the console, or noticed by the browser, since the page was loaded.
    pub fn complaints(&mut self) -> Vec<String> {
        // What was said before this answer has come by then.
        self.eval("1");
        let bad = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                ["error", "warning", "assert"].iter().any(|kind| event["params"]["type"] == **kind)
            }
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            _ => false,
        };
        self.events.iter().filter(bad).map(Value::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
