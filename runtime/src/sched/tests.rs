//! Tests of the scheduler: each rule by an example, and a state machine under random load.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const LIMITS: Dims = Dims { max_batch: 4, max_seq_len: 64, max_step_tokens: 8, max_logit_rows: 8 };

fn scheduler(limits: Dims, pages: u32, page_tokens: u32, prefix_cache: bool) -> Scheduler {
    Scheduler::new(limits, KvPool::new(pages, page_tokens, prefix_cache))
}

fn new(tokens: Vec<u32>, answer: u32) -> NewSequence {
    let max_len = tokens.len() as u32 + answer;
    NewSequence { tokens, max_len, priority: 0, all_logits: false, leader: None }
}

/// Plans and commits a step, giving each sequence that is complete the token 900; returns (seq, start, len, rows).
fn step(s: &mut Scheduler) -> Vec<(SeqId, u32, u32, u32)> {
    let mut plan = Plan::default();
    s.schedule(&mut plan);
    s.commit(&plan);
    for c in &plan.chunks {
        let seq = s.sequence(c.seq).unwrap();
        if seq.complete() {
            if seq.tokens.len() + 1 < seq.max_len as usize { s.push(c.seq, 900) } else { s.remove(c.seq) }
        }
    }
    plan.chunks.iter().map(|c| (c.seq, c.start, c.len, c.rows)).collect()
}

#[test]
fn decodes_go_first_and_prompts_fill_the_step() {
    let mut s = scheduler(LIMITS, 64, 4, true);
    let a = s.add(new(vec![1, 2, 3], 8)).unwrap();
    assert_eq!(step(&mut s), [(a, 0, 3, 1)]);
    let b = s.add(new((0..20).collect(), 8)).unwrap();
    assert_eq!(step(&mut s), [(a, 3, 1, 1), (b, 0, 7, 0)]);
    assert_eq!(step(&mut s), [(a, 4, 1, 1), (b, 7, 7, 0)]);
    assert_eq!(step(&mut s), [(a, 5, 1, 1), (b, 14, 6, 1)]);
    assert_eq!(step(&mut s), [(a, 6, 1, 1), (b, 20, 1, 1)]);
}

#[test]
fn a_deterministic_scheduler_takes_prompts_and_answers_in_turn_and_repeats_answers_by_token() {
    let mut s = scheduler(LIMITS, 5, 2, true).deterministic(true);
    let a = s.add(new(vec![1, 2, 3], 5)).unwrap();
    assert_eq!(step(&mut s), [(a, 0, 3, 1)]);
    let b = s.add(new(vec![4, 5], 4)).unwrap();
    assert_eq!(step(&mut s), [(a, 3, 1, 1)]);
    assert_eq!(step(&mut s), [(b, 0, 2, 1)]);
    assert_eq!(step(&mut s), [(a, 4, 1, 1), (b, 2, 1, 1)]);
    assert_eq!(step(&mut s), [(a, 5, 1, 1), (b, 3, 1, 1)]);
    // a takes the last page, so b gives up its own, of which the prompt's is kept but for its last token.
    assert_eq!(step(&mut s), [(a, 6, 1, 1)]);
    assert!(s.sequence(a).is_none());
    assert_eq!(step(&mut s), [(b, 2, 1, 1)], "the prompt's page was found");
    assert_eq!(step(&mut s), [(b, 3, 1, 1)], "and its answer is computed once more");
    assert_eq!(step(&mut s), [(b, 4, 1, 1)]);
    assert!(s.is_idle());
}

#[test]
fn prompts_go_by_priority_then_arrival() {
    let mut s = scheduler(LIMITS, 64, 4, false);
    let a = s.add(new(vec![1; 6], 2)).unwrap();
    let b = s.add(new(vec![2; 6], 2)).unwrap();
    let c = s.add(NewSequence { priority: 1, ..new(vec![3; 6], 2) }).unwrap();
    assert_eq!(step(&mut s), [(c, 0, 6, 1), (a, 0, 2, 0)]);
    assert_eq!(step(&mut s), [(c, 6, 1, 1), (a, 2, 4, 1), (b, 0, 3, 0)]);
}

#[test]
fn rows_bound_chunks_that_want_all_logits() {
    let limits = Dims { max_logit_rows: 3, ..LIMITS };
    let mut s = scheduler(limits, 64, 4, true);
    let a = s.add(NewSequence { all_logits: true, ..new(vec![1; 7], 1) }).unwrap();
    let b = s.add(new(vec![2; 7], 1)).unwrap();
    assert_eq!(step(&mut s), [(a, 0, 3, 3), (b, 0, 5, 0)]);
    assert_eq!(step(&mut s), [(a, 3, 3, 3), (b, 5, 1, 0)]);
    // One token left counts as a decode, in rank.
    assert_eq!(step(&mut s), [(a, 6, 1, 1), (b, 6, 1, 1)]);
    assert!(s.is_idle());
}

#[test]
fn a_prefix_is_used_again_but_never_the_whole_prompt() {
    let mut s = scheduler(LIMITS, 64, 2, true);
    let a = s.add(new(vec![1, 2, 3, 4], 1)).unwrap();
    assert_eq!(step(&mut s), [(a, 0, 4, 1)]);
    let b = s.add(new(vec![1, 2, 3, 4], 1)).unwrap();
    assert_eq!(step(&mut s), [(b, 2, 2, 1)], "the last token's page is computed for its logits");
    let c = s.add(new(vec![1, 2, 3, 4, 5], 1)).unwrap();
    assert_eq!(step(&mut s), [(c, 4, 1, 1)]);
    let d = s.add(NewSequence { all_logits: true, ..new(vec![1, 2, 3, 4, 5], 1) }).unwrap();
    assert_eq!(step(&mut s), [(d, 0, 5, 5)]);
    let e = s.add(new(vec![9, 2, 3, 4, 5], 1)).unwrap();
    assert_eq!(step(&mut s), [(e, 0, 5, 1)], "the same page after another beginning is another page");
    assert_eq!(s.pool().held(), 0);
}

#[test]
fn answers_to_one_prompt_share_its_pages() {
    let mut s = scheduler(LIMITS, 64, 2, true);
    let a = s.add(new(vec![1, 2, 3, 4, 5], 4)).unwrap();
    let b = s.add(NewSequence { leader: Some(a), ..new(vec![1, 2, 3, 4, 5], 4) }).unwrap();
    assert_eq!(step(&mut s), [(a, 0, 5, 1)]);
    assert_eq!(step(&mut s), [(a, 5, 1, 1), (b, 4, 1, 1)]);
    let (pa, pb) = (s.sequence(a).unwrap().pages(), s.sequence(b).unwrap().pages());
    assert_eq!(pa[..2], pb[..2]);
    assert_ne!(pa[2], pb[2]);
    assert_eq!(s.pool().refs(pa[0]), 2);
    // A leader that goes away does not hold anybody up.
    let c = s.add(new(vec![7; 9], 4)).unwrap();
    let d = s.add(NewSequence { leader: Some(c), ..new(vec![7; 9], 4) }).unwrap();
    s.remove(c);
    assert!(step(&mut s).iter().any(|c| c.0 == d));
}

#[test]
fn the_last_in_rank_gives_way_and_comes_back() {
    let mut s = scheduler(LIMITS, 5, 2, false);
    let a = s.add(new(vec![1, 2], 6)).unwrap();
    let b = s.add(new(vec![3, 4], 6)).unwrap();
    let mut order = Vec::new();
    while !s.is_idle() {
        order.push(step(&mut s));
        s.pool().assert_consistent();
    }
    // Both need 4 pages at the end, there are 5: b loses two pages when a takes its third.
    assert_eq!(order[0], [(a, 0, 2, 1), (b, 0, 2, 1)]);
    assert_eq!(order[1], [(a, 2, 1, 1), (b, 2, 1, 1)]);
    let resumed = order.iter().flatten().find(|c| c.0 == b && c.1 == 0 && c.2 > 2);
    assert!(resumed.is_some(), "b is computed again with what it had answered: {order:?}");
    let rows: u32 = order.iter().flatten().filter(|c| c.0 == b).map(|c| c.3).sum();
    assert_eq!(rows, 6, "no token is chosen twice");
}

#[test]
fn higher_priority_takes_the_place_of_lower_but_not_of_equal() {
    let limits = Dims { max_batch: 1, ..LIMITS };
    let mut s = scheduler(limits, 64, 2, false);
    let a = s.add(new(vec![1, 2], 6)).unwrap();
    step(&mut s);
    let b = s.add(new(vec![3, 4], 6)).unwrap();
    assert_eq!(step(&mut s), [(a, 2, 1, 1)]);
    let c = s.add(NewSequence { priority: 1, ..new(vec![5, 6], 1) }).unwrap();
    assert_eq!(step(&mut s), [(c, 0, 2, 1)]);
    assert_eq!(step(&mut s), [(a, 0, 4, 1)], "a was there before b");
    s.remove(a);
    assert_eq!(step(&mut s), [(b, 0, 2, 1)]);
}

#[test]
fn nobody_is_pushed_out_in_vain() {
    let mut s = scheduler(LIMITS, 6, 1, false);
    let a = s.add(NewSequence { priority: 2, ..new(vec![1; 3], 3) }).unwrap();
    let b = s.add(new(vec![2; 1], 2)).unwrap();
    step(&mut s);
    // Needs 5 pages; a keeps 4, so b's page would not help.
    s.add(NewSequence { priority: 1, ..new(vec![3; 5], 1) }).unwrap();
    assert_eq!(step(&mut s).iter().map(|c| c.0).collect::<Vec<_>>(), [a, b]);
}

#[test]
fn a_page_shared_with_the_victim_does_not_count_as_freed() {
    let mut s = scheduler(LIMITS, 8, 1, true);
    let a = s.add(new(vec![1, 2, 3], 4)).unwrap();
    let c = s.add(NewSequence { priority: 1, ..new(vec![7, 7], 6) }).unwrap();
    step(&mut s);
    // Needs 6 pages, 2 of them a's. Pushing a out gives 2 besides, and 1 is available: too few.
    s.add(NewSequence { priority: 1, ..new(vec![1, 2, 9, 9, 9, 9], 1) }).unwrap();
    assert_eq!(step(&mut s).iter().map(|c| c.0).collect::<Vec<_>>(), [c, a]);
}

#[test]
fn what_can_never_run_is_refused() {
    let mut s = scheduler(LIMITS, 4, 2, true);
    let error = s.add(new(vec![1; 5], 5)).unwrap_err();
    assert!(error.message.contains("needs 9 tokens of KV cache (prompt 5), the cache holds 8"), "{error}");
    s.add(new(vec![1; 5], 4)).unwrap();
    assert!(s.add(new(vec![], 4)).is_err());
}

/// A request of the random load. Prompts are drawn so that many share a beginning.
#[derive(Clone, Debug)]
struct Load {
    stem: u32,
    prompt: u32,
    answer: u32,
    priority: i32,
    all_logits: bool,
    answers: u32,
}

#[derive(Clone, Debug)]
enum Act {
    Add(Load),
    Step,
    Cancel(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let load = (0u32..3, 1u32..14, 1u32..10, -1i32..2, prop::bool::weighted(0.2), 1u32..4).prop_map(
        |(stem, prompt, answer, priority, all_logits, answers)| {
            Act::Add(Load { stem, prompt, answer, priority, all_logits, answers })
        },
    );
    prop_oneof![3 => load, 6 => Just(Act::Step), 1 => any::<usize>().prop_map(Act::Cancel)]
}

/// The scheduler with a model of the cache: each slot holds the tokens that led to it.
struct World {
    s: Scheduler,
    deterministic: bool,
    plan: Plan,
    limits: Dims,
    /// Of a deterministic scheduler, what computed each of them comes first: the kind of step.
    memory: Vec<Vec<u32>>,
    live: BTreeSet<SeqId>,
    /// Positions whose logits came, and the first that is wanted.
    rows: BTreeMap<SeqId, (Vec<u32>, u32)>,
    scheduled: u64,
    reused: u64,
    lost: u64,
    needed: u64,
}

impl World {
    fn new(limits: Dims, (pages, page_tokens): (u32, u32), prefix_cache: bool, deterministic: bool) -> World {
        World {
            s: scheduler(limits, pages, page_tokens, prefix_cache).deterministic(deterministic),
            deterministic,
            plan: Plan::new(&limits),
            limits,
            memory: vec![Vec::new(); (pages * page_tokens) as usize],
            live: BTreeSet::new(),
            rows: BTreeMap::new(),
            scheduled: 0,
            reused: 0,
            lost: 0,
            needed: 0,
        }
    }

    fn add(&mut self, load: &Load) {
        let mut leader = None;
        for i in 0..load.answers {
            let tokens: Vec<u32> =
                (0..load.prompt).map(|p| load.stem * 100 * u32::from(p % 7 == 5) + p).collect();
            let all_logits = load.all_logits && i == 0;
            let max_len = load.prompt + load.answer;
            let new = NewSequence { tokens, max_len, priority: load.priority, all_logits, leader };
            let Ok(id) = self.s.add(new) else { return };
            leader = leader.or(Some(id));
            self.live.insert(id);
            self.rows.insert(id, (Vec::new(), if all_logits { 0 } else { load.prompt - 1 }));
        }
    }

    /// What a slot holds after tokens were computed by a step of a kind.
    fn slot(&self, kind: u32, tokens: &[u32]) -> Vec<u32> {
        let kind = if self.deterministic { &[kind][..] } else { &[] };
        [kind, tokens].concat()
    }

    fn end(&mut self, id: SeqId) {
        self.needed += u64::from(self.s.sequence(id).unwrap().computed());
        self.s.remove(id);
        self.live.remove(&id);
    }

    fn step(&mut self) {
        let before: BTreeMap<SeqId, u32> =
            self.live.iter().map(|&id| (id, self.s.sequence(id).unwrap().computed())).collect();
        self.s.schedule(&mut self.plan);
        assert_eq!(
            self.plan.chunks.is_empty(),
            self.live.is_empty(),
            "a step does something if there is something"
        );
        assert!(self.plan.tokens <= self.limits.max_step_tokens);
        assert!(self.plan.rows <= self.limits.max_logit_rows);
        assert!(self.plan.chunks.len() <= self.limits.max_batch as usize);
        assert_eq!(self.plan.tokens, self.plan.chunks.iter().map(|c| c.len).sum::<u32>());
        assert_eq!(self.plan.rows, self.plan.chunks.iter().map(|c| c.rows).sum::<u32>());
        self.reused += u64::from(self.plan.reused);
        self.scheduled += u64::from(self.plan.tokens);
        // A sequence that lost its pages may already have found some again: what is reused counts both ways.
        let restarted = |id: &SeqId| self.s.sequence(*id).unwrap().computed() < before[id];
        let lost: u64 = before.keys().filter(|id| restarted(id)).map(|id| u64::from(before[id])).sum();
        self.lost += lost;

        let n = self.s.pool().page_tokens() as usize;
        let mut seen = BTreeSet::new();
        // Whoever decodes comes first; steps of a deterministic scheduler are of one kind.
        let behind = &self.plan.chunks[self.plan.single() as usize..];
        let decodes = |c: &&Chunk| c.len == 1 && self.s.sequence(c.seq).unwrap().remaining() == 1;
        assert!(self.deterministic || !behind.iter().any(|c| decodes(&c)), "{:?}", self.plan);
        for c in &self.plan.chunks {
            assert!(seen.insert(c.seq) && c.len > 0 && c.rows <= c.len);
            let seq = self.s.sequence(c.seq).unwrap();
            assert_eq!(c.start, seq.computed());
            let kind = self.plan.kind as u32;
            for p in c.start as usize..(c.start + c.len) as usize {
                self.memory[seq.pages()[p / n] as usize * n + p % n] = self.slot(kind, &seq.tokens()[..=p]);
            }
            if self.deterministic {
                let answer = c.start >= seq.prompt_len();
                assert_eq!(self.plan.kind, if answer { Steps::Decode } else { Steps::Prefill });
                assert!(!answer || (c.len, c.rows) == (1, 1));
            }
            let (rows, first) = self.rows.get_mut(&c.seq).unwrap();
            // Decode steps of a deterministic scheduler have a row for what is computed again, too.
            if self.plan.kind == Steps::Decode && self.deterministic && c.start < *first + rows.len() as u32 {
                continue;
            }
            let end = c.start + c.len;
            assert!(c.rows == 0 || end - c.rows == *first + rows.len() as u32, "no row twice, none left out");
            rows.extend(end - c.rows..end);
        }
        // After all writes of the step: everything that a sequence reads is its own.
        for c in &self.plan.chunks {
            let seq = self.s.sequence(c.seq).unwrap();
            for p in 0..(c.start + c.len) as usize {
                let kind = if p < seq.prompt_len() as usize { Steps::Prefill } else { Steps::Decode };
                let want = self.slot(kind as u32, &seq.tokens()[..=p]);
                assert_eq!(self.memory[seq.pages()[p / n] as usize * n + p % n], want);
            }
        }
        self.s.commit(&self.plan);
        for c in self.plan.chunks.clone() {
            let seq = self.s.sequence(c.seq).unwrap();
            if !seq.complete() {
                continue;
            }
            // Answers depend on all that came before.
            let token = seq.tokens().iter().fold(7u32, |h, t| (h ^ t).wrapping_mul(0x9e37_79b1)) % 5;
            if seq.tokens().len() + 1 < seq.max_len as usize {
                self.s.push(c.seq, token)
            } else {
                self.end(c.seq)
            }
        }
        self.check();
    }

    fn check(&self) {
        let pool = self.s.pool();
        pool.assert_consistent();
        let mut refs = vec![0; pool.total() as usize];
        for &id in &self.live {
            self.s.sequence(id).unwrap().pages().iter().for_each(|&p| refs[p as usize] += 1);
        }
        assert!(refs.iter().enumerate().all(|(p, &n)| pool.refs(p as u32) == n));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Within the limits, no page leaks or is overwritten under a reader, every row comes once, all finish.
    #[test]
    fn random_load(
        (max_batch, max_step_tokens, max_logit_rows) in (1u32..5, 1u32..12, 1u32..6),
        (pages, page_tokens, prefix_cache, deterministic) in (1u32..14, 1u32..5, any::<bool>(), any::<bool>()),
        acts in prop::collection::vec(act(), 1..120),
    ) {
        let mut limits = Dims { max_batch, max_seq_len: 32, max_step_tokens, max_logit_rows };
        if deterministic {
            // Each request of a batch has a token and a row of logits in a decode step.
            limits.max_batch = max_batch.min(max_step_tokens).min(max_logit_rows);
        }
        let mut w = World::new(limits, (pages, page_tokens), prefix_cache, deterministic);
        for act in &acts {
            match act {
                Act::Add(load) => w.add(load),
                Act::Step => w.step(),
                Act::Cancel(i) => {
                    if let Some(&id) = w.live.iter().nth(i % w.live.len().max(1)) {
                        w.end(id);
                        w.check();
                    }
                }
            }
        }
        let mut steps = 0;
        while !w.s.is_idle() {
            w.step();
            steps += 1;
            prop_assert!(steps < 20_000, "{} wait, {} run", w.s.waiting(), w.s.running().len());
        }
        prop_assert!(w.live.is_empty());
        prop_assert_eq!((w.s.pool().held(), w.s.pool().available()), (0, pages));
        prop_assert_eq!(w.scheduled + w.reused, w.needed + w.lost);
    }
}
