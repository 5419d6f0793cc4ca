//! Hugging Face folders whose weights are e4m3 already: what `quantization_config` says, and which scales are whose.
//!
//! | `quant_method` | scales of `X.weight` | value |
//! |---|---|---|
//! | `compressed-tensors`, format `float-quantized` | `X.weight_scale`: one, one a row, or one a block | `w * scale` |
//! | `fp8` | `X.weight_scale`: one, or one a row; `X.weight_scale_inv`: one for each block of `weight_block_size` | `w * scale`, whatever the name |
//!
//! Which modules are left out (`ignore`, `ignored_layers`, `modules_to_not_convert`) need not be known: their weights are
//! of plain types. Calibrated scales of activations (`input_scale`) and of the cache are not read: linears get a scale
//! for each token, and the cache one for each vector, computed as they come, which follow the values more closely.

use crate::frontend::facts::Facts;
use crate::frontend::weights::CheckpointWeights;
use serde_json::Value;
use trtc_ir::Diag;

/// How the weights of a folder are quantised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quantised {
    /// Rows and columns of the blocks that have scales of their own, if there are such.
    block: Option<(u64, u64)>,
}

/// Endings of the names of scales, after that of the weight's module.
const SCALES: [&str; 2] = [".weight_scale", ".weight_scale_inv"];

/// Endings of the names of scales that are not read.
const CALIBRATED: [&str; 4] = [".input_scale", ".output_scale", ".k_scale", ".v_scale"];

/// Type of the weights by the container's name.
const E4M3: &str = "F8_E4M3";

impl Quantised {
    /// Reads a `quantization_config`. Refuses methods and formats other than those of the table.
    pub fn read(config: &Facts) -> Result<Quantised, Diag> {
        match config.str("quant_method")?.unwrap_or("unknown") {
            "compressed-tensors" => compressed(config),
            "fp8" => {
                same(config, "fmt", &["e4m3", "float8_e4m3fn"])?;
                Ok(Quantised { block: block(config, "weight_block_size")? })
            }
            method => Err(unsupported(config, "quant_method", method)),
        }
    }

    /// Gives e4m3 weights their scales, and leaves out those that are not read.
    pub fn attach(&self, weights: &mut CheckpointWeights) -> Result<(), Diag> {
        let names: Vec<String> = weights.names().map(str::to_owned).collect();
        for name in names.iter().filter(|name| CALIBRATED.iter().any(|end| name.ends_with(end))) {
            weights.forget(name);
        }
        for name in &names {
            let module = SCALES.iter().find_map(|end| name.strip_suffix(end));
            let Some(weight) = module.map(|module| format!("{module}.weight")) else {
                continue;
            };
            if weights.info(&weight).is_some_and(|info| info.dtype == E4M3) {
                let shared = self.shared(weights, &weight, name)?;
                weights.attach(&weight, name, shared)?;
            }
        }
        let bare = |name: &&String| {
            weights.info(name).is_some_and(|info| info.dtype == E4M3) && !weights.scaled(name)
        };
        match names.iter().find(bare) {
            None => Ok(()),
            Some(name) => Err(Diag::user(
                &weights.loc(name),
                format!(
                    "tensor {name:?} is e4m3 and has no scale, neither {name}_scale nor {name}_scale_inv"
                ),
            )
            .help("the files do not belong together, or are not complete: fetch the model again")),
        }
    }

    /// Rows and columns of a matrix that share one of its scales.
    fn shared(&self, weights: &CheckpointWeights, weight: &str, scales: &str) -> Result<(u64, u64), Diag> {
        let shape = |name: &str| weights.info(name).map(|i| i.shape.clone()).unwrap_or_default();
        let (matrix, found) = (shape(weight), shape(scales));
        let &[rows, columns] = matrix.as_slice() else {
            let message = format!("tensor {weight:?} has scales and {} dimensions", matrix.len());
            return Err(Diag::unsupported(&weights.loc(weight), message));
        };
        if found.iter().product::<u64>() == 1 {
            return Ok((rows, columns));
        }
        if found == [rows] || found == [rows, 1] {
            return Ok((1, columns));
        }
        match self.block {
            Some((r, c)) if found == [rows.div_ceil(r), columns.div_ceil(c)] => Ok((r, c)),
            block => {
                let blocks =
                    block.map_or(String::new(), |(r, c)| format!(", or one for each {r} x {c} block"));
                let message = format!(
                    "tensor {scales:?} is {found:?}; {weight:?} is {matrix:?} and takes one scale, one for each row{blocks}"
                );
                Err(Diag::user(&weights.loc(scales), message)
                    .help("use the configuration that belongs to these weights"))
            }
        }
    }
}

/// A configuration of compressed-tensors.
fn compressed(config: &Facts) -> Result<Quantised, Diag> {
    const FORMATS: [&str; 2] = ["float-quantized", "naive-quantized"];
    match config.str("format")? {
        Some(format) if FORMATS.contains(&format) => {}
        format => return Err(unsupported(config, "format", format.unwrap_or("unknown"))),
    }
    if let Some(sparse) = config.object("sparsity_config")? {
        same(&sparse, "format", &["dense"])?;
    }
    let mut all = Quantised::default();
    let Some(groups) = config.object("config_groups")? else {
        return Ok(all);
    };
    for name in groups.map.keys() {
        let Some(group) = groups.object(name)? else { continue };
        same(&group, "format", &FORMATS)?;
        let Some(weights) = group.object("weights")? else { continue };
        same(&weights, "type", &["float"])?;
        same(&weights, "strategy", &["tensor", "channel", "block"])?;
        if let Some(bits) = weights.u32("num_bits")?.filter(|&bits| bits != 8) {
            return Err(unsupported(&weights, "num_bits", &bits.to_string()));
        }
        if weights.bool("symmetric")? == Some(false) {
            return Err(unsupported(&weights, "symmetric", "false"));
        }
        let own = block(&weights, "block_structure")?;
        if all.block.is_some() && own.is_some() && all.block != own {
            return Err(weights.unsupported("block_structure", "is not that of the other groups"));
        }
        all.block = all.block.or(own);
    }
    Ok(all)
}

/// An error if a key is there and is none of the known words.
fn same(config: &Facts, key: &str, known: &[&str]) -> Result<(), Diag> {
    match config.str(key)? {
        Some(word) if !known.contains(&word) => Err(unsupported(config, key, word)),
        _ => Ok(()),
    }
}

fn unsupported(config: &Facts, key: &str, word: &str) -> Diag {
    config
        .unsupported(key, format!("is {word}: weights that are quantised so are not supported"))
        .note("supported are compressed-tensors in the format float-quantized, and fp8")
        .help("use the checkpoint that was not quantised; --precision quantises while building")
}

/// Rows and columns of a block.
fn block(config: &Facts, key: &str) -> Result<Option<(u64, u64)>, Diag> {
    let Some(value) = config.get(key) else {
        return Ok(None);
    };
    let sizes: Option<Vec<u64>> =
        value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect::<Option<_>>());
    match sizes.as_deref() {
        Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok(Some((rows, columns))),
        _ => Err(config.wrong(key, "must be a list of two sizes, the rows and the columns of a block")),
    }
}
