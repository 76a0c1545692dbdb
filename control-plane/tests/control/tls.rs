//! Mutual TLS on an address that others can reach.

use std::fs;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Error, Identity};

use crate::{
    agent::{Agent, anomaly, hello, refused},
    authority::{Authority, Pair},
    program::{Program, Site, program, refusal, text},
    subscriber::{following, id, next, subscribe},
};

const NAME: &str = "control.test";

/// Writes the files of a server; the flags that name them.
fn flags(site: &Site, server: &Pair, clients: &Authority) -> [String; 3] {
    let write = |flag: &str, content: &str| {
        let path = site.path(&format!("{flag}.pem"));
        fs::write(&path, content).unwrap();
        format!("--{flag}={}", path.display())
    };
    [write("tls-cert", &server.cert), write("tls-key", &server.key), write("tls-client-ca", &clients.pem())]
}

fn start(site: &Site, authority: &Authority) -> (Program, String) {
    let tls = flags(site, &authority.issue(NAME), authority);
    let program = site.start_on(&["0.0.0.0:0"], &tls);
    let address = program.listening().remove(0).replace("0.0.0.0", "127.0.0.1");
    (program, address)
}

async fn connect(address: &str, authority: &Authority, client: Option<Pair>) -> Result<Channel, Error> {
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name(NAME);
    if let Some(Pair { cert, key }) = client {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect().await
}

#[tokio::test]
async fn agents_and_subscribers_with_a_certificate_are_served() {
    let (site, authority) = (Site::new(), Authority::new());
    let (_program, address) = start(&site, &authority);
    let channel = connect(&address, &authority, Some(authority.issue("gpu-1"))).await.unwrap();
    let mut agent = Agent::connect(channel.clone(), "gpu-1", "boot").await.unwrap();
    agent.report(1, anomaly("a")).await;
    agent.settled(1).await;
    let mut stream = subscribe(channel, following()).await.unwrap();
    assert_eq!(id(&next(&mut stream).await), "a");
}

#[tokio::test]
async fn clients_without_a_certificate_of_the_authority_are_turned_away() {
    let (site, authority) = (Site::new(), Authority::new());
    let (program, address) = start(&site, &authority);
    let stranger = Authority::new().issue("gpu-1");
    let plain = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await;
    let without = connect(&address, &authority, None).await;
    let with_another = connect(&address, &authority, Some(stranger)).await;
    // With TLS 1.3 a client may learn of the refusal only at its first use of the connection.
    for channel in [plain, without, with_another].into_iter().flatten() {
        refused(channel, Some(hello("gpu-1", "boot"))).await;
    }
    assert!(!program.output().contains("agent connected"), "{}", program.output());
    let channel = connect(&address, &authority, Some(authority.issue("gpu-1"))).await.unwrap();
    Agent::connect(channel, "gpu-1", "boot").await.unwrap();
}

#[test]
fn tls_files_that_cannot_be_used_are_named() {
    let (site, authority) = (Site::new(), Authority::new());
    let [cert, key, ca] = flags(&site, &authority.issue(NAME), &authority);
    let check = ["--check", "--listen=0.0.0.0:7070"];
    let accepted = program().args(check).args([&cert, &key, &ca]).output().unwrap();
    assert!(accepted.status.success(), "{accepted:?}");

    let missing = "--tls-key=/nowhere/key.pem";
    let said = refusal(&[check[0], check[1], &cert, missing, &ca]);
    assert!(said.contains("TLS key /nowhere/key.pem"), "{said}");

    let swapped = key.replace("tls-key=", "tls-cert=");
    let said = refusal(&[check[0], check[1], &swapped, &key, &ca]);
    assert!(said.contains("TLS certificate") && said.contains("no CERTIFICATE"), "{said}");

    let other = site.path("other.pem");
    fs::write(&other, authority.issue(NAME).key).unwrap();
    let said = refusal(&[check[0], check[1], &cert, &format!("--tls-key={}", text(&other)), &ca]);
    assert!(said.contains(text(&other)), "{said}");
}
