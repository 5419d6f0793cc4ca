//! Answers are the same alone, batched, in chunks, after preemption and with reused prefixes: all against the hash
//! model computed directly, without cache or steps.

mod support;

use proptest::prelude::*;
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use support::{FakeDevice, Log, best, dims, file, greedy, manifest, sampling};
use trtc_engine::manifest::Dims;
use trtc_runtime::{Answer, CacheSize, Engine, Event, Finish, LoadOptions, Request, Sampling};

/// Who chooses tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// The host, from logits.
    Host,
    /// The device; steps are started before the tokens of the one before are read.
    Device,
    /// Likewise, with decode steps recorded when the engine is loaded, for more requests than there may be.
    Ahead,
}

fn engine_in(
    mode: Mode,
    dims: Dims,
    page_tokens: u32,
    pages: u32,
    prefix_cache: bool,
) -> (Engine, Arc<Mutex<Log>>) {
    let (mut device, log) = FakeDevice::new();
    device.ahead = mode == Mode::Ahead;
    let options = LoadOptions { cache: CacheSize::Pages(pages), prefix_cache, ..LoadOptions::default() };
    let plain = manifest(dims, page_tokens);
    let manifest = if mode == Mode::Host { plain } else { sampling(plain) };
    (Engine::with_device(file(&manifest, None), Box::new(device), &options).unwrap(), log)
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Host) };
}

/// Runs a test in every mode.
fn in_every_mode(test: impl Fn()) {
    for mode in [Mode::Host, Mode::Device, Mode::Ahead] {
        MODE.set(mode);
        test();
    }
    MODE.set(Mode::Host);
}

fn engine(dims: Dims, page_tokens: u32, pages: u32, prefix_cache: bool) -> (Engine, Arc<Mutex<Log>>) {
    engine_in(MODE.get(), dims, page_tokens, pages, prefix_cache)
}

fn ask(prompt: Vec<u32>, max_tokens: u32) -> Request {
    Request { max_tokens, ignore_eos: true, sampling: Sampling::greedy(), ..Request::new(prompt) }
}

fn tokens(answers: &[Answer]) -> Vec<Vec<u32>> {
    answers.iter().map(|a| a.tokens.clone()).collect()
}

#[test]
fn one_answer_is_the_models() {
    let (mut engine, log) = engine(dims(), 4, 64, true);
    let prompt: Vec<u32> = (0..23).collect();
    let answers = engine.answers([ask(prompt.clone(), 20)]).unwrap();
    assert_eq!(answers[0].tokens, greedy(&prompt, 20));
    assert_eq!(answers[0].finish, Finish::Length);
    // Two chunks of the prompt, then one step a token; the decode steps are one recording.
    let log = log.lock().unwrap();
    assert_eq!(log.steps.iter().map(|d| d.tokens).collect::<Vec<_>>()[..3], [16, 7, 1]);
    assert_eq!((log.records, log.replays, log.steps.len()), (1, 19, 21));
    let stats = engine.stats();
    assert_eq!((stats.prefill.steps, stats.prefill.tokens), (2, 23));
    assert_eq!((stats.decode.steps, stats.decode.tokens), (19, 19));
    assert_eq!((stats.requests, stats.prompt_tokens, stats.answer_tokens), (1, 23, 20));
    assert_eq!((stats.running, stats.waiting, stats.pages_held), (0, 0, 0));
    assert!(engine.is_idle());
}

#[test]
fn a_step_is_started_before_the_one_before_is_read() {
    for (mode, records) in [(Mode::Device, 2), (Mode::Ahead, 3)] {
        let (mut engine, log) = engine_in(mode, dims(), 4, 64, true);
        let steps = || log.lock().unwrap().steps.len();
        let (a, b): (Vec<u32>, Vec<u32>) = ((0..10).collect(), (5..9).collect());
        let first = engine.submit(ask(a.clone(), 6)).unwrap();
        let second = engine.submit(ask(b.clone(), 4)).unwrap();
        let mut got = [Vec::new(), Vec::new()];
        let mut started = Vec::new();
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                if let Event::Token { id, token, .. } = event {
                    got[usize::from(id.request == second)].push(token);
                }
            }
            started.push(steps());
        }
        assert_eq!(got, [greedy(&a, 6), greedy(&b, 4)], "{first}");
        // One step ahead until both lengths are reached, of which the host knows.
        assert_eq!(started, [2, 3, 4, 5, 6, 6]);
        let log = log.lock().unwrap();
        assert_eq!(log.records, records);
        assert_eq!(log.steps.iter().map(|d| d.seqs).collect::<Vec<_>>(), [2, 2, 2, 2, 1, 1]);
    }
}

#[test]
fn a_device_without_graphs_gives_the_same() {
    let (mut device, log) = FakeDevice::new();
    device.no_graphs = true;
    let file = file(&manifest(dims(), 4), None);
    let mut engine = Engine::with_device(file, Box::new(device), &LoadOptions::default()).unwrap();
    let answers = engine.answers([ask(vec![3, 1, 4], 9)]).unwrap();
    assert_eq!(answers[0].tokens, greedy(&[3, 1, 4], 9));
    assert_eq!(log.lock().unwrap().replays, 0);
}

#[test]
fn answers_end_at_the_longest_sequence() {
    in_every_mode(|| {
        let (mut engine, _) = engine(dims(), 4, 16, true);
        let prompt: Vec<u32> = (0..60).collect();
        let answers = engine.answers([ask(prompt.clone(), 20), ask(prompt[..5].to_vec(), 500)]).unwrap();
        assert_eq!(tokens(&answers), [greedy(&prompt, 4), greedy(&prompt[..5], 59)]);
        assert!(answers.iter().all(|a| a.finish == Finish::Length));
    });
}

#[test]
fn preempted_answers_go_on_where_they_were() {
    in_every_mode(|| {
        // Four sequences that end with 10 pages each share 12.
        for prefix_cache in [true, false] {
            let (mut engine, _) = engine(dims(), 4, 12, prefix_cache);
            let prompts: Vec<Vec<u32>> = (0..4).map(|i| vec![i, 7, i, 9, i]).collect();
            let answers = engine.answers(prompts.iter().map(|p| ask(p.clone(), 35))).unwrap();
            for (prompt, answer) in prompts.iter().zip(&answers) {
                assert_eq!(answer.tokens, greedy(prompt, 35));
            }
            let stats = engine.stats();
            assert!(stats.preemptions > 2, "{stats:?}");
            assert_eq!(stats.answer_tokens, 4 * 35);
        }
    });
}

#[test]
fn prefixes_are_computed_once() {
    in_every_mode(|| {
        let (mut engine, _) = engine(dims(), 4, 64, true);
        let prompt: Vec<u32> = (10..50).collect();
        let mut again = prompt.clone();
        again.extend([1, 2]);
        let cached = |engine: &mut Engine, prompt: &[u32]| {
            let answer = engine.answers([ask(prompt.to_vec(), 5)]).unwrap().remove(0);
            assert_eq!(answer.tokens, greedy(prompt, 5));
            answer.cached
        };
        assert_eq!(cached(&mut engine, &prompt), 0);
        assert_eq!(engine.stats().reused_tokens, 0);
        assert_eq!(cached(&mut engine, &again), 40);
        assert_eq!(engine.stats().reused_tokens, 40);
        // What was answered is a prefix too.
        again.extend(greedy(&again, 4));
        again.push(3);
        assert_eq!(cached(&mut engine, &again), 44);
        assert_eq!(engine.stats().reused_tokens, 40 + 44);
    });
}

#[test]
fn several_answers_are_the_ones_of_several_requests() {
    in_every_mode(|| {
        for prefix_cache in [true, false] {
            let (mut engine, _) = engine(dims(), 4, 64, prefix_cache);
            let prompt: Vec<u32> = (20..33).collect();
            let sampling = Sampling { temperature: 0.8, seed: Some(40), ..Sampling::default() };
            let request = Request { n: 6, sampling: sampling.clone(), ..ask(prompt, 12) };
            let together = engine.answers([request.clone()]).unwrap();
            assert_eq!(together.iter().map(|a| a.id.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
            let reused = engine.stats().reused_tokens;
            assert_eq!(reused, if prefix_cache { 5 * 12 } else { 0 });
            for (i, answer) in together.iter().enumerate() {
                let sampling = Sampling { seed: Some(40 + i as u64), ..sampling.clone() };
                let alone = engine.answers([Request { n: 1, sampling, ..request.clone() }]).unwrap();
                assert_eq!(answer.tokens, alone[0].tokens, "answer {i}");
            }
            assert!(together.windows(2).all(|w| w[0].tokens != w[1].tokens), "seeds matter");
        }
    });
}

#[test]
fn a_device_error_is_reported_and_the_step_can_be_tried_again() {
    in_every_mode(|| {
        let (mut engine, log) = engine(dims(), 4, 64, true);
        let (a, b): (Vec<u32>, Vec<u32>) = ((0..20).collect(), (5..9).collect());
        let ids = [engine.submit(ask(a.clone(), 6)).unwrap(), engine.submit(ask(b.clone(), 6)).unwrap()];
        let (mut got, mut errors, mut steps) = ([Vec::new(), Vec::new()], 0, 0);
        while !engine.is_idle() {
            steps += 1;
            log.lock().unwrap().fail = usize::from(steps % 3 == 1);
            match engine.step() {
                Ok(events) => events.iter().for_each(|e| {
                    if let Event::Token { id, token, .. } = e {
                        got[usize::from(id.request == ids[1])].push(*token);
                    }
                }),
                Err(e) => {
                    assert_eq!(e.message, "the device fell over");
                    errors += 1;
                }
            }
        }
        assert!(errors > 2);
        assert_eq!(got, [greedy(&a, 6), greedy(&b, 6)]);
    });
}

#[test]
fn cancelling_ends_one_request_and_no_other() {
    in_every_mode(|| {
        let (mut engine, _) = engine(dims(), 4, 64, true);
        let a = engine.submit(Request { n: 2, ..ask(vec![1; 9], 30) }).unwrap();
        let b = engine.submit(ask(vec![2; 9], 8)).unwrap();
        let mut events = Vec::new();
        for _ in 0..4 {
            events.extend(engine.step().unwrap());
        }
        assert!(engine.cancel(a));
        assert!(!engine.cancel(a), "it has ended");
        assert!(!engine.cancel(77));
        while !engine.is_idle() {
            events.extend(engine.step().unwrap());
        }
        let ends: Vec<_> =
            events.iter().filter(|e| matches!(e, Event::Done { .. }) && e.id().request == a).collect();
        assert_eq!(ends.len(), 2);
        assert!(ends.iter().all(|e| matches!(e, Event::Done { finish: Finish::Cancelled, .. })));
        let of_b: Vec<u32> = events
            .iter()
            .filter(|e| e.id().request == b)
            .filter_map(|e| if let Event::Token { token, .. } = e { Some(*token) } else { None })
            .collect();
        assert_eq!(of_b, greedy(&[2; 9], 8));
        assert_eq!(engine.stats().pages_held, 0);
        // Before its first step.
        let c = engine.submit(ask(vec![3], 3)).unwrap();
        assert!(engine.cancel(c) && !engine.is_idle());
        assert_eq!(engine.step().unwrap().len(), 1);
        assert!(engine.is_idle());
    });
}

#[test]
fn a_stream_given_up_leaves_the_others_alone() {
    in_every_mode(|| {
        let (mut engine, _) = engine(dims(), 4, 64, true);
        let before = engine.submit(ask(vec![9, 9], 12)).unwrap();
        let mut stream = engine.generate([ask(vec![1, 2], 30), ask(vec![3, 4], 30)]);
        let first: Vec<Event> = stream.by_ref().take(4).map(Result::unwrap).collect();
        assert!(first.iter().all(|e| e.id().request != before));
        drop(stream);
        let mut rest = Vec::new();
        while !engine.is_idle() {
            rest.extend(engine.step().unwrap());
        }
        assert!(rest.iter().all(|e| e.id().request == before));
        let of_before: Vec<u32> = rest
            .iter()
            .filter_map(|e| if let Event::Token { token, .. } = e { Some(*token) } else { None })
            .collect();
        assert_eq!(of_before, greedy(&[9, 9], 12));
        assert_eq!(engine.stats().pages_held, 0);

        // One refused request: nothing runs, the engine goes on.
        let mut stream = engine.generate([ask(vec![1, 2], 3), ask(vec![], 3)]);
        assert_eq!(stream.next().unwrap().unwrap_err().message, "the prompt is empty");
        assert!(stream.next().is_none());
        drop(stream);
        assert!(engine.is_idle());
        assert_eq!(engine.answers([ask(vec![1, 2], 3)]).unwrap()[0].tokens, greedy(&[1, 2], 3));
    });
}

/// A request of the random load: prompts share beginnings.
fn request() -> impl Strategy<Value = Request> {
    (0u32..3, 1usize..20, 1u32..14, 0i32..2, 0u64..1000, any::<bool>(), prop::bool::weighted(0.2), 1u32..3)
        .prop_map(|(stem, len, max_tokens, priority, seed, greedy, prompt_logprobs, n)| {
            let prompt = (0..len as u32).map(|p| (p + 40 * u32::from(p % 6 == 4) * stem) % 90).collect();
            let sampling = Sampling {
                temperature: if greedy { 0.0 } else { 1.0 },
                seed: Some(seed),
                ..Sampling::default()
            };
            let prompt_logprobs = prompt_logprobs.then_some(1);
            Request { sampling, priority, n, prompt_logprobs, ..ask(prompt, max_tokens) }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever shares a step, a page or a pool with it: the answer is the one that it gets alone.
    #[test]
    fn company_changes_nothing(
        requests in prop::collection::vec((request(), 0usize..6), 1..10),
        (max_batch, max_step_tokens, max_logit_rows) in (1u32..5, 1u32..20, 1u32..16),
        (page_tokens, pages, prefix_cache) in (1u32..6, 8u32..40, any::<bool>()),
        mode in prop::sample::select(vec![Mode::Host, Mode::Device, Mode::Ahead]),
    ) {
        let limits = Dims { max_batch, max_seq_len: 40, max_step_tokens, max_logit_rows };
        let pages = pages.max(34u32.div_ceil(page_tokens));
        let (mut company, _) = engine_in(mode, limits, page_tokens, pages, prefix_cache);
        let mut events = Vec::new();
        let mut ids = Vec::new();
        for (request, steps) in &requests {
            ids.push(company.submit(request.clone()).unwrap());
            for _ in 0..*steps {
                events.extend(company.step().unwrap());
            }
        }
        while !company.is_idle() {
            events.extend(company.step().unwrap());
        }
        prop_assert_eq!(company.stats().pages_held, 0);
        for (id, (request, _)) in ids.iter().zip(&requests) {
            let (mut alone, _) = engine(dims(), 16, 64, false);
            for answer in alone.answers([request.clone()]).unwrap() {
                let mine = |e: &&Event| e.id().request == *id && e.id().index == answer.id.index;
                let got: Vec<u32> = events
                    .iter()
                    .filter(mine)
                    .filter_map(|e| if let Event::Token { token, .. } = e { Some(*token) } else { None })
                    .collect();
                prop_assert_eq!(&got, &answer.tokens);
                if request.sampling.temperature == 0.0 {
                    prop_assert_eq!(&got, &greedy(&request.prompt, request.max_tokens as usize));
                }
                let reports: Vec<_> = events
                    .iter()
                    .filter(mine)
                    .enumerate()
                    .filter_map(|(at, e)| if let Event::Prompt { logprobs, .. } = e { Some((at, logprobs)) } else { None })
                    .collect();
                if request.prompt_logprobs.is_some() {
                    prop_assert_eq!(reports, [(0, &answer.prompt_logprobs)]);
                } else {
                    prop_assert!(reports.is_empty());
                }
            }
        }
    }
}

#[test]
fn the_models_end_of_sequence_ends_an_answer() {
    in_every_mode(|| {
        // Find a prompt that soon leads there.
        let ends = |p: &[u32]| greedy(p, 40).iter().position(|&t| t == support::EOS);
        let prompt =
            (0..2000u32).map(|i| vec![i % 90, i / 90]).find(|p| ends(p).is_some_and(|e| e > 3)).unwrap();
        let end = ends(&prompt).unwrap();
        let (mut engine, _) = engine(dims(), 4, 64, true);
        let request = Request { ignore_eos: false, ..ask(prompt.clone(), 40) };
        let answers = engine.answers([request.clone()]).unwrap();
        assert_eq!((answers[0].tokens.clone(), answers[0].finish), (greedy(&prompt, end), Finish::Stop));
        let answers = engine.answers([Request { ignore_eos: true, ..request.clone() }]).unwrap();
        assert_eq!((answers[0].tokens.len(), answers[0].finish), (40, Finish::Length));

        // Not before `min_tokens`: the best of the other tokens is taken.
        let answers = engine.answers([Request { min_tokens: end as u32 + 1, ..request }]).unwrap();
        let (_, row) = best(&[prompt.clone(), greedy(&prompt, end)].concat());
        let second = (0..support::EOS).max_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize])).unwrap();
        assert_eq!(answers[0].tokens[end], second);
    });
}
