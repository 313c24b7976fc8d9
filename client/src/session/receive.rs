//! Tracks that the session receives: which section carries which, and what arrived of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use str0m::rtp::RtpPacket;

use super::{
    io::{EarlierPayload, MediaPacket},
    red::RedBlocks,
    statistics::{FrameLog, ReceiveStats, SequenceLog},
};
use crate::media::SyntheticHeader;

/// Tracks whose figures are kept. Beyond it, a further track is received but not counted.
const TRACKS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct ReceivedTracks {
    /// Section to track.
    mids: BTreeMap<String, String>,
    tracks: BTreeMap<String, ReceivedTrack>,
}

#[derive(Debug, Default)]
struct ReceivedTrack {
    packets: u64,
    bytes: u64,
    sequence: SequenceLog,
    frames: FrameLog,
}

impl ReceivedTracks {
    /// Replaces the map from sections to tracks. Returns the tracks that began and those that ended.
    pub(super) fn map(&mut self, mids: impl Iterator<Item = (String, String)>) -> (Vec<String>, Vec<String>) {
        let before: BTreeSet<String> = self.mids.values().cloned().collect();
        self.mids = mids.take(TRACKS_MAX).collect();
        let after: BTreeSet<String> = self.mids.values().cloned().collect();
        let begun = after.difference(&before).cloned().collect();
        let ended = before.difference(&after).cloned().collect();
        (begun, ended)
    }

    pub(super) fn mid_of(&self, track: &str) -> Option<&str> {
        self.mids.iter().find(|(_, known)| *known == track).map(|(mid, _)| mid.as_str())
    }

    /// Counts a packet, of Opus with redundancy if `red`. None when its section carries no track, or it is malformed.
    pub(super) fn receive(
        &mut self,
        (now, clock): (Instant, Duration),
        mid: &str,
        packet: &RtpPacket,
        red: bool,
    ) -> Option<MediaPacket> {
        let track = self.mids.get(mid)?;
        let (payload, earlier) = match red {
            true => {
                let blocks = RedBlocks::parse(&packet.payload)?;
                let earlier = blocks.earlier.iter().map(|(offset, payload)| EarlierPayload {
                    timestamp: packet.header.timestamp.wrapping_sub(*offset),
                    payload: Arc::from(*payload),
                });
                (Arc::from(blocks.own), earlier.collect())
            }
            false => (packet.payload.clone(), Vec::new()),
        };
        if !self.tracks.contains_key(track) && self.tracks.len() < TRACKS_MAX {
            self.tracks.insert(track.clone(), ReceivedTrack::default());
        }
        if let Some(received) = self.tracks.get_mut(track) {
            received.packets += 1;
            received.bytes += u64::try_from(packet.payload.len()).unwrap_or(0);
            received.sequence.receive(*packet.seq_no);
            if let Some(header) = SyntheticHeader::parse(&payload) {
                let clock_us = u64::try_from(clock.as_micros()).unwrap_or(u64::MAX);
                received.frames.receive(now, clock_us, header);
            }
        }
        Some(MediaPacket {
            track: track.clone(),
            seq: *packet.seq_no,
            timestamp: packet.header.timestamp,
            marker: packet.header.marker,
            payload_type: *packet.header.payload_type,
            audio_level_dbov: packet.header.ext_vals.audio_level,
            payload,
            earlier,
        })
    }

    pub(super) fn incomplete_frames(&self, track: &str, frames: RangeInclusive<u32>) -> Vec<u32> {
        match self.tracks.get(track) {
            Some(received) => received.frames.incomplete(frames),
            None => frames.collect(),
        }
    }

    pub(super) fn stats(&self) -> BTreeMap<String, ReceiveStats> {
        let stats = self.tracks.iter().map(|(track, received)| {
            let mut stats = ReceiveStats {
                packets: received.packets,
                bytes: received.bytes,
                frames: received.frames.stats(),
                ..ReceiveStats::default()
            };
            received.sequence.add_to(&mut stats);
            (track.clone(), stats)
        });
        stats.collect()
    }
}

/// Sections of a server's offer that send a track: mid and the `TR_…` id in `a=msid:<PA>|<x> <TR>`.
pub(super) fn tracks_in_sdp(sdp: &str) -> Vec<(String, String)> {
    let mut tracks = Vec::new();
    for section in sdp.split("\nm=").skip(1) {
        let value = |name: &str| section.lines().find_map(|line| line.trim_end().strip_prefix(name));
        let sending = section.lines().any(|line| matches!(line.trim_end(), "a=sendonly" | "a=sendrecv"));
        let track = value("a=msid:").and_then(|msid| msid.split_once(' ')).map(|(_, track)| track);
        if let (true, Some(mid), Some(track)) = (sending, value("a=mid:"), track)
            && track.starts_with("TR_")
        {
            tracks.push((mid.to_owned(), track.to_owned()));
        }
    }
    tracks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracks_are_read_from_the_sections_that_send() {
        let sdp = "v=0\r\ns=-\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=sendonly\r\n\
            a=msid:PA_x|TR_a TR_a\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\na=inactive\r\n\
            a=msid:PA_x|TR_b TR_b\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\na=sendonly\r\n\
            a=msid:- filler\r\n";
        assert_eq!(tracks_in_sdp(sdp), [("0".to_owned(), "TR_a".to_owned())]);
    }

    #[test]
    fn each_map_replaces_the_one_before() {
        let pair = |mid: &str, track: &str| (mid.to_owned(), track.to_owned());
        let mut received = ReceivedTracks::default();
        let (begun, ended) = received.map([pair("0", "TR_a"), pair("1", "TR_b")].into_iter());
        assert_eq!((begun.len(), ended.len()), (2, 0));
        let (begun, ended) = received.map([pair("0", "TR_c"), pair("1", "TR_b")].into_iter());
        assert_eq!((begun, ended), (vec!["TR_c".to_owned()], vec!["TR_a".to_owned()]));
        assert_eq!(received.mid_of("TR_c"), Some("0"));
    }
}
