//! RTCP compounds, and transport-wide feedback with the history it is matched against.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use zynk_sfu_core::media::{
    rtcp::{COUNT_MAX, FIR_ENTRIES_MAX, NACK_PAIRS_MAX, PACKETS_MAX, Packet, Packets, REMB_SSRCS_MAX},
    twcc::{Feedback, HISTORY_MAX, SendHistory},
};

/// Packets in the history that feedback is matched against.
const SENT: u32 = 300;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Reads a datagram as a compound to its end, and as the body of a transport-wide feedback.
pub fn rtcp(data: &[u8]) {
    let mut packets = 0;
    for packet in Packets::new(data) {
        packets += 1;
        assert!(packets <= PACKETS_MAX + 1, "a compound without end");
        if let Ok(packet) = packet {
            walk(packet);
        }
    }
    feedback(data);
}

fn walk(packet: Packet<'_>) {
    match packet {
        Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks, .. } => {
            assert!(blocks.count() <= COUNT_MAX);
        }
        Packet::SourceDescription(chunks) => assert!(chunks.count() <= COUNT_MAX),
        Packet::Goodbye(ssrcs) => assert!(ssrcs.count() <= COUNT_MAX),
        Packet::Nack { pairs, .. } => assert!(pairs.count() <= NACK_PAIRS_MAX),
        Packet::FullIntraRequest { entries, .. } => assert!(entries.count() <= FIR_ENTRIES_MAX),
        Packet::Remb { ssrcs, .. } => assert!(ssrcs.count() <= REMB_SSRCS_MAX),
        Packet::TransportFeedback { fci, .. } => feedback(fci),
        _ => {}
    }
}

fn feedback(fci: &[u8]) {
    let Ok(feedback) = Feedback::parse(fci) else { return };
    let mut runs = 0;
    for _run in feedback.runs() {
        runs += 1;
        assert!(runs <= usize::from(feedback.status_count), "more runs than packets");
    }
    let mut history = SendHistory::new();
    for number in 0..SENT {
        let sent_at = *START + Duration::from_millis(number.into());
        history.register(sent_at, 1200, None);
    }
    let mut reports = Vec::new();
    history.on_feedback(&feedback, &mut reports);
    history.on_feedback(&feedback, &mut reports);
    assert!(reports.len() <= HISTORY_MAX.min(SENT as usize), "a packet was reported twice");
}
