//! Who is ordered after whom: vector clocks of the warps of a cluster, as in FastTrack (Flanagan and Freund, 2009).
//!
//! *Agents* leave stamps on memory: a warp's threads, its copies under way, its matrix instructions under way, and each
//! mbarrier, which stands for the bulk copies that complete on it. A warp knows of each agent up to which clock it is
//! ordered after it. An object that threads synchronise on carries such knowledge from one to the other. The threads of a
//! warp share one clock, which ticks when they synchronise; until then only a thread's own accesses are ordered.

/// Agents of a warp.
const OF_WARP: usize = 3;

/// Who touched memory, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Agent.
    pub agent: u16,
    /// Thread of a warp's own agent.
    pub lane: u8,
    /// True if the access was through the asynchronous proxy.
    pub asynchronous: bool,
    /// True if the access may meet others of its kind: an atomic operation, a strong load or store.
    pub atomic: bool,
    /// The agent's clock; 0 is before everything.
    pub clock: u32,
}

/// What a warp gives work to that has no end which the warp could see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Matrix instructions and copies to tensor memory.
    Matrix,
    /// Loads from tensor memory.
    Load,
    /// Stores to tensor memory.
    Store,
    /// The order in which matrix instructions are issued, in which they are executed; it leaves no stamps.
    Order,
}

impl Engine {
    /// All.
    pub const ALL: [Engine; 4] = [Engine::Matrix, Engine::Load, Engine::Store, Engine::Order];

    /// What it did.
    fn describe(self) -> &'static str {
        match self {
            Engine::Matrix | Engine::Order => "a tcgen05 operation of",
            Engine::Load => "tcgen05.ld of",
            Engine::Store => "tcgen05.st of",
        }
    }
}

/// Knowledge that a synchronisation object carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Knowledge {
    seen: Vec<u32>,
    proxied: Vec<u32>,
}

/// The clocks of a cluster.
#[derive(Debug, Default)]
pub struct Clocks {
    warps: usize,
    /// All stamps up to here are of blocks before.
    base: u32,
    /// The last clock given out.
    last: u32,
    now: Vec<u32>,
    /// Up to where the threads of each warp are ordered among each other.
    together: Vec<u32>,
    /// Agents that are of no warp from its start on.
    objects: usize,
    /// Those that are engines, and whose.
    engines: Vec<(u16, usize, Engine)>,
    /// Of each warp: up to where it is ordered after each agent.
    seen: Vec<Vec<u32>>,
    /// The same for what the asynchronous proxy sees in its name.
    proxied: Vec<Vec<u32>>,
}

fn at(v: &[u32], agent: usize, base: u32) -> u32 {
    v.get(agent).copied().unwrap_or(base)
}

fn raise(v: &mut Vec<u32>, agent: usize, clock: u32, base: u32) {
    if v.len() <= agent {
        v.resize(agent + 1, base);
    }
    v[agent] = v[agent].max(clock);
}

fn join(into: &mut Vec<u32>, from: &[u32], base: u32) {
    if into.len() < from.len() {
        into.resize(from.len(), base);
    }
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

impl Clocks {
    /// Starts a cluster of `warps` warps; all that was before is older than anything.
    pub fn start(&mut self, warps: usize) {
        self.warps = warps;
        self.base = self.last;
        self.objects = 0;
        self.engines.clear();
        self.now.clear();
        self.together.clear();
        self.together.resize(warps, self.base);
        for w in 0..warps {
            self.last += 1;
            self.now.push(self.last);
            for vectors in [&mut self.seen, &mut self.proxied] {
                if vectors.len() <= w {
                    vectors.push(Vec::new());
                }
                vectors[w].clear();
            }
        }
    }

    /// True when clocks are about to run out, and everything stamped must be cleared.
    pub fn worn_out(&self) -> bool {
        self.last > 1 << 31
    }

    /// Begins again.
    pub fn reset(&mut self) {
        (self.last, self.base) = (0, 0);
    }

    /// True if a stamp is of this cluster.
    pub fn current(&self, stamp: Stamp) -> bool {
        stamp.clock > self.base
    }

    /// The stamp of a thread's own access.
    pub fn own(&self, warp: usize, lane: usize) -> Stamp {
        let agent = (OF_WARP * warp) as u16;
        Stamp { agent, lane: lane as u8, asynchronous: false, atomic: false, clock: self.now[warp] }
    }

    fn tick(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// The stamp of a copy of a warp that is now issued (`cp.async`).
    pub fn copying(&mut self, warp: usize) -> Stamp {
        Stamp {
            agent: (OF_WARP * warp + 1) as u16,
            lane: 0,
            asynchronous: false,
            atomic: false,
            clock: self.tick(),
        }
    }

    /// The stamp of an operation of the asynchronous proxy that a warp now issues and itself waits for (`wgmma`, bulk
    /// groups).
    pub fn issuing(&mut self, warp: usize) -> Stamp {
        Stamp {
            agent: (OF_WARP * warp + 2) as u16,
            lane: 0,
            asynchronous: true,
            atomic: false,
            clock: self.tick(),
        }
    }

    /// An agent for an mbarrier.
    pub fn object(&mut self) -> u16 {
        self.objects += 1;
        (OF_WARP * self.warps + self.objects - 1) as u16
    }

    /// An agent for an engine of a warp.
    pub fn engine(&mut self, warp: usize, engine: Engine) -> u16 {
        let agent = self.object();
        self.engines.push((agent, warp, engine));
        agent
    }

    /// The warp and the engine that left a stamp.
    pub fn engine_of(&self, stamp: Stamp) -> Option<(usize, Engine)> {
        self.engines.iter().find(|e| e.0 == stamp.agent).map(|e| (e.1, e.2))
    }

    /// The stamp of the same time of another engine of the warp.
    pub fn beside(&self, stamp: Stamp, engine: Engine) -> Option<Stamp> {
        let (warp, _) = self.engine_of(stamp)?;
        let found = self.engines.iter().find(|e| (e.1, e.2) == (warp, engine))?;
        Some(Stamp { agent: found.0, ..stamp })
    }

    /// What a warp is ordered after now.
    pub fn view(&self, warp: usize) -> Knowledge {
        Knowledge { seen: self.seen[warp].clone(), proxied: Vec::new() }
    }

    /// True if a stamp is in a view.
    pub fn covers(&self, view: &Knowledge, stamp: Stamp) -> bool {
        at(&view.seen, stamp.agent.into(), self.base) >= stamp.clock
    }

    /// The stamp of an operation of an engine, or of one that completes on an mbarrier.
    pub fn completing(&mut self, object: u16) -> Stamp {
        Stamp { agent: object, lane: 0, asynchronous: true, atomic: false, clock: self.tick() }
    }

    /// A warp has waited for an agent's operations up to a stamp's.
    pub fn waited(&mut self, warp: usize, stamp: Stamp) {
        raise(&mut self.seen[warp], stamp.agent.into(), stamp.clock, self.base);
        if stamp.asynchronous {
            raise(&mut self.proxied[warp], stamp.agent.into(), stamp.clock, self.base);
        }
    }

    /// An object learns that an operation is complete.
    pub fn completed(&self, object: &mut Knowledge, stamp: Stamp) {
        raise(&mut object.seen, stamp.agent.into(), stamp.clock, self.base);
        raise(&mut object.proxied, stamp.agent.into(), stamp.clock, self.base);
    }

    /// An object learns that a copy through the ordinary proxy is complete.
    pub fn copied(&self, object: &mut Knowledge, stamp: Stamp) {
        raise(&mut object.seen, stamp.agent.into(), stamp.clock, self.base);
    }

    /// Threads of a warp have synchronised with each other.
    pub fn warp_synchronised(&mut self, warp: usize) {
        self.together[warp] = self.now[warp];
        self.now[warp] = self.tick();
    }

    /// A warp leaves what it knows and has done with an object.
    pub fn release(&mut self, warp: usize, object: &mut Knowledge) {
        join(&mut object.seen, &self.seen[warp], self.base);
        join(&mut object.proxied, &self.proxied[warp], self.base);
        raise(&mut object.seen, OF_WARP * warp, self.now[warp], self.base);
        self.now[warp] = self.tick();
    }

    /// A warp takes over what an object carries.
    pub fn acquire(&mut self, warp: usize, object: &Knowledge) {
        join(&mut self.seen[warp], &object.seen, self.base);
        join(&mut self.proxied[warp], &object.proxied, self.base);
    }

    /// `fence.proxy.async`: what a warp is ordered after, and has done, the asynchronous proxy sees from now on.
    pub fn fence_proxy(&mut self, warp: usize) {
        let seen = std::mem::take(&mut self.seen[warp]);
        join(&mut self.proxied[warp], &seen, self.base);
        self.seen[warp] = seen;
        raise(&mut self.proxied[warp], OF_WARP * warp, self.now[warp], self.base);
        // Own writes after the fence are not covered by it.
        self.now[warp] = self.tick();
    }

    /// True if a thread is ordered after what left a stamp.
    #[inline]
    pub fn ordered(&self, warp: usize, lane: usize, stamp: Stamp) -> bool {
        if stamp.clock <= self.base {
            return true;
        }
        if usize::from(stamp.agent) == OF_WARP * warp {
            return usize::from(stamp.lane) == lane || stamp.clock <= self.together[warp];
        }
        at(&self.seen[warp], stamp.agent.into(), self.base) >= stamp.clock
    }

    /// True if what left a stamp is visible to the asynchronous proxy in a warp's name.
    pub fn visible(&self, warp: usize, stamp: Stamp) -> bool {
        stamp.asynchronous
            || stamp.clock <= self.base
            || at(&self.proxied[warp], stamp.agent.into(), self.base) >= stamp.clock
    }

    /// True if all threads of a warp, and the asynchronous proxy in its name, come after writes of this cluster.
    pub fn after_all(&self, warp: usize, writes: &[Stamp]) -> bool {
        let nobody = usize::MAX;
        writes.iter().all(|&w| self.current(w) && self.ordered(warp, nobody, w) && self.visible(warp, w))
    }

    /// The warp of the cluster that an agent belongs to, or `None` of an mbarrier; and what it did.
    pub fn describe(&self, stamp: Stamp) -> (Option<usize>, &'static str) {
        let agent = usize::from(stamp.agent);
        if agent >= OF_WARP * self.warps {
            return match self.engine_of(stamp) {
                Some((warp, engine)) => (Some(warp), engine.describe()),
                None => (None, "a bulk copy"),
            };
        }
        let what = ["thread", "a copy (cp.async) of", "an asynchronous operation of"][agent % OF_WARP];
        (Some(agent / OF_WARP), what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_orders_what_was_before_it_only() {
        let mut c = Clocks::default();
        c.start(2);
        let (before, mut object) = (c.own(0, 3), Knowledge::default());
        assert!(c.ordered(0, 3, before) && !c.ordered(0, 4, before) && !c.ordered(1, 3, before));
        c.release(0, &mut object);
        assert!(!c.ordered(0, 4, before));
        c.warp_synchronised(0);
        let after = c.own(0, 3);
        c.acquire(1, &object);
        assert!(c.ordered(1, 0, before) && !c.ordered(1, 0, after));
        assert!(c.ordered(0, 4, before) && !c.ordered(0, 4, after));
    }

    #[test]
    fn order_is_passed_on() {
        let mut c = Clocks::default();
        c.start(3);
        let write = c.own(0, 0);
        let (mut a, mut b) = (Knowledge::default(), Knowledge::default());
        c.release(0, &mut a);
        c.acquire(1, &a);
        c.release(1, &mut b);
        c.acquire(2, &b);
        assert!(c.ordered(2, 0, write));
    }

    #[test]
    fn the_other_proxy_needs_a_fence_on_either_side() {
        for writer in [true, false] {
            let mut c = Clocks::default();
            c.start(2);
            let (write, mut object) = (c.own(0, 0), Knowledge::default());
            if writer {
                c.fence_proxy(0);
            }
            c.release(0, &mut object);
            c.acquire(1, &object);
            assert_eq!(c.visible(1, write), writer);
            c.fence_proxy(1);
            assert!(c.visible(1, write));
        }
    }

    #[test]
    fn writes_after_a_fence_are_not_covered() {
        let mut c = Clocks::default();
        c.start(1);
        c.fence_proxy(0);
        let write = c.own(0, 0);
        assert!(!c.visible(0, write));
        c.fence_proxy(0);
        assert!(c.visible(0, write));
    }

    #[test]
    fn an_mbarrier_orders_the_copies_that_complete_on_it() {
        let mut c = Clocks::default();
        c.start(1);
        let (a, b) = (c.object(), c.object());
        let (first, second) = (c.completing(a), c.completing(b));
        let mut carried = Knowledge::default();
        c.completed(&mut carried, second);
        c.acquire(0, &carried);
        assert!(c.ordered(0, 0, second) && !c.ordered(0, 0, first) && c.visible(0, second));
    }

    #[test]
    fn a_new_cluster_is_after_everything() {
        let mut c = Clocks::default();
        c.start(2);
        let old = c.own(0, 0);
        assert!(c.current(old));
        c.start(2);
        assert!(!c.current(old) && c.ordered(1, 9, old));
    }
}
