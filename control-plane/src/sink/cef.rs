//! ArcSight's Common Event Format, version 0: one line for each state of an anomaly.
//!
//! Invariant: whatever an anomaly holds, the line has seven bars that separate, and each key of the
//! extension is one that was meant.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
};

use hydrometer_proto::v1::{AnomalyState, Severity};

use super::finding::{Finding, Who, millis};

/// Of a campaign's members; the rest is counted.
const MEMBERS: usize = 10;
/// What the format allows for a custom string.
const MAX_VALUE: usize = 4000;

/// The line.
pub(super) fn render(finding: Finding<'_>) -> String {
    let kind = finding.kind();
    let mut line = format!(
        "CEF:0|Hydrometer|hydrometer-control|{}|{}|{}|{}|",
        env!("CARGO_PKG_VERSION"),
        Header(&kind),
        Header(&finding.title()),
        severity(finding.severity()),
    );
    for (index, (key, value)) in
        extension(finding).into_iter().filter(|(_, value)| !value.is_empty()).enumerate()
    {
        let blank = if index == 0 { "" } else { " " };
        let end = (0..=MAX_VALUE.min(value.len())).rev().find(|&end| value.is_char_boundary(end));
        // Writing to a string cannot fail.
        let _ = write!(line, "{blank}{key}={}", Value(&value[..end.unwrap_or(0)]));
    }
    line
}

fn severity(severity: Severity) -> u8 {
    match severity {
        Severity::Unspecified => 0,
        Severity::Low => 3,
        Severity::Medium => 5,
        Severity::High => 8,
        Severity::Critical => 10,
    }
}

fn extension(finding: Finding<'_>) -> Vec<(&'static str, String)> {
    let anomaly = finding.anomaly();
    let mut pairs = vec![
        ("rt", finding.time().div_euclid(1_000_000).to_string()),
        ("start", anomaly.first_seen.map_or(String::new(), |time| millis(time).to_string())),
        ("end", anomaly.last_seen.map_or(String::new(), |time| millis(time).to_string())),
        ("externalId", anomaly.id.clone()),
        ("act", action(finding.state()).to_owned()),
        ("cat", anomaly.atlas_technique.clone()),
        ("dvchost", anomaly.node.clone()),
        ("cnt", anomaly.evidence.as_ref().map_or(String::new(), |evidence| evidence.exchanges.to_string())),
        ("msg", finding.summary().to_owned()),
    ];
    pairs.extend(client(&anomaly.client));
    let strings = [
        ("cs1", "cs1Label", "technique", anomaly.atlas_technique_name.clone()),
        ("cs2", "cs2Label", "benignIf", anomaly.benign_if.clone()),
        ("cs3", "cs3Label", "members", members(finding)),
    ];
    for (key, label, name, value) in strings {
        if !value.is_empty() {
            pairs.extend([(key, value), (label, name.to_owned())]);
        }
    }
    pairs.extend([("cn1", anomaly.revision.to_string()), ("cn1Label", "revision".to_owned())]);
    pairs.extend([("cfp1", anomaly.score.to_string()), ("cfp1Label", "score".to_owned())]);
    pairs
}

fn action(state: AnomalyState) -> &'static str {
    match state {
        AnomalyState::Unspecified => "",
        AnomalyState::Open => "opened",
        AnomalyState::Updated => "updated",
        AnomalyState::Closed => "closed",
    }
}

/// `src` takes IPv4 only; a network and the hash of a key are names.
fn client(client: &str) -> Vec<(&'static str, String)> {
    match Who::of(client) {
        Who::Address(IpAddr::V4(address)) => vec![("src", address.to_string())],
        Who::Address(IpAddr::V6(address)) => {
            vec![("c6a2", address.to_string()), ("c6a2Label", "Source IPv6 Address".to_owned())]
        }
        Who::Network(name) | Who::Name(name) => vec![("suid", name.to_owned())],
    }
}

fn members(finding: Finding<'_>) -> String {
    let all = &finding.anomaly().members;
    let mut names: Vec<&str> = all.iter().take(MEMBERS).map(|member| member.client.as_str()).collect();
    let more = (all.len() > MEMBERS).then(|| format!("and {} more", all.len() - MEMBERS));
    names.extend(more.as_deref());
    names.join(", ")
}

/// Text between bars.
struct Header<'a>(&'a str);

/// Text after an equals sign.
struct Value<'a>(&'a str);

impl fmt::Display for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0, &['\\', '|'])
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, self.0, &['\\', '='])
    }
}

fn escape(f: &mut fmt::Formatter<'_>, text: &str, special: &[char]) -> fmt::Result {
    for character in text.chars() {
        match character {
            '\n' | '\r' => f.write_char(' ')?,
            other if other.is_control() => {}
            other => {
                if special.contains(&other) {
                    f.write_char('\\')?;
                }
                f.write_char(other)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hydrometer_proto::v1::{Anomaly, AnomalyKind, CampaignMember, Evidence};
    use prost_types::Timestamp;

    use super::*;
    use crate::store::Row;

    fn row(anomaly: Anomaly) -> Row {
        Row { position: 7, stored: 1_000_000_000, anomaly, lost: None }
    }

    #[test]
    fn a_state_is_one_line_with_what_an_analyst_sorts_by() {
        let row = row(Anomaly {
            id: "c5e4488dbb0ba68b".into(),
            kind: AnomalyKind::LogitHarvest.into(),
            state: AnomalyState::Updated.into(),
            severity: Severity::High.into(),
            score: 0.93,
            atlas_technique: "AML.T0024.002".into(),
            atlas_technique_name: "Extract AI Model".into(),
            client: "10.77.0.10".into(),
            last_seen: Some(Timestamp { seconds: 2, nanos: 5_000_000 }),
            evidence: Some(Evidence {
                summary: "a = b | c\nd\\e".into(),
                exchanges: 22,
                ..Evidence::default()
            }),
            node: "gpu-07".into(),
            revision: 3,
            ..Anomaly::default()
        });
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "CEF:0|Hydrometer|hydrometer-control|{version}|logit_harvest|Logit harvest by 10.77.0.10|8|rt=2005 \
             end=2005 externalId=c5e4488dbb0ba68b act=updated cat=AML.T0024.002 dvchost=gpu-07 cnt=22 \
             msg=a \\= b | c d\\\\e src=10.77.0.10 cs1=Extract AI Model cs1Label=technique cn1=3 cn1Label=revision \
             cfp1=0.93 cfp1Label=score"
        );
        assert_eq!(render(Finding::of(&row)), expected);
    }

    #[test]
    fn what_a_client_is_called_cannot_add_fields() {
        for client in ["x|y|10|", "a=b act=closed", "k\nrt=0"] {
            let row = row(Anomaly { id: "a".into(), client: client.into(), ..Anomaly::default() });
            let line = render(Finding::of(&row));
            let bars = line.replace("\\|", "").matches('|').count();
            let bars_of_values = line.split_once("suid=").unwrap().1.matches('|').count();
            assert_eq!(bars - bars_of_values, 7, "{line}");
            assert!(!line.split_once("|rt=").unwrap().1.contains("act="), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn addresses_of_both_families_and_long_campaigns_have_their_keys() {
        let member =
            |number| CampaignMember { client: format!("10.0.0.{number}"), ..CampaignMember::default() };
        let of = |client: &str| row(Anomaly { client: client.into(), ..Anomaly::default() });
        assert!(
            render(Finding::of(&of("2001:db8::1")))
                .contains("c6a2=2001:db8::1 c6a2Label=Source IPv6 Address")
        );
        assert!(render(Finding::of(&of("fd77:0:0:3::/64"))).contains("suid=fd77:0:0:3::/64"));
        let campaign = row(Anomaly { members: (0..14).map(member).collect(), ..Anomaly::default() });
        let line = render(Finding::of(&campaign));
        assert!(line.contains("10.0.0.9, and 4 more cs3Label=members"), "{line}");
    }
}
