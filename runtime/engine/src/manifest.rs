//! The manifest: everything an engine file says of itself, as JSON in the container's metadata.
//!
//! Plain data. What makes a manifest consistent is in `check.rs`; checks that need the file's tensors are in `read.rs`.

mod host;
mod map;

pub use host::{Act, HostKernel};
pub use map::{Map, MapElem, MapRows};
use serde::{Deserialize, Serialize};

/// Version of the format; another one is refused.
pub const FORMAT: u32 = 10;

/// The whole manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the target: `host`, `sm_90`.
    pub target: String,
    /// Compute capability that a GPU target needs, major and minor.
    pub capability: Option<(u32, u32)>,
    /// Name of the precision: `bf16`.
    pub precision: String,
    /// True if kernels of decode steps give the same for a token, to the bit, whatever else is in the step, and those of
    /// prefill steps too. Prompts and answers are then computed in steps of their own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deterministic: bool,
    /// The model.
    pub model: Model,
    /// Limits.
    pub dims: Dims,
    /// Bytes of the activation arena.
    pub arena: u64,
    /// The cache.
    pub kv: Kv,
    /// Weights, in the order of [`Arg::Weight`].
    pub weights: Vec<Weight>,
    /// If set, the file has the bytes of computed weights only, and the others are filled from this seed (`dummy.rs`).
    pub dummy_seed: Option<u64>,
    /// Kernels, in the order of [`Choice::kernel`].
    pub kernels: Vec<Kernel>,
    /// One step, in order.
    pub launches: Vec<Launch>,
    /// Arena offset of the logits, `(max_logit_rows, vocab)` f32.
    pub logits: u64,
    /// Where tokens are that the step itself chooses; `None` if it gives logits alone.
    pub sampled: Option<Sampled>,
    /// Text handling; `None` for a model without a tokenizer.
    pub text: Option<Text>,
    /// Sampling defaults of the model.
    pub generation: Generation,
    /// Where the engine comes from.
    pub provenance: Provenance,
}

/// Tokens that a step chooses for its rows of logits; they stay until the next step has read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampled {
    /// Arena offset of the tokens, `(max_logit_rows)` i32.
    pub tokens: u64,
    /// Arena offset of their log-probabilities, `(max_logit_rows)` f32.
    pub logprobs: u64,
}

/// Numbers of a draw, f32: temperature, top_k, top_p, min_p, the draw's number in 0..2^32 as two halves of 16 bits, and
/// 1 more than the row of [`Arg::Masks`] that says which tokens may be chosen, or 0 for all; the last one is 0.
pub const DRAW: u32 = 8;
/// Which of them is the mask's.
pub const DRAW_MASK: usize = 6;

/// Facts of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name for people.
    pub name: String,
    /// Architecture as the frontend names it.
    pub arch: String,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Layers.
    pub layers: u32,
    /// Parameters, for reports.
    pub parameters: u64,
    /// Token that begins a sequence.
    pub bos: Option<u32>,
    /// Tokens that end one.
    pub eos: Vec<u32>,
    /// Longest sequence that the model was made for, tokens.
    pub context: u32,
}

/// Limits that are fixed when the engine is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dims {
    /// Most requests in a step.
    pub max_batch: u32,
    /// Most tokens of a request, prompt and answer together.
    pub max_seq_len: u32,
    /// Most tokens in a step.
    pub max_step_tokens: u32,
    /// Most rows of logits in a step.
    pub max_logit_rows: u32,
}

/// The cache's layout: for each layer, pages of `(2, heads, page_tokens, head_dim)`, keys first. In
/// [`Dtype::F8E4M3`] each key and each value has an f32 scale of its own: `(2, heads, page_tokens)` of them follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kv {
    /// Tokens in a page.
    pub page_tokens: u32,
    /// Element type.
    pub dtype: Dtype,
    /// Layers that have a cache, in the order of [`Arg::Kv`].
    pub layers: Vec<KvLayer>,
}

impl Kv {
    /// Bytes of one page of one layer.
    pub fn page_bytes(&self, layer: &KvLayer) -> u64 {
        let vectors = 2 * u64::from(layer.heads) * u64::from(self.page_tokens);
        let scale = if self.dtype == Dtype::F8E4M3 { 4 } else { 0 };
        vectors * (u64::from(layer.head_dim) * self.dtype.bytes() + scale)
    }

    /// Bytes of one page over all layers.
    pub fn bytes_per_page(&self) -> u64 {
        self.layers.iter().map(|l| self.page_bytes(l)).sum()
    }
}

/// One layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvLayer {
    /// Key/value heads.
    pub heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Tokens that a query sees, itself included.
    pub window: Option<u32>,
}

/// Element type of activations, cache and plain weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// The upper half of binary32.
    Bf16,
    /// OCP FP8 E4M3, with an f32 scale for each row of an activation, and for each key and value in a cache.
    #[serde(rename = "f8e4m3")]
    F8E4M3,
}

impl Dtype {
    /// Bytes of an element, scales not counted.
    pub fn bytes(self) -> u64 {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
            Dtype::F8E4M3 => 1,
        }
    }
}

/// A weight: up to three tensors of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// Symbol; the payload is the container's tensor of this name, scales are `NAME.scale`, zeros `NAME.zero`.
    pub name: String,
    /// Logical extents, `(out, in)` for a matrix.
    pub shape: Vec<u64>,
    /// How elements are stored.
    pub encoding: Encoding,
    /// How bytes lie.
    pub layout: Layout,
    /// True for values that are computed and not read from a checkpoint (rotary frequencies): the file has them
    /// even if [`Manifest::dummy_seed`] is set.
    pub computed: bool,
}

/// How a weight's elements are stored. The byte-exact definition is in `layout.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Encoding {
    /// f32.
    F32,
    /// bf16.
    Bf16,
    /// i8 with an f32 scale for each row: `w = q * scale`.
    I8Channel,
    /// OCP FP8 E4M3 with an f32 scale for each row: `w = q * scale`. No element is NaN.
    F8Channel,
    /// Nibbles with a bf16 scale and an i8 zero for each group of `group` inputs: `w = (q - zero) * scale`, q and zero in -8..7.
    I4Group {
        /// Inputs that share a scale.
        group: u32,
    },
}

/// How a weight's bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Row-major.
    Rows,
    /// Panels of 16 output rows; see `layout.rs`.
    Panel16,
    /// Panels of 16 output rows in the order of a GPU's matrix fragments; see `layout.rs`.
    Fragment16,
}

/// A kernel: code and its constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Unique name.
    pub name: String,
    /// What the device executes.
    pub code: Code,
    /// The kernel's contract: a module in IR text with the op that this kernel computes.
    pub contract: String,
}

/// What the device executes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Code {
    /// A function of the host device.
    Host(HostKernel),
    /// A PTX entry point.
    Ptx(PtxKernel),
}

/// A PTX entry point and its launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PtxKernel {
    /// The container's tensor with the module's text.
    pub module: String,
    /// The container's tensor with the module's binary for exactly [`Manifest::capability`], if the engine has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cubin: Option<String>,
    /// Entry point.
    pub entry: String,
    /// Blocks: x, y, z.
    pub grid: [Extent; 3],
    /// Blocks along z, in place of the grid's, if contexts are shared out to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// Device memory besides the arguments.
    pub scratch: Option<Scratch>,
    /// Tensor maps, parameters after the arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maps: Vec<Map>,
    /// True if the kernel waits by itself for the launches before it, so that it may start while they end.
    #[serde(default)]
    pub dependent: bool,
}

/// Device memory that a kernel needs besides its arguments, for each of what is counted: two parameters after the
/// arguments, bytes that hold anything, and i32 counters that are 0 whenever no kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scratch {
    /// What is counted.
    pub of: Count,
    /// Bytes for each.
    pub bytes: u64,
    /// Counters for each.
    pub counters: u32,
}

/// How many blocks share a context: one for each `keys` positions of the step's longest one, at least one and at most `most`; or
/// `most`, where the whole grid is no more than `few` blocks then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// Positions, at least 1.
    pub keys: u32,
    /// Most blocks, at least 1.
    pub most: u32,
    /// Blocks of a grid.
    pub few: u32,
}

/// A launch extent: `(ceil(of / div) + plus) * mul`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// What is counted.
    pub of: Count,
    /// Divisor, at least 1.
    pub div: u32,
    /// What is added, if anything.
    pub plus: Option<Count>,
    /// Factor.
    pub mul: u32,
}

/// What a launch extent counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Count {
    /// 1.
    One,
    /// Tokens of the step.
    Tokens,
    /// Rows of logits.
    Rows,
    /// Requests of the step.
    Seqs,
}

/// One op of the step, or several that one kernel computes. Several launches may be of one op: those that have no choice
/// for a step are left out of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The ops, numbered in order from 0. Over all launches of an op, and for either kind of step, the ranges of choices
    /// are adjacent and cover `1..=max_step_tokens`: every step computes it once. A launch that has
    /// choices for prefill steps may have those for [`Steps::Single`] besides, for every number of requests.
    pub ops: Vec<u32>,
    /// Kernels by token count.
    pub choices: Vec<Choice>,
    /// Arguments, in the kernel's order.
    pub args: Vec<Arg>,
    /// Where in the model this comes from.
    pub loc: String,
}

impl Launch {
    /// The choice for a step of a kind with so many tokens; none if the step does without the launch.
    pub fn choice(&self, kind: Steps, tokens: u32) -> Option<&Choice> {
        self.choices.iter().find(|c| c.steps.serve(kind) && (c.from..=c.to).contains(&tokens))
    }
}

impl Manifest {
    /// Words of a row of [`Arg::Masks`].
    pub fn mask_words(&self) -> usize {
        self.model.vocab.div_ceil(32) as usize
    }

    /// How many launches a step of this kind and of `tokens` tokens has.
    pub fn launches_of(&self, kind: Steps, tokens: u32) -> usize {
        self.launches.iter().filter(|l| l.choice(kind, tokens).is_some()).count()
    }
}

/// Steps that a kernel serves, by what they hold of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Steps {
    /// All of them.
    Any,
    /// One token of each request.
    Decode,
    /// Several tokens of at least one.
    Prefill,
    /// Of a prefill step the requests at its beginning that have one token each; the kernel for prefill steps then leaves
    /// them out. Such a choice is by the number of these requests.
    Single,
}

impl Steps {
    /// The two kinds; every step is of one of them.
    pub const KINDS: [Steps; 2] = [Steps::Decode, Steps::Prefill];

    /// The kind of a step of `tokens` tokens of `seqs` requests.
    pub fn of(tokens: u32, seqs: u32) -> Steps {
        if tokens == seqs { Steps::Decode } else { Steps::Prefill }
    }

    /// True if steps of this kind are among them.
    pub fn serve(self, kind: Steps) -> bool {
        self == kind || self == Steps::Any && kind != Steps::Single
    }

    /// For people: ` of decode steps`, or nothing for all steps.
    pub fn suffix(self) -> &'static str {
        match self {
            Steps::Any => "",
            Steps::Decode => " of decode steps",
            Steps::Prefill => " of prefill steps",
            Steps::Single => " of requests with one token in prefill steps",
        }
    }
}

/// The kernel for a range of token counts, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Least token count.
    pub from: u32,
    /// Greatest token count.
    pub to: u32,
    /// Steps.
    pub steps: Steps,
    /// Index into [`Manifest::kernels`].
    pub kernel: u32,
}

/// A kernel's argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// Byte offset in the activation arena.
    Arena(u64),
    /// Index into [`Manifest::weights`].
    Weight(u32),
    /// Index into [`Kv::layers`].
    Kv(u32),
    /// Token ids, `(T)` i32.
    Tokens,
    /// Positions, `(T)` i32.
    Positions,
    /// Rows for which logits are wanted, `(L)` i32.
    Rows,
    /// How each row of logits is sampled, `(L, DRAW)` f32.
    Draws,
    /// Tokens that may be chosen, a bit each, the lowest of a word first: `(max_batch, ceil(vocab / 32))` i32.
    Masks,
    /// Segments, context lengths and block tables.
    Batch,
}

/// Text handling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// The container's tensor with the tokenizer, a `tokenizer.json`.
    pub tokenizer: String,
    /// True if prompts begin with the BOS token.
    pub add_bos: bool,
    /// Chat template (Jinja), if the model has one.
    pub chat_template: Option<String>,
    /// The BOS token's text, for the template.
    pub bos_token: Option<String>,
    /// The EOS token's text, for the template.
    pub eos_token: Option<String>,
}

/// Sampling defaults of the model (`generation_config.json`); `None` leaves the runtime's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Temperature.
    pub temperature: Option<f32>,
    /// Most likely tokens kept.
    pub top_k: Option<u32>,
    /// Probability mass kept.
    pub top_p: Option<f32>,
    /// Least probability kept, relative to the best token's.
    pub min_p: Option<f32>,
    /// Divides or multiplies logits of tokens seen.
    pub repetition_penalty: Option<f32>,
}

/// Where the engine comes from. Nothing here depends on the time or the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of the compiler.
    pub compiler: String,
    /// File or folder name of the checkpoint, without its path.
    pub source: String,
    /// Options that shaped the engine, in their command-line form.
    pub options: Vec<String>,
    /// The assembler that made the kernels' binaries, with its version; `None` if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assembler: Option<String>,
}
