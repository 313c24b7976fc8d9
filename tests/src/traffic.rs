//! Clients that publish in real time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, broadcast::error::TryRecvError},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use zynk_client::{
    Client, ClientError, ClientOptions, Codec, Event, PublishTrack, ReceiveStats, SyntheticAudio,
    SyntheticVideo,
};

use crate::{LiveServer, token};

const VIDEO_FRAME_RATE: u32 = 25;
const AUDIO_LEVEL_DBOV: i8 = -25;
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A client in a room of a [`LiveServer`], with what it sends.
pub struct Participant {
    /// The client.
    pub client: Arc<Client>,
    identity: String,
    epoch: Instant,
    sources: Vec<Source>,
}

struct Source {
    cid: String,
    track: String,
    stop: Arc<AtomicBool>,
    frames: Arc<AtomicU32>,
    task: Mutex<JoinHandle<Result<(), ClientError>>>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.get_mut().abort();
    }
}

impl Participant {
    /// Joins; latencies are measured by a clock that began at `epoch`.
    pub async fn join(
        server: &LiveServer,
        room: &str,
        identity: &str,
        epoch: Instant,
    ) -> Result<Self, ClientError> {
        let options = ClientOptions { media_epoch: Some(epoch), ..ClientOptions::default() };
        Self::join_with(server, room, identity, options).await
    }

    /// Same, with options.
    pub async fn join_with(
        server: &LiveServer,
        room: &str,
        identity: &str,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let epoch = options.media_epoch.unwrap_or_else(Instant::now);
        let client = Client::connect(&server.ws_url(), &token(room, identity), options).await?;
        Ok(Self { client: Arc::new(client), identity: identity.to_owned(), epoch, sources: Vec::new() })
    }

    /// The participant's identity.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Publishes a camera that sends VP8 at 25 frames and about `bitrate_bps` a second.
    pub async fn publish_camera(&mut self, bitrate_bps: u32) -> Result<(), ClientError> {
        let track = self.client.publish(PublishTrack::camera("camera", Codec::Vp8)).await?;
        let mut video = SyntheticVideo::new(Codec::Vp8, 1, VIDEO_FRAME_RATE, bitrate_bps);
        let mut events = self.client.events();
        let mut keyframe_requested = move || {
            loop {
                match events.try_recv() {
                    Ok(Event::KeyframeRequested { cid, .. }) if cid == "camera" => return true,
                    Ok(_) | Err(TryRecvError::Lagged(_)) => {}
                    Err(_) => return false,
                }
            }
        };
        self.send(track, "camera", VIDEO_FRAME_RATE, move |clock_us| {
            video.next_frame(clock_us, keyframe_requested())
        });
        Ok(())
    }

    /// Publishes a microphone that sends 50 packets a second.
    pub async fn publish_microphone(&mut self) -> Result<(), ClientError> {
        let track = self.client.publish(PublishTrack::microphone("microphone")).await?;
        let mut audio = SyntheticAudio::new(0);
        self.send(track, "microphone", SyntheticAudio::PACKET_RATE, move |clock_us| {
            vec![audio.next_packet(clock_us, AUDIO_LEVEL_DBOV)]
        });
        Ok(())
    }

    fn send(
        &mut self,
        track: String,
        cid: &'static str,
        rate: u32,
        mut next: impl FnMut(u64) -> Vec<zynk_client::RtpPayload> + Send + 'static,
    ) {
        let (stop, frames) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (client, epoch) = (self.client.clone(), self.epoch);
        let (stopped, sent) = (stop.clone(), frames.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / rate);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                let clock_us = u64::try_from(epoch.elapsed().as_micros()).unwrap();
                for packet in next(clock_us) {
                    client.send_rtp(cid, None, packet).await?;
                }
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let task = Mutex::new(task);
        self.sources.push(Source { cid: cid.to_owned(), track, stop, frames, task });
    }

    /// Ends what it sends, after the frame under way.
    pub async fn stop_media(&self) {
        for source in &self.sources {
            source.stop.store(true, Ordering::Relaxed);
            let mut task = source.task.lock().await;
            if !task.is_finished() {
                (&mut *task).await.unwrap().unwrap();
            }
        }
    }

    /// The `TR_…` id of what it publishes under a client id.
    pub fn track(&self, cid: &str) -> &str {
        &self.source(cid).track
    }

    /// How many frames (packets, for audio) it has sent under a client id.
    pub fn frames_sent(&self, cid: &str) -> u32 {
        self.source(cid).frames.load(Ordering::Relaxed)
    }

    fn source(&self, cid: &str) -> &Source {
        self.sources.iter().find(|source| source.cid == cid).unwrap()
    }

    /// What it got of what `publisher` sends under a client id.
    pub async fn received(&self, publisher: &Self, cid: &str) -> ReceiveStats {
        let stats = self.client.stats().await.unwrap();
        stats.get(publisher.track(cid)).copied().unwrap_or_default()
    }
}

/// Waits until `done`, looking twenty times a second. Returns whether it was done by the limit.
pub async fn eventually(limit: Duration, mut done: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done().await {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
