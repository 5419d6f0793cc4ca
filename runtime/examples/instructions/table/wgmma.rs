//! `wgmma.mma_async` of sm_90a: every type, A from shared memory or registers, every swizzle, transposed operands,
//! scales of the accumulator and of the operands. Shared memory is filled with elements; what of it an instruction
//! reads is for its descriptor to say, so that layouts are tested too.

use super::mma::{format_of, operands};
use crate::numbers::Format;
use crate::test::{Kind, ONLY_90, Test, packed};

/// Bytes of shared memory in which A lies; B follows.
const A_BYTES: u32 = 8192;

/// Types of D, A and B, and the k of one instruction.
const TYPES: [(&str, &str, &str, u32); 17] = [
    ("f32", "bf16", "bf16", 16),
    ("f32", "f16", "f16", 16),
    ("f16", "f16", "f16", 16),
    ("f32", "tf32", "tf32", 8),
    ("f32", "e4m3", "e4m3", 32),
    ("f32", "e4m3", "e5m2", 32),
    ("f32", "e5m2", "e4m3", 32),
    ("f32", "e5m2", "e5m2", 32),
    ("f16", "e4m3", "e4m3", 32),
    ("f16", "e4m3", "e5m2", 32),
    ("f16", "e5m2", "e4m3", 32),
    ("f16", "e5m2", "e5m2", 32),
    ("s32", "s8", "s8", 32),
    ("s32", "s8", "u8", 32),
    ("s32", "u8", "s8", 32),
    ("s32", "u8", "u8", 32),
    ("s32", "b1", "b1", 256),
];

/// The unit in which an operand's 16-byte pieces are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

impl Swizzle {
    /// Bytes of a row of the pattern.
    fn bytes(self) -> u64 {
        [16, 32, 64, 128][self as usize]
    }

    /// A descriptor without its address: leading and stride offsets of 16 bytes at bits 16 and 32, the mode at 62.
    /// Along k, patterns of 8 rows follow each other; transposed, the stride leads to the next 8 of k and the leading
    /// offset to the next elements of m or n, which lie behind all k.
    fn descriptor(self, transposed: bool) -> u64 {
        let pattern = 8 * self.bytes();
        let (leading, stride) = match (self, transposed) {
            (Swizzle::None, false) => (128, 256),
            (Swizzle::None, true) => (1024, 128),
            (_, false) => (16, pattern),
            (_, true) => (2 * pattern, pattern),
        };
        let mode = [0, 3, 2, 1][self as usize];
        (leading / 16) << 16 | (stride / 16) << 32 | mode << 62
    }
}

/// One form.
#[derive(Clone, Copy)]
struct Form {
    types: (&'static str, &'static str, &'static str, u32),
    n: u32,
    swizzle: Swizzle,
    /// A in registers.
    registers: bool,
    /// A and B as they lie: with m or n innermost.
    transposed: [bool; 2],
    /// 0 leaves the accumulator out.
    scale_d: u32,
    /// Signs of A and B.
    signs: [i32; 2],
    satfinite: bool,
    /// Instructions one after the other, each 32 bytes further along k.
    steps: u32,
}

/// All tests of this family.
pub fn tests() -> Vec<Test> {
    let mut out = Vec::new();
    for types in TYPES {
        let base = Form {
            types,
            n: 8,
            swizzle: Swizzle::B128,
            registers: false,
            transposed: [false; 2],
            scale_d: 1,
            signs: [1; 2],
            satfinite: false,
            steps: 1,
        };
        let (_, a, _, _) = types;
        let (half, whole) = (matches!(a, "f16" | "bf16"), matches!(a, "s8" | "u8" | "b1"));
        let mut push = |form: Form| out.push(form.test());
        for swizzle in SWIZZLES {
            push(Form { swizzle, ..base });
        }
        push(Form { n: 64, ..base });
        push(Form { registers: true, ..base });
        push(Form { registers: true, n: 64, ..base });
        push(Form { scale_d: 0, ..base });
        push(Form { scale_d: 0, registers: true, ..base });
        push(Form { steps: 4, ..base });
        push(Form { steps: 4, registers: true, scale_d: 0, ..base });
        push(Form { n: if whole { 32 } else { 40 }, swizzle: Swizzle::B64, ..base });
        if whole && a != "b1" {
            push(Form { satfinite: true, ..base });
            push(Form { satfinite: true, registers: true, ..base });
        }
        if !whole {
            for signs in [[-1, 1], [1, -1], [-1, -1]] {
                push(Form { signs, ..base });
                push(Form { signs, registers: true, scale_d: 0, ..base });
            }
        }
        if matches!(types, ("f32", "bf16", "bf16", _) | ("f16", "f16", "f16", _) | ("f32", "e4m3", "e4m3", _))
        {
            push(Form { n: 128, ..base });
            push(Form { n: 256, ..base });
        }
        if matches!(types, ("s32", "s8", "s8", _) | ("f32", "tf32", ..)) {
            push(Form { n: 128, ..base });
        }
        if half {
            for swizzle in SWIZZLES {
                for transposed in [[true, false], [false, true], [true, true]] {
                    push(Form { swizzle, transposed, ..base });
                    push(Form { swizzle, transposed, n: 64, ..base });
                }
                let transposed = [false, true];
                push(Form { swizzle, transposed, n: 64, registers: true, ..base });
            }
            push(Form { transposed: [false, true], n: 128, ..base });
        }
    }
    out
}

impl Form {
    fn op(&self) -> String {
        let (d, a, b, k) = self.types;
        let tail = if a == "b1" { ".and.popc" } else { "" };
        let sat = if self.satfinite { ".satfinite" } else { "" };
        format!("wgmma.mma_async.sync.aligned.m64n{}k{k}.{d}.{a}.{b}{sat}{tail}", self.n)
    }

    fn name(&self) -> String {
        let mut name =
            format!("{}/{} {:?}", self.op(), if self.registers { "rs" } else { "ss" }, self.swizzle);
        for (text, is) in [
            (" transposed a".to_owned(), self.transposed[0]),
            (" transposed b".to_owned(), self.transposed[1]),
            (" scale-d 0".to_owned(), self.scale_d == 0),
            (format!(" signs {} {}", self.signs[0], self.signs[1]), self.signs != [1, 1]),
            (format!(" {} steps", self.steps), self.steps > 1),
        ] {
            if is {
                name.push_str(&text);
            }
        }
        name
    }

    fn accumulators(&self) -> Vec<Kind> {
        let format = format_of(self.types.0);
        let each = 32 / format.bits;
        vec![packed(format, each); (self.n / 2 / each) as usize]
    }

    /// Immediate operands after the accumulator's scale.
    fn immediates(&self) -> String {
        let (_, a, _, _) = self.types;
        if matches!(a, "s8" | "u8" | "b1") {
            return String::new();
        }
        let mut all = self.signs.map(|s| s.to_string()).to_vec();
        if matches!(a, "f16" | "bf16") {
            let flags = self.transposed.map(|t| u32::from(t).to_string());
            all.extend_from_slice(if self.registers { &flags[1..] } else { &flags });
        }
        format!(", {}", all.join(", "))
    }

    fn test(&self) -> Test {
        let (_, a, b, _) = self.types;
        let sum = self.accumulators();
        let a_format: Format = format_of(a);
        let mut ins = sum.clone();
        if self.registers {
            ins.extend(vec![packed(a_format, 32 / a_format.bits); 4]);
        }
        let mut body = "fence.proxy.async.shared::cta;\nbar.sync 0;\n".to_owned();
        for (register, offset, transposed) in [(0, 0, self.transposed[0]), (1, A_BYTES, self.transposed[1])] {
            body.push_str(&format!(
                "add.u32 %t0, %base, {offset};\nshr.u32 %t0, %t0, 4;\nand.b32 %t0, %t0, 0x3fff;\n\
                 cvt.u64.u32 %x{register}, %t0;\nor.b64 %x{register}, %x{register}, {:#x};\n",
                self.swizzle.descriptor(transposed)
            ));
        }
        for i in 0..sum.len() {
            body.push_str(&format!("mov.b32 %d{i}, %a{i};\n"));
        }
        body.push_str(&format!("setp.ne.b32 %p0, {}, 0;\nsetp.ne.b32 %p1, 1, 0;\n", self.scale_d));
        body.push_str("wgmma.fence.sync.aligned;\n");
        for step in 0..self.steps {
            let first = if self.registers { operands('a', sum.len(), 4) } else { "%x0".to_owned() };
            body.push_str(&format!(
                "{} {}, {first}, %x1, %p{}{};\n",
                self.op(),
                operands('d', 0, sum.len()),
                u32::from(step > 0),
                self.immediates()
            ));
            body.push_str("add.u64 %x0, %x0, 2;\nadd.u64 %x1, %x1, 2;\n");
        }
        body.push_str("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;");
        let blocks = match self.n {
            8 => 7,
            ..=64 => 2,
            _ => 1,
        };
        Test::new(self.name(), &sum, &ins, body)
            .with_shared(A_BYTES, a_format)
            .with_shared((self.n * 128).next_multiple_of(2048), format_of(b))
            .matrix(128, blocks)
            // Bytes with sign times bytes without came later.
            .on(ONLY_90, if format_of(a).is_integer() && a != b { 84 } else { 80 })
    }
}
