//! What is asked: prompts, random or of a file, and the bodies of requests that carry them. Nothing is sent here.

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use trtc_ir::random::Random;

/// Words of prompts that are text. They are common and short: most tokenizers have a token for each with a space before.
const WORDS: [&str; 64] = [
    "about", "after", "again", "air", "all", "also", "and", "any", "area", "back", "because", "before",
    "best", "book", "but", "can", "car", "city", "come", "day", "door", "down", "each", "end", "even",
    "find", "first", "food", "from", "give", "good", "great", "hand", "have", "head", "help", "here", "high",
    "home", "house", "into", "just", "keep", "know", "last", "life", "light", "long", "make", "many", "more",
    "most", "name", "never", "new", "night", "now", "open", "other", "over", "part", "people", "place",
    "water",
];

/// What a request is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Endpoint {
    /// /v1/completions
    Completions,
    /// /v1/chat/completions
    Chat,
}

impl Endpoint {
    /// Its path behind `/v1`.
    pub fn path(self) -> &'static str {
        match self {
            Endpoint::Completions => "/completions",
            Endpoint::Chat => "/chat/completions",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl Prompt {
    pub fn is_empty(&self) -> bool {
        match self {
            Prompt::Text(text) => text.is_empty(),
            Prompt::Ids(ids) => ids.is_empty(),
        }
    }

    /// Tokens, as far as they are known without a tokenizer: of a text the number of its words.
    pub fn tokens(&self) -> u64 {
        match self {
            Prompt::Text(text) => text.split_whitespace().count() as u64,
            Prompt::Ids(ids) => ids.len() as u64,
        }
    }
}

/// A prompt and how many tokens its answer may have.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub prompt: Prompt,
    pub output: u32,
}

/// What random prompts consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// Token ids below this.
    Ids(u32),
    /// Words of English.
    Words,
}

/// Lengths of random prompts and their answers, in tokens (of text: words).
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    pub input: u32,
    pub output: u32,
    /// Lengths are uniform in `len * (1 - ratio) ..= len * (1 + ratio)`.
    pub ratio: f64,
    /// What all prompts begin with, besides.
    pub prefix: u32,
}

/// Random requests. The same seed gives the same ones, and more of them begin with those that fewer are.
pub fn random(alphabet: Alphabet, lengths: Lengths, seed: u64, count: usize) -> Vec<Item> {
    let prefix = draw(lengths.prefix, alphabet, &mut Random::named(seed, "prefix"));
    let (mut sizes, mut prompts) = (Random::named(seed, "lengths"), Random::named(seed, "prompts"));
    let one = |_| {
        let (input, output) = (
            length(lengths.input, lengths.ratio, &mut sizes),
            length(lengths.output, lengths.ratio, &mut sizes),
        );
        let mut drawn = prefix.clone();
        drawn.extend(draw(input, alphabet, &mut prompts));
        let prompt = match alphabet {
            Alphabet::Ids(_) => Prompt::Ids(drawn),
            Alphabet::Words => {
                Prompt::Text(drawn.iter().map(|&i| WORDS[i as usize]).collect::<Vec<_>>().join(" "))
            }
        };
        Item { prompt, output }
    };
    (0..count).map(one).collect()
}

/// Ids, or places in the list of words.
fn draw(count: u32, alphabet: Alphabet, random: &mut Random) -> Vec<u32> {
    let below = match alphabet {
        Alphabet::Ids(vocab) => u64::from(vocab),
        Alphabet::Words => WORDS.len() as u64,
    };
    (0..count).map(|_| random.below(below) as u32).collect()
}

/// Uniform around `len`, 1 at least.
fn length(len: u32, ratio: f64, random: &mut Random) -> u32 {
    let low = (f64::from(len) * (1.0 - ratio)).floor().max(1.0);
    let high = (f64::from(len) * (1.0 + ratio)).ceil().clamp(low, f64::from(u32::MAX));
    (low as u64 + random.below((high - low) as u64 + 1)) as u32
}

/// What is the same in every body.
#[derive(Clone, Debug)]
pub struct Form {
    pub endpoint: Endpoint,
    pub model: String,
    pub ignore_eos: bool,
    /// Alternatives whose log-probabilities are asked for.
    pub logprobs: Option<u32>,
    /// Fields that are added, or that replace others.
    pub extra: Map<String, Value>,
}

impl Form {
    /// The body of a request.
    pub fn body(&self, item: &Item) -> Value {
        let mut body = json!({
            "model": self.model,
            "temperature": 0,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let prompt = match &item.prompt {
            Prompt::Text(text) => json!(text),
            Prompt::Ids(ids) => json!(ids),
        };
        match self.endpoint {
            Endpoint::Completions => {
                body["prompt"] = prompt;
                body["max_tokens"] = item.output.into();
            }
            Endpoint::Chat => {
                body["messages"] = json!([{ "role": "user", "content": prompt }]);
                body["max_completion_tokens"] = item.output.into();
            }
        }
        // Only where it is wanted: it is no field of OpenAI's.
        if self.ignore_eos {
            body["ignore_eos"] = true.into();
        }
        match (self.logprobs, self.endpoint) {
            (None, _) => {}
            (Some(n), Endpoint::Completions) => body["logprobs"] = n.into(),
            (Some(n), Endpoint::Chat) => {
                body["logprobs"] = true.into();
                body["top_logprobs"] = n.into();
            }
        }
        for (name, value) in &self.extra {
            body[name] = value.clone();
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: Lengths = Lengths { input: 10, output: 20, ratio: 0.0, prefix: 0 };

    #[test]
    fn random_prompts_have_their_lengths_and_valid_ids() {
        let items = random(Alphabet::Ids(7), LENGTHS, 1, 50);
        for item in &items {
            let Prompt::Ids(ids) = &item.prompt else { panic!("ids are asked for") };
            assert_eq!((ids.len(), item.output), (10, 20));
            assert!(ids.iter().all(|&id| id < 7));
        }
        assert_eq!(items, random(Alphabet::Ids(7), LENGTHS, 1, 50));
        assert_ne!(items, random(Alphabet::Ids(7), LENGTHS, 2, 50));
        assert_eq!(items[..20], random(Alphabet::Ids(7), LENGTHS, 1, 20));
        let words = random(Alphabet::Words, LENGTHS, 1, 3);
        assert!(words.iter().all(|i| i.prompt.tokens() == 10 && matches!(i.prompt, Prompt::Text(_))));
    }

    #[test]
    fn a_ratio_spreads_lengths_over_its_range_and_a_prefix_is_shared() {
        let lengths = Lengths { ratio: 0.25, prefix: 4, ..LENGTHS };
        let items = random(Alphabet::Ids(1000), lengths, 3, 400);
        let ids = |i: &Item| match &i.prompt {
            Prompt::Ids(ids) => ids.clone(),
            Prompt::Text(_) => Vec::new(),
        };
        let bounds = |all: Vec<u64>| (all.iter().min().copied(), all.iter().max().copied());
        // 10 * 0.75 is 7.5 and 10 * 1.25 is 12.5: rounded outwards.
        assert_eq!(bounds(items.iter().map(|i| i.prompt.tokens()).collect()), (Some(4 + 7), Some(4 + 13)));
        assert_eq!(bounds(items.iter().map(|i| u64::from(i.output)).collect()), (Some(15), Some(25)));
        assert!(items.iter().all(|i| ids(i)[..4] == ids(&items[0])[..4]));
        assert!(items[1..].iter().all(|i| ids(i)[4..11] != ids(&items[0])[4..11]));
        let mut random = Random::new(1);
        assert!((0..99).all(|_| length(1, 0.9, &mut random) >= 1));
        assert!((0..99).all(|_| length(u32::MAX, 0.0, &mut random) == u32::MAX));
    }

    #[test]
    fn bodies_are_as_each_endpoint_takes_them() {
        let mut form = Form {
            endpoint: Endpoint::Completions,
            model: "m".to_owned(),
            ignore_eos: true,
            logprobs: Some(0),
            extra: Map::new(),
        };
        let item = Item { prompt: Prompt::Ids(vec![1, 2]), output: 3 };
        let common = json!({
            "model": "m", "temperature": 0, "stream": true, "stream_options": { "include_usage": true },
        });
        let with = |more: Value| {
            let mut all = common.clone();
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        let want = json!({ "prompt": [1, 2], "max_tokens": 3, "ignore_eos": true, "logprobs": 0 });
        assert_eq!(form.body(&item), with(want));
        form.endpoint = Endpoint::Chat;
        form.ignore_eos = false;
        form.extra.insert("temperature".to_owned(), json!(0.5));
        let item = Item { prompt: Prompt::Text("hi".to_owned()), output: 3 };
        let want = json!({
            "messages": [{ "role": "user", "content": "hi" }], "max_completion_tokens": 3, "logprobs": true,
            "top_logprobs": 0, "temperature": 0.5,
        });
        assert_eq!(form.body(&item), with(want));
    }
}
