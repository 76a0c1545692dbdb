//! How packets are read.

use clap::Args;
use hydrometer_ebpf::tunnel::Tunnels;
use hydrometer_engine::Ipv6Prefix;
use serde::Deserialize;

use super::{ConfigError, Problems};
use crate::traffic::Traffic;

/// What a user may set about traffic.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficSettings {
    /// Leading bits of an IPv6 address that tell one client from another, 0 to 128 [default: 64]
    #[arg(long, value_name = "BITS")]
    ipv6_prefix_length: Option<u8>,
    /// Follow what is inside these tunnels: vxlan, geneve (either with :PORT), gre, ip; or none
    /// [default: vxlan:4789,geneve:6081,gre,ip]
    #[arg(long, value_name = "TUNNEL", value_delimiter = ',')]
    tunnels: Option<Vec<String>>,
}

impl TrafficSettings {
    pub(super) fn over(self, file: Self) -> Self {
        Self {
            ipv6_prefix_length: self.ipv6_prefix_length.or(file.ipv6_prefix_length),
            tunnels: self.tunnels.or(file.tunnels),
        }
    }

    /// Checks everything and fills in the defaults.
    pub(super) fn validate(self, problems: &mut Problems) -> Traffic {
        let default = Traffic::default();
        let ipv6_prefix = self.ipv6_prefix_length.map_or(Some(default.ipv6_prefix), Ipv6Prefix::new);
        problems.check(ipv6_prefix.is_some(), || {
            "traffic.ipv6_prefix_length is over 128, which is all of an address: set it to 0 to 128"
                .to_owned()
        });
        Traffic {
            ipv6_prefix: ipv6_prefix.unwrap_or_default(),
            tunnels: self.tunnels.map_or(default.tunnels, |texts| tunnels(&texts, problems)),
        }
    }

    /// Likewise, where there are no other settings.
    pub fn check(self) -> Result<Traffic, ConfigError> {
        let mut problems = Problems::default();
        let traffic = self.validate(&mut problems);
        problems.none_or(traffic)
    }
}

fn tunnels(texts: &[String], problems: &mut Problems) -> Tunnels {
    let mut tunnels = Tunnels::default();
    for text in texts.iter().filter(|_| texts != ["none"]) {
        let (name, port) =
            text.split_once(':').map_or((text.as_str(), None), |(name, port)| (name, Some(port)));
        let port_or =
            |usual: u16| port.map_or(Some(usual), |port| port.parse().ok().filter(|&port| port != 0));
        let known = match (name, port) {
            ("vxlan", _) => port_or(Traffic::VXLAN).map(|port| (&mut tunnels.vxlan, port.to_be())),
            ("geneve", _) => port_or(Traffic::GENEVE).map(|port| (&mut tunnels.geneve, port.to_be())),
            ("gre", None) => Some((&mut tunnels.gre, 1)),
            ("ip", None) => Some((&mut tunnels.ip, 1)),
            _ => None,
        };
        match known {
            Some((setting, value)) => *setting = value,
            None => problems.add(format!(
                "traffic.tunnels: {text:?} is no tunnel: write vxlan, geneve, vxlan:PORT, geneve:PORT, gre or ip, or none alone"
            )),
        }
    }
    tunnels
}
