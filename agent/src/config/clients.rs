//! Who counts as one client.

use clap::Args;
use hydrometer_engine::Ipv6Prefix;
use serde::Deserialize;

use super::Problems;

/// What a user may set about clients.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSettings {
    /// Leading bits of an IPv6 address that tell one client from another, 0 to 128 [default: 64]
    #[arg(long, value_name = "BITS")]
    ipv6_prefix_length: Option<u8>,
}

impl ClientSettings {
    pub(super) fn over(self, file: Self) -> Self {
        Self { ipv6_prefix_length: self.ipv6_prefix_length.or(file.ipv6_prefix_length) }
    }

    /// Checks everything and fills in the defaults.
    pub(super) fn validate(self, problems: &mut Problems) -> Ipv6Prefix {
        let Some(length) = self.ipv6_prefix_length else { return Ipv6Prefix::default() };
        Ipv6Prefix::new(length).unwrap_or_else(|| {
            problems.add(format!(
                "clients.ipv6_prefix_length is {length}: set it to 0 or more, and to 128 or less"
            ));
            Ipv6Prefix::default()
        })
    }

    /// Likewise, where there are no other settings.
    pub fn check(self) -> Result<Ipv6Prefix, super::ConfigError> {
        let mut problems = Problems::default();
        let prefix = self.validate(&mut problems);
        problems.none_or(prefix)
    }
}
