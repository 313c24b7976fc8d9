//! SDP fragments (`application/trickle-ice-sdpfrag`, RFC 8840 section 9): ICE credentials and candidates
//! without the rest of a description, as WHIP and WHEP clients PATCH them.
//!
//! ```text
//!   a=ice-ufrag:EsAw                    the ICE session it is about
//!   a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
//!   m=audio 9 UDP/TLS/RTP/SAVPF 0       a section of the description, named by its mid
//!   a=mid:0
//!   a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host
//!   a=end-of-candidates
//! ```

use std::fmt::Write as _;

/// Most candidates in one fragment; one with more is refused. Browsers gather a dozen or two.
pub(crate) const CANDIDATES_MAX: usize = 64;

/// Longest line; RFC 8839 candidates are far shorter.
const LINE_BYTES_MAX: usize = 1024;

/// A parsed fragment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SdpFragment {
    /// `a=ice-ufrag`, of the session or the first section that has it.
    pub(crate) ufrag: Option<String>,
    /// `a=ice-pwd`, likewise.
    pub(crate) pwd: Option<String>,
    /// Candidates in the order of the text.
    pub(crate) candidates: Vec<FragmentCandidate>,
}

/// A candidate of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FragmentCandidate {
    /// The section's `a=mid`; none if the fragment does not say.
    pub(crate) mid: Option<String>,
    /// The section's place among the fragment's sections.
    pub(crate) section: u32,
    /// The attribute without `a=`: `candidate:…`.
    pub(crate) candidate: String,
}

/// The fragment cannot be used. The client's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FragmentError {
    /// A line is not of the form `x=value`, or not of a kind that a fragment has.
    #[error("line {line} is not an attribute (a=) or a media line (m=)")]
    Line {
        /// Counts from 1.
        line: usize,
    },
    /// A line is too long.
    #[error("line {line} is longer than {LINE_BYTES_MAX} bytes")]
    LongLine {
        /// Counts from 1.
        line: usize,
    },
    /// More than [`CANDIDATES_MAX`].
    #[error("more than {CANDIDATES_MAX} candidates")]
    TooManyCandidates,
    /// ICE credentials outside the lengths and characters of RFC 8839, section 5.4.
    #[error("line {line}: {attribute} is malformed")]
    Credential {
        /// Counts from 1.
        line: usize,
        /// Which.
        attribute: &'static str,
    },
}

impl SdpFragment {
    /// Reads a fragment. Attributes that are not about ICE are ignored.
    pub(crate) fn parse(text: &str) -> Result<Self, FragmentError> {
        let mut fragment = Self::default();
        let mut section: Option<u32> = None;
        let mut mid: Option<String> = None;
        // Candidates may stand above their section's mid; these indices wait for it.
        let mut section_start = 0;
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index.saturating_add(1), line.trim_end_matches('\r'));
            if line.is_empty() {
                continue;
            }
            if line.len() > LINE_BYTES_MAX {
                return Err(FragmentError::LongLine { line: number });
            }
            if line.starts_with("m=") {
                section = Some(section.map_or(0, |before| before.saturating_add(1)));
                mid = None;
                section_start = fragment.candidates.len();
                continue;
            }
            let attribute = line.strip_prefix("a=").ok_or(FragmentError::Line { line: number })?;
            if attribute.starts_with("candidate:") {
                if fragment.candidates.len() >= CANDIDATES_MAX {
                    return Err(FragmentError::TooManyCandidates);
                }
                fragment.candidates.push(FragmentCandidate {
                    mid: mid.clone(),
                    section: section.unwrap_or(0),
                    candidate: attribute.to_owned(),
                });
            } else if let Some(value) = attribute.strip_prefix("mid:") {
                mid = Some(value.to_owned());
                for candidate in fragment.candidates.iter_mut().skip(section_start) {
                    candidate.mid.clone_from(&mid);
                }
            } else if let Some(value) = attribute.strip_prefix("ice-ufrag:") {
                check_credential(value, 4, number, "ice-ufrag")?;
                fragment.ufrag.get_or_insert_with(|| value.to_owned());
            } else if let Some(value) = attribute.strip_prefix("ice-pwd:") {
                check_credential(value, 22, number, "ice-pwd")?;
                fragment.pwd.get_or_insert_with(|| value.to_owned());
            }
        }
        Ok(fragment)
    }

    /// The fragment that tells a client of a description's ICE session: credentials, and the candidates of
    /// its first section, to which the others are bundled.
    pub(crate) fn describing(sdp: &str) -> Option<String> {
        let mut media: Option<&str> = None;
        let mut sections = 0;
        let (mut mid, mut ufrag, mut pwd, mut lite) = (None, None, None, false);
        let mut candidates = Vec::new();
        for line in sdp.lines() {
            if line.starts_with("m=") {
                sections += 1;
                media.get_or_insert(line);
            }
            if sections > 1 {
                break;
            }
            if let Some(value) = line.strip_prefix("a=ice-ufrag:") {
                ufrag = Some(value);
            } else if let Some(value) = line.strip_prefix("a=ice-pwd:") {
                pwd = Some(value);
            } else if let Some(value) = line.strip_prefix("a=mid:") {
                mid = Some(value);
            } else if line == "a=ice-lite" {
                lite = true;
            } else if line.starts_with("a=candidate:") {
                candidates.push(line);
            }
        }
        let (media, ufrag, pwd) = (media?, ufrag?, pwd?);
        let mut text = String::new();
        if lite {
            text.push_str("a=ice-lite\r\n");
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n{media}\r\n");
        if let Some(mid) = mid {
            let _ = write!(text, "a=mid:{mid}\r\n");
        }
        for candidate in candidates {
            let _ = write!(text, "{candidate}\r\n");
        }
        text.push_str("a=end-of-candidates\r\n");
        Some(text)
    }
}

/// The first `a=ice-ufrag` of a description.
pub(crate) fn ice_ufrag(sdp: &str) -> Option<&str> {
    sdp.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).map(str::trim_end)
}

/// A client's offer once more for an ICE restart: the fragment's credentials and candidates in place of its
/// own, and the next version number (RFC 8829, section 5.2.2). None if the fragment lacks credentials.
pub(crate) fn restart_offer(offer: &str, fragment: &SdpFragment) -> Option<String> {
    let (ufrag, pwd) = (fragment.ufrag.as_deref()?, fragment.pwd.as_deref()?);
    let mut text = String::with_capacity(offer.len().saturating_add(512));
    let mut sections = 0;
    for line in offer.lines().map(|line| line.trim_end_matches('\r')) {
        if line.starts_with("m=") {
            if sections == 1 {
                push_candidates(&mut text, fragment);
            }
            sections += 1;
        }
        if line.starts_with("a=ice-ufrag:") {
            let _ = write!(text, "a=ice-ufrag:{ufrag}\r\n");
        } else if line.starts_with("a=ice-pwd:") {
            let _ = write!(text, "a=ice-pwd:{pwd}\r\n");
        } else if let Some(origin) = line.strip_prefix("o=") {
            let _ = write!(text, "o={}\r\n", next_version(origin));
        } else if !line.starts_with("a=candidate:") && line != "a=end-of-candidates" {
            let _ = write!(text, "{line}\r\n");
        }
    }
    if sections == 1 {
        push_candidates(&mut text, fragment);
    }
    Some(text)
}

fn push_candidates(text: &mut String, fragment: &SdpFragment) {
    for candidate in &fragment.candidates {
        let _ = write!(text, "a={}\r\n", candidate.candidate);
    }
}

/// `<username> <sess-id> <sess-version> …` (RFC 8866, section 5.2) with the version one higher.
fn next_version(origin: &str) -> String {
    let mut fields: Vec<String> = origin.split(' ').map(str::to_owned).collect();
    if let Some(version) = fields.get_mut(2)
        && let Ok(number) = version.parse::<u64>()
    {
        *version = number.wrapping_add(1).to_string();
    }
    fields.join(" ")
}

/// `ice-char` is a letter, a digit, `+` or `/`; some clients also use `-`, `_` and `=`.
fn check_credential(
    value: &str,
    bytes_min: usize,
    line: usize,
    attribute: &'static str,
) -> Result<(), FragmentError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte);
    if (bytes_min..=256).contains(&value.len()) && value.bytes().all(allowed) {
        Ok(())
    } else {
        Err(FragmentError::Credential { line, attribute })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAGMENT: &str = "a=ice-options:trickle ice2\r\na=group:BUNDLE 0 1\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:EsAw\r\n\
        a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
        a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host\r\n\
        a=candidate:3471623853 1 udp 2122194687 198.51.100.2 61765 typ host\r\na=end-of-candidates\r\n";

    const OFFER: &str = "v=0\r\no=- 42 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:oldu\r\na=ice-pwd:oldpasswordoldpassword\r\n\
        a=candidate:1 1 udp 1 192.0.2.9 1 typ host\r\na=end-of-candidates\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\na=ice-ufrag:oldu\r\na=ice-pwd:oldpasswordoldpassword\r\n";

    #[test]
    fn credentials_and_candidates_are_read() {
        let fragment = SdpFragment::parse(FRAGMENT).unwrap();
        assert_eq!(fragment.ufrag.as_deref(), Some("EsAw"));
        assert_eq!(fragment.pwd.as_deref(), Some("P2uYro0UCOQ4zxjKXaWCBui1"));
        assert_eq!(fragment.candidates.len(), 2);
        assert_eq!(fragment.candidates[1].mid.as_deref(), Some("0"));
        assert!(fragment.candidates[1].candidate.starts_with("candidate:3471623853 1 udp"));
    }

    #[test]
    fn candidates_above_their_mid_still_get_it() {
        let text = "m=audio 9 UDP/TLS/RTP/SAVPF 0\na=candidate:a\na=mid:x\nm=video 9 UDP/TLS/RTP/SAVPF 0\n\
            a=candidate:b\na=mid:y\n";
        let fragment = SdpFragment::parse(text).unwrap();
        let mids: Vec<_> =
            fragment.candidates.iter().map(|c| (c.mid.as_deref().unwrap(), c.section)).collect();
        assert_eq!(mids, [("x", 0), ("y", 1)]);
    }

    #[test]
    fn garbage_is_refused_with_its_line() {
        let cases: [(String, FragmentError); 5] = [
            ("a=mid:0\nhello".into(), FragmentError::Line { line: 2 }),
            ("v=0".into(), FragmentError::Line { line: 1 }),
            ("a=ice-ufrag:a".into(), FragmentError::Credential { line: 1, attribute: "ice-ufrag" }),
            (format!("a={}", "x".repeat(2000)), FragmentError::LongLine { line: 1 }),
            ("a=candidate:1\n".repeat(CANDIDATES_MAX + 1), FragmentError::TooManyCandidates),
        ];
        for (text, error) in cases {
            assert_eq!(SdpFragment::parse(&text), Err(error));
        }
    }

    #[test]
    fn restart_replaces_credentials_and_candidates() {
        let fragment = SdpFragment::parse(FRAGMENT).unwrap();
        let offer = restart_offer(OFFER, &fragment).unwrap();
        assert_eq!(offer.matches("a=ice-ufrag:EsAw\r\n").count(), 2);
        assert_eq!(offer.matches("a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n").count(), 2);
        assert!(!offer.contains("oldu") && !offer.contains("192.0.2.9"));
        assert!(offer.contains("o=- 42 3 IN IP4 127.0.0.1\r\n"));
        let candidate = offer.find("a=candidate:1387637174").unwrap();
        assert!(candidate < offer.find("m=video").unwrap() && candidate > offer.find("m=audio").unwrap());
        assert_eq!(restart_offer(OFFER, &SdpFragment::default()), None);
    }

    #[test]
    fn an_answer_is_described_by_its_first_section() {
        let text = SdpFragment::describing(&format!("a=ice-lite\r\n{OFFER}")).unwrap();
        assert_eq!(
            text,
            "a=ice-lite\r\na=ice-ufrag:oldu\r\na=ice-pwd:oldpasswordoldpassword\r\n\
             m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=candidate:1 1 udp 1 192.0.2.9 1 typ host\r\n\
             a=end-of-candidates\r\n"
        );
        assert_eq!(ice_ufrag(&text), Some("oldu"));
        assert_eq!(SdpFragment::describing("v=0\r\n"), None);
    }
}
