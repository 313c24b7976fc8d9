//! Reads what signaling needs to know from a client's SDP, and puts our wishes into the SDP that we send:
//! which track a section carries (`a=msid`), whether it is in use, and how Opus is to be sent.

use rustc_hash::FxHashSet;
use sdp_types::{Attribute, Media, Session};
use zynk_protocol::{MediaKind, MimeType, NegotiationFailure, SDP_BYTES_MAX};

use crate::{connection::Credentials, upstream::DeclaredSource};

/// Media sections of one connection; offers with more are refused. Two for each of 256 publishers.
pub(crate) const SECTIONS_MAX: usize = 512;
/// Bytes of a section's `a=mid`; longer ones, or others than letters, digits and `_`, are refused.
const MID_BYTES_MAX: usize = 16;
/// Sources (`a=ssrc`) that one section may name: three encodings and their retransmissions are six.
const SECTION_SOURCES_MAX: usize = 16;
/// Sources of all sections together. Each costs memory before its first packet, and time that grows with
/// the number of the others.
const SOURCES_MAX: usize = 256;
/// Attributes of one section. Browsers with all their codecs write about 150.
const ATTRIBUTES_MAX: usize = 1024;
/// Simulcast encodings of a section; more are ignored.
const ENCODINGS_MAX: usize = 4;

/// A client's description.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RemoteDescription {
    pub(crate) sections: Vec<RemoteSection>,
    /// The client takes header extensions in both forms alternately (`a=extmap-allow-mixed`, RFC 8285, section 6).
    pub(crate) mixed_extension_forms: bool,
}

/// One media section of a client's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteSection {
    pub(crate) mid: String,
    /// None for the data channels' section.
    pub(crate) kind: Option<MediaKind>,
    /// Whether the client means to send, or to receive.
    pub(crate) sends: bool,
    pub(crate) receives: bool,
    /// Second part of `a=msid`, or all of it where the client gives one part.
    pub(crate) track_id: Option<String>,
    /// Simulcast encodings, lowest first; empty without simulcast.
    pub(crate) rids: Vec<String>,
    /// The sources that it will send with (`a=ssrc`); browsers leave them out of a simulcast.
    pub(crate) sources: Vec<DeclaredSource>,
}

/// How one of our sections is to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalSection {
    pub(crate) mid: String,
    pub(crate) role: SectionRole,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SectionRole {
    /// Carries a track to the client.
    Sending { stream_id: String, track_id: String },
    /// Is negotiated for sending but carries nothing yet.
    Reserved,
    /// Carries nothing.
    Idle,
    /// Carries a track from the client.
    Receiving { codec: Option<MimeType>, red: bool, dtx: bool, stereo: bool },
}

/// Reads and checks a client's offer or answer: DTLS-SRTP only, with ICE credentials and a fingerprint.
pub(crate) fn read(sdp: &str) -> Result<RemoteDescription, NegotiationFailure> {
    if sdp.len() > SDP_BYTES_MAX {
        return Err(invalid(format!("{} bytes, at most {SDP_BYTES_MAX}", sdp.len())));
    }
    let session = Session::parse(sdp.as_bytes()).map_err(|error| invalid(error.to_string()))?;
    if session.medias.is_empty() {
        return Err(invalid("no media section"));
    }
    if session.medias.len() > SECTIONS_MAX {
        return Err(NegotiationFailure::TooManySections { count: session.medias.len(), max: SECTIONS_MAX });
    }
    // A section of port 0 is rejected, unless it shares another's transport (RFC 8843, section 6).
    let used = |media: &&Media| media.port != 0 || has(&media.attributes, "bundle-only");
    for media in session.medias.iter().filter(used) {
        let secured = match media.media.as_str() {
            "application" => media.proto.contains("DTLS/SCTP"),
            _ => matches!(media.proto.as_str(), "UDP/TLS/RTP/SAVPF" | "TCP/TLS/RTP/SAVPF"),
        };
        if !secured {
            return Err(NegotiationFailure::PlainRtp);
        }
    }
    let everywhere = |name: &str| {
        has(&session.attributes, name)
            || session.medias.iter().any(|media| media.port != 0 && has(&media.attributes, name))
    };
    if !everywhere("ice-ufrag") || !everywhere("ice-pwd") {
        return Err(NegotiationFailure::NoIce);
    }
    if !everywhere("fingerprint") {
        return Err(NegotiationFailure::NoFingerprint);
    }
    check_sizes(&session)?;
    let sections = session.medias.iter().map(section).collect::<Result<_, _>>()?;
    let mixed = |media: &Media| media.port == 0 || has(&media.attributes, "extmap-allow-mixed");
    let mixed_extension_forms =
        has(&session.attributes, "extmap-allow-mixed") || session.medias.iter().all(mixed);
    Ok(RemoteDescription { sections, mixed_extension_forms })
}

/// Refuses what would cost more than a call needs.
fn check_sizes(session: &Session) -> Result<(), NegotiationFailure> {
    let mut sources = 0;
    for media in &session.medias {
        if media.attributes.len() > ATTRIBUTES_MAX {
            return Err(invalid(format!("a section with more than {ATTRIBUTES_MAX} attributes")));
        }
        let named: FxHashSet<&str> = media
            .attributes
            .iter()
            .filter(|attribute| attribute.attribute == "ssrc")
            .filter_map(|attribute| attribute.value.as_deref()?.split(' ').next())
            .collect();
        if named.len() > SECTION_SOURCES_MAX {
            return Err(invalid(format!("a section with more than {SECTION_SOURCES_MAX} sources (a=ssrc)")));
        }
        sources += named.len();
    }
    if sources > SOURCES_MAX {
        return Err(invalid(format!("more than {SOURCES_MAX} sources (a=ssrc)")));
    }
    Ok(())
}

/// Applies our wishes, one a section, and optionally other ICE credentials, to SDP that we made. `restarts`: how often ICE
/// has been restarted, these credentials included.
pub(crate) fn edit(
    sdp: &str,
    sections: &[LocalSection],
    restarts: u32,
    credentials: Option<&Credentials>,
) -> Result<String, NegotiationFailure> {
    let mut session = Session::parse(sdp.as_bytes()).map_err(|error| invalid(error.to_string()))?;
    for media in &mut session.medias {
        for candidate in media.attributes.iter_mut().filter(|a| a.attribute == "candidate") {
            candidate.value = candidate.value.take().map(|value| with_priority(&value, restarts));
        }
        if let Some(credentials) = credentials {
            set(&mut media.attributes, "ice-ufrag", &credentials.ufrag);
            set(&mut media.attributes, "ice-pwd", &credentials.password);
            for candidate in media.attributes.iter_mut().filter(|a| a.attribute == "candidate") {
                candidate.value = candidate.value.take().map(|value| with_ufrag(&value, &credentials.ufrag));
            }
        }
        let Some(wish) =
            value(&media.attributes, "mid").and_then(|mid| sections.iter().find(|s| s.mid == mid))
        else {
            continue;
        };
        apply(media, &wish.role);
    }
    let mut bytes = Vec::with_capacity(sdp.len());
    session.write(&mut bytes).map_err(|error| invalid(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| invalid(error.to_string()))
}

fn apply(media: &mut Media, role: &SectionRole) {
    media.attributes.retain(|attribute| match attribute.attribute.as_str() {
        "msid" => false,
        "ssrc" => !attribute.value.as_deref().is_some_and(|value| value.contains(" msid:")),
        _ => true,
    });
    match role {
        SectionRole::Sending { stream_id, track_id } => {
            name_stream(media, format!("{stream_id} {track_id}"));
        }
        SectionRole::Reserved => {
            let mid = value(&media.attributes, "mid").unwrap_or_default().to_owned();
            name_stream(media, format!("reserved reserved-{mid}"));
        }
        // Its sources stay named: Chromium shows nothing of a source that went and came back.
        SectionRole::Idle => {
            for attribute in &mut media.attributes {
                if matches!(attribute.attribute.as_str(), "sendonly" | "recvonly" | "sendrecv") {
                    attribute.attribute = "inactive".into();
                }
            }
        }
        SectionRole::Receiving { codec, red, dtx, stereo } => {
            if !red {
                remove_codec(media, "red");
            }
            if let Some(codec) = codec {
                prefer_codec(media, codec);
            }
            extend_opus(media, *dtx, *stereo);
        }
    }
}

/// Payload types of `codec`, as `a=rtpmap` lists them.
fn payload_types(media: &Media, codec: &str) -> Vec<String> {
    media
        .attributes
        .iter()
        .filter(|attribute| attribute.attribute == "rtpmap")
        .filter_map(|attribute| attribute.value.as_deref()?.split_once(' '))
        .filter(|(_, encoding)| {
            encoding.split('/').next().is_some_and(|name| name.eq_ignore_ascii_case(codec))
        })
        .map(|(payload_type, _)| payload_type.to_owned())
        .collect()
}

fn remove_codec(media: &mut Media, codec: &str) {
    let removed = payload_types(media, codec);
    media.fmt = media
        .fmt
        .split(' ')
        .filter(|payload_type| !removed.iter().any(|removed| removed == payload_type))
        .collect::<Vec<_>>()
        .join(" ");
    media.attributes.retain(|attribute| {
        let names_payload = matches!(attribute.attribute.as_str(), "rtpmap" | "fmtp" | "rtcp-fb");
        let payload_type = attribute.value.as_deref().and_then(|value| value.split(' ').next());
        !(names_payload && payload_type.is_some_and(|pt| removed.iter().any(|removed| removed == pt)))
    });
}

/// Moves the payload types of a codec, and those that retransmit it, to the front, in the order they had;
/// redundant Opus before plain Opus.
fn prefer_codec(media: &mut Media, codec: &MimeType) {
    let mut first = payload_types(media, codec.codec());
    // Redundancy wraps Opus and is used only when it stands before it.
    let mut red = Vec::new();
    if codec.codec().eq_ignore_ascii_case("opus") {
        red = payload_types(media, "red");
        first.extend_from_slice(&red);
    }
    let repairs: Vec<String> = media
        .attributes
        .iter()
        .filter(|attribute| attribute.attribute == "fmtp")
        .filter_map(|attribute| attribute.value.as_deref()?.split_once(" apt="))
        .filter(|(_, primary)| first.iter().any(|payload_type| payload_type == primary))
        .map(|(payload_type, _)| payload_type.to_owned())
        .collect();
    first.extend(repairs);
    let (mut front, back): (Vec<&str>, Vec<&str>) =
        media.fmt.split(' ').partition(|payload_type| first.iter().any(|first| first == payload_type));
    front.sort_by_key(|payload_type| !red.iter().any(|red| red == payload_type));
    front.extend(back);
    media.fmt = front.join(" ");
}

fn extend_opus(media: &mut Media, dtx: bool, stereo: bool) {
    let opus = payload_types(media, "opus");
    for attribute in media.attributes.iter_mut().filter(|attribute| attribute.attribute == "fmtp") {
        let Some(value) = &mut attribute.value else { continue };
        let of_opus =
            value.split(' ').next().is_some_and(|pt| opus.iter().any(|payload_type| payload_type == pt));
        if !of_opus {
            continue;
        }
        if dtx && !value.contains("usedtx=") {
            value.push_str(";usedtx=1");
        }
        if stereo && !value.contains("stereo=") {
            value.push_str(";stereo=1;maxaveragebitrate=510000");
        }
    }
}

fn section(media: &Media) -> Result<RemoteSection, NegotiationFailure> {
    let attributes = &media.attributes;
    let mid = value(attributes, "mid").unwrap_or_default();
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if mid.is_empty() || mid.len() > MID_BYTES_MAX || !mid.bytes().all(usable) {
        return Err(invalid(format!("a=mid must have 1 to {MID_BYTES_MAX} letters, digits or '_'")));
    }
    let bundled = has(attributes, "bundle-only");
    let rejected = media.port == 0 && !bundled;
    let (sends, receives) = if rejected || has(attributes, "inactive") {
        (false, false)
    } else if has(attributes, "sendonly") {
        (true, false)
    } else if has(attributes, "recvonly") {
        (false, true)
    } else {
        (true, true)
    };
    let kind = match media.media.as_str() {
        "audio" => Some(MediaKind::Audio),
        "video" => Some(MediaKind::Video),
        _ => None,
    };
    Ok(RemoteSection {
        mid: mid.to_owned(),
        kind,
        sends: sends && kind.is_some(),
        receives: receives && kind.is_some(),
        track_id: track_id(attributes),
        rids: rids(attributes),
        sources: if kind.is_some() { sources(attributes) } else { Vec::new() },
    })
}

/// Sources of a section, each with what it repairs (RFC 5576; `a=ssrc-group:FID media repair`, RFC 5576, section 4.2).
fn sources(attributes: &[Attribute]) -> Vec<DeclaredSource> {
    let values = |name: &'static str| {
        attributes
            .iter()
            .filter(move |attribute| attribute.attribute == name)
            .filter_map(|a| a.value.as_deref())
    };
    let mut sources: Vec<DeclaredSource> = Vec::new();
    for ssrc in values("ssrc").filter_map(|value| value.split(' ').next()?.parse().ok()) {
        if sources.iter().all(|known| known.ssrc != ssrc) {
            sources.push(DeclaredSource { ssrc, repairs: None });
        }
    }
    for pair in values("ssrc-group").filter_map(|value| value.strip_prefix("FID ")) {
        let mut numbers = pair.split(' ').map(str::parse::<u32>);
        if let (Some(Ok(media)), Some(Ok(repair))) = (numbers.next(), numbers.next())
            && let Some(source) = sources.iter_mut().find(|source| source.ssrc == repair)
        {
            source.repairs = Some(media);
        }
    }
    sources
}

fn track_id(attributes: &[Attribute]) -> Option<String> {
    let msid = value(attributes, "msid")?;
    msid.split(' ').next_back().filter(|id| !id.is_empty()).map(str::to_owned)
}

/// Encodings that the client sends, lowest first. LiveKit's clients name them `q`, `h`, `f`; OBS and others
/// count down to the best one, `0`. Any other names count as listed from low to high.
fn rids(attributes: &[Attribute]) -> Vec<String> {
    let simulcast = value(attributes, "simulcast").unwrap_or_default();
    let mut words = simulcast.split(' ');
    let Some(list) = words.by_ref().find(|word| *word == "send").and_then(|_| words.next()) else {
        return Vec::new();
    };
    let mut rids: Vec<String> = list
        .split(';')
        .filter_map(|alternatives| alternatives.split(',').next())
        .map(|rid| rid.trim_start_matches('~').to_owned())
        .filter(|rid| !rid.is_empty())
        .take(ENCODINGS_MAX)
        .collect();
    let rank = |rid: &str| ["q", "h", "f"].iter().position(|name| *name == rid);
    if rids.iter().all(|rid| rank(rid).is_some()) {
        rids.sort_by_key(|rid| rank(rid));
    } else if rids.iter().all(|rid| rid.parse::<u8>().is_ok()) {
        rids.sort_by_key(|rid| std::cmp::Reverse(rid.parse::<u8>().unwrap_or(0)));
    }
    rids
}

fn has(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|attribute| attribute.attribute == name)
}

fn value<'a>(attributes: &'a [Attribute], name: &str) -> Option<&'a str> {
    attributes.iter().find(|attribute| attribute.attribute == name)?.value.as_deref()
}

fn set(attributes: &mut [Attribute], name: &str, value: &str) {
    for attribute in attributes.iter_mut().filter(|attribute| attribute.attribute == name) {
        attribute.value = Some(value.to_owned());
    }
}

/// Adds the stream's name before its SSRCs: there are readers that take lines in their order, and so would know
/// the SSRCs as those of a stream without a name.
fn name_stream(media: &mut Media, msid: String) {
    let is_ssrc = |attribute: &Attribute| matches!(attribute.attribute.as_str(), "ssrc" | "ssrc-group");
    let at = media.attributes.iter().position(is_ssrc).unwrap_or(media.attributes.len());
    media.attributes.insert(at, Attribute { attribute: "msid".into(), value: Some(msid) });
}

/// A candidate line whose `ufrag` extension, if present, names the given user fragment.
fn with_ufrag(candidate: &str, ufrag: &str) -> String {
    match candidate.split_once(" ufrag ") {
        Some((before, after)) => {
            let rest = after.split_once(' ').map(|(_, rest)| format!(" {rest}")).unwrap_or_default();
            format!("{before} ufrag {ufrag}{rest}")
        }
        None => candidate.to_owned(),
    }
}

/// A candidate line whose priority says how often ICE has been restarted: see [`candidate_priority`].
fn with_priority(candidate: &str, restarts: u32) -> String {
    let mut words: Vec<&str> = candidate.split(' ').collect();
    let transport = words.get(2).copied().unwrap_or_default();
    let local_preference =
        |priority: &&str| priority.parse().map_or(0, |priority: u32| priority >> 8 & 0xffff);
    let local_preference = words.get(3).map_or(0, local_preference);
    let is_udp = transport.eq_ignore_ascii_case("udp");
    let priority = candidate_priority(restarts, is_udp, local_preference).to_string();
    if let Some(word) = words.get_mut(3) {
        *word = &priority;
    }
    words.join(" ")
}

/// The priority of one of our candidates, 0 to 2³¹ − 1 (RFC 8445, section 5.1.2, recommends a formula and requires none).
///
/// ```text
///   TCP < UDP < TCP after a restart < UDP after it < TCP after the next …  < a browser's own TCP candidate
/// ```
/// A pair's priority begins with the lower one of its two candidates (RFC 8445, section 6.1.2.3), which is thus always ours.
/// Whoever restarts ICE has a path that is not what it was, and takes any of the new ones as soon as it works: libwebrtc would
/// else send on the old one for 3.5 s after the last packet came, if that is of UDP and the new one of TCP
/// (`WEAK_CONNECTION_RECEIVE_TIMEOUT` and `RECEIVING_SWITCHING_DELAY`).
fn candidate_priority(restarts: u32, is_udp: bool, local_preference: u32) -> u32 {
    /// Above relays' (0 to 2), below what libwebrtc has for TCP.
    const LOWEST: u32 = 60 << 24;
    /// `ICE_TYPE_PREFERENCE_HOST_TCP` of libwebrtc.
    const HIGHEST: u32 = 90 << 24;
    /// Room for a local preference, of 16 bits.
    const STEP: u32 = 1 << 18;
    const RESTARTS_MAX: u32 = (HIGHEST - LOWEST) / STEP / 2 - 1;
    let step = 2 * restarts.min(RESTARTS_MAX) + u32::from(is_udp);
    LOWEST + step * STEP + local_preference.min(0xffff)
}

fn invalid(detail: impl Into<String>) -> NegotiationFailure {
    NegotiationFailure::InvalidSdp { detail: detail.into() }
}

#[cfg(test)]
mod tests;
