//! What a PROXY header says (versions 1 and 2, <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::net::IpAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};

/// What a proxy says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// It is this client's.
    Client(IpAddr),
    /// It is the proxy's own, for instance to see whether the service is well, or of a client that has no IP address.
    Local,
}

/// Reads the header that these bytes begin with; `None` while they end before it does.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Statement>, Error> {
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok((header, _)) => Ok(Some(match header.proxied_address() {
            Some(address) => Statement::Client(address.source.ip().to_canonical()),
            None => Statement::Local,
        })),
        Err(Error::BufferTooShort) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn version_2(command_and_family: [u8; 2], body: &[u8]) -> Vec<u8> {
        [SIGNATURE, &command_and_family, &(body.len() as u16).to_be_bytes(), body].concat()
    }

    #[test]
    fn headers_of_both_versions_name_the_client() {
        let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0xcf, 0x08, 0x20, 0xfb];
        let v6 = [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0xcf, 8, 0x20, 0xfb]].concat();
        let client = |text: &str| Some(Statement::Client(text.parse().unwrap()));
        for (bytes, expected) in [
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 53000 8443\r\n".to_vec(), client("203.0.113.7")),
            (b"PROXY TCP6 2001:db8::7 fd00::1 53000 8443\r\n".to_vec(), client("2001:db8::7")),
            (b"PROXY TCP6 ::ffff:203.0.113.7 fd00::1 53000 8443\r\n".to_vec(), client("203.0.113.7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Some(Statement::Local)),
            (version_2([0x21, 0x11], &v4), client("203.0.113.7")),
            (version_2([0x21, 0x21], &v6), client("2001:db8::7")),
            // With type-length-values behind the addresses: an ALPN, and a kind that nobody knows.
            (
                version_2([0x21, 0x11], &[&v4[..], &[1, 0, 2, b'h', b'2', 0xe9, 0, 1, 0]].concat()),
                client("203.0.113.7"),
            ),
            (version_2([0x20, 0x00], &[]), Some(Statement::Local)),
        ] {
            assert_eq!(read(&bytes), Ok(expected), "{}", bytes.escape_ascii());
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Ok(None), "{}", bytes[..cut].escape_ascii());
            }
        }
        for bytes in [&b"PROXY TCP4 203.0.113 10.0.0.1 53000 8443\r\n"[..], b"GET / HTTP/1.1\r\n\r\n"] {
            assert!(read(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_absurd(bytes in vec(any::<u8>(), 0..300), family in any::<[u8; 2]>()) {
            let _ = read(&bytes);
            let _ = read(&version_2(family, &bytes));
            let _ = read(&[b"PROXY ", &bytes[..]].concat());
        }
    }
}
