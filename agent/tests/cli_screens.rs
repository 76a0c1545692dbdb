//! What each screen looks like, drawn from fixed data: the promise of UX.md, size by size.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, unreachable_pub, reason = "a test is not a library")]

use std::collections::HashMap;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use hydrometer_agent::{
    cli::{
        anomalies, client, clients,
        fingerprint::{self, Others},
        mute,
        output::{Format, Paint},
        status,
    },
    top::{
        draw::Theme,
        picture,
        state::{App, Detail, Link, Update, View},
    },
};
use hydrometer_proto::v1::WatchClientsResponse;
use insta::assert_snapshot;

#[expect(dead_code, reason = "the commands' tests use the rest")]
mod cli_fixture;

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (60, 15)];

fn kinds() -> clients::OpenKinds {
    cli_fixture::anomalies().into_iter().map(|anomaly| (anomaly.id, anomaly.kind)).collect::<HashMap<_, _>>()
}

#[test]
fn clients_as_a_table_and_wide() {
    let list = cli_fixture::clients();
    assert_snapshot!("clients_table", clients::render(&list, &kinds(), Format::Table, Paint::PLAIN));
    assert_snapshot!("clients_wide", clients::render(&list, &kinds(), Format::Wide, Paint::PLAIN));
}

#[test]
fn a_client_in_depth() {
    let detail = cli_fixture::detail("203.0.113.66").unwrap();
    assert_snapshot!("client", client::render(&detail, None, cli_fixture::now(), Paint::PLAIN).unwrap());
}

#[test]
fn a_fingerprint_beside_that_of_others() {
    let (of, mut others) = (cli_fixture::fingerprint(640, 18_000), cli_fixture::fingerprint(6400, 200));
    others.merge(&cli_fixture::fingerprint(640, 100));
    let addresses = vec!["203.0.113.7".to_owned(), "198.51.100.9".to_owned()];
    let others = Others { addresses, fingerprint: others };
    assert_snapshot!("fingerprint_compared", fingerprint::render(&of, Some(&others), Paint::PLAIN));
}

#[test]
fn anomalies_with_their_evidence() {
    let page = cli_fixture::anomalies().iter().fold(anomalies::header(Paint::PLAIN), |page, anomaly| {
        page + &anomalies::line(anomaly, Paint::PLAIN) + &anomalies::evidence(anomaly, Paint::PLAIN)
    });
    assert!(!page.contains('\x1b'), "a string from the wire reached the terminal as it is");
    assert_snapshot!("anomalies_wide", page);
}

#[test]
fn mutes_as_a_table() {
    let page = mute::render(&cli_fixture::mutes(), Paint::PLAIN);
    assert!(!page.contains('\x1b'), "a string from the wire reached the terminal as it is");
    assert_snapshot!("mutes", page);
    assert_eq!(mute::render(&[], Paint::PLAIN), "nothing is muted\n");
}

#[test]
fn status_begins_with_the_losses() {
    let healthy = status::render(&cli_fixture::status(), cli_fixture::now(), Paint::PLAIN);
    assert!(healthy.starts_with("no losses\n"));
    assert_snapshot!("status_healthy", healthy);
    let losing = status::render(&cli_fixture::status_with_losses(), cli_fixture::now(), Paint::PLAIN);
    assert_snapshot!("status_with_losses", losing);
}

fn app() -> App {
    let mut app = App::default();
    app.update(Update::Connected);
    for anomaly in cli_fixture::anomalies() {
        app.update(Update::Anomaly(Box::new(anomaly)));
    }
    app.update(Update::Status(Box::new(cli_fixture::status())));
    app.update(clients_update());
    app
}

fn clients_update() -> Update {
    Update::Clients(WatchClientsResponse { clients: Some(cli_fixture::clients()), open_anomalies: 2 })
}

fn press(app: &mut App, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            key => KeyCode::Char(key),
        };
        app.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
}

fn drawn(app: &mut App, size: (u16, u16)) -> String {
    picture(app, Theme::new(Paint::PLAIN), size).unwrap()
}

#[test]
fn top_fits_each_size() {
    for (width, height) in SIZES {
        assert_snapshot!(format!("top_{width}x{height}"), drawn(&mut app(), (width, height)));
    }
}

#[test]
fn top_draws_a_client_and_the_help_at_each_size() {
    for (width, height) in [SIZES[0], SIZES[1]] {
        let mut app = app();
        app.open_client("203.0.113.66".to_owned());
        app.update(Update::Client {
            address: "203.0.113.66".to_owned(),
            detail: Detail::Known(Box::new(cli_fixture::detail("203.0.113.66").unwrap())),
        });
        assert_snapshot!(format!("top_client_{width}x{height}"), drawn(&mut app, (width, height)));
        press(&mut app, "?");
        assert_snapshot!(format!("top_help_{width}x{height}"), drawn(&mut app, (width, height)));
    }
}

#[test]
fn top_shows_losses_and_a_lost_agent() {
    let mut app = app();
    app.update(Update::Status(Box::new(cli_fixture::status_with_losses())));
    assert!(drawn(&mut app, SIZES[0]).contains("LOST ring_full 1,204"));
    app.update(Update::Lost("no agent is listening".to_owned()));
    let screen = drawn(&mut app, SIZES[0]);
    assert!(
        screen.contains("AGENT LOST") && screen.contains("no agent is listening; trying again"),
        "{screen}"
    );
    app.update(clients_update());
    assert_eq!(app.link, Link::Live);
}

#[test]
fn every_size_draws_without_a_panic() {
    for width in (1..130).step_by(7) {
        for height in (1..45).step_by(4) {
            let mut app = app();
            drawn(&mut app, (width, height));
            press(&mut app, "\n?");
            drawn(&mut app, (width, height));
        }
    }
}

fn order(app: &App) -> Vec<&str> {
    app.clients().map(|client| client.address.as_str()).collect()
}

#[test]
fn keys_sort_filter_pause_and_open() {
    let mut app = app();
    assert_eq!(order(&app)[0], "203.0.113.66", "by rate, the fastest first");
    press(&mut app, "S");
    assert_eq!(order(&app)[0], "192.0.2.14", "reversed");
    press(&mut app, "Ss");
    assert_eq!(order(&app)[0], "203.0.113.66", "by requests");
    assert_eq!(app.wanted().sort, hydrometer_proto::v1::ClientSort::Requests);

    press(&mut app, "/kind:logit_harvest !2001:db8::/32\n");
    assert_eq!(order(&app), ["198.51.100.23"]);
    press(&mut app, "/ zzz>1\n");
    assert!(
        app.typing.as_ref().unwrap().error.as_ref().unwrap().contains("is not a column"),
        "the old filter stands"
    );
    press(&mut app, "\x1b\x1b");
    assert_eq!(order(&app).len(), 5, "Esc leaves the filter line, and again drops the filter");

    press(&mut app, " ");
    let frozen = app.now();
    let mut later = cli_fixture::clients();
    later.time.as_mut().unwrap().seconds += 60;
    later.clients.truncate(2);
    app.update(Update::Clients(WatchClientsResponse { clients: Some(later), open_anomalies: 2 }));
    assert_eq!((app.now(), order(&app).len()), (frozen, 5), "a paused picture stands still");
    assert!(drawn(&mut app, SIZES[0]).contains("PAUSED at 2026-05-04T10:00:00Z"));
    press(&mut app, " ");
    assert_eq!(order(&app).len(), 2, "and catches up at once");

    press(&mut app, "g\n");
    assert_eq!(app.wanted().client.as_deref(), Some("203.0.113.66"));
    press(&mut app, "\x1b");
    assert_eq!((app.wanted().client, &app.view), (None, &View::List));
    press(&mut app, "q");
    assert!(app.is_done);
}

#[test]
fn the_selection_follows_its_client_while_rows_move() {
    let mut app = app();
    press(&mut app, "j");
    let row = app.selected_row();
    let selected = order(&app)[row].to_owned();
    press(&mut app, "S");
    assert_ne!(app.selected_row(), row);
    assert_eq!(order(&app)[app.selected_row()], selected);
}

#[test]
fn hidden_addresses_appear_nowhere() {
    let mut app = app();
    press(&mut app, "p");
    let list = drawn(&mut app, SIZES[1]);
    press(&mut app, "\n");
    app.update(Update::Client {
        address: "203.0.113.66".to_owned(),
        detail: Detail::Known(Box::new(cli_fixture::detail("203.0.113.66").unwrap())),
    });
    let page = drawn(&mut app, SIZES[1]);
    for client in cli_fixture::clients().clients {
        assert!(!list.contains(&client.address) && !page.contains(&client.address), "{}", client.address);
    }
    assert!(list.contains("client-001") && page.contains("client-002"), "{page}");
}
