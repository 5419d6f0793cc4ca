//! Tokens to modules: directives, scopes of names, statements and operands.

use super::lex::{Token, tokens};
use super::{Class, Kernel, Label, Malformed, Module, Operand, Reg, RegDecl, Space, Statement, Variable};
use rustc_hash::FxHashMap;

/// Reads a file.
///
/// # Errors
/// Where it stops being PTX, and what stands there.
pub fn parse(text: &str) -> Result<Module, Malformed> {
    let tokens = tokens(text)?;
    let mut p = Parser {
        tokens,
        at: 0,
        kernel: Kernel::default(),
        scopes: Vec::new(),
        globals: Vec::new(),
        depth: 0,
    };
    p.module()
}

/// Most braces and brackets in each other.
const DEEPEST: usize = 32;

/// Names of one pair of braces.
#[derive(Default)]
struct Scope {
    registers: FxHashMap<String, Reg>,
    /// `%r<10>`: prefix, first register, how many.
    ranges: Vec<(String, u32, u32)>,
    labels: FxHashMap<String, usize>,
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    kernel: Kernel,
    scopes: Vec<Scope>,
    /// Variables of the module.
    globals: Vec<Variable>,
    /// Of the operand that is read.
    depth: usize,
}

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.1)
    }

    fn fail<T>(&self, what: impl Into<String>) -> Result<T, Malformed> {
        Err(Malformed { line: self.line(), what: what.into() })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.0)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).map(|t| t.0.clone());
        self.at += 1;
        token
    }

    fn is(&self, sign: char) -> bool {
        self.peek() == Some(&Token::Sign(sign))
    }

    fn take(&mut self, sign: char) -> bool {
        let found = self.is(sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: char) -> Result<(), Malformed> {
        if self.take(sign) {
            Ok(())
        } else {
            self.fail(format!("{sign:?} is missing before {:?}", self.peek()))
        }
    }

    fn word(&mut self) -> Result<String, Malformed> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            other => self.fail(format!("a name is missing before {other:?}")),
        }
    }

    fn int(&mut self) -> Result<i128, Malformed> {
        let negative = self.take('-');
        match self.peek() {
            Some(&Token::Int(n)) => {
                self.at += 1;
                Ok(if negative { -n } else { n })
            }
            other => self.fail(format!("a number is missing before {other:?}")),
        }
    }

    fn small(&mut self) -> Result<u32, Malformed> {
        let n = self.int()?;
        u32::try_from(n).or_else(|_| self.fail(format!("{n} is not a number from 0 to 2^32 - 1")))
    }

    fn module(&mut self) -> Result<Module, Malformed> {
        let mut module = Module { version: 0, target: String::new(), kernels: Vec::new() };
        while let Some(token) = self.peek().cloned() {
            let Token::Word(word) = token else {
                return self.fail(format!("{token:?} begins nothing"));
            };
            match &*word {
                ".version" => {
                    self.at += 1;
                    let Some(Token::Double(bits)) = self.next() else {
                        return self.fail("a version has two numbers");
                    };
                    module.version = (f64::from_bits(bits) * 10.0).round() as u32;
                }
                ".target" => {
                    self.at += 1;
                    module.target = self.word()?;
                    while self.take(',') {
                        self.word()?;
                    }
                }
                ".address_size" => {
                    self.at += 1;
                    if self.int()? != 64 {
                        return self.fail("only addresses of 64 bits are known");
                    }
                }
                ".file" => {
                    self.at += 1;
                    self.skip_line();
                }
                ".visible" | ".extern" | ".weak" | ".common" => self.at += 1,
                ".entry" => {
                    self.at += 1;
                    let kernel = self.entry()?;
                    module.kernels.push(kernel);
                }
                ".shared" | ".global" | ".const" => {
                    let variable = self.variable()?;
                    self.globals.push(variable);
                }
                ".func" => return self.fail("functions are not known; a kernel has its code inlined"),
                ".section" => self.section()?,
                _ => return self.fail(format!("{word} is not known here")),
            }
        }
        if module.version == 0 || module.target.is_empty() {
            return self.fail(".version and .target are missing");
        }
        Ok(module)
    }

    /// Drops the rest of a line.
    fn skip_line(&mut self) {
        let line = self.tokens.get(self.at.saturating_sub(1)).map_or(0, |t| t.1);
        while self.tokens.get(self.at).is_some_and(|t| t.1 == line) {
            self.at += 1;
        }
    }

    /// Drops a section of debug information.
    fn section(&mut self) -> Result<(), Malformed> {
        while self.next().is_some_and(|t| t != Token::Sign('{')) {}
        while let Some(token) = self.next() {
            if token == Token::Sign('}') {
                return Ok(());
            }
        }
        self.fail("a section has no end")
    }

    fn entry(&mut self) -> Result<Kernel, Malformed> {
        self.kernel = Kernel { name: self.word()?, ..Kernel::default() };
        self.scopes = vec![Scope::default()];
        if self.take('(') && !self.take(')') {
            loop {
                let param = self.variable_of(".param")?;
                self.kernel.variables.push(param);
                if !self.take(',') {
                    break;
                }
            }
            self.expect(')')?;
        }
        self.kernel.params = self.kernel.variables.len();
        self.kernel.variables.extend(self.globals.iter().cloned());
        self.attributes()?;
        self.expect('{')?;
        self.block()?;
        self.scopes.clear();
        Ok(std::mem::take(&mut self.kernel))
    }

    fn attributes(&mut self) -> Result<(), Malformed> {
        while !self.is('{') {
            let word = self.word()?;
            match &*word {
                ".reqntid" => self.kernel.block = Some(self.three()?),
                ".maxntid" => self.kernel.max_threads = Some(self.three()?.iter().product()),
                ".reqnctapercluster" => self.kernel.cluster = Some(self.three()?),
                ".maxnreg" => self.kernel.max_registers = Some(self.small()?),
                ".minnctapersm" => self.kernel.min_blocks = Some(self.small()?),
                ".maxclusterrank" => {
                    self.small()?;
                }
                ".explicitcluster" => {}
                ".pragma" => self.pragma()?,
                _ => return self.fail(format!("{word} is not a directive of a kernel that is known")),
            }
        }
        Ok(())
    }

    fn pragma(&mut self) -> Result<(), Malformed> {
        while matches!(self.peek(), Some(Token::Text(_) | Token::Sign(','))) {
            self.at += 1;
        }
        self.expect(';')
    }

    fn three(&mut self) -> Result<[u32; 3], Malformed> {
        let mut out = [self.small()?, 1, 1];
        for n in &mut out[1..] {
            if self.take(',') {
                *n = self.small()?;
            }
        }
        Ok(out)
    }

    /// What stands between braces; the opening one has been taken.
    fn block(&mut self) -> Result<(), Malformed> {
        self.labels_ahead()?;
        loop {
            let line = self.line();
            match self.peek().cloned() {
                None => return self.fail("a brace is not closed"),
                Some(Token::Sign('}')) => {
                    self.at += 1;
                    return Ok(());
                }
                Some(Token::Sign('{')) => {
                    self.at += 1;
                    if self.scopes.len() > DEEPEST {
                        return self.fail("braces are too deep");
                    }
                    self.scopes.push(Scope::default());
                    self.block()?;
                    self.scopes.pop();
                }
                Some(Token::Sign(';')) => self.at += 1,
                Some(Token::Word(word))
                    if self.tokens.get(self.at + 1).map(|t| &t.0) == Some(&Token::Sign(':')) =>
                {
                    self.at += 2;
                    self.label(&word)?;
                }
                Some(Token::Word(word)) if word.starts_with('.') => match &*word {
                    ".reg" => self.registers()?,
                    ".shared" | ".local" | ".param" => {
                        let variable = self.variable()?;
                        self.kernel.variables.push(variable);
                    }
                    ".loc" => {
                        self.at += 1;
                        self.skip_line();
                    }
                    ".pragma" => {
                        self.at += 1;
                        self.pragma()?;
                    }
                    _ => return self.fail(format!("{word} is not known here")),
                },
                Some(Token::Word(_) | Token::Sign('@')) => {
                    let statement = self.statement(line)?;
                    self.kernel.body.push(statement);
                }
                Some(other) => return self.fail(format!("{other:?} begins no statement")),
            }
        }
    }

    /// Declares the labels of a block, so that a jump may come before its aim.
    fn labels_ahead(&mut self) -> Result<(), Malformed> {
        let mut depth = 0;
        for i in self.at..self.tokens.len() {
            match &self.tokens[i].0 {
                Token::Sign('{') => depth += 1,
                Token::Sign('}') if depth == 0 => break,
                Token::Sign('}') => depth -= 1,
                // In a block's own level; a vector's braces have no label.
                Token::Word(name)
                    if depth == 0 && self.tokens.get(i + 1).map(|t| &t.0) == Some(&Token::Sign(':')) =>
                {
                    let index = self.kernel.labels.len();
                    self.kernel.labels.push(Label {
                        name: name.clone(),
                        at: usize::MAX,
                        targets: Vec::new(),
                    });
                    let scope = self.scopes.last_mut();
                    let before = scope.and_then(|s| s.labels.insert(name.clone(), index));
                    if before.is_some() {
                        return Err(Malformed {
                            line: self.tokens[i].1,
                            what: format!("label {name} is there twice"),
                        });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn label(&mut self, name: &str) -> Result<(), Malformed> {
        let found = self.scopes.iter().rev().find_map(|s| s.labels.get(name)).copied();
        let Some(index) = found else {
            return self.fail(format!("label {name} is not known"));
        };
        self.kernel.labels[index].at = self.kernel.body.len();
        if self.peek() == Some(&Token::Word(".branchtargets".to_owned())) {
            self.at += 1;
            loop {
                let target = self.word()?;
                let target = self.scopes.iter().rev().find_map(|s| s.labels.get(&target)).copied();
                let Some(target) = target else {
                    return self.fail("a branch target is no label");
                };
                self.kernel.labels[index].targets.push(target);
                if !self.take(',') {
                    break;
                }
            }
            self.expect(';')?;
        }
        Ok(())
    }

    fn registers(&mut self) -> Result<(), Malformed> {
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

    fn variable(&mut self) -> Result<Variable, Malformed> {
        let space = self.word()?;
        self.at -= 1;
        let variable = self.variable_of(&space)?;
        self.expect(';')?;
        Ok(variable)
    }

    /// `.space .align 16 .b8 name[48]`, with `.ptr .global .align 1` after the type of a parameter.
    fn variable_of(&mut self, space: &str) -> Result<Variable, Malformed> {
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

    fn statement(&mut self, line: u32) -> Result<Statement, Malformed> {
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
