//! PTX text to statements with resolved names. It knows the shape of the language, and no instruction.
//!
//! Every instruction of PTX has one form: an opcode of words joined by points, then operands. So the parser is small and
//! takes any instruction, and what an opcode means is decided by the rows of [`crate::inst`] alone. (Crates that parse
//! PTX have a type for each form of each instruction, which the rows would have to repeat.)

mod lex;
mod parse;
#[cfg(test)]
mod tests;

pub use parse::parse;

/// Text that is not PTX, or PTX that the emulator does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Malformed {
    /// Line, from 1.
    pub line: u32,
    /// What is wrong.
    pub what: String,
}

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A bit.
    Pred,
    /// 8 or 16 bits.
    Word16,
    /// 32 bits.
    Word32,
    /// 64 bits.
    Word64,
    /// 128 bits.
    Word128,
}

/// A register by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(pub u32);

/// A register's declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegDecl {
    /// As written: `%r12`.
    pub name: String,
    /// What it holds.
    pub class: Class,
}

/// Where a variable lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// A parameter of the kernel.
    Param,
    /// Shared memory of the block.
    Shared,
    /// Memory of one thread.
    Local,
    /// Memory of the device.
    Global,
    /// Read-only memory of the device.
    Const,
}

/// A variable, or a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Name.
    pub name: String,
    /// Space.
    pub space: Space,
    /// Bytes; `None` of an array without a size: the launch says how much there is.
    pub bytes: Option<u64>,
    /// Bytes that the address is a multiple of.
    pub align: u64,
    /// Bytes that it begins with, if given.
    pub init: Vec<u8>,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// A register that the machine provides: `%tid.x`.
    Special(String),
    /// A variable's address, plus an offset. The number counts [`Kernel::variables`].
    Variable(usize, i64),
    /// A label, by index into [`Kernel::labels`].
    Label(usize),
    /// An integer, or the bits of a float of 32 bits (`0f`).
    Int(i128),
    /// The bits of a float of 64 bits (`0d`).
    Double(u64),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `[base + offset]`, or `[base, {coordinates}]` of a tensor.
    Address {
        /// Register, variable or integer.
        base: Box<Operand>,
        /// Bytes added.
        offset: i64,
        /// What follows the address in the brackets.
        more: Vec<Operand>,
    },
    /// `a | b`.
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`.
    Not(Box<Operand>),
    /// `_`.
    Sink,
}

/// An instruction as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Line, from 1.
    pub line: u32,
    /// Register that decides whether it is executed, and whether it must be false.
    pub guard: Option<(Reg, bool)>,
    /// Words of the opcode: `ld`, `global`, `b32`.
    pub opcode: Vec<String>,
    /// Operands.
    pub operands: Vec<Operand>,
}

/// A label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Name.
    pub name: String,
    /// The statement that follows it.
    pub at: usize,
    /// Labels of a `.branchtargets` list that it names.
    pub targets: Vec<usize>,
}

/// A kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kernel {
    /// Entry point.
    pub name: String,
    /// Parameters first, in order, then variables of the module and of the body.
    pub variables: Vec<Variable>,
    /// How many of them are parameters.
    pub params: usize,
    /// Registers.
    pub registers: Vec<RegDecl>,
    /// Labels.
    pub labels: Vec<Label>,
    /// Statements in order.
    pub body: Vec<Statement>,
    /// `.reqntid`: threads of a block.
    pub block: Option<[u32; 3]>,
    /// `.maxntid`: most threads of a block.
    pub max_threads: Option<u32>,
    /// `.reqnctapercluster`: blocks of a cluster.
    pub cluster: Option<[u32; 3]>,
    /// `.maxnreg`: most registers of a thread.
    pub max_registers: Option<u32>,
}

/// A file.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// `.version`, major * 10 + minor.
    pub version: u32,
    /// `.target`: `sm_90a`.
    pub target: String,
    /// Kernels.
    pub kernels: Vec<Kernel>,
}
