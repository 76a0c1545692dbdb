//! Bytes of the packet at hand: directly where they lie in one piece, by a helper elsewhere.
//!
//! Invariant: no read is outside the packet; the verifier checks the same comparison again. The packet's
//! bounds are asked for at each read: kept, they would make the verifier tell apart how far each path
//! has read already.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use hydrometer_ebpf::packet::Packet;

/// Offsets up to here are read directly: the verifier follows no further than 64 KiB.
const MAX_DIRECT: usize = 0x7fff;

/// Monotonic nanoseconds do not come to this for 36 years; those since the epoch passed it in 2006.
const MAX_UPTIME: u64 = 1 << 60;

/// The address of `offset`, if a `T` from there lies between `data` and `data_end`.
#[inline(always)]
fn direct<T>(data: usize, data_end: usize, offset: usize) -> Option<usize> {
    // Of `start + 1 > end` the compiler makes `start >= end`, from which the verifier learns nothing:
    // single bytes, which are rare, are left to the helper.
    if size_of::<T>() < 2 || offset > MAX_DIRECT {
        return None;
    }
    let start = data + clamp(offset);
    if start + size_of::<T>() > data_end { None } else { Some(start) }
}

/// Does nothing to what is at most [`MAX_DIRECT`], and shows the verifier that it is: older ones lose the bound
/// on the way here. The compiler would leave out what it knows to do nothing.
#[inline(always)]
fn clamp(offset: usize) -> usize {
    let mut offset = offset;
    // SAFETY: arithmetic on a register.
    unsafe { asm!("{0} &= 0x7fff", inout(reg) offset, options(pure, nomem, nostack)) };
    offset
}

/// `N` bytes at an address that [`direct`] has given.
#[inline(always)]
fn bytes<const N: usize>(start: usize) -> [u8; N] {
    // SAFETY: the bytes lie inside the packet, as `direct` has compared; bytes need no alignment.
    unsafe { *(start as *const [u8; N]) }
}

/// `N` words at an address that [`direct`] has given. The headers of a packet are not aligned to words, for
/// which the compiler would load each byte on its own; the machines that run the programs need not.
#[inline(always)]
fn words<const N: usize>(start: usize) -> [u32; N] {
    core::array::from_fn(|at| {
        let word: u64;
        // SAFETY: the bytes lie inside the packet, as `direct` has compared, and are only read.
        unsafe {
            asm!("{word} = *(u32 *)({at} + 0)", word = lateout(reg) word, at = in(reg) start + at * 4, options(readonly, nostack));
        }
        word as u32
    })
}

/// Where a helper puts bytes. Packets may be read at any address, the stack only at aligned ones.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Room<T>(T);

/// A packet at XDP. With `FRAGS` it may have more pieces than the first.
pub(crate) struct XdpView<'a, const FRAGS: bool>(pub(crate) &'a XdpContext);

impl<const FRAGS: bool> Packet for XdpView<'_, FRAGS> {
    #[inline(always)]
    fn len(&self) -> u32 {
        if FRAGS {
            // SAFETY: the context is the one this program was called with.
            (unsafe { bpf_xdp_get_buff_len(self.0.ctx) }) as u32
        } else {
            (self.0.data_end() - self.0.data()) as u32
        }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        match direct::<[u8; N]>(self.0.data(), self.0.data_end(), offset as usize) {
            Some(start) => Some(bytes(start)),
            None => self.gather(offset, [0; N]),
        }
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        match direct::<[u32; N]>(self.0.data(), self.0.data_end(), offset as usize) {
            Some(start) => Some(words(start)),
            None => self.gather(offset, [0; N]),
        }
    }

    #[inline(always)]
    fn copy(&self, offset: u32, to: &mut [u8]) -> bool {
        // SAFETY: the helper writes as many bytes as there is room for, or fails.
        unsafe { bpf_xdp_load_bytes(self.0.ctx, offset, to.as_mut_ptr().cast(), to.len() as u32) == 0 }
    }
}

impl<const FRAGS: bool> XdpView<'_, FRAGS> {
    /// Reads as much as `zero` takes, wherever it lies.
    #[inline(always)]
    fn gather<T: Copy>(&self, offset: u32, zero: T) -> Option<T> {
        let mut room = Room(zero);
        let to = (&raw mut room).cast();
        // SAFETY: the helper writes the size of T, for which there is room, or fails; T is bytes or words.
        let result = unsafe { bpf_xdp_load_bytes(self.0.ctx, offset, to, size_of::<T>() as u32) };
        if result == 0 { Some(room.0) } else { None }
    }
}

/// A packet at TC; often only its headers lie in the first piece.
pub(crate) struct SkbView<'a>(pub(crate) &'a TcContext);

impl Packet for SkbView<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    /// TCP notes on each segment when it may leave (since Linux 4.20, for pacing), so nobody has to read the clock again.
    /// Those of other sockets may count from the epoch.
    #[inline(always)]
    fn sent_at(&self) -> Option<u64> {
        // SAFETY: the context is the one this program was called with.
        let time = unsafe { (*self.0.skb.skb).tstamp };
        (1..MAX_UPTIME).contains(&time).then_some(time)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        match direct::<[u8; N]>(self.0.data(), self.0.data_end(), offset as usize) {
            Some(start) => Some(bytes(start)),
            None => self.gather(offset, [0; N]),
        }
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        match direct::<[u32; N]>(self.0.data(), self.0.data_end(), offset as usize) {
            Some(start) => Some(words(start)),
            None => self.gather(offset, [0; N]),
        }
    }

    #[inline(always)]
    fn copy(&self, offset: u32, to: &mut [u8]) -> bool {
        // SAFETY: the helper writes as many bytes as there is room for, or fails.
        unsafe { bpf_skb_load_bytes(self.0.as_ptr(), offset, to.as_mut_ptr().cast(), to.len() as u32) == 0 }
    }
}

impl SkbView<'_> {
    /// Reads as much as `zero` takes, wherever it lies.
    #[inline(always)]
    fn gather<T: Copy>(&self, offset: u32, zero: T) -> Option<T> {
        let mut room = Room(zero);
        let to = (&raw mut room).cast();
        // SAFETY: the helper writes the size of T, for which there is room, or fails; T is bytes or words.
        let result = unsafe { bpf_skb_load_bytes(self.0.as_ptr(), offset, to, size_of::<T>() as u32) };
        if result == 0 { Some(room.0) } else { None }
    }
}
