//! Answers that are held to grammars: whoever chooses their tokens, and whatever shares their steps, they are what the hash
//! model gives where only a grammar's tokens may be chosen.

mod support;

use std::sync::{Arc, Mutex};
use support::{EOS, FakeDevice, Log, VOCAB, file, manifest, reference, sampling};
use trtc_engine::manifest::{Dims, Text};
use trtc_runtime::grammar::{Grammar, GrammarSpec};
use trtc_runtime::{CacheSize, Engine, Event, Finish, LoadOptions, Request, Sampling};

/// Who chooses tokens; see `answers.rs`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Host,
    Device,
    Ahead,
}

const MODES: [Mode; 3] = [Mode::Host, Mode::Device, Mode::Ahead];

/// Room for more masks than one thread makes.
const DIMS: Dims = Dims { max_batch: 12, max_seq_len: 64, max_step_tokens: 24, max_logit_rows: 16 };

/// Printable characters, one a token, and one that ends an answer.
fn tokenizer() -> String {
    let text = |t: u32| char::from(b' ' + t as u8).to_string();
    let vocab: serde_json::Map<String, serde_json::Value> =
        (0..EOS).map(|t| (text(t), t.into())).chain([("</s>".to_owned(), EOS.into())]).collect();
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": { "type": "Fuse" },
        "added_tokens": [{ "id": EOS, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true }],
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": " " },
    })
    .to_string()
}

fn engine_on(mut device: FakeDevice, mode: Mode, pages: u32, deterministic: bool) -> Engine {
    device.ahead = mode == Mode::Ahead;
    let options = LoadOptions { cache: CacheSize::Pages(pages), threads: Some(3), ..LoadOptions::default() };
    let plain = manifest(DIMS, 4);
    let mut manifest = if mode == Mode::Host { plain } else { sampling(plain) };
    manifest.deterministic = deterministic;
    manifest.text = Some(Text {
        tokenizer: "tokenizer".into(),
        add_bos: false,
        chat_template: None,
        bos_token: None,
        eos_token: None,
    });
    Engine::with_device(file(&manifest, Some(&tokenizer())), Box::new(device), &options).unwrap()
}

fn engine(mode: Mode, pages: u32) -> (Engine, Arc<Mutex<Log>>) {
    let (device, log) = FakeDevice::new();
    (engine_on(device, mode, pages, false), log)
}

fn specs() -> Vec<GrammarSpec> {
    vec![
        GrammarSpec::Regex("([a-m]{4}-){1,3}[0-9]{6}".into()),
        GrammarSpec::Choice(vec!["yes, of course".into(), "no".into(), "not at all".into()]),
        GrammarSpec::Regex("[ -~]{9,40}!".into()),
        GrammarSpec::Regex("[xyz]{2,}".into()),
    ]
}

fn ask(prompt: Vec<u32>, max_tokens: u32, grammar: Option<Grammar>) -> Request {
    Request { max_tokens, grammar, sampling: Sampling::greedy(), ..Request::new(prompt) }
}

/// The most likely answer of the tokens that the grammar allows, and how it ends.
fn expected(prompt: &[u32], most: usize, grammar: &Grammar) -> (Vec<u32>, Finish) {
    let (mut all, mut matcher) = (prompt.to_vec(), grammar.matcher());
    let answer = |all: &[u32]| all[prompt.len()..].to_vec();
    while all.len() < prompt.len() + most {
        let row = reference(&all).pop().unwrap();
        let mask = matcher.mask().unwrap();
        let may = (0..VOCAB).filter(|t| mask[*t as usize / 32] >> (t % 32) & 1 == 1);
        let best = may.max_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize])).unwrap();
        if best == EOS {
            return (answer(&all), Finish::Stop);
        }
        all.push(best);
        matcher.accept(best).unwrap();
        if matcher.is_over().unwrap() {
            return (answer(&all), Finish::Stop);
        }
    }
    (answer(&all), Finish::Length)
}

/// Requests with and without grammars, with prompts of several chunks, those that draw besides.
fn load(engine: &Engine) -> Vec<Request> {
    let grammars: Vec<Grammar> =
        specs().iter().map(|s| engine.grammars().unwrap().compile(s).unwrap()).collect();
    (0..14u32)
        .map(|i| {
            let prompt = (0..3 + i * 7 % 30).map(|p| (p * 5 + i) % 90).collect();
            let grammar = grammars.get(i as usize % 5).cloned();
            let drawn = Sampling { seed: Some(u64::from(i)), ..Sampling::default() };
            let sampling = if i % 3 == 2 { drawn } else { Sampling::greedy() };
            Request { sampling, ..ask(prompt, 22, grammar) }
        })
        .collect()
}

#[test]
fn answers_are_the_same_whoever_chooses_and_whatever_shares_the_step() {
    let (mut alone, _) = engine(Mode::Host, 64);
    let requests = load(&alone);
    let mut want = Vec::new();
    for request in &requests {
        let answer = alone.answers([request.clone()]).unwrap().remove(0);
        if let (Some(grammar), 0.0) = (&request.grammar, request.sampling.temperature) {
            let expected = expected(&request.prompt, 22, grammar);
            assert_eq!((&answer.tokens, answer.finish), (&expected.0, expected.1));
        }
        want.push((answer.tokens, answer.text, answer.finish));
    }
    assert!([Finish::Stop, Finish::Length].iter().all(|f| want.iter().any(|w| w.2 == *f)));
    for mode in MODES {
        // Enough pages for all, and so few that answers are preempted.
        for (pages, deterministic) in [(256, false), (256, true), (30, false), (30, true)] {
            let (device, _) = FakeDevice::new();
            let mut engine = engine_on(device, mode, pages, deterministic);
            let answers = engine.answers(load(&engine)).unwrap();
            let got: Vec<_> = answers.into_iter().map(|a| (a.tokens, a.text, a.finish)).collect();
            assert_eq!(got, want, "{mode:?} {pages} {deterministic}");
            assert_eq!(engine.stats().preemptions > 0, pages < 256, "{mode:?}");
            assert_eq!(engine.stats().pages_held, 0);
        }
    }
}

#[test]
fn logits_of_the_next_step_are_computed_before_a_token_is_read() {
    for mode in [Mode::Device, Mode::Ahead] {
        let (mut engine, log) = engine(mode, 64);
        let grammar = engine.grammars().unwrap().compile(&specs()[2]).unwrap();
        let (prompt, other): (Vec<u32>, Vec<u32>) = ((0..10).collect(), (5..9).collect());
        engine.submit(ask(prompt.clone(), 6, Some(grammar.clone()))).unwrap();
        engine.submit(Request { ignore_eos: true, ..ask(other, 4, None) }).unwrap();
        let (mut started, mut got) = (Vec::new(), Vec::new());
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                if let Event::Token { id, token, .. } = event
                    && id.request == 0
                {
                    got.push(token);
                }
            }
            started.push(log.lock().unwrap().steps.len());
        }
        assert_eq!(got, expected(&prompt, 6, &grammar).0);
        // As without a grammar.
        assert_eq!(started, [2, 3, 4, 5, 6, 6], "{mode:?}");
        // The logits of decode steps are recorded without the choice, of two requests and of one.
        let log = log.lock().unwrap();
        assert_eq!(log.replays, 5, "{mode:?}");
    }
}

#[test]
fn penalties_and_bans_go_with_a_grammar() {
    let request = |engine: &Engine, i: usize| {
        let grammar = engine.grammars().unwrap().compile(&specs()[3]).unwrap();
        let plain = ask(vec![7, 3, i as u32], 12, Some(grammar));
        let penalty = Sampling { presence_penalty: 1.5, frequency_penalty: 0.5, ..Sampling::greedy() };
        match i % 4 {
            0 => Request { sampling: penalty, ..plain },
            // Stop tokens are banned at first, then the device chooses.
            1 => Request { min_tokens: 6, ..plain },
            2 => Request { logprobs: Some(3), ..plain },
            _ => Request { logprobs: Some(0), prompt_logprobs: Some(1), ..plain },
        }
    };
    let (mut alone, _) = engine(Mode::Host, 64);
    for mode in MODES {
        let (mut engine, _) = engine(mode, 256);
        let requests: Vec<Request> = (0..8).map(|i| request(&engine, i)).collect();
        for (answer, request) in engine.answers(requests.clone()).unwrap().into_iter().zip(requests) {
            let want = alone.answers([request.clone()]).unwrap().remove(0);
            assert_eq!((&answer.tokens, answer.finish), (&want.tokens, want.finish), "{mode:?}");
            assert!(answer.tokens.len() >= request.min_tokens as usize && answer.tokens.len() >= 2);
            assert_eq!(answer.prompt_logprobs, want.prompt_logprobs);
            assert_eq!(answer.logprobs.len(), want.logprobs.len());
            for (a, b) in answer.logprobs.iter().zip(&want.logprobs) {
                assert!(
                    a.token == b.token && (a.logprob - b.logprob).abs() < 1e-5 && a.top == b.top,
                    "{a:?} {b:?}"
                );
            }
        }
    }
    // A choice whose only continuation is banned ends.
    for mode in MODES {
        let (mut engine, _) = engine(mode, 64);
        let grammar = engine.grammars().unwrap().compile(&GrammarSpec::Regex("ab".into())).unwrap();
        let request = Request { min_tokens: 9, ..ask(vec![1], 12, Some(grammar)) };
        let answer = engine.answers([request]).unwrap().remove(0);
        assert_eq!((answer.text.as_str(), answer.finish), ("ab", Finish::Stop), "{mode:?}");
    }
}

#[test]
fn a_step_that_fails_in_either_part_can_be_tried_again() {
    for mode in [Mode::Device, Mode::Ahead] {
        for good in 0..4 {
            let (mut engine, log) = engine(mode, 64);
            let grammar = engine.grammars().unwrap().compile(&specs()[0]).unwrap();
            let prompts: [Vec<u32>; 2] = [(0..20).collect(), (5..9).collect()];
            for prompt in &prompts {
                engine.submit(ask(prompt.clone(), 15, Some(grammar.clone()))).unwrap();
            }
            let (mut got, mut errors) = ([Vec::new(), Vec::new()], 0);
            for step in 0.. {
                if engine.is_idle() {
                    break;
                }
                if step % 3 == 1 {
                    let mut log = log.lock().unwrap();
                    (log.good, log.fail) = (good, 1);
                }
                match engine.step() {
                    Ok(events) => events.iter().for_each(|e| {
                        if let Event::Token { id, token, .. } = e {
                            got[id.request as usize].push(*token);
                        }
                    }),
                    Err(_) => errors += 1,
                }
            }
            assert!(errors > 2, "{mode:?} {good}: {errors}");
            assert_eq!(got, prompts.map(|p| expected(&p, 15, &grammar).0), "{mode:?} {good}");
            assert_eq!(engine.stats().pages_held, 0);
        }
    }
}

#[test]
fn a_token_that_no_grammar_allows_loses_the_answer_and_no_other() {
    let (mut device, _) = FakeDevice::new();
    device.no_masks = true;
    let mut engine = engine_on(device, Mode::Device, 64, false);
    let grammar = engine.grammars().unwrap().compile(&specs()[1]).unwrap();
    let free = Request { ignore_eos: true, ..ask(vec![4, 5], 9, None) };
    let answers = engine.answers([ask((0..20).collect(), 9, Some(grammar)), free]).unwrap();
    assert_eq!(answers[0].finish, Finish::Lost);
    assert_eq!((answers[1].finish, &answers[1].tokens), (Finish::Length, &support::greedy(&[4, 5], 9)));
    assert_eq!(engine.stats().pages_held, 0);
}
