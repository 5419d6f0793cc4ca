//! Which request each token of a step belongs to, and which pages it has: the step's tables, checked.

use super::cache::Geometry;
use crate::error::Error;
use std::ops::Range;

/// One request's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its tokens among the step's.
    pub tokens: Range<usize>,
    /// Position of its first token.
    pub start: usize,
}

/// The step's requests.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    query_start: &'a [i32],
    context: &'a [i32],
    table: &'a [i32],
    width: usize,
}

impl<'a> Batch<'a> {
    /// Checks the tables of a step of `tokens` tokens for a cache: every page that this step's tokens see or are
    /// stored in exists.
    pub fn new(
        tokens: usize,
        query_start: &'a [i32],
        context: &'a [i32],
        table: &'a [i32],
        width: usize,
        cache: &Geometry,
    ) -> Result<Batch<'a>, Error> {
        let batch = Batch { query_start, context, table, width };
        let bad = |what: String| Err(Error::bug(format!("the step's tables are wrong: {what}")));
        let ends = (query_start.first().copied(), query_start.last().copied());
        if ends != (Some(0), i32::try_from(tokens).ok()) || query_start.len() != context.len() + 1 {
            return bad(format!("query_start {ends:?} does not span the {tokens} tokens"));
        }
        for (s, run) in query_start.windows(2).enumerate() {
            if run[0] > run[1] || context[s] < run[1] - run[0] {
                return bad(format!("request {s} has tokens {run:?} and a context of {}", context[s]));
            }
            let Segment { tokens, start } = batch.segment(s);
            let end = start + tokens.len();
            if end > width * cache.page_tokens {
                return bad(format!("request {s} has {end} tokens, its table {width} pages"));
            }
            if tokens.is_empty() {
                continue;
            }
            for page in cache.first_seen(start) / cache.page_tokens..end.div_ceil(cache.page_tokens) {
                let id = table[s * width + page];
                if usize::try_from(id).is_ok_and(|id| id < cache.pages) {
                    continue;
                }
                return bad(format!("page {page} of request {s} is {id}, the cache has {}", cache.pages));
            }
        }
        Ok(batch)
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.context.len()
    }

    /// A request's tokens.
    pub fn segment(&self, s: usize) -> Segment {
        let tokens = self.query_start[s] as usize..self.query_start[s + 1] as usize;
        Segment { start: self.context[s] as usize - tokens.len(), tokens }
    }

    /// The page of a request that holds a position.
    pub fn page(&self, s: usize, position: usize, page_tokens: usize) -> usize {
        self.table[s * self.width + position / page_tokens] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_tables_are_refused() {
        let cache =
            Geometry { heads: 1, head_dim: 4, page_tokens: 4, window: Some(6), pages: 3, scaled: false };
        let check = |q: &[i32], c: &[i32], t: &[i32]| Batch::new(3, q, c, t, 2, &cache).map(|b| b.len());
        assert_eq!(check(&[0, 2, 3], &[2, 8], &[0, -1, 1, 2]), Ok(2));
        assert!(check(&[0, 2, 4], &[2, 8], &[0, -1, 1, 2]).is_err());
        assert!(check(&[1, 2, 3], &[2, 8], &[0, -1, 1, 2]).is_err());
        assert!(check(&[0, 4, 3], &[5, 8], &[0, 1, 1, 2]).is_err());
        assert!(check(&[0, 2, 3], &[1, 8], &[0, -1, 1, 2]).is_err());
        assert!(check(&[0, 2, 3], &[2, 9], &[0, -1, 1, 2]).is_err());
        assert!(check(&[0, 2, 3], &[2, 8], &[0, -1, 1, 3]).is_err());
        assert!(check(&[0, 2, 3], &[5, 8], &[0, -1, 1, 2]).is_err());
        assert!(check(&[0, 2, 3], &[-1, 8], &[0, -1, 1, 2]).is_err());
        assert!(check(&[], &[], &[]).is_err());
        // The window of the token at position 10 begins at 5: the first page is not needed any more.
        let wide = |t: &[i32]| Batch::new(1, &[0, 1], &[11], t, 3, &cache).is_ok();
        assert!(wide(&[-1, 0, 1]) && !wide(&[0, -1, 1]));
    }
}
