//! One test: an instruction form with its operands, the kernel around it, and how its records lie in memory. The kernel
//! takes two addresses, of the inputs and of the outputs, and the three sizes of a step, which it does not use.
//!
//! Inputs: a record a thread, then bytes a block that are copied to shared memory. Outputs: a record a thread. The
//! values of a record lie one after the other, each at a multiple of its size; so do the records.

use crate::numbers::{Format, mask};
use std::fmt::Write;

/// What kernels are assembled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Sm80,
    Sm89,
    Sm90a,
    Sm100a,
    Sm120a,
}

impl Target {
    /// All of them, the oldest first.
    pub const ALL: [Target; 5] = [Target::Sm80, Target::Sm89, Target::Sm90a, Target::Sm100a, Target::Sm120a];

    /// `sm_90a`.
    pub fn name(self) -> &'static str {
        ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"][self as usize]
    }

    /// The target of this name.
    pub fn named(name: &str) -> Option<Target> {
        Target::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Compute capability.
    pub fn capability(self) -> (u32, u32) {
        [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)][self as usize]
    }

    /// The least version of PTX that knows the target, in tenths; 8.0 for the older ones.
    fn version(self) -> u32 {
        [80, 80, 80, 86, 87][self as usize]
    }
}

/// Targets from one on.
pub const ALL: &[Target] = &Target::ALL;
pub const FROM_89: &[Target] = &[Target::Sm89, Target::Sm90a, Target::Sm100a, Target::Sm120a];
/// Not sm_80 itself, but sm_86.
pub const FROM_86: &[Target] = FROM_89;
pub const FROM_90: &[Target] = &[Target::Sm90a, Target::Sm100a, Target::Sm120a];
pub const FROM_100: &[Target] = &[Target::Sm100a, Target::Sm120a];
pub const ONLY_90: &[Target] = &[Target::Sm90a];
pub const ONLY_100: &[Target] = &[Target::Sm100a];
pub const ONLY_120: &[Target] = &[Target::Sm120a];

/// The values of an operand that make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// All of them.
    Any,
    /// Not 0.
    NotZero,
    /// `0..n`.
    Below(u64),
    /// Bits that may be set.
    Mask(u64),
}

/// An operand: a register that holds `count` elements, the first in the lowest bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Bits of the register: 16, 32 or 64.
    pub bits: u32,
    /// Of each element.
    pub format: Format,
    /// Elements.
    pub count: u32,
    /// Values.
    pub range: Range,
    /// A predicate: `%p` beside the register, which is 0 or 1.
    pub predicate: bool,
}

/// A register of one element.
pub const fn one(format: Format) -> Kind {
    packed(format, 1)
}

/// A register of several elements.
pub const fn packed(format: Format, count: u32) -> Kind {
    let bits = match format.bits * count {
        0..=16 => 16,
        17..=32 => 32,
        _ => 64,
    };
    Kind { bits, format, count, range: Range::Any, predicate: false }
}

impl Kind {
    /// With other values.
    pub const fn within(self, range: Range) -> Kind {
        Kind { range, ..self }
    }

    /// As a predicate.
    pub const fn predicate(self) -> Kind {
        Kind { predicate: true, range: Range::Below(2), ..self }
    }

    /// In a register of more bits.
    pub const fn wide(self, bits: u32) -> Kind {
        Kind { bits, ..self }
    }

    /// Bytes in a record.
    pub fn bytes(self) -> usize {
        self.bits as usize / 8
    }
}

/// How the inputs are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Each thread by itself: edge values, ties, random ones.
    Threads,
    /// Each block in a mode of its own, as elements of matrices.
    Matrix,
}

/// A test.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Unique; the opcode, and after a slash what else distinguishes the form.
    pub name: String,
    /// What has the instruction.
    pub targets: &'static [Target],
    /// Least version of PTX, in tenths.
    pub version: u32,
    /// `%a0`, `%a1`...; predicates also `%qa0`...
    pub ins: Vec<Kind>,
    /// `%d0`, `%d1`...; predicates are written to `%qd0`...
    pub outs: Vec<Kind>,
    /// Outputs from this one on are memory of the record, at `[%out+offset]`, that the body writes itself.
    pub memory_from: usize,
    /// Instructions. They may use `%out`, `%in` (the thread's records), `%lid` and `%thread` (its number in the block and
    /// the grid), `%base` (shared memory), `%t0`..`%t7` (32 bits), `%x0`..`%x7` (64 bits) and `%p0`..`%p7`.
    pub body: String,
    /// Threads of a block.
    pub block: u32,
    /// Blocks.
    pub blocks: u32,
    /// What a block finds in its shared memory: runs of bytes and the format of each, together a multiple of 16 bytes
    /// for each thread.
    pub shared: Vec<(u32, Format)>,
    /// Choice of inputs.
    pub fill: Fill,
}

impl Test {
    /// A test on 1024 threads that do not know of each other.
    pub fn new(name: impl Into<String>, outs: &[Kind], ins: &[Kind], body: impl Into<String>) -> Test {
        Test {
            name: name.into(),
            targets: ALL,
            version: 0,
            ins: ins.to_vec(),
            outs: outs.to_vec(),
            memory_from: outs.len(),
            body: body.into(),
            block: 128,
            blocks: 8,
            shared: Vec::new(),
            fill: Fill::Threads,
        }
    }

    /// `op %d0, %a0, %a1...;`
    pub fn plain(op: &str, out: Kind, ins: &[Kind]) -> Test {
        let operands: String = (0..ins.len()).map(|i| format!(", %a{i}")).collect();
        Test::new(op, &[out], ins, format!("{op} %d0{operands};"))
    }

    /// On these targets only, from this version of PTX.
    pub fn on(self, targets: &'static [Target], version: u32) -> Test {
        Test { targets, version: version.max(self.version), ..self }
    }

    /// On this many threads, a multiple of 128.
    pub fn threads(self, threads: u32) -> Test {
        Test { blocks: threads / self.block, ..self }
    }

    /// Blocks of `block` threads that compute on matrices, each with its own mode.
    pub fn matrix(self, block: u32, blocks: u32) -> Test {
        Test { block, blocks, fill: Fill::Matrix, ..self }
    }

    /// With shared memory that holds elements of a format.
    pub fn with_shared(mut self, bytes: u32, format: Format) -> Test {
        self.shared.push((bytes, format));
        self
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> u32 {
        self.shared.iter().map(|(bytes, _)| bytes).sum()
    }

    /// Offsets of the values of a record, and its size.
    pub fn record(kinds: &[Kind]) -> (Vec<usize>, usize) {
        let (mut offsets, mut end) = (Vec::new(), 0usize);
        for kind in kinds {
            let at = end.next_multiple_of(kind.bytes());
            offsets.push(at);
            end = at + kind.bytes();
        }
        let largest = kinds.iter().map(|k| k.bytes()).max().unwrap_or(1);
        (offsets, end.next_multiple_of(largest))
    }

    /// All threads.
    pub fn total(&self) -> usize {
        (self.block * self.blocks) as usize
    }

    /// First byte of the shared memory's contents among the inputs.
    pub fn shared_at(&self) -> usize {
        (self.total() * Test::record(&self.ins).1).next_multiple_of(16)
    }

    /// Bytes of the inputs.
    pub fn input_bytes(&self) -> usize {
        self.shared_at() + (self.blocks * self.shared_bytes()) as usize
    }

    /// Bytes of the outputs.
    pub fn output_bytes(&self) -> usize {
        self.total() * Test::record(&self.outs).1
    }

    /// The module, with the entry point `k`.
    pub fn ptx(&self, target: Target) -> String {
        let version = self.version.max(target.version());
        let mut s = format!(".version {}.{}\n.target {}\n", version / 10, version % 10, target.name());
        s.push_str(".address_size 64\n.extern .shared .align 1024 .b8 sm[];\n");
        s.push_str(".visible .entry k(.param .u64 pin, .param .u64 pout, ");
        s.push_str(".param .u32 ptokens, .param .u32 prows, .param .u32 pseqs)\n");
        let _ = writeln!(s, ".reqntid {}\n{{", self.block);
        s.push_str(".reg .pred %p<8>;\n.reg .b32 %t<8>;\n.reg .b64 %x<8>;\n");
        for (bits, name) in [(32, "lid"), (32, "cta"), (32, "thread"), (32, "base"), (64, "in"), (64, "out")]
        {
            let _ = writeln!(s, ".reg .b{bits} %{name};");
        }
        for (letter, kinds) in [('a', &self.ins), ('d', &self.outs)] {
            for (i, kind) in kinds.iter().enumerate() {
                let _ = writeln!(s, ".reg .b{} %{letter}{i};", kind.bits);
                if kind.predicate {
                    let _ = writeln!(s, ".reg .pred %q{letter}{i};");
                }
            }
        }
        let ((in_at, in_size), (out_at, out_size)) = (Test::record(&self.ins), Test::record(&self.outs));
        s.push_str("mov.u32 %lid, %tid.x;\nmov.u32 %cta, %ctaid.x;\n");
        let _ = writeln!(s, "mad.lo.u32 %thread, %cta, {}, %lid;", self.block);
        s.push_str("ld.param.b64 %in, [pin];\nld.param.b64 %out, [pout];\n");
        s.push_str("cvta.to.global.u64 %in, %in;\ncvta.to.global.u64 %out, %out;\nmov.u32 %base, sm;\n");
        if !self.shared.is_empty() {
            self.fill_shared(&mut s);
        }
        let _ = writeln!(s, "mad.wide.u32 %in, %thread, {in_size}, %in;");
        let _ = writeln!(s, "mad.wide.u32 %out, %thread, {out_size}, %out;");
        for (i, (kind, at)) in self.ins.iter().zip(&in_at).enumerate() {
            let _ = writeln!(s, "ld.global.b{} %a{i}, [%in+{at}];", kind.bits);
            if kind.predicate {
                let _ = writeln!(s, "setp.ne.b{} %qa{i}, %a{i}, 0;", kind.bits);
            }
        }
        let _ = writeln!(s, "{}", self.body);
        for (i, (kind, at)) in self.outs.iter().zip(&out_at).enumerate().take(self.memory_from) {
            if kind.predicate {
                let _ = writeln!(s, "selp.b{} %d{i}, 1, 0, %qd{i};", kind.bits);
            }
            let _ = writeln!(s, "st.global.b{} [%out+{at}], %d{i};", kind.bits);
        }
        s.push_str("ret;\n}\n");
        s
    }

    /// Copies the block's bytes, 16 a thread at a time.
    fn fill_shared(&self, s: &mut String) {
        let bytes = self.shared_bytes();
        let step = 16 * self.block;
        let _ = writeln!(s, "mad.wide.u32 %x0, %cta, {bytes}, %in;\nadd.u64 %x0, %x0, {};", self.shared_at());
        s.push_str("mul.lo.u32 %t0, %lid, 16;\ncvt.u64.u32 %x1, %t0;\nadd.u64 %x0, %x0, %x1;\n");
        s.push_str("add.u32 %t1, %base, %t0;\nmov.u32 %t2, 0;\n");
        s.push_str("fill:\nld.global.v4.b32 {%t4, %t5, %t6, %t7}, [%x0];\n");
        s.push_str("st.shared.v4.b32 [%t1], {%t4, %t5, %t6, %t7};\n");
        let _ =
            writeln!(s, "add.u64 %x0, %x0, {step};\nadd.u32 %t1, %t1, {step};\nadd.u32 %t2, %t2, {step};");
        let _ = writeln!(s, "setp.lt.u32 %p0, %t2, {bytes};\n@%p0 bra fill;");
        s.push_str("bar.sync 0;\n");
    }

    /// The value of a kind at an offset of some bytes; 0 where they end.
    pub fn read(bytes: &[u8], at: usize, kind: Kind) -> u64 {
        let word = |b: &[u8]| b.iter().rev().fold(0u64, |w, b| w << 8 | u64::from(*b));
        bytes.get(at..at + kind.bytes()).map_or(0, word) & mask(kind.bits)
    }
}
