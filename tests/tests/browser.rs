//! Calls in real browsers, through the real server. The programs are in `tests/browser`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

#[allow(dead_code, unused_imports, reason = "the interop tests use the rest")]
mod rig;

use std::time::Duration;

use rig::Rig;

const LIMIT: Duration = Duration::from_secs(120);
/// Its HTTP is reached from other networks, too.
const OPEN_TO_OTHERS: (&str, &str) = ("ZYNK_BIND", "0.0.0.0");
/// Chromium gathers for relays before it does for ICE-TCP, and stops once it is connected: a relay on the same machine can
/// be faster than that.
const NO_RELAY: (&str, &str) = ("ZYNK_TURN__TELL_ADDRESSES", "false");

#[test]
fn two_chromium_pages_and_a_third_hold_a_call_with_the_web_client() {
    Rig::start().node("browser/call.mjs", &[], LIMIT);
}

#[test]
fn chromium_and_firefox_hold_a_call_with_the_web_client() {
    Rig::start().node("browser/web-client-pair.mjs", &[], LIMIT);
}

#[test]
fn the_web_client_says_what_went_wrong_on_a_phone() {
    Rig::start().node("browser/web-client-failures.mjs", &[], LIMIT);
}

#[test]
fn chromium_and_firefox_exchange_vp8() {
    Rig::start().node("browser/codecs.mjs", &["vp8", "chromium", "firefox"], LIMIT);
}

#[test]
fn chromium_and_firefox_exchange_vp9() {
    Rig::start().node("browser/codecs.mjs", &["vp9", "chromium", "firefox"], LIMIT);
}

#[test]
fn chromium_and_firefox_exchange_av1() {
    Rig::start().node("browser/codecs.mjs", &["av1", "chromium", "firefox"], LIMIT);
}

#[test]
fn a_viewer_goes_down_and_up_among_the_layers_of_one_vp9_stream() {
    Rig::start().node("browser/layers.mjs", &["vp9", "L3T3_KEY"], LIMIT);
}

#[test]
fn a_viewer_goes_down_and_up_among_the_layers_of_one_av1_stream() {
    Rig::start().node("browser/layers.mjs", &["av1", "L3T3_KEY"], LIMIT);
}

#[test]
fn firefox_goes_down_and_up_among_the_encodings_of_chromiums_vp8() {
    Rig::start().node("browser/layers.mjs", &["vp8", "simulcast", "chromium", "firefox"], LIMIT);
}

#[test]
fn chromium_goes_down_and_up_among_the_encodings_of_firefoxs_vp8() {
    Rig::start().node("browser/layers.mjs", &["vp8", "simulcast", "firefox", "chromium"], LIMIT);
}

#[test]
fn video_stops_while_nobody_watches() {
    Rig::start().node("browser/nobody-watching.mjs", &[], LIMIT);
}

#[test]
fn joiners_see_a_running_video() {
    Rig::start().node("browser/first-frame.mjs", &[], LIMIT);
}

#[test]
fn a_hundred_reliable_messages_survive_resumes_of_sender_and_receiver() {
    Rig::start().node("browser/resume.mjs", &[], LIMIT);
}

#[test]
fn a_viewer_goes_over_to_tcp_when_its_udp_is_cut() {
    Rig::start_with(&[OPEN_TO_OTHERS, NO_RELAY]).node("browser/fallback.mjs", &["viewer", "single"], LIMIT);
}

#[test]
fn a_publisher_with_two_connections_goes_over_to_tcp_when_its_udp_is_cut() {
    Rig::start_with(&[OPEN_TO_OTHERS, NO_RELAY]).node("browser/fallback.mjs", &["publisher", "dual"], LIMIT);
}

#[test]
fn chromium_comes_back_from_each_rehearsed_failure() {
    Rig::start().node("browser/scenarios.mjs", &[], LIMIT);
}

/// Firefox has no H264 encoder of its own: it downloads one.
#[test]
fn chromium_and_chromium_exchange_h264() {
    Rig::start().node("browser/codecs.mjs", &["h264", "chromium", "chromium"], LIMIT);
}

#[test]
fn the_relay_of_a_development_server_needs_no_configuration() {
    Rig::start().node("browser/relay.mjs", &["told", "chromium", "firefox"], LIMIT);
}

#[test]
fn chromium_and_firefox_hold_a_call_through_the_relay_over_udp() {
    Rig::start().node("browser/relay.mjs", &["udp", "chromium", "firefox"], LIMIT);
}

#[test]
fn chromium_and_firefox_hold_a_call_through_the_relay_over_tcp() {
    Rig::start().node("browser/relay.mjs", &["tcp", "chromium", "firefox"], LIMIT);
}

/// On the port that it shares with HTTPS, which the call's signaling comes by.
#[test]
fn chromium_and_firefox_hold_a_call_through_the_relay_over_tls_on_port_443() {
    Rig::start_with_https().node("browser/relay.mjs", &["tls", "chromium", "firefox"], LIMIT);
}
