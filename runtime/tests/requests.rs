//! What a request can ask for: log-probabilities, ends, text; and what is refused.

mod support;

use support::{EOS, FakeDevice, VOCAB, dims, file, greedy, logprob, manifest, reference};
use trtc_engine::manifest::{Dims, Text};
use trtc_runtime::{CacheSize, Engine, Event, Fault, Finish, LoadOptions, Request, Sampling, TokenLogprob};

fn engine_with(dims: Dims, tokenizer: Option<&str>) -> Engine {
    let (device, _) = FakeDevice::new();
    let mut manifest = manifest(dims, 4);
    manifest.text = tokenizer.map(|_| Text {
        tokenizer: "tokenizer".into(),
        add_bos: false,
        chat_template: None,
        bos_token: None,
        eos_token: None,
    });
    let options = LoadOptions { cache: CacheSize::Pages(40), ..LoadOptions::default() };
    Engine::with_device(file(&manifest, tokenizer), Box::new(device), &options).unwrap()
}

fn engine() -> Engine {
    engine_with(dims(), None)
}

fn ask(prompt: Vec<u32>, max_tokens: u32) -> Request {
    Request { max_tokens, ignore_eos: true, sampling: Sampling::greedy(), ..Request::new(prompt) }
}

/// Compares with the model's own numbers.
fn assert_logprob(got: &TokenLogprob, row: &[f32], token: u32, top: usize) {
    assert_eq!(got.token, token);
    assert!((f64::from(got.logprob) - logprob(row, token)).abs() < 1e-4, "{got:?}");
    assert_eq!(got.top.len(), top);
    let mut order: Vec<u32> = (0..VOCAB).collect();
    order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
    for (&(token, x), want) in got.top.iter().zip(order) {
        assert_eq!(token, want);
        assert!((f64::from(x) - logprob(row, token)).abs() < 1e-4, "{got:?}");
    }
}

#[test]
fn log_probabilities_are_the_models() {
    // More prompt than rows of logits and tokens of a step; twice, so that the second could reuse pages.
    let mut engine = engine();
    let prompt: Vec<u32> = (0..30).map(|p| p * 7 % 90).collect();
    for round in 0..2 {
        let sampling =
            Sampling { temperature: 1.3, top_k: 5, repetition_penalty: 1.4, ..Sampling::default() };
        let request =
            Request { logprobs: Some(3), prompt_logprobs: Some(2), n: 2, sampling, ..ask(prompt.clone(), 6) };
        let answers = engine.answers([request]).unwrap();
        for answer in &answers {
            let all = [prompt.clone(), answer.tokens.clone()].concat();
            let rows = reference(&all);
            assert_eq!((answer.prompt_logprobs.len(), answer.logprobs.len()), (29, 6));
            for (p, got) in answer.prompt_logprobs.iter().chain(&answer.logprobs).enumerate() {
                assert_logprob(got, &rows[p], all[p + 1], if p < 29 { 2 } else { 3 });
            }
        }
        assert_eq!(engine.stats().reused_tokens, (round + 1) * 28, "only the second answer reuses pages");
    }
    // The chosen token alone.
    let answers = engine.answers([Request { logprobs: Some(0), ..ask(prompt.clone(), 1) }]).unwrap();
    assert_logprob(&answers[0].logprobs[0], &reference(&prompt)[29], greedy(&prompt, 1)[0], 0);
    assert!(answers[0].prompt_logprobs.is_empty());
    assert!(engine.answers([ask(prompt, 1)]).unwrap()[0].logprobs.is_empty());
}

#[test]
fn requests_in_one_step_get_their_own_rows() {
    let mut engine = engine();
    let (a, b, c) = (vec![1, 2, 3, 4], vec![5, 6, 7], vec![8, 9]);
    let requests = [
        Request { prompt_logprobs: Some(0), ..ask(a.clone(), 3) },
        Request { logprobs: Some(0), ..ask(b.clone(), 3) },
        Request { prompt_logprobs: Some(0), ..ask(c.clone(), 3) },
    ];
    let answers = engine.answers(requests).unwrap();
    assert_eq!(engine.stats().prefill.steps, 1);
    for (answer, prompt) in answers.iter().zip([&a, &b, &c]) {
        assert_eq!(answer.tokens, greedy(prompt, 3));
        let rows = reference(prompt);
        for (p, got) in answer.prompt_logprobs.iter().enumerate() {
            assert_logprob(got, &rows[p], prompt[p + 1], 0);
        }
    }
}

#[test]
fn scores_fill_the_longest_sequence() {
    let mut engine = engine();
    let tokens: Vec<u32> = (0..64).map(|p| p * 5 % 90).collect();
    let rows = reference(&tokens);
    let scores = engine.score(tokens.clone()).unwrap();
    assert_eq!(scores.len(), 63);
    for (p, got) in scores.iter().enumerate() {
        assert_logprob(got, &rows[p], tokens[p + 1], 0);
    }
    assert!(engine.score(vec![5]).unwrap().is_empty());
    assert!(engine.is_idle());
}

#[test]
fn stop_tokens_end_an_answer_and_are_not_part_of_it() {
    let mut engine = engine();
    let prompt = vec![4, 2];
    let all = greedy(&prompt, 10);
    let at = (1..10).find(|&i| !all[..i].contains(&all[i])).unwrap();
    let request = Request { stop_ids: vec![all[at]], ..ask(prompt.clone(), 10) };
    let answers = engine.answers([request.clone()]).unwrap();
    assert_eq!((&answers[0].tokens[..], answers[0].finish), (&all[..at], Finish::Stop));
    // As the first token: an empty answer.
    let request = Request { stop_ids: vec![all[0]], ..request };
    let answers = engine.answers([request.clone()]).unwrap();
    assert_eq!((&answers[0].tokens[..], answers[0].finish), (&[][..], Finish::Stop));
    // `min_tokens` bans it from the first two places; it may come third.
    let answers = engine.answers([Request { min_tokens: 2, ..request }]).unwrap();
    assert!(answers[0].tokens.len() >= 2 && !answers[0].tokens.contains(&all[0]));
}

/// Token `i` is the text `<i>`.
fn tokenizer() -> String {
    let vocab: Vec<String> = (0..VOCAB).map(|t| format!("\"<{t}>\":{t}")).collect();
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":null,"post_processor":null,"decoder":{{"type":"Fuse"}},
        "model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"<0>"}}}}"#,
        vocab.join(",")
    )
}

fn text(tokens: &[u32]) -> String {
    tokens.iter().map(|t| format!("<{t}>")).collect()
}

#[test]
fn text_comes_with_its_tokens() {
    let mut engine = engine_with(dims(), Some(&tokenizer()));
    let all = greedy(&[1, 2], 8);
    let events: Vec<Event> = engine.generate([ask(vec![1, 2], 8)]).collect::<Result<_, _>>().unwrap();
    assert_eq!(events.len(), 9);
    let joined: String = events
        .iter()
        .map(|e| match e {
            Event::Token { text, .. } | Event::Done { text, .. } => text.as_str(),
            Event::Prompt { .. } => panic!("not asked for"),
        })
        .collect();
    assert_eq!(joined, text(&all));
    assert_eq!(engine.encode("<17>").unwrap(), [17]);
}

#[test]
fn stop_strings_end_an_answer_before_them() {
    let mut engine = engine_with(dims(), Some(&tokenizer()));
    let all = greedy(&[1, 2], 10);
    // From the last character of token 3 into token 4.
    let whole = text(&all[..4]);
    let stop = format!(">{}", &text(&all[4..5])[..2]);
    let first = text(&all).find(&stop).unwrap();
    let request = Request { stop: vec!["never".into(), stop], ..ask(vec![1, 2], 10) };
    let answers = engine.answers([request.clone()]).unwrap();
    assert_eq!((answers[0].text.as_str(), answers[0].finish), (&text(&all)[..first], Finish::Stop));
    assert!(first < whole.len());
    // Up to the token that completed it.
    let complete = (1..=10).find(|&n| text(&all[..n]).len() >= first + 3).unwrap();
    assert_eq!(answers[0].tokens, all[..complete]);
    // A text that only begins like a stop string comes in the end.
    let tail = format!("{}never", text(&all[9..]));
    let answers = engine.answers([Request { stop: vec![tail], ..request.clone() }]).unwrap();
    assert_eq!((answers[0].text.clone(), answers[0].finish), (text(&all), Finish::Length));
    // Not before `min_tokens`.
    let answers = engine.answers([Request { min_tokens: 10, ..request }]).unwrap();
    assert_eq!(answers[0].tokens.len(), 10);
}

#[test]
fn what_cannot_be_answered_is_refused_and_the_engine_goes_on() {
    let mut engine = engine_with(Dims { max_batch: 2, ..dims() }, None);
    let ok = || ask(vec![1, 2, 3], 5);
    let sampling = |f: &dyn Fn(&mut Sampling)| {
        let mut s = Sampling::default();
        f(&mut s);
        Request { sampling: s, ..ok() }
    };
    let nan = f32::NAN;
    let refused: Vec<(Request, &str)> = vec![
        (ask(vec![], 5), "the prompt is empty"),
        (ask(vec![1, VOCAB], 5), "token 1 of the prompt is 96, the vocabulary has 96"),
        (ask(vec![1, u32::MAX], 5), "token 1 of the prompt is 4294967295"),
        (ask(vec![1; 64], 5), "the prompt has 64 tokens, this engine takes 63"),
        (ask(vec![1; 3], 0), "max_tokens is 0"),
        (
            Request { prompt_logprobs: Some(1), n: 2, ..ask(vec![1], 0) },
            "max_tokens is 0 and several answers are",
        ),
        (
            Request { prompt_logprobs: Some(0), logprobs: Some(0), ..ask(vec![1], 0) },
            "max_tokens is 0 and logprobs",
        ),
        (Request { prompt_logprobs: Some(0), ..ask(vec![1; 65], 0) }, "the prompt has 65 tokens"),
        (Request { min_tokens: 6, ..ok() }, "min_tokens is 6, more than max_tokens, which is 5"),
        (Request { min_tokens: 62, ..ask(vec![1; 3], 90) }, "min_tokens is 62, there is room for 61"),
        (Request { n: 0, ..ok() }, "n is 0"),
        (Request { n: 1_000_000, ..ok() }, "n is 1000000"),
        (Request { stop_ids: vec![EOS, VOCAB], ..ok() }, "stop_ids names token 96"),
        (Request { stop: vec![String::new()], ..ok() }, "a stop string is empty"),
        (Request { stop: vec!["x".into()], ..ok() }, "the engine has no tokenizer"),
        (Request { logprobs: Some(97), ..ok() }, "logprobs asks for 97 alternatives"),
        (Request { prompt_logprobs: Some(97), ..ok() }, "prompt_logprobs asks for 97 alternatives"),
        (sampling(&|s| s.temperature = -0.1), "temperature is -0.1"),
        (sampling(&|s| s.temperature = nan), "temperature is NaN"),
        (sampling(&|s| s.top_p = 0.0), "top_p is 0"),
        (sampling(&|s| s.min_p = 1.5), "min_p is 1.5"),
        (sampling(&|s| s.repetition_penalty = 0.0), "repetition_penalty is 0"),
        (sampling(&|s| s.presence_penalty = 3.0), "presence_penalty is 3"),
        (sampling(&|s| s.frequency_penalty = nan), "frequency_penalty is NaN"),
        (sampling(&|s| s.logit_bias = vec![(VOCAB, 1.0)]), "logit_bias names token 96"),
        (sampling(&|s| s.logit_bias = vec![(3, nan)]), "logit_bias is NaN"),
    ];
    let first = engine.submit(ok()).unwrap();
    for (request, message) in refused {
        let error = engine.submit(request.clone()).unwrap_err();
        assert_eq!(error.fault, Fault::User, "{error}");
        assert!(error.message.contains(message), "{error} / {message}");
    }
    assert_eq!(engine.submit(ok()).unwrap(), first + 1, "refused requests take no number");
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    assert_eq!(engine.stats().requests, 2);
    let error = engine.encode("text").unwrap_err();
    assert_eq!(error.message, "the engine has no tokenizer");
}

#[test]
fn a_request_that_never_fits_into_the_cache_is_refused() {
    let (device, _) = FakeDevice::new();
    let options = LoadOptions { cache: CacheSize::Pages(3), ..LoadOptions::default() };
    let mut engine =
        Engine::with_device(file(&manifest(dims(), 4), None), Box::new(device), &options).unwrap();
    let error = engine.submit(ask(vec![1; 8], 6)).unwrap_err();
    assert_eq!(error.message, "the request needs 13 tokens of KV cache (prompt 8), the cache holds 12");
    let answers = engine.answers([ask(vec![1; 8], 5)]).unwrap();
    assert_eq!(answers[0].tokens, greedy(&[1; 8], 5));
}
