//! STUN and ChannelData messages: as they are read, framed, written and signed.

use zynk_turn_core::stun::{Class, IntegrityKey, Message, Method, PasswordAlgorithm, Writer};
use zynk_turn_core::{FRAME_BYTES_MAX, Frame, Input, next_frame, parse_channel_data};

use crate::turn_rig::{TurnReach, TurnRig, XOR_PEER_ADDRESS};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER_BYTES: usize = 20;

/// Reads the input at several alignments, then as attributes behind a good header, and gives both to a server as a
/// stranger's. At last a signed message that the input changes.
pub fn turn_message(data: &[u8]) {
    let data = data.get(..data.len().min(4096)).unwrap_or_default();
    framed(data);
    read(data);
    for offset in 1..4 {
        let shifted = [&vec![0xee; offset], data].concat();
        let (_, same) = shifted.split_at(offset);
        assert_eq!(Message::parse(same).is_ok(), Message::parse(data).is_ok());
    }
    let Some((first, rest)) = data.split_first() else { return };
    let message = behind_header(*first, rest);
    framed(&message);
    read(&message);
    strangers(data, &message);
    signed(data);
}

/// A header of one of the methods, with the input as attributes.
fn behind_header(choice: u8, rest: &[u8]) -> Vec<u8> {
    let length = rest.len() & !3;
    let class = u16::from(choice >> 6);
    let method = u16::from(choice & 0x0f);
    let mut message = (class >> 1 << 8 | (class & 1) << 4 | method).to_be_bytes().to_vec();
    message.extend_from_slice(&(length as u16).to_be_bytes());
    message.extend_from_slice(&COOKIE);
    message.extend_from_slice(&[7; 12]);
    message.extend_from_slice(rest.get(..length).unwrap_or_default());
    message
}

fn framed(data: &[u8]) {
    if let Some((number, payload)) = parse_channel_data(data) {
        assert!((0x4000..0x8000).contains(&number.get()) && payload.len() + 4 <= data.len());
    }
    match next_frame(data) {
        Frame::Complete(length) => {
            assert!((4..=data.len().min(FRAME_BYTES_MAX)).contains(&length) && length.is_multiple_of(4));
            for part in [0, 1, 3, 4, 7, 8, length - 1] {
                let part = next_frame(data.get(..part.min(length - 1)).unwrap_or_default());
                assert_eq!(part, Frame::Incomplete, "of a frame that is good");
            }
            let frame = data.get(..length).unwrap_or_default();
            assert_eq!(next_frame(frame), Frame::Complete(length), "what follows says nothing");
        }
        Frame::Incomplete => assert!(data.len() < FRAME_BYTES_MAX),
        Frame::Invalid => {
            let longer = [data, &[0; 8]].concat();
            assert_eq!(next_frame(&longer), Frame::Invalid, "more bytes make it no better");
        }
    }
}

fn read(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    assert_eq!(next_frame(data), Frame::Complete(data.len()), "a message is a frame");
    let mut end = HEADER_BYTES;
    for (kind, value) in message.attributes() {
        end += 4 + value.len().next_multiple_of(4);
        assert!(end <= data.len());
        assert!(message.has(kind) && message.attribute(kind).is_some());
        let _ = (message.text(kind), message.number(kind), message.xor_address(kind));
    }
    assert!(message.xor_addresses(XOR_PEER_ADDRESS).count() <= message.attributes().count());
    assert!(message.unknown(&[]).count() <= message.attributes().count());
    assert!(!message.is_signed_with(&key("stranger")), "signed with a key that nobody has");
    // Written again, it reads the same.
    let Some(method) = message.method() else { return };
    let mut written = Vec::new();
    let mut writer = Writer::new(&mut written, message.class(), method, message.transaction());
    for (kind, value) in message.attributes() {
        writer = writer.attribute(kind, value);
    }
    if message.has_fingerprint() {
        writer.fingerprint();
    }
    let Ok(again) = Message::parse(&written) else { panic!("{written:?} cannot be read") };
    assert!(again.attributes().eq(message.attributes()));
    assert_eq!(again.has_fingerprint(), message.has_fingerprint());
    assert_eq!((again.class(), again.method()), (message.class(), message.method()));
}

fn key(password: &str) -> IntegrityKey {
    IntegrityKey::long_term(PasswordAlgorithm::Sha256, "user", "realm", password)
}

/// Nothing that strangers send makes anything.
fn strangers(data: &[u8], message: &[u8]) {
    let mut rig = TurnRig::new();
    for at in 0..2 {
        let Some(five_tuple) = rig.clients.get(at).map(|client| client.five_tuple) else { return };
        for payload in [data, message] {
            rig.input(Input::Client { five_tuple, payload });
        }
    }
    assert_eq!(rig.reach, TurnReach::default());
    assert!(rig.server.is_idle());
}

/// Pairs of place and mask change a message; a place beyond the end cuts or lengthens it.
fn signed(edits: &[u8]) {
    let mut good = Vec::new();
    Writer::new(&mut good, Class::Request, Method::Allocate, &[5; 12])
        .attribute(0x0006, b"user")
        .attribute(0x8022, edits.get(..edits.len().min(9)).unwrap_or_default())
        .sign_sha256(&key("secret"));
    let mut changed = good.clone();
    for [place, mask] in edits.as_chunks::<2>().0 {
        match changed.get_mut(usize::from(*place)) {
            Some(octet) => *octet ^= mask,
            None if mask & 1 == 0 => {
                changed.pop();
            }
            None => changed.push(*mask),
        }
    }
    let is_good =
        |bytes: &[u8]| Message::parse(bytes).is_ok_and(|message| message.is_signed_with(&key("secret")));
    assert!(is_good(&good));
    // What follows the integrity is not covered, and neither is the length in the header, which must fit.
    let same = |at: std::ops::Range<usize>| changed.get(at.clone()) == good.get(at);
    if is_good(&changed) {
        assert!(same(0..2) && same(4..good.len()), "a changed message passes");
    }
}
