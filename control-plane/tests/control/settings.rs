//! Settings: what is wrong is named before a socket is opened.

use std::fs;

use crate::program::{Site, program, refusal, text};

#[test]
fn a_mistake_in_the_file_is_named_with_the_line_of_its_setting() {
    let site = Site::new();
    let file = site.path("control.toml");
    let cases = [
        ("store = \"a\"\nlisen = []\n", 2, "unknown field `lisen`"),
        ("\n\nstore = 7\n", 3, "expected path string"),
        ("store = \"a\"\nlisten = [\n  \"unix:/a\",\n  \"localhost\",\n]\n", 2, "`localhost` is neither"),
        ("store = \"a\"\nstore = \"b\"\n", 2, "duplicate key"),
        ("store = \n", 1, ""),
        ("log = \"loud\"\n", 1, "unknown variant `loud`"),
        ("tls-key = \"a\"\n", 1, "unknown field `tls-key`"),
        ("[tls]\ncert = \"a\"\n", 1, "unknown field `tls`"),
    ];
    for (content, line, what) in cases {
        fs::write(&file, content).unwrap();
        let said = refusal(&["--check", "--config", text(&file)]);
        assert!(said.contains(&format!("{}:{line}: ", file.display())) && said.contains(what), "{said}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let said = refusal(&["--check", "--config", "/nowhere/control.toml"]);
    assert!(said.contains("/nowhere/control.toml"), "{said}");
}

#[test]
fn flags_win_over_the_file() {
    let site = Site::new();
    let file = site.path("control.toml");
    fs::write(&file, "listen = [\"127.0.0.1:1\"]\nstore = \"/from/file\"\n").unwrap();
    let check = |arguments: &[&str]| {
        let output = program().args(["--check", "--config", text(&file)]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = check(&[]);
    assert!(said.contains("127.0.0.1:1") && said.contains("/from/file"), "{said}");
    let said = check(&["--store", "/from/flag"]);
    assert!(said.contains("127.0.0.1:1") && said.contains("/from/flag"), "{said}");
    let said = check(&["--listen", "unix:/from/flag"]);
    assert!(said.contains("unix:/from/flag") && !said.contains("127.0.0.1:1"), "{said}");
}

#[test]
fn checking_opens_neither_socket_nor_store() {
    let site = Site::new();
    let store = site.path("control.redb");
    let output =
        program().args(["--check", "--listen", &site.address(), "--store", text(&store)]).output().unwrap();
    assert!(output.status.success());
    assert!(!site.socket().exists() && !store.exists());
}

#[test]
fn an_address_others_can_reach_demands_mutual_tls() {
    for address in ["0.0.0.0:7070", "[::]:7070", "192.0.2.1:7070", "[::ffff:127.0.0.1]:7070"] {
        for arguments in [&["--listen", address][..], &["--check", "--listen", address]] {
            let said = refusal(arguments);
            assert!(said.contains(address) && said.contains("--tls-client-ca"), "{said}");
        }
    }
    for address in ["127.0.0.1:7070", "127.8.8.8:7070", "[::1]:7070", "unix:/run/hydrometer/control.sock"] {
        assert!(
            program().args(["--check", "--listen", address]).output().unwrap().status.success(),
            "{address}"
        );
    }
}

#[test]
fn half_of_the_tls_settings_is_refused() {
    let said = refusal(&["--check", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
    assert!(said.contains("give all three"), "{said}");
}
