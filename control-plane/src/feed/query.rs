//! Questions about the past: what is stored, newest first, in pages.

use std::sync::Arc;

use hydrometer_proto::v1::{QueryRequest, QueryResponse, QueryResult};
use prost::Message as _;
use tonic::Status;

use super::{blocking, filter::Filter, mask::Mask, nanos, position, timestamp};
use crate::{
    store::{Row, Store, StoreError},
    token::Token,
};

const USUAL_RESULTS: usize = 100;
const MAX_RESULTS: usize = 1000;
/// Below what gRPC libraries take in one message by default.
const MAX_BYTES: usize = 3 << 20;
/// So many states are looked through for one page, whatever matches.
const MAX_LOOKED_AT: usize = 20_000;

/// What is asked for.
struct Question {
    filter: Filter,
    mask: Mask,
    id: String,
    /// Positions above this one and below `before`.
    after: u64,
    before: u64,
    results: usize,
}

/// The page that is asked for.
pub(super) async fn answer(store: &Arc<Store>, request: QueryRequest) -> Result<QueryResponse, Status> {
    let filter = Filter::new(
        request.kinds,
        request.min_severity,
        request.node,
        &request.client_networks,
        request.atlas_techniques,
    )?;
    let mask = Mask::new(request.fields)?;
    let newest = *store.newest().borrow();
    let (since, until) = (request.since.map(nanos), request.until.map(nanos));
    let (after, end) = blocking(store, move |store| {
        let after = since.map_or(Ok(0), |since| store.last_before(since))?;
        Ok((after, until.map_or(Ok(newest), |until| store.last_before(until))?))
    })
    .await?;
    let before = match request.page_token.as_str() {
        "" => end + 1,
        token => position("page_token", token, store, newest)?,
    };
    let results = match request.page_size as usize {
        0 => USUAL_RESULTS,
        size => size.min(MAX_RESULTS),
    };
    let question = Question { filter, mask, id: request.id, after, before, results };
    blocking(store, move |store| question.look_through(store)).await
}

impl Question {
    fn look_through(mut self, store: &Store) -> Result<QueryResponse, StoreError> {
        let (mut results, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        while looked_at < MAX_LOOKED_AT {
            let rows = store.page_back(self.before)?;
            if rows.is_empty() {
                self.before = 0;
            }
            for row in rows {
                if row.position <= self.after {
                    self.before = 0;
                    break;
                }
                looked_at += 1;
                self.before = row.position;
                if let Some(result) = self.result(row) {
                    bytes += result.encoded_len();
                    results.push(result);
                    if results.len() == self.results || bytes >= MAX_BYTES {
                        looked_at = MAX_LOOKED_AT;
                        break;
                    }
                }
            }
            if self.before <= self.after + 1 {
                return Ok(QueryResponse { results, next_page_token: String::new() });
            }
        }
        let next = Token { store: store.id(), position: self.before };
        Ok(QueryResponse { results, next_page_token: next.to_string() })
    }

    fn result(&self, Row { stored, anomaly, .. }: Row) -> Option<QueryResult> {
        let wanted = (self.id.is_empty() || self.id == anomaly.id) && self.filter.passes(&anomaly);
        wanted
            .then(|| QueryResult { anomaly: Some(self.mask.apply(anomaly)), stored: Some(timestamp(stored)) })
    }
}
