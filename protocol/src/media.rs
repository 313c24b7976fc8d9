//! What kinds of media there are.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Audio or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
}

impl MediaKind {
    /// `A` or `V`, as track ids carry it.
    pub const fn letter(self) -> char {
        match self {
            Self::Audio => 'A',
            Self::Video => 'V',
        }
    }

    /// `audio` or `video`, as SDP and MIME types spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }
}

/// Where a track's media comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackSource {
    /// The publisher did not say.
    #[default]
    Unknown,
    /// A camera.
    Camera,
    /// A microphone.
    Microphone,
    /// A shared screen, window or tab.
    ScreenShare,
    /// The sound of a shared screen, window or tab.
    ScreenShareAudio,
}

impl TrackSource {
    /// `C`, `M`, `S`, `s` or `U`, as track ids carry it.
    pub const fn letter(self) -> char {
        match self {
            Self::Unknown => 'U',
            Self::Camera => 'C',
            Self::Microphone => 'M',
            Self::ScreenShare => 'S',
            Self::ScreenShareAudio => 's',
        }
    }
}

/// A codec's MIME type in its canonical spelling: `audio/opus`, `audio/red`, `video/VP8`, `video/VP9`,
/// `video/H264`, `video/AV1`. Compares without regard to case (RFC 6838, section 4.2).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MimeType(String);

impl MimeType {
    /// Takes any text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The whole type, e.g. `video/VP8`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The codec's name without its kind, e.g. `VP8`.
    pub fn codec(&self) -> &str {
        self.0.split_once('/').map_or(self.0.as_str(), |(_, codec)| codec)
    }
}

impl PartialEq for MimeType {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for MimeType {}

impl fmt::Display for MimeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which data channel a message travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// `_reliable`: ordered, retransmitted.
    Reliable,
    /// `_lossy`: unordered, sent once.
    Lossy,
    /// `_data_track`: unordered, sent once, LiveKit's data track packets.
    DataTrack,
}

impl DataKind {
    /// Every kind, in the order in which a server opens the channels.
    pub const ALL: [Self; 3] = [Self::Reliable, Self::Lossy, Self::DataTrack];

    /// The channel's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reliable => "_reliable",
            Self::Lossy => "_lossy",
            Self::DataTrack => "_data_track",
        }
    }

    /// The kind whose channel has this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }
}
