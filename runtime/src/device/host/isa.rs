//! Which instructions the kernels may use, and the macro that compiles one body for each of them.
//!
//! The matrix kernels are written for their instructions by hand; everything else is a plain loop that the
//! compiler vectorises once for each instruction set through [`per_isa`].

/// An instruction set that kernels are written for. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable code.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
    /// The same with BF16 dot products.
    Avx512Bf16,
    /// The same with tile registers and their BF16 products, which the system lets the process use.
    Amx,
}

impl Isa {
    /// All of them, weakest first.
    pub const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// The best that this processor has.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().rev().find(|i| i.available()).unwrap_or(Isa::Scalar)
    }

    /// True if this process can execute it.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
            match self {
                Isa::Scalar => true,
                Isa::Avx2 => avx2,
                Isa::Avx512 => avx512,
                Isa::Avx512Bf16 => bf16,
                Isa::Amx => bf16 && has_tiles() && may_use_tiles(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Scalar
        }
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "portable",
            Isa::Avx2 => "AVX2",
            Isa::Avx512 => "AVX-512",
            Isa::Avx512Bf16 => "AVX-512 BF16",
            Isa::Amx => "AVX-512 BF16, AMX",
        }
    }
}

/// True if the processor has tile registers and their BF16 products. It has AVX-512, so it has leaf 7.
#[cfg(target_arch = "x86_64")]
fn has_tiles() -> bool {
    const TILE: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    features & (TILE | BF16) == TILE | BF16
}

/// Asks the system, once, to let all threads of this process use tile registers: their 8 KiB are not part of what it
/// keeps for a thread otherwise.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    static ALLOWED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ALLOWED.get_or_init(|| {
        // SAFETY: the call takes two numbers and changes nothing but the permission.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    })
}

/// Other systems are not asked.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn may_use_tiles() -> bool {
    false
}

/// Defines a function that runs a body compiled for the instruction set in its first argument, `isa`. The body is
/// an `#[inline(always)]` function whose first const parameter says whether fused multiply-add is native.
///
/// The device admits only an [`Isa`] that the processor has, which is what makes the calls sound.
macro_rules! per_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident<$($g:ident: $bound:path),*>($($arg:ident: $ty:ty),* $(,)?)
        $(-> $ret:ty)? = $body:ident) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "kernels take their operands one by one")]
        $vis fn $name<$($g: $bound),*>(isa: $crate::device::host::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn with_avx512<$($g: $bound),*>($($arg: $ty),*) $(-> $ret)? {
                    $body::<true, $($g),*>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn with_avx2<$($g: $bound),*>($($arg: $ty),*) $(-> $ret)? {
                    $body::<true, $($g),*>($($arg),*)
                }
                match isa {
                    $crate::device::host::isa::Isa::Avx512
                    | $crate::device::host::isa::Isa::Avx512Bf16
                    | $crate::device::host::isa::Isa::Amx => {
                        // SAFETY: the device admits only an instruction set that the processor has.
                        return unsafe { with_avx512::<$($g),*>($($arg),*) };
                    }
                    $crate::device::host::isa::Isa::Avx2 => {
                        // SAFETY: as above.
                        return unsafe { with_avx2::<$($g),*>($($arg),*) };
                    }
                    $crate::device::host::isa::Isa::Scalar => {}
                }
            }
            let _ = isa;
            $body::<false, $($g),*>($($arg),*)
        }
    };
}
pub(super) use per_isa;
