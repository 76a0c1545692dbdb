//! How many tokens an exchange cost, as far as its bytes tell.
//!
//! A streamed answer has one server record a token, nearly. Of any other answer, and of a request,
//! bytes tell: 4.5 a token in JSON, after what an answer without text has (headers and the JSON
//! around it). Both are estimates, for ranking and for impact; nobody is billed by them.

use crate::{Exchange, window::MIN_STREAMED_RECORDS};

/// Bytes of one token, in English text with the quoting of JSON.
const BYTES_PER_TOKEN: f64 = 4.5;

/// Bytes of an answer that says nothing.
const EMPTY_ANSWER_BYTES: f64 = 500.0;

/// What a token of an answer costs, in tokens of a request: the usual ratio of price lists.
pub(crate) const ANSWER_TO_REQUEST_PRICE: f64 = 4.0;

/// Tokens of the answer.
pub(crate) fn of_answer(exchange: &Exchange) -> f64 {
    if is_streamed(exchange) {
        return f64::from(exchange.records);
    }
    ((exchange.answer_bytes as f64 - EMPTY_ANSWER_BYTES) / BYTES_PER_TOKEN).max(0.0)
}

/// Whether the answer's records are its tokens, nearly.
pub(crate) fn is_streamed(exchange: &Exchange) -> bool {
    exchange.records >= MIN_STREAMED_RECORDS && exchange.record_median < 4096
}

/// Tokens of a request of so many bytes.
pub(crate) fn of_request(bytes: f64) -> f64 {
    bytes / BYTES_PER_TOKEN
}
