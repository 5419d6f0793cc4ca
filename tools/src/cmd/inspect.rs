//! `trtc inspect`: what is in an engine file. Needs no device.

use crate::facts::{self, grouped, human};
use crate::html;
use crate::render::Failure;
use std::io::Write;
use std::path::PathBuf;
use trtc_engine::manifest::{Choice, Code, Kernel, Manifest, Steps};
use trtc_engine::{EngineFile, Verify};

/// Show what is in an engine file
///
/// An engine is a safetensors file: any viewer of those opens it too.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  trtc inspect model.engine\n  trtc inspect model.engine --kernel embedding\n  \
                        trtc inspect model.engine --kernel gemm_1 --ptx > gemm_1.ptx\n  \
                        trtc inspect model.engine --json | jq .dims\n  trtc inspect model.engine --html model.html"
)]
pub struct Args {
    /// Engine file
    engine: PathBuf,
    /// One kernel: what it computes, its code and who launches it
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Only the kernel's PTX
    #[arg(long, requires = "kernel")]
    ptx: bool,
    /// Print the manifest as JSON
    #[arg(long, conflicts_with_all = ["kernel", "html"])]
    json: bool,
    /// Write a page for a browser, whole in one file
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    html: Option<PathBuf>,
    /// Read the whole file and compare it with its hash
    #[arg(long)]
    verify: bool,
}

/// Shows it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let verify = if args.verify { Verify::Always } else { Verify::Never };
    let file = EngineFile::open_with(&args.engine, verify)?;
    let m = file.manifest();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", file.manifest_json())?;
    } else if let Some(name) = &args.kernel {
        kernel(args, &file, name, &mut out)?;
    } else if let Some(path) = &args.html {
        std::fs::write(path, html::page(m, file.len(), file.hash()))
            .map_err(|e| Failure::file("write", path, &e))?;
        writeln!(out, "{}", path.display())?;
    } else {
        for (name, value) in summary(m, file.len(), file.hash()) {
            writeln!(out, "{name:<16} {value}")?;
        }
        let width = m.kernels.iter().map(|k| k.name.len()).max().unwrap_or(0);
        writeln!(out, "\n{:<width$}  launches  code", "kernel")?;
        for (i, k) in m.kernels.iter().enumerate() {
            writeln!(out, "{:<width$}  {:>8}  {}", k.name, launches(m, i).count(), code(k))?;
        }
        if args.verify {
            writeln!(out, "\nThe file is what its hash says.")?;
        }
    }
    Ok(())
}

/// Names and values, in the order of reading.
pub fn summary(m: &Manifest, bytes: u64, hash: &str) -> Vec<(&'static str, String)> {
    let d = &m.dims;
    let capability = m.capability.map_or(String::new(), |(a, b)| format!(", compute capability {a}.{b}"));
    let encodings: Vec<String> = facts::by_encoding(m)
        .iter()
        .map(|(name, count, bytes)| format!("{count} as {name}: {}", human(*bytes)))
        .collect();
    let dummy = m.dummy_seed.map_or(String::new(), |s| format!(" (made up from seed {s}; not in the file)"));
    let text = match &m.text {
        None => "none: prompts are token ids".to_owned(),
        Some(t) if t.chat_template.is_some() => "tokenizer and chat template".to_owned(),
        Some(_) => "tokenizer; no chat template".to_owned(),
    };
    let assembler = m.provenance.assembler.as_ref().map_or(String::new(), |a| format!(" ({a})"));
    vec![
        ("model", format!("{} ({})", m.model.name, m.model.arch)),
        ("parameters", grouped(m.model.parameters)),
        (
            "shape",
            format!("{} layers, width {}, vocabulary {}", m.model.layers, m.model.hidden, m.model.vocab),
        ),
        ("target", format!("{}{capability}", m.target)),
        ("precision", m.precision.clone()),
        (
            "limits",
            format!("batch {}, sequence {}, step {} tokens", d.max_batch, d.max_seq_len, d.max_step_tokens),
        ),
        ("weights", format!("{}{dummy}", human(facts::all_weights(m)))),
        ("", encodings.join("; ")),
        ("read a step", human(facts::read_per_step(m))),
        ("activations", human(m.arena)),
        ("cache", format!("{} a token, pages of {}", human(facts::kv_per_token(m)), m.kv.page_tokens)),
        ("launches a step", launches_a_step(m)),
        ("text", text),
        ("built from", m.provenance.source.clone()),
        ("built with", format!("{} {}{assembler}", m.provenance.compiler, m.provenance.options.join(" "))),
        ("file", format!("{}, hash {hash}", human(bytes))),
    ]
}

/// Launches of a step of few tokens, by its kind where that matters.
fn launches_a_step(m: &Manifest) -> String {
    match Steps::KINDS.map(|kind| m.launches_of(kind, 1)) {
        [decode, prefill] if decode == prefill => decode.to_string(),
        [decode, prefill] => format!("{decode} to decode, {prefill} with prompts"),
    }
}

/// A kernel's code in one phrase.
pub fn code(k: &Kernel) -> String {
    match &k.code {
        // The variant's name, as Debug begins with it.
        Code::Host(h) => format!("host {}", format!("{h:?}").split([' ', '{']).next().unwrap_or_default()),
        Code::Ptx(p) => {
            let binary = if p.cubin.is_some() { " and cubin" } else { "" };
            format!("PTX{binary} {}, {} threads", p.entry, p.block.iter().product::<u32>())
        }
    }
}

/// Launches that may choose a kernel, with the choice.
pub fn launches(m: &Manifest, kernel: usize) -> impl Iterator<Item = (usize, &Choice)> + '_ {
    m.launches.iter().enumerate().flat_map(move |(i, l)| {
        l.choices.iter().filter(move |c| c.kernel as usize == kernel).map(move |c| (i, c))
    })
}

fn kernel(args: &Args, file: &EngineFile, name: &str, out: &mut impl Write) -> Result<(), Failure> {
    let m = file.manifest();
    let Some((index, k)) = m.kernels.iter().enumerate().find(|(_, k)| k.name == name) else {
        let names: Vec<&str> = m.kernels.iter().map(|k| k.name.as_str()).collect();
        return Err(Failure::user(format!("the engine has no kernel '{name}'"))
            .help(format!("it has {}", names.join(", "))));
    };
    match (&k.code, args.ptx) {
        (Code::Ptx(p), true) => out.write_all(file.tensor(&p.module)?)?,
        (Code::Host(_), true) => {
            return Err(Failure::user(format!("'{name}' is a function of the host device and has no PTX"))
                .help("build the engine for a GPU target to have PTX"));
        }
        (code, false) => {
            writeln!(out, "{}\n\n{code:#?}\n", k.contract.trim_end())?;
            for (launch, c) in launches(m, index) {
                let (from, to, steps) = (c.from, c.to, c.steps.suffix());
                writeln!(out, "launch {launch}, {from} to {to} tokens{steps}: {}", m.launches[launch].loc)?;
            }
        }
    }
    Ok(())
}
