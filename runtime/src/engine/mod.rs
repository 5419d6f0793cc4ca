//! [`Engine`]: a loaded engine file that answers requests.
//!
//! Ties the parts together and decides nothing that they decide: the scheduler plans, the executor computes, each
//! answer (`answering.rs`) chooses its token and its end.

mod answering;
mod events;
mod load;
mod step;
mod stream;

pub use events::Events;
pub use load::{DeviceChoice, LoadOptions, open_device};
pub use stream::Generate;

use crate::device::Device;
use crate::error::Error;
use crate::exec::Executor;
use crate::grammar::{Grammars, LANES};
use crate::kv::KvPool;
use crate::limits::Limits;
use crate::metrics::Stats;
use crate::request::{AnswerId, Event, Finish, Request, Sampling};
use crate::sched::{NewSequence, Plan, Scheduler, SeqId};
use crate::text::{ChatTemplate, Tokenizer};
use answering::{Answering, Scratch};
use rustc_hash::FxHashMap;
use std::path::Path;
use std::sync::Arc;
use trtc_engine::EngineFile;
use trtc_engine::manifest::Manifest;

/// A loaded engine. One thread drives it by [`Engine::step`], or by [`Engine::generate`] and the like, which do.
///
/// A request that is refused leaves everything as it was. After an error of the device the requests are still
/// there: the next step tries again.
pub struct Engine {
    manifest: Arc<Manifest>,
    exec: Executor,
    sched: Scheduler,
    plan: Plan,
    /// By number of the sequence.
    answers: Vec<Option<Answering>>,
    /// Live sequences of each request.
    requests: FxHashMap<u64, Vec<SeqId>>,
    next_request: u64,
    /// Events that the next step gives.
    backlog: Events,
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Arc<ChatTemplate>>,
    grammars: Option<Arc<Grammars>>,
    scratch: Scratch,
    /// Threads that make masks, where there are many.
    threads: usize,
    /// The step under way.
    flight: Option<step::Flight>,
    memory: step::Memory,
    stats: Stats,
}

impl Engine {
    /// Opens an engine file, checks it, and places it on a device.
    pub fn load(path: impl AsRef<Path>, options: LoadOptions) -> Result<Engine, Error> {
        options.threads()?;
        let file = EngineFile::open(path.as_ref())?;
        let device = load::open_device(file.manifest(), &options)?;
        Engine::with_device(file, device, &options)
    }

    /// Places an open engine file on a device of the caller's; [`LoadOptions::device`] is not looked at.
    pub fn with_device(
        file: EngineFile,
        device: Box<dyn Device>,
        options: &LoadOptions,
    ) -> Result<Engine, Error> {
        let manifest = Arc::new(file.manifest().clone());
        let exec = Executor::new(device, &file, options.cache, options.threads()?)?;
        let pool = KvPool::new(exec.pages(), manifest.kv.page_tokens, options.prefix_cache);
        let (tokenizer, template) = load_text(&file)?;
        let grammars = tokenizer
            .as_ref()
            .map(|t| Arc::new(Grammars::new(Arc::clone(t), manifest.model.vocab, &manifest.model.eos)));
        Ok(Engine {
            exec,
            sched: Scheduler::new(manifest.dims, pool).deterministic(manifest.deterministic),
            plan: Plan::new(&manifest.dims),
            answers: Vec::new(),
            requests: FxHashMap::default(),
            next_request: 0,
            backlog: Events::new(),
            tokenizer,
            template,
            grammars,
            scratch: Scratch::default(),
            threads: options.threads()?.min(LANES),
            flight: None,
            memory: step::Memory::default(),
            stats: Stats::default(),
            manifest,
        })
    }

    /// What the engine file says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The device's name, for people.
    pub fn device_name(&self) -> String {
        self.exec.device().name()
    }

    /// Bytes of the KV cache.
    pub fn cache_bytes(&self) -> u64 {
        u64::from(self.exec.pages()) * self.manifest.kv.bytes_per_page()
    }

    /// The tokenizer, if the engine has one.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// Tokens of a text, as the model's prompts begin (with its BOS token where it has one).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let none = || Error::user("the engine has no tokenizer").help("give token ids");
        self.tokenizer.as_ref().ok_or_else(none)?.encode(text, true)
    }

    /// The chat template, if the engine has one.
    pub fn chat_template(&self) -> Option<&Arc<ChatTemplate>> {
        self.template.as_ref()
    }

    /// What compiles grammars for its answers, if the engine has a tokenizer.
    pub fn grammars(&self) -> Option<&Arc<Grammars>> {
        self.grammars.as_ref()
    }

    /// What a request is held to.
    pub fn limits(&self) -> Limits {
        let pool = self.sched.pool();
        Limits {
            vocab: self.manifest.model.vocab,
            dims: self.manifest.dims,
            pages: pool.total(),
            page_tokens: pool.page_tokens(),
            text: self.tokenizer.is_some(),
        }
    }

    /// The model's own sampling defaults.
    pub fn default_sampling(&self) -> Sampling {
        let (g, d) = (&self.manifest.generation, Sampling::default());
        Sampling {
            temperature: g.temperature.unwrap_or(d.temperature),
            top_k: g.top_k.unwrap_or(d.top_k),
            top_p: g.top_p.unwrap_or(d.top_p),
            min_p: g.min_p.unwrap_or(d.min_p),
            repetition_penalty: g.repetition_penalty.unwrap_or(d.repetition_penalty),
            ..d
        }
    }

    /// Totals and fill levels.
    pub fn stats(&self) -> Stats {
        let pool = self.sched.pool();
        Stats {
            waiting: self.sched.waiting(),
            running: self.sched.running().len(),
            pages: pool.total(),
            pages_held: pool.held(),
            pages_idle: pool.idle(),
            ..self.stats
        }
    }

    /// True if a step would bring nothing.
    pub fn is_idle(&self) -> bool {
        self.sched.is_idle() && self.backlog.is_empty() && self.flight.is_none()
    }

    /// Takes in a request and gives its number; numbers ascend by one. Refuses what cannot be answered.
    pub fn submit(&mut self, request: Request) -> Result<u64, Error> {
        let limits = self.limits();
        limits.check(&request)?;
        let prompt = request.prompt.len() as u32;
        let max_len = limits.max_len(prompt, request.max_tokens);
        let number = self.next_request;
        let request = Arc::new(request);
        let all_logits = request.prompt_logprobs.is_some();
        // Answers to one prompt wait for the first if its pages can be shared, or if it reports on the prompt.
        let shares = self.sched.pool().prefix_cache() && prompt > self.manifest.kv.page_tokens;
        let mut seqs: Vec<SeqId> = Vec::with_capacity(request.n as usize);
        for index in 0..request.n {
            let added = self.sched.add(NewSequence {
                tokens: request.prompt.clone(),
                max_len,
                priority: request.priority,
                all_logits: all_logits && index == 0,
                leader: seqs.first().copied().filter(|_| shares || all_logits),
            });
            let seq = match added {
                Ok(seq) => seq,
                Err(error) => {
                    seqs.into_iter().for_each(|seq| self.sched.remove(seq));
                    return Err(error);
                }
            };
            let id = AnswerId { request: number, index };
            let answering = Answering::new(
                id,
                Arc::clone(&request),
                max_len - prompt,
                &self.manifest,
                self.tokenizer.as_ref(),
            );
            if self.answers.len() <= seq.index() {
                self.answers.resize_with(seq.index() + 1, || None);
            }
            self.answers[seq.index()] = Some(answering);
            seqs.push(seq);
        }
        self.requests.insert(number, seqs);
        self.next_request += 1;
        self.stats.requests += 1;
        self.stats.prompt_tokens += u64::from(prompt) * u64::from(request.n);
        Ok(number)
    }

    /// Gives a request up: its answers end with the next step. False if it has ended already, or never was.
    pub fn cancel(&mut self, request: u64) -> bool {
        let mut live = self.take_request(request);
        live.iter_mut().for_each(|a| a.end(Finish::Cancelled, &mut self.backlog));
        !live.is_empty()
    }

    /// Gives a request up and forgets its events.
    fn discard(&mut self, request: u64) {
        self.take_request(request);
        self.backlog.retain(|id| id.request != request);
    }

    /// Removes the live sequences of a request.
    fn take_request(&mut self, request: u64) -> Vec<Answering> {
        let seqs = self.requests.remove(&request).unwrap_or_default();
        seqs.into_iter()
            .filter_map(|seq| {
                self.sched.remove(seq);
                self.answers.get_mut(seq.index())?.take()
            })
            .collect()
    }

    /// Computes one step and gives what it brings; nothing when idle.
    pub fn step(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = std::mem::take(&mut self.backlog);
        let done = self.advance(&mut events);
        let brought = done.map(|()| events.drain().map(|e| e.map_text(str::to_owned)).collect());
        // After an error the next step gives them.
        self.backlog = events;
        brought
    }

    /// Computes one step and appends what it brings to `events`, also what came before an error. In steady state it takes
    /// no memory from the allocator.
    pub fn step_into(&mut self, events: &mut Events) -> Result<(), Error> {
        self.backlog.drain().for_each(|event| events.push(event));
        self.advance(events)
    }
}

/// A tokenizer and a chat template, as far as there are any.
type Text = (Option<Arc<Tokenizer>>, Option<Arc<ChatTemplate>>);

/// The tokenizer and the chat template of an engine file.
fn load_text(file: &EngineFile) -> Result<Text, Error> {
    let Some(text) = &file.manifest().text else {
        return Ok((None, None));
    };
    let bos = file.manifest().model.bos.filter(|_| text.add_bos);
    let tokenizer = Tokenizer::new(file.tensor(&text.tokenizer)?, bos)?;
    let template = text
        .chat_template
        .as_ref()
        .map(|t| ChatTemplate::new(t, text.bos_token.as_deref(), text.eos_token.as_deref()))
        .transpose()?;
    Ok((Some(Arc::new(tokenizer)), template.map(Arc::new)))
}
