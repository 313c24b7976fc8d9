//! Messages that the RFCs print, read and written byte for byte, and messages that nobody should print.

use proptest::prelude::*;

use super::attribute::{
    DATA, ERROR_CODE, MESSAGE_INTEGRITY, NONCE, PASSWORD_ALGORITHM, REALM, USERNAME, XOR_MAPPED_ADDRESS,
    XOR_PEER_ADDRESS,
};
use super::*;

const SOFTWARE: u16 = 0x8022;
const PRIORITY: u16 = 0x0024;
const ICE_CONTROLLED: u16 = 0x8029;
const USERHASH: u16 = 0x001e;

/// RFC 5769, sections 2.1 to 2.3.
const ICE_PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";
const ICE_TRANSACTION: &str = "b7e7a701bc34d686fa87dfae";
/// RFC 5769, section 2.4, and RFC 8489, appendix B.1.
const MATRIX: &str = "マトリックス";
const MATRIX_TRANSACTION: &str = "78ad3433c6ad72c029da412e";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| Some(c.to_digit(16)? as u8)).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn transaction(text: &str) -> TransactionId {
    hex(text).try_into().unwrap()
}

/// The request of section 2.1 pads its user name with blanks, as the RFC's authors did to find out who looks there.
fn ice_request() -> Vec<u8> {
    hex("0001 0058 2112a442 b7e7a701bc34d686fa87dfae
         8022 0010 5354554e207465737420636c69656e74
         0024 0004 6e0001ff
         8029 0008 932ff9b151263b36
         0006 0009 6576746a3a68367659 202020
         0008 0014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
         8028 0004 e57a3bcf")
}

fn ice_response_v4() -> Vec<u8> {
    hex("0101 003c 2112a442 b7e7a701bc34d686fa87dfae
         8022 000b 7465737420766563746f72 20
         0020 0008 0001a147e112a643
         0008 0014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
         8028 0004 c07d4c96")
}

fn ice_response_v6() -> Vec<u8> {
    hex("0101 0048 2112a442 b7e7a701bc34d686fa87dfae
         8022 000b 7465737420766563746f72 20
         0020 0014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
         0008 0014 a382954e4be67bf11784c97c8292c275bfe3ed41
         8028 0004 c8fb0b4c")
}

fn long_term_request() -> Vec<u8> {
    hex("0001 0060 2112a442 78ad3433c6ad72c029da412e
         0006 0012 e3839ee38388e383aae38383e382afe382b9 0000
         0015 001c 662f2f3439396b39353464364f4c33346f4c39465354767936347341
         0014 000b 6578616d706c652e6f7267 00
         0008 0014 f67024656dd64a3e02b8e0712e85c9a28ca89666")
}

/// As erratum 6268 corrects it.
fn sha256_request() -> Vec<u8> {
    hex("0001 0090 2112a442 78ad3433c6ad72c029da412e
         001e 0020 4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704
         0015 0029 6f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39465354767936347341 000000
         0014 000b 6578616d706c652e6f7267 00
         001d 0004 00020000
         001c 0020 b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65")
}

fn matrix_key(algorithm: PasswordAlgorithm) -> IntegrityKey {
    IntegrityKey::long_term(algorithm, MATRIX, "example.org", "TheMatrIX")
}

#[test]
fn rfc5769_2_1_request_is_read() {
    let bytes = ice_request();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Some(Method::Binding)));
    assert_eq!(*message.transaction(), transaction(ICE_TRANSACTION));
    assert_eq!(message.text(SOFTWARE), Some("STUN test client"));
    assert_eq!(message.number(PRIORITY), Some(0x6e00_01ff));
    assert_eq!(message.attribute(ICE_CONTROLLED), Some(&hex("932ff9b151263b36")[..]));
    assert_eq!(message.text(USERNAME), Some("evtj:h6vY"));
    assert!(message.has_fingerprint() && message.is_signed_with_bytes(ICE_PASSWORD.as_bytes()));
    assert!(!message.is_signed_with_bytes(b"VOkJxbRl1RmTxUk/WvJxBu"));
    assert_eq!(message.unknown(&[USERNAME]).collect::<Vec<_>>(), [PRIORITY]);
}

#[test]
fn rfc5769_2_2_and_2_3_responses_are_read() {
    for (bytes, address) in [
        (ice_response_v4(), "192.0.2.1:32853"),
        (ice_response_v6(), "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, Some(Method::Binding)));
        assert_eq!(message.xor_address(XOR_MAPPED_ADDRESS), Some(address.parse().unwrap()));
        assert_eq!(message.text(SOFTWARE), Some("test vector"));
        assert!(message.has_fingerprint() && message.is_signed_with_bytes(ICE_PASSWORD.as_bytes()));
    }
}

#[test]
fn rfc5769_2_4_long_term_request_is_read() {
    let bytes = long_term_request();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.text(USERNAME), Some(MATRIX));
    assert_eq!(message.text(NONCE), Some("f//499k954d6OL34oL9FSTvy64sA"));
    assert_eq!(message.text(REALM), Some("example.org"));
    assert!(!message.has_fingerprint() && message.is_signed_with(&matrix_key(PasswordAlgorithm::Md5)));
    assert!(!message.is_signed_with(&matrix_key(PasswordAlgorithm::Sha256)));
}

#[test]
fn rfc8489_b_1_is_read_and_written() {
    let bytes = sha256_request();
    let message = Message::parse(&bytes).unwrap();
    let key = matrix_key(PasswordAlgorithm::Sha256);
    assert_eq!(message.integrity_kind(), Some(IntegrityKind::Sha256));
    assert_eq!(message.attribute(PASSWORD_ALGORITHM), Some(&[0, 2, 0, 0][..]));
    assert!(message.is_signed_with(&key) && !message.is_signed_with(&matrix_key(PasswordAlgorithm::Md5)));
    let mut written = Vec::new();
    Writer::new(&mut written, Class::Request, Method::Binding, &transaction(MATRIX_TRANSACTION))
        .attribute(USERHASH, message.attribute(USERHASH).unwrap())
        .attribute(NONCE, b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA")
        .attribute(REALM, b"example.org")
        .attribute(PASSWORD_ALGORITHM, &[0, 2, 0, 0])
        .sign_sha256(&key);
    assert_eq!(written, bytes);
}

/// The vectors pad with blanks, which a writer must not; so the integrity and the fingerprint are those of what is
/// before them with blanks, put there by hand.
#[test]
fn rfc5769_is_written() {
    let mut written = Vec::new();
    Writer::new(&mut written, Class::Request, Method::Binding, &transaction(MATRIX_TRANSACTION))
        .attribute(USERNAME, MATRIX.as_bytes())
        .attribute(NONCE, b"f//499k954d6OL34oL9FSTvy64sA")
        .attribute(REALM, b"example.org")
        .sign_sha1(&matrix_key(PasswordAlgorithm::Md5));
    assert_eq!(written, long_term_request(), "2.4");

    let key = IntegrityKey::short_term(ICE_PASSWORD).unwrap();
    let address = |text: &str| text.parse().unwrap();
    let v6 = address("[2001:db8:1234:5678:11:2233:4455:6677]:32853");
    for (address, wanted) in [(address("192.0.2.1:32853"), ice_response_v4()), (v6, ice_response_v6())] {
        let id = transaction(ICE_TRANSACTION);
        let mut buffer = b"what was there before".to_vec();
        let start = buffer.len();
        Writer::new(&mut buffer, Class::Success, Method::Binding, &id).attribute(SOFTWARE, b"test vector");
        assert_eq!(buffer.pop(), Some(0));
        buffer.push(b' ');
        Writer::resume_for_tests(&mut buffer, start, &id)
            .xor_address(XOR_MAPPED_ADDRESS, address)
            .sign_sha1(&key)
            .fingerprint();
        assert_eq!(buffer[start..], wanted, "2.2 and 2.3");
    }

    let id = transaction(ICE_TRANSACTION);
    let mut buffer = Vec::new();
    Writer::new(&mut buffer, Class::Request, Method::Binding, &id)
        .attribute(SOFTWARE, b"STUN test client")
        .number(PRIORITY, 0x6e00_01ff)
        .attribute(ICE_CONTROLLED, &hex("932ff9b151263b36"))
        .attribute(USERNAME, b"evtj:h6vY");
    let padding = buffer.len() - 3;
    assert_eq!(buffer[padding..], [0; 3], "padding is zero");
    buffer[padding..].copy_from_slice(b"   ");
    Writer::resume_for_tests(&mut buffer, 0, &id).sign_sha1(&key).fingerprint();
    assert_eq!(buffer, ice_request(), "2.1");
}

#[test]
fn any_changed_bit_of_the_vectors_is_noticed() {
    let ice_key = IntegrityKey::short_term(ICE_PASSWORD).unwrap();
    let sha256_key = matrix_key(PasswordAlgorithm::Sha256);
    let vectors = [
        (ice_request(), &ice_key),
        (ice_response_v4(), &ice_key),
        (ice_response_v6(), &ice_key),
        (sha256_request(), &sha256_key),
    ];
    for (vector, key) in vectors {
        let is_good = |bytes: &[u8]| Message::parse(bytes).is_ok_and(|message| message.is_signed_with(key));
        assert!(is_good(&vector));
        // The last attribute may become another one, which counts for nothing: its type is not covered.
        let has_fingerprint = Message::parse(&vector).unwrap().has_fingerprint();
        let end = if has_fingerprint { vector.len() - 8 } else { vector.len() };
        for bit in 0..end * 8 {
            let mut bytes = vector.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_good(&bytes), "bit {bit}");
        }
    }
}

#[test]
fn what_follows_the_integrity_counts_for_nothing() {
    let key = matrix_key(PasswordAlgorithm::Md5);
    let mut bytes = Vec::new();
    Writer::new(&mut bytes, Class::Request, Method::Allocate, &[1; 12])
        .attribute(USERNAME, b"real")
        .sign_sha1(&key)
        .attribute(REALM, b"forged")
        .attribute(0x7fff, b"forged")
        .fingerprint();
    let message = Message::parse(&bytes).unwrap();
    assert!(message.is_signed_with(&key) && message.has_fingerprint());
    assert_eq!(message.attributes().collect::<Vec<_>>(), [(USERNAME, &b"real"[..])]);
    assert!(!message.has(REALM) && message.unknown(&[]).eq([USERNAME]));
}

#[test]
fn of_two_integrities_the_stronger_counts_and_must_be_right() {
    let (key, wrong) = (matrix_key(PasswordAlgorithm::Md5), matrix_key(PasswordAlgorithm::Sha256));
    let write = |sha1: &IntegrityKey, sha256: &IntegrityKey| {
        let mut bytes = Vec::new();
        let writer = Writer::new(&mut bytes, Class::Request, Method::Allocate, &[1; 12]);
        writer.attribute(USERNAME, b"real").sign_sha1(sha1).sign_sha256(sha256);
        bytes
    };
    assert!(Message::parse(&write(&key, &key)).unwrap().is_signed_with(&key));
    assert!(Message::parse(&write(&wrong, &key)).unwrap().is_signed_with(&key));
    assert!(!Message::parse(&write(&key, &wrong)).unwrap().is_signed_with(&key));
}

#[test]
fn an_integrity_of_another_length_is_none() {
    let key = matrix_key(PasswordAlgorithm::Md5);
    for (kind, lengths) in [(IntegrityKind::Sha1, 0..20), (IntegrityKind::Sha256, 0..32)] {
        for length in lengths {
            let mut bytes = Vec::new();
            let writer = Writer::new(&mut bytes, Class::Request, Method::Allocate, &[1; 12]);
            writer.attribute(USERNAME, b"real");
            // As RFC 8489, section 14.6, has it for usages that allow it.
            let tag = key.sign(kind, &bytes, bytes.len() - HEADER_BYTES + 4 + length);
            let attribute = if kind == IntegrityKind::Sha1 { MESSAGE_INTEGRITY } else { 0x001c };
            Writer::resume_for_tests(&mut bytes, 0, &[1; 12]).attribute(attribute, &tag.as_ref()[..length]);
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.integrity_kind(), Some(kind));
            assert!(!message.is_signed_with(&key), "{length} bytes");
        }
    }
}

#[test]
fn an_address_has_exactly_its_bytes() {
    for (length, good) in
        [(0, false), (4, false), (7, false), (8, true), (9, false), (19, false), (20, true), (21, false)]
    {
        let mut value = vec![0; length];
        if let Some(family) = value.get_mut(1) {
            *family = if length > 9 { 2 } else { 1 };
        }
        let mut bytes = Vec::new();
        Writer::new(&mut bytes, Class::Request, Method::Binding, &[1; 12])
            .attribute(XOR_PEER_ADDRESS, &value);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.xor_address(XOR_PEER_ADDRESS).is_some(), good, "{length} bytes");
        assert_eq!(message.xor_addresses(XOR_PEER_ADDRESS).count(), 1);
    }
}

#[test]
fn the_end_of_another_attribute_is_no_fingerprint() {
    let mut bytes = Vec::new();
    Writer::new(&mut bytes, Class::Indication, Method::Send, &[1; 12])
        .attribute(DATA, &[0x80, 0x28, 0, 4, 1, 2, 3, 4]);
    assert!(!Message::parse(&bytes).unwrap().has_fingerprint());
}

#[test]
fn error_codes_are_two_digits_and_a_hundred() {
    for (code, wanted) in [
        (ErrorCode::BadRequest, [4, 0]),
        (ErrorCode::AllocationQuotaReached, [4, 86]),
        (ErrorCode::InsufficientCapacity, [5, 8]),
    ] {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes, Class::Error, Method::Allocate, &[1; 12]).error(code);
        assert_eq!(Message::parse(&bytes).unwrap().attribute(ERROR_CODE).unwrap()[2..], wanted);
    }
}

#[test]
fn types_are_joined_as_they_are_split() {
    for bits in 0..0x4000 {
        let (class, number) = split_type(bits);
        assert!(number < 0x1000);
        if let Some(method) = Method::from_number(number) {
            assert_eq!(join_type(class, method), bits);
        }
    }
    // RFC 8489, section 5, figure 3; RFC 8656, section 17.
    assert_eq!(join_type(Class::Error, Method::Binding), 0x0111);
    assert_eq!(join_type(Class::Success, Method::Allocate), 0x0103);
    assert_eq!(join_type(Class::Indication, Method::Send), 0x0016);
}

#[test]
fn what_does_not_fit_is_left_out() {
    let mut bytes = Vec::new();
    let most = 65_532 - 4;
    Writer::new(&mut bytes, Class::Indication, Method::Data, &[1; 12]).attribute(DATA, &vec![7; most + 1]);
    assert_eq!(bytes.len(), HEADER_BYTES);
    let writer = Writer::new(&mut bytes, Class::Indication, Method::Data, &[1; 12]);
    writer.attribute(DATA, &vec![7; most]).number(XOR_PEER_ADDRESS, 1);
    let message = Message::parse(&bytes[HEADER_BYTES..]).unwrap();
    assert_eq!(message.attribute(DATA).map(<[u8]>::len), Some(most));
    assert!(!message.has(XOR_PEER_ADDRESS));
}

prop_compose! {
    fn attribute()(kind in prop_oneof![0u16..0x30, 0x8000u16..0x8030, any::<u16>()],
                   value in prop::collection::vec(any::<u8>(), 0..40)) -> (u16, Vec<u8>) {
        (kind, value)
    }
}

fn exercise(bytes: &[u8]) {
    if let Ok(message) = Message::parse(bytes) {
        let _ = (message.method(), message.has_fingerprint(), message.unknown(&[USERNAME]).count());
        let _ = message.is_signed_with(&matrix_key(PasswordAlgorithm::Md5));
        assert!(message.xor_addresses(XOR_PEER_ADDRESS).count() <= bytes.len() / 4);
        let size: usize = message.attributes().map(|(_, value)| 4 + value.len().next_multiple_of(4)).sum();
        assert!(HEADER_BYTES + size <= bytes.len());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        exercise(&bytes);
    }

    /// Bytes behind a good header get further.
    #[test]
    fn any_attributes_are_read_without_panic(words in prop::collection::vec(any::<[u8; 4]>(), 0..60), bits in 0u16..0x4000) {
        let mut bytes = bits.to_be_bytes().to_vec();
        bytes.extend((words.len() as u16 * 4).to_be_bytes());
        bytes.extend(MAGIC_COOKIE.to_be_bytes());
        bytes.extend([9; 12]);
        bytes.extend(words.as_flattened());
        exercise(&bytes);
    }

    #[test]
    fn what_is_written_is_read(
        attributes in prop::collection::vec(attribute(), 0..12),
        id in any::<TransactionId>(),
        sha1 in any::<bool>(), sha256 in any::<bool>(), fingerprint in any::<bool>(),
    ) {
        let attributes: Vec<_> =
            attributes.into_iter().filter(|(kind, _)| ![8, 0x1c, 0x8028].contains(kind)).collect();
        let key = matrix_key(PasswordAlgorithm::Md5);
        let mut bytes = vec![1, 2, 3];
        let mut writer = Writer::new(&mut bytes, Class::Request, Method::Refresh, &id);
        for (kind, value) in &attributes {
            writer = writer.attribute(*kind, value);
        }
        if sha1 {
            writer = writer.sign_sha1(&key);
        }
        if sha256 {
            writer = writer.sign_sha256(&key);
        }
        if fingerprint {
            writer.fingerprint();
        }
        let message = Message::parse(&bytes[3..]).unwrap();
        prop_assert_eq!(message.class(), Class::Request);
        prop_assert_eq!(message.method(), Some(Method::Refresh));
        prop_assert_eq!(message.transaction(), &id);
        prop_assert_eq!(message.has_fingerprint(), fingerprint);
        prop_assert_eq!(message.is_signed_with(&key), sha1 || sha256);
        let read: Vec<_> = message.attributes().map(|(kind, value)| (kind, value.to_vec())).collect();
        prop_assert_eq!(read, attributes);
    }

    #[test]
    fn addresses_are_read_as_they_were_written(ip in any::<std::net::IpAddr>(), port in any::<u16>(), id in any::<TransactionId>()) {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes, Class::Request, Method::Binding, &id).xor_address(XOR_PEER_ADDRESS, (ip, port).into());
        prop_assert_eq!(Message::parse(&bytes).unwrap().xor_address(XOR_PEER_ADDRESS), Some((ip, port).into()));
    }
}
