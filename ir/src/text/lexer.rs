//! Tokens with their places. Lazy: memory does not grow with the input.
//!
//! A word is a run of letters, digits and `_ . $ - +`, and may begin with `!`; numbers, shapes and ranges are words
//! that the parser takes apart. Newlines are white space, but tokens know their line.

use crate::diag::Diag;
use crate::loc::Loc;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tok<'s> {
    /// `tensor`, `1e-5`, `Tx4096xbf16`, `!llm.kv`
    Word(&'s str),
    /// `%name`
    Value(String),
    /// `@name`
    Symbol(String),
    /// `"text"`
    Str(String),
    /// One of `( ) { } [ ] < > , : =`
    Punct(char),
    /// The end of the input.
    End,
}

impl Tok<'_> {
    /// How an error names it.
    pub(super) fn describe(&self) -> String {
        match self {
            Tok::Word(w) => format!("'{}'", clip(w)),
            Tok::Value(n) => format!("%{}", clip(n)),
            Tok::Symbol(n) => format!("@{}", clip(n)),
            Tok::Str(s) => format!("{:?}", clip(s)),
            Tok::Punct(c) => format!("'{c}'"),
            Tok::End => "the end of the file".to_owned(),
        }
    }
}

/// Enough of a text to recognise it in an error.
pub(super) fn clip(text: &str) -> String {
    if text.chars().count() <= 60 {
        return text.to_owned();
    }
    text.chars().take(60).chain("...".chars()).collect()
}

/// A token and where it begins; both from 1, columns in characters.
#[derive(Clone, Debug)]
pub(super) struct Token<'s> {
    pub(super) tok: Tok<'s>,
    pub(super) line: u32,
    pub(super) col: u32,
}

/// The rest of the input.
pub(super) struct Lexer<'s> {
    rest: &'s str,
    path: &'s str,
    line: u32,
    col: u32,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.$-+".contains(c)
}

impl<'s> Lexer<'s> {
    pub(super) fn new(source: &'s str, path: &'s str) -> Lexer<'s> {
        Lexer { rest: source, path, line: 1, col: 1 }
    }

    fn advance(&mut self, bytes: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(bytes);
        for c in taken.chars() {
            if c == '\n' {
                self.line = self.line.saturating_add(1);
                self.col = 1;
            } else {
                self.col = self.col.saturating_add(1);
            }
        }
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'s str {
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        self.advance(end)
    }

    fn error(&self, line: u32, col: u32, message: String) -> Diag {
        Diag::user(&Loc::File { path: self.path.to_owned(), line, col }, message)
    }

    /// The next token. After an error, the token after what was wrong comes next.
    pub(super) fn next(&mut self) -> Result<Token<'s>, Diag> {
        loop {
            self.take_while(char::is_whitespace);
            if !self.rest.starts_with("//") {
                break;
            }
            self.take_while(|c| c != '\n');
        }
        let (line, col) = (self.line, self.col);
        let token = |tok| Ok(Token { tok, line, col });
        let Some(c) = self.rest.chars().next() else {
            return token(Tok::End);
        };
        match c {
            '(' | ')' | '{' | '}' | '[' | ']' | '<' | '>' | ',' | ':' | '=' => {
                self.advance(1);
                token(Tok::Punct(c))
            }
            '"' => {
                let text = self.string()?;
                token(Tok::Str(text))
            }
            '%' | '@' => {
                self.advance(1);
                let name = if self.rest.starts_with('"') {
                    self.string()?
                } else {
                    match self.take_while(is_word) {
                        "" => return Err(self.error(line, col, format!("'{c}' without a name after it"))),
                        name => name.to_owned(),
                    }
                };
                token(if c == '%' { Tok::Value(name) } else { Tok::Symbol(name) })
            }
            '!' => {
                let word = self.rest.char_indices().skip(1).find(|(_, c)| !is_word(*c));
                let end = word.map_or(self.rest.len(), |(at, _)| at);
                token(Tok::Word(self.advance(end)))
            }
            c if is_word(c) => token(Tok::Word(self.take_while(is_word))),
            c => {
                self.advance(c.len_utf8());
                Err(self.error(line, col, format!("the character {c:?} has no meaning here")))
            }
        }
    }

    /// A quoted text on one line, with the escapes that printing makes.
    fn string(&mut self) -> Result<String, Diag> {
        let (line, col) = (self.line, self.col);
        self.advance(1);
        let mut out = String::new();
        loop {
            out.push_str(self.take_while(|c| c != '"' && c != '\\' && c != '\n'));
            match self.rest.chars().next() {
                Some('"') => {
                    self.advance(1);
                    return Ok(out);
                }
                Some('\\') => {
                    let (line, col) = (self.line, self.col);
                    match self.escape() {
                        Some(c) => out.push(c),
                        None => {
                            return Err(self.error(line, col, "there is no such escape in a text".into()));
                        }
                    }
                }
                _ => return Err(self.error(line, col, "the text is not closed on its line".into())),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        self.advance(1);
        let c = self.rest.chars().next()?;
        let plain = match c {
            '"' | '\\' | '\'' => c,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '0' => '\0',
            'u' => {
                let digits = self.rest.strip_prefix("u{")?;
                let end = digits.find('}').filter(|&n| n <= 6)?;
                let c = char::from_u32(u32::from_str_radix(&digits[..end], 16).ok()?)?;
                self.advance(end + 3);
                return Some(c);
            }
            _ => return None,
        };
        self.advance(1);
        Some(plain)
    }
}
