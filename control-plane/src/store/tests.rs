use hydrometer_proto::v1::LostStates;
use redb::{Database, ReadableDatabase as _, TableDefinition};

use super::{
    file::{FORMAT, META},
    *,
};

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("control.redb")).unwrap();
    (folder, store)
}

fn origin(boot_id: &str) -> Arc<Origin> {
    Arc::new(Origin { node: "gpu-1".into(), boot_id: boot_id.into() })
}

fn anomaly(boot_id: &str, sequence: u64) -> Report {
    let bytes = Anomaly { id: format!("{boot_id}/{sequence}"), ..Anomaly::default() }.encode_to_vec();
    Report { origin: origin(boot_id), what: What::Anomaly { sequence, bytes } }
}

fn ids(store: &Store) -> Vec<String> {
    store.page(0, u64::MAX).unwrap().into_iter().map(|row| row.anomaly.id).collect()
}

#[test]
fn a_sequence_number_is_stored_once_within_and_across_batches() {
    let (_folder, store) = store();
    store.commit(&[anomaly("a", 1), anomaly("a", 1), anomaly("b", 1)], &[], 0).unwrap();
    let receipts = store.commit(&[anomaly("a", 1), anomaly("a", 2)], &[], 0).unwrap();
    assert_eq!(ids(&store), ["a/1", "b/1", "a/2"]);
    assert_eq!(receipts, [Receipt { acked: 1, missing: 0 }, Receipt { acked: 2, missing: 0 }]);
}

#[test]
fn a_gap_is_counted_and_what_follows_is_stored() {
    let (_folder, store) = store();
    let receipts = store.commit(&[anomaly("a", 1), anomaly("a", 5), anomaly("a", 3)], &[], 0).unwrap();
    assert_eq!(receipts.iter().map(|receipt| receipt.missing).collect::<Vec<_>>(), [0, 3, 0]);
    assert_eq!(ids(&store), ["a/1", "a/5"]);
    assert_eq!(store.origin(&origin("a")).unwrap().unwrap().missing, 3);
}

#[test]
fn a_gap_is_told_with_the_state_that_came_after_it() {
    let (_folder, store) = store();
    store.commit(&[anomaly("a", 1), anomaly("a", 5)], &[], 0).unwrap();
    let lost = LostStates {
        stage: "agent".into(),
        count: 3,
        first: 2,
        last: 4,
        node: "gpu-1".into(),
        boot_id: "a".into(),
    };
    let told: Vec<_> = store.page(0, u64::MAX).unwrap().into_iter().map(|row| row.lost).collect();
    assert_eq!(told, [None, Some(lost)]);
}

#[test]
fn pages_back_put_together_are_the_whole_log_backwards() {
    let (_folder, store) = store();
    let count = PAGE_ROWS as u64 + 1;
    store.commit(&(1..=count).map(|sequence| anomaly("a", sequence)).collect::<Vec<_>>(), &[], 0).unwrap();
    let (mut positions, mut before) = (Vec::new(), u64::MAX);
    while let Some(last) = store
        .page_back(before)
        .unwrap()
        .into_iter()
        .map(|row| row.position)
        .inspect(|&position| positions.push(position))
        .last()
    {
        before = last;
    }
    assert_eq!(positions, (1..=count).rev().collect::<Vec<_>>());
}

#[test]
fn a_store_of_the_first_format_is_brought_to_the_present_one_with_all_it_holds() {
    let (folder, store) = store();
    store.commit(&[anomaly("a", 1), anomaly("a", 2)], &[], 5).unwrap();
    let (id, rows, size) = (store.id(), store.page(0, u64::MAX).unwrap(), store.size().unwrap());
    let transaction = store.database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", 1).unwrap();
    transaction.open_table(META).unwrap().remove("log_bytes").unwrap();
    transaction.delete_table(LOSSES).unwrap();
    transaction.delete_table(SINKS).unwrap();
    transaction.commit().unwrap();
    drop(store);
    let store = Store::open(&folder.path().join("control.redb")).unwrap();
    assert_eq!((store.id(), store.page(0, u64::MAX).unwrap(), store.size().unwrap()), (id, rows, size));
    store.commit(&[anomaly("a", 4)], &[Cursor { sink: "siem".into(), position: 1 }], 6).unwrap();
    let format = store.database.begin_read().unwrap().open_table(META).unwrap().get("format").unwrap();
    assert_eq!(format.unwrap().value(), FORMAT);
}

#[test]
fn what_is_too_old_or_too_much_is_removed_and_positions_go_on() {
    let (folder, store) = store();
    for sequence in 1..=10 {
        store.commit(&[anomaly("a", sequence)], &[], sequence.cast_signed() * 100).unwrap();
    }
    let each = store.size().unwrap() / 10;
    let positions =
        |store: &Store| store.page(0, u64::MAX).unwrap().iter().map(|row| row.position).collect::<Vec<_>>();
    let by_age = Retention { max_age: 500, max_bytes: u64::MAX };
    assert_eq!(
        (store.remove_oldest(by_age, 900).unwrap(), store.remove_oldest(by_age, 900).unwrap()),
        (3, 0)
    );
    assert_eq!((positions(&store), store.bounds().unwrap()), ((4..=10).collect(), (4, 10)));
    let by_size = Retention { max_age: i64::MAX, max_bytes: 5 * each + 1 };
    assert_eq!(store.remove_oldest(by_size, 900).unwrap(), 2);
    assert_eq!(store.last_before(700).unwrap(), 6);
    assert_eq!(store.last_before(0).unwrap(), 5);
    let nothing = Retention { max_age: 0, max_bytes: 0 };
    assert_eq!(store.remove_oldest(nothing, i64::MAX).unwrap(), 4);
    drop(store);
    let store = Store::open(&folder.path().join("control.redb")).unwrap();
    store.commit(&[anomaly("a", 11)], &[], 2000).unwrap();
    assert_eq!(positions(&store), [10, 11]);
}

#[test]
fn a_copy_is_the_store_at_that_moment() {
    let (folder, store) = store();
    store
        .commit(&[anomaly("a", 1), anomaly("a", 4)], &[Cursor { sink: "siem".into(), position: 1 }], 5)
        .unwrap();
    let (rows, size) = (store.page(0, u64::MAX).unwrap(), store.size().unwrap());
    let mut copy = store.copy().unwrap();
    store.commit(&[anomaly("a", 5)], &[], 6).unwrap();
    let path = folder.path().join("backup.redb");
    io::copy(&mut copy, &mut std::fs::File::create(&path).unwrap()).unwrap();
    let restored = Store::open(&path).unwrap();
    assert_eq!((restored.id(), restored.page(0, u64::MAX).unwrap()), (store.id(), rows));
    assert_eq!((restored.cursor("siem").unwrap(), restored.size().unwrap()), (Some(1), size));
    assert_eq!(restored.origin(&origin("a")).unwrap().unwrap().missing, 2);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_heartbeat_refreshes_the_node_and_stores_nothing() {
    let (_folder, store) = store();
    let hello = Report { origin: origin("a"), what: What::Hello { version: "0.1.0".into() } };
    let heartbeat = Report { origin: origin("a"), what: What::Heartbeat { losses: 7, clients: 9 } };
    store.commit(&[hello], &[], 10).unwrap();
    store.commit(&[heartbeat], &[], 20).unwrap();
    let expected = OriginState {
        last_seen: 20,
        version: "0.1.0".into(),
        losses: 7,
        clients: 9,
        ..OriginState::default()
    };
    assert_eq!(store.origin(&origin("a")).unwrap(), Some(expected));
    assert_eq!(ids(&store), Vec::<String>::new());
}

#[test]
fn the_cursor_of_a_sink_is_kept_by_name_and_wakes_nobody() {
    let (folder, store) = store();
    let newest = store.newest();
    let cursor = |sink: &str, position| Cursor { sink: sink.into(), position };
    store.commit(&[], &[cursor("siem", 7), cursor("archive", 9), cursor("siem", 8)], 0).unwrap();
    assert!(!newest.has_changed().unwrap());
    drop(store);
    let store = Store::open(&folder.path().join("control.redb")).unwrap();
    assert_eq!(
        ["siem", "archive", "other"].map(|sink| store.cursor(sink).unwrap()),
        [Some(8), Some(9), None]
    );
}

#[test]
fn everything_is_there_again_after_reopening() {
    let (folder, store) = store();
    store.commit(&[anomaly("a", 1), anomaly("a", 2)], &[], 5).unwrap();
    let (id, rows) = (store.id(), store.page(0, u64::MAX).unwrap());
    drop(store);
    let store = Store::open(&folder.path().join("control.redb")).unwrap();
    assert_eq!((store.id(), *store.newest().borrow()), (id, 2));
    assert_eq!(store.page(0, u64::MAX).unwrap(), rows);
}

#[test]
fn pages_put_together_are_the_whole_log() {
    let (_folder, store) = store();
    let count = PAGE_ROWS as u64 * 2 + 1;
    store.commit(&(1..=count).map(|sequence| anomaly("a", sequence)).collect::<Vec<_>>(), &[], 0).unwrap();
    let (mut positions, mut pages) = (Vec::new(), 0);
    loop {
        let page = store.page(positions.last().copied().unwrap_or(0), count).unwrap();
        if page.is_empty() {
            break;
        }
        pages += 1;
        positions.extend(page.iter().map(|row| row.position));
    }
    assert_eq!(positions, (1..=count).collect::<Vec<_>>());
    assert_eq!(pages, 3);
}

#[test]
fn a_page_of_large_anomalies_is_short() {
    let (_folder, store) = store();
    let large = |sequence| {
        let anomaly = Anomaly { id: "x".repeat(PAGE_BYTES / 2), ..Anomaly::default() };
        Report { origin: origin("a"), what: What::Anomaly { sequence, bytes: anomaly.encode_to_vec() } }
    };
    store.commit(&(1..=5).map(large).collect::<Vec<_>>(), &[], 0).unwrap();
    assert_eq!(store.page(0, u64::MAX).unwrap().len(), 2);
}

#[test]
fn a_time_finds_its_place_also_when_the_clock_stepped_back() {
    let (_folder, store) = store();
    assert_eq!(store.last_before(0).unwrap(), 0);
    for (sequence, now) in [(1, 10), (2, 20), (3, 15), (4, 20), (5, 30)] {
        store.commit(&[anomaly("a", sequence)], &[], now).unwrap();
    }
    let stored: Vec<i64> = store.page(0, u64::MAX).unwrap().iter().map(|row| row.stored).collect();
    assert_eq!(stored, [10, 20, 20, 20, 30]);
    for (time, expected) in
        [(i64::MIN, 0), (10, 0), (11, 1), (20, 1), (21, 4), (30, 4), (31, 5), (i64::MAX, 5)]
    {
        assert_eq!(store.last_before(time).unwrap(), expected, "before {time}");
    }
}

#[test]
fn files_of_others_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "not a store, but long enough to be read as one".repeat(1000)).unwrap();
    let other = folder.path().join("other.redb");
    let database = Database::create(&other).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<'_, u64, u64>::new("accounts")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    for path in [text, other] {
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(&path).err().unwrap();
        assert!(matches!(&error, StoreError::Foreign(named) if *named == path), "{error}");
        assert_eq!(std::fs::read(&path).unwrap().len(), before.len());
    }
}

#[test]
fn a_store_of_a_later_format_is_refused() {
    let (folder, store) = store();
    let transaction = store.database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", FORMAT + 1).unwrap();
    transaction.commit().unwrap();
    drop(store);
    let error = Store::open(&folder.path().join("control.redb")).err().unwrap();
    assert!(error.to_string().contains("update hydrometer-control"), "{error}");
}
