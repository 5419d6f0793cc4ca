//! Whole kernels with `tcgen05`: products of matrices that the kernel brings to shared memory, loads and stores of tensor
//! memory, and what is found wrong with such kernels.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails as loudly as a test")]

mod faults;
mod matrix;
mod memory;
mod pair;
mod products;
mod scaled;

use trtc_emulator::{Fault, FaultKind, Global, Limits, Sizes, launch, load};

/// Threads of a block.
const THREADS: u32 = 128;

/// A kernel of 128 threads: an image goes to shared memory, each part of the text is executed by whom it says.
#[derive(Clone)]
struct Kernel {
    /// What shared memory holds, from `%dyn` (a multiple of 1024) on.
    image: Vec<u8>,
    /// By all threads, before the barrier that everybody waits at.
    before: String,
    /// By thread 0, after it; then come commit, and a wait of all threads.
    issue: String,
    /// Columns that are stored: `out[lane][column]`.
    columns: u32,
    /// What is replaced in the text, by what.
    changes: Vec<(String, String)>,
    /// Blocks of the cluster, each of which has its part of the image and of what is stored.
    blocks: u32,
}

impl Kernel {
    fn new(image: Vec<u8>, issue: String, columns: u32) -> Kernel {
        Kernel { image, before: String::new(), issue, columns, changes: Vec::new(), blocks: 1 }
    }

    /// The kernel with something replaced that stands in it.
    fn with(&self, from: &str, to: &str) -> Kernel {
        assert!(self.text().contains(from), "{from}");
        let mut kernel = self.clone();
        kernel.changes.push((from.to_owned(), to.to_owned()));
        kernel
    }

    fn text(&self) -> String {
        let Kernel { before, issue, columns, .. } = self;
        let bytes = self.image.len() / self.blocks as usize;
        let mut stores = String::new();
        for column in (0..*columns).step_by(8) {
            stores += &format!(
                "add.u32 %r9, %mine, {column};
                 tcgen05.ld.sync.aligned.32x32b.x8.b32 {{%r10, %r11, %r12, %r13, %r14, %r15, %r16, %r17}}, [%r9];
                 tcgen05.wait::ld.sync.aligned;
                 st.global.v4.b32 [%d1+{}], {{%r10, %r11, %r12, %r13}};
                 st.global.v4.b32 [%d1+{}], {{%r14, %r15, %r16, %r17}};\n",
                4 * column,
                4 * column + 16
            );
        }
        let text = format!(
            ".version 8.8\n.target sm_100a\n.address_size 64\n.extern .shared .align 1024 .b8 dyn[];
             .visible .entry k(.param .u64 out, .param .u64 in) {{
             .reg .pred %p<10>; .reg .b16 %h<4>; .reg .b32 %r<200>; .reg .b64 %d<20>; .reg .b64 %out; .reg .b32 %t, %mine, %dyn, %me;
             .shared .align 16 .b32 taddr; .shared .align 8 .b64 mbar;
             ld.param.u64 %out, [out]; ld.param.u64 %d2, [in];
             mov.u32 %me, %tid.x; mov.b32 %dyn, dyn;
             setp.eq.u32 %p1, %me, 0; setp.lt.u32 %p2, %me, 32;
             mul.lo.u32 %r1, %me, 16;
             FILL: setp.ge.u32 %p3, %r1, {bytes}; @%p3 bra FILLED;
             cvt.u64.u32 %d3, %r1; add.u64 %d3, %d2, %d3; add.u32 %r2, %dyn, %r1;
             ld.global.v4.b32 {{%r3, %r4, %r5, %r6}}, [%d3]; st.shared.v4.b32 [%r2], {{%r3, %r4, %r5, %r6}};
             add.u32 %r1, %r1, 2048; bra FILL;
             FILLED: fence.proxy.async.shared::cta;
             @%p1 mbarrier.init.shared::cta.b64 [mbar], 1;
             @%p2 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [taddr], 512;
             @%p2 tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;
             bar.sync 0;
             ld.shared.b32 %t, [taddr];
             shr.u32 %r7, %me, 5; and.b32 %r7, %r7, 3; shl.b32 %r7, %r7, 21; add.u32 %mine, %t, %r7;
             {before}
             tcgen05.fence::before_thread_sync; bar.sync 0; tcgen05.fence::after_thread_sync; // between
             @!%p1 bra WAIT;
             {issue}
             tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [mbar];
             WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p4, [mbar], 0; @!%p4 bra WAIT;
             tcgen05.fence::after_thread_sync; // after the wait
             mul.lo.u32 %r8, %me, {pitch}; cvt.u64.u32 %d1, %r8; add.u64 %d1, %out, %d1;
             {stores}
             tcgen05.fence::before_thread_sync; bar.sync 0;
             @%p2 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %t, 512;
             ret; }}",
            pitch = 4 * columns
        );
        self.changes.iter().fold(text, |text, (from, to)| text.replace(from, to))
    }

    /// Runs it; gives the words `out[lane][column]`.
    fn run(&self) -> Result<Vec<u32>, Box<Fault>> {
        let text = self.text();
        let words = self.blocks * THREADS * self.columns;
        let kernels = load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let mut global = Global::default();
        let len = self.image.len().max(16) as u64;
        let (input, out) = (global.alloc(len, "in"), global.alloc(u64::from(4 * words), "out"));
        assert!(global.write(input, &self.image));
        let sizes = Sizes { grid: [self.blocks, 1, 1], block: [THREADS, 1, 1], shared: len as u32 };
        let limits = Limits { instructions: 1 << 20 };
        launch(&kernels[0], sizes, &[&out.to_le_bytes(), &input.to_le_bytes()], &global, 1, limits)?;
        let mut got = vec![0; (4 * words) as usize];
        assert!(global.read(out, &mut got));
        Ok(got.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect())
    }

    fn words(&self) -> Vec<u32> {
        self.run().unwrap_or_else(|e| panic!("{e}"))
    }

    fn fault(&self) -> Box<Fault> {
        self.run().expect_err("a fault is wanted")
    }

    /// The kind of its fault, and the words in it.
    fn faults(&self, kind: FaultKind, words: &str) {
        let fault = self.fault();
        assert!(fault.kind == kind && fault.what.contains(words), "{fault:?}");
    }
}
