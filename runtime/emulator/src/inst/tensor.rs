//! `cp.async.bulk.tensor` and `cp.reduce.async.bulk.tensor`: boxes of tensors between global and shared memory.

use super::atomic::Op;
use super::bulk::{BY_GROUP, BY_MBARRIER, own, tail, targets, want};
use super::memory::addresses;
use super::transfer::{self, Piece, Side, Transfer};
use super::{Rows, work};
use crate::decode::{Address, Decoder, Run, Ty};
use crate::fault::{FaultKind, Outcome, trap_at};
use crate::layout::TensorMap;
use crate::layout::tensor_map::{DataType, Place, Row, TensorCopyError};
use crate::memory::address;
use crate::memory::global::copy_out;
use crate::ptx::{Malformed, Operand, Space};
use crate::warp::{LANES, Source, lanes};
use crate::world::Step;

pub const ROWS: Rows = &[
    ("cp.async.bulk.tensor", tensor),
    ("cp.reduce.async.bulk.tensor", |d| store(d, true)),
    ("cp.async.bulk.prefetch.tensor", prefetch),
];

/// What shared memory's side of a box is a multiple of.
const ALIGN: u64 = 128;
/// What the address of a tensor map is a multiple of.
const MAP_ALIGN: u64 = 64;
/// Bytes of a tensor map.
const MAP_BYTES: usize = 128;

/// Which rows of a tensor an instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Tile,
    Im2col,
    /// Four rows by number (`tile::gather4`, `tile::scatter4`).
    Four,
}

/// A tensor and a place in it: `[map, {coordinates}]`.
struct Corner {
    map: Address,
    coordinates: Vec<Source>,
    rank: usize,
    mode: Rule,
    /// Places in the filter, of im2col.
    offsets: Vec<Source>,
}

impl Corner {
    /// Takes the dimensions and the mode of an opcode, and operand `i`.
    fn of(d: &mut Decoder<'_>, i: usize) -> Result<Corner, Malformed> {
        let ranks = [("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)];
        let Some(rank) = d.one_of(&ranks) else {
            return d.refuse("the number of dimensions is missing");
        };
        let modes = [
            ("tile", Rule::Tile),
            ("im2col", Rule::Im2col),
            ("im2col_no_offs", Rule::Im2col),
            ("tile::gather4", Rule::Four),
            ("tile::scatter4", Rule::Four),
        ];
        let mode = d.one_of(&modes).unwrap_or(Rule::Tile);
        if mode == Rule::Four && d.chip.sm < 100 {
            return d.refuse("four rows by number are of sm_100 and later");
        }
        let (map, more) = d.address(i)?;
        let [Operand::Vector(coordinates)] = more else {
            return d.refuse("coordinates are missing");
        };
        let coordinates = coordinates.iter().map(|c| d.source_of(c)).collect::<Result<Vec<_>, _>>()?;
        let wanted = if mode == Rule::Four { 5 } else { rank };
        if coordinates.len() != wanted {
            return d.refuse(format_args!("{} coordinates where {wanted} are wanted", coordinates.len()));
        }
        Ok(Corner { map, coordinates, rank, mode, offsets: Vec::new() })
    }

    /// The map and the rows of each thread's box.
    fn rows(&self, s: &Step<'_, '_>, check: Check) -> Outcome<Vec<(usize, TensorMap, Vec<Row>)>> {
        let maps = addresses(s, &self.map);
        let coordinates: Vec<[u32; LANES]> = self.coordinates.iter().map(|c| s.warp.get(*c)).collect();
        let offsets: Vec<[u32; LANES]> = self.offsets.iter().map(|c| s.warp.get(*c)).collect();
        let mut out = Vec::new();
        for lane in lanes(s.mask) {
            let map = tensor_map(s, lane, self.map.space, maps[lane])?;
            if map.parameters().rank != self.rank {
                let what = format!(
                    "a copy of {} dimensions of a tensor that has {}",
                    self.rank,
                    map.parameters().rank
                );
                return trap_at(FaultKind::TensorMap, lane, what);
            }
            let start: Vec<i32> = coordinates.iter().map(|c| c[lane] as i32).collect();
            let rows = match self.mode {
                _ if check(&map, &start).is_err() => check(&map, &start).map(|()| Vec::new()),
                Rule::Tile => map.tile(&start),
                Rule::Im2col if self.offsets.is_empty() => {
                    map.im2col(&start, &[0; 3][..self.rank.max(2) - 2])
                }
                Rule::Im2col => {
                    let offsets: Vec<u16> = offsets.iter().map(|o| o[lane] as u16).collect();
                    map.im2col(&start, &offsets)
                }
                Rule::Four => map.gather4(start[0], [start[1], start[2], start[3], start[4]]),
            };
            match rows {
                Ok(rows) => out.push((lane, map, rows)),
                Err(e) => return trap_at(FaultKind::TensorMap, lane, e.to_string()),
            }
        }
        Ok(out)
    }
}

/// Whether a copy may start at coordinates.
type Check = fn(&TensorMap, &[i32]) -> Result<(), TensorCopyError>;

/// The tensor map at an address: generic, or of parameters.
pub fn tensor_map(s: &Step<'_, '_>, lane: usize, space: Option<Space>, at: u64) -> Outcome<TensorMap> {
    let (space, at) = match space {
        Some(space) => (space, at),
        None => address::split(at),
    };
    let mut bytes = [0; MAP_BYTES];
    let found = at % MAP_ALIGN == 0
        && match space {
            Space::Param => {
                let start = at as usize;
                let found =
                    start.checked_add(MAP_BYTES).and_then(|end| s.world.launch.params.get(start..end));
                found.map(|f| bytes.copy_from_slice(f)).is_some()
            }
            Space::Global => match s.world.global.find(at, MAP_BYTES as u64) {
                Some(a) => {
                    copy_out(a, at, &mut bytes);
                    true
                }
                None => false,
            },
            _ => false,
        };
    if !found {
        let what = format!(
            "there is no tensor map at {at:#x} of {space:?} memory: it takes {MAP_BYTES} bytes of parameters or global \
             memory at a multiple of {MAP_ALIGN}"
        );
        return trap_at(FaultKind::TensorMap, lane, what);
    }
    match TensorMap::from_bytes(&bytes) {
        Ok(map) => Ok(map),
        Err(e) => trap_at(FaultKind::TensorMap, lane, format!("what is at {at:#x} is no tensor map: {e}")),
    }
}

/// The pieces of a box whose place in shared memory is `shared` of `block`.
fn pieces(
    s: &Step<'_, '_>,
    lane: usize,
    block: usize,
    shared: u64,
    (map, rows): (&TensorMap, &[Row]),
) -> Outcome<Transfer> {
    let p = map.parameters();
    let span = rows.len() as u64 * map.row_pitch();
    let start = s.world.blocks[block].shared.place(shared, span, ALIGN, lane, "a box")?;
    let mut pieces = Vec::with_capacity(rows.len() * 8);
    for row in rows {
        for chunk in map.chunks(row) {
            let side = match chunk.place {
                Place::Global(at) => Side::Global(at),
                Place::Outside => Side::Outside,
                Place::Gap => continue,
            };
            // A swizzle moves bytes within 128, and the box begins at a multiple of that.
            let offset = p.swizzle.apply(shared + chunk.shared) - shared;
            pieces.push(Piece { index: start + offset as usize, bytes: chunk.bytes as usize, side });
        }
    }
    let rounds = matches!(p.dtype, DataType::F32Ftz | DataType::Tf32 | DataType::Tf32Ftz);
    let counted = map.box_bytes() / map.rows().max(1) * rows.len() as u64;
    Ok(Transfer {
        address: shared,
        span: span as usize,
        counted: counted as u32,
        pieces,
        rounded: rounds.then_some(p.dtype),
        fill: p.fill,
    })
}

/// Loads name shared memory first, stores global memory.
fn tensor(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let spaces = ["global", "shared::cta", "shared::cluster"];
    let first = d.words().iter().find(|w| spaces.contains(w)).copied();
    if first == Some("global") { store(d, false) } else { load(d) }
}

/// `cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [to], [map, {x, y}], [mbarrier]
/// {, {offsets}} {, mask} {, policy}`.
fn load(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    want(d, BY_MBARRIER)?;
    want(d, "global")?;
    if !d.has("shared::cluster") && !d.has("shared::cta") {
        return d.refuse("where to is missing");
    }
    let with_offsets = d.words().contains(&"im2col");
    let pair = d.has("cta_group::2");
    if (d.has("cta_group::1") || pair) && d.chip.sm < 100 {
        return d.refuse("pairs of blocks are of sm_100 and later");
    }
    let ((to, _), mut corner, (mbarrier, _)) = (d.address(0)?, Corner::of(d, 1)?, d.address(2)?);
    let mut last = 2;
    if with_offsets {
        last += 1;
        corner.offsets = d.sources(last)?;
        if corner.offsets.len() + 2 != corner.rank {
            return d.refuse(format_args!("{} offsets for {} dimensions", corner.offsets.len(), corner.rank));
        }
    }
    let mask = tail(d, last)?;
    Ok(work(move |s| {
        let (to, mbarrier) = (addresses(s, &to), addresses(s, &mbarrier));
        let mask = mask.map(|m| s.warp.get(m));
        for (lane, map, rows) in corner.rows(s, |_, _| Ok(()))? {
            let mask = mask.map(|m| m[lane] & 0xffff);
            let (blocks, at, mbarrier) = targets(s, lane, to[lane], mbarrier[lane], mask, pair)?;
            let t = pieces(s, lane, blocks[0].0, at, (&map, &rows))?;
            transfer::load(s, lane, &blocks, mbarrier, (t, true))?;
        }
        Ok(())
    }))
}

/// `cp{.reduce}.async.bulk.tensor.2d.global.shared::cta{.op}.tile.bulk_group [map, {x, y}], [from] {, policy}`.
fn store(d: &mut Decoder<'_>, reduces: bool) -> Result<Run, Malformed> {
    for word in ["global", "shared::cta", BY_GROUP] {
        want(d, word)?;
    }
    let ops = [
        ("add", Op::Add),
        ("min", Op::Min),
        ("max", Op::Max),
        ("inc", Op::Increment),
        ("dec", Op::Decrement),
        ("and", Op::And),
        ("or", Op::Or),
        ("xor", Op::Xor),
    ];
    let op = if reduces { d.one_of(&ops) } else { None };
    if reduces && op.is_none() {
        return d.refuse("the operation is missing");
    }
    if d.words().contains(&"im2col") {
        return d.refuse("a store of im2col is .im2col_no_offs");
    }
    let (corner, (from, _)) = (Corner::of(d, 0)?, d.address(1)?);
    tail(d, 1)?;
    let check: Check = if reduces { TensorMap::check_reduce } else { TensorMap::check_store };
    Ok(work(move |s| {
        let from = addresses(s, &from);
        for (lane, map, rows) in corner.rows(s, check)? {
            let from = own(s, from[lane], lane)?;
            let t = pieces(s, lane, s.warp.block, from, (&map, &rows))?;
            let reduce = match op {
                None => None,
                Some(op) => match element(map.parameters().dtype, op) {
                    Some(ty) => Some((op, ty)),
                    None => {
                        let what = format!("{op:?} of elements of {:?}", map.parameters().dtype);
                        return trap_at(FaultKind::TensorMap, lane, format!("there is no {what}"));
                    }
                },
            };
            transfer::store(s, lane, t, reduce)?;
        }
        Ok(())
    }))
}

/// How an operation sees elements of a type; `None` if there is no such operation.
fn element(dtype: DataType, op: Op) -> Option<Ty> {
    let bits = matches!(op, Op::And | Op::Or | Op::Xor);
    let counts = matches!(op, Op::Increment | Op::Decrement);
    let ty = match dtype {
        DataType::U32 => Ty::U32,
        DataType::S32 if !counts => Ty::S32,
        DataType::U64 if !counts => Ty::U64,
        DataType::S64 if !counts => Ty::S64,
        DataType::F16 if !bits && !counts => Ty::F16,
        DataType::Bf16 if !bits && !counts => Ty::Bf16,
        DataType::F32 | DataType::F32Ftz | DataType::Tf32 | DataType::Tf32Ftz if op == Op::Add => Ty::F32,
        DataType::F64 if op == Op::Add => Ty::F64,
        _ => return None,
    };
    Some(ty)
}

/// `cp.async.bulk.prefetch.tensor.2d.L2.global.tile [map, {x, y}] {, {offsets}} {, policy}`: a hint, whose map and
/// coordinates still have rules.
fn prefetch(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    want(d, "L2")?;
    want(d, "global")?;
    let with_offsets = d.words().contains(&"im2col");
    let mut corner = Corner::of(d, 0)?;
    if with_offsets {
        corner.offsets = d.sources(1)?;
    }
    tail(d, usize::from(with_offsets))?;
    Ok(work(move |s| corner.rows(s, |_, _| Ok(())).map(|_| ())))
}
