//! Tokens to modules: directives, and scopes of names.

mod declaration;
mod statement;

use super::lex::{Token, tokens};
use super::{Kernel, Label, Malformed, Module, Reg, Variable};
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
                // How many blocks are to be on a multiprocessor, or in a cluster at most, changes no result.
                ".minnctapersm" | ".maxclusterrank" => {
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
}
