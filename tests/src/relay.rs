//! A relay that ends TCP and hands on what is inside, late: as if its client were far away.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::net::Namespace;

/// Starts a relay at `address` in `namespace` that hands everything on to `server`, each way `delay` after it has come.
/// Returns where it listens; it ends with the process.
pub fn start(
    namespace: &Namespace,
    address: IpAddr,
    server: SocketAddr,
    delay: Duration,
) -> Result<SocketAddr> {
    let listener = namespace.run(|| TcpListener::bind((address, 0)))?.context("the relay cannot listen")?;
    let place = listener.local_addr().context("the relay listens nowhere")?;
    namespace.spawn(move || serve(&listener, server, delay));
    Ok(place)
}

/// Takes connections, and makes one to `server` for each.
fn serve(listener: &TcpListener, server: SocketAddr, delay: Duration) {
    for client in listener.incoming().flatten() {
        // Without a server the client's connection is closed, which it notices.
        let Ok(server) = TcpStream::connect(server) else { continue };
        let (Ok(to_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { continue };
        thread::spawn(move || hand_on(client, to_server, delay));
        thread::spawn(move || hand_on(server, to_client, delay));
    }
}

/// Hands one direction on until it ends.
fn hand_on(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        thread::sleep(delay);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    // It may be closed already.
    let _ = to.shutdown(Shutdown::Write);
}
