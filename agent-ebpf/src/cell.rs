//! Memory that two cores touch.
//!
//! A shared cell is either published (one writer, any number of readers: [`get`](Shared64::get) and
//! [`set`](Shared64::set)) or counted (any number of writers: [`add`](Shared64::add),
//! [`fetch_add`](Shared64::fetch_add) and [`swap`](Shared64::swap)). Single loads and stores are never torn; `swap` is also a full barrier.
//!
//! The core library for BPF has no atomic read-modify-write, so there the compiler's intrinsics are
//! used, which become one instruction each; natively the standard atomics do.

macro_rules! shared {
    ($name:ident, $int:ident, $atomic:ident) => {
        #[doc = concat!("A `", stringify!($int), "` shared between cores.")]
        #[repr(transparent)]
        #[derive(Debug, Default)]
        pub struct $name(machine::$atomic);

        impl $name {
            /// The value.
            #[inline(always)]
            pub fn get(&self) -> $int {
                self.0.load()
            }

            /// Publishes a value.
            #[inline(always)]
            pub fn set(&self, value: $int) {
                self.0.store(value);
            }

            /// Adds, wrapping around.
            #[inline(always)]
            pub fn add(&self, value: $int) {
                self.0.add(value);
            }

            /// Adds, wrapping around, and returns what was there before, in one step.
            #[inline(always)]
            pub fn fetch_add(&self, value: $int) -> $int {
                self.0.fetch_add(value)
            }

            /// Stores `value` and returns what was there, in one step.
            #[inline(always)]
            pub fn swap(&self, value: $int) -> $int {
                self.0.swap(value)
            }
        }
    };
}

shared!(Shared32, u32, Cell32);
shared!(Shared64, u64, Cell64);

#[cfg(target_arch = "bpf")]
mod machine {
    use core::{
        cell::UnsafeCell,
        intrinsics::{AtomicOrdering, atomic_xadd, atomic_xchg},
    };

    macro_rules! cell {
        ($name:ident, $int:ident) => {
            #[repr(transparent)]
            #[derive(Debug, Default)]
            pub(super) struct $name(UnsafeCell<$int>);

            // SAFETY: every access is one aligned machine access, or an atomic instruction.
            unsafe impl Sync for $name {}

            impl $name {
                #[inline(always)]
                pub(super) fn load(&self) -> $int {
                    // SAFETY: the pointer comes from a live reference and is aligned.
                    unsafe { self.0.get().read_volatile() }
                }

                #[inline(always)]
                pub(super) fn store(&self, value: $int) {
                    // SAFETY: as in `load`; the cell may be written through a shared reference.
                    unsafe { self.0.get().write_volatile(value) }
                }

                #[inline(always)]
                pub(super) fn add(&self, value: $int) {
                    // SAFETY: as in `store`; the instruction is atomic.
                    unsafe { atomic_xadd::<_, _, { AtomicOrdering::Relaxed }>(self.0.get(), value) };
                }

                #[inline(always)]
                pub(super) fn fetch_add(&self, value: $int) -> $int {
                    // SAFETY: as in `store`; the instruction is atomic. With a relaxed ordering the compiler
                    // takes the one that returns nothing.
                    unsafe { atomic_xadd::<_, _, { AtomicOrdering::SeqCst }>(self.0.get(), value) }
                }

                #[inline(always)]
                pub(super) fn swap(&self, value: $int) -> $int {
                    // SAFETY: as in `store`; the instruction is atomic.
                    unsafe { atomic_xchg::<_, { AtomicOrdering::SeqCst }>(self.0.get(), value) }
                }
            }
        };
    }

    cell!(Cell32, u32);
    cell!(Cell64, u64);
}

#[cfg(not(target_arch = "bpf"))]
mod machine {
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    macro_rules! cell {
        ($name:ident, $int:ident, $atomic:ident) => {
            #[repr(transparent)]
            #[derive(Debug, Default)]
            pub(super) struct $name($atomic);

            impl $name {
                #[inline(always)]
                pub(super) fn load(&self) -> $int {
                    self.0.load(Ordering::Acquire)
                }

                #[inline(always)]
                pub(super) fn store(&self, value: $int) {
                    self.0.store(value, Ordering::Release);
                }

                #[inline(always)]
                pub(super) fn add(&self, value: $int) {
                    self.0.fetch_add(value, Ordering::Relaxed);
                }

                #[inline(always)]
                pub(super) fn fetch_add(&self, value: $int) -> $int {
                    self.0.fetch_add(value, Ordering::Relaxed)
                }

                #[inline(always)]
                pub(super) fn swap(&self, value: $int) -> $int {
                    self.0.swap(value, Ordering::SeqCst)
                }
            }
        };
    }

    cell!(Cell32, u32, AtomicU32);
    cell!(Cell64, u64, AtomicU64);
}
