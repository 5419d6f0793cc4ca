//! Serves random requests for as long as it is told, and checks that nothing is left of them: `cargo run --release
//! --example soak -- ENGINE [--device auto|host|cuda:0] [--requests 1000] [--seed 1]`.
//!
//! Prompts, lengths, sampling and the moments of submission and cancellation are random. Then: every answer has ended,
//! no page of the cache is held, memory has not grown, a second engine beside the first gives the same tokens, and
//! without both the device has its memory back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use trtc_engine::EngineFile;
use trtc_engine::manifest::Manifest;
use trtc_runtime::device::Device;
use trtc_runtime::{
    AnswerId, CacheSize, DeviceChoice, Engine, Error, Event, LoadOptions, Request, Sampling, open_device,
};

/// Memory that may be missing between two moments: recorded steps of sizes that came late, and what the driver or the
/// allocator keeps, bytes.
const SLACK: u64 = 64 << 20;
/// Longest prompt and longest answer, tokens.
const LONGEST: (u32, u32) = (512, 128);

/// What is asked for on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub engine: PathBuf,
    pub device: DeviceChoice,
    pub requests: u64,
    pub seed: u64,
}

impl Options {
    /// Reads the arguments after the program's name.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Options, Error> {
        let wrong = |what: String| {
            Error::user(what).help("soak ENGINE [--device auto|host|cuda:0] [--requests N] [--seed N]")
        };
        let mut options =
            Options { engine: PathBuf::new(), device: DeviceChoice::Auto, requests: 1000, seed: 1 };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            if !arg.starts_with("--") {
                options.engine = arg.into();
                continue;
            }
            let value = args.next().ok_or_else(|| wrong(format!("{arg} has no value")))?;
            let number = || value.parse().map_err(|_| wrong(format!("{arg} {value} is no number")));
            match arg.as_str() {
                "--device" => options.device = value.parse()?,
                "--requests" => options.requests = number()?,
                "--seed" => options.seed = number()?,
                _ => return Err(wrong(format!("there is no {arg}"))),
            }
        }
        if options.engine.as_os_str().is_empty() {
            return Err(wrong("an engine file is missing".to_owned()));
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| soak(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", e.message);
            e.help.iter().for_each(|help| eprintln!("  help: {help}"));
            ExitCode::FAILURE
        }
    }
}

/// Does all of it; the error says what was not as it should be.
pub fn soak(options: &Options) -> Result<(), Error> {
    let file = EngineFile::open(&options.engine)?;
    let m = file.manifest().clone();
    drop(file);
    let load = LoadOptions { device: options.device, cache: cache(&m), ..LoadOptions::default() };
    // Held until the end: it asks for free memory, and keeps what the driver sets up for the first user.
    let probe = open_device(&m, &load)?;
    let used = || in_use(&m, &*probe);
    println!("{} {} on {}", m.model.name, m.precision, probe.name());
    let mut random = Random(options.seed);
    let greedy = Request {
        max_tokens: 32.min(m.dims.max_seq_len / 2).max(1),
        sampling: Sampling::greedy(),
        ignore_eos: true,
        ..Request::new(random.prompt(&m, 40))
    };
    // Code, driver and allocator are warm once as many engines were loaded as will be.
    let mut engines =
        [Engine::load(&options.engine, load.clone())?, Engine::load(&options.engine, load.clone())?];
    let want = answer(&mut engines[0], &greedy)?;
    drop(engines);
    let before = used();

    let mut first = Engine::load(&options.engine, load.clone())?;
    same("the engine, loaded again,", &answer(&mut first, &greedy)?, &want)?;
    println!("loaded: {}", change(before, used()));
    let mut work = Work { random, live: BTreeSet::new(), submitted: 0, cancelled: 0 };
    work.run(&mut first, (options.requests / 4).max(1))?;
    let early = used();
    work.run(&mut first, options.requests)?;
    let late = used();
    let stats = first.stats();
    println!(
        "{} requests, {} cancelled, {} tokens of answers, {} reused, {} preemptions",
        work.submitted, work.cancelled, stats.answer_tokens, stats.reused_tokens, stats.preemptions
    );
    println!("cache: {} pages, {} held, {} kept for reuse", stats.pages, stats.pages_held, stats.pages_idle);
    if stats.pages_held != 0 || stats.running != 0 || stats.waiting != 0 {
        return Err(Error::bug(format!(
            "{} pages are held, {} sequences run and {} wait after the last answer",
            stats.pages_held, stats.running, stats.waiting
        )));
    }
    grown("from the first quarter of the requests to the last", early, late)?;

    let mut second = Engine::load(&options.engine, load)?;
    same("a second engine beside the first", &answer(&mut second, &greedy)?, &want)?;
    drop(second);
    drop(first);
    grown("from before the engines were loaded until after they were dropped", before, used())
}

/// A cache for an eighth of a batch of the longest requests, so that some wait and some lose their pages.
fn cache(m: &Manifest) -> CacheSize {
    let longest = (LONGEST.0 + LONGEST.1).min(m.dims.max_seq_len);
    let pages = longest.div_ceil(m.kv.page_tokens);
    // One sequence as long as the engine takes must fit.
    let least = m.dims.max_seq_len.div_ceil(m.kv.page_tokens);
    CacheSize::Pages((pages * m.dims.max_batch.div_ceil(8)).max(least))
}

/// Bytes in use where the engines' buffers lie: on a GPU whoever uses them; on the host what this process may write,
/// touched or not, for the cache is touched page by page.
fn in_use(m: &Manifest, device: &dyn Device) -> u64 {
    if m.target != "host" {
        return device.total_memory().saturating_sub(device.free_memory());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmData:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().map_or(0, |kib| kib << 10)
}

fn change(from: u64, to: u64) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!("{:.1} MiB in use, before {:.1} MiB", mib(to), mib(from))
}

/// Refuses memory that has grown by more than [`SLACK`].
fn grown(when: &str, from: u64, to: u64) -> Result<(), Error> {
    println!("memory {when}: {}", change(from, to));
    if to > from + SLACK {
        return Err(Error::bug(format!("memory has grown {when}: {}", change(from, to))));
    }
    Ok(())
}

/// Refuses tokens that differ.
fn same(who: &str, got: &[u32], want: &[u32]) -> Result<(), Error> {
    if got == want {
        return Ok(());
    }
    Err(Error::bug(format!("{who} answers {got:?}, the first time it was {want:?}")))
}

/// The tokens of the answer to one request alone.
fn answer(engine: &mut Engine, request: &Request) -> Result<Vec<u32>, Error> {
    let answers = engine.answers([request.clone()])?;
    Ok(answers.into_iter().flat_map(|a| a.tokens).collect())
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// Up to `most` tokens, at least one, and fewer than a sequence has.
    fn prompt(&mut self, m: &Manifest, most: u32) -> Vec<u32> {
        let most = most.min(m.dims.max_seq_len / 2).max(1);
        let len = 1 + self.below(u64::from(most));
        (0..len).map(|_| self.below(u64::from(m.model.vocab)) as u32).collect()
    }
}

/// Requests that come and go.
struct Work {
    random: Random,
    /// Answers that have not ended.
    live: BTreeSet<AnswerId>,
    submitted: u64,
    cancelled: u64,
}

impl Work {
    /// Submits until `requests` requests have been, and works until all have ended.
    fn run(&mut self, engine: &mut Engine, requests: u64) -> Result<(), Error> {
        let most = 2 * engine.manifest().dims.max_batch as usize;
        while self.submitted < requests || !self.live.is_empty() {
            for _ in 0..self.random.below(4) {
                if self.submitted < requests && self.live.len() < most {
                    self.submit(engine)?;
                }
            }
            if self.random.below(12) == 0 {
                self.cancel(engine)?;
            }
            for event in engine.step()? {
                if let Event::Done { id, .. } = event
                    && !self.live.remove(&id)
                {
                    return Err(Error::bug(format!("{id:?} has ended, and was not running")));
                }
            }
            if engine.is_idle() && !self.live.is_empty() {
                return Err(Error::bug(format!("nothing is left to do, and {:?} have not ended", self.live)));
            }
        }
        Ok(())
    }

    fn submit(&mut self, engine: &mut Engine) -> Result<(), Error> {
        let random = &mut self.random;
        let part = |random: &mut Random| random.below(1000) as f32 / 1000.0;
        let sampling = match random.below(3) {
            0 => Sampling::greedy(),
            1 => Sampling { temperature: 0.2 + part(random), ..Sampling::default() },
            _ => Sampling {
                temperature: 0.5 + part(random),
                top_p: 0.05 + 0.95 * part(random),
                top_k: random.below(50) as u32,
                seed: Some(random.next()),
                ..Sampling::default()
            },
        };
        let request = Request {
            max_tokens: 1 + random.below(u64::from(LONGEST.1)) as u32,
            sampling,
            n: if random.below(8) == 0 { 3 } else { 1 },
            ignore_eos: random.below(2) == 0,
            ..Request::new(random.prompt(engine.manifest(), LONGEST.0))
        };
        let n = request.n;
        let number = engine.submit(request)?;
        self.submitted += 1;
        self.live.extend((0..n).map(|index| AnswerId { request: number, index }));
        Ok(())
    }

    /// Gives up some request that has not ended.
    fn cancel(&mut self, engine: &mut Engine) -> Result<(), Error> {
        let at = self.random.below(self.live.len() as u64) as usize;
        let Some(id) = self.live.iter().nth(at).copied() else { return Ok(()) };
        if !engine.cancel(id.request) {
            return Err(Error::bug(format!("{id:?} has not ended and cannot be cancelled")));
        }
        self.cancelled += 1;
        Ok(())
    }
}
