//! `zynk turn list` and `zynk turn kick`: what clients have of a running relay.

use std::time::Duration;

use anyhow::{Context as _, Result};
use zynk_auth::VideoGrants;
use zynk_turn_server::AllocationEntry;

use crate::cli::ServerAddress;
use crate::server_api;
use crate::table::{columns, printable};

const HEADER: [&str; 9] =
    ["ID", "USER", "CLIENT", "VIA", "RELAYED", "AGE", "EXPIRES IN", "TO PEERS", "TO CLIENT"];

/// All allocations.
pub(super) async fn list(server: &ServerAddress, json: bool) -> Result<String> {
    let grants = VideoGrants { room_list: true, ..VideoGrants::default() };
    let url = server_api::resource(server, &["turn", "allocations"])?;
    let reply = server_api::send_for_json(server, server_api::client()?.get(url), grants).await?;
    match json {
        true => Ok(format!("{reply}\n")),
        false => Ok(table(&server_api::read::<Vec<AllocationEntry>>(reply)?)),
    }
}

/// Ends allocations, until one cannot be ended.
pub(super) async fn kick(server: &ServerAddress, ids: &[String]) -> Result<String> {
    let client = server_api::client()?;
    let mut output = String::new();
    for id in ids {
        let grants = VideoGrants { room_create: true, ..VideoGrants::default() };
        let url = server_api::resource(server, &["turn", "allocations", id])?;
        server_api::send(server, client.delete(url), grants).await.context(printable(id))?;
        output.push_str(&format!("kicked {}\n", printable(id)));
    }
    Ok(output)
}

fn table(entries: &[AllocationEntry]) -> String {
    let rows: Vec<_> = std::iter::once(HEADER.map(str::to_owned)).chain(entries.iter().map(row)).collect();
    columns(&rows)
}

fn row(entry: &AllocationEntry) -> [String; 9] {
    let seconds = |seconds| humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let traffic = |packets: u64, bytes: u64| format!("{packets} packets, {}", size(bytes));
    [
        printable(&entry.id),
        printable(&entry.user),
        printable(&entry.client),
        printable(&entry.transport),
        relayed(entry),
        seconds(entry.age_s),
        seconds(entry.expires_in_s),
        traffic(entry.to_peers_packets, entry.to_peers_bytes),
        traffic(entry.to_client_packets, entry.to_client_bytes),
    ]
}

/// The relayed addresses; that peers are spoken to over TCP is rare, and said.
fn relayed(entry: &AllocationEntry) -> String {
    let addresses = printable(&entry.relayed.join(" "));
    match entry.protocol.as_str() {
        "udp" => addresses,
        other => format!("{addresses} ({})", printable(other)),
    }
}

/// Bytes with a decimal unit.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_listed_in_columns() {
        let entry = AllocationEntry {
            id: "00000000000000a1".into(),
            user: "PA_1\u{1b}[2J".into(),
            client: "192.0.2.1:5000".into(),
            transport: "udp".into(),
            protocol: "udp".into(),
            relayed: vec!["198.51.100.1:50000".into(), "[2001:db8::1]:50000".into()],
            age_s: 65,
            expires_in_s: 535,
            permissions: 1,
            channels: 1,
            to_peers_packets: 10,
            to_peers_bytes: 999,
            to_client_packets: 2,
            to_client_bytes: 1_250_000,
        };
        let tcp = AllocationEntry { protocol: "tcp".into(), relayed: vec!["a".into()], ..entry.clone() };
        let table = table(&[entry, tcp]);
        let mut lines = table.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()));
        assert!(lines.next().unwrap().map(str::trim).eq(HEADER));
        let cells: Vec<_> = lines.next().unwrap().map(str::trim).collect();
        let expected = [
            "00000000000000a1",
            "PA_1\u{fffd}[2J",
            "192.0.2.1:5000",
            "udp",
            "198.51.100.1:50000 [2001:db8::1]:50000",
            "1m 5s",
            "8m 55s",
            "10 packets, 999 B",
            "2 packets, 1.2 MB",
        ];
        assert_eq!(cells, expected);
        assert!(lines.next().unwrap().any(|cell| cell.trim() == "a (tcp)"));
        assert_eq!(super::table(&[]).lines().count(), 1);
    }
}
