//! Files of prompts, as `trtllm-bench` reads and its `prepare-dataset` writes them: one JSON object a line.

use super::workload::{Item, Prompt};
use crate::render::Failure;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::path::Path;

/// A line. What is not named here (images, adapters) would change the load, and is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "task_id")]
    _task_id: Option<IgnoredAny>,
    prompt: Option<String>,
    /// Also under its older name.
    #[serde(alias = "logits")]
    input_ids: Option<Vec<u32>>,
    output_tokens: u32,
}

/// The requests of a file. Where a line has ids they are sent, and for chats its text.
pub fn read(path: &Path, chat: bool) -> Result<Vec<Item>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?;
    let items = parse(&text, chat).map_err(|(line, what)| {
        Failure::user(format!("'{}', line {line}: {what}", path.display())).help(
            "give lines such as {\"task_id\": 1, \"prompt\": \"Hello\", \"output_tokens\": 128}, or with \
             \"input_ids\": [1, 2] for the prompt",
        )
    })?;
    if items.is_empty() {
        return Err(Failure::user(format!("'{}' has no requests", path.display())));
    }
    Ok(items)
}

/// The requests of a text, or the number of a line and what is wrong with it.
fn parse(text: &str, chat: bool) -> Result<Vec<Item>, (usize, String)> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(number, line)| item(line, chat).map_err(|what| (number, what))).collect()
}

fn item(line: &str, chat: bool) -> Result<Item, String> {
    let line: Line = serde_json::from_str(line).map_err(|e| e.to_string())?;
    if line.output_tokens == 0 {
        return Err("output_tokens is 0".to_owned());
    }
    let prompt = match (line.input_ids, line.prompt) {
        (Some(ids), _) if !chat => Prompt::Ids(ids),
        (_, Some(text)) => Prompt::Text(text),
        (Some(_), None) => return Err("a chat takes text, and the line has ids alone".to_owned()),
        (None, None) => return Err("it has neither prompt nor input_ids".to_owned()),
    };
    if prompt.is_empty() {
        return Err("its prompt is empty".to_owned());
    }
    Ok(Item { prompt, output: line.output_tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_in_all_their_forms() {
        let text = r#"{"task_id": 1, "prompt": "Hello", "output_tokens": 128}

{"task_id": "b", "input_ids": [3, 4], "output_tokens": 5}
{"logits": [9], "output_tokens": 6, "prompt": "both"}
"#;
        let ids = |ids: &[u32], output| Item { prompt: Prompt::Ids(ids.to_vec()), output };
        let said = |text: &str, output| Item { prompt: Prompt::Text(text.to_owned()), output };
        assert_eq!(parse(text, false), Ok(vec![said("Hello", 128), ids(&[3, 4], 5), ids(&[9], 6)]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(parse(lines[3], true), Ok(vec![said("both", 6)]));
        assert_eq!(parse(text, true).expect_err("ids alone").0, 3);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told() {
        for (line, word) in [
            ("{", "EOF"),
            ("[]", "invalid"),
            (r#"{"prompt": "a"}"#, "output_tokens"),
            (r#"{"prompt": "a", "output_tokens": 0}"#, "output_tokens is 0"),
            (r#"{"prompt": "a", "output_tokens": -1}"#, "-1"),
            (r#"{"output_tokens": 1}"#, "neither"),
            (r#"{"prompt": "", "output_tokens": 1}"#, "empty"),
            (r#"{"input_ids": [], "output_tokens": 1}"#, "empty"),
            (r#"{"input_ids": [-1], "output_tokens": 1}"#, "-1"),
            (r#"{"prompt": "a", "output_tokens": 1, "media_paths": []}"#, "media_paths"),
        ] {
            let (number, what) = parse(&format!("\n{line}"), false).expect_err(line);
            assert_eq!(number, 2);
            assert!(what.contains(word), "{line}: {what}");
        }
    }
}
