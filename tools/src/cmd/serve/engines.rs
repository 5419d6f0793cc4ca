//! The engines of `trtc serve`: opened on their devices, with a share of the memory for their caches.
//!
//! What caches may take is fixed when the files of all engines that are loaded together are known and none is loaded: of a
//! device's memory, what is left beside all their weights and activations. So a share does not depend on who comes first.

use super::Named;
use crate::options::{MemoryArgs, PlaceArgs, fraction};
use crate::render::Failure;
use std::path::Path;
use trtc_engine::EngineFile;
use trtc_runtime::device::Device;
use trtc_runtime::{CACHE_SHARE, CacheSize, DeviceChoice, Engine, Error, LoadOptions};
use trtc_server::Wish;

/// The part of the memory for caches that one engine has.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    name: String,
    part: f64,
}

/// `NAME=F`.
pub fn share(text: &str) -> Result<Share, String> {
    let (name, part) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
        "an engine's name, an equals sign and a number above 0 and at most 1, such as chat=0.6".to_owned()
    })?;
    Ok(Share { name: name.to_owned(), part: fraction(part)? })
}

/// How engines are opened.
#[derive(Clone)]
pub struct Opener {
    pub place: PlaceArgs,
    pub memory: MemoryArgs,
}

/// An engine of which nothing is on its device yet.
struct Ready {
    file: EngineFile,
    device: Box<dyn Device>,
    options: LoadOptions,
    /// Bytes that it will take besides its cache.
    taken: u64,
}

/// Which memory an engine's cache is in: a GPU's by its number, or this machine's.
fn memory_of(choice: DeviceChoice, target: &str) -> Option<u32> {
    match choice {
        DeviceChoice::Cuda(n) => Some(n),
        DeviceChoice::Auto if target != "host" => Some(0),
        DeviceChoice::Auto | DeviceChoice::Host | DeviceChoice::Emulator => None,
    }
}

/// Bytes for caches, of a device with `all` bytes of which `free` are, before engines that will take `taken` besides;
/// other caches hold `held`.
fn room(size: CacheSize, (all, free): (u64, u64), taken: u64, held: u64) -> u64 {
    match size {
        CacheSize::Bytes(bytes) => bytes.saturating_sub(held),
        CacheSize::Fraction(part) => {
            let used = all.saturating_sub(free);
            ((all as f64 * part) as u64).saturating_sub(used).saturating_sub(taken)
        }
        _ => free.saturating_sub(taken) / 100 * CACHE_SHARE,
    }
}

/// A cache that has this part of the room: all of it if a size was asked for, else what it can make use of.
fn sized(asked: CacheSize, room: u64, part: f64) -> CacheSize {
    let bytes = (room as f64 * part) as u64;
    if asked == CacheSize::Auto { CacheSize::AtMost(bytes) } else { CacheSize::Bytes(bytes) }
}

/// The part of each engine: its own, or as much as the others that have none.
fn divide(names: &[&str], shares: &[Share]) -> Result<Vec<f64>, Failure> {
    const ROUNDING: f64 = 1e-9;
    let own = |name: &&str| shares.iter().find(|s| s.name == **name).map(|s| s.part);
    let sum: f64 = names.iter().filter_map(own).sum();
    if sum > 1.0 + ROUNDING {
        return Err(Failure::user(format!("the shares of {} are {sum:.3} in all", names.join(", ")))
            .help("give --kv-share numbers whose sum is at most 1"));
    }
    let others: Vec<&str> = names.iter().filter(|n| own(n).is_none()).copied().collect();
    if !others.is_empty() && sum > 1.0 - ROUNDING {
        return Err(Failure::user(format!("--kv-share leaves nothing for {}", others.join(", ")))
            .help("give them a share too, or the others less"));
    }
    let equal = (1.0 - sum) / others.len().max(1) as f64;
    Ok(names.iter().map(|name| own(name).unwrap_or(equal)).collect())
}

/// Refuses shares of engines that are not there, and two of one.
fn check(shares: &[Share], engines: &[Named]) -> Result<(), Failure> {
    for (i, share) in shares.iter().enumerate() {
        let name = &share.name;
        if !engines.iter().any(|e| e.name == *name) {
            let names: Vec<&str> = engines.iter().map(|e| &*e.name).collect();
            return Err(Failure::user(format!("--kv-share has '{name}', which is none of the engines"))
                .help(format!("their names are: {}", names.join(", "))));
        }
        if shares[..i].iter().any(|s| s.name == *name) {
            return Err(Failure::user(format!("--kv-share has '{name}' twice")));
        }
    }
    Ok(())
}

impl Opener {
    /// Opens a file and its device.
    fn ready(&self, path: &Path) -> Result<Ready, Error> {
        let file = EngineFile::open(path)?;
        let options = LoadOptions {
            device: self.place.device,
            threads: self.place.threads,
            cache: self.memory.cache(&file.manifest().target)?,
            ..LoadOptions::default()
        };
        let device = trtc_runtime::open_device(file.manifest(), &options)?;
        let taken = trtc_runtime::footprint(&file)?;
        Ok(Ready { file, device, options, taken })
    }

    /// Opens all engines that a server begins with; `loaded` sees each.
    pub fn all(
        &self,
        engines: &[Named],
        shares: &[Share],
        mut loaded: impl FnMut(&str, &Engine) -> Result<(), Failure>,
    ) -> Result<Vec<(String, Engine)>, Failure> {
        check(shares, engines)?;
        let ready: Result<Vec<Ready>, Error> = engines.iter().map(|e| self.ready(&e.path)).collect();
        let mut ready = ready?;
        // A number of bytes is for all caches, wherever they are.
        let memory = |r: &Ready| match r.options.cache {
            CacheSize::Bytes(_) => None,
            _ => memory_of(r.options.device, &r.file.manifest().target),
        };
        let memories: Vec<Option<u32>> = ready.iter().map(memory).collect();
        let mut sizes = vec![CacheSize::Auto; ready.len()];
        for (first, of) in memories.iter().enumerate() {
            if memories[..first].contains(of) {
                continue;
            }
            let here: Vec<usize> = (first..ready.len()).filter(|&i| memories[i] == *of).collect();
            let names: Vec<&str> = here.iter().map(|&i| &*engines[i].name).collect();
            let parts = divide(&names, shares)?;
            let taken = here.iter().map(|&i| ready[i].taken).fold(0, u64::saturating_add);
            let (device, asked) = (&ready[first].device, ready[first].options.cache);
            let room = room(asked, (device.total_memory(), device.free_memory()), taken, 0);
            here.iter().zip(parts).for_each(|(&i, part)| sizes[i] = sized(asked, room, part));
        }
        let mut out = Vec::new();
        for ((Ready { file, device, options, .. }, cache), named) in ready.drain(..).zip(sizes).zip(engines) {
            let engine = Engine::with_device(file, device, &LoadOptions { cache, ..options })?;
            loaded(&named.name, &engine)?;
            out.push((named.name.clone(), engine));
        }
        Ok(out)
    }

    /// Opens one engine beside others.
    pub fn one(&self, path: &Path, wish: Wish) -> Result<Engine, Error> {
        let Ready { file, device, options, taken } = self.ready(path)?;
        let free = device.free_memory();
        let room = room(options.cache, (device.total_memory(), free), taken, wish.kv_held);
        let page = file.manifest().kv.bytes_per_page();
        let cache = sized(options.cache, room, wish.kv_fraction.unwrap_or(1.0));
        match cache {
            CacheSize::Bytes(bytes) | CacheSize::AtMost(bytes) if bytes < page => Err(Error::user(format!(
                "no room for the KV cache: it may have {bytes} bytes, a page takes {page}; {free} bytes are free, \
                 and the engine takes {taken} of them besides"
            ))
            .help("unload a model, or begin with a --kv-share of less than 1, so that some is left")),
            cache => Engine::with_device(file, device, &LoadOptions { cache, ..options }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;

    #[test]
    fn shares_are_names_and_parts() {
        assert_eq!(share("chat=0.6"), Ok(Share { name: "chat".into(), part: 0.6 }));
        assert_eq!(share("a=b=1"), Ok(Share { name: "a=b".into(), part: 1.0 }));
        for text in ["chat", "=0.5", "chat=0", "chat=1.1", "chat=x", "chat="] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_shared_out_by_name_is_shared_equally() {
        let shares = |list: &[(&str, f64)]| -> Vec<Share> {
            list.iter().map(|(name, part)| Share { name: (*name).to_owned(), part: *part }).collect()
        };
        let of = |names: &[&str], list: &[(&str, f64)]| divide(names, &shares(list)).ok();
        assert_eq!(of(&["a"], &[]), Some(vec![1.0]));
        assert_eq!(of(&["a", "b"], &[]), Some(vec![0.5, 0.5]));
        assert_eq!(of(&["a", "b", "c"], &[("b", 0.5)]), Some(vec![0.25, 0.5, 0.25]));
        assert_eq!(of(&["a", "b"], &[("a", 0.6), ("b", 0.4)]), Some(vec![0.6, 0.4]));
        // The rest is for who comes later.
        assert_eq!(of(&["a"], &[("a", 0.3)]), Some(vec![0.3]));
        assert_eq!(of(&["a", "b"], &[("a", 1.0)]), None);
        assert_eq!(of(&["a", "b"], &[("a", 0.7), ("b", 0.4)]), None);
        // On another device, with a budget of its own.
        assert_eq!(of(&["a"], &[("a", 1.0), ("b", 1.0)]), Some(vec![1.0]));
    }

    #[test]
    fn the_room_is_what_weights_and_others_leave() {
        let memory = (100 * GB, 90 * GB);
        assert_eq!(room(CacheSize::Fraction(0.5), memory, 30 * GB, 7), 10 * GB);
        assert_eq!(room(CacheSize::Fraction(0.5), memory, 60 * GB, 0), 0);
        assert_eq!(room(CacheSize::Bytes(8 * GB), memory, 60 * GB, 3 * GB), 5 * GB);
        assert_eq!(room(CacheSize::Auto, memory, 40 * GB, 3), 50 * GB / 100 * CACHE_SHARE);
        assert_eq!(sized(CacheSize::Auto, 8 * GB, 0.25), CacheSize::AtMost(2 * GB));
        assert_eq!(sized(CacheSize::Fraction(0.9), 8 * GB, 0.25), CacheSize::Bytes(2 * GB));
    }

    #[test]
    fn engines_for_a_gpu_share_its_memory() {
        let of = |choice, target| memory_of(choice, target);
        assert_eq!(of(DeviceChoice::Auto, "host"), None);
        assert_eq!(of(DeviceChoice::Auto, "sm_90"), Some(0));
        assert_eq!(of(DeviceChoice::Cuda(3), "sm_90"), Some(3));
        assert_eq!(of(DeviceChoice::Emulator, "sm_90"), None);
    }
}
