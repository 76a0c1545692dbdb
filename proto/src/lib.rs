//! The gRPC interfaces of Hydrometer, generated from `hydrometer/v1/*.proto`.
//!
//! The .proto files are the documentation: every message and field says its unit there, and the
//! comments come through into the Rust types.

/// `hydrometer.v1`.
#[allow(
    missing_docs,
    clippy::pedantic,
    clippy::large_enum_variant,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    unreachable_pub,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("hydrometer.v1");
}

/// The encoded `FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
