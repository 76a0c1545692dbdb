//! The first bytes of clear-text HTTP, enough to tell it from other protocols.

/// Whether a segment that begins with these bytes begins with the request line of an HTTP/1.x request
/// (RFC 9112 section 3; methods of RFC 9110 section 9 and PATCH).
#[inline(always)]
pub(crate) fn is_request(start: [u8; 8]) -> bool {
    // A method, a blank, and the begin of a target; compared as numbers, which is a few instructions.
    let word = u64::from_be_bytes(start);
    let begins = |token: &[u8; 8], len: u32| (word ^ u64::from_be_bytes(*token)) >> (64 - 8 * len) == 0;
    begins(b"POST /..", 6)
        || begins(b"GET /...", 5)
        || begins(b"HEAD /..", 6)
        || begins(b"PUT /...", 5)
        || begins(b"DELETE /", 8)
        || begins(b"OPTIONS ", 8)
        || begins(b"PATCH /.", 7)
        || begins(b"CONNECT ", 8)
        || begins(b"TRACE /.", 7)
        // The absolute form, as proxies are asked.
        || begins(b"POST htt", 8)
        || begins(b"GET http", 8)
}

/// Whether this byte may begin a request line: methods are written in capitals.
#[inline(always)]
pub(crate) fn may_be_request(start: [u8; 1]) -> bool {
    start[0].is_ascii_uppercase()
}

/// Whether these bytes begin the connection preface of HTTP/2 (RFC 9113 section 3.4).
#[inline(always)]
pub(crate) fn is_http2_preface(start: [u8; 8]) -> bool {
    start == *b"PRI * HT"
}

/// Length of `HTTP/1.1 100 Continue` with its blank line.
pub(crate) const CONTINUE_LEN: u32 = 25;

/// Whether these bytes begin an interim answer that asks the client to go on.
#[inline(always)]
pub(crate) fn is_continue(start: [u8; 12]) -> bool {
    start == *b"HTTP/1.1 100"
}

/// Whether these bytes begin an answer that is not an interim one (RFC 9110 section 15).
#[inline(always)]
pub(crate) fn is_final_answer(start: [u8; 12]) -> bool {
    start[..7] == *b"HTTP/1." && start[8] == b' ' && start[9] >= b'2' && start[9] <= b'5'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_told_from_bodies() {
        for line in ["POST /v1/chat", "GET / HTTP/1.1", "DELETE /v1/x", "OPTIONS * HTTP"] {
            assert!(is_request(line.as_bytes()[..8].try_into().unwrap()), "{line}");
        }
        for line in ["POSTAGE is due", "{\"model\": 1}", "GETTING / there", "HTTP/1.1 200 OK"] {
            assert!(!is_request(line.as_bytes()[..8].try_into().unwrap()), "{line}");
        }
    }
}
