//! Words, numbers and signs of PTX, each with its line; comments are dropped.

use super::Malformed;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// An identifier, directive or opcode: letters, digits, `_ $ % .`, and `::` within.
    Word(String),
    /// An integer, or the bits of a float of 32 bits.
    Int(i128),
    /// The bits of a float of 64 bits.
    Double(u64),
    /// Text in quotes.
    Text(String),
    /// Any other character.
    Sign(char),
}

fn in_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// The tokens of a text with their lines.
pub fn tokens(text: &str) -> Result<Vec<(Token, u32)>, Malformed> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    let mut out = Vec::new();
    while let Some(&c) = bytes.get(at) {
        let rest = &bytes[at..];
        if c == b'\n' {
            line += 1;
            at += 1;
        } else if c.is_ascii_whitespace() {
            at += 1;
        } else if rest.starts_with(b"//") {
            at += rest.iter().position(|&c| c == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            let end = rest.windows(2).position(|w| w == b"*/").map_or(rest.len(), |p| p + 2);
            line += rest[..end].iter().filter(|&&c| c == b'\n').count() as u32;
            at += end;
        } else if c == b'"' {
            let end = rest[1..].iter().position(|&c| c == b'"');
            let end = end.ok_or_else(|| Malformed { line, what: "a text has no end".to_owned() })?;
            out.push((Token::Text(String::from_utf8_lossy(&rest[1..=end]).into_owned()), line));
            at += end + 2;
        } else if c.is_ascii_digit() {
            let len = rest.iter().position(|c| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            // `.version 8.7`, and floats in hand-written code.
            let len = match (rest.get(len), rest.get(len + 1)) {
                (Some(b'.'), Some(d)) if d.is_ascii_digit() => {
                    len + 1 + rest[len + 1..].iter().position(|c| !c.is_ascii_digit()).unwrap_or(0)
                }
                _ => len,
            };
            let word = String::from_utf8_lossy(&rest[..len]).into_owned();
            let token = number(&word)
                .ok_or_else(|| Malformed { line, what: format!("{word:?} is not a number of PTX") })?;
            out.push((token, line));
            at += len;
        } else if in_word(c) {
            let mut len = 1;
            while let Some(&c) = rest.get(len) {
                if in_word(c) {
                    len += 1;
                } else if rest[len..].starts_with(b"::") {
                    len += 2;
                } else {
                    break;
                }
            }
            let word = String::from_utf8_lossy(&rest[..len]).into_owned();
            let token = if word == "_" { Token::Sign('_') } else { Token::Word(word) };
            out.push((token, line));
            at += len;
        } else if c.is_ascii() {
            out.push((Token::Sign(char::from(c)), line));
            at += 1;
        } else {
            return Err(Malformed { line, what: "a character that is not ASCII".to_owned() });
        }
    }
    Ok(out)
}

/// `12`, `0x1f`, `0b101`, `017`, `0f3F800000`, `0d3FF0000000000000`, with or without `U`; `8.7`.
fn number(word: &str) -> Option<Token> {
    let lower = word.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f").filter(|h| h.len() == 8) {
        return u32::from_str_radix(hex, 16).ok().map(|b| Token::Int(i128::from(b)));
    }
    if let Some(hex) = lower.strip_prefix("0d").filter(|h| h.len() == 16) {
        return u64::from_str_radix(hex, 16).ok().map(Token::Double);
    }
    if lower.contains('.') {
        return lower.parse::<f64>().ok().map(|x| Token::Double(x.to_bits()));
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(bits) = digits.strip_prefix("0b") {
        u64::from_str_radix(bits, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    value.ok().map(|v| Token::Int(i128::from(v)))
}
