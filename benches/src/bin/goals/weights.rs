//! An engine with its weights in the file, made from one that has a seed instead: what a load from disk reads.

use std::path::Path;
use trtc_engine::layout::{Part, sizes};
use trtc_engine::manifest::{Manifest, Weight};
use trtc_engine::{EngineError, EngineFile, EngineWriter, dummy};

/// Bytes that are made at once, by all threads together.
const PIECE: u64 = 64 << 20;

/// Writes the engine of `from` to `to`, with the weights that the runtime would make up.
pub fn put_in(from: &Path, to: &Path) -> Result<(), EngineError> {
    let file = EngineFile::open(from)?;
    let seed = file.manifest().dummy_seed.unwrap_or_default();
    let manifest = Manifest { dummy_seed: None, ..file.manifest().clone() };
    let extras = trtc_engine::container::extra_names(&manifest);
    let extras: Vec<(&str, u64)> = extras
        .into_iter()
        .map(|n| Ok((n, file.tensor(n)?.len() as u64)))
        .collect::<Result<_, EngineError>>()?;
    let mut writer = EngineWriter::create(to, &manifest, &extras)?;
    while let Some(name) = writer.next_tensor().map(|t| t.name.clone()) {
        let made_up = manifest.weights.iter().enumerate().find_map(|(i, w)| {
            let part = Part::ALL.into_iter().find(|p| p.tensor(&w.name) == name)?;
            Some((i as u32, w, part)).filter(|_| file.manifest().dummy_seed.is_some() && !w.computed)
        });
        writer.tensor(&name, |out| {
            let write = |out: &mut dyn std::io::Write, bytes: &[u8]| {
                out.write_all(bytes).map_err(|error| EngineError::Io { doing: "write a tensor", error })
            };
            let Some((index, weight, part)) = made_up else { return write(out, file.tensor(&name)?) };
            let total = sizes(&weight.shape, weight.encoding, weight.layout)?.of(part);
            let mut piece = Vec::new();
            let mut start = 0;
            while start < total {
                piece.resize(PIECE.min(total - start) as usize, 0);
                fill((weight, index, part), seed, start, &mut piece)?;
                write(out, &piece)?;
                start += piece.len() as u64;
            }
            Ok(())
        })?;
    }
    writer.finish().map(|_| ())
}

/// Makes the bytes from `start` on, on all threads.
fn fill(
    (weight, index, part): (&Weight, u32, Part),
    seed: u64,
    start: u64,
    out: &mut [u8],
) -> Result<(), EngineError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = out.len().div_ceil(threads).next_multiple_of(dummy::STEP as usize).max(1 << 16);
    std::thread::scope(|scope| {
        let one = |(i, out): (usize, &mut [u8])| {
            dummy::fill(weight, index, seed, part, start + (i * share) as u64, out)
        };
        let work: Vec<_> = out.chunks_mut(share).enumerate().map(|c| scope.spawn(move || one(c))).collect();
        let failed = || EngineError::Contract("making weights failed".to_owned());
        work.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err(failed())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// An engine of one launch for the host: weights in three encodings, one of them computed.
    fn dummy_engine() -> Manifest {
        let weight = |name: &str, shape: [u64; 2], encoding: Value, layout: &str| json!({ "name": name, "shape": shape, "encoding": encoding, "layout": layout, "computed": false });
        let mut table = weight("table", [21, 8], json!("bf16"), "rows");
        table["computed"] = json!(true);
        serde_json::from_value(json!({
            "format": trtc_engine::manifest::FORMAT, "target": "host", "precision": "bf16",
            "model": { "name": "m", "arch": "a", "vocab": 21, "hidden": 8, "layers": 1, "parameters": 168, "eos": [],
                "context": 64 },
            "dims": { "max_batch": 1, "max_seq_len": 64, "max_step_tokens": 4, "max_logit_rows": 1 },
            "arena": 1024, "logits": 512,
            "kv": { "page_tokens": 16, "dtype": "bf16", "layers": [] },
            "weights": [weight("embed", [21, 8], json!("bf16"), "rows"), table,
                weight("down", [24, 1 << 16], json!("f8_channel"), "panel16")],
            "dummy_seed": 7,
            "kernels": [{ "name": "k", "code": { "host": { "embedding": { "width": 8, "scale": 1.0, "out": "bf16" } } },
                "contract": "" }],
            "launches": [{ "ops": [0], "choices": [{ "from": 1, "to": 4, "steps": "any", "kernel": 0 }],
                "args": ["tokens", { "weight": 0 }, { "arena": 0 }], "loc": "" }],
            "generation": {}, "provenance": trtc_engine::manifest::Provenance::default(),
        }))
        .unwrap()
    }

    #[test]
    fn the_file_gets_the_weights_that_the_runtime_would_make_up() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("dummy"), folder.path().join("whole"));
        let manifest = dummy_engine();
        let mut writer = EngineWriter::create(&from, &manifest, &[]).unwrap();
        let table = vec![3; 21 * 8 * 2];
        let given = |out: &mut dyn std::io::Write| {
            out.write_all(&table).map_err(|error| EngineError::Io { doing: "test", error })
        };
        writer.tensor("table", given).unwrap();
        writer.finish().unwrap();
        put_in(&from, &to).unwrap();
        let whole = EngineFile::open_with(&to, trtc_engine::Verify::Always).unwrap();
        assert_eq!(whole.manifest(), &Manifest { dummy_seed: None, ..manifest.clone() });
        assert_eq!(whole.tensor("table").unwrap(), table);
        for (index, name) in [(0, "embed"), (2, "down")] {
            let got = whole.tensor(&Part::Payload.tensor(name)).unwrap();
            let mut want = vec![0; got.len()];
            dummy::fill(&manifest.weights[index], index as u32, 7, Part::Payload, 0, &mut want).unwrap();
            assert!(got == want, "{name}");
        }
    }
}
