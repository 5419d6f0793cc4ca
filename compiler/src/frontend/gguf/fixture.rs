//! Small GGUF files for tests, written from the description of the format.

use std::io::Write;

/// A file in the making.
#[derive(Clone, Default)]
pub struct Gguf {
    entries: u64,
    meta: Vec<u8>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

impl Gguf {
    /// An entry whose value is already in bytes.
    pub fn raw(mut self, key: &str, ty: u32, value: &[u8]) -> Gguf {
        put_str(&mut self.meta, key);
        self.meta.extend(ty.to_le_bytes());
        self.meta.extend(value);
        self.entries += 1;
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Gguf {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Gguf {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub fn bool(self, key: &str, value: bool) -> Gguf {
        self.raw(key, 7, &[u8::from(value)])
    }

    pub fn str(self, key: &str, value: &str) -> Gguf {
        let mut bytes = Vec::new();
        put_str(&mut bytes, value);
        self.raw(key, 8, &bytes)
    }

    pub fn strings(self, key: &str, values: &[&str]) -> Gguf {
        let mut bytes = [8u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|v| put_str(&mut bytes, v));
        self.raw(key, 9, &bytes)
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Gguf {
        let mut bytes = [5u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        self.raw(key, 9, &bytes)
    }

    pub fn f32s(self, key: &str, values: &[f32]) -> Gguf {
        let mut bytes = [6u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        self.raw(key, 9, &bytes)
    }

    /// A tensor; extents are outermost first.
    pub fn tensor(mut self, name: &str, shape: &[u64], ty: u32, data: Vec<u8>) -> Gguf {
        self.tensors.push((name.into(), shape.iter().rev().copied().collect(), ty, data));
        self
    }

    /// An f32 tensor whose element `i` is `i`.
    pub fn counting(self, name: &str, shape: &[u64]) -> Gguf {
        let n: u64 = shape.iter().product();
        self.tensor(name, shape, 0, (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect())
    }

    /// Replaces the data of a tensor by f32 values.
    pub fn floats(mut self, name: &str, values: &[f32]) -> Gguf {
        self.tensors.retain(|(n, ..)| n != name);
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, &[values.len() as u64], 0, data)
    }

    pub fn without(mut self, name: &str) -> Gguf {
        self.tensors.retain(|(n, ..)| n != name);
        self
    }

    /// The file's bytes, with offsets that `at` may change.
    pub fn build_with(&self, version: u32, at: impl Fn(usize, u64) -> u64) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entries.to_le_bytes());
        out.extend(&self.meta);
        let mut data = Vec::new();
        for (i, (name, dims, ty, bytes)) in self.tensors.iter().enumerate() {
            put_str(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(ty.to_le_bytes());
            out.extend(at(i, data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    pub fn build(&self) -> Vec<u8> {
        self.build_with(3, |_, offset| offset)
    }

    /// A temporary file with these contents.
    pub fn file(&self) -> tempfile::NamedTempFile {
        temporary(&self.build())
    }
}

/// A temporary `.gguf` file.
pub fn temporary(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// The bytes that GPT-2's vocabularies write for `A` and so on are the letters themselves.
const WORDS: [&str; 8] = ["<|endoftext|>", "a", "b", "c", "ab", "abc", "\u{120}", "<|im_end|>"];

/// A whole model of one layer: hidden 8, 2 heads of 4, 1 key/value head, tied output.
pub fn llama() -> Gguf {
    Gguf::default()
        .str("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 128)
        .u32("llama.embedding_length", 8)
        .u32("llama.feed_forward_length", 16)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .f32("llama.rope.freq_base", 1e8)
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "smollm")
        .strings("tokenizer.ggml.tokens", &WORDS)
        .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1, 1, 1, 3])
        .strings("tokenizer.ggml.merges", &["a b", "ab c"])
        .u32("tokenizer.ggml.eos_token_id", 0)
        .counting("token_embd.weight", &[8, 8])
        .counting("output_norm.weight", &[8])
        .counting("blk.0.attn_norm.weight", &[8])
        .counting("blk.0.attn_q.weight", &[8, 8])
        .counting("blk.0.attn_k.weight", &[4, 8])
        .counting("blk.0.attn_v.weight", &[4, 8])
        .counting("blk.0.attn_output.weight", &[8, 8])
        .counting("blk.0.ffn_norm.weight", &[8])
        .counting("blk.0.ffn_gate.weight", &[16, 8])
        .counting("blk.0.ffn_up.weight", &[16, 8])
        .counting("blk.0.ffn_down.weight", &[8, 16])
}
