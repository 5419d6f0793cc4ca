//! Pointers, loads and stores with their alignment, shared memory, asynchronous copies, cache hints.

use super::asm::Effect;
use super::value::Cluster;
use super::{
    Bf16, Builder, Evict, F32, GlobalPtr, I1, I8, I32, I64, IntoVal, Ptr, SharedPtr, Space, Ty, Val, Vector,
};
use trtc_ir::DType;

impl<'b, S: Space, E: Ty> Val<'b, Ptr<S, E>> {
    /// Element `index`.
    pub fn at(self, index: impl IntoVal<'b, I32>) -> Self {
        let index = index.into_val(self.b);
        self.step(&index.to_string(), "i32", &E::mlir())
    }

    /// Element `index`, where 32 bits may not be enough.
    pub fn at64(self, index: Val<'b, I64>) -> Self {
        self.step(&index.to_string(), "i64", &E::mlir())
    }

    /// `offset` bytes on.
    pub fn at_bytes(self, offset: impl IntoVal<'b, I32>) -> Self {
        let offset = offset.into_val(self.b);
        self.step(&offset.to_string(), "i32", "i8")
    }

    fn step(self, index: &str, index_ty: &str, element: &str) -> Self {
        let ty = Ptr::<S, E>::mlir();
        self.b.op(format_args!(
            "llvm.getelementptr inbounds {self}[{index}] : ({ty}, {index_ty}) -> {ty}, {element}"
        ))
    }

    /// The same address as elements of another type.
    pub fn cast<F: Ty>(self) -> Val<'b, Ptr<S, F>> {
        self.b.val(self.id)
    }

    /// The element.
    pub fn load(self) -> Val<'b, E> {
        self.load_as(E::BYTES)
    }

    /// `N` elements, aligned to all their bytes or 16, whichever is less.
    pub fn load_vector<const N: usize>(self) -> Val<'b, Vector<E, N>> {
        self.cast::<Vector<E, N>>().load_as((E::BYTES * N as u32).min(16))
    }

    fn load_as(self, align: u32) -> Val<'b, E> {
        self.b.op(format_args!(
            "llvm.load {self} {{alignment = {align} : i64}} : {} -> {}",
            Ptr::<S, E>::mlir(),
            E::mlir()
        ))
    }

    /// Stores an element.
    pub fn store(self, value: Val<'b, E>) {
        self.store_as(value, E::BYTES);
    }

    /// Stores `N` elements, aligned to all their bytes or 16, whichever is less.
    pub fn store_vector<const N: usize>(self, values: Val<'b, Vector<E, N>>) {
        self.cast::<Vector<E, N>>().store_as(values, (E::BYTES * N as u32).min(16));
    }

    fn store_as(self, value: Val<'b, E>, align: u32) {
        self.b.stmt(format_args!(
            "llvm.store {value}, {self} {{alignment = {align} : i64}} : {}, {}",
            E::mlir(),
            Ptr::<S, E>::mlir()
        ));
    }
}

impl<'b, E: Ty> SharedPtr<'b, E> {
    /// The 32-bit address in shared memory.
    pub fn address(self) -> Val<'b, I32> {
        self.b.op(format_args!("llvm.ptrtoint {self} : !llvm.ptr<3> to i32"))
    }

    /// The same address as seen from the cluster.
    pub fn in_cluster(self) -> Val<'b, Ptr<Cluster, E>> {
        self.b.op(format_args!("llvm.addrspacecast {self} : !llvm.ptr<3> to !llvm.ptr<7>"))
    }
}

impl<'b, E: Ty> GlobalPtr<'b, E> {
    /// 16 bytes that no kernel writes and that are read once: they leave no trace in the first-level cache.
    pub fn load_streaming(self) -> Val<'b, Vector<I32, 4>> {
        self.b.need_ptx(74);
        let text = "ld.global.nc.L1::no_allocate.v4.b32 {$0, $1, $2, $3}, [$4];";
        self.b.words(self.b.ptx_values(Effect::Keeps, text, 4, &[self.raw()]))
    }

    /// 16 bytes that no kernel writes, kept in the second-level cache as `policy` says.
    pub fn load_with_policy(self, policy: Val<'b, I64>) -> Val<'b, Vector<I32, 4>> {
        self.b.need_ptx(74);
        let text = "ld.global.nc.L2::cache_hint.v4.b32 {$0, $1, $2, $3}, [$4], $5;";
        self.b.words(self.b.ptx_values(Effect::Keeps, text, 4, &[self.raw(), policy.raw()]))
    }

    /// Asks for the line of this address to be brought to the second-level cache.
    pub fn prefetch_l2(self) {
        self.b.ptx("prefetch.global.L2 [$0];", &[self.raw()]);
    }
}

/// A pointer to f32 or bf16 elements, the type chosen when the kernel is built; values are f32.
#[derive(Clone, Copy)]
pub struct FloatPtr<'b> {
    ptr: GlobalPtr<'b, I8>,
    dtype: DType,
}

impl<'b> From<GlobalPtr<'b, F32>> for FloatPtr<'b> {
    fn from(ptr: GlobalPtr<'b, F32>) -> FloatPtr<'b> {
        FloatPtr { ptr: ptr.cast(), dtype: DType::F32 }
    }
}

impl<'b> FloatPtr<'b> {
    /// Element `index`.
    pub fn at(self, index: impl IntoVal<'b, I32>) -> FloatPtr<'b> {
        let ptr = match self.dtype {
            DType::F32 => self.ptr.cast::<F32>().at(index).cast(),
            _ => self.ptr.cast::<Bf16>().at(index).cast(),
        };
        FloatPtr { ptr, ..self }
    }

    /// Element `index`, where 32 bits may not be enough.
    pub fn at64(self, index: Val<'b, I64>) -> FloatPtr<'b> {
        let ptr = match self.dtype {
            DType::F32 => self.ptr.cast::<F32>().at64(index).cast(),
            _ => self.ptr.cast::<Bf16>().at64(index).cast(),
        };
        FloatPtr { ptr, ..self }
    }

    /// `N` elements, aligned to all their bytes or 16.
    pub fn load<const N: usize>(self) -> [Val<'b, F32>; N] {
        match self.dtype {
            DType::F32 => self.ptr.cast::<F32>().load_vector::<N>().elements(),
            _ => self.ptr.cast::<Bf16>().load_vector::<N>().to_f32().elements(),
        }
    }

    /// Stores `N` elements, rounded to the type.
    pub fn store<const N: usize>(self, values: [Val<'b, F32>; N]) {
        let v = self.ptr.b.vector(values);
        match self.dtype {
            DType::F32 => self.ptr.cast::<F32>().store_vector(v),
            _ => self.ptr.cast::<Bf16>().store_vector(v.to_bf16()),
        }
    }

    /// 16 bytes as they lie.
    pub fn load_words(self) -> [Val<'b, I32>; 4] {
        self.ptr.cast::<I32>().load_vector::<4>().elements()
    }

    /// Stores 16 bytes as they are to lie.
    pub fn store_words(self, words: [Val<'b, I32>; 4]) {
        self.ptr.cast::<I32>().store_vector(self.ptr.b.vector(words));
    }

    /// The place itself.
    pub fn bytes(self) -> GlobalPtr<'b, I8> {
        self.ptr
    }

    /// What a value becomes when it is stored and loaded again.
    pub fn rounded(self, value: Val<'b, F32>) -> Val<'b, F32> {
        match self.dtype {
            DType::F32 => value,
            _ => value.to_bf16().to_f32(),
        }
    }

    /// This pointer or another of the same type.
    pub fn select(self, condition: Val<'b, I1>, other: FloatPtr<'b>) -> FloatPtr<'b> {
        FloatPtr { ptr: condition.select(self.ptr, other.ptr), ..self }
    }
}

impl Builder {
    fn words<'b>(&'b self, words: Vec<Val<'b, I32>>) -> Val<'b, Vector<I32, 4>> {
        self.vector(std::array::from_fn(|i| words[i]))
    }

    fn float(&self, dtype: DType) -> DType {
        self.need(dtype.name(), matches!(dtype, DType::F32 | DType::Bf16));
        dtype
    }

    /// The next parameter: a pointer to f32 or bf16 elements that kernels write.
    pub fn param_floats(&self, dtype: DType) -> FloatPtr<'_> {
        FloatPtr { ptr: self.param_ptr(), dtype: self.float(dtype) }
    }

    /// The next parameter: a pointer to f32 or bf16 elements that no kernel writes.
    pub fn param_const_floats(&self, dtype: DType) -> FloatPtr<'_> {
        FloatPtr { ptr: self.param_const(), dtype: self.float(dtype) }
    }

    /// Takes shared memory for `count` elements, at a multiple of `align` bytes (a power of two).
    ///
    /// All of it is one region, static where it fits into 48 KiB and else asked for at launch.
    pub fn shared<E: Ty>(&self, count: u32, align: u32) -> SharedPtr<'_, E> {
        let align = align.max(E::BYTES).next_power_of_two();
        let (base, offset) = {
            let mut s = self.state.borrow_mut();
            let offset = s.shared.next_multiple_of(align);
            // Too much is an error at the end.
            s.shared = offset.saturating_add(count.saturating_mul(E::BYTES));
            s.shared_align = s.shared_align.max(align);
            (s.shared_base, offset)
        };
        let base = base.unwrap_or_else(|| {
            let id = self.fresh();
            let mut s = self.state.borrow_mut();
            s.prologue.push_str(&format!("  %{id} = llvm.mlir.addressof @smem : !llvm.ptr<3>\n"));
            s.shared_base = Some(id);
            id
        });
        let base: SharedPtr<'_, E> = self.val(base);
        base.at_bytes(offset)
    }

    /// Copies 16 bytes from device to shared memory, past the first-level cache (`cp.async.cg`).
    pub fn cp_async<'b, E: Ty>(&'b self, to: SharedPtr<'b, E>, from: GlobalPtr<'b, E>) {
        self.need("cp.async", self.gpu.cp_async);
        self.stmt(format_args!(
            "nvvm.cp.async.shared.global {to}, {from}, 16, cache = cg : !llvm.ptr<3>, !llvm.ptr<1>"
        ));
    }

    /// Copies 16 bytes if `condition`, else writes zeros and reads nothing.
    pub fn cp_async_or_zero<'b, E: Ty>(
        &'b self,
        to: SharedPtr<'b, E>,
        from: GlobalPtr<'b, E>,
        condition: Val<'b, I1>,
    ) {
        self.cp_async_part(to, from, condition.select(16, 0));
    }

    /// Copies the first `bytes` of 16 bytes, at most 16, and writes zeros behind them.
    pub fn cp_async_part<'b, E: Ty>(
        &'b self,
        to: SharedPtr<'b, E>,
        from: GlobalPtr<'b, E>,
        bytes: Val<'b, I32>,
    ) {
        self.need("cp.async", self.gpu.cp_async);
        self.stmt(format_args!(
            "nvvm.cp.async.shared.global {to}, {from}, 16, cache = cg, {bytes} : !llvm.ptr<3>, !llvm.ptr<1>, i32"
        ));
    }

    /// Closes a group of this thread's copies.
    pub fn cp_async_commit(&self) {
        self.stmt(format_args!("nvvm.cp.async.commit.group"));
    }

    /// Waits until at most `pending` of this thread's latest groups are under way.
    pub fn cp_async_wait(&self, pending: u32) {
        self.stmt(format_args!("nvvm.cp.async.wait.group {pending}"));
    }

    /// A second-level cache policy for [`GlobalPtr::load_with_policy`] and bulk copies.
    pub fn cache_policy(&self, evict: Evict) -> Val<'_, I64> {
        self.need_ptx(74);
        let name = match evict {
            Evict::First => "evict_first",
            Evict::Last => "evict_last",
        };
        self.ptx_value(Effect::Pure, &format!("createpolicy.fractional.L2::{name}.b64 $0, 1.0;"), &[])
    }

    /// Adds 1 to a counter after all memory accesses before it, for the whole device to see.
    pub fn release_add<'b>(&'b self, counter: GlobalPtr<'b, I32>, value: impl IntoVal<'b, I32>) {
        let value = value.into_val(self);
        self.ptx("red.release.gpu.global.add.u32 [$0], $1;", &[counter.raw(), value.raw()]);
    }

    /// Adds to a counter and gives what it was; orders nothing else.
    pub fn add_relaxed<'b>(
        &'b self,
        counter: GlobalPtr<'b, I32>,
        value: impl IntoVal<'b, I32>,
    ) -> Val<'b, I32> {
        let value = value.into_val(self);
        let text = "atom.relaxed.gpu.global.add.u32 $0, [$1], $2;";
        self.ptx_value(Effect::Keeps, text, &[counter.raw(), value.raw()])
    }

    /// Adds to a counter and gives what it was. What this thread did before is seen by whoever adds later, and what
    /// was done before earlier additions is seen after it.
    pub fn add_acquire_release<'b>(
        &'b self,
        counter: GlobalPtr<'b, I32>,
        value: impl IntoVal<'b, I32>,
    ) -> Val<'b, I32> {
        let value = value.into_val(self);
        let text = "atom.acq_rel.gpu.global.add.u32 $0, [$1], $2;";
        self.ptx_value(Effect::Keeps, text, &[counter.raw(), value.raw()])
    }

    /// A counter's value; memory accesses after it see what was done before the releases that it counts.
    pub fn load_acquire<'b>(&'b self, counter: GlobalPtr<'b, I32>) -> Val<'b, I32> {
        self.ptx_value(Effect::Keeps, "ld.acquire.gpu.global.u32 $0, [$1];", &[counter.raw()])
    }
}
