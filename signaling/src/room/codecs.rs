//! Which codecs a client may publish.
//!
//! Some browsers encode or decode a codec badly; they are told to leave it alone.

use zynk_protocol::livekit::{self, ClientConfigSetting};

/// The codecs of `configured` that the client may publish, video first: clients take the first entry when
/// the codec that they want is not among them.
pub(super) fn enabled(configured: &[String], client: &livekit::ClientInfo) -> Vec<livekit::Codec> {
    let disabled = disabled(client);
    let allowed = |mime: &&String| !disabled.iter().any(|other| other.eq_ignore_ascii_case(mime));
    let (video, audio): (Vec<&String>, Vec<&String>) =
        configured.iter().filter(allowed).partition(|mime| is_video(mime));
    video
        .into_iter()
        .chain(audio)
        .map(|mime| livekit::Codec { mime: mime.clone(), fmtp_line: String::new() })
        .collect()
}

/// The codec to use in place of `wanted` (a MIME type): itself if enabled, else the first of its kind.
pub(super) fn usable(configured: &[String], client: &livekit::ClientInfo, wanted: &str) -> String {
    let enabled = enabled(configured, client);
    let same_kind = |codec: &&livekit::Codec| is_video(&codec.mime) == is_video(wanted);
    enabled
        .iter()
        .find(|codec| codec.mime.eq_ignore_ascii_case(wanted))
        .or_else(|| enabled.iter().find(same_kind))
        .map_or_else(|| wanted.to_owned(), |codec| codec.mime.clone())
}

/// What the client is told about itself; none when there is nothing to tell.
pub(super) fn configuration(
    client: &livekit::ClientInfo,
    relay: ClientConfigSetting,
) -> Option<livekit::ClientConfiguration> {
    let publish: Vec<livekit::Codec> = disabled(client)
        .iter()
        .map(|mime| livekit::Codec { mime: (*mime).to_owned(), fmtp_line: String::new() })
        .collect();
    if publish.is_empty() && relay == ClientConfigSetting::Unset {
        return None;
    }
    let disabled_codecs =
        (!publish.is_empty()).then_some(livekit::DisabledCodecs { codecs: Vec::new(), publish });
    Some(livekit::ClientConfiguration { disabled_codecs, force_relay: relay.into(), ..Default::default() })
}

fn is_video(mime: &str) -> bool {
    mime.get(..6).is_some_and(|kind| kind.eq_ignore_ascii_case("video/"))
}

/// As LiveKit's static client configuration has it.
fn disabled(client: &livekit::ClientInfo) -> &'static [&'static str] {
    let is = |value: &str, expected: &str| value.eq_ignore_ascii_case(expected);
    if is(&client.browser, "safari") || is(&client.browser, "mobile safari") {
        return match newer_than_18_3(&client.browser_version) {
            true => &["video/AV1", "video/VP9"],
            false => &["video/AV1"],
        };
    }
    let firefox = is(&client.browser, "firefox") || is(&client.browser, "firefox mobile");
    if firefox && (is(&client.os, "linux") || is(&client.os, "android")) {
        return &["video/H264"];
    }
    &[]
}

fn newer_than_18_3(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) > (18, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(browser: &str, version: &str, os: &str) -> livekit::ClientInfo {
        livekit::ClientInfo {
            browser: browser.into(),
            browser_version: version.into(),
            os: os.into(),
            ..Default::default()
        }
    }

    fn configured() -> Vec<String> {
        ["audio/opus", "video/VP8", "video/H264", "video/VP9", "video/AV1"].map(String::from).to_vec()
    }

    fn names(client: &livekit::ClientInfo) -> Vec<String> {
        enabled(&configured(), client).into_iter().map(|codec| codec.mime).collect()
    }

    #[test]
    fn l29_video_comes_first() {
        let all = ["video/VP8", "video/H264", "video/VP9", "video/AV1", "audio/opus"];
        assert_eq!(names(&client("Chrome", "140", "Linux")), all);
    }

    #[test]
    fn l30_browsers_are_kept_from_codecs_they_cannot_do() {
        assert!(!names(&client("Safari", "18.3", "macOS")).contains(&"video/AV1".into()));
        assert!(names(&client("Safari", "18.3", "macOS")).contains(&"video/VP9".into()));
        assert!(!names(&client("Safari", "18.4", "macOS")).contains(&"video/VP9".into()));
        assert!(!names(&client("Firefox", "140", "Linux")).contains(&"video/H264".into()));
        assert!(names(&client("Firefox", "140", "Windows")).contains(&"video/H264".into()));
        assert!(configuration(&client("Chrome", "140", "Linux"), ClientConfigSetting::Unset).is_none());
    }

    #[test]
    fn l53_a_codec_that_is_not_enabled_is_replaced() {
        let chrome = client("Chrome", "140", "Linux");
        assert_eq!(usable(&configured(), &chrome, "video/H265"), "video/VP8");
        assert_eq!(usable(&configured(), &chrome, "video/av1"), "video/AV1");
        assert_eq!(usable(&configured(), &chrome, "audio/G722"), "audio/opus");
    }
}
