//! A small consistent manifest for tests, with every encoding, and files made of it. Not a model that computes.

use crate::container;
use crate::dummy;
use crate::error::EngineError;
use crate::layout::Part;
use crate::manifest::*;
use crate::write::{EngineWriter, Written};
use std::path::Path;

pub const TOKENIZER: &[u8] = b"{\"a tokenizer\": 1}";

pub fn weight(name: &str, shape: &[u64], encoding: Encoding, layout: Layout) -> Weight {
    Weight { name: name.into(), shape: shape.to_vec(), encoding, layout, computed: false }
}

fn arguments() -> Vec<Vec<Arg>> {
    use Arg::*;
    vec![
        vec![Tokens, Weight(0), Arena(0)],
        vec![Arena(0), Weight(1), Arena(512)],
        vec![Arena(512), Weight(2), Weight(3), Arena(1024)],
        vec![Arena(1024), Positions, Weight(4), Batch, Kv(0), Arena(2048)],
        vec![Arena(2048), Batch, Kv(0), Arena(2560)],
        vec![Arena(2560), Weight(5), Arena(0), Arena(512)],
        vec![Arena(512), Arena(2048), Arena(2560)],
        vec![Arena(2048), Arena(2560), Weight(7), Arena(512), Arena(512)],
        vec![Arena(512), Rows, Arena(1024)],
        vec![Arena(1024), Weight(6), Arena(3072)],
    ]
}

/// Launches over the weights above them: an embedding, a norm, projections in each encoding, a cache, logits.
pub fn manifest() -> Manifest {
    let (vocab, hidden) = (21, 10);
    let bf16 = Dtype::Bf16;
    let weights = vec![
        weight("embed", &[vocab, hidden], Encoding::Bf16, Layout::Rows),
        weight("norm", &[hidden], Encoding::F32, Layout::Rows),
        weight("qkv", &[24, hidden], Encoding::I4Group { group: 8 }, Layout::Panel16),
        weight("qkv.bias", &[24], Encoding::F32, Layout::Rows),
        Weight { computed: true, ..weight("rope", &[2], Encoding::F32, Layout::Rows) },
        weight("o", &[hidden, 12], Encoding::I8Channel, Layout::Panel16),
        weight("head", &[vocab, hidden], Encoding::F32, Layout::Panel16),
        weight("down", &[hidden, hidden], Encoding::F8Channel, Layout::Panel16),
        weight("spare", &[3, 5], Encoding::F8Channel, Layout::Rows),
    ];
    let kernels = vec![
        HostKernel::Embedding { width: 10, scale: 1.0, out: bf16 },
        HostKernel::RmsNorm {
            width: 10,
            per_token: 1,
            eps: 1e-5,
            offset: 0.0,
            rows: Count::Tokens,
            x: bf16,
            out: bf16,
        },
        HostKernel::Linear {
            n: 24,
            k: 10,
            rows: Count::Tokens,
            bias: true,
            residual: None,
            x: bf16,
            out: bf16,
        },
        HostKernel::RopeKvAppend { heads: 2, dim: 4, q_norm: None, k_norm: None, x: bf16, out: bf16 },
        HostKernel::Attention { heads: 2, scale: 0.5, softcap: None, products: None, x: bf16, out: bf16 },
        HostKernel::Linear {
            n: 10,
            k: 12,
            rows: Count::Tokens,
            bias: false,
            residual: Some(bf16),
            x: bf16,
            out: bf16,
        },
        HostKernel::Quantize { width: 10, rows: Count::Tokens, x: bf16 },
        HostKernel::Linear {
            n: 10,
            k: 10,
            rows: Count::Tokens,
            bias: false,
            residual: Some(bf16),
            x: Dtype::F8E4M3,
            out: bf16,
        },
        HostKernel::GatherRows { width: 10, x: bf16 },
        HostKernel::Linear {
            n: 21,
            k: 10,
            rows: Count::Rows,
            bias: false,
            residual: None,
            x: bf16,
            out: Dtype::F32,
        },
    ];
    let launches = (arguments().into_iter().enumerate())
        .map(|(i, args)| Launch {
            ops: vec![i as u32],
            choices: vec![Choice { from: 1, to: 16, steps: Steps::Any, kernel: i as u32 }],
            args,
            loc: format!("op {i}"),
        })
        .collect();
    Manifest {
        format: FORMAT,
        target: "host".into(),
        capability: None,
        precision: "mixed".into(),
        deterministic: false,
        model: Model {
            name: "test".into(),
            arch: "llama".into(),
            vocab: vocab as u32,
            hidden: hidden as u32,
            layers: 1,
            parameters: 1000,
            bos: Some(1),
            eos: vec![2],
            context: 64,
        },
        dims: Dims { max_batch: 4, max_seq_len: 64, max_step_tokens: 16, max_logit_rows: 4 },
        arena: 3072 + 4 * 21 * 4,
        kv: Kv {
            page_tokens: 16,
            dtype: bf16,
            layers: vec![KvLayer { heads: 1, head_dim: 6, window: None }],
        },
        weights,
        dummy_seed: None,
        kernels: (kernels.into_iter().enumerate())
            .map(|(i, k)| Kernel { name: format!("k{i}"), code: Code::Host(k), contract: String::new() })
            .collect(),
        launches,
        logits: 3072,
        sampled: None,
        text: Some(Text {
            tokenizer: "tokenizer.json".into(),
            add_bos: true,
            chat_template: Some("{{ \"\u{e4}\" }}".into()),
            bos_token: Some("<s>".into()),
            eos_token: None,
        }),
        generation: Generation::default(),
        provenance: Provenance::default(),
    }
}

/// The manifest's launches cut down to the embedding, for an engine of PTX kernels.
pub fn ptx_manifest() -> Manifest {
    let mut m = manifest();
    m.target = "sm_90".into();
    m.capability = Some((9, 0));
    let one = Extent { of: Count::One, div: 1, plus: None, mul: 1 };
    let tokens = Extent { of: Count::Tokens, div: 2, plus: None, mul: 1 };
    for (i, kernel) in m.kernels.iter_mut().enumerate() {
        kernel.code = Code::Ptx(PtxKernel {
            module: format!("kernel/m{}.ptx", i / 2),
            // Some engines have binaries of some kernels only.
            cubin: (i / 2 == 1).then(|| "kernel/m1.cubin".to_owned()),
            entry: format!("k{i}"),
            grid: [tokens, one, one],
            shares: None,
            block: [128, 1, 1],
            shared: 1024,
            scratch: None,
            maps: Vec::new(),
            dependent: false,
        });
    }
    m
}

/// Bytes of a tensor of a test file, the same each time.
pub fn content(m: &Manifest, name: &str) -> Vec<u8> {
    for (i, w) in m.weights.iter().enumerate() {
        for part in Part::ALL {
            if part.tensor(&w.name) == name {
                let sizes = crate::layout::sizes(&w.shape, w.encoding, w.layout).unwrap();
                let mut bytes = vec![0; sizes.of(part) as usize];
                let given = Weight { computed: false, ..w.clone() };
                dummy::fill(&given, i as u32, 7, part, 0, &mut bytes).unwrap();
                return bytes;
            }
        }
    }
    if name.ends_with(".ptx") { format!(".version 8.0 // {name}").into_bytes() } else { TOKENIZER.to_vec() }
}

/// Writes the whole engine of a manifest.
pub fn write(m: &Manifest, path: &Path) -> Result<Written, EngineError> {
    let names = container::extra_names(m);
    let extras: Vec<(&str, u64)> = names.iter().map(|n| (*n, content(m, n).len() as u64)).collect();
    let mut writer = EngineWriter::create(path, m, &extras)?;
    while let Some(name) = writer.next_tensor().map(|t| t.name.clone()) {
        writer.tensor(&name, |w| -> Result<(), EngineError> {
            for piece in content(m, &name).chunks(7) {
                w.write_all(piece).map_err(|error| EngineError::Io { doing: "test", error })?;
            }
            Ok(())
        })?;
    }
    writer.finish()
}

/// The bytes of the engine of a manifest.
pub fn file(m: &Manifest) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.engine");
    write(m, &path).unwrap();
    std::fs::read(path).unwrap()
}
