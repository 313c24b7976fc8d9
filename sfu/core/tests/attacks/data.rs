//! Data channels of a client that wants to use up memory: T39.

use std::{cell::Cell, time::Duration};

use bytes::Bytes;
use str0m::channel::{ChannelConfig, ChannelId};
use zynk_protocol::{DataKind, NodeAction, NodeEvent, Recipients};

use crate::call::{BOB, Call, MALLORY};
use crate::client::Offer;
use crate::dtls::forge;
use crate::malformed::assert_unharmed;
use crate::sctp::{with_closed_window, with_endless_messages, with_reset};

/// What one client may take of the server's memory, with what the test itself needs.
const BYTES_MAX: usize = 16 << 20;
const MESSAGE_BYTES: usize = 60_000;

/// A call with a client that has opened its channel, and is honest so far.
fn call_with_channel() -> (Call, ChannelId) {
    let mut call = Call::with_viewers(&[BOB]);
    call.publish(MALLORY, "TR_data");
    call.join(MALLORY, &Offer::sending().with_data());
    assert!(call.connect());
    let config = ChannelConfig { label: DataKind::Reliable.label().to_owned(), ..ChannelConfig::default() };
    let channel = call.client(MALLORY).rtc.direct_api().create_data_channel(config);
    call.advance(Duration::from_millis(500));
    assert!(call.events.iter().any(|event| matches!(event, NodeEvent::DataChannelOpen { .. })));
    (call, channel)
}

/// The process's memory, in octets.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn write(call: &mut Call, channel: ChannelId, message: &[u8]) {
    if let Some(mut channel) = call.client(MALLORY).rtc.channel(channel) {
        let _ = channel.write(true, message);
    }
}

#[test]
fn t39_a_client_that_takes_nothing_is_kept_little_for() {
    let (mut call, _) = call_with_channel();
    forge(with_closed_window);
    let message = vec![0x55; MESSAGE_BYTES];
    let before = resident();
    for _ in 0..1000 {
        let payload = Bytes::from(message.clone());
        let to = Recipients::Connections(vec![MALLORY]);
        call.command(NodeAction::SendData { to, kind: DataKind::Reliable, payload });
        call.advance(Duration::from_millis(10));
    }
    let taken = resident().saturating_sub(before);
    let stats = call.stats();
    println!("{} sent, {} dropped, {taken} octets", stats.data_messages_sent, stats.data_messages_dropped);
    assert!(stats.data_messages_dropped > 500, "{stats:?}");
    assert!(taken < BYTES_MAX, "{taken} octets for 60 MB");
    assert_unharmed(&mut call, 1, 1);
}

#[test]
fn t39_messages_without_end_are_kept_in_part() {
    let (mut call, channel) = call_with_channel();
    forge(with_endless_messages);
    let message = vec![0x55; MESSAGE_BYTES];
    let before = resident();
    for _ in 0..1000 {
        write(&mut call, channel, &message);
        call.advance(Duration::from_millis(10));
    }
    let taken = resident().saturating_sub(before);
    println!("{} received, {taken} octets", call.stats().data_messages_received);
    assert_eq!(call.stats().data_messages_received, 0);
    assert!(taken < BYTES_MAX, "{taken} octets for 60 MB");
    assert_unharmed(&mut call, 1, 1);
}

#[test]
fn t39_a_flood_of_stream_resets_ends_nobody_elses_session() {
    let (mut call, channel) = call_with_channel();
    let number = Cell::new(1_u32);
    forge(move |packet| {
        number.set(number.get().wrapping_mul(3).wrapping_add(1));
        // Of channels that are there, that are not, and of more than anybody may have.
        let streams: Vec<u16> = (0..400).map(|index| (index * 7) ^ number.get() as u16).collect();
        Some(with_reset(packet, number.get(), &streams))
    });
    let before = resident();
    for _ in 0..2000 {
        write(&mut call, channel, b"x");
        call.advance(Duration::from_millis(5));
    }
    let taken = resident().saturating_sub(before);
    println!("{taken} octets");
    assert!(taken < BYTES_MAX, "{taken} octets");
    assert_unharmed(&mut call, 1, 1);
}
