//! Whole checkpoints: the reference ones that are checked in, real ones where they have been fetched, broken ones.

mod broken;
mod fuzzed;
mod gguf_models;
mod golden;
mod hugging_face;
mod quantised;
mod real;
mod reference;

use super::*;
use std::path::PathBuf;
use trtc_ir::{Dim, Op};

/// The folder of reference checkpoints.
fn golden_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

fn options() -> ImportOptions {
    ImportOptions {
        act: DType::Bf16,
        residual: DType::F32,
        weight: DType::Bf16,
        kv: DType::Bf16,
        attention: None,
        max_seq_len: 128,
        max_step_tokens: 64,
        max_logit_rows: 8,
    }
}

/// Checks that hold for every graph: it verifies, its parameters are those that the runtime passes, its weights
/// are those that were counted.
fn check_graph(module: &Module, config: &ModelConfig) {
    trtc_ir::verify::verify(module).unwrap();
    let f = &module.func;
    let names: Vec<&str> = f.params.iter().map(|&p| f.values[p].name.as_str()).collect();
    assert_eq!(names[..4], ["tokens", "positions", "rows", "batch"]);
    assert_eq!(names.len(), 4 + config.layers.len());
    assert!(f.order.iter().all(|&op| f.ops[op].loc != Loc::Unknown));
    let logits = f.values[f.results[0]].ty.tensor().unwrap();
    assert_eq!(logits.dims[1], Dim::Const(u64::from(config.vocab)));
    let learned: u64 = module
        .weights
        .iter()
        .filter(|(_, w)| matches!(w.source, trtc_ir::Source::Tensors(_)))
        .map(|(_, w)| w.ty.shape().unwrap().iter().product::<u64>())
        .sum();
    assert_eq!(learned, config.parameters());
}

/// How many ops of one name a graph has.
fn count(module: &Module, pick: fn(&Op) -> bool) -> usize {
    module.func.order.iter().filter(|&&op| pick(&module.func.ops[op].op)).count()
}

/// The error of opening and importing.
fn error(path: &Path) -> Diag {
    match open(path) {
        Err(e) => e,
        Ok(checkpoint) => import(&checkpoint, &options()).expect_err("the checkpoint is broken"),
    }
}

/// A copy of a reference checkpoint, to be changed.
struct Folder(tempfile::TempDir);

impl Folder {
    fn of(name: &str) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for file in ["config.json", "model.safetensors"] {
            let from = golden_folder().join("tiny").join(name).join(file);
            folder.write(file, &std::fs::read(from).unwrap());
        }
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        // Reference files may be read-only; a new file is not.
        std::fs::write(self.path().join(file), bytes).unwrap();
    }

    fn remove(&self, file: &str) {
        std::fs::remove_file(self.path().join(file)).unwrap();
    }

    /// Changes keys of the configuration; `null` takes one out.
    fn config(self, changes: serde_json::Value) -> Folder {
        let bytes = std::fs::read(self.path().join("config.json")).unwrap();
        let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            match value {
                serde_json::Value::Null => config.remove(key),
                value => config.insert(key.clone(), value.clone()),
            };
        }
        self.write("config.json", &serde_json::to_vec(&config).unwrap());
        self
    }

    /// Renames, drops or adds tensors: names as they are to be, with bytes and shapes of the file.
    fn tensors(self, change: impl Fn(&mut Vec<(String, Stored)>)) -> Folder {
        let path = self.path().join("model.safetensors");
        let mut tensors = stored(&path);
        change(&mut tensors);
        write_tensors(&path, &tensors);
        self
    }
}

/// A tensor in memory.
#[derive(Clone)]
struct Stored {
    dtype: ::safetensors::Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn stored(path: &Path) -> Vec<(String, Stored)> {
    let bytes = std::fs::read(path).unwrap();
    let file = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let own = |t: ::safetensors::tensor::TensorView<'_>| Stored {
        dtype: t.dtype(),
        shape: t.shape().to_vec(),
        bytes: t.data().to_vec(),
    };
    file.tensors().into_iter().map(|(name, t)| (name, own(t))).collect()
}

fn write_tensors(path: &Path, tensors: &[(String, Stored)]) {
    let views = tensors.iter().map(|(name, t)| {
        (name.as_str(), ::safetensors::tensor::TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap())
    });
    std::fs::write(path, ::safetensors::serialize(views, None).unwrap()).unwrap();
}
