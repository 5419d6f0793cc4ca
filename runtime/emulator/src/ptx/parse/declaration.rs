//! Declarations of registers and variables.

use super::{DEEPEST, Parser};
use crate::ptx::lex::Token;
use crate::ptx::{Class, Malformed, Reg, RegDecl, Space, Variable};

impl Parser {
    pub fn registers(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        let ty = self.word()?;
        let class = match &*ty {
            ".pred" => Class::Pred,
            ".b8" | ".u8" | ".s8" | ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => Class::Word16,
            ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => Class::Word32,
            ".b64" | ".u64" | ".s64" | ".f64" => Class::Word64,
            ".b128" => Class::Word128,
            _ => return self.fail(format!("registers of type {ty} are not known")),
        };
        loop {
            let name = self.word()?;
            let first = self.kernel.registers.len() as u32;
            if self.take('<') {
                let count = self.small()?;
                self.expect('>')?;
                if count > 1 << 20 {
                    return self.fail(format!("{count} registers"));
                }
                let named = (0..count).map(|i| RegDecl { name: format!("{name}{i}"), class });
                self.kernel.registers.extend(named);
                if let Some(scope) = self.scopes.last_mut() {
                    scope.ranges.push((name, first, count));
                }
            } else {
                self.kernel.registers.push(RegDecl { name: name.clone(), class });
                if let Some(scope) = self.scopes.last_mut() {
                    scope.registers.insert(name, Reg(first));
                }
            }
            if !self.take(',') {
                return self.expect(';');
            }
        }
    }

    pub fn variable(&mut self) -> Result<Variable, Malformed> {
        let space = self.word()?;
        self.at -= 1;
        let variable = self.variable_of(&space)?;
        self.expect(';')?;
        Ok(variable)
    }

    /// `.space .align 16 .b8 name[48]`, with `.ptr .global .align 1` after the type of a parameter.
    pub fn variable_of(&mut self, space: &str) -> Result<Variable, Malformed> {
        let found = self.word()?;
        if found != space {
            return self.fail(format!("{found} stands where {space} is meant"));
        }
        let space = match space {
            ".param" => Space::Param,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".global" => Space::Global,
            _ => Space::Const,
        };
        let (mut align, mut size) = (None, 1);
        let name = loop {
            let word = self.word()?;
            match &*word {
                ".align" if align.is_none() => align = Some(u64::from(self.small()?)),
                // Of what a pointer points to.
                ".align" => {
                    self.small()?;
                }
                ".ptr" => align = align.or(Some(size)),
                ".global" | ".shared" | ".local" | ".const" | ".v2" | ".v4" if size > 0 => {}
                ".b8" | ".u8" | ".s8" => size = 1,
                ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => size = 2,
                ".b32" | ".u32" | ".s32" | ".f32" => size = 4,
                ".b64" | ".u64" | ".s64" | ".f64" => size = 8,
                ".b128" => size = 16,
                _ if word.starts_with('.') => {
                    return self.fail(format!("{word} is not known in a declaration"));
                }
                _ => break word,
            }
        };
        let mut bytes = Some(size);
        while self.take('[') {
            if self.take(']') {
                bytes = None;
                continue;
            }
            let count = u64::from(self.small()?);
            bytes = bytes.and_then(|b| b.checked_mul(count));
            self.expect(']')?;
        }
        let mut init = Vec::new();
        if self.take('=') {
            self.initial(size as usize, &mut init)?;
        }
        let align = align.unwrap_or(size);
        if !align.is_power_of_two() {
            return self.fail(format!("an alignment of {align}"));
        }
        Ok(Variable { name, space, bytes, align, init })
    }

    fn initial(&mut self, size: usize, init: &mut Vec<u8>) -> Result<(), Malformed> {
        if self.take('{') {
            self.depth += 1;
            if self.depth > DEEPEST {
                return self.fail("braces are too deep");
            }
            loop {
                self.initial(size, init)?;
                if !self.take(',') {
                    self.depth -= 1;
                    return self.expect('}');
                }
            }
        }
        let value = match self.peek() {
            Some(&Token::Double(bits)) => {
                self.at += 1;
                i128::from(bits)
            }
            _ => self.int()?,
        };
        init.extend_from_slice(&value.to_le_bytes()[..size.min(16)]);
        Ok(())
    }
}
