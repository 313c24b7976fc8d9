//! What the application wants.

use std::time::Instant;

use prost::Message as _;
use zynk_protocol::{
    DataKind, SectionCount,
    livekit::{self, data_packet, leave_request, signal_request},
};

use super::{Command, Event, Output, Session, Stage, WAITING_DATA_MAX};

impl Session {
    pub(super) fn handle_command(&mut self, now: Instant, command: Command) {
        use signal_request::Message;
        if self.stage == Stage::Ended {
            return;
        }
        match command {
            Command::Publish(track) => {
                let request = track.add_track_request();
                let cid = track.cid.clone();
                if self.local.announce(track) {
                    self.request(Message::AddTrack(request));
                } else {
                    self.event(Event::TrackFailed {
                        cid,
                        reason: "too many tracks, or id in use".to_owned(),
                    });
                }
            }
            Command::Unpublish { cid } => {
                if self.local.remove(&cid).is_some() {
                    self.negotiate(now, SectionCount::default());
                }
            }
            Command::SendRtp { cid, rid, packet } => {
                if let Some(local) = self.local.ready(&cid) {
                    let (mid, codec) = (&local.mid, local.track.codec);
                    self.upstream.send_rtp(now, mid, rid.as_deref(), codec, &packet);
                }
            }
            Command::RequestKeyframe { track } => {
                if let Some(mid) = self.received.mid_of(&track).map(str::to_owned) {
                    self.downstream.as_mut().unwrap_or(&mut self.upstream).request_keyframe(now, &mid);
                }
            }
            Command::SendData { kind, packet } => self.send_data(now, kind, *packet),
            Command::Mute { cid, muted } => {
                if let Some(local) = self.local.get(&cid) {
                    let sid = local.sid.clone();
                    self.request(Message::Mute(livekit::MuteTrackRequest { sid, muted }));
                }
            }
            Command::Subscribe { tracks, subscribe } => {
                self.request(Message::Subscription(livekit::UpdateSubscription {
                    track_sids: tracks,
                    subscribe,
                    participant_tracks: Vec::new(),
                }));
            }
            Command::UpdateMetadata(update) => self.request(Message::UpdateMetadata(update)),
            Command::Signal(request) => self.outputs.push_back(Output::Signal(request)),
            Command::Leave => {
                self.request(Message::Leave(livekit::LeaveRequest {
                    reason: i32::from(livekit::DisconnectReason::ClientInitiated),
                    action: i32::from(leave_request::Action::Disconnect),
                    ..livekit::LeaveRequest::default()
                }));
                self.end(now);
            }
        }
    }

    #[allow(deprecated, reason = "older receivers read the packet's kind")]
    pub(super) fn send_data(&mut self, now: Instant, kind: DataKind, mut packet: livekit::DataPacket) {
        packet.kind = i32::from(match kind {
            DataKind::Reliable => data_packet::Kind::Reliable,
            DataKind::Lossy | DataKind::DataTrack => data_packet::Kind::Lossy,
        });
        self.waiting_data.push_back((kind, packet.encode_to_vec().into()));
        if self.waiting_data.len() > WAITING_DATA_MAX {
            self.waiting_data.pop_front();
        }
        if !self.channels_offered {
            self.negotiate(now, SectionCount::default());
        }
        self.flush_data(now);
    }

    pub(super) fn flush_data(&mut self, now: Instant) {
        while let Some((kind, message)) = self.waiting_data.pop_front() {
            if !self.upstream.send_data(now, kind, &message) {
                self.waiting_data.push_front((kind, message));
                return;
            }
        }
    }
}
