//! Blocks together and grids together: clusters, registers moved between warpgroups, dependent launches.

use super::value::Cluster;
use super::{Builder, I32, IntoVal, Ptr, SharedPtr, Ty, Val};

impl Builder {
    /// Makes the kernel run in clusters of this many blocks.
    pub fn cluster(&self, blocks: [u32; 3]) {
        self.need("clusters", self.gpu.clusters);
        self.state.borrow_mut().cluster = Some(blocks);
    }

    /// This block's number in its cluster.
    pub fn cluster_rank(&self) -> Val<'_, I32> {
        self.need("clusters", self.gpu.clusters);
        self.op(format_args!("nvvm.read.ptx.sreg.cluster.ctarank : i32"))
    }

    /// Waits for all threads of the cluster; what they wrote is visible after it.
    pub fn sync_cluster(&self) {
        self.need("clusters", self.gpu.clusters);
        self.stmt(format_args!("nvvm.cluster.arrive {{aligned}}"));
        self.stmt(format_args!("nvvm.cluster.wait {{aligned}}"));
    }

    /// Waits for all threads of the cluster, without making what they wrote visible; barriers that were made before
    /// [`Builder::fence_barriers`] are.
    pub fn meet_cluster(&self) {
        self.need("clusters", self.gpu.clusters);
        self.stmt(format_args!("nvvm.cluster.arrive.relaxed {{aligned}}"));
        self.stmt(format_args!("nvvm.cluster.wait {{aligned}}"));
    }

    /// The same place in the shared memory of block `rank` of the cluster.
    pub fn in_block<'b, E: Ty>(
        &'b self,
        place: SharedPtr<'b, E>,
        rank: impl IntoVal<'b, I32>,
    ) -> Val<'b, Ptr<Cluster, E>> {
        self.need("clusters", self.gpu.clusters);
        let rank = rank.into_val(self);
        self.op(format_args!("nvvm.mapa {place}, {rank} : !llvm.ptr<3> -> !llvm.ptr<7>"))
    }

    /// Gives registers of this warpgroup back, down to `registers` a thread (a multiple of 8).
    pub fn fewer_registers(&self, registers: u32) {
        self.set_registers("decrease", registers);
    }

    /// Takes registers for this warpgroup, up to `registers` a thread (a multiple of 8).
    pub fn more_registers(&self, registers: u32) {
        self.set_registers("increase", registers);
    }

    fn set_registers(&self, action: &str, registers: u32) {
        self.need(
            "setmaxnreg",
            self.gpu.setmaxnreg && registers.is_multiple_of(8) && (24..=256).contains(&registers),
        );
        self.need_arch();
        // Without a bound on blocks ptxas does not know the registers at entry, and ignores the instruction (C7508).
        self.state.borrow_mut().min_blocks.get_or_insert(1);
        self.stmt(format_args!("nvvm.setmaxregister {action} {registers}"));
    }

    /// Lets the next grid start and waits for those before this one, on targets where grids overlap; nothing elsewhere.
    pub fn after_grids(&self) {
        if self.gpu.pdl {
            self.launch_dependents();
            self.wait_for_grids();
        }
    }

    /// Waits until the grids before this one are complete and their writes visible.
    pub fn wait_for_grids(&self) {
        self.need("dependent launch", self.gpu.pdl);
        self.state.borrow_mut().waits = super::Waits::Yes;
        self.stmt(format_args!("nvvm.griddepcontrol wait"));
    }

    /// Lets the next grid start once every block of this one has come here.
    pub fn launch_dependents(&self) {
        self.need("dependent launch", self.gpu.pdl);
        self.stmt(format_args!("nvvm.griddepcontrol launch_dependents"));
    }
}
