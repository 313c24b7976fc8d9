//! Other people's WebRTC stacks against the real server. The programs are in `tests/interop`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

mod rig;

use std::time::Duration;

use rig::Rig;

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn livekit_python_and_node_sdks_and_chromium_exchange_audio_video_and_data() {
    Rig::start().node("interop/sdks.mjs", &[], LIMIT);
}
