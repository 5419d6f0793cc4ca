//! The text form of a module: what every dump prints and every file test reads. It round-trips.
//!
//! ```text
//! llm.module @name arch("llama") target("sm_90") precision("bf16") dims(T in 1..512, L in 1..64) arena(123456) {
//!   llm.weight @l0.attn.q : tensor<4096x4096xbf16> packed(panel16) from ["model.layers.0.q" interleaved 8, "b"]
//!   llm.weight @rope : tensor<32xf32> from rope<64, 10000, llama3 8 1 4 8192>
//!   llm.func @forward(%x: tensor<Tx4096xbf16>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 8 heads, 128, bf16, page 32>) {
//!     %n = llm.rms_norm %x, @l0.attn.norm {eps = 1e-5} : tensor<Tx4096xbf16> kernel("1..512" = @k1) at(0x100) loc("model.norm")
//!     llm.return %n
//!   }
//! }
//! ```
//!
//! * Parts that are not set are left out. Values are defined before they are used, weights before the function.
//! * An op lists values, then weights, then attributes; an attribute that names a weight is written `bias = @b`.
//! * `at` has one offset for each result, `_` for one without. Integers are decimal or `0x` hexadecimal.
//! * `kernel` has for each range of token counts a kernel, with the kind of steps if it serves one alone, and with the
//!   operand whose maker it computes too: `"1..512" decode with %q = @k2`.
//! * A name of other characters than letters, digits and `_ . $ -` is quoted: `@"a b"`. `//` begins a comment.
//! * Locations are printed on request, then on every op. An op without one gets its place in the file.
//!
//! [`print_generic`] prints what MLIR's own tools read; it is not read back.

mod generic;
mod lexer;
mod parse;
mod parse_op;
mod parser;
mod print;
mod types;

pub use generic::print_generic;
pub use parse::parse;
pub use print::{PrintOptions, print};

/// True if a name needs no quotes.
fn is_bare(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.$-".contains(&b))
}

/// A floating-point number in the shortest form that reads back to the same f64, without a needless `.0`.
fn shortest(x: f64) -> String {
    let text = format!("{x:?}");
    match text.strip_suffix(".0") {
        Some(whole) if whole != "-0" => whole.to_owned(),
        _ => text,
    }
}
