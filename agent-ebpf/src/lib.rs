//! From packets to exchanges: the part of Hydrometer that runs in the kernel, as a library.
//!
//! ```text
//! packet.rs   bytes in, one Segment out (Ethernet .. TCP/UDP)
//!    │
//! track.rs    the flow a segment belongs to; the two entry points, ingress() and egress()
//!    │
//! request.rs  the client's direction: where a request begins
//! answer.rs   the server's direction: what an answer amounts to
//!    │        stream.rs  placing a segment in its byte stream (retransmits, gaps)
//!    │        walk.rs    walking records across segments
//!    │        tls.rs     TLS records, the ServerHello
//!    │        http.rs    the first bytes of clear-text HTTP
//!    │        hello.rs   the bytes of a ClientHello, for userspace
//!    │        rtt.rs     how long the client takes to answer in the handshakes
//!    │
//! stage.rs    what only some packets need, each in a program of its own
//! tunnel.rs   what is inside VXLAN, Geneve, GRE and IP in IP
//! proxy.rs    the PROXY protocol of trusted proxies
//! head.rs     heads of their requests, for userspace
//! http1.rs    where heads end in clear-text HTTP/1, and requests behind others in a segment
//! http2.rs    HTTP/2 in clear text, stream by stream
//! http2_tls.rs  HTTP/2 inside TLS, by the sizes of its records
//! quic.rs     HTTP/3: which datagrams are requests, which are answers
//!    │
//! admission.rs  who may claim an entry: a client that has shown that it is there
//! flow.rs     the state of one connection, and how an exchange ends
//! client.rs   counters of one client
//! abi.rs      what kernel and userspace share
//! cell.rs     memory that two cores touch
//! ```
//!
//! The library makes no kernel calls and keeps no state: maps, clock and ring buffer come in through
//! the traits of `track.rs`. `main.rs` binds them to the kernel; a replay binds them to ordinary
//! collections, and gets the same exchanges from the same packets.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", allow(internal_features, reason = "BPF targets have no atomic add in core"))]

pub mod abi;
mod admission;
mod answer;
pub mod cell;
pub mod client;
pub mod flow;
pub mod head;
pub mod hello;
mod http;
mod http1;
pub mod http2;
pub mod http2_tls;
pub mod packet;
pub mod proxy;
mod quic;
mod request;
mod rtt;
pub mod stage;
mod stream;
mod tls;
pub mod track;
pub mod tunnel;
mod walk;
