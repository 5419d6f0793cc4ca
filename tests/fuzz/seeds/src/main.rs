//! Writes small valid inputs, one folder a target: fuzzing starts from them and not from nothing.
//!
//! usage: seeds FOLDER

use std::error::Error;
use std::path::{Path, PathBuf};
use trtc_engine::EngineWriter;
use trtc_engine::layout::Part;
use trtc_engine::manifest as eng;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Requests to the server; the first byte chooses the endpoint.
const BODIES: [(&str, &str); 5] = [
    (
        "completion",
        r#"0{"prompt":["a b","b"],"max_tokens":4,"n":2,"stop":["a"],"seed":1,"logit_bias":{"1":-1},"stream":true,"stream_options":{"include_usage":true}}"#,
    ),
    (
        "ids",
        r#"0{"prompt":[[1,2],[3]],"echo":true,"logprobs":2,"temperature":0.5,"top_p":0.9,"top_k":-1,"min_p":0.1,"stop_token_ids":[1]}"#,
    ),
    (
        "chat",
        r#"1{"messages":[{"role":"system","content":"a"},{"role":"user","content":[{"type":"text","text":"b"}]}],"logprobs":true,"top_logprobs":3,"max_completion_tokens":5}"#,
    ),
    (
        "informs",
        r#"1{"messages":[{"role":"user","content":"a"}],"user":"u","metadata":{},"store":false,"tools":[],"response_format":{"type":"text"},"timeout":1.5,"priority":-3}"#,
    ),
    (
        "response",
        r#"2{"instructions":"b","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"c","output":"a"}],"max_output_tokens":4,"tools":[{"type":"function","name":"f"}],"tool_choice":"auto","text":{"format":{"type":"text"}},"store":false,"include":["message.output_text.logprobs"],"top_logprobs":1}"#,
    ),
];

/// Answers with calls; the first byte chooses the notation, the second how they are cut.
const STREAMS: [(&str, &str); 4] = [
    (
        "hermes",
        "00I look.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": [1, \"</tool\"]}}\n</tool_call>\n<tool_call>{\"name\": \"b\"}",
    ),
    ("mistral", "11 [{\"name\": \"a\", \"arguments\": \"{}\"}, {\"name\": \"b\"}]"),
    ("llama", "22{\"name\": \"a\", \"parameters\": {\"y\": \"\u{e4}\"}}; {\"name\": \"b\"}"),
    ("events", "33\u{feff}data: a\r\n\r\n: waiting\n\nevent: x\ndata\ndata: b\rdata:c\r\rdata: the end"),
];

/// Templates and grammars; the first byte chooses, a zero byte ends them.
const FORMS: [(&str, &str); 10] = [
    (
        "template",
        "0{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% if m.tool_calls %}{{ m.tool_calls | tojson(indent=2) }}{% endif %}{{ eos_token }}{% endfor %}\0Hello",
    ),
    (
        "namespace",
        "0{% set ns = namespace(x='') %}{% for i in range(9) %}{% set ns.x = ns.x ~ ns.x ~ 'ab' %}{% endfor %}{{ ns.x | upper | replace('A', 'bb') }}\0x",
    ),
    (
        "nested",
        "0{% set ns = namespace(x=[1]) %}{% for i in range(300) %}{% set ns.x = [ns.x, {'a': ns.x}] %}{% endfor %}{{ ns.x | tojson }}{{ ns }}\0x",
    ),
    (
        "macro",
        "0{%- macro f(n) %}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro -%}{{ f(20) }}{{ 'x'.split('y')[0].strip() * 3 }}{{ strftime_now('%d %b %Y') }}\0x",
    ),
    (
        "schema",
        "1{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"array\",\"items\":{\"enum\":[1,\"b\"]},\"maxItems\":3},\"b\":{\"$ref\":\"#/$defs/c\"}},\"required\":[\"a\"],\"$defs\":{\"c\":{\"type\":\"string\",\"pattern\":\"^a+$\",\"maxLength\":9}}}}}}\0abc",
    ),
    (
        "bounds",
        "1{\"guided_json\":{\"anyOf\":[{\"type\":\"integer\",\"minimum\":-5,\"maximum\":300},{\"type\":\"number\",\"multipleOf\":0.5},{\"type\":\"string\",\"format\":\"date-time\"}]}}\0\x011",
    ),
    ("regex", "1{\"guided_regex\":\"(ab|[0-9]{2,9})+\\\\d?\"}\0aaaa"),
    (
        "lark",
        "1{\"response_format\":{\"type\":\"grammar\",\"grammar\":\"start: e\\ne: e \\\"+\\\" t | t\\nt: /[0-9]+/ | \\\"(\\\" e \\\")\\\"\"}}\0+1",
    ),
    ("choice", "1{\"structured_outputs\":{\"choice\":[\"yes\",\"no, never\"]}}\0y"),
    ("object", "1{\"response_format\":{\"type\":\"json_object\"}}\0{}"),
];

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("usage: seeds FOLDER")?);
    let target = |name: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    };
    std::fs::write(target("gguf")?.join("llama.gguf"), gguf())?;
    let header = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[],"data_offsets":[8,12]}}"#;
    std::fs::write(target("safetensors_header")?.join("two.safetensors"), safetensors(header, 12))?;
    let engines = target("engine_read")?;
    for (name, manifest) in [("host", host()), ("gpu", gpu())] {
        engine(&engines.join(format!("{name}.engine")), &manifest)?;
    }
    let modules = target("ir_parse")?;
    let filetests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../filetests");
    let copied = copy_all(&filetests, "mlir", &modules)?;
    if copied == 0 {
        return Err(format!("no module under {}", filetests.display()).into());
    }
    for (name, seeds) in [("http_body", &BODIES[..]), ("stream", &STREAMS), ("forms", &FORMS)] {
        let folder = target(name)?;
        for (name, seed) in seeds {
            std::fs::write(folder.join(name), seed)?;
        }
    }
    let kernels = target("ptx")?;
    let emulator = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../runtime/emulator/tests");
    if copy_all(&emulator, "ptx", &kernels)? == 0 {
        return Err(format!("no kernel under {}", emulator.display()).into());
    }
    Ok(())
}

/// Copies every file under `from` with this extension into `to`; gives their number.
fn copy_all(from: &Path, extension: &str, to: &Path) -> Result<usize> {
    let mut copied = 0;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if path.is_dir() {
            copied += copy_all(&path, extension, to)?;
        } else if path.extension().is_some_and(|e| e == extension) {
            let name =
                path.components().rev().take(2).map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>();
            std::fs::copy(&path, to.join(name.join("-")))?;
            copied += 1;
        }
    }
    Ok(copied)
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + data, 0);
    out
}

/// A GGUF file in the making: `parts` of metadata entries and tensor entries.
#[derive(Default)]
struct Gguf {
    meta: Vec<u8>,
    entries: u64,
}

fn string(text: &str) -> Vec<u8> {
    [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

impl Gguf {
    fn entry(&mut self, key: &str, ty: u32, value: &[u8]) {
        self.meta.extend(string(key));
        self.meta.extend(ty.to_le_bytes());
        self.meta.extend(value);
        self.entries += 1;
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.entry(key, 4, &value.to_le_bytes());
    }

    fn str(&mut self, key: &str, value: &str) {
        self.entry(key, 8, &string(value));
    }

    /// An array of `count` elements of type `ty`, already encoded.
    fn array(&mut self, key: &str, ty: u32, count: usize, elements: Vec<u8>) {
        let mut value = ty.to_le_bytes().to_vec();
        value.extend((count as u64).to_le_bytes());
        value.extend(elements);
        self.entry(key, 9, &value);
    }
}

/// A llama of one layer with a vocabulary and one tensor of each kind of quantisation.
fn gguf() -> Vec<u8> {
    let mut g = Gguf::default();
    g.str("general.architecture", "llama");
    for (key, value) in [
        ("llama.context_length", 64),
        ("llama.embedding_length", 64),
        ("llama.block_count", 1),
        ("llama.feed_forward_length", 64),
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 1),
        ("llama.rope.dimension_count", 32),
        ("tokenizer.ggml.bos_token_id", 1),
        ("tokenizer.ggml.eos_token_id", 2),
    ] {
        g.u32(key, value);
    }
    g.entry("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes());
    g.entry("llama.rope.freq_base", 6, &1e4f32.to_le_bytes());
    g.str("tokenizer.ggml.model", "llama");
    let tokens = ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "ab", "<0x0A>"];
    g.array("tokenizer.ggml.tokens", 8, tokens.len(), tokens.iter().flat_map(|t| string(t)).collect());
    g.array(
        "tokenizer.ggml.scores",
        6,
        tokens.len(),
        (0..8).flat_map(|i| (-(i as f32)).to_le_bytes()).collect(),
    );
    let kinds = [2i32, 3, 3, 1, 1, 1, 1, 6];
    g.array(
        "tokenizer.ggml.token_type",
        5,
        tokens.len(),
        kinds.iter().flat_map(|k| k.to_le_bytes()).collect(),
    );
    g.entry("tokenizer.ggml.add_bos_token", 7, &[1]);

    // (name, extents innermost first, type, bytes): f32, f16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K.
    let tensors: [(&str, &[u64], u32, u64); 7] = [
        ("output_norm.weight", &[64], 0, 256),
        ("token_embd.weight", &[64, 8], 1, 1024),
        ("blk.0.attn_q.weight", &[64, 2], 2, 72),
        ("blk.0.attn_k.weight", &[64, 2], 3, 80),
        ("blk.0.attn_v.weight", &[64, 2], 8, 136),
        ("blk.0.ffn_up.weight", &[256, 1], 12, 144),
        ("blk.0.ffn_down.weight", &[256, 1], 14, 210),
    ];
    let mut table = Vec::new();
    let mut data = Vec::new();
    for (name, shape, ty, bytes) in tensors {
        data.resize(data.len().next_multiple_of(32), 0);
        table.extend(string(name));
        table.extend((shape.len() as u32).to_le_bytes());
        table.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
        table.extend(ty.to_le_bytes());
        table.extend((data.len() as u64).to_le_bytes());
        data.resize(data.len() + bytes as usize, 0x3c);
    }
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend(g.entries.to_le_bytes());
    out.extend(g.meta);
    out.extend(table);
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

/// Embedding, choice of rows, linear: the shortest step that makes logits.
fn host() -> eng::Manifest {
    let weight = |name: &str, encoding, layout| eng::Weight {
        name: name.into(),
        shape: vec![8, 4],
        encoding,
        layout,
        computed: false,
    };
    let kernel = |name: &str, code| eng::Kernel {
        name: name.into(),
        code: eng::Code::Host(code),
        contract: String::new(),
    };
    let launch = |kernel, args| eng::Launch {
        ops: vec![kernel],
        choices: vec![eng::Choice { from: 1, to: 16, steps: eng::Steps::Any, kernel }],
        args,
        loc: "model".into(),
    };
    let (x, out) = (eng::Dtype::Bf16, eng::Dtype::F32);
    eng::Manifest {
        format: eng::FORMAT,
        target: "host".into(),
        capability: None,
        precision: "int8".into(),
        deterministic: false,
        model: eng::Model {
            name: "seed".into(),
            arch: "llama".into(),
            vocab: 8,
            hidden: 4,
            layers: 1,
            parameters: 64,
            bos: Some(1),
            eos: vec![2],
            context: 64,
        },
        dims: eng::Dims { max_batch: 4, max_seq_len: 64, max_step_tokens: 16, max_logit_rows: 8 },
        arena: 4096,
        kv: eng::Kv {
            page_tokens: 16,
            dtype: eng::Dtype::Bf16,
            layers: vec![eng::KvLayer { heads: 1, head_dim: 4, window: Some(8) }],
        },
        weights: vec![
            weight("table", eng::Encoding::Bf16, eng::Layout::Rows),
            weight("head", eng::Encoding::I8Channel, eng::Layout::Panel16),
        ],
        dummy_seed: None,
        kernels: vec![
            kernel("embedding", eng::HostKernel::Embedding { width: 4, scale: 1.0, out: x }),
            kernel("gather", eng::HostKernel::GatherRows { width: 4, x }),
            kernel(
                "linear",
                eng::HostKernel::Linear {
                    n: 8,
                    k: 4,
                    rows: eng::Count::Rows,
                    bias: false,
                    residual: None,
                    x,
                    out,
                },
            ),
        ],
        launches: vec![
            launch(0, vec![eng::Arg::Tokens, eng::Arg::Weight(0), eng::Arg::Arena(0)]),
            launch(1, vec![eng::Arg::Arena(0), eng::Arg::Rows, eng::Arg::Arena(256)]),
            launch(2, vec![eng::Arg::Arena(256), eng::Arg::Weight(1), eng::Arg::Arena(512)]),
        ],
        logits: 512,
        sampled: None,
        text: Some(eng::Text {
            tokenizer: "tokenizer.json".into(),
            add_bos: true,
            chat_template: Some("{{ messages }}".into()),
            bos_token: Some("<s>".into()),
            eos_token: None,
        }),
        generation: eng::Generation { temperature: Some(0.5), ..eng::Generation::default() },
        provenance: eng::Provenance::default(),
    }
}

/// The same with one PTX kernel.
fn gpu() -> eng::Manifest {
    let extent = |of| eng::Extent { of, div: 4, plus: None, mul: 1 };
    let kernel = eng::Kernel {
        name: "step".into(),
        code: eng::Code::Ptx(eng::PtxKernel {
            module: "kernel/step.ptx".into(),
            cubin: Some("kernel/step.cubin".into()),
            entry: "step".into(),
            grid: [extent(eng::Count::Tokens), extent(eng::Count::One), extent(eng::Count::Seqs)],
            shares: Some(eng::Shares { keys: 256, most: 16, few: 2048 }),
            block: [128, 1, 1],
            shared: 1024,
            scratch: None,
            maps: Vec::new(),
            dependent: false,
        }),
        contract: "module {}".into(),
    };
    let args =
        vec![eng::Arg::Tokens, eng::Arg::Positions, eng::Arg::Batch, eng::Arg::Kv(0), eng::Arg::Arena(16)];
    let choices = vec![
        eng::Choice { from: 1, to: 8, steps: eng::Steps::Any, kernel: 0 },
        eng::Choice { from: 9, to: 16, steps: eng::Steps::Any, kernel: 0 },
    ];
    eng::Manifest {
        target: "sm_90".into(),
        capability: Some((9, 0)),
        kernels: vec![kernel],
        launches: vec![eng::Launch { ops: vec![0], choices, args, loc: "model".into() }],
        ..host()
    }
}

/// Writes an engine with bytes of one value.
fn engine(path: &Path, manifest: &eng::Manifest) -> Result<()> {
    let extra = b"{}";
    let extras: Vec<(String, u64)> = trtc_engine::container::extra_names(manifest)
        .iter()
        .map(|name| (name.to_string(), extra.len() as u64))
        .collect();
    let sizes: Vec<(&str, u64)> = extras.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    let mut writer = EngineWriter::create(path, manifest, &sizes)?;
    while let Some(tensor) = writer.next_tensor() {
        let (name, bytes) = (tensor.name.clone(), tensor.bytes as usize);
        let fill = if extras.iter().any(|(n, _)| *n == name) { extra.to_vec() } else { vec![0x3f; bytes] };
        writer.tensor(&name, |out| {
            out.write_all(&fill).map_err(|error| trtc_engine::EngineError::Io { doing: "write", error })
        })?;
    }
    writer.finish()?;
    // What is written must read back, or the corpus would be worth nothing.
    let file = trtc_engine::EngineFile::open(path)?;
    assert!(file.tensor(&Part::Payload.tensor("table"))?.len() == 64);
    Ok(())
}
