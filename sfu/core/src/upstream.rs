//! What one client sends us: which section and encoding a packet belongs to, what is missing, and what we report
//! back.
//!
//! ```text
//!   opened datagram ─► extensions ─► source (SSRC, else MID and RID, else the payload type)
//!        ├─ media ──────────────► statistics ─► duplicates dropped ─► NACK list ─► MediaPacket
//!        ├─ retransmission ─────► original number and payload (RFC 4588) ──────┘
//!        └─ transport number ───► feedback (transport-wide congestion control)
//! ```

mod reception;
mod source;
#[cfg(test)]
mod tests;

use std::time::Instant;

use rustc_hash::FxHashMap;
use zynk_protocol::MediaKind;

use crate::{
    connection::{MediaPacket, NegotiatedFormats, Rid},
    endpoint::Section,
    media::{
        extensions::{ExtensionMap, Extensions},
        nack::{NackPair, split_rtx},
        receiver::{Arrival, ReportBlock},
        srtp::OpenedRtp,
        twcc::ArrivalRecorder,
    },
};

use source::{MediaSource, Place, Source};

/// Sources that one client may send at a time. Packets of further ones are dropped: three encodings and their
/// retransmissions are six sources a camera.
const SOURCES_MAX: usize = 256;

/// A source that the client's description names (`a=ssrc`), before its first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeclaredSource {
    pub(crate) ssrc: u32,
    /// The source that it repairs (`a=ssrc-group:FID`).
    pub(crate) repairs: Option<u32>,
}

/// Everything that one client sends.
#[derive(Debug, Default)]
pub(crate) struct Upstream {
    extensions: ExtensionMap,
    formats: NegotiatedFormats,
    /// The section's index of each declared source, and what it repairs.
    declared: FxHashMap<u32, (usize, Option<u32>)>,
    sources: FxHashMap<u32, Source>,
    arrivals: ArrivalRecorder,
}

impl Upstream {
    /// Takes over what was negotiated. `declared` are the sources of all sections, by index.
    pub(crate) fn negotiated(
        &mut self,
        extensions: ExtensionMap,
        formats: NegotiatedFormats,
        declared: impl Iterator<Item = (usize, DeclaredSource)>,
    ) {
        self.extensions = extensions;
        self.formats = formats;
        self.declared = declared.map(|(section, source)| (source.ssrc, (section, source.repairs))).collect();
        // A source whose section it no longer is finds its place anew.
        let declared = &self.declared;
        self.sources.retain(|ssrc, source| {
            declared.get(ssrc).is_none_or(|(section, _)| *section == source.place.section)
        });
    }

    /// Takes an authenticated packet, which came at `arrived`. Returns the index of the section that it came on and what is to be
    /// forwarded; nothing for padding, duplicates, and what belongs nowhere.
    pub(crate) fn receive<'a>(
        &mut self,
        now: Instant,
        arrived: Instant,
        datagram: &'a [u8],
        opened: &OpenedRtp,
        sections: &[Section],
    ) -> Option<(usize, MediaPacket<'a>)> {
        let header = &opened.header;
        let extensions = Extensions::read(&self.extensions, header.extensions(datagram));
        if let Some(number) = extensions.transport_sequence {
            self.arrivals.on_packet(arrived, number);
        }
        let payload = datagram.get(opened.payload.clone()).unwrap_or_default();
        if !self.sources.contains_key(&header.ssrc)
            && !self.bind(header.ssrc, header.payload_type, &extensions, sections)
        {
            return None;
        }
        let source = self.sources.get_mut(&header.ssrc)?;
        let place = source.place;
        if let Some(media) = &mut source.media {
            let Some((format, false)) = self.formats.get(header.payload_type) else {
                return None;
            };
            let arrival = media.stats.on_packet(arrived, header.sequence, header.timestamp);
            let sequence = match arrival {
                Arrival::Newest { seq, .. } | Arrival::Late { seq } => seq,
                Arrival::Restarted { seq } => {
                    media.restart();
                    seq
                }
                Arrival::Suspicious => return None,
            };
            if !media.take(sequence) {
                return None;
            }
            let numbers = (header.ssrc, sequence);
            let packet = MediaPacket::received(format, place.rid, numbers, header, payload, extensions);
            if media.nacks {
                media.nack.on_packet(now, sequence, packet.keyframe, false);
            }
            return Some((place.section, packet));
        }
        self.recover(now, (header.ssrc, place), opened, payload, extensions)
    }

    /// Makes a retransmission the packet that it repeats.
    fn recover<'a>(
        &mut self,
        now: Instant,
        (ssrc, place): (u32, Place),
        opened: &OpenedRtp,
        payload: &'a [u8],
        extensions: Extensions<'a>,
    ) -> Option<(usize, MediaPacket<'a>)> {
        let (number, payload) = split_rtx(payload)?;
        let Some((format, true)) = self.formats.get(opened.header.payload_type) else {
            return None;
        };
        let repaired = self.repaired_by(ssrc, place)?;
        let media = self.sources.get_mut(&repaired)?.media.as_mut()?;
        let sequence = media.stats.extend(number)?;
        if !media.take(sequence) {
            return None;
        }
        let numbers = (repaired, sequence);
        let packet = MediaPacket::received(format, place.rid, numbers, &opened.header, payload, extensions);
        media.nack.on_packet(now, sequence, packet.keyframe, true);
        Some((place.section, packet))
    }

    /// The source that a repair stream repairs: as declared, else the one of the same section and encoding.
    fn repaired_by(&mut self, ssrc: u32, place: Place) -> Option<u32> {
        if let Some(known) = self.sources.get(&ssrc)?.repairs
            && self.sources.contains_key(&known)
        {
            return Some(known);
        }
        let same = |source: &Source| source.media.is_some() && source.place == place;
        let found = self.sources.iter().find(|(_, source)| same(source)).map(|(ssrc, _)| *ssrc)?;
        self.sources.get_mut(&ssrc)?.repairs = Some(found);
        Some(found)
    }

    /// Finds the place of a new source (RFC 8843, section 9.2): by its MID, its declaration, or because only one
    /// section can have sent it.
    fn bind(
        &mut self,
        ssrc: u32,
        payload_type: u8,
        extensions: &Extensions<'_>,
        sections: &[Section],
    ) -> bool {
        if self.sources.len() >= SOURCES_MAX {
            return false;
        }
        let Some((format, repair)) = self.formats.get(payload_type) else { return false };
        let kind = format.kind();
        let declared = self.declared.get(&ssrc).copied();
        let fits = |section: &Section| section.kind == kind && section.client_sends;
        let by_mid = |mid: &str| sections.iter().position(|section| section.name == mid && fits(section));
        let alone = || {
            let mut candidates = sections.iter().enumerate().filter(|(_, section)| fits(section));
            let first = candidates.next()?.0;
            candidates.next().is_none().then_some(first)
        };
        let section = match (extensions.mid, declared) {
            (Some(mid), _) => by_mid(mid),
            (None, Some((section, _))) => {
                Some(section).filter(|index| sections.get(*index).is_some_and(fits))
            }
            (None, None) => alone(),
        };
        let Some(section) = section else { return false };
        let rid = if repair { extensions.repaired_rid.or(extensions.rid) } else { extensions.rid };
        let Some(rids) = sections.get(section).map(|section| section.rids.as_slice()) else { return false };
        let rid = match rid {
            Some(rid) if rids.iter().any(|known| known == rid) => Some(Rid::from(rid)),
            // Of a simulcast, a packet must say which encoding it is; else no RID is expected.
            _ if rids.is_empty() => None,
            _ => return false,
        };
        let source = Source {
            place: Place { section, rid },
            media: (!repair).then(|| Box::new(MediaSource::new(format.clock_rate_hz, kind))),
            repairs: declared.and_then(|(_, repairs)| repairs),
        };
        self.sources.insert(ssrc, source);
        true
    }

    /// Forgets a source that another one has taken the place of, and what repaired it.
    pub(crate) fn forget_source(&mut self, ssrc: u32) {
        self.sources.remove(&ssrc);
        self.sources.retain(|_, source| source.repairs != Some(ssrc));
    }

    /// Forgets the sources of a section whose track has ended.
    pub(crate) fn forget_section(&mut self, section: usize) {
        self.sources.retain(|_, source| source.place.section != section);
    }

    /// The source that sends an encoding now.
    pub(crate) fn source_of(&self, section: usize, rid: Option<Rid>) -> Option<u32> {
        let place = Place { section, rid };
        let sends = |source: &&Source| source.media.is_some() && source.place == place;
        let newest = self.sources.iter().filter(|(_, source)| sends(source));
        newest
            .max_by_key(|(_, source)| source.media.as_ref().and_then(|media| media.stats.last_frame_at()))
            .map(|(ssrc, _)| *ssrc)
    }

    /// Takes a sender report. Returns the section and encoding that it is about.
    pub(crate) fn on_sender_report(
        &mut self,
        now: Instant,
        ssrc: u32,
        ntp: u64,
    ) -> Option<(usize, Option<Rid>)> {
        let source = self.sources.get_mut(&ssrc)?;
        source.media.as_mut()?.stats.on_sender_report(now, ntp);
        Some((source.place.section, source.place.rid))
    }

    /// Notes the round trip time of the connection, where reports tell it.
    pub(crate) fn on_rtt(&mut self, rtt: std::time::Duration) {
        for media in self.sources.values_mut().filter_map(|source| source.media.as_mut()) {
            media.nack.update_rtt(rtt);
        }
    }

    /// The round trip time, as answers to NACKs tell it.
    pub(crate) fn rtt(&self) -> Option<std::time::Duration> {
        self.sources.values().filter_map(|source| source.media.as_ref()?.nack.rtt()).min()
    }

    /// Calls `write` with what is to be asked for again of one source, for each that lacks something.
    pub(crate) fn poll_nacks(
        &mut self,
        now: Instant,
        pairs: &mut Vec<NackPair>,
        mut write: impl FnMut(u32, &[NackPair]),
    ) {
        for (ssrc, source) in &mut self.sources {
            let Some(media) = &mut source.media else { continue };
            while media.nack.next_timeout().is_some_and(|at| at <= now) {
                media.nack.poll(now, pairs);
                if pairs.is_empty() {
                    break;
                }
                write(*ssrc, pairs);
            }
        }
    }

    /// Sections and encodings whose losses only a keyframe makes good.
    pub(crate) fn take_keyframe_wishes(&mut self) -> Vec<(usize, Option<Rid>)> {
        let wishes = self.sources.values_mut().filter_map(|source| {
            source
                .media
                .as_mut()?
                .nack
                .take_wants_keyframe()
                .then_some((source.place.section, source.place.rid))
        });
        wishes.collect()
    }

    /// Report blocks of everything that sent since the last time (RFC 3550, section 6.4), and what of it was lost:
    /// packets expected, packets lost.
    pub(crate) fn report(&mut self, now: Instant, blocks: &mut Vec<ReportBlock>) {
        for (ssrc, source) in &mut self.sources {
            if let Some(media) = &mut source.media
                && media.stats.sent_since_report()
                && let Some(block) = media.stats.report(now, *ssrc)
            {
                blocks.push(block);
            }
        }
    }

    /// Appends a feedback packet if one is due; see [`ArrivalRecorder::poll`].
    pub(crate) fn poll_feedback(
        &mut self,
        now: Instant,
        sender: u32,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> bool {
        // The media source of transport-wide feedback means nothing (draft-holmer, section 3.1); it must be one.
        let media = self.sources.keys().next().copied().unwrap_or(0);
        self.arrivals.poll(now, sender, media, scratch, out)
    }

    /// When NACKs or feedback are due next.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let nack = |source: &Source| source.media.as_ref()?.nack.next_timeout();
        self.sources.values().filter_map(nack).chain(self.arrivals.next_timeout()).min()
    }
}

/// The kind of media whose losses are asked for.
fn nacks(kind: MediaKind) -> bool {
    kind == MediaKind::Video
}
