//! Hugging Face folders: `config.json`, safetensors in one file or in shards, and what belongs to text (`text.rs`).

mod quantised;
mod text;

use crate::frontend::config::{ModelConfig, Naming};
use crate::frontend::facts::Facts;
use crate::frontend::weights::{CheckpointWeights, MappedFile};
use crate::frontend::{Checkpoint, arch, name_of, names, safetensors};
use quantised::Quantised;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;
use trtc_ir::{Diag, Loc};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Opens a folder.
pub fn open_folder(folder: &Path) -> Result<Checkpoint, Diag> {
    let loc = Loc::name(folder.display().to_string());
    if !folder.join(CONFIG).is_file() {
        return Err(Diag::user(&loc, "is a folder without a config.json").help(
            "give a folder with config.json, tokenizer.json and .safetensors files, as models are published",
        ));
    }
    let (facts, quantised) = read_config(&folder.join(CONFIG))?;
    let mut config = (arch::of_config(&facts)?.config)(&facts)?;
    let mut weights = open_weights(folder, &loc)?;
    if let Some(quantised) = quantised {
        quantised.attach(&mut weights)?;
    }
    config.naming = naming(&weights);
    with_text(config, weights, folder, name_of(folder, ""), loc)
}

/// Opens a configuration alone: without weights, but with the tokenizer beside it, if there is one.
pub fn open_config(path: &Path) -> Result<Checkpoint, Diag> {
    let loc = Loc::name(path.display().to_string());
    let (facts, _) = read_config(path)?;
    let config = (arch::of_config(&facts)?.config)(&facts)?;
    let why = Diag::user(&loc, "is a configuration without weights")
        .help("give the folder with the weights, or build with dummy weights: --weights dummy:SEED");
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = full.parent().unwrap_or(Path::new("."));
    let is_plain = full.file_name().is_some_and(|n| n == CONFIG);
    let name = if is_plain { name_of(folder, "") } else { name_of(path, ".json") };
    with_text(config, CheckpointWeights::absent(why), folder, name, loc)
}

fn with_text(
    mut config: ModelConfig,
    weights: CheckpointWeights,
    folder: &Path,
    name: String,
    loc: Loc,
) -> Result<Checkpoint, Diag> {
    let text = text::read(folder, config.bos)?;
    let (generation, ends) = text::generation(folder)?;
    config.eos.extend(ends);
    if let Some(text) = &text {
        config.bos = text.bos.or(config.bos);
        if config.eos.is_empty() {
            config.eos.extend(text.eos);
        }
    }
    config.eos.sort_unstable();
    config.eos.dedup();
    if let Some(id) = config.bos.iter().chain(&config.eos).find(|&&id| id >= config.vocab) {
        let message =
            format!("token {id} begins or ends a sequence, and the vocabulary has {}", config.vocab);
        return Err(Diag::user(&loc, message).help("use the tokenizer files that belong to this model"));
    }
    Ok(Checkpoint { config, weights, tokenizer: text.map(|t| t.data), generation, name, loc })
}

/// A file's JSON object. A syntax error names its line.
fn read_object(path: &Path) -> Result<Map<String, Value>, Diag> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|e| Diag::user(&Loc::name(name.as_str()), format!("cannot be read: {e}")))?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Diag::user(&Loc::name(name), "must be a JSON object")),
        Err(e) => {
            let at = Loc::File { path: name, line: e.line() as u32, col: e.column() as u32 };
            Err(Diag::user(&at, format!("is not valid JSON: {e}")))
        }
    }
}

/// The facts of a configuration, with how the weights are quantised if they are; those of a multimodal wrapper's
/// language model come before its own.
fn read_config(path: &Path) -> Result<(Facts, Option<Quantised>), Diag> {
    let mut facts = Facts::new(Loc::name(path.display().to_string()), read_object(path)?);
    let quantised = facts.object("quantization_config")?;
    if let Some(inner) = facts.object("text_config")? {
        for (key, value) in inner.map {
            // The class is the wrapper's: its tensors are those of the file.
            if key != "architectures" && key != "model_type" {
                facts.map.insert(key, value);
            }
        }
    }
    let quantised = quantised.map(|q| Quantised::read(&q)).transpose()?;
    Ok((facts, quantised))
}

/// Maps the weights of a folder.
fn open_weights(folder: &Path, loc: &Loc) -> Result<CheckpointWeights, Diag> {
    let mut weights = CheckpointWeights::default();
    if folder.join(WEIGHTS).is_file() {
        add(&mut weights, &folder.join(WEIGHTS))?;
        return Ok(weights);
    }
    if folder.join(INDEX).is_file() {
        open_shards(folder, &mut weights)?;
        return Ok(weights);
    }
    let files: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let with = |end: &str| files.iter().any(|f| f.ends_with(end));
    if with(".safetensors") {
        return Err(Diag::user(loc, format!("has .safetensors files, but neither {WEIGHTS} nor {INDEX}"))
            .help("fetch the index too, or rename a single file"));
    }
    if with(".bin") || with(".pth") || with(".pt") {
        return Err(Diag::unsupported(loc, "has weights in PyTorch's own format only")
            .help("convert them to safetensors: model.save_pretrained(folder, safe_serialization=True)"));
    }
    let why = Diag::user(loc, format!("has no weights: neither {WEIGHTS} nor {INDEX}"))
        .help("fetch the weights, or build with dummy weights: --weights dummy:SEED");
    Ok(CheckpointWeights::absent(why))
}

fn add(weights: &mut CheckpointWeights, path: &Path) -> Result<(), Diag> {
    let file = MappedFile::open(path)?;
    let tensors = safetensors::tensors(file.bytes(), &file.loc())?;
    weights.add(file, tensors)
}

/// Maps every shard that the index names, and checks that each has the tensors it is said to have.
fn open_shards(folder: &Path, weights: &mut CheckpointWeights) -> Result<(), Diag> {
    let index =
        Facts::new(Loc::name(folder.join(INDEX).display().to_string()), read_object(&folder.join(INDEX))?);
    let map = index.object("weight_map")?.filter(|m| !m.map.is_empty());
    let map = map.ok_or_else(|| Diag::user(&index.loc, "`weight_map` is missing or empty"))?;
    let mut shards = BTreeSet::new();
    for name in map.map.keys() {
        let shard = map.str(name)?.unwrap_or_default();
        if shard.is_empty() || shard.contains(['/', '\\']) || shard == ".." {
            return Err(
                map.wrong(name, format!("must be the name of a file in this folder, found {shard:?}"))
            );
        }
        shards.insert(shard);
    }
    let missing: Vec<&str> = shards.iter().filter(|s| !folder.join(s).is_file()).copied().collect();
    if !missing.is_empty() {
        return Err(Diag::user(
            &index.loc,
            format!("names files that are not there: {}", missing.join(", ")),
        )
        .help("the download is not complete: fetch the model again"));
    }
    for shard in &shards {
        add(weights, &folder.join(shard))?;
    }
    for name in map.map.keys() {
        if weights.info(name).is_none() {
            let shard = map.str(name)?.unwrap_or_default();
            return Err(Diag::user(
                &index.loc,
                format!("says that tensor {name:?} is in {shard}, and it is not"),
            )
            .help("the files do not belong together: fetch the model again"));
        }
    }
    Ok(())
}

/// Which of the ways to name tensors these weights follow.
fn naming(weights: &CheckpointWeights) -> Naming {
    let ways = names::PREFIXES
        .iter()
        .map(|&(prefix, head)| Naming::HuggingFace { prefix: prefix.into(), head: head.into() });
    ways.into_iter()
        .find(|way| weights.info(&names::EMBED.tensor(None, way)).is_some())
        .unwrap_or_else(Naming::hugging_face)
}
