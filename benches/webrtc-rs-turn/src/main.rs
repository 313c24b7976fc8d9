//! webrtc-rs' TURN server, for the bench `turn` to measure.
//!
//! `webrtc-rs-turn PORT USER PASSWORD REALM`: UDP on 127.0.0.1, one thread, as many threads as the other servers have.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use turn::auth::{AuthHandler, generate_auth_key};
use turn::relay::relay_static::RelayAddressGeneratorStatic;
use turn::server::Server;
use turn::server::config::{ConnConfig, ServerConfig};
use webrtc_util::vnet::net::Net;

struct OneUser {
    name: String,
    key: Vec<u8>,
}

impl AuthHandler for OneUser {
    fn auth_handle(&self, name: &str, _: &str, _: SocketAddr) -> Result<Vec<u8>, turn::Error> {
        match name == self.name {
            true => Ok(self.key.clone()),
            false => Err(turn::Error::ErrNoSuchUser),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let mut word = || words.next().ok_or("usage: webrtc-rs-turn PORT USER PASSWORD REALM");
    let (port, name, password, realm): (u16, _, _, _) = (word()?.parse()?, word()?, word()?, word()?);
    let key = generate_auth_key(&name, &realm, &password);
    let relay = RelayAddressGeneratorStatic {
        relay_address: Ipv4Addr::LOCALHOST.into(),
        address: Ipv4Addr::LOCALHOST.to_string(),
        net: Arc::new(Net::new(None)),
    };
    let conn = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?);
    let server = Server::new(ServerConfig {
        conn_configs: vec![ConnConfig { conn, relay_addr_generator: Box::new(relay) }],
        realm,
        auth_handler: Arc::new(OneUser { name, key }),
        channel_bind_timeout: Duration::ZERO,
        alloc_close_notify: None,
    })
    .await?;
    tokio::signal::ctrl_c().await?;
    server.close().await?;
    Ok(())
}
