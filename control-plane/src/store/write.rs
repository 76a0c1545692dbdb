//! What a batch changes.

use prost::Message as _;
use redb::{ReadableTable, WriteTransaction};

use super::{
    Cursor, LOG, LOSSES, ORIGINS, Origin, OriginState, Receipt, Report, SINKS, StoreError, What, file::META,
    retention,
};
use hydrometer_proto::v1::LostStates;

/// Writes a batch into a transaction; the receipts and the newest position after it.
pub(super) fn apply(
    transaction: &WriteTransaction,
    reports: &[Report],
    cursors: &[Cursor],
    now: i64,
) -> Result<(Vec<Receipt>, u64), StoreError> {
    let mut log = transaction.open_table(LOG)?;
    let mut losses = transaction.open_table(LOSSES)?;
    let mut origins = transaction.open_table(ORIGINS)?;
    let mut sinks = transaction.open_table(SINKS)?;
    for Cursor { sink, position } in cursors {
        sinks.insert(sink.as_str(), position)?;
    }
    let last = log.last()?.map(|(position, row)| (position.value(), row.value().0));
    let (mut newest, last_stored) = last.unwrap_or((0, i64::MIN));
    // The clock of the host may step back; the order of the log must not.
    let stored = now.max(last_stored);
    let mut added = 0;
    let mut receipts = Vec::with_capacity(reports.len());
    for Report { origin, what } in reports {
        let mut state = origin_state(&origins, origin)?.unwrap_or_default();
        state.last_seen = now;
        let mut missing = 0;
        match what {
            What::Hello { version } => state.version.clone_from(version),
            What::Heartbeat { losses, clients } => (state.losses, state.clients) = (*losses, *clients),
            What::Anomaly { sequence, bytes } if *sequence > state.acked => {
                newest += 1;
                log.insert(newest, (stored, bytes.as_slice()))?;
                added += bytes.len() as u64;
                missing = sequence - state.acked - 1;
                if missing > 0 {
                    losses.insert(
                        newest,
                        lost(origin, state.acked + 1, sequence - 1).encode_to_vec().as_slice(),
                    )?;
                }
                state.missing = state.missing.saturating_add(missing);
                state.acked = *sequence;
            }
            What::Anomaly { .. } => {}
        }
        origins.insert(key(origin), state.encode_to_vec().as_slice())?;
        receipts.push(Receipt { acked: state.acked, missing });
    }
    if added > 0 {
        let known = retention::size(&transaction.open_table(META)?)?;
        retention::set_size(transaction, known + added)?;
    }
    Ok((receipts, newest))
}

/// States that an agent had to let go: their numbers never came.
fn lost(origin: &Origin, first: u64, last: u64) -> LostStates {
    LostStates {
        stage: "agent".to_owned(),
        count: last - first + 1,
        first,
        last,
        node: origin.node.clone(),
        boot_id: origin.boot_id.clone(),
    }
}

pub(super) fn origin_state(
    origins: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    origin: &Origin,
) -> Result<Option<OriginState>, StoreError> {
    let damaged = |_| StoreError::Damaged(format!("state of node {}", origin.node));
    let state = origins.get(key(origin))?;
    state.map(|state| OriginState::decode(state.value()).map_err(damaged)).transpose()
}

fn key(origin: &Origin) -> (&str, &str) {
    (&origin.node, &origin.boot_id)
}
