//! The weights that a graph asks for against those that a checkpoint holds: each used, none missing, shapes equal.

use crate::frontend::names;
use crate::frontend::weights::{CheckpointWeights, unreadable};
use std::collections::BTreeMap;
use trtc_ir::{Diag, Loc, Module, Source};

/// Most tensors that one error lists.
const LISTED: usize = 8;

/// An error that names the tensors at fault, with both shapes where they differ. `tied` allows a stored copy of
/// the output projection, called `head`, that is not read.
pub fn weights(
    module: &Module,
    weights: &CheckpointWeights,
    loc: &Loc,
    tied_head: Option<&str>,
) -> Result<(), Diag> {
    let mut wanted: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (_, weight) in module.weights.iter() {
        if let (Source::Tensors(parts), Some(shape)) = (&weight.source, weight.ty.shape())
            && let [part] = parts.as_slice()
        {
            wanted.insert(&part.name, shape);
        }
    }
    let missing: Vec<String> = wanted
        .iter()
        .filter(|(name, _)| weights.info(name).is_none())
        .map(|(name, shape)| format!("{name:?} {}", extents(shape)))
        .collect();
    if !missing.is_empty() {
        return Err(list(loc, "the checkpoint lacks tensors that the configuration asks for", &missing)
            .help("check that all files of the checkpoint are there, and that the configuration is the one that belongs to it"));
    }
    let misshapen: Vec<String> = wanted
        .iter()
        .filter_map(|(name, shape)| {
            let found = &weights.info(name)?.shape;
            (found != shape).then(|| {
                format!("{name:?} is {}, the configuration asks for {}", extents(found), extents(shape))
            })
        })
        .collect();
    if !misshapen.is_empty() {
        return Err(list(loc, "tensors of the checkpoint differ from the configuration", &misshapen)
            .help("use the configuration that belongs to these weights"));
    }
    let extra: Vec<String> = weights
        .names()
        .filter(|name| !wanted.contains_key(name) && !names::ignorable(name) && tied_head != Some(name))
        .map(|name| format!("{name:?} {}", weights.info(name).map(|i| extents(&i.shape)).unwrap_or_default()))
        .collect();
    if !extra.is_empty() {
        return Err(list(loc, "the checkpoint has tensors that this architecture does not read", &extra)
            .help("use a checkpoint without adapters or quantisation, and with the configuration that belongs to it"));
    }
    for name in wanted.keys() {
        if let Some(info) = weights.info(name).filter(|_| !weights.readable(name)) {
            return Err(unreadable(&weights.loc(name), name, &info.dtype));
        }
    }
    Ok(())
}

fn list(loc: &Loc, what: &str, names: &[String]) -> Diag {
    let mut diag = Diag::user(loc, format!("{what}: {} of them", names.len()));
    for name in names.iter().take(LISTED) {
        diag = diag.note(name.clone());
    }
    if names.len() > LISTED {
        diag = diag.note(format!("and {} more", names.len() - LISTED));
    }
    diag
}

fn extents(shape: &[u64]) -> String {
    let parts: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("({})", parts.join(" x "))
}
