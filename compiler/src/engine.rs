//! The last phase: makes the manifest of a planned module and writes the engine file, weight by weight.

use crate::frontend::{self, Checkpoint};
use crate::gpu::GpuCode;
use crate::lower;
use crate::options::{BuildOptions, Resolved};
use crate::pack::{self, PackError, Side};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use trtc_engine::error::{EngineError, Fault};
use trtc_engine::layout::Part;
use trtc_engine::manifest::{self as eng, Manifest};
use trtc_engine::write::EngineWriter;
use trtc_ir::{Diag, Loc, Module};

/// The container's tensor with the tokenizer.
const TOKENIZER: &str = "tokenizer.json";

/// Writes the engine file; `progress` is told of bytes written, of how many. Returns the file's size.
pub(crate) fn pack(
    module: &Module,
    checkpoint: &Checkpoint,
    resolved: &Resolved,
    options: &BuildOptions,
    code: &GpuCode,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, Diag> {
    let manifest = manifest(module, checkpoint, resolved, options, code)?;
    let tokenizer = checkpoint.tokenizer.as_ref().map_or(&[][..], |t| t.json.as_bytes());
    let mut texts: BTreeMap<String, &[u8]> =
        code.kernels.iter().map(|k| (lower::ptx_tensor(&k.name), k.ptx.as_bytes())).collect();
    texts.extend(code.cubins.iter().map(|(name, cubin)| (lower::cubin_tensor(name), cubin.as_slice())));
    texts.extend(manifest.text.iter().map(|_| (TOKENIZER.to_owned(), tokenizer)));
    let extras: Vec<(&str, u64)> = texts.iter().map(|(n, t)| (n.as_str(), t.len() as u64)).collect();
    let mut writer = EngineWriter::create(out, &manifest, &extras).map_err(diag)?;
    let total = writer.total_bytes();
    let mut done = 0;
    let index: BTreeMap<&str, usize> =
        manifest.weights.iter().enumerate().map(|(i, w)| (w.name.as_str(), i)).collect();
    // Scales and zeros of weights whose payload is written and whose own turn is still to come.
    let mut sides: BTreeMap<String, Side> = BTreeMap::new();
    while let Some(name) = writer.next_tensor().map(|t| t.name.clone()) {
        let mut made = None;
        let written = writer.tensor(&name, |sink: &mut dyn Write| -> Result<(), PackError> {
            if let Some(text) = texts.get(&name) {
                return Ok(sink.write_all(text)?);
            }
            if let Some(&i) = index.get(name.as_str()) {
                let weight = &module.weights[trtc_ir::WeightId(i as u32)];
                let mut told = |bytes| {
                    done += bytes;
                    progress(done, total);
                };
                made =
                    Some(pack::payload(weight, &manifest.weights[i], &checkpoint.weights, sink, &mut told)?);
                return Ok(());
            }
            let side = |suffix: Part| {
                let (weight, side) = sides.iter().find(|(weight, _)| suffix.tensor(weight) == name)?;
                Some((weight, side))
            };
            if let Some((_, side)) = side(Part::Scale) {
                return Ok(sink.write_all(&side.scale)?);
            }
            if let Some((_, side)) = side(Part::Zero) {
                return Ok(sink.write_all(&side.zero)?);
            }
            Err(PackError::Checkpoint(Diag::bug(
                &Loc::name(name.as_str()),
                "the engine has a tensor that nobody writes",
            )))
        });
        written.map_err(|e| match e {
            PackError::Checkpoint(d) => d,
            PackError::Io(e) => {
                Diag::user(&Loc::name(out.display().to_string()), format!("cannot be written: {e}"))
            }
            PackError::Engine(e) => diag(e),
        })?;
        if let Some(side) = made {
            // Side tensors follow their payload directly, so what is left of earlier weights is done with.
            sides.clear();
            sides.insert(name, side);
        }
    }
    let written = writer.finish().map_err(diag)?;
    progress(total, total);
    Ok(written.bytes)
}

fn manifest(
    module: &Module,
    checkpoint: &Checkpoint,
    resolved: &Resolved,
    options: &BuildOptions,
    code: &GpuCode,
) -> Result<Manifest, Diag> {
    let lowered = lower::lower(module, resolved.target, code)?;
    let config = &checkpoint.config;
    let small = |n: u64| {
        u32::try_from(n).map_err(|_| Diag::bug(&Loc::Unknown, format!("{n} is too large for a limit")))
    };
    let arena = module.arena.ok_or_else(|| Diag::bug(&Loc::Unknown, "no arena was planned"))?;
    Ok(Manifest {
        format: eng::FORMAT,
        target: resolved.target.name.to_owned(),
        capability: resolved.target.gpu.as_ref().map(|g| g.capability),
        precision: resolved.precision.name.to_owned(),
        deterministic: module.deterministic,
        model: eng::Model {
            name: checkpoint.name.clone(),
            arch: config.arch.to_owned(),
            vocab: config.vocab,
            hidden: config.hidden,
            layers: config.layer_count(),
            parameters: config.parameters(),
            bos: config.bos,
            eos: config.eos.clone(),
            context: config.context,
        },
        dims: eng::Dims {
            max_batch: small(resolved.limits.max_batch)?,
            max_seq_len: small(resolved.limits.max_seq_len)?,
            max_step_tokens: small(resolved.limits.max_step_tokens)?,
            max_logit_rows: small(resolved.limits.max_logit_rows)?,
        },
        arena,
        kv: lowered.kv,
        weights: lowered.weights,
        dummy_seed: options.dummy_seed,
        kernels: lowered.kernels,
        launches: lowered.launches,
        logits: lowered.logits,
        sampled: lowered.sampled,
        text: checkpoint.tokenizer.as_ref().map(text),
        generation: generation(&checkpoint.generation),
        provenance: eng::Provenance {
            compiler: format!("trtc {}", env!("CARGO_PKG_VERSION")),
            source: checkpoint.name.clone(),
            options: options.provenance(),
            assembler: code.assembler.clone(),
        },
    })
}

fn text(t: &frontend::TokenizerData) -> eng::Text {
    eng::Text {
        tokenizer: TOKENIZER.to_owned(),
        add_bos: t.add_bos,
        chat_template: t.chat_template.clone(),
        bos_token: t.bos_token.clone(),
        eos_token: t.eos_token.clone(),
    }
}

fn generation(g: &frontend::Generation) -> eng::Generation {
    eng::Generation {
        temperature: g.temperature,
        top_k: g.top_k,
        top_p: g.top_p,
        min_p: g.min_p,
        repetition_penalty: g.repetition_penalty,
    }
}

/// Writes IR text to `out`, whole or not at all. Returns the file's size.
pub(crate) fn write_text(out: &Path, text: &str) -> Result<u64, Diag> {
    let mut part = out.as_os_str().to_owned();
    part.push(format!(".part-{}", std::process::id()));
    let part = std::path::PathBuf::from(part);
    let written = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, out));
    written.map_err(|e| {
        // The part may not exist; the first error is the one to report.
        let _ = std::fs::remove_file(&part);
        Diag::user(&Loc::name(out.display().to_string()), format!("cannot be written: {e}"))
    })?;
    Ok(text.len() as u64)
}

/// The engine crate's error as a finding.
fn diag(e: EngineError) -> Diag {
    let fault = match e.fault() {
        Fault::User => trtc_ir::Fault::User,
        Fault::Unsupported => trtc_ir::Fault::Unsupported,
        Fault::Bug => trtc_ir::Fault::Bug,
    };
    let loc = match &e {
        EngineError::At { path, .. } => Loc::name(path.as_str()),
        _ => Loc::Unknown,
    };
    let diag = Diag::new(fault, &loc, e.root().to_string());
    match e.help() {
        Some(help) => diag.help(help),
        None => diag,
    }
}
