//! Ports for servers that must know theirs before they start.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports below those that the kernel hands out by itself, in blocks, so that tests that run at the same time do not
/// meet.
const PORTS_START: u16 = 12_000;
const PORT_BLOCKS: u32 = 1_200;
const PORTS_OF_BLOCK: u16 = 16;

/// The first of 16 ports that nobody uses, for UDP or TCP, on 127.0.0.1 or ::1.
///
/// # Panics
///
/// When there are none.
pub fn free_ports() -> u16 {
    static BLOCKS: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: u16| {
        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].iter().all(|ip| {
            let address = SocketAddr::new(*ip, port);
            UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
        })
    };
    for _ in 0..PORT_BLOCKS {
        // Neighbours in time have process numbers that are neighbours.
        let number = std::process::id().wrapping_add(BLOCKS.fetch_add(17, Ordering::Relaxed)) % PORT_BLOCKS;
        let first = PORTS_START + u16::try_from(number).unwrap() * PORTS_OF_BLOCK;
        if (first..first + PORTS_OF_BLOCK).all(is_free) {
            return first;
        }
    }
    panic!("no block of ports is free");
}
