//! One statement being decoded: its words, each of which must be understood, and its operands.

use super::{Chip, Together, Ty};
use crate::ptx::{Class, Kernel, Malformed, Operand, Reg, Space, Statement};
use crate::warp::{Slot, Source};

/// An address in brackets.
#[derive(Clone, Debug)]
pub struct Address {
    /// What is added to the offset; 32 or 64 bits.
    pub base: Source,
    /// True if the base is of 64 bits.
    pub wide: bool,
    /// Bytes added.
    pub offset: i64,
    /// Space of a variable that is named.
    pub space: Option<Space>,
}

/// The statement.
pub struct Decoder<'a> {
    kernel: &'a Kernel,
    /// The chip.
    pub chip: Chip,
    /// As written.
    pub statement: &'a Statement,
    addresses: &'a [u64],
    slots: &'a [Slot],
    matrix_index: &'a [Option<u32>],
    /// Words of the opcode that have not been understood.
    words: Vec<&'a str>,
    /// Registers read so far.
    pub reads: Vec<Reg>,
    /// Registers written so far.
    pub writes: Vec<Reg>,
    /// Registers that a matrix instruction keeps using after it was issued.
    pub matrix: Vec<Reg>,
    /// A predicate, and whether it is negated, without which the registers of `matrix_dests` are not read.
    pub reads_if: Option<(Source, bool)>,
    /// Who executes it together.
    pub together: Together,
    /// Bytes of the narrowest access to shared memory.
    pub narrowest: u32,
}

impl<'a> Decoder<'a> {
    /// Begins a statement.
    pub fn new(
        kernel: &'a Kernel,
        chip: Chip,
        statement: &'a Statement,
        addresses: &'a [u64],
        slots: &'a [Slot],
        matrix_index: &'a [Option<u32>],
    ) -> Decoder<'a> {
        Decoder {
            kernel,
            chip,
            statement,
            addresses,
            slots,
            matrix_index,
            words: statement.opcode.iter().map(String::as_str).collect(),
            reads: Vec::new(),
            writes: Vec::new(),
            matrix: Vec::new(),
            reads_if: None,
            together: Together::Alone,
            narrowest: 16,
        }
    }

    /// The whole opcode.
    pub fn opcode(&self) -> String {
        self.statement.opcode.join(".")
    }

    /// An error of this statement.
    pub fn refuse<T>(&self, what: impl std::fmt::Display) -> Result<T, Malformed> {
        Err(Malformed { line: self.statement.line, what: format!("{}: {what}", self.opcode()) })
    }

    /// Words that are left.
    pub fn words(&self) -> &[&'a str] {
        &self.words
    }

    /// Takes the first `n` words: the instruction's name.
    pub fn name(&mut self, n: usize) {
        self.words.drain(..n.min(self.words.len()));
    }

    /// Takes a word if it is there.
    pub fn has(&mut self, word: &str) -> bool {
        let found = self.words.iter().position(|w| *w == word);
        found.map(|i| self.words.remove(i)).is_some()
    }

    /// Takes the first word that is in a table, and gives what stands there for it.
    pub fn one_of<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let (at, value) = self
            .words
            .iter()
            .enumerate()
            .find_map(|(i, w)| table.iter().find(|(name, _)| name == w).map(|(_, v)| (i, *v)))?;
        self.words.remove(at);
        Some(value)
    }

    /// Takes all words of which the instruction's result does not depend: hints for caches, scopes of one machine.
    pub fn drop_all(&mut self, words: &[&str]) {
        self.words.retain(|w| !words.contains(w));
    }

    /// Takes the first type.
    pub fn ty(&mut self) -> Result<Ty, Malformed> {
        match self.words.iter().enumerate().find_map(|(i, w)| Ty::named(w).map(|t| (i, t))) {
            Some((i, ty)) => {
                self.words.remove(i);
                Ok(ty)
            }
            None => self.refuse("it has no type that is known"),
        }
    }

    /// Refuses words that nobody has taken.
    pub fn finish(&self) -> Result<(), Malformed> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => self.refuse(format_args!("the emulator does not know .{word} here")),
        }
    }

    /// How many operands there are.
    pub fn count(&self) -> usize {
        self.statement.operands.len()
    }

    /// An operand as written.
    pub fn operand(&self, i: usize) -> Result<&'a Operand, Malformed> {
        match self.statement.operands.get(i) {
            Some(o) => Ok(o),
            None => self.refuse(format_args!("operand {} is missing", i + 1)),
        }
    }

    fn class(&self, r: Reg) -> Class {
        self.kernel.registers[r.0 as usize].class
    }

    fn place(&self, r: Reg) -> Slot {
        self.slots[r.0 as usize]
    }

    /// A value to be read, of 32 or fewer bits, or of 64.
    pub fn source(&mut self, i: usize) -> Result<Source, Malformed> {
        let operand = self.operand(i)?;
        self.source_of(operand)
    }

    /// The same of an operand in another.
    pub fn source_of(&mut self, operand: &Operand) -> Result<Source, Malformed> {
        match *operand {
            Operand::Reg(r) if self.class(r) != Class::Pred => Ok(self.read(r)),
            Operand::Int(n) => Ok(Source::Constant(n as u64)),
            Operand::Double(bits) => Ok(Source::Constant(bits)),
            Operand::Variable(v, offset) => {
                Ok(Source::Constant(self.addresses[v].wrapping_add_signed(offset)))
            }
            _ => self.refuse(format_args!("{operand:?} is no value")),
        }
    }

    fn read(&mut self, r: Reg) -> Source {
        self.reads.push(r);
        Source::Slot(self.place(r))
    }

    /// A value of a type: the register, if it is one, holds at least as many bits, of its kind.
    pub fn typed(&mut self, i: usize, ty: Ty) -> Result<Source, Malformed> {
        self.fits(i, ty)?;
        match self.source(i)? {
            // A float in decimals has 64 bits whatever is made of it.
            Source::Constant(bits) if ty == Ty::F32 && matches!(self.operand(i)?, Operand::Double(_)) => {
                Ok(Source::Constant((f64::from_bits(bits) as f32).to_bits().into()))
            }
            source => Ok(source),
        }
    }

    fn fits(&self, i: usize, ty: Ty) -> Result<(), Malformed> {
        let (holds, bits) = (self.width(self.operand(i)?), ty.bits());
        if holds == 0 {
            return Ok(());
        }
        if (holds == 1) != (bits == 1) || holds < bits || bits > 32 && holds != bits {
            return self.refuse(format_args!("operand {} has {holds} bits where {bits} are wanted", i + 1));
        }
        Ok(())
    }

    /// Bits of the register that an operand is, or 0.
    pub fn width(&self, operand: &Operand) -> u32 {
        match operand {
            Operand::Reg(r) => match self.class(*r) {
                Class::Pred => 1,
                Class::Word16 => 16,
                Class::Word32 => 32,
                Class::Word64 => 64,
                Class::Word128 => 128,
            },
            _ => 0,
        }
    }

    /// A register to be written; `None` of `_`.
    pub fn dest_of(&mut self, operand: &Operand) -> Result<Option<Slot>, Malformed> {
        match *operand {
            Operand::Reg(r) if self.class(r) != Class::Pred => Ok(Some(self.write(r))),
            Operand::Sink => Ok(None),
            _ => self.refuse(format_args!("{operand:?} cannot be written")),
        }
    }

    fn write(&mut self, r: Reg) -> Slot {
        self.writes.push(r);
        self.place(r)
    }

    /// A predicate to be written; `None` of `_`.
    pub fn pred_dest_of(&mut self, operand: &Operand) -> Result<Option<Slot>, Malformed> {
        match *operand {
            Operand::Reg(r) if self.class(r) == Class::Pred => Ok(Some(self.write(r))),
            Operand::Sink => Ok(None),
            _ => self.refuse(format_args!("{operand:?} is no predicate to be written")),
        }
    }

    /// The same by number.
    pub fn dest(&mut self, i: usize) -> Result<Slot, Malformed> {
        let operand = self.operand(i)?;
        match self.dest_of(operand)? {
            Some(slot) => Ok(slot),
            None => self.refuse(format_args!("operand {} must be a register", i + 1)),
        }
    }

    /// A register of a type to be written.
    pub fn typed_dest(&mut self, i: usize, ty: Ty) -> Result<Slot, Malformed> {
        self.fits(i, ty)?;
        if ty != Ty::Pred {
            return self.dest(i);
        }
        let operand = self.operand(i)?;
        match self.pred_dest_of(operand)? {
            Some(slot) => Ok(slot),
            None => self.refuse(format_args!("operand {} must be a predicate", i + 1)),
        }
    }

    /// A predicate to be read, and whether it is negated.
    pub fn pred_of(&mut self, operand: &Operand) -> Result<(Source, bool), Malformed> {
        match operand {
            Operand::Not(inner) => {
                let (source, negated) = self.pred_of(inner)?;
                Ok((source, !negated))
            }
            Operand::Reg(r) if self.class(*r) == Class::Pred => Ok((self.read(*r), false)),
            Operand::Int(n) => Ok((Source::Constant(u64::from(*n != 0)), false)),
            _ => self.refuse(format_args!("{operand:?} is no predicate")),
        }
    }

    /// The same by number.
    pub fn pred(&mut self, i: usize) -> Result<(Source, bool), Malformed> {
        let operand = self.operand(i)?;
        self.pred_of(operand)
    }

    /// Operands of a vector, or the one operand that stands for itself.
    pub fn elements(&self, i: usize) -> Result<&'a [Operand], Malformed> {
        match self.operand(i)? {
            Operand::Vector(v) => Ok(v),
            other => Ok(std::slice::from_ref(other)),
        }
    }

    /// Values of a vector.
    pub fn sources(&mut self, i: usize) -> Result<Vec<Source>, Malformed> {
        self.elements(i)?.iter().map(|o| self.source_of(o)).collect()
    }

    /// Registers of a vector to be written.
    pub fn dests(&mut self, i: usize) -> Result<Vec<Option<Slot>>, Malformed> {
        self.elements(i)?.iter().map(|o| self.dest_of(o)).collect()
    }

    /// Registers that are read and written, and stay in use after the instruction: places and numbers among those.
    pub fn matrix_dests(&mut self, i: usize) -> Result<Vec<(Slot, u32)>, Malformed> {
        let mut out = Vec::new();
        for operand in self.elements(i)? {
            let Operand::Reg(r) = *operand else {
                return self.refuse(format_args!("{operand:?} cannot be written"));
            };
            if !matches!(self.class(r), Class::Word32) {
                return self.refuse("registers of matrices have 32 bits");
            }
            self.reads.push(r);
            self.writes.push(r);
            self.matrix.push(r);
            out.push((self.place(r), self.matrix_index[r.0 as usize].unwrap_or(0)));
        }
        Ok(out)
    }

    /// Registers that are read, and stay in use after the instruction.
    pub fn matrix_sources(&mut self, i: usize) -> Result<Vec<(Slot, u32)>, Malformed> {
        let before = self.writes.len();
        let out = self.matrix_dests(i)?;
        self.writes.truncate(before);
        Ok(out)
    }

    /// Registers that are written, and stay in use after the instruction.
    pub fn late_dests(&mut self, i: usize) -> Result<Vec<(Slot, u32)>, Malformed> {
        let before = self.reads.len();
        let out = self.matrix_dests(i)?;
        self.reads.truncate(before);
        Ok(out)
    }

    /// An address in brackets, and what follows it there.
    pub fn address(&mut self, i: usize) -> Result<(Address, &'a [Operand]), Malformed> {
        let Operand::Address { base, offset, more } = self.operand(i)? else {
            return self.refuse(format_args!("operand {} is no address", i + 1));
        };
        let (mut wide, mut space) = (true, None);
        match **base {
            Operand::Reg(r) => wide = self.class(r) == Class::Word64,
            Operand::Variable(v, _) => space = Some(self.kernel.variables[v].space),
            _ => {}
        }
        let base = self.source_of(base)?;
        Ok((Address { base, wide, offset: *offset, space }, more))
    }

    /// A constant.
    pub fn constant(&self, i: usize) -> Result<i64, Malformed> {
        match *self.operand(i)? {
            Operand::Int(n) => Ok(n as i64),
            ref other => self.refuse(format_args!("{other:?} is no constant")),
        }
    }

    /// The aim of a jump.
    pub fn label(&self, i: usize) -> Result<usize, Malformed> {
        match *self.operand(i)? {
            Operand::Label(l) => Ok(self.kernel.labels[l].at),
            ref other => self.refuse(format_args!("{other:?} is no label")),
        }
    }

    /// The aims that a `.branchtargets` list names.
    pub fn label_list(&self, i: usize) -> Result<Vec<usize>, Malformed> {
        match *self.operand(i)? {
            Operand::Label(l) => {
                Ok(self.kernel.labels[l].targets.iter().map(|&t| self.kernel.labels[t].at).collect())
            }
            ref other => self.refuse(format_args!("{other:?} is no list of labels")),
        }
    }

    /// True if operand `i` is a predicate register.
    pub fn is_pred(&self, i: usize) -> bool {
        matches!(self.statement.operands.get(i), Some(Operand::Reg(r)) if self.class(*r) == Class::Pred)
    }

    /// Notes that shared memory is accessed by units of so many bytes.
    pub fn shared_access(&mut self, bytes: u32) {
        self.narrowest = self.narrowest.min(bytes.max(1));
    }
}
