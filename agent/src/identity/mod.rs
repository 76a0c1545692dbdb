//! On whose behalf a trusted proxy asks: from what it says to the client of each exchange.
//!
//! In flow the events of the library (`hydrometer_ebpf::head`), from the kernel or from a replay; exchanges that
//! come from a trusted proxy get the client that it names. Whoever is not trusted is not even read. Invariant:
//! memory is bounded, whatever comes; what is given up is counted, and its exchange stays the proxy's.

mod api_key;
mod forwarded;
mod proxy_protocol;

use std::net::{IpAddr, Ipv6Addr};

use hydrometer_ebpf::{
    abi::{self, ExchangeEvent},
    head::{HeadEvent, MAX_HEAD},
};
use hydrometer_engine::{ClientId, Exchange, Identity, Ipv6Prefix};
use ipnet::IpNet;

use self::{api_key::ApiKeys, proxy_protocol::Statement};
pub use self::{
    api_key::{Secret, SecretError},
    forwarded::ForwardedHeader,
};
use crate::{
    assembly::Assembly,
    known::{Table, TableStatus},
    recent::Recent,
    wire,
};

/// Heads and PROXY headers that are put together at a time: 4 MiB at most.
const MAX_UNFINISHED: usize = 2048;
/// Requests whose client is remembered until they are answered.
const MAX_REQUESTS: usize = 1 << 16;

/// Who is trusted to say who asks, and how it is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Where trusted proxies are.
    pub trusted: Vec<IpNet>,
    /// The header that they set.
    pub header: ForwardedHeader,
    /// With a secret, clients are told apart by their API keys, where they have one, instead of by their addresses.
    pub api_keys: Option<Secret>,
}

impl Proxies {
    /// Whether this is the address of a trusted proxy.
    pub fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|range| range.contains(&address))
    }
}

/// Who asks on which flow, and in which request.
#[derive(Debug)]
pub struct Identities {
    proxies: Proxies,
    api_keys: Option<ApiKeys>,
    prefix: Ipv6Prefix,
    /// What PROXY headers said, by the number of their flow.
    flows: Table<Source>,
    /// Who asks, by [`request_key`].
    requests: Recent<Client>,
    /// Of which a part has come; PROXY headers as request 0.
    unfinished: Recent<Assembly>,
    /// What could not be read.
    unreadable: u64,
}

/// Where a connection comes from, by its PROXY header: an IPv6 address, or an IPv4 address as one; zeros where it is
/// the proxy's own.
#[derive(Clone, Copy, Debug, Default)]
struct Source([u8; 16]);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Address(IpAddr),
    Key(u64),
}

/// What the head of a request tells.
enum Head {
    /// It is not whole.
    Unfinished,
    /// Not who asks.
    Nobody,
    /// Who asks.
    Of(Client),
}

impl Identities {
    /// Remembers what was said on up to `flows` flows.
    pub fn new(proxies: Proxies, prefix: Ipv6Prefix, flows: usize) -> Result<Self, SecretError> {
        Ok(Self {
            api_keys: proxies.api_keys.as_ref().map(ApiKeys::open).transpose()?,
            // Nobody says anything where nobody is trusted.
            flows: Table::new(if proxies.trusted.is_empty() { 1 } else { flows }),
            proxies,
            prefix,
            requests: Recent::new(MAX_REQUESTS),
            unfinished: Recent::new(MAX_UNFINISHED),
            unreadable: 0,
        })
    }

    /// Who is trusted.
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// Takes the bytes that an event tells of.
    pub fn take(&mut self, event: &HeadEvent, bytes: &[u8]) {
        let flow = wire::head_flow(event);
        let key = request_key(flow, event.turn);
        let mut assembly = self.unfinished.remove(key).unwrap_or_default();
        assembly.add(event.position as usize, bytes);
        let begin = assembly.begin();
        if event.turn == 0 {
            match proxy_protocol::read(begin) {
                Ok(Some(statement)) => *self.flows.entry(flow) = statement.into(),
                Ok(None) if begin.len() < MAX_HEAD as usize => self.unfinished.insert(key, assembly),
                Ok(None) | Err(_) => self.unreadable += 1,
            }
        } else {
            match self.read_head(event, flow, begin) {
                Ok(Head::Of(client)) => self.requests.insert(key, client),
                Ok(Head::Nobody) => {}
                Ok(Head::Unfinished) if begin.len() < MAX_HEAD as usize => {
                    self.unfinished.insert(key, assembly);
                }
                Ok(Head::Unfinished) | Err(_) => self.unreadable += 1,
            }
        }
    }

    /// Who asks with this head.
    fn read_head(&mut self, event: &HeadEvent, flow: u64, bytes: &[u8]) -> Result<Head, httparse::Error> {
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut fields);
        if request.parse(bytes)?.is_partial() {
            return Ok(Head::Unfinished);
        }
        if let Some(keys) = &self.api_keys
            && let Some(key) = keys.identify(request.headers)
        {
            return Ok(Head::Of(Client::Key(key)));
        }
        // Where the connection comes from, as far as a PROXY header tells.
        let source = self.flows.get(flow).and_then(|source| source.address());
        let source = source.unwrap_or_else(|| abi::ip(event.client));
        let client = forwarded::client(&self.proxies, source, request.headers);
        Ok(client.map_or(Head::Nobody, |address| Head::Of(Client::Address(address))))
    }

    /// Gives an exchange the client that its proxy names. All events from before the exchange must have been taken.
    pub fn identify(&mut self, event: &ExchangeEvent, exchange: &mut Exchange) {
        let source = abi::ip(event.client);
        if !self.proxies.trust(source) {
            return;
        }
        let by_flow = self.flows.get(exchange.flow).and_then(|source| source.address());
        let by_flow = by_flow.filter(|&address| !self.proxies.trust(address)).map(Client::Address);
        let by_request = self.requests.remove(request_key(exchange.flow, event.turn));
        (exchange.client, exchange.identity) = match by_request.or(by_flow) {
            Some(Client::Address(address)) => (ClientId::new(address, self.prefix), Identity::Forwarded),
            Some(Client::Key(key)) => (ClientId::Key(key), Identity::Forwarded),
            None => (exchange.client, Identity::Proxy),
        };
    }

    /// The walk that is under way has met `flow`.
    pub(crate) fn see(&mut self, flow: u64) {
        self.flows.see(flow);
    }

    /// `flow` has gone.
    pub(crate) fn forget(&mut self, flow: u64) {
        self.flows.remove(flow);
    }

    /// A walk over all flows has ended: what was said on those it did not meet will soon be forgotten.
    pub(crate) fn walked(&mut self) {
        self.flows.walked();
    }

    /// Flows that were forgotten to make room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.flows.forgotten()
    }

    /// What PROXY headers said.
    pub(crate) fn table(&self) -> TableStatus {
        self.flows.status("proxied flows")
    }

    /// Heads and PROXY headers that could not be read, of which a part never came, or that were forgotten before
    /// their request was answered.
    pub fn lost(&self) -> u64 {
        self.unreadable + self.unfinished.dropped() + self.requests.dropped()
    }
}

impl Source {
    fn address(self) -> Option<IpAddr> {
        let address = Ipv6Addr::from(self.0);
        (!address.is_unspecified()).then(|| IpAddr::V6(address).to_canonical())
    }
}

impl From<Statement> for Source {
    fn from(statement: Statement) -> Self {
        Self(match statement {
            Statement::Client(IpAddr::V4(address)) => address.to_ipv6_mapped().octets(),
            Statement::Client(IpAddr::V6(address)) => address.octets(),
            Statement::Local => [0; 16],
        })
    }
}

/// A key for a request of a flow: the number of a flow has 48 bits.
fn request_key(flow: u64, turn: u32) -> u64 {
    flow | u64::from(turn & 0xffff) << 48
}
