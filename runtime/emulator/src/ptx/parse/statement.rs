//! Statements and their operands.

use super::{DEEPEST, Parser};
use crate::ptx::lex::Token;
use crate::ptx::{Class, Malformed, Operand, Reg, Statement};

impl Parser {
    pub fn statement(&mut self, line: u32) -> Result<Statement, Malformed> {
        let mut guard = None;
        if self.take('@') {
            let negated = self.take('!');
            let name = self.word()?;
            match self.register(&name) {
                Some(reg) if self.kernel.registers[reg.0 as usize].class == Class::Pred => {
                    guard = Some((reg, negated));
                }
                _ => return self.fail(format!("{name} is not a predicate")),
            }
        }
        let opcode: Vec<String> = self.word()?.split('.').map(str::to_owned).collect();
        let mut operands = Vec::new();
        if !self.take(';') {
            loop {
                operands.push(self.operand()?);
                if !self.take(',') {
                    self.expect(';')?;
                    break;
                }
            }
        }
        Ok(Statement { line, guard, opcode, operands })
    }

    fn register(&self, name: &str) -> Option<Reg> {
        self.scopes.iter().rev().find_map(|s| {
            let in_range = |(prefix, first, count): &(String, u32, u32)| {
                let n: u32 = name.strip_prefix(prefix.as_str())?.parse().ok()?;
                (n < *count).then_some(Reg(first + n))
            };
            s.registers.get(name).copied().or_else(|| s.ranges.iter().find_map(in_range))
        })
    }

    fn operand(&mut self) -> Result<Operand, Malformed> {
        let first = self.nested()?;
        if self.take('|') {
            let second = self.nested()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn nested(&mut self) -> Result<Operand, Malformed> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.fail("an operand is too deep");
        }
        let operand = self.simple();
        self.depth -= 1;
        operand
    }

    fn list(&mut self, end: char) -> Result<Vec<Operand>, Malformed> {
        let mut out = Vec::new();
        if self.take(end) {
            return Ok(out);
        }
        loop {
            out.push(self.operand()?);
            if !self.take(',') {
                self.expect(end)?;
                return Ok(out);
            }
        }
    }

    /// `+ 8`, `- 8`, or nothing.
    fn offset(&mut self) -> Result<i64, Malformed> {
        let offset = match self.peek() {
            Some(Token::Sign('+')) => {
                self.at += 1;
                self.int()?
            }
            Some(Token::Sign('-')) => self.int()?,
            _ => 0,
        };
        i64::try_from(offset).or_else(|_| self.fail(format!("an offset of {offset}")))
    }

    fn simple(&mut self) -> Result<Operand, Malformed> {
        match self.peek().cloned() {
            Some(Token::Sign('{')) => {
                self.at += 1;
                Ok(Operand::Vector(self.list('}')?))
            }
            Some(Token::Sign('[')) => {
                self.at += 1;
                let base = Box::new(self.nested()?);
                let offset = self.offset()?;
                let more = if self.take(',') {
                    self.list(']')?
                } else {
                    self.expect(']')?;
                    Vec::new()
                };
                Ok(Operand::Address { base, offset, more })
            }
            Some(Token::Sign('!')) => {
                self.at += 1;
                Ok(Operand::Not(Box::new(self.nested()?)))
            }
            Some(Token::Sign('_')) => {
                self.at += 1;
                Ok(Operand::Sink)
            }
            Some(Token::Sign('-') | Token::Int(_)) => Ok(Operand::Int(self.int()?)),
            Some(Token::Double(bits)) => {
                self.at += 1;
                Ok(Operand::Double(bits))
            }
            Some(Token::Word(name)) => {
                self.at += 1;
                self.named(name)
            }
            other => self.fail(format!("{other:?} is no operand")),
        }
    }

    fn named(&mut self, name: String) -> Result<Operand, Malformed> {
        if let Some(reg) = self.register(&name) {
            return Ok(Operand::Reg(reg));
        }
        if let Some(&label) = self.scopes.iter().rev().find_map(|s| s.labels.get(&name)) {
            return Ok(Operand::Label(label));
        }
        if let Some(index) = self.kernel.variables.iter().rposition(|v| v.name == name) {
            let inside = self.tokens.get(self.at.saturating_sub(2)).map(|t| &t.0) == Some(&Token::Sign('['));
            // In brackets the offset belongs to the address.
            let offset = if inside { 0 } else { self.offset()? };
            return Ok(Operand::Variable(index, offset));
        }
        if name.starts_with('%') || name == "WARP_SZ" {
            return Ok(Operand::Special(name));
        }
        self.fail(format!("{name} is not declared"))
    }
}
