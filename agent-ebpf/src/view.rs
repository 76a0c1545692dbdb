//! Bytes of the packet at hand: directly where they lie in one piece, by a helper elsewhere.
//!
//! Invariant: no read is outside the packet; the verifier checks the same comparison again. The packet's
//! bounds are asked for at each read: kept, they would make the verifier tell apart how far each path
//! has read already.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use hydrometer_ebpf::packet::Packet;

/// Offsets up to here are read directly: the verifier follows no further than 64 KiB.
const MAX_DIRECT: usize = 0x7fff;

/// Reads `N` bytes at `offset`, if they lie between `data` and `data_end`.
#[inline(always)]
fn direct<const N: usize>(data: usize, data_end: usize, offset: usize) -> Option<[u8; N]> {
    // Of `start + 1 > end` the compiler makes `start >= end`, from which the verifier learns nothing:
    // single bytes, which are rare, are left to the helper.
    if N < 2 || offset > MAX_DIRECT {
        return None;
    }
    let start = data + offset;
    if start + N > data_end {
        return None;
    }
    // SAFETY: the bytes lie inside the packet, by the comparison above; bytes need no alignment.
    Some(unsafe { *(start as *const [u8; N]) })
}

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
        if let Some(bytes) = direct(self.0.data(), self.0.data_end(), offset as usize) {
            return Some(bytes);
        }
        let mut bytes = [0; N];
        // SAFETY: the helper writes N bytes, for which there is room, or fails.
        let result = unsafe { bpf_xdp_load_bytes(self.0.ctx, offset, bytes.as_mut_ptr().cast(), N as u32) };
        if result == 0 { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn copy(&self, offset: u32, to: &mut [u8]) -> bool {
        // SAFETY: the helper writes as many bytes as there is room for, or fails.
        unsafe { bpf_xdp_load_bytes(self.0.ctx, offset, to.as_mut_ptr().cast(), to.len() as u32) == 0 }
    }
}

/// A packet at TC; often only its headers lie in the first piece.
pub(crate) struct SkbView<'a>(pub(crate) &'a TcContext);

impl Packet for SkbView<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        if let Some(bytes) = direct(self.0.data(), self.0.data_end(), offset as usize) {
            return Some(bytes);
        }
        let mut bytes = [0; N];
        // SAFETY: the helper writes N bytes, for which there is room, or fails.
        let result =
            unsafe { bpf_skb_load_bytes(self.0.as_ptr(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        if result == 0 { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn copy(&self, offset: u32, to: &mut [u8]) -> bool {
        // SAFETY: the helper writes as many bytes as there is room for, or fails.
        unsafe { bpf_skb_load_bytes(self.0.as_ptr(), offset, to.as_mut_ptr().cast(), to.len() as u32) == 0 }
    }
}
