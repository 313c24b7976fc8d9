//! One participant's connection: what arrives at its socket, and what is due.

use std::{net::SocketAddr, time::Instant};

use anyhow::Result;
use zynk_sfu_core::media::{
    rtcp::{Packet, Packets},
    srtp::{Opener, Profile, Sealer},
};

use super::{
    Group,
    publisher::Publisher,
    receiver::{Receiver, Scratch},
    session::Session,
    socket::{Arena, Received, Socket},
};
use crate::histogram::Histogram;

pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) session: Session,
    pub(super) group: Group,
    pub(super) media: Option<Media>,
    pub(super) publisher: Option<Publisher>,
    pub(super) receiver: Option<Receiver>,
}

/// What a connected session has.
pub(super) struct Media {
    pub(super) opener: Opener,
    pub(super) sealer: Sealer,
    pub(super) remote: SocketAddr,
}

impl From<(Opener, Sealer, SocketAddr)> for Media {
    fn from((opener, sealer, remote): (Opener, Sealer, SocketAddr)) -> Self {
        Self { opener, sealer, remote }
    }
}

impl Connection {
    pub(super) fn new(socket: Socket, session: Session, group: Group) -> Self {
        Self { socket, session, group, media: None, publisher: None, receiver: None }
    }

    pub(super) fn receiving(mut self, remote: &str, number: usize, now: Instant) -> Self {
        self.receiver = Some(Receiver::new(remote, u32::try_from(number).unwrap_or(0), now));
        self
    }

    /// Returns the profile when the connection has just come up.
    pub(super) fn service(
        &mut self,
        now: Instant,
        arena: &mut Arena,
        scratch: &mut Scratch,
        latencies: &mut Histogram,
    ) -> Result<Option<Profile>> {
        let mut outcome = Ok(());
        let mut profile = None;
        let Self { socket, session, media, publisher, receiver, .. } = self;
        loop {
            let more = arena.recv(socket, |received| {
                let [first, second, ..] = *received.datagram else { return };
                if first >> 6 != 2 {
                    let Received { source, datagram, .. } = received;
                    // Media may be right behind what ends the handshake.
                    let taken = session
                        .handle_datagram(now, socket, source, datagram)
                        .and_then(|()| if media.is_none() { session.take_connected() } else { Ok(None) });
                    match taken {
                        Ok(Some(keys)) => profile = Some(media.insert(keys.into()).opener.profile()),
                        Ok(None) => {}
                        Err(error) => outcome = Err(error),
                    }
                    return;
                }
                let Some(media) = media else { return };
                if !(192..=223).contains(&second) {
                    if let Some(receiver) = receiver {
                        receiver.on_rtp(received, &mut media.opener, latencies);
                    }
                } else if let Ok(opened) = media.opener.open_rtcp(received.datagram) {
                    let packet = received.datagram.get(..opened.bytes).unwrap_or_default();
                    if let Some(receiver) = receiver {
                        receiver.on_rtcp(received.at, packet);
                    }
                    if let Some(publisher) = publisher {
                        let is_request = |packet: &Packet<'_>| {
                            matches!(packet, Packet::PictureLoss { .. } | Packet::FullIntraRequest { .. })
                        };
                        if Packets::new(packet).flatten().any(|packet| is_request(&packet)) {
                            publisher.request_keyframe();
                        }
                    }
                }
            });
            if !more {
                break;
            }
        }
        outcome?;
        session.poll(now, socket)?;
        if let Some(media) = media {
            if let Some(publisher) = publisher {
                publisher.report(now, &mut media.sealer, socket, media.remote)?;
            }
            if let Some(receiver) = receiver {
                receiver.report(now, &mut media.sealer, socket, media.remote, scratch)?;
            }
        }
        Ok(profile)
    }
}
