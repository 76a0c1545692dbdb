//! How packets are read: what the kernel programs and a replay are told alike.

use hydrometer_ebpf::{
    abi::{Address, address},
    tunnel::Tunnels,
};
use hydrometer_engine::Ipv6Prefix;

use crate::identity::Proxies;

/// How packets are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// How much of an IPv6 address is a client.
    pub ipv6_prefix: Ipv6Prefix,
    /// The tunnels that are followed.
    pub tunnels: Tunnels,
    /// Who is trusted to say who asks.
    pub proxies: Proxies,
}

impl Traffic {
    /// The port that is assigned to VXLAN.
    pub const VXLAN: u16 = 4789;
    /// The port that is assigned to Geneve.
    pub const GENEVE: u16 = 6081;

    /// The bits of an IPv6 address that tell one client from another.
    pub fn ipv6_mask(&self) -> Address {
        address(std::net::Ipv6Addr::from_bits(self.ipv6_prefix.mask()).into())
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            ipv6_prefix: Ipv6Prefix::default(),
            tunnels: Tunnels { vxlan: Self::VXLAN.to_be(), geneve: Self::GENEVE.to_be(), gre: 1, ip: 1 },
            proxies: Proxies::default(),
        }
    }
}
