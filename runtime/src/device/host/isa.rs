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
}

impl Isa {
    /// All of them, weakest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];

    /// The best that this processor has.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().rev().find(|i| i.available()).unwrap_or(Isa::Scalar)
    }

    /// True if this processor can execute it.
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
            match self {
                Isa::Scalar => true,
                Isa::Avx2 => avx2,
                Isa::Avx512 => avx512,
                Isa::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
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
        }
    }
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
                    $crate::device::host::isa::Isa::Avx512 | $crate::device::host::isa::Isa::Avx512Bf16 => {
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
