//! Where elements lie: tensor maps, swizzles, matrix descriptors, fragments in registers and tensor memory.
