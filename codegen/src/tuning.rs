//! Tuning: which of a product's kernels was measured to be the fastest, for shapes that were measured.
//!
//! A kernel has a name, which says what it computes and for how many rows. Where it can be made in several ways, a
//! [`Variant`] behind the name says how: `sm_90.linear.n6144.k4096....to512.128x192c2x1`. A name without one is made as a model
//! of the chip proposes (`kernels/wgmma_matmul/tilings.rs`). A [`Tuning`] gives variants to names; the one that was
//! measured for a target is part of the compiler, and every build uses it. `trtc tune` makes one.

use crate::kernels::Recipe;
pub(crate) mod kernels;

pub use kernels::{candidates, tune};

use crate::kernels::narrow_matmul::NarrowMatmul;
use crate::kernels::operands::{Order, Product};
use crate::kernels::stream_matmul::StreamMatmul;
use crate::kernels::wgmma_matmul::{self, WgmmaMatmul};
use crate::products::streaming;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use trtc_ir::{Diag, Loc};

/// What was measured, by target.
const BUILT_IN: [(&str, &str); 1] = [("sm_90", include_str!("tuning/sm_90.txt"))];

/// Variants are proposed that the model of the chip takes to be at most this much slower than its best.
const WITHIN: f64 = 1.5;

/// How a product is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// By [`NarrowMatmul`], or [`StreamMatmul`] where that does not serve. Text form: `stream`.
    Stream,
    /// By [`WgmmaMatmul`]. Text form: `128x192`, with a cluster of several blocks `128x192c2x1`, with K shared out `128x64s2`; turned
    /// `200x128t`, `200x128tc2x1`.
    Tile {
        /// Rows and columns of y of a block.
        tile: [u32; 2],
        /// Whether weights are the first operand.
        turned: bool,
        /// Tiles of a cluster along M and N.
        cluster: [u32; 2],
        /// Blocks that share out K.
        splits: u32,
    },
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Variant::Tile { tile: [bm, bn], turned, cluster: [along_m, along_n], splits } = *self else {
            return f.write_str("stream");
        };
        write!(f, "{bm}x{bn}{}", if turned { "t" } else { "" })?;
        if [along_m, along_n] != [1, 1] {
            write!(f, "c{along_m}x{along_n}")?;
        }
        if splits != 1 {
            write!(f, "s{splits}")?;
        }
        Ok(())
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Variant, String> {
        if text == "stream" {
            return Ok(Variant::Stream);
        }
        let wrong = || {
            format!(
                "'{text}' is no variant: stream, or a tile such as 128x192, 128x192c2x1, 128x64s2, 200x128t"
            )
        };
        let number =
            |text: &str, most| text.parse().ok().filter(|n| (1..=most).contains(n)).ok_or_else(wrong);
        let pair = |text: &str, most: u32| -> Result<[u32; 2], String> {
            let (a, b) = text.split_once('x').ok_or_else(wrong)?;
            Ok([number(a, most)?, number(b, most)?])
        };
        let (rest, splits) = text.split_once('s').unwrap_or((text, "1"));
        let (tile, cluster) = rest.split_once('c').unwrap_or((rest, "1x1"));
        let (tile, turned) = tile.strip_suffix('t').map_or((tile, false), |tile| (tile, true));
        let (tile, cluster, splits) = (pair(tile, 256)?, pair(cluster, 8)?, number(splits, 8)?);
        Ok(Variant::Tile { tile, turned, cluster, splits })
    }
}

/// The product that a kernel computes, and its order of sums, if it can be made in several ways.
fn product(recipe: &Recipe) -> Option<(Product, Order)> {
    match recipe {
        Recipe::StreamMatmul(StreamMatmul { of, order, .. }) => Some((*of, *order)),
        Recipe::NarrowMatmul(NarrowMatmul { of, order, tokens: 2.., .. }) => Some((*of, *order)),
        Recipe::WgmmaMatmul(WgmmaMatmul { of, order, .. }) => Some((*of, *order)),
        _ => None,
    }
}

impl Variant {
    fn tile(t: &wgmma_matmul::Tiling) -> Variant {
        Variant::Tile { tile: [t.bm, t.bn], turned: t.turned, cluster: t.cluster, splits: t.splits }
    }

    /// The variant that a kernel is; `None` for one that is made in one way only.
    pub fn of(recipe: &Recipe) -> Option<Variant> {
        match recipe {
            Recipe::StreamMatmul(_) | Recipe::NarrowMatmul(NarrowMatmul { tokens: 2.., .. }) => {
                Some(Variant::Stream)
            }
            Recipe::WgmmaMatmul(kernel) => Some(Variant::tile(&kernel.tiling)),
            _ => None,
        }
    }

    /// The kernel that computes what `recipe` does in this way, for up to `rows` rows, or why there is none.
    pub fn make(self, recipe: &Recipe, rows: u64) -> Result<Recipe, String> {
        let (of, order) = product(recipe).ok_or("it is made in one way only")?;
        let made: Recipe = match self {
            Variant::Stream => {
                let tokens = [8, 16, 32, 64].into_iter().find(|&tokens| rows <= u64::from(tokens));
                let tokens =
                    tokens.ok_or_else(|| format!("weights are streamed to 64 rows, not to {rows}"))?;
                streaming(of, tokens, order)
            }
            Variant::Tile { tile, turned, cluster, splits } => {
                let tiling = wgmma_matmul::Tiling::with(tile, turned, cluster, splits);
                let tiling = tiling.ok_or_else(|| format!("no kernel has the tiling {self}"))?;
                let grid = wgmma_matmul::grid(&tiling, rows, of.n);
                WgmmaMatmul { of, tiling, grid, order }.into()
            }
        };
        made.unsupported().map_or(Ok(made), Err)
    }

    /// The ways that are worth measuring to compute what `recipe` does for up to `rows` rows: that which it is first, then those
    /// that the model of the chip takes to be fast.
    pub fn candidates(recipe: &Recipe, rows: u64, most: usize) -> Vec<Variant> {
        let (Some(own), Some((of, order))) = (Variant::of(recipe), product(recipe)) else {
            return Vec::new();
        };
        let mut all = vec![own];
        let tilings = wgmma_matmul::fastest(rows, &of, order, WITHIN);
        let tiles = tilings.iter().map(Variant::tile);
        for variant in [Variant::Stream].into_iter().chain(tiles) {
            if !all.contains(&variant) && variant.make(recipe, rows).is_ok() {
                all.push(variant);
            }
        }
        all.truncate(most);
        all
    }
}

/// Variants of kernels by name.
///
/// Text form: a line each, the kernel's name without variant, the variant, and whatever was measured, which is for people. Lines that begin
/// with `#` are comments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning(BTreeMap<String, Variant>);

impl Tuning {
    /// What was measured for a target; nothing for most.
    pub fn built_in(target: &str) -> Result<Tuning, Diag> {
        let text = BUILT_IN.iter().find(|(name, _)| *name == target).map_or("", |(_, text)| text);
        Tuning::parse(&format!("the tuning of {target}"), text)
    }

    /// Reads the text form; `source` is what errors call it.
    pub fn parse(source: &str, text: &str) -> Result<Tuning, Diag> {
        let mut all = Tuning::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: String| {
                Diag::user(&Loc::name(format!("{source}:{}", i + 1)), what)
                    .help("a line is a kernel's name, a variant, and notes: sm_90.linear.n64.k64.to8 stream")
            };
            let mut words = line.split_whitespace();
            let (Some(name), Some(variant)) = (words.next(), words.next()) else {
                return Err(wrong(format!("'{line}' has no variant")));
            };
            let variant = variant.parse().map_err(wrong)?;
            if all.set(name, variant).is_some() {
                return Err(wrong(format!("{name} is there twice")));
            }
        }
        Ok(all)
    }

    /// The variant of a kernel. What was measured for tokens holds for as many rows of logits, unless those were too.
    pub fn get(&self, name: &str) -> Option<Variant> {
        self.0.get(name).or_else(|| self.0.get(&of_tokens(name)?)).copied()
    }

    /// Gives a kernel a variant; the one that it had.
    pub fn set(&mut self, name: &str, variant: Variant) -> Option<Variant> {
        self.0.insert(name.to_owned(), variant)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Variant)> {
        self.0.iter().map(|(name, variant)| (name.as_str(), *variant))
    }
}

/// The name of the kernel that does for tokens what one called `name` does for rows of logits.
pub(crate) fn of_tokens(name: &str) -> Option<String> {
    name.contains(".rows.").then(|| name.replace(".rows.", ".tokens."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Count;
    use crate::kernels::operands::Operands;
    use crate::kernels::quantize::Quantize;
    use trtc_ir::DType;
    use trtc_ir::ops::Act;

    #[test]
    fn variants_are_read_as_they_are_written() {
        for text in
            ["stream", "128x192", "64x256c2x1", "128x64s2", "128x64c1x2s2", "200x128t", "136x256tc2x1s2"]
        {
            assert_eq!(text.parse::<Variant>().map(|v| v.to_string()).as_deref(), Ok(text));
        }
        for text in [
            "",
            "x",
            "128",
            "128x",
            "0x8",
            "128x8c2",
            "128tx8",
            "t",
            "128x8s",
            "128x8s0",
            "128x99999",
            "8x8s2c2x1",
            "é",
        ] {
            assert!(text.parse::<Variant>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_tuning_is_read_line_by_line_and_its_errors_say_where() {
        let tuning = Tuning::parse("t", "# measured\n\na.to8 stream 8.1 us\nb.to512\t128x192c2x1\n").unwrap();
        let all: Vec<String> = tuning.iter().map(|(name, v)| format!("{name} {v}")).collect();
        assert_eq!(all, ["a.to8 stream", "b.to512 128x192c2x1"]);
        let tuning =
            Tuning::parse("t", "l.tokens.to8 stream\nm.rows.to8 64x64\nm.tokens.to8 stream").unwrap();
        let of = |name| tuning.get(name).map(|variant| variant.to_string());
        assert_eq!(of("l.rows.to8").as_deref(), Some("stream"));
        assert_eq!(of("m.rows.to8").as_deref(), Some("64x64"));
        assert_eq!([of("l.to8"), of("m.rows.to16")], [None, None]);
        for (text, part) in
            [("a", "'a' has no variant"), ("a b", "'b' is no variant"), ("a stream\na stream", "twice")]
        {
            let error = Tuning::parse("t", text).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("t:"), "{error}");
        }
    }

    #[test]
    fn every_candidate_can_be_made_and_is_what_it_is_called() {
        let of = Product {
            n: 28672,
            k: 4096,
            operands: Operands::E4m3,
            rows: Count::Tokens,
            bias: None,
            residual: None,
            out: DType::Bf16,
            gate: Some(Act::Silu),
            append: None,
        };
        for order in [Order::Free, Order::Shares(2)] {
            for rows in [8, 64, 512, 8192] {
                let (tiling, grid) = wgmma_matmul::choose(rows, &of, order);
                let recipe = WgmmaMatmul { of, tiling, grid, order }.into();
                let all = Variant::candidates(&recipe, rows, 8);
                assert_eq!(all.first().copied(), Variant::of(&recipe));
                assert!((2..=8).contains(&all.len()), "{rows} {order:?}: {all:?}");
                assert_eq!(all.contains(&Variant::Stream), rows <= 64, "{rows} {order:?}: {all:?}");
                for variant in all {
                    assert_eq!(
                        variant.make(&recipe, rows).ok().as_ref().and_then(Variant::of),
                        Some(variant)
                    );
                }
            }
        }
        assert!(
            Variant::Stream
                .make(&Quantize { width: 8, rows: Count::Tokens, x: DType::Bf16 }.into(), 8)
                .is_err()
        );
    }

    #[test]
    fn what_is_built_in_can_be_read() {
        for (target, _) in BUILT_IN {
            assert!(Tuning::built_in(target).is_ok(), "{target}");
        }
        assert_eq!(Tuning::built_in("sm_80"), Ok(Tuning::default()));
    }
}
