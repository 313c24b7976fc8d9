use proptest::prelude::*;
use rtcp_types::prelude::*;

use super::*;
use crate::media::egress::{NtpTime, SenderInfo};
use crate::media::nack::NackPair;
use crate::media::receiver::ReportBlock;

const INFO: SenderInfo =
    SenderInfo { ntp: NtpTime(0x0123_4567_89ab_cdef), rtp: 0x1122_3344, packets: 1000, octets: 1_000_000 };

fn block(ssrc: u32) -> ReportBlock {
    ReportBlock {
        ssrc,
        fraction_lost: 25,
        cumulative_lost: -3,
        highest_seq: 0x1_0005,
        jitter: 90,
        last_sr: 0x4567_89ab,
        delay_since_last_sr: 0x8000,
    }
}

fn write(write: impl FnOnce(&mut RtcpWriter<'_>) -> Result<(), RtcpWriteError>) -> Vec<u8> {
    let mut buffer = vec![0xee; 4096];
    let mut writer = RtcpWriter::new(&mut buffer);
    write(&mut writer).unwrap();
    let bytes = writer.bytes();
    buffer.truncate(bytes);
    buffer
}

fn only(datagram: &[u8]) -> Packet<'_> {
    let packets: Result<Vec<_>, _> = Packets::new(datagram).collect();
    let mut packets = packets.unwrap();
    assert_eq!(packets.len(), 1);
    packets.remove(0)
}

#[test]
fn a_compound_of_everything_comes_back() {
    let pairs = [NackPair { pid: 65_530, blp: 0x8001 }, NackPair { pid: 9, blp: 0 }];
    let datagram = write(|writer| {
        writer.sender_report(1, &INFO, &[block(2), block(3)])?;
        writer.cname(1, "zynk")?;
        writer.receiver_report(1, &[block(4)])?;
        writer.nack(1, 5, &pairs)?;
        writer.picture_loss(1, 6)?;
        writer.full_intra_request(1, 7, 200)?;
        writer.remb(1, 2_500_000, &[8, 9])?;
        writer.packet(&[0x8f, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 9, 9])?;
        writer.goodbye(&[10, 11])
    });
    let mut packets = Packets::new(&datagram).map(Result::unwrap);
    let mut next = || packets.next().unwrap();
    let Packet::SenderReport { ssrc: 1, info, blocks } = next() else { panic!("no SR") };
    assert_eq!(info, INFO);
    assert_eq!(blocks.collect::<Vec<_>>(), [block(2), block(3)]);
    let Packet::SourceDescription(names) = next() else { panic!("no SDES") };
    assert_eq!(names.collect::<Vec<_>>(), [(1, &b"zynk"[..])]);
    let Packet::ReceiverReport { ssrc: 1, blocks } = next() else { panic!("no RR") };
    assert_eq!(blocks.collect::<Vec<_>>(), [block(4)]);
    let Packet::Nack { sender: 1, media: 5, pairs: read } = next() else { panic!("no NACK") };
    assert_eq!(read.collect::<Vec<_>>(), pairs);
    let Packet::PictureLoss { sender: 1, media: 6 } = next() else { panic!("no PLI") };
    let Packet::FullIntraRequest { sender: 1, entries } = next() else { panic!("no FIR") };
    assert_eq!(entries.collect::<Vec<_>>(), [(7, 200)]);
    let Packet::Remb { sender: 1, bitrate_bps: 2_500_000, ssrcs } = next() else { panic!("no REMB") };
    assert_eq!(ssrcs.collect::<Vec<_>>(), [8, 9]);
    let Packet::TransportFeedback { sender: 1, media: 2, fci: [9, 9, 9, 9] } = next() else {
        panic!("no feedback")
    };
    let Packet::Goodbye(ssrcs) = next() else { panic!("no BYE") };
    assert_eq!(ssrcs.collect::<Vec<_>>(), [10, 11]);
    assert!(packets.next().is_none());
}

/// `rtcp-types` reads what we write.
#[test]
fn another_parser_understands_it() {
    let datagram = write(|writer| {
        writer.sender_report(1, &INFO, &[block(2)])?;
        writer.cname(1, "zynk-42")?;
        writer.nack(1, 5, &[NackPair { pid: 100, blp: 0b101 }])?;
        writer.picture_loss(1, 6)?;
        writer.full_intra_request(1, 7, 200)?;
        writer.goodbye(&[10])
    });
    let packets: Vec<_> = rtcp_types::Compound::parse(&datagram).unwrap().map(Result::unwrap).collect();
    assert_eq!(packets.len(), 6);
    let rtcp_types::Packet::Sr(report) = &packets[0] else { panic!("no SR") };
    assert_eq!((report.ssrc(), report.ntp_timestamp(), report.rtp_timestamp()), (1, INFO.ntp.0, INFO.rtp));
    assert_eq!((report.packet_count(), report.octet_count()), (1000, 1_000_000));
    let read = report.report_blocks().next().unwrap();
    assert_eq!((read.ssrc(), read.fraction_lost(), read.cumulative_lost()), (2, 25, 0xff_fffd));
    assert_eq!((read.extended_sequence_number(), read.interarrival_jitter()), (0x1_0005, 90));
    assert_eq!(
        (read.last_sender_report_timestamp(), read.delay_since_last_sender_report_timestamp()),
        (0x4567_89ab, 0x8000)
    );
    let rtcp_types::Packet::Sdes(names) = &packets[1] else { panic!("no SDES") };
    let chunk = names.chunks().next().unwrap();
    assert_eq!((chunk.ssrc(), chunk.items().next().unwrap().value()), (1, &b"zynk-42"[..]));
    let rtcp_types::Packet::TransportFeedback(feedback) = &packets[2] else { panic!("no NACK") };
    let nack = feedback.parse_fci::<rtcp_types::Nack<'_>>().unwrap();
    assert_eq!(nack.entries().collect::<Vec<_>>(), [100, 101, 103]);
    assert_eq!((feedback.sender_ssrc(), feedback.media_ssrc()), (1, 5));
    let rtcp_types::Packet::PayloadFeedback(feedback) = &packets[3] else { panic!("no PLI") };
    assert!(feedback.parse_fci::<rtcp_types::Pli<'_>>().is_ok() && feedback.media_ssrc() == 6);
    let rtcp_types::Packet::PayloadFeedback(feedback) = &packets[4] else { panic!("no FIR") };
    let request = feedback.parse_fci::<rtcp_types::Fir<'_>>().unwrap();
    let entry = request.entries().next().unwrap();
    assert_eq!((entry.ssrc(), entry.sequence()), (7, 200));
    let rtcp_types::Packet::Bye(goodbye) = &packets[5] else { panic!("no BYE") };
    assert_eq!(goodbye.ssrcs().collect::<Vec<_>>(), [10]);
}

/// And we read what `rtcp-types` writes, in forms that ours never takes.
#[test]
fn another_writer_is_understood() {
    let names = rtcp_types::Sdes::builder()
        .add_chunk(
            rtcp_types::SdesChunk::builder(1)
                .add_item(rtcp_types::SdesItem::builder(rtcp_types::SdesItem::NAME, "who"))
                .add_item(rtcp_types::SdesItem::builder(rtcp_types::SdesItem::CNAME, "a@b")),
        )
        .add_chunk(rtcp_types::SdesChunk::builder(2))
        .add_chunk(
            rtcp_types::SdesChunk::builder(3)
                .add_item(rtcp_types::SdesItem::builder(rtcp_types::SdesItem::CNAME, "cc")),
        );
    let goodbye = rtcp_types::Bye::builder().add_source(9).reason("bye").padding(8);
    let compound = rtcp_types::Compound::builder()
        .add_packet(rtcp_types::ReceiverReport::builder(1))
        .add_packet(names)
        .add_packet(rtcp_types::App::builder(1, "abcd").data(&[1, 2, 3, 4]))
        .add_packet(goodbye);
    let mut buffer = vec![0; compound.calculate_size().unwrap()];
    compound.write_into(&mut buffer).unwrap();
    let packets: Vec<_> = Packets::new(&buffer).map(Result::unwrap).collect();
    assert_eq!(packets.len(), 4);
    let Packet::SourceDescription(names) = &packets[1] else { panic!("no SDES") };
    assert_eq!(names.clone().collect::<Vec<_>>(), [(1, &b"a@b"[..]), (3, &b"cc"[..])]);
    assert!(matches!(packets[2], Packet::Other { packet_type: 204, .. }));
    let Packet::Goodbye(ssrcs) = &packets[3] else { panic!("no BYE") };
    assert_eq!(ssrcs.clone().collect::<Vec<_>>(), [9]);
}

#[test]
fn bitrates_keep_their_leading_bits() {
    for bitrate in [0u64, 1, 0x3_ffff, 0x4_0000, 2_500_000, 123_456_789_012, u64::MAX] {
        let datagram = write(|writer| writer.remb(1, bitrate, &[]));
        let Packet::Remb { bitrate_bps, .. } = only(&datagram) else { panic!("no REMB") };
        assert!(bitrate_bps <= bitrate && bitrate - bitrate_bps <= bitrate >> 17, "{bitrate} {bitrate_bps}");
    }
    // A claim beyond 64 bits saturates.
    let mut datagram = write(|writer| writer.remb(1, u64::MAX, &[]));
    datagram[17] = 0xff;
    let Packet::Remb { bitrate_bps: u64::MAX, .. } = only(&datagram) else { panic!("no REMB") };
}

#[test]
fn application_feedback_that_is_no_remb_is_ignored() {
    let mut datagram = write(|writer| writer.remb(1, 5, &[]));
    datagram[12] = b'X';
    assert!(matches!(only(&datagram), Packet::Other { packet_type: 206, count: 15 }));
    let short = [0x8f, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    assert!(matches!(only(&short), Packet::Other { packet_type: 206, count: 15 }));
}

#[test]
fn lengths_and_counts_are_checked() {
    let error = |datagram: &[u8]| Packets::new(datagram).last().unwrap().err();
    assert_eq!(error(&[0x80, 201]), Some(RtcpError::Truncated { expected: 4, actual: 2 }));
    assert_eq!(error(&[0x80, 201, 0, 1, 0, 0, 0]), Some(RtcpError::Truncated { expected: 8, actual: 7 }));
    assert_eq!(error(&[0x40, 201, 0, 1, 0, 0, 0, 1]), Some(RtcpError::Version(1)));
    assert_eq!(
        error(&[0x81, 201, 0, 1, 0, 0, 0, 1]),
        Some(RtcpError::Length { packet_type: 201, count: 1, bytes: 4 })
    );
    assert_eq!(
        error(&[0x80, 200, 0, 1, 0, 0, 0, 1]),
        Some(RtcpError::Length { packet_type: 200, count: 0, bytes: 4 })
    );
    assert_eq!(
        error(&[0x82, 203, 0, 1, 0, 0, 0, 1]),
        Some(RtcpError::Length { packet_type: 203, count: 2, bytes: 4 })
    );
    assert_eq!(
        error(&[0x81, 206, 0, 1, 0, 0, 0, 1]),
        Some(RtcpError::Length { packet_type: 206, count: 1, bytes: 4 })
    );
    let mut remb = write(|writer| writer.remb(1, 5, &[1]));
    remb[16] = 2;
    assert_eq!(error(&remb), Some(RtcpError::Length { packet_type: 206, count: 15, bytes: 20 }));
    assert!(Packets::new(&[]).next().is_none());
    // What came before the error stands.
    let mut datagram = write(|writer| writer.picture_loss(1, 2));
    datagram.extend([0x80, 206]);
    let read: Vec<_> = Packets::new(&datagram).collect();
    assert!(matches!(read[..], [Ok(Packet::PictureLoss { .. }), Err(RtcpError::Truncated { .. })]));
}

#[test]
fn t33_padding_is_checked() {
    let error = |datagram: &[u8]| Packets::new(datagram).last().unwrap().err();
    for padding in [0, 9, 12, 255] {
        assert_eq!(error(&[0xa0, 201, 0, 2, 0, 0, 0, 1, 0, 0, 0, padding]), Some(RtcpError::Padding));
    }
    assert_eq!(error(&[0xa0, 201, 0, 0]), Some(RtcpError::Padding));
    assert_eq!(error(&[0xa0, 201, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4]), None);
    assert_eq!(
        error(&[0xa0, 201, 0, 2, 0, 0, 0, 1, 0, 0, 0, 8]),
        Some(RtcpError::Length { packet_type: 201, count: 0, bytes: 0 }),
        "nothing is left"
    );
}

#[test]
fn feedback_pads_its_odd_length_anywhere() {
    let mut datagram = vec![0xaf, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 0, 2];
    datagram.extend(write(|writer| writer.picture_loss(1, 2)));
    let read: Vec<_> = Packets::new(&datagram).collect();
    let [Ok(Packet::TransportFeedback { fci: [9, 9], .. }), Ok(Packet::PictureLoss { .. })] = read[..] else {
        panic!("{read:?}")
    };
}

#[test]
fn t38_lists_are_bounded() {
    let datagram = [0x80, 201, 0, 1, 0, 0, 0, 1].repeat(100);
    assert_eq!(Packets::new(&datagram).filter(Result::is_ok).count(), PACKETS_MAX);
    assert!(matches!(Packets::new(&datagram).last(), Some(Err(RtcpError::TooMany))));

    let pairs = vec![NackPair { pid: 1, blp: 0xffff }; 1000];
    let mut buffer = vec![0; 8192];
    let mut writer = RtcpWriter::new(&mut buffer);
    writer.nack(1, 2, &pairs).unwrap();
    let bytes = writer.bytes();
    let Packet::Nack { pairs, .. } = only(&buffer[..bytes]) else { panic!("no NACK") };
    assert_eq!(pairs.count(), NACK_PAIRS_MAX);
    let mut datagram = vec![0x84, 206, 0, 202];
    datagram.resize(4 + 808, 0);
    let Packet::FullIntraRequest { entries, .. } = only(&datagram) else { panic!("no FIR") };
    assert_eq!(entries.count(), FIR_ENTRIES_MAX);
}

#[test]
fn what_does_not_fit_is_not_begun() {
    let mut buffer = [0; 40];
    let mut writer = RtcpWriter::new(&mut buffer);
    writer.receiver_report(1, &[]).unwrap();
    assert_eq!(writer.sender_report(1, &INFO, &[block(1)]), Err(RtcpWriteError::Bounds));
    assert_eq!(writer.receiver_report(1, &[block(1); 32]), Err(RtcpWriteError::TooMany));
    assert_eq!(writer.goodbye(&[1; 32]), Err(RtcpWriteError::TooMany));
    assert_eq!(writer.remb(1, 1, &[1; 256]), Err(RtcpWriteError::TooMany));
    assert_eq!(writer.cname(1, &"x".repeat(256)), Err(RtcpWriteError::TooMany));
    assert_eq!(writer.packet(&[0; 3]), Err(RtcpWriteError::Bounds));
    writer.picture_loss(1, 2).unwrap();
    let bytes = writer.bytes();
    let read: Vec<_> = Packets::new(&buffer[..bytes]).collect();
    assert!(matches!(read[..], [Ok(Packet::ReceiverReport { .. }), Ok(Packet::PictureLoss { .. })]));
}

#[test]
fn names_end_at_a_malformed_chunk() {
    let names = |body: &[u8], count: u8| {
        let mut datagram = vec![0x80 | count, 202, 0, (body.len() / 4) as u8];
        datagram.extend_from_slice(body);
        let Packet::SourceDescription(names) = only(&datagram) else { panic!("no SDES") };
        names.map(|(ssrc, name)| (ssrc, name.to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(names(&[0, 0, 0, 1, 1, 1, b'a', 0], 2), [(1, b"a".to_vec())], "one chunk less than counted");
    assert_eq!(names(&[0, 0, 0, 1, 1, 9, b'a', 0], 1), [], "an item beyond the packet");
    assert_eq!(names(&[0, 0, 0, 1, 1, 2, b'a', b'b'], 1), [], "no end");
    assert_eq!(names(&[0, 0, 0, 1, 1, 0, 0, 0], 1), [(1, vec![])], "an empty name");
}

proptest! {
    #[test]
    fn any_datagram_is_read_without_panic(
        mut datagram in prop::collection::vec(any::<u8>(), 0..300),
        packet_type in 198u8..210,
        valid: bool,
    ) {
        if valid && let [b0, kind, l0, l1, ..] = &mut datagram[..] {
            *b0 = *b0 & 0x3f | 0x80;
            *kind = packet_type;
            (*l0, *l1) = (0, *l1 & 0x3f);
        }
        for packet in Packets::new(&datagram).flatten() {
            match packet {
                Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks, .. } => {
                    prop_assert!(blocks.count() <= COUNT_MAX);
                }
                Packet::SourceDescription(names) => prop_assert!(names.count() <= COUNT_MAX),
                Packet::Goodbye(ssrcs) => prop_assert!(ssrcs.count() <= COUNT_MAX),
                Packet::Nack { pairs, .. } => prop_assert!(pairs.count() <= NACK_PAIRS_MAX),
                Packet::FullIntraRequest { entries, .. } => prop_assert!(entries.count() <= FIR_ENTRIES_MAX),
                Packet::Remb { ssrcs, .. } => prop_assert!(ssrcs.count() <= REMB_SSRCS_MAX),
                _ => {}
            }
        }
    }

    #[test]
    fn reports_come_back(fraction: u8, lost in -0x80_0000i32..0x80_0000, seq: u32, jitter: u32, n in 0usize..32) {
        let block = ReportBlock {
            ssrc: 5,
            fraction_lost: fraction,
            cumulative_lost: lost,
            highest_seq: seq,
            jitter,
            last_sr: 1,
            delay_since_last_sr: 2,
        };
        let datagram = write(|writer| writer.receiver_report(9, &vec![block; n]));
        let Packet::ReceiverReport { ssrc: 9, blocks } = only(&datagram) else { panic!("no RR") };
        prop_assert_eq!(blocks.collect::<Vec<_>>(), vec![block; n]);
    }

    #[test]
    fn any_name_comes_back(name in "[a-z]{0,255}") {
        let datagram = write(|writer| writer.cname(9, &name));
        prop_assert_eq!(datagram.len() % 4, 0);
        let Packet::SourceDescription(names) = only(&datagram) else { panic!("no SDES") };
        prop_assert_eq!(names.collect::<Vec<_>>(), [(9, name.as_bytes())]);
    }
}
