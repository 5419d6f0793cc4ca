//! Loads and stores of every space.

use super::{Rows, work};
use crate::decode::{Decoder, Run, Ty};
use crate::fault::{FaultKind, Outcome, of_lane, trap_at};
use crate::memory::address;
use crate::ptx::{Malformed, Space};
use crate::warp::{LANES, Slot, Wide, lanes};
use crate::world::Step;

pub const ROWS: Rows = &[("ld", ld), ("ldu", ld), ("st", st)];

/// Words of which the value does not depend: hints to caches, and weak order.
pub const HINTS: &[&str] = &[
    "weak",
    "nc",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "cop",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_first",
    "L2::evict_last",
    "L2::evict_normal",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "mmio",
];

/// Words of strong order, with their scopes.
pub const STRONG: &[&str] = &["relaxed", "acquire", "release", "acq_rel", "volatile", "sc"];
const SCOPES: &[&str] = &["cta", "cluster", "gpu", "sys"];

/// Spaces by name. `None` is the generic one.
const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("shared::cluster", Space::Shared),
    ("local", Space::Local),
    ("param", Space::Param),
    ("const", Space::Const),
];

/// What an access says of itself.
pub struct Access {
    /// Space; `None`: generic addresses.
    pub space: Option<Space>,
    /// Address of each thread.
    pub at: crate::decode::Address,
    /// True of an access that other threads may make at the same time.
    pub strong: bool,
}

/// Takes order, scope, space and hints of an opcode, and the address at operand `i`.
pub fn access(d: &mut Decoder<'_>, i: usize) -> Result<Access, Malformed> {
    let strong = STRONG.iter().filter(|w| d.has(w)).count() > 0;
    if strong {
        d.drop_all(SCOPES);
    }
    d.drop_all(HINTS);
    let space = d.one_of(SPACES);
    let (at, more) = d.address(i)?;
    if !more.is_empty() {
        return d.refuse("an address has no coordinates here");
    }
    let space = space.or(at.space);
    Ok(Access { space, at, strong })
}

/// Addresses of all threads.
#[inline]
pub fn addresses(s: &Step<'_, '_>, at: &crate::decode::Address) -> Wide {
    if at.wide {
        s.warp.get_wide(at.base).map(|a| a.wrapping_add_signed(at.offset))
    } else {
        s.warp.get(at.base).map(|a| u64::from(a.wrapping_add_signed(at.offset as i32)))
    }
}

/// 32 bytes of each thread: the most that an access has.
pub type Words = [[u32; LANES]; 8];

fn bytes_of<const N: usize>(words: &Words, lane: usize) -> [u8; N] {
    std::array::from_fn(|i| (words[i / 4][lane] >> (8 * (i % 4))) as u8)
}

fn put_bytes(words: &mut Words, lane: usize, bytes: &[u8]) {
    for (w, chunk) in words.iter_mut().zip(bytes.chunks(4)) {
        w[lane] = chunk.iter().rev().fold(0, |w, &b| w << 8 | u32::from(b));
    }
}

fn misaligned<T>(lane: usize, doing: &str, size: u64, at: u64) -> Outcome<T> {
    trap_at(
        FaultKind::Misaligned,
        lane,
        format!("{doing} of {size} bytes at {at:#x}, which is no multiple of {size}"),
    )
}

/// Reads `size` bytes (a power of two up to 32) of global memory for each thread.
fn load_global(s: &Step<'_, '_>, at: &Wide, size: u64, out: &mut Words) -> Outcome<()> {
    let mut found = None;
    for lane in lanes(s.mask) {
        let address = at[lane];
        if !address.is_multiple_of(size) {
            return misaligned(lane, "a read", size, address);
        }
        let a = of_lane(s.world.global.expect_next(&mut found, address, size, "a read"), lane)?;
        of_lane(a.check_known(address, size), lane)?;
        if size < 4 {
            out[0][lane] = a.load_part(address, size);
        } else {
            for w in 0..(size / 4) as usize {
                out[w][lane] = a.load(address + 4 * w as u64);
            }
        }
    }
    Ok(())
}

fn store_global(s: &Step<'_, '_>, at: &Wide, size: u64, from: &Words) -> Outcome<()> {
    let mut found = None;
    for lane in lanes(s.mask) {
        let address = at[lane];
        if !address.is_multiple_of(size) {
            return misaligned(lane, "a write", size, address);
        }
        let a = of_lane(s.world.global.expect_next(&mut found, address, size, "a write"), lane)?;
        of_lane(a.check_writable(address, size), lane)?;
        if size < 4 {
            a.store_part(address, size, from[0][lane]);
        } else {
            for w in 0..(size / 4) as usize {
                a.store(address + 4 * w as u64, from[w][lane]);
            }
        }
    }
    Ok(())
}

fn load_shared(s: &mut Step<'_, '_>, at: &Wide, size: u64, strong: bool, out: &mut Words) -> Outcome<()> {
    for lane in lanes(s.mask) {
        if strong {
            s.observe(lane, at[lane])?;
        }
        macro_rules! read {
            ($n:literal) => {
                put_bytes(out, lane, &s.read_shared::<$n>(lane, at[lane], strong)?)
            };
        }
        match size {
            1 => read!(1),
            2 => read!(2),
            4 => read!(4),
            8 => read!(8),
            16 => read!(16),
            _ => read!(32),
        }
    }
    Ok(())
}

fn store_shared(s: &mut Step<'_, '_>, at: &Wide, size: u64, strong: bool, from: &Words) -> Outcome<()> {
    for lane in lanes(s.mask) {
        let bytes = bytes_of::<32>(from, lane);
        s.write_shared(lane, at[lane], &bytes[..size as usize], strong)?;
        if strong {
            s.publish(lane, at[lane])?;
        }
    }
    Ok(())
}

fn load_param(s: &Step<'_, '_>, at: &Wide, size: u64, out: &mut Words) -> Outcome<()> {
    for lane in lanes(s.mask) {
        let params = &s.world.launch.params;
        let start = at[lane] as usize;
        let Some(bytes) = start.checked_add(size as usize).and_then(|end| params.get(start..end)) else {
            let what =
                format!("a read of {size} bytes at {start:#x} of parameters, which have {}", params.len());
            return trap_at(FaultKind::OutOfBounds, lane, what);
        };
        if !(start as u64).is_multiple_of(size) {
            return misaligned(lane, "a read", size, at[lane]);
        }
        put_bytes(out, lane, bytes);
    }
    Ok(())
}

/// Calls `f` for the threads of each space that generic addresses lie in.
fn by_space(
    s: &mut Step<'_, '_>,
    space: Option<Space>,
    at: &Wide,
    mut f: impl FnMut(&mut Step<'_, '_>, Space, &Wide) -> Outcome<()>,
) -> Outcome<()> {
    if let Some(space) = space {
        return f(s, space, at);
    }
    let split = at.map(address::split);
    let inner = split.map(|(_, a)| a);
    let mask = s.mask;
    for space in [Space::Global, Space::Shared, Space::Local, Space::Param] {
        s.mask = lanes(mask).filter(|&l| split[l].0 == space).fold(0, |m, l| m | 1 << l);
        if s.mask != 0 {
            f(s, space, &inner)?;
        }
    }
    s.mask = mask;
    Ok(())
}

/// Reads `size` bytes for each thread.
pub fn load(s: &mut Step<'_, '_>, a: &Access, at: &Wide, size: u64, out: &mut Words) -> Outcome<()> {
    by_space(s, a.space, at, |s, space, at| match space {
        Space::Global | Space::Const => load_global(s, at, size, out),
        Space::Shared => load_shared(s, at, size, a.strong, out),
        Space::Param => load_param(s, at, size, out),
        Space::Local => {
            for lane in lanes(s.mask) {
                let bytes = s.warp.local.load(lane, at[lane], size)?;
                put_bytes(out, lane, bytes);
            }
            Ok(())
        }
    })
}

/// Writes `size` bytes of each thread.
pub fn store(s: &mut Step<'_, '_>, a: &Access, at: &Wide, size: u64, from: &Words) -> Outcome<()> {
    by_space(s, a.space, at, |s, space, at| match space {
        Space::Global => store_global(s, at, size, from),
        Space::Shared => store_shared(s, at, size, a.strong, from),
        Space::Local => {
            for lane in lanes(s.mask) {
                let bytes = bytes_of::<32>(from, lane);
                s.warp.local.store(lane, at[lane], &bytes[..size as usize])?;
            }
            Ok(())
        }
        Space::Param | Space::Const => {
            let lane = s.mask.trailing_zeros() as usize;
            trap_at(FaultKind::ReadOnly, lane, "a write to parameters or constants")
        }
    })
}

const VECTORS: &[(&str, usize)] = &[("v2", 2), ("v4", 4), ("v8", 8)];

/// The sizes of an access of `count` elements.
fn sizes(d: &mut Decoder<'_>, a: &Access, ty: Ty, count: usize, found: usize) -> Result<u64, Malformed> {
    let size = u64::from(ty.bytes()) * count as u64;
    if found != count || size > 32 || ty == Ty::Pred {
        return d.refuse(format_args!("{found} registers for {count} elements of {} bits", ty.bits()));
    }
    if matches!(a.space, None | Some(Space::Shared)) {
        d.shared_access(size as u32);
    }
    Ok(size)
}

fn ld(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let count = d.one_of(VECTORS).unwrap_or(1);
    let a = access(d, 1)?;
    let hint = d.has("L2::cache_hint");
    if hint {
        d.source(2)?;
    }
    let ty = d.ty()?;
    let widths: Vec<u32> = d.elements(0)?.iter().map(|o| d.width(o)).collect();
    let outs = d.dests(0)?;
    let size = sizes(d, &a, ty, count, outs.len())?;
    let (bits, signed) = (ty.bits(), ty.signed());
    Ok(work(move |s| {
        let at = addresses(s, &a.at);
        let mut words: Words = [[0; LANES]; 8];
        load(s, &a, &at, size, &mut words)?;
        for (i, (out, &width)) in outs.iter().zip(&widths).enumerate() {
            let Some(out) = *out else { continue };
            let first = i * bits as usize / 32;
            if bits >= 32 {
                for w in 0..(bits / 32) as usize {
                    s.warp.set(Slot(out.0 + w as u32), s.mask, &words[first + w]);
                }
                if bits == 32 && width == 64 {
                    let above = words[first].map(|x| if signed { (x as i32 >> 31) as u32 } else { 0 });
                    s.warp.set(Slot(out.0 + 1), s.mask, &above);
                }
            } else {
                let (bit, up) = ((i as u32 * bits) % 32, 32 - bits);
                let one = |x: u32| {
                    let x = x >> bit << up;
                    if signed { ((x as i32) >> up) as u32 } else { x >> up }
                };
                let row = words[first].map(one);
                // A register of 16 bits has nothing above them.
                let row = if width == 16 { row.map(|x| x & 0xffff) } else { row };
                s.warp.set(out, s.mask, &row);
                if width == 64 {
                    let above = row.map(|x| if signed { (x as i32 >> 31) as u32 } else { 0 });
                    s.warp.set(Slot(out.0 + 1), s.mask, &above);
                }
            }
        }
        Ok(())
    }))
}

fn st(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let count = d.one_of(VECTORS).unwrap_or(1);
    let a = access(d, 0)?;
    let hint = d.has("L2::cache_hint");
    if hint {
        d.source(2)?;
    }
    let ty = d.ty()?;
    let from = d.sources(1)?;
    let size = sizes(d, &a, ty, count, from.len())?;
    let bits = ty.bits();
    Ok(work(move |s| {
        let at = addresses(s, &a.at);
        let mut words: Words = [[0; LANES]; 8];
        for (i, &source) in from.iter().enumerate() {
            let first = i * bits as usize / 32;
            match bits {
                128 | 64 => {
                    let crate::warp::Source::Slot(Slot(slot)) = source else {
                        let wide = s.warp.get_wide(source);
                        words[first] = wide.map(|x| x as u32);
                        words[first + 1] = wide.map(|x| (x >> 32) as u32);
                        continue;
                    };
                    for w in 0..(bits / 32) as usize {
                        words[first + w] = s.warp.rows[slot as usize + w];
                    }
                }
                32 => words[first] = s.warp.get(source),
                _ => {
                    let (bit, mask, row) = ((i as u32 * bits) % 32, (1u32 << bits) - 1, s.warp.get(source));
                    for l in 0..LANES {
                        words[first][l] |= (row[l] & mask) << bit;
                    }
                }
            }
        }
        store(s, &a, &at, size, &words)
    }))
}
