//! Parses the text form. Recursive descent without recursion: nothing nests, so no input can exhaust the stack, and
//! memory stays within a small factor of the input.
//!
//! Errors are collected with their places; after one, parsing goes on at the next line that begins a statement.
//! What a statement in error would have defined counts as defined, so that one mistake is reported once.

use super::lexer::{Tok, clip};
use super::parser::{Failed, MAX_ERRORS, Parser, integer};
use crate::diag::Diag;
use crate::entity::{ValueId, WeightId};
use crate::loc::Loc;
use crate::module::{Def, Module, Packing, RopeFreqs, RopeScaling, Source, TensorRef, Value, Weight};
use crate::types::{Sym, Type};

/// Longest text that is read, bytes.
const MAX_SOURCE: usize = 256 << 20;

/// Parses a module. `path` is for locations. The result is not verified.
pub fn parse(source: &str, path: &str) -> Result<Module, Vec<Diag>> {
    if source.len() > MAX_SOURCE {
        let message =
            format!("the text has {} bytes, more than the {MAX_SOURCE} that are read", source.len());
        return Err(vec![Diag::user(&Loc::File { path: path.to_owned(), line: 1, col: 1 }, message)]);
    }
    let mut parser = Parser::new(source, path);
    parser.bump();
    parser.file();
    if parser.diags.is_empty() { Ok(parser.module) } else { Err(parser.diags) }
}

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
            let part = self.any_word("arch, target, precision, deterministic, dims, arena or '{'")?;
            if part == "deterministic" {
                if std::mem::replace(&mut self.module.deterministic, true) {
                    return self.fail_at(&loc, "'deterministic' is given twice");
                }
                continue;
            }
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
        let Some((min, max)) = range else {
            return self.expected("bounds such as 1..512");
        };
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
                    return self.fail_taken(format!(
                        "there is no packing '{}'; there are {}",
                        clip(name),
                        known.join(", ")
                    ));
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
                other => return self.fail_taken(format!("'{}' is not one of linear, llama3", clip(other))),
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
        let [offset] = offsets[..] else {
            return self.fail_at(&loc, "a parameter has one offset");
        };
        let def = Def::Param(self.module.func.params.len() as u32);
        let id = self.define(name, ty, def, offset);
        self.module.func.params.push(id);
        Ok(())
    }

    /// A name that is about to be defined; until it is, it counts as in error.
    pub(super) fn new_name(&mut self) -> Result<(Loc, String), Failed> {
        let loc = self.here();
        let Tok::Value(_) = self.peek() else {
            return self.expected("a value's %name");
        };
        let Tok::Value(name) = self.bump() else {
            return Err(Failed);
        };
        if self.values.insert(name.clone(), None).is_some() {
            return self.fail_at(&loc, format!("there is another value %{}", clip(&name)));
        }
        Ok((loc, name))
    }

    pub(super) fn define(&mut self, name: String, ty: Type, def: Def, offset: Option<u64>) -> ValueId {
        let id = self.module.func.values.push(Value { name: name.clone(), ty, def, offset });
        self.values.insert(name, Some(id));
        id
    }

    /// A value that is read.
    pub(super) fn used(&mut self) -> Result<ValueId, Failed> {
        let loc = self.here();
        let Tok::Value(_) = self.peek() else {
            return self.expected("a value");
        };
        let Tok::Value(name) = self.bump() else {
            return Err(Failed);
        };
        match self.values.get(&name) {
            Some(Some(id)) => Ok(*id),
            Some(None) => Err(Failed),
            None => self.fail_at(&loc, format!("%{} is not defined before this use", clip(&name))),
        }
    }

    /// A weight that is read.
    pub(super) fn used_weight(&mut self) -> Result<WeightId, Failed> {
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
}
