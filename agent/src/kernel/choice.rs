//! Where to watch: of the interfaces that a packet crosses one after the other, exactly one.
//!
//! In flow the interfaces of the host and the [`Selection`], out flow those to attach to and, for the
//! others that were wanted, the reason why not. Invariant: no packet crosses two of those chosen by way of
//! a bond, a VLAN device or another one of the kind (see [`Interface::lower`]).
//!
//! The lower device is preferred: it sees every packet in its driver, as it came, with its VLAN tags, and a
//! bond's membership stays free. Where a bond is wanted and only some of its members are, the bond is
//! watched, and those members are not.

use std::collections::{BTreeSet, HashMap};

use super::{Interface, Selection, Unwatched};

/// Where to watch, and where not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choice<'a> {
    /// Interfaces to attach to.
    pub(super) watch: Vec<&'a Interface>,
    /// Interfaces that were wanted, and why nothing is attached there.
    pub(super) left_out: Vec<Unwatched>,
}

/// Chooses among `interfaces`.
pub(super) fn choose<'a>(selection: &Selection, interfaces: &'a [Interface]) -> Choice<'a> {
    let host = Host {
        by_index: interfaces.iter().map(|interface| (interface.index, interface)).collect(),
        wanted: interfaces
            .iter()
            .filter(|interface| selection.wants(interface) && interface.is_ethernet)
            .map(|interface| interface.index)
            .collect(),
    };
    let mut choice = Choice::default();
    for interface in interfaces.iter().filter(|interface| selection.wants(interface)) {
        match host.reason_against(interface) {
            None => choice.watch.push(interface),
            Some(reason) => {
                choice.left_out.push(Unwatched { interface: interface.name.clone(), reason });
            }
        }
    }
    choice
}

struct Host<'a> {
    by_index: HashMap<u32, &'a Interface>,
    /// Interfaces that were asked for and can be watched.
    wanted: BTreeSet<u32>,
}

impl Host<'_> {
    fn reason_against(&self, interface: &Interface) -> Option<String> {
        if !interface.is_ethernet {
            return Some("its frames have no Ethernet header".to_owned());
        }
        if self.is_seen_below(interface) {
            return Some(format!("its packets are seen at {}", self.names(&interface.lower)));
        }
        let upper = self
            .wanted
            .iter()
            .filter_map(|index| self.by_index.get(index))
            .find(|upper| !self.is_seen_below(upper) && self.is_below(interface.index, upper))?;
        Some(format!("its packets are seen at {}, of which not all lower devices were asked for", upper.name))
    }

    /// Whether every packet of `interface` crosses a lower device that was asked for.
    fn is_seen_below(&self, interface: &Interface) -> bool {
        !interface.lower.is_empty()
            && interface.lower.iter().all(|index| {
                self.wanted.contains(index)
                    || self.by_index.get(index).is_some_and(|lower| self.is_seen_below(lower))
            })
    }

    fn is_below(&self, index: u32, upper: &Interface) -> bool {
        upper.lower.iter().any(|&lower| {
            lower == index || self.by_index.get(&lower).is_some_and(|lower| self.is_below(index, lower))
        })
    }

    fn names(&self, indices: &[u32]) -> String {
        let name = |index| self.by_index.get(index).map_or("?", |interface| interface.name.as_str());
        indices.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `NAME` or `NAME:LOWER+LOWER`, in any order.
    fn host(sketches: &[&str]) -> Vec<Interface> {
        let names: Vec<_> = sketches.iter().map(|sketch| sketch.split(':').next().unwrap()).collect();
        let index = |name| names.iter().position(|other| *other == name).unwrap() as u32 + 1;
        sketches
            .iter()
            .map(|sketch| {
                let (name, lower) = sketch.split_once(':').unwrap_or((sketch, ""));
                Interface {
                    index: index(name),
                    name: name.to_owned(),
                    is_ethernet: name != "wg0",
                    lower: lower.split('+').filter(|lower| !lower.is_empty()).map(index).collect(),
                    ..Interface::default()
                }
            })
            .collect()
    }

    #[test]
    fn a_packet_is_seen_at_one_of_the_devices_it_crosses() {
        let bond = ["eth0", "eth1", "bond0:eth0+eth1", "bond0.7:bond0"];
        for (sketches, include, watched) in [
            // Nothing on top of anything.
            (&["eth0", "eth1", "lo"][..], "eth0 eth1", "eth0 eth1"),
            // A VLAN device and what it is on.
            (&["eth0", "eth0.7:eth0"], "/.*/", "eth0"),
            (&["eth0", "eth0.7:eth0"], "eth0.7", "eth0.7"),
            (&["eth0", "eth0.7:eth0", "eth0.8:eth0"], "/eth0\\..*/", "eth0.7 eth0.8"),
            // VLAN in VLAN, also where the one in between was not asked for.
            (&["eth0", "a:eth0", "b:a"], "eth0 b", "eth0"),
            (&["eth0", "a:eth0", "b:a"], "a b", "a"),
            // A bond: its members, unless only some were asked for.
            (&bond, "/.*/", "eth0 eth1"),
            (&bond, "bond0", "bond0"),
            (&bond, "bond0 eth0", "bond0"),
            (&bond, "bond0.7 eth0", "bond0.7"),
            (&bond, "bond0.7 bond0 eth0", "bond0"),
            (&bond, "bond0.7 eth0 eth1", "eth0 eth1"),
            (&bond, "eth0", "eth0"),
            // A bond without members sees nothing yet, and is where they will come.
            (&["bond0"], "bond0", "bond0"),
            // No Ethernet.
            (&["eth0", "wg0"], "/.*/", "eth0"),
        ] {
            let interfaces = host(sketches);
            let include = include.split(' ').map(|pattern| pattern.parse().unwrap()).collect();
            let choice = choose(&Selection { include, exclude: Vec::new() }, &interfaces);
            let names: Vec<_> = choice.watch.iter().map(|interface| interface.name.as_str()).collect();
            assert_eq!(names.join(" "), watched, "{sketches:?}: {choice:?}");
        }
    }

    #[test]
    fn the_reason_says_where_the_packets_are_seen() {
        let interfaces = host(&["eth0", "eth1", "bond0:eth0+eth1"]);
        let reason = |include: &[&str]| {
            let include = include.iter().map(|pattern| pattern.parse().unwrap()).collect();
            let choice = choose(&Selection { include, exclude: Vec::new() }, &interfaces);
            let left_out = choice.left_out.into_iter().next().unwrap();
            format!("{}: {}", left_out.interface, left_out.reason)
        };
        assert_eq!(reason(&["/.*/"]), "bond0: its packets are seen at eth0, eth1");
        assert!(reason(&["bond0", "eth1"]).starts_with("eth1: its packets are seen at bond0, of which"));
    }
}
