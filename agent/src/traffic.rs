//! How packets are read: what the kernel programs and a replay are told alike.

use hydrometer_ebpf::abi::{Address, address};
use hydrometer_engine::Ipv6Prefix;

/// How packets are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How much of an IPv6 address is a client.
    pub ipv6_prefix: Ipv6Prefix,
}

impl Traffic {
    /// The bits of an IPv6 address that tell one client from another.
    pub fn ipv6_mask(&self) -> Address {
        address(std::net::Ipv6Addr::from_bits(self.ipv6_prefix.mask()).into())
    }
}
