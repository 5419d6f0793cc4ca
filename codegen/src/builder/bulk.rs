//! Barriers in shared memory with transaction counts, and the copies that complete them: bulk copies and tensor copies.
//!
//! A barrier is waited for by the parity of its phase: the first phase is 0. `arrive_expect` counts one arrival and the
//! bytes that copies will bring. Stores from shared memory are preceded by `fence_async` and complete by groups.

use super::value::{Cluster, TensorMap};
use super::{Builder, GlobalPtr, I1, I16, I32, I64, IntoVal, Ptr, SharedPtr, Ty, Val};

/// Which lines of the second-level cache go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evict {
    /// These: read once.
    First,
    /// Others: read again soon.
    Last,
}

/// A barrier object in shared memory.
#[derive(Clone, Copy)]
pub struct Barrier<'b>(pub SharedPtr<'b, I64>);

impl<'b> Barrier<'b> {
    /// The `index`-th barrier after this one.
    pub fn at(self, index: impl IntoVal<'b, I32>) -> Barrier<'b> {
        Barrier(self.0.at(index))
    }

    fn b(self) -> &'b Builder {
        self.0.builder()
    }

    /// Makes the barrier expect `count` arrivals in each phase. By one thread, before [`Builder::fence_barriers`].
    pub fn init(self, count: impl IntoVal<'b, I32>) {
        let count = count.into_val(self.b());
        self.b().stmt(format_args!("nvvm.mbarrier.init {}, {count} : !llvm.ptr<3>, i32", self.0));
    }

    /// Arrives once.
    pub fn arrive(self) {
        let _: Val<'b, I64> =
            self.b().op(format_args!("nvvm.mbarrier.arrive {} : !llvm.ptr<3> -> i64", self.0));
    }

    /// Arrives once, and makes the phase wait for `bytes` of copies.
    pub fn arrive_expect(self, bytes: impl IntoVal<'b, I32>) {
        let bytes = bytes.into_val(self.b());
        self.b().stmt(format_args!("nvvm.mbarrier.arrive.expect_tx {}, {bytes} : !llvm.ptr<3>, i32", self.0));
    }

    /// Makes the phase wait for `bytes` of copies.
    pub fn expect(self, bytes: impl IntoVal<'b, I32>) {
        let bytes = bytes.into_val(self.b());
        self.b().stmt(format_args!("nvvm.mbarrier.expect_tx {}, {bytes} : !llvm.ptr<3>, i32", self.0));
    }

    /// Arrives once at the same barrier of block `rank` of the cluster.
    pub fn arrive_at_block(self, rank: impl IntoVal<'b, I32>) {
        let remote = self.b().in_block(self.0, rank);
        self.b().stmt(format_args!("nvvm.mbarrier.arrive {remote} : !llvm.ptr<7>"));
    }

    /// True if the phase of this parity is complete; may suspend the thread for a while.
    pub fn try_wait(self, parity: Val<'b, I32>) -> Val<'b, I1> {
        self.b().op(format_args!("nvvm.mbarrier.try_wait {}, {parity} : !llvm.ptr<3>, i32 -> i1", self.0))
    }

    /// Waits until the phase of this parity is complete.
    pub fn wait(self, parity: impl IntoVal<'b, I32>) {
        let parity = parity.into_val(self.b());
        self.b().wait_until(|| self.try_wait(parity));
    }
}

fn hint(policy: Option<Val<'_, I64>>) -> String {
    policy.map(|p| format!(" l2_cache_hint = {p}")).unwrap_or_default()
}

fn coordinates(at: &[Val<'_, I32>]) -> String {
    at.iter().map(Val::to_string).collect::<Vec<_>>().join(", ")
}

impl Builder {
    fn need_tma(&self) {
        self.need("bulk copies", self.gpu.tma);
    }

    /// Takes shared memory for `count` barriers.
    pub fn barriers(&self, count: u32) -> Barrier<'_> {
        self.need("transaction barriers", self.gpu.tma);
        Barrier(self.shared(count, 8))
    }

    /// Makes initialised barriers visible to copies and to the cluster; a block or cluster barrier has to follow.
    pub fn fence_barriers(&self) {
        self.stmt(format_args!("nvvm.fence.mbarrier.init"));
    }

    /// Orders this thread's writes to shared memory before copies that read it.
    pub fn fence_async(&self) {
        self.stmt(format_args!(
            "nvvm.fence.proxy {{kind = #nvvm.proxy_kind<async.shared>, space = #nvvm.shared_space<cta>}}"
        ));
    }

    /// Copies `bytes` (a multiple of 16) from device to shared memory; `done` counts them.
    pub fn bulk_load<'b, E: Ty>(
        &'b self,
        to: SharedPtr<'b, E>,
        from: GlobalPtr<'b, E>,
        bytes: impl IntoVal<'b, I32>,
        done: Barrier<'b>,
        policy: Option<Val<'b, I64>>,
    ) {
        self.need_tma();
        let (to, bytes) = (to.in_cluster(), bytes.into_val(self));
        self.stmt(format_args!(
            "nvvm.cp.async.bulk.shared.cluster.global {to}, {from}, {}, {bytes}{} : !llvm.ptr<7>, !llvm.ptr<1>",
            done.0,
            hint(policy)
        ));
    }

    /// Copies `bytes` (a multiple of 16) from shared to device memory, in this thread's bulk group.
    pub fn bulk_store<'b, E: Ty>(
        &'b self,
        to: GlobalPtr<'b, E>,
        from: SharedPtr<'b, E>,
        bytes: impl IntoVal<'b, I32>,
        policy: Option<Val<'b, I64>>,
    ) {
        self.need_tma();
        let bytes = bytes.into_val(self);
        self.stmt(format_args!(
            "nvvm.cp.async.bulk.global.shared.cta {to}, {from}, {bytes}{} : !llvm.ptr<1>, !llvm.ptr<3>",
            hint(policy)
        ));
    }

    /// Brings `bytes` (a multiple of 16) to the second-level cache.
    pub fn bulk_prefetch<'b, E: Ty>(&'b self, from: GlobalPtr<'b, E>, bytes: impl IntoVal<'b, I32>) {
        self.need_tma();
        let bytes = bytes.into_val(self);
        self.stmt(format_args!("nvvm.cp.async.bulk.prefetch {from}, {bytes} : !llvm.ptr<1>"));
    }

    /// Closes a group of this thread's bulk stores.
    pub fn bulk_commit(&self) {
        self.stmt(format_args!("nvvm.cp.async.bulk.commit.group"));
    }

    /// Waits until at most `pending` bulk groups are under way; with `read`, until those have read their source.
    pub fn bulk_wait(&self, pending: u32, read: bool) {
        let read = if read { " {read}" } else { "" };
        self.stmt(format_args!("nvvm.cp.async.bulk.wait_group {pending}{read}"));
    }

    /// Brings a tensor map to the cache.
    pub fn prefetch_tensor_map<'b>(&'b self, map: Val<'b, TensorMap>) {
        self.stmt(format_args!("nvvm.prefetch tensormap, {map} : !llvm.ptr"));
    }

    /// Copies the box at `at` (innermost first) to shared memory; `done` counts its bytes.
    pub fn tensor_load<'b, E: Ty>(
        &'b self,
        to: SharedPtr<'b, E>,
        map: Val<'b, TensorMap>,
        at: &[Val<'b, I32>],
        done: Barrier<'b>,
        policy: Option<Val<'b, I64>>,
    ) {
        self.tensor_copy(to.in_cluster(), map, at, done, None, policy);
    }

    /// Copies the box at `at` to the same place in all blocks of the cluster whose bit is set in `blocks`; the barrier
    /// of each counts the bytes.
    pub fn tensor_load_multicast<'b, E: Ty>(
        &'b self,
        to: SharedPtr<'b, E>,
        map: Val<'b, TensorMap>,
        at: &[Val<'b, I32>],
        done: Barrier<'b>,
        blocks: impl IntoVal<'b, I16>,
        policy: Option<Val<'b, I64>>,
    ) {
        self.need("clusters", self.gpu.clusters);
        let blocks = blocks.into_val(self);
        self.tensor_copy(to.in_cluster(), map, at, done, Some(blocks), policy);
    }

    fn tensor_copy<'b, E: Ty>(
        &'b self,
        to: Val<'b, Ptr<Cluster, E>>,
        map: Val<'b, TensorMap>,
        at: &[Val<'b, I32>],
        done: Barrier<'b>,
        blocks: Option<Val<'b, I16>>,
        policy: Option<Val<'b, I64>>,
    ) {
        self.need_tma();
        let multicast = blocks.map(|m| format!(" multicast_mask = {m}")).unwrap_or_default();
        self.stmt(format_args!(
            "nvvm.cp.async.bulk.tensor.shared.cluster.global {to}, {map}, {}, box[{}]{multicast}{} : !llvm.ptr<7>, !llvm.ptr",
            done.0,
            coordinates(at),
            hint(policy)
        ));
    }

    /// Copies a box from shared memory to the tensor at `at`, in this thread's bulk group.
    pub fn tensor_store<'b, E: Ty>(
        &'b self,
        map: Val<'b, TensorMap>,
        at: &[Val<'b, I32>],
        from: SharedPtr<'b, E>,
    ) {
        self.need_tma();
        self.stmt(format_args!(
            "nvvm.cp.async.bulk.tensor.global.shared.cta {map}, {from}, box[{}] : !llvm.ptr, !llvm.ptr<3>",
            coordinates(at)
        ));
    }

    /// Adds a box in shared memory to the tensor at `at`, in this thread's bulk group. The order of sums is not fixed.
    pub fn tensor_add<'b, E: Ty>(
        &'b self,
        map: Val<'b, TensorMap>,
        at: &[Val<'b, I32>],
        from: SharedPtr<'b, E>,
    ) {
        self.need_tma();
        self.stmt(format_args!(
            "nvvm.cp.async.bulk.tensor.reduce {map}, {from}, box[{}] {{redKind = #nvvm.tma_redux_kind<add>}} : !llvm.ptr, !llvm.ptr<3>",
            coordinates(at)
        ));
    }

    /// Brings a box to the second-level cache.
    pub fn tensor_prefetch<'b>(&'b self, map: Val<'b, TensorMap>, at: &[Val<'b, I32>]) {
        self.need_tma();
        self.stmt(format_args!(
            "nvvm.cp.async.bulk.tensor.prefetch {map}, box[{}] : !llvm.ptr",
            coordinates(at)
        ));
    }
}
