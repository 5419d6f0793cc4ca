//! Attention of a token's query heads over its request's pages, one block for a token and the query heads that share
//! a key/value head. Each token reads its context by itself, in f32: for what tiles on tensor cores do not serve.
//!
//! A warp's lanes form groups, each with a key of its own: a lane has eight elements of it, so that loads are 16 bytes.
//! A group keeps the softmax of its keys (greatest score, sum, weighted values) for all heads at once; the groups of
//! the block are merged at the end, in a fixed order.

use super::attention::{Attention, NONE, Paged};
use super::{Count, Extent, Launch, request_of};
use crate::builder::{Bf16, Builder, F32, GlobalPtr, I1, I32, SharedPtr, Special, Val};
use trtc_ir::DType;

/// Elements of a vector access.
const VEC: u32 = 8;
/// Warps of a block.
const WARPS: u32 = 4;
/// Most query heads of a block: their queries and sums are held in registers.
const HEADS: u32 = 8;

/// The kernel for these constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenAttention(pub Attention);

/// Eight elements of a lane.
type Part<'b> = [Val<'b, F32>; VEC as usize];
/// Greatest score, sum of weights, weighted values of a head.
type State<'b> = (Val<'b, F32>, Val<'b, F32>, Part<'b>);

/// The request of this block's token.
struct Request<'b> {
    /// Its pages.
    table: GlobalPtr<'b, I32>,
    /// Positions that are seen: from, to.
    seen: [Val<'b, I32>; 2],
}

impl TokenAttention {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let head_dim = self.0.head_dim;
        if head_dim == 0 || !head_dim.is_multiple_of(VEC) || head_dim > VEC * 32 {
            return Some(format!(
                "heads of {head_dim} elements are not multiples of {VEC} up to {}",
                VEC * 32
            ));
        }
        if self.0.kv != DType::Bf16 {
            return Some(format!("a cache of {}: only bf16 is served", self.0.kv));
        }
        self.0.unsupported()
    }

    /// Lanes that share a key.
    fn lanes(&self) -> u32 {
        (self.0.head_dim / VEC).next_power_of_two()
    }

    /// Query heads of a block: a divisor of those that share a key/value head.
    fn heads_of_block(&self) -> u32 {
        let group = self.0.group();
        (1..=HEADS.min(group)).rev().find(|&n| group.is_multiple_of(n)).unwrap_or(1)
    }

    /// Keys that the block works on at once.
    fn keys(&self) -> u32 {
        WARPS * 32 / self.lanes()
    }

    /// Geometry. Arguments: [`Attention::args`].
    pub fn launch(&self) -> Launch {
        let blocks = self.0.heads / self.heads_of_block().max(1);
        let grid = [
            Extent { of: Count::Tokens, div: 1, plus: None, mul: 1 },
            Extent { of: Count::One, div: 1, plus: None, mul: blocks.max(1) },
            Extent::ONE,
        ];
        Launch::new(grid, WARPS * 32, Attention::args())
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let q = b.param_floats(self.0.q);
        let paged = Paged::params(b);
        let y = b.param_floats(self.0.out);
        let dims = b.param_dims();

        let token = b.special(Special::BlockX);
        let heads = self.heads_of_block();
        let first_head = b.special(Special::BlockY) * heads;
        let kv_head = first_head / self.0.group();
        let seq = request_of(b, token, paged.query_start, dims.seqs);
        // The last token of a request is at `context - 1`.
        let position = paged.context.at(seq).load() - paged.query_start.at(seq + 1).load() + token;
        let to = position + 1;
        let from = match self.0.window {
            None => b.value(0),
            Some(w) => to.lt(w).select(0, to - w),
        };
        let request = Request { table: paged.table(seq), seen: [from, to] };

        let (lane, warp) = b.lane_and_warp();
        let part = lane & (self.lanes() as i32 - 1);
        let group = warp * (32 / self.lanes()) + lane / self.lanes();
        // Lanes behind the head's end repeat its last part, times 0.
        let parts = self.0.head_dim / VEC;
        let column = part.min(parts - 1) * VEC;
        let inside: Option<Val<'_, I1>> = (parts != self.lanes()).then(|| part.lt(parts));
        let row = |head: u32| {
            q.at64(
                (token.to_i64() * i64::from(self.0.heads) + first_head.to_i64() + i64::from(head))
                    * i64::from(self.0.head_dim),
            )
        };
        let factor = self.0.factor();
        let queries: Vec<Part<'_>> = (0..heads)
            .map(|h| {
                let q: Part<'_> = row(h).at(column).load();
                // Lanes behind the head's end have elements of it too.
                let q = if self.0.rounds() { b.round_e4m3(q, self.lanes()) } else { q };
                q.map(|e| match inside {
                    None => e * factor,
                    Some(inside) => inside.select(e * factor, 0.0f32),
                })
            })
            .collect();

        let states = self.over_keys(b, &queries, &request, (paged.cache.cast(), kv_head, column), group);
        let merged = self.exchange(b, &states, group, part.min(parts - 1) * VEC, inside);
        b.sync();
        let out = y.at64(
            (token.to_i64() * i64::from(self.0.heads) + first_head.to_i64()) * i64::from(self.0.head_dim),
        );
        self.finish(b, merged, |at, values| out.at(at).store(values));
    }

    /// Goes over the keys of a group, every [`TokenAttention::keys`]-th.
    fn over_keys<'b>(
        &self,
        b: &'b Builder,
        queries: &[Part<'b>],
        request: &Request<'b>,
        (cache, kv_head, column): (GlobalPtr<'b, Bf16>, Val<'b, I32>, Val<'b, I32>),
        group: Val<'b, I32>,
    ) -> Vec<State<'b>> {
        let zero = b.value(0.0f32);
        let init: Vec<State<'b>> =
            queries.iter().map(|_| (b.value(NONE), zero, [zero; VEC as usize])).collect();
        let [from, to] = request.seen;
        // All groups go round equally often, for they shuffle together.
        b.for_(from, to, self.keys(), init, |base, states| {
            let wanted = base + group;
            let valid = wanted.lt(to);
            let p = wanted.min(to - 1);
            let page = request.table.at(p / self.0.page_tokens).load().to_i64();
            let slot = (p % self.0.page_tokens).to_i64();
            // ((page * 2 + which) * kv_heads + kv_head) * page_tokens + slot, in rows of head_dim.
            let at = |which: i64| {
                let plane = (page * 2i64 + which) * i64::from(self.0.kv_heads) + kv_head.to_i64();
                let row = plane * i64::from(self.0.page_tokens) + slot;
                cache.at64(row * i64::from(self.0.head_dim)).at(column)
            };
            let load = |which| at(which).load_vector::<{ VEC as usize }>().to_f32().elements();
            let (key, value): (Part<'b>, Part<'b>) = (load(0), load(1));
            states.into_iter().zip(queries).map(|(s, q)| self.step(b, s, q, valid, (&key, &value))).collect()
        })
    }

    /// Adds one key and value to a head's state.
    fn step<'b>(
        &self,
        b: &'b Builder,
        (most, sum, values): State<'b>,
        query: &Part<'b>,
        valid: Val<'b, I1>,
        (key, value): (&Part<'b>, &Part<'b>),
    ) -> State<'b> {
        let dot = query.iter().zip(key).fold(b.value(0.0f32), |s, (q, k)| q.fma(*k, s));
        let score = self.0.capped(b.sum_lanes(dot, self.lanes()));
        let score = valid.select(score, NONE);
        let new = most.max(score);
        let old_weight = (most - new).exp2();
        let weight = valid.select((score - new).exp2(), 0.0f32);
        let values = std::array::from_fn(|i| values[i].fma(old_weight, weight * value[i]));
        (new, sum.fma(old_weight, weight), values)
    }

    /// Puts the groups' states into shared memory.
    fn exchange<'b>(
        &self,
        b: &'b Builder,
        states: &[State<'b>],
        group: Val<'b, I32>,
        column: Val<'b, I32>,
        inside: Option<Val<'b, I1>>,
    ) -> Shared<'b> {
        let heads = states.len() as u32;
        let shared = Shared {
            most: b.shared(self.keys() * heads, 16),
            sum: b.shared(self.keys() * heads, 16),
            values: b.shared(self.keys() * heads * self.0.head_dim, 16),
            heads,
        };
        let put = || {
            for (h, (most, sum, values)) in states.iter().enumerate() {
                let at = group * heads + h as u32;
                // All lanes of a group have the same.
                shared.most.at(at).store(*most);
                shared.sum.at(at).store(*sum);
                let to = shared.values.at(at * self.0.head_dim + column);
                for (half, values) in values.chunks(4).enumerate() {
                    let v = b.vector([values[0], values[1], values[2], values[3]]);
                    to.at(half as u32 * 4).store_vector(v);
                }
            }
        };
        match inside {
            None => put(),
            Some(inside) => b.if_(inside, put),
        }
        shared
    }

    /// Merges the groups' states, two elements a thread and round, and stores them.
    fn finish<'b>(&self, b: &'b Builder, s: Shared<'b>, store: impl Fn(Val<'b, I32>, [Val<'b, F32>; 2])) {
        let pairs = s.heads * self.0.head_dim / 2;
        let thread = b.special(Special::ThreadX);
        for round in 0..pairs.div_ceil(b.threads()) {
            let at = (thread + round * b.threads()) * 2;
            let merge = || {
                let head = at / self.0.head_dim;
                let (states, column) = (self.keys(), at % self.0.head_dim);
                let place = |g: u32| head + g * s.heads;
                let most = (0..states).map(|g| s.most.at(place(g)).load());
                let most = most.reduce(|a, m| a.max(m)).unwrap_or_else(|| b.value(NONE));
                let zero = b.value(0.0f32);
                let (mut sum, mut values) = (zero, [zero; 2]);
                for g in 0..states {
                    let weight = (s.most.at(place(g)).load() - most).exp2();
                    sum = s.sum.at(place(g)).load().fma(weight, sum);
                    let v = s.values.at(place(g) * self.0.head_dim + column).load_vector::<2>().elements();
                    values = std::array::from_fn(|i| v[i].fma(weight, values[i]));
                }
                store(at, values.map(|v| v.div_approx(sum)));
            };
            if (round + 1) * b.threads() <= pairs {
                merge();
            } else {
                b.if_(at.lt(pairs * 2), merge);
            }
        }
    }
}

/// States of all groups: `[group][head]`, values `[group][head][element]`.
struct Shared<'b> {
    most: SharedPtr<'b, F32>,
    sum: SharedPtr<'b, F32>,
    values: SharedPtr<'b, F32>,
    heads: u32,
}
