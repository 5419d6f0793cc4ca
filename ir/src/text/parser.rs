//! The state of a parse: the next token, what has been defined, what was found wrong; and the small steps that the
//! grammar is made of.

use super::lexer::{Lexer, Tok, Token};
use crate::diag::Diag;
use crate::entity::{ValueId, WeightId};
use crate::loc::Loc;
use crate::module::Module;
use std::collections::HashMap;

/// Errors after which parsing stops.
pub(super) const MAX_ERRORS: usize = 100;

/// The error has been recorded, or follows from one that has.
pub(super) struct Failed;

pub(super) struct Parser<'s> {
    pub(super) lexer: Lexer<'s>,
    /// The token that is next.
    pub(super) token: Token<'s>,
    /// Where the token before it begins.
    pub(super) taken: (u32, u32),
    /// Tokens taken so far, and how many those were where the statement began.
    pub(super) consumed: u64,
    pub(super) statement: u64,
    pub(super) path: &'s str,
    pub(super) diags: Vec<Diag>,
    pub(super) module: Module,
    /// What has been defined; `None` by a statement in error.
    pub(super) values: HashMap<String, Option<ValueId>>,
    pub(super) weights: HashMap<String, Option<WeightId>>,
}

// Tokens.
impl<'s> Parser<'s> {
    pub(super) fn new(source: &'s str, path: &'s str) -> Parser<'s> {
        Parser {
            lexer: Lexer::new(source, path),
            token: Token { tok: Tok::End, line: 1, col: 1 },
            taken: (0, 0),
            consumed: 0,
            statement: 0,
            path,
            diags: Vec::new(),
            module: Module::default(),
            values: HashMap::new(),
            weights: HashMap::new(),
        }
    }

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
        self.taken = (self.token.line, self.token.col);
        self.consumed += 1;
        std::mem::replace(&mut self.token, next).tok
    }

    pub(super) fn here(&self) -> Loc {
        Loc::File { path: self.path.to_owned(), line: self.token.line, col: self.token.col }
    }

    /// Records an error at the next token.
    pub(super) fn fail<T>(&mut self, message: impl Into<String>) -> Result<T, Failed> {
        let loc = self.here();
        self.fail_at(&loc, message)
    }

    /// Records an error at the token that was taken last.
    pub(super) fn fail_taken<T>(&mut self, message: impl Into<String>) -> Result<T, Failed> {
        let loc = Loc::File { path: self.path.to_owned(), line: self.taken.0, col: self.taken.1 };
        self.fail_at(&loc, message)
    }

    pub(super) fn fail_at<T>(&mut self, loc: &Loc, message: impl Into<String>) -> Result<T, Failed> {
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

    pub(super) fn string(&mut self, what: &str) -> Result<String, Failed> {
        if matches!(self.peek(), Tok::Str(_))
            && let Tok::Str(s) = self.bump()
        {
            return Ok(s);
        }
        self.expected(what)
    }

    pub(super) fn symbol(&mut self, what: &str) -> Result<String, Failed> {
        if matches!(self.peek(), Tok::Symbol(_))
            && let Tok::Symbol(s) = self.bump()
        {
            return Ok(s);
        }
        self.expected(what)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Failed> {
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
        let n = self.u64(what)?;
        u32::try_from(n).or_else(|_| self.fail_taken(format!("{n} is too large for {what}")))
    }

    pub(super) fn f64(&mut self, what: &str) -> Result<f64, Failed> {
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
    pub(super) fn items(
        &mut self,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
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
    pub(super) fn recover(&mut self) {
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
            if starts && self.token.line > self.taken.0 {
                return;
            }
            self.bump();
        }
    }
}

/// A decimal or `0x` hexadecimal integer.
pub(super) fn integer(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}
