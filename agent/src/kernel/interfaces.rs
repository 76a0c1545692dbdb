//! The network interfaces of this host, and word of every change.
//!
//! In flow the kernel's notifications (rtnetlink), out flows the whole list, read anew after each change:
//! what a lost notification would have said is in the next list. Invariant: `changed` loses nothing when
//! it is cancelled.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::NetlinkMessage,
    packet_route::{
        RouteNetlinkMessage,
        address::AddressAttribute,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp},
    },
    sys::SocketAddr,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::KernelError;

/// The list is read again after this long also without word of a change.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// One change makes several notifications: the list is read when they have come.
const SETTLE: Duration = Duration::from_millis(50);

/// One network interface at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number of it, which no other one has had.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Addresses of this host on it.
    pub addresses: Vec<IpAddr>,
    /// Whether its frames begin with an Ethernet header.
    pub is_ethernet: bool,
    /// Interfaces that all its packets cross: the members of a bond, the device under a VLAN. None for
    /// a bridge, of whose packets each crosses the ports it concerns.
    pub lower: Vec<u32>,
    /// XDP programs on it, by id.
    pub xdp: Vec<u32>,
}

/// The list of interfaces, kept up to date by a task of its own.
#[derive(Debug)]
pub(super) struct Interfaces {
    list: watch::Receiver<Vec<Interface>>,
    task: JoinHandle<()>,
}

impl Interfaces {
    /// Reads the list and follows it from here on.
    pub(super) async fn follow() -> Result<Self, KernelError> {
        let netlink = Netlink::open()?;
        let (sender, list) = watch::channel(netlink.list().await?);
        Ok(Self { list, task: tokio::spawn(follow(netlink, sender)) })
    }

    /// Reads the list once.
    pub(super) async fn list() -> Result<Vec<Interface>, KernelError> {
        Netlink::open()?.list().await
    }

    /// The list as it is now.
    pub(super) fn now(&mut self) -> Vec<Interface> {
        self.list.borrow_and_update().clone()
    }

    /// The list, as soon as it was read anew, on a change or after a while. Cancel safe.
    pub(super) async fn changed(&mut self) -> Vec<Interface> {
        if self.list.changed().await.is_err() {
            // The sender goes only with this.
            std::future::pending::<()>().await;
        }
        self.now()
    }
}

impl Drop for Interfaces {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(mut netlink: Netlink, sender: watch::Sender<Vec<Interface>>) {
    loop {
        netlink.wait().await;
        match netlink.list().await {
            Ok(list) => drop(sender.send_replace(list)),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "interfaces that appear now are not seen"
                );
                sleep(READ_AGAIN).await;
                if let Ok(again) = Netlink::open() {
                    netlink = again;
                }
            }
        }
    }
}

/// A connection to the kernel.
struct Netlink {
    handle: Handle,
    notifications: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    connection: JoinHandle<()>,
}

impl Netlink {
    fn open() -> Result<Self, KernelError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, notifications) = rtnetlink::new_multicast_connection(&groups)
            .map_err(|error| KernelError::Interfaces(error.to_string()))?;
        Ok(Self { handle, notifications, connection: tokio::spawn(connection) })
    }

    /// Waits for a notification, and for those that come with it.
    async fn wait(&mut self) {
        match timeout(READ_AGAIN, self.notifications.next()).await {
            Ok(Some(_)) => sleep(SETTLE).await,
            // The connection is broken: the next list will say so.
            Ok(None) => sleep(READ_AGAIN).await,
            Err(_) => {}
        }
        while let Some(Some(_)) = self.notifications.next().now_or_never() {}
    }

    async fn list(&self) -> Result<Vec<Interface>, KernelError> {
        let failed = |error: rtnetlink::Error| KernelError::Interfaces(error.to_string());
        let links: Vec<_> = self.handle.link().get().execute().try_collect().await.map_err(failed)?;
        let addresses: Vec<_> = self.handle.address().get().execute().try_collect().await.map_err(failed)?;
        let mut by_index: HashMap<u32, Vec<IpAddr>> = HashMap::new();
        for message in addresses {
            let own = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            // On a point-to-point link ADDRESS is the peer's; IPv6 has ADDRESS only.
            let own = own.or_else(|| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            });
            by_index.entry(message.header.index).or_default().extend(own);
        }
        let address_of = |index| by_index.get(&index).cloned().unwrap_or_default();
        Ok(links.iter().map(|link| interface(link, &links, address_of(link.header.index))).collect())
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn interface(link: &LinkMessage, links: &[LinkMessage], addresses: Vec<IpAddr>) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        addresses,
        is_ethernet: matches!(link.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
        lower: lower(link, links),
        ..Interface::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Xdp(attributes) => interface.xdp = attributes.iter().filter_map(program).collect(),
            _ => {}
        }
    }
    interface
}

fn program(attribute: &LinkXdp) -> Option<u32> {
    match *attribute {
        LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) if id != 0 => Some(id),
        _ => None,
    }
}

/// Those that all packets of `link` cross.
fn lower(link: &LinkMessage, links: &[LinkMessage]) -> Vec<u32> {
    match kind(link) {
        Some(InfoKind::Bond | InfoKind::Team) => {
            let is_member = |other: &&LinkMessage| {
                other.attributes.contains(&LinkAttribute::Controller(link.header.index))
            };
            links.iter().filter(is_member).map(|member| member.header.index).collect()
        }
        Some(
            InfoKind::Vlan | InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap,
        ) => {
            // One in another network namespace has a number of that namespace.
            if link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_))) {
                return Vec::new();
            }
            link.attributes
                .iter()
                .filter_map(|attribute| match attribute {
                    LinkAttribute::Link(index) => Some(*index),
                    _ => None,
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }),
        _ => None,
    })
}
