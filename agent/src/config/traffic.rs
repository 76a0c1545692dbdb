//! How packets are read.

use std::{net::IpAddr, path::PathBuf};

use clap::Args;
use hydrometer_ebpf::tunnel::Tunnels;
use hydrometer_engine::Ipv6Prefix;
use ipnet::IpNet;
use serde::Deserialize;

use super::{ConfigError, Problems};
use crate::{
    identity::{ForwardedHeader, Proxies, Secret},
    traffic::Traffic,
};

/// What the kernel programs' table of trusted proxies holds.
const MAX_PROXIES: usize = 1024;

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
    /// Believe proxies at these addresses (with or without /PREFIX) who they ask for: by the PROXY protocol, or, in
    /// clear text, by a header; several with commas or by repeating
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    trusted_proxies: Option<Vec<String>>,
    /// The header that those proxies set [default: x-forwarded-for]
    #[arg(long, value_name = "HEADER")]
    forwarded_header: Option<ForwardedHeader>,
    /// Behind those proxies a client is its API key, seen only as a keyed hash [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    api_keys: Option<bool>,
    /// File with the secret that keys are hashed with; made if there is none
    #[arg(long, value_name = "FILE")]
    api_key_secret: Option<PathBuf>,
}

impl TrafficSettings {
    pub(super) fn over(self, file: Self) -> Self {
        Self {
            ipv6_prefix_length: self.ipv6_prefix_length.or(file.ipv6_prefix_length),
            tunnels: self.tunnels.or(file.tunnels),
            trusted_proxies: self.trusted_proxies.or(file.trusted_proxies),
            forwarded_header: self.forwarded_header.or(file.forwarded_header),
            api_keys: self.api_keys.or(file.api_keys),
            api_key_secret: self.api_key_secret.or(file.api_key_secret),
        }
    }

    /// Checks everything and fills in the defaults; `secret` is where that of API keys is.
    pub(super) fn validate(self, secret: Secret, problems: &mut Problems) -> Traffic {
        let default = Traffic::default();
        let ipv6_prefix = self.ipv6_prefix_length.map_or(Some(default.ipv6_prefix), Ipv6Prefix::new);
        problems.check(ipv6_prefix.is_some(), || {
            "traffic.ipv6_prefix_length is over 128, which is all of an address: set it to 0 to 128"
                .to_owned()
        });
        let trusted: Vec<_> =
            self.trusted_proxies.iter().flatten().filter_map(|text| range(text, problems)).collect();
        problems.check(trusted.len() <= MAX_PROXIES, || {
            format!(
                "{} trusted proxies are named, and {MAX_PROXIES} is the most: name networks",
                trusted.len()
            )
        });
        let api_keys = self.api_keys.unwrap_or(false);
        let proxies = Proxies {
            header: self.forwarded_header.unwrap_or_default(),
            api_keys: api_keys.then(|| self.api_key_secret.clone().map_or(secret, Secret::File)),
            trusted,
        };
        problems.check(!proxies.trusted.is_empty() || !api_keys && self.forwarded_header.is_none(), || {
            "traffic.api_keys and traffic.forwarded_header are about trusted proxies, and none is named: set \
                 traffic.trusted_proxies"
                .to_owned()
        });
        Traffic {
            proxies,
            ipv6_prefix: ipv6_prefix.unwrap_or_default(),
            tunnels: self.tunnels.map_or(default.tunnels, |texts| tunnels(&texts, problems)),
        }
    }

    /// Likewise, where there are no other settings.
    pub fn check(self) -> Result<Traffic, ConfigError> {
        let mut problems = Problems::default();
        let traffic = self.validate(Secret::Ephemeral, &mut problems);
        problems.none_or(traffic)
    }
}

/// Reads `10.0.0.0/8` or `10.0.0.5`.
fn range(text: &str, problems: &mut Problems) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    problems.check(network.is_some(), || {
        format!("traffic.trusted_proxies: {text:?} is no address: write 10.0.0.5, 10.0.0.0/8 or fd00::/64")
    });
    network.map(|network| network.trunc())
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
