//! Parses the text form. Recursive descent without recursion: nothing nests, so no input can exhaust the stack, and
//! memory stays within a small factor of the input.
//!
//! Errors are collected with their places; after one, parsing goes on at the next line that begins a statement.
//! What a statement in error would have defined counts as defined, so that one mistake is reported once.

use super::lexer::{Lexer, Tok, Token, clip};
use crate::diag::Diag;
use crate::entity::{ValueId, WeightId};
use crate::loc::Loc;
use crate::module::{
    Def, KernelChoice, Module, OpData, Packing, RopeFreqs, RopeScaling, Source, TensorRef, Value, Weight,
};
use crate::ops::{Attr, Op, Parts};
use crate::types::{Sym, Type};
use std::collections::HashMap;

/// Longest text that is read, bytes.
const MAX_SOURCE: usize = 256 << 20;

/// Errors after which parsing stops.
const MAX_ERRORS: usize = 100;

/// The error has been recorded, or follows from one that has.
pub(super) struct Failed;

/// Parses a module. `path` is for locations. The result is not verified.
pub fn parse(source: &str, path: &str) -> Result<Module, Vec<Diag>> {
    if source.len() > MAX_SOURCE {
        let message = format!("the text has {} bytes, more than the {MAX_SOURCE} that are read", source.len());
        return Err(vec![Diag::user(&Loc::File { path: path.to_owned(), line: 1, col: 1 }, message)]);
    }
    let mut parser = Parser {
        lexer: Lexer::new(source, path),
        token: Token { tok: Tok::End, line: 1, col: 1 },
        last_line: 0,
        consumed: 0,
        statement: 0,
        path,
        diags: Vec::new(),
        module: Module::default(),
        values: HashMap::new(),
        weights: HashMap::new(),
    };
    parser.bump();
    parser.file();
    if parser.diags.is_empty() { Ok(parser.module) } else { Err(parser.diags) }
}

pub(super) struct Parser<'s> {
    lexer: Lexer<'s>,
    /// The token that is next.
    token: Token<'s>,
    /// Line of the token before it.
    last_line: u32,
    /// Tokens taken so far, and how many those were where the statement began.
    consumed: u64,
    statement: u64,
    path: &'s str,
    diags: Vec<Diag>,
    module: Module,
    /// What has been defined; `None` by a statement in error.
    values: HashMap<String, Option<ValueId>>,
    weights: HashMap<String, Option<WeightId>>,
}

// Tokens.
impl<'s> Parser<'s> {
    pub(super) fn peek(&self) -> &Tok<'s> {
        &self.token.tok
    }

    /// Takes the next token.
    pub(super) fn bump(&mut self) -> Tok<'s> {
        let next = loop {
            match self.lexer.next() {
                Ok(token) => break token,
                Err(diag) => self.diags.push(diag),
            }
            if self.diags.len() >= MAX_ERRORS {
                break Token { tok: Tok::End, line: self.token.line, col: self.token.col };
            }
        };
        self.last_line = self.token.line;
        self.consumed += 1;
        std::mem::replace(&mut self.token, next).tok
    }

    fn here(&self) -> Loc {
        Loc::File { path: self.path.to_owned(), line: self.token.line, col: self.token.col }
    }

    /// Records an error at the next token.
    pub(super) fn fail<T>(&mut self, message: impl Into<String>) -> Result<T, Failed> {
        let loc = self.here();
        self.fail_at(&loc, message)
    }

    fn fail_at<T>(&mut self, loc: &Loc, message: impl Into<String>) -> Result<T, Failed> {
        self.diags.push(Diag::user(loc, message));
        Err(Failed)
    }

    /// Records that something else was expected.
    pub(super) fn expected<T>(&mut self, what: &str) -> Result<T, Failed> {
        let found = self.peek().describe();
        self.fail(format!("expected {what}, found {found}"))
    }

    pub(super) fn eat(&mut self, c: char) -> bool {
        let found = *self.peek() == Tok::Punct(c);
        if found {
            self.bump();
        }
        found
    }

    pub(super) fn punct(&mut self, c: char) -> Result<(), Failed> {
        if self.eat(c) { Ok(()) } else { self.expected(&format!("'{c}'")) }
    }

    pub(super) fn word(&mut self, wanted: &str) -> Result<(), Failed> {
        if *self.peek() == Tok::Word(wanted) {
            self.bump();
            return Ok(());
        }
        self.expected(&format!("'{wanted}'"))
    }

    pub(super) fn any_word(&mut self, what: &str) -> Result<&'s str, Failed> {
        if let Tok::Word(w) = *self.peek() {
            self.bump();
            return Ok(w);
        }
        self.expected(what)
    }

    fn string(&mut self, what: &str) -> Result<String, Failed> {
        if matches!(self.peek(), Tok::Str(_))
            && let Tok::Str(s) = self.bump()
        {
            return Ok(s);
        }
        self.expected(what)
    }

    fn symbol(&mut self, what: &str) -> Result<String, Failed> {
        if matches!(self.peek(), Tok::Symbol(_))
            && let Tok::Symbol(s) = self.bump()
        {
            return Ok(s);
        }
        self.expected(what)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Failed> {
        let number = match self.peek() {
            Tok::Word(w) => integer(w),
            _ => None,
        };
        match number {
            Some(n) => {
                self.bump();
                Ok(n)
            }
            None => self.expected(&format!("an integer for {what}")),
        }
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Failed> {
        let loc = self.here();
        let n = self.u64(what)?;
        u32::try_from(n).or_else(|_| self.fail_at(&loc, format!("{n} is too large for {what}")))
    }

    fn f64(&mut self, what: &str) -> Result<f64, Failed> {
        let number = match self.peek() {
            Tok::Word(w) => w.parse().ok(),
            _ => None,
        };
        match number {
            Some(x) => {
                self.bump();
                Ok(x)
            }
            None => self.expected(&format!("a number for {what}")),
        }
    }

    /// Items between `open` (already taken) and `close`, with commas between them.
    fn items(&mut self, close: char, mut item: impl FnMut(&mut Self) -> Result<(), Failed>) -> Result<(), Failed> {
        if self.eat(close) {
            return Ok(());
        }
        loop {
            item(self)?;
            if !self.eat(',') {
                return self.punct(close);
            }
        }
    }

    /// Goes on at the next line that begins with a statement or a closing brace; takes at least one token of each
    /// statement, so that parsing ends.
    fn recover(&mut self) {
        if self.consumed == self.statement {
            self.bump();
        }
        loop {
            let starts = match self.peek() {
                Tok::End => return,
                Tok::Value(_) | Tok::Punct('}') => true,
                Tok::Word(w) => w.starts_with("llm."),
                _ => false,
            };
            if starts && self.token.line > self.last_line {
                return;
            }
            self.bump();
        }
    }
}

/// A decimal or `0x` hexadecimal integer.
fn integer(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

// Statements.
impl Parser<'_> {
    fn file(&mut self) {
        if self.header().is_err() {
            self.recover();
        }
        let mut functions = 0;
        while self.diags.len() < MAX_ERRORS {
            self.statement = self.consumed;
            let parsed = match self.peek() {
                Tok::Word("llm.weight") => self.weight(),
                Tok::Word("llm.func") => {
                    functions += 1;
                    if functions > 1 {
                        let _ = self.fail::<()>("a module has one function, this is another");
                        return;
                    }
                    self.function()
                }
                Tok::Punct('}') => {
                    self.bump();
                    break;
                }
                Tok::End => {
                    let _ = self.expected::<()>("'}' at the end of the module");
                    return;
                }
                _ => self.expected("llm.weight, llm.func or '}'"),
            };
            if parsed.is_err() {
                self.recover();
            }
        }
        if functions == 0 && self.diags.is_empty() {
            let _ = self.fail::<()>("the module has no llm.func");
        }
        if *self.peek() != Tok::End && self.diags.is_empty() {
            let _ = self.expected::<()>("the end of the file");
        }
    }

    /// `llm.module @name arch("llama") ... {`
    fn header(&mut self) -> Result<(), Failed> {
        self.word("llm.module")?;
        self.module.name = self.symbol("the module's @name")?;
        while !self.eat('{') {
            let loc = self.here();
            let part = self.any_word("arch, target, precision, dims, arena or '{'")?;
            self.punct('(')?;
            let again = match part {
                "arch" => {
                    let arch = self.string("the architecture")?;
                    !std::mem::replace(&mut self.module.arch, arch).is_empty()
                }
                "target" => {
                    let target = self.string("the target")?;
                    self.module.target.replace(target).is_some()
                }
                "precision" => {
                    let precision = self.string("the precision")?;
                    self.module.precision.replace(precision).is_some()
                }
                "arena" => {
                    let arena = self.u64("the arena's bytes")?;
                    self.module.arena.replace(arena).is_some()
                }
                "dims" => {
                    let again = !self.module.dims.is_empty();
                    self.items(')', |p| p.bounds())?;
                    if again {
                        return self.fail_at(&loc, "'dims' is given twice");
                    }
                    continue;
                }
                other => return self.fail_at(&loc, format!("'{}' is not a part of a module", clip(other))),
            };
            if again {
                return self.fail_at(&loc, format!("'{part}' is given twice"));
            }
            self.punct(')')?;
        }
        Ok(())
    }

    /// `T in 1..512`
    fn bounds(&mut self) -> Result<(), Failed> {
        let sym = match *self.peek() {
            Tok::Word(w) if w.len() == 1 && w.as_bytes()[0].is_ascii_uppercase() => Sym(w.as_bytes()[0]),
            _ => return self.expected("a dimension's capital letter"),
        };
        self.bump();
        self.word("in")?;
        let range = match self.peek() {
            Tok::Word(w) => w.split_once("..").and_then(|(a, b)| Some((integer(a)?, integer(b)?))),
            _ => None,
        };
        let Some((min, max)) = range else { return self.expected("bounds such as 1..512") };
        self.bump();
        self.module.dims.push((sym, min, max));
        Ok(())
    }

    /// `llm.weight @name : tensor<...> packed(rows) from [...]`
    fn weight(&mut self) -> Result<(), Failed> {
        self.word("llm.weight")?;
        let loc = self.here();
        let name = self.symbol("the weight's @name")?;
        if self.weights.insert(name.clone(), None).is_some() {
            return self.fail_at(&loc, format!("there is another weight @{}", clip(&name)));
        }
        self.punct(':')?;
        let ty = self.tensor()?;
        let mut packing = None;
        if *self.peek() == Tok::Word("packed") {
            self.bump();
            self.punct('(')?;
            let name = self.any_word("a packing")?;
            packing = match Packing::parse(name) {
                Some(p) => Some(p),
                None => {
                    let known: Vec<_> = Packing::all().map(Packing::name).collect();
                    return self.fail(format!("there is no packing '{}'; there are {}", clip(name), known.join(", ")));
                }
            };
            self.punct(')')?;
        }
        self.word("from")?;
        let source = if *self.peek() == Tok::Word("rope") {
            Source::Rope(self.rope()?)
        } else {
            self.punct('[')?;
            let mut parts = Vec::new();
            self.items(']', |p| {
                let name = p.string("a checkpoint tensor's name")?;
                let mut interleaved_heads = None;
                if *p.peek() == Tok::Word("interleaved") {
                    p.bump();
                    interleaved_heads = Some(p.u32("the number of heads")?);
                }
                parts.push(TensorRef { name, interleaved_heads });
                Ok(())
            })?;
            Source::Tensors(parts)
        };
        let id = self.module.weights.push(Weight { name: name.clone(), ty, source, packing });
        self.weights.insert(name, Some(id));
        Ok(())
    }

    /// `rope<64, 10000, llama3 8 1 4 8192>`
    fn rope(&mut self) -> Result<RopeFreqs, Failed> {
        self.word("rope")?;
        self.punct('<')?;
        let dim = self.u32("the rotated elements of a head")?;
        self.punct(',')?;
        let theta = self.f64("the base")?;
        let mut scaling = RopeScaling::None;
        if self.eat(',') {
            scaling = match self.any_word("linear or llama3")? {
                "linear" => RopeScaling::Linear { factor: self.f64("the factor")? },
                "llama3" => RopeScaling::Llama3 {
                    factor: self.f64("the factor")?,
                    low: self.f64("the low bound")?,
                    high: self.f64("the high bound")?,
                    original: self.f64("the original context")?,
                },
                other => return self.fail(format!("'{}' is not one of linear, llama3", clip(other))),
            };
        }
        self.punct('>')?;
        Ok(RopeFreqs { dim, theta, scaling })
    }

    /// `llm.func @name(%x: type, ...) { ops llm.return %y }`
    fn function(&mut self) -> Result<(), Failed> {
        self.word("llm.func")?;
        self.module.func.name = self.symbol("the function's @name")?;
        self.punct('(')?;
        let signature = self.items(')', |p| p.param()).and_then(|()| self.punct('{'));
        if signature.is_err() {
            self.recover();
        }
        while self.diags.len() < MAX_ERRORS {
            self.statement = self.consumed;
            let (parsed, last) = match self.peek() {
                Tok::Word("llm.return") => (self.results(), true),
                Tok::Value(_) => (self.op(), false),
                Tok::Word(w) if w.starts_with("llm.") => (self.op(), false),
                Tok::Punct('}') => {
                    // Consumed, so that what follows is read as the module's.
                    let missing = self.fail("the function ends without llm.return");
                    self.bump();
                    return missing;
                }
                Tok::End => return self.expected("llm.return"),
                _ => (self.expected("an op, such as '%y = llm.add %a, %b : type', or llm.return"), false),
            };
            match parsed {
                Ok(()) if last => return Ok(()),
                Ok(()) => {}
                Err(Failed) => {
                    self.recover();
                    if last {
                        return self.punct('}');
                    }
                }
            }
        }
        Err(Failed)
    }

    /// `%x: tensor<Txi32> at(0x0)`
    fn param(&mut self) -> Result<(), Failed> {
        let (loc, name) = self.new_name()?;
        self.punct(':')?;
        let ty = self.ty()?;
        let mut offsets = vec![None];
        if *self.peek() == Tok::Word("at") {
            self.bump();
            offsets = self.offsets()?;
        }
        let [offset] = offsets[..] else { return self.fail_at(&loc, "a parameter has one offset") };
        let def = Def::Param(self.module.func.params.len() as u32);
        let id = self.define(name, ty, def, offset);
        self.module.func.params.push(id);
        Ok(())
    }

    /// A name that is about to be defined; until it is, it counts as in error.
    fn new_name(&mut self) -> Result<(Loc, String), Failed> {
        let loc = self.here();
        let Tok::Value(_) = self.peek() else { return self.expected("a value's %name") };
        let Tok::Value(name) = self.bump() else { return Err(Failed) };
        if self.values.insert(name.clone(), None).is_some() {
            return self.fail_at(&loc, format!("there is another value %{}", clip(&name)));
        }
        Ok((loc, name))
    }

    fn define(&mut self, name: String, ty: Type, def: Def, offset: Option<u64>) -> ValueId {
        let id = self.module.func.values.push(Value { name: name.clone(), ty, def, offset });
        self.values.insert(name, Some(id));
        id
    }

    /// A value that is read.
    fn used(&mut self) -> Result<ValueId, Failed> {
        let loc = self.here();
        let Tok::Value(_) = self.peek() else { return self.expected("a value") };
        let Tok::Value(name) = self.bump() else { return Err(Failed) };
        match self.values.get(&name) {
            Some(Some(id)) => Ok(*id),
            Some(None) => Err(Failed),
            None => self.fail_at(&loc, format!("%{} is not defined before this use", clip(&name))),
        }
    }

    /// A weight that is read.
    fn used_weight(&mut self) -> Result<WeightId, Failed> {
        let loc = self.here();
        let name = self.symbol("a weight")?;
        match self.weights.get(&name) {
            Some(Some(id)) => Ok(*id),
            Some(None) => Err(Failed),
            None => self.fail_at(&loc, format!("no weight @{} is declared above", clip(&name))),
        }
    }

    /// `llm.return %a, %b` and the function's closing brace.
    fn results(&mut self) -> Result<(), Failed> {
        self.word("llm.return")?;
        self.items('}', |p| {
            let value = p.used()?;
            p.module.func.results.push(value);
            Ok(())
        })
    }

    /// `%a, %b = llm.name %x, @w {attr = 1} : type, type kernel(...) at(...) loc(...)`
    fn op(&mut self) -> Result<(), Failed> {
        let mut loc = self.here();
        let mut names = Vec::new();
        if matches!(self.peek(), Tok::Value(_)) {
            loop {
                names.push(self.new_name()?.1);
                if !self.eat(',') {
                    break;
                }
            }
            self.punct('=')?;
        }
        let at = self.here();
        let word = self.any_word("an op's name")?;
        let name = word.strip_prefix("llm.").unwrap_or_default();
        let Some(allowed) = Op::attrs_of(name) else {
            let known: Vec<_> = Op::NAMES.iter().map(|n| format!("llm.{n}")).collect();
            let help = format!("the ops are {}", known.join(", "));
            self.diags.push(Diag::user(&at, format!("there is no op '{}'", clip(word))).help(help));
            return Err(Failed);
        };
        let parts = self.parts(name, allowed)?;
        let mut types = Vec::new();
        if self.eat(':') {
            loop {
                types.push(self.ty()?);
                if !self.eat(',') {
                    break;
                }
            }
        }
        let (mut kernels, mut offsets, mut seen) = (Vec::new(), None, Vec::new());
        while let Tok::Word(part @ ("kernel" | "at" | "loc")) = *self.peek() {
            if seen.contains(&part) {
                return self.fail(format!("'{part}' is given twice"));
            }
            seen.push(part);
            self.bump();
            match part {
                "kernel" => kernels = self.kernels()?,
                "at" => offsets = Some(self.offsets()?),
                _ => loc = self.loc()?,
            }
        }
        let offsets = offsets.unwrap_or_else(|| vec![None; names.len()]);
        if types.len() != names.len() || offsets.len() != names.len() {
            let counts = format!("{} names, {} types and {} offsets", names.len(), types.len(), offsets.len());
            return self.fail_at(&at, format!("llm.{name} has {counts} for its results"));
        }
        let op = match Op::from_parts(name, parts) {
            Some(Ok(op)) => op,
            Some(Err(message)) => return self.fail_at(&at, message),
            None => return Err(Failed),
        };
        let id = self.module.func.ops.push(OpData { op, results: Vec::new(), loc, kernels });
        self.module.func.order.push(id);
        let all = names.into_iter().zip(types).zip(offsets).enumerate();
        let results = all.map(|(i, ((name, ty), offset))| self.define(name, ty, Def::Op(id, i as u32), offset));
        self.module.func.ops[id].results = results.collect();
        Ok(())
    }

    /// Operands, weights and attributes of an op.
    fn parts(&mut self, op: &str, allowed: &'static [&'static str]) -> Result<Parts, Failed> {
        let mut parts = Parts::default();
        if matches!(self.peek(), Tok::Value(_) | Tok::Symbol(_)) {
            loop {
                match self.peek() {
                    Tok::Value(_) => parts.operands.push(self.used()?),
                    Tok::Symbol(_) => parts.weights.push(self.used_weight()?),
                    _ => return self.expected("a value or a weight"),
                }
                if !self.eat(',') {
                    break;
                }
            }
        }
        if self.eat('{') {
            self.items('}', |p| {
                let at = p.here();
                let key = p.any_word("an attribute's name")?;
                let Some(&name) = allowed.iter().find(|a| **a == key) else {
                    let known = if allowed.is_empty() { "none".into() } else { allowed.join(", ") };
                    let message = format!("llm.{op} has no attribute '{}'; it has {known}", clip(key));
                    return p.fail_at(&at, message);
                };
                if parts.attrs.iter().any(|(n, _)| *n == name) {
                    return p.fail_at(&at, format!("the attribute '{name}' is given twice"));
                }
                p.punct('=')?;
                let value = p.attr()?;
                parts.attrs.push((name, value));
                Ok(())
            })?;
        }
        Ok(parts)
    }

    fn attr(&mut self) -> Result<Attr, Failed> {
        match self.peek() {
            Tok::Symbol(_) => Ok(Attr::Weight(self.used_weight()?)),
            Tok::Word(_) => {
                let word = self.any_word("a value")?;
                let (sign, digits) = word.strip_prefix('-').map_or(("", word), |rest| ("-", rest));
                if let Some(n) = integer(digits).and_then(|n| format!("{sign}{n}").parse().ok()) {
                    return Ok(Attr::Int(n));
                }
                // The words `nan` and `inf` in any case are numbers to Rust, and no attribute's words.
                Ok(word.parse().map_or_else(|_| Attr::Word(word.to_owned()), Attr::F32))
            }
            _ => self.expected("an attribute's value"),
        }
    }

    /// `("1..16" = @k1, ...)`
    fn kernels(&mut self) -> Result<Vec<KernelChoice>, Failed> {
        let mut out = Vec::new();
        self.punct('(')?;
        self.items(')', |p| {
            let at = p.here();
            let range = p.string("token counts such as \"1..16\"")?;
            let Some((from, to)) = range.split_once("..").and_then(|(a, b)| Some((integer(a)?, integer(b)?))) else {
                return p.fail_at(&at, format!("{:?} is not a range such as \"1..16\"", clip(&range)));
            };
            p.punct('=')?;
            let kernel = p.symbol("the kernel's @name")?;
            out.push(KernelChoice { from, to, kernel });
            Ok(())
        })?;
        Ok(out)
    }

    /// `(0x100, _)`
    fn offsets(&mut self) -> Result<Vec<Option<u64>>, Failed> {
        let mut out = Vec::new();
        self.punct('(')?;
        self.items(')', |p| {
            if *p.peek() == Tok::Word("_") {
                p.bump();
                out.push(None);
            } else {
                out.push(Some(p.u64("an offset")?));
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// `("name")`, `("path":1:2)`, `(fused["a", "b"])`, `(unknown)`
    fn loc(&mut self) -> Result<Loc, Failed> {
        self.punct('(')?;
        let loc = match *self.peek() {
            Tok::Word("unknown") => {
                self.bump();
                Loc::Unknown
            }
            Tok::Word("fused") => {
                self.bump();
                self.punct('[')?;
                let mut parts = Vec::new();
                self.items(']', |p| {
                    parts.push(p.single_loc()?);
                    Ok(())
                })?;
                Loc::Fused(parts)
            }
            _ => self.single_loc()?,
        };
        self.punct(')')?;
        Ok(loc)
    }

    fn single_loc(&mut self) -> Result<Loc, Failed> {
        let text = self.string("a location: \"name\", \"path\":1:2, fused[...] or unknown")?;
        if !self.eat(':') {
            return Ok(Loc::Name(text));
        }
        let line = self.u32("the line")?;
        self.punct(':')?;
        Ok(Loc::File { path: text, line, col: self.u32("the column")? })
    }
}
