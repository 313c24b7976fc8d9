//! Other people's WebRTC stacks against the real server. The programs are in `tests/interop`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

#[allow(dead_code, reason = "the browsers' tests use the rest")]
mod rig;
#[path = "interop/webrtc_rs.rs"]
mod webrtc_rs;

use std::time::Duration;

use rig::Rig;
use zynk_tests::LiveServer;

const LIMIT: Duration = Duration::from_secs(120);
const WEBHOOK_PORT: &str = "9100";
const WEBHOOK_SETTING: (&str, &str) = ("ZYNK_WEBHOOKS__URLS", "[\"http://127.0.0.1:9100/\"]");

#[test]
fn livekit_python_and_node_sdks_and_chromium_exchange_audio_video_and_data() {
    Rig::start().node("interop/sdks.mjs", &[], LIMIT);
}

#[test]
fn livekit_python_and_node_sdks_and_chromium_call_each_other_and_exchange_streams() {
    Rig::start().node("interop/data.mjs", &[], LIMIT);
}

#[test]
fn chromium_and_the_python_sdk_exchange_encrypted_vp8_and_opus() {
    Rig::start().node("interop/e2ee.mjs", &["vp8"], LIMIT);
}

#[test]
fn chromium_and_the_python_sdk_exchange_encrypted_h264() {
    Rig::start().node("interop/e2ee.mjs", &["h264"], LIMIT);
}

#[test]
fn chromium_and_the_python_sdk_exchange_encrypted_vp9() {
    Rig::start().node("interop/e2ee.mjs", &["vp9"], LIMIT);
}

#[test]
fn livekit_python_server_sdk_controls_a_room_and_accepts_webhooks() {
    Rig::start_with(&[WEBHOOK_SETTING]).python("interop/server_api.py", &[WEBHOOK_PORT], LIMIT);
}

#[test]
fn livekit_node_server_sdk_controls_a_room_and_accepts_webhooks() {
    Rig::start_with(&[WEBHOOK_SETTING]).node("interop/server-api.mjs", &[WEBHOOK_PORT], LIMIT);
}

#[test]
fn livekit_clients_move_to_another_room() {
    Rig::start().node("interop/move.mjs", &[], LIMIT);
}

#[test]
fn aiortc_publishes_through_whip_and_plays_through_whep() {
    Rig::start().python("interop/whip_whep.py", &["both", "whip"], LIMIT);
}

#[test]
fn whip_is_seen_in_chromium_and_chromium_is_seen_through_whep() {
    Rig::start().node("interop/whip-chromium.mjs", &[], LIMIT);
}

#[test]
fn a_whep_player_without_vp9_gets_the_backup_codec_of_chromium() {
    Rig::start().node("interop/backup-codec.mjs", &["simulcast"], LIMIT);
}

#[test]
fn everybody_gets_the_backup_codec_where_the_publisher_prefers_that() {
    Rig::start().node("interop/backup-codec.mjs", &["regression"], LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrtc_rs_publishes_through_whip_and_plays_through_whep() {
    let server = LiveServer::start();
    webrtc_rs::publish_and_play(&server.url(), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrtc_rs_plays_through_whep_on_another_worker_than_the_publishers() {
    let server = LiveServer::start_spread();
    webrtc_rs::publish_and_play(&server.url(), 4).await;
}
