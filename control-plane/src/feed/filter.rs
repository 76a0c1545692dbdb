//! What a reader wants to see.

use std::net::IpAddr;

use hydrometer_proto::v1::Anomaly;
use ipnet::IpNet;
use tonic::Status;

/// Filters, all of which must let an anomaly through.
#[derive(Debug)]
pub(super) struct Filter {
    kinds: Vec<i32>,
    min_severity: i32,
    node: String,
    networks: Vec<IpNet>,
    techniques: Vec<String>,
}

impl Filter {
    pub(super) fn new(
        kinds: Vec<i32>,
        min_severity: i32,
        node: String,
        networks: &[String],
        techniques: Vec<String>,
    ) -> Result<Self, Status> {
        let network = |text: &String| {
            let address = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
                Status::invalid_argument(format!(
                    "client_networks: `{text}` is no network such as 203.0.113.0/24"
                ))
            })
        };
        let networks = networks.iter().map(network).collect::<Result<_, _>>()?;
        Ok(Self { kinds, min_severity, node, networks, techniques })
    }

    /// Numbers are compared, not names, so kinds newer than this control plane can be asked for.
    pub(super) fn passes(&self, anomaly: &Anomaly) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&anomaly.kind))
            && anomaly.severity >= self.min_severity
            && self.concerns(&anomaly.node)
            && (self.networks.is_empty() || self.holds_client(anomaly))
            && (self.techniques.is_empty() || self.names_technique(&anomaly.atlas_technique))
    }

    /// Whether a node is asked for.
    pub(super) fn concerns(&self, node: &str) -> bool {
        self.node.is_empty() || self.node == node
    }

    fn holds_client(&self, anomaly: &Anomaly) -> bool {
        let holds = |client: &str| {
            let address = || client.parse::<IpAddr>().map(IpNet::from);
            let client = client.parse::<IpNet>().or_else(|_| address());
            client.is_ok_and(|client| self.networks.iter().any(|network| network.contains(&client)))
        };
        holds(&anomaly.client) || anomaly.members.iter().any(|member| holds(&member.client))
    }

    fn names_technique(&self, technique: &str) -> bool {
        self.techniques.iter().any(|wanted| {
            let rest = technique.strip_prefix(wanted.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

#[cfg(test)]
mod tests {
    use hydrometer_proto::v1::CampaignMember;

    use super::*;

    fn networks(networks: &[&str]) -> Result<Filter, Status> {
        let networks: Vec<String> = networks.iter().map(|&network| network.to_owned()).collect();
        Filter::new(Vec::new(), 0, String::new(), &networks, Vec::new())
    }

    #[test]
    fn a_client_is_within_a_network_as_a_whole_or_not_at_all() {
        let filter = networks(&["203.0.113.0/24", "2001:db8::/32", "192.0.2.1"]).unwrap();
        for (client, inside) in [
            ("203.0.113.7", true),
            ("203.0.114.7", false),
            ("192.0.2.1", true),
            ("2001:db8:1:2::/64", true),
            ("2001::/16", false),
            ("key:203.0.113.7", false),
            ("", false),
        ] {
            let anomaly = Anomaly { client: client.into(), ..Anomaly::default() };
            assert_eq!(filter.passes(&anomaly), inside, "{client}");
        }
        let member = CampaignMember { client: "203.0.113.9".into(), ..CampaignMember::default() };
        let campaign = Anomaly { client: "198.51.100.1".into(), members: vec![member], ..Anomaly::default() };
        assert!(filter.passes(&campaign));
        assert!(networks(&["203.0.113.0/33"]).unwrap_err().message().contains("203.0.113.0/33"));
    }

    #[test]
    fn a_technique_includes_its_sub_techniques() {
        let techniques = vec!["AML.T0024".to_owned()];
        let filter = Filter::new(Vec::new(), 0, String::new(), &[], techniques).unwrap();
        for (technique, named) in [
            ("AML.T0024", true),
            ("AML.T0024.002", true),
            ("AML.T00241", false),
            ("AML.T0029", false),
            ("", false),
        ] {
            let anomaly = Anomaly { atlas_technique: technique.into(), ..Anomaly::default() };
            assert_eq!(filter.passes(&anomaly), named, "{technique}");
        }
    }
}
