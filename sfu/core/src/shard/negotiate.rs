//! Offers and answers: which section carries which track, in both directions.

use std::time::Instant;

use zynk_protocol::{
    ConnectionRole, EndReason, ExpectedTrack, MediaKind, MidTrack, MimeType, NegotiationFailure, NodeEvent,
    SectionCount, StartedTrack, StreamEncoding,
};

use super::{EndpointKey, Shard, SubscriptionKey, TrackKey, commands::NEGOTIATION_DELAY};
use crate::{
    connection::{Credentials, Mid, OfferChanges, Rid},
    demux::draw_credentials,
    endpoint::{Endpoint, Section},
    media::receiver::{LAYERS_MAX, LayerActivity},
    sdp::{self, LocalSection, RemoteDescription, SECTIONS_MAX, SectionRole},
    track::{Encoding, Origin, Track},
};

impl Shard {
    /// Asks for a negotiation soon; changes that come together make one offer.
    pub(super) fn negotiate_soon(&mut self, key: EndpointKey, at: Instant) {
        if let Some(endpoint) = self.endpoints.get_mut(key.0)
            && endpoint.negotiation.due_at.is_none()
        {
            endpoint.negotiation.due_at = Some(at);
            self.negotiations.insert((at, key));
        }
    }

    /// The client's offer (roles `Publisher` and `Single`).
    pub(super) fn handle_offer(&mut self, key: EndpointKey, offer_id: u32, offer: &str) {
        let Some(connection) = self.endpoints.get(key.0).map(|endpoint| endpoint.id) else { return };
        let answer = sdp::read(offer).and_then(|description| {
            let answer = self
                .guard(key, |endpoint| endpoint.connection.accept_offer(offer, &description))
                .unwrap_or(Err(NegotiationFailure::Closed))?;
            Ok((description, answer))
        });
        let (description, answer) = match answer {
            Ok(both) => both,
            Err(failure) => {
                self.emit(key, NodeEvent::NegotiationFailed { connection, offer_id, failure });
                return;
            }
        };
        let restarted = self.renew_credentials(key);
        self.update_sections(key, &description);
        self.media_negotiated(key, &description);
        let started = self.match_sections(key);
        self.assign_sections(key);
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        endpoint.negotiation.answered = true;
        endpoint.negotiation.due_at = None;
        let restarts = endpoint.credentials.restarts;
        let local = self.local_sections(key);
        match sdp::edit(&answer, &local, restarts, restarted.as_ref()) {
            Ok(sdp) => {
                let mid_tracks = self.mid_tracks(key);
                let missing = self.missing_sections(key);
                self.emit(key, NodeEvent::Answer { connection, offer_id, sdp, mid_tracks, missing });
            }
            Err(failure) => {
                self.emit(key, NodeEvent::NegotiationFailed { connection, offer_id, failure });
                return;
            }
        }
        for track in started {
            self.announce(track);
        }
        self.confirm_sections(key);
        self.drain(key);
    }

    /// After an offer restarted ICE, our own credentials are random: draw some that name the shard.
    fn renew_credentials(&mut self, key: EndpointKey) -> Option<Credentials> {
        let index = self.config.index;
        let endpoint = self.endpoints.get_mut(key.0)?;
        if endpoint.connection.credentials() == endpoint.credentials.current {
            return None;
        }
        let credentials = draw_credentials(&mut self.random, index);
        endpoint.connection.set_credentials(&credentials);
        endpoint.credentials.current = credentials.clone();
        endpoint.credentials.restarts = endpoint.credentials.restarts.saturating_add(1);
        self.demux.add_ufrag(&credentials.ufrag, key);
        Some(credentials)
    }

    /// Takes over what the client's offer says of each section.
    fn update_sections(&mut self, key: EndpointKey, description: &RemoteDescription) {
        let mut stopped = Vec::new();
        let mut released = Vec::new();
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        // What an offer adds is known at once: no room is left for more.
        endpoint.sections.reserve_exact(description.sections.len().saturating_sub(endpoint.sections.len()));
        for remote in &description.sections {
            let Some(kind) = remote.kind else { continue };
            let position = endpoint.sections.iter().position(|section| section.name == remote.mid);
            let index = position.unwrap_or_else(|| {
                endpoint.sections.push(Section::new(&remote.mid, kind));
                endpoint.sections.len() - 1
            });
            let Some(section) = endpoint.sections.get_mut(index) else { continue };
            let replaced = section.track_id.is_some() && section.track_id != remote.track_id;
            if !remote.sends || replaced {
                stopped.extend(section.track.take());
                section.announced = None;
            }
            if !remote.receives {
                released.extend(section.subscription.take().map(|subscription| (section.mid, subscription)));
            }
            section.client_sends = remote.sends;
            section.client_receives = remote.receives;
            section.track_id.clone_from(&remote.track_id);
            section.rids.clone_from(&remote.rids);
        }
        for track in stopped {
            self.stop_track(track, Some(EndReason::Unpublished));
        }
        for (mid, subscription) in released {
            self.take_off(key, mid, subscription);
        }
    }

    /// A track was announced: its section may have been offered before.
    pub(super) fn match_expected(&mut self, key: EndpointKey) {
        for track in self.match_sections(key) {
            self.announce(track);
        }
    }

    /// Finds the announced tracks in the sections that the client sends: first by id, then, for what is left,
    /// by kind, because browsers rename tracks. Returns the tracks that began.
    fn match_sections(&mut self, key: EndpointKey) -> Vec<TrackKey> {
        let mut started = Vec::new();
        for exact in [true, false] {
            loop {
                let Some(endpoint) = self.endpoints.get_mut(key.0) else { return started };
                let Some((section, expected)) = find_match(endpoint, exact) else { break };
                let announced = endpoint.expected.remove(expected);
                started.extend(self.start_track(key, section, announced));
            }
        }
        started
    }

    fn start_track(&mut self, key: EndpointKey, index: usize, announced: ExpectedTrack) -> Option<TrackKey> {
        let before = self.by_sid.get(&announced.track).copied();
        let publisher_of = |track: &TrackKey| self.tracks.get(track.0).and_then(Track::publisher);
        let primary = before.filter(|track| publisher_of(track) == Some(key));
        if announced.backup.is_some() != primary.is_some() {
            return None; // a second codec of nothing, or a track that there is
        }
        // From another shard, or from another connection here: one id is one track.
        if let Some(previous) = before.filter(|_| primary.is_none()) {
            self.stop_track(previous, None);
        }
        let serial = self.serials.draw();
        let endpoint = self.endpoints.get_mut(key.0)?;
        endpoint.media.upstream.forget_section(index);
        let section = endpoint.sections.get_mut(index)?;
        let mut encodings: Vec<Encoding> = section
            .rids
            .iter()
            .take(LAYERS_MAX)
            .map(|rid| Encoding::new(section.kind, Some(Rid::from(rid.as_str()))))
            .collect();
        if encodings.is_empty() {
            encodings.push(Encoding::new(section.kind, None));
        }
        let track = TrackKey(self.tracks.insert(Track {
            sid: announced.track.clone(),
            serial,
            origin: Origin::Publisher { endpoint: key, mid: section.mid },
            kind: section.kind,
            source: announced.source,
            participant: endpoint.participant.clone(),
            encodings,
            activity: LayerActivity::default(),
            subscribers: Vec::new(),
            relays: Vec::new(),
            muted: announced.muted,
            encrypted: announced.encrypted,
            codec: announced.codec.clone(),
            loudness: None,
            backup: None,
            usage: announced.backup,
        }));
        section.track = Some(track);
        let sid = announced.track.clone();
        section.announced = Some(Box::new(announced));
        match primary {
            Some(primary) => self.add_backup(primary, track),
            None => drop(self.by_sid.insert(sid, track)),
        }
        Some(track)
    }

    /// Reports a track and serves those who wait for it.
    fn announce(&mut self, key: TrackKey) {
        let Some(track) = self.tracks.get(key.0) else { return };
        let Origin::Publisher { endpoint: publisher, mid } = track.origin else { return };
        let sid = track.sid.clone();
        let Some(endpoint) = self.endpoints.get_mut(publisher.0) else { return };
        let connection = endpoint.id;
        let backup = track.usage.is_some();
        let format = endpoint.connection.preferred_format(mid, track.codec.as_ref());
        let Some(section) = endpoint.section(mid) else { return };
        let codec = format.map_or_else(|| MimeType::new(section.kind.as_str()), |format| format.mime());
        let started = StartedTrack {
            track: sid.clone(),
            connection,
            mid: section.name.clone(),
            sdp_cid: section.track_id.clone().unwrap_or_default(),
            codec,
            encodings: section.rids.iter().map(|rid| StreamEncoding { rid: rid.clone() }).collect(),
            backup,
        };
        self.emit(publisher, NodeEvent::TrackStarted(started));
        self.tell_started(key);
        self.serve_waiting(key);
    }

    /// A track has started: serves those who wait for it.
    pub(super) fn serve_waiting(&mut self, key: TrackKey) {
        let Some(track) = self.tracks.get(key.0) else { return };
        let (sid, backup) = (track.sid.clone(), track.usage.is_some());
        for subscription in self.waiting.remove(&sid).unwrap_or_default() {
            self.attach(subscription, key);
        }
        if let Some(primary) = self.by_sid.get(&sid).copied().filter(|_| backup) {
            self.settle_waiting(primary);
        }
    }

    /// Looks for a section for each subscription that has none: at once where the section is agreed already,
    /// otherwise by a negotiation.
    pub(super) fn place(&mut self, key: EndpointKey) {
        let at = self.now + NEGOTIATION_DELAY;
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        if endpoint.late_binding && endpoint.negotiation.answered {
            self.assign_sections(key);
            self.confirm_sections(key);
        } else if endpoint.role == ConnectionRole::Subscriber || endpoint.negotiation.answered {
            self.negotiate_soon(key, at);
        }
    }

    /// Takes a subscription off its section, and tells the client in the next negotiation.
    pub(super) fn release_section(&mut self, key: SubscriptionKey) {
        let at = self.now + NEGOTIATION_DELAY;
        let Some(subscription) = self.subscriptions.get(key.0) else { return };
        let Some(mid) = subscription.mid else { return };
        let subscriber = subscription.subscriber;
        self.take_off(subscriber, mid, key);
        let Some(endpoint) = self.endpoints.get_mut(subscriber.0) else { return };
        if !endpoint.late_binding {
            self.negotiate_soon(subscriber, at);
        }
    }

    /// Parts a subscription and its section, which keeps the numbers of what it sent.
    fn take_off(&mut self, endpoint: EndpointKey, mid: Mid, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.get_mut(key.0) else { return };
        let rewriter = subscription.take_off();
        let Some(endpoint) = self.endpoints.get_mut(endpoint.0) else { return };
        if let Some(section) = endpoint.section(mid) {
            section.subscription = None;
            section.rewriter = rewriter;
        }
    }

    /// Gives free sections that the client receives on to subscriptions, in the order of subscribing.
    fn assign_sections(&mut self, key: EndpointKey) {
        for (subscription_key, kind) in self.unplaced(key) {
            let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
            let may_send = |section: &Section| {
                section.kind == kind
                    && section.client_receives
                    && section.subscription.is_none()
                    && endpoint.connection.may_send(section.mid)
            };
            let Some(index) = endpoint.sections.iter().position(may_send) else { continue };
            let Some(section) = endpoint.sections.get_mut(index) else { continue };
            section.subscription = Some(subscription_key);
            let rewriter = section.take_rewriter(&mut self.random);
            if let Some(subscription) = self.subscriptions.get_mut(subscription_key.0) {
                subscription.assign(section.mid, index, rewriter, self.serials.draw());
            }
        }
    }

    /// Subscriptions of started tracks that have no section, in the order of subscribing.
    fn unplaced(&self, key: EndpointKey) -> Vec<(SubscriptionKey, MediaKind)> {
        let Some(endpoint) = self.endpoints.get(key.0) else { return Vec::new() };
        let unplaced = |key: &SubscriptionKey| {
            let subscription = self.subscriptions.get(key.0)?;
            let track = self.tracks.get(subscription.source?.0)?;
            subscription.mid.is_none().then_some((*key, track.kind))
        };
        endpoint.order.iter().filter_map(unplaced).collect()
    }

    fn missing_sections(&self, key: EndpointKey) -> SectionCount {
        let mut missing = SectionCount::default();
        for (_, kind) in self.unplaced(key) {
            match kind {
                MediaKind::Audio => missing.audio += 1,
                MediaKind::Video => missing.video += 1,
            }
        }
        missing
    }

    /// Both sides agree on the sections: media may flow in those that carry a subscription.
    pub(super) fn confirm_sections(&mut self, key: EndpointKey) {
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        // Sections that the client refuses stay with their subscription, but nothing flows in them.
        let agreed = endpoint.sections.iter().filter(|section| section.client_receives);
        let placed: Vec<(Mid, SubscriptionKey)> =
            agreed.filter_map(|section| Some((section.mid, section.subscription?))).collect();
        self.open_streams(key);
        for (_, key) in placed {
            if self.subscriptions.get(key.0).is_some_and(|subscription| !subscription.negotiated) {
                self.begin(key);
            }
        }
    }

    /// Negotiates what has changed: with an offer of our own, or by asking the client for one.
    pub(super) fn negotiate(&mut self, key: EndpointKey) {
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        endpoint.negotiation.due_at = None;
        if endpoint.role == ConnectionRole::Subscriber {
            if endpoint.negotiation.outstanding.is_none() {
                self.offer(key);
            }
            return;
        }
        let connection = endpoint.id;
        let free = |kind| {
            let is_free = |section: &&Section| {
                section.kind == kind && section.client_receives && section.subscription.is_none()
            };
            u32::try_from(endpoint.sections.iter().filter(is_free).count()).unwrap_or(u32::MAX)
        };
        let (audio, video) = (free(MediaKind::Audio), free(MediaKind::Video));
        let unplaced = self.missing_sections(key);
        let missing = SectionCount {
            audio: unplaced.audio.saturating_sub(audio),
            video: unplaced.video.saturating_sub(video),
        };
        self.emit(key, NodeEvent::NegotiationNeeded { connection, missing });
    }

    /// Makes our own offer (role `Subscriber`).
    fn offer(&mut self, key: EndpointKey) {
        let mut changes = OfferChanges::default();
        let mut added = Vec::new();
        let unplaced = self.unplaced(key);
        let index = self.config.index;
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        for (subscription, kind) in unplaced {
            let reusable = |section: &Section| {
                section.kind == kind && section.reusable && section.subscription.is_none()
            };
            let found = endpoint.sections.iter_mut().enumerate().find(|(_, section)| reusable(section));
            if let Some((index, section)) = found {
                section.subscription = Some(subscription);
                section.reusable = false;
                changes.directions.push((section.mid, true));
                let rewriter = section.take_rewriter(&mut self.random);
                if let Some(subscription) = self.subscriptions.get_mut(subscription.0) {
                    subscription.assign(section.mid, index, rewriter, self.serials.draw());
                }
            } else if endpoint.sections.len() + changes.sections.len() < SECTIONS_MAX {
                changes.sections.push(kind);
                added.push((subscription, kind));
            }
        }
        for section in endpoint.sections.iter().filter(|s| s.subscription.is_none() && !s.reusable) {
            changes.directions.push((section.mid, false));
        }
        changes.data_channels = !endpoint.negotiation.offered_data_channels;
        changes.restart_ice = std::mem::take(&mut endpoint.negotiation.restart_ice);
        let restarts = changes.restart_ice;
        let Some(Some(offer)) = self.guard(key, |endpoint| endpoint.connection.create_offer(&changes)) else {
            return;
        };
        let fresh = restarts.then(|| draw_credentials(&mut self.random, index));
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        endpoint.negotiation.offered_data_channels = true;
        for (mid, (subscription, kind)) in offer.added.iter().zip(added) {
            let mut section = Section::new(mid, kind);
            section.subscription = Some(subscription);
            let rewriter = section.take_rewriter(&mut self.random);
            let index = endpoint.sections.len();
            endpoint.sections.push(section);
            if let Some(subscription) = self.subscriptions.get_mut(subscription.0) {
                subscription.assign(*mid, index, rewriter, self.serials.draw());
            }
        }
        endpoint.negotiation.last_offer_id += 1;
        let offer_id = endpoint.negotiation.last_offer_id;
        endpoint.negotiation.outstanding = Some((offer_id, self.now));
        if let Some(credentials) = &fresh {
            endpoint.credentials.offered = Some(credentials.clone());
            endpoint.credentials.restarts = endpoint.credentials.restarts.saturating_add(1);
            self.demux.add_ufrag(&credentials.ufrag, key);
        }
        let connection = endpoint.id;
        let restarts = endpoint.credentials.restarts;
        let local = self.local_sections(key);
        match sdp::edit(&offer.sdp, &local, restarts, fresh.as_ref()) {
            Ok(sdp) => {
                let mid_tracks = self.mid_tracks(key);
                self.emit(key, NodeEvent::Offer { connection, offer_id, sdp, mid_tracks });
            }
            Err(failure) => self.emit(key, NodeEvent::NegotiationFailed { connection, offer_id, failure }),
        }
        self.drain(key);
    }

    /// The client's answer to our offer. Id 0 stands for the outstanding one.
    pub(super) fn handle_answer(&mut self, key: EndpointKey, offer_id: u32, answer: &str) {
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        let connection = endpoint.id;
        let Some((outstanding, _)) = endpoint.negotiation.outstanding else { return };
        if offer_id != 0 && offer_id != outstanding {
            return; // an answer to an offer that has been replaced
        }
        endpoint.negotiation.outstanding = None;
        let accepted = sdp::read(answer).and_then(|description| {
            self.guard(key, |endpoint| endpoint.connection.accept_answer(answer, &description))
                .unwrap_or(Err(NegotiationFailure::Closed))?;
            Ok(description)
        });
        let description = match accepted {
            Ok(description) => description,
            Err(failure) => {
                self.emit(key, NodeEvent::NegotiationFailed { connection, offer_id, failure });
                return;
            }
        };
        let now = self.now;
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        if let Some(credentials) = endpoint.credentials.offered.take() {
            endpoint.connection.set_credentials(&credentials);
            endpoint.credentials.current = credentials;
        }
        self.media_negotiated(key, &description);
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        let mut refused = Vec::new();
        let mut more = false;
        for remote in &description.sections {
            let Some(section) = endpoint.sections.iter_mut().find(|section| section.name == remote.mid)
            else {
                continue;
            };
            section.client_receives = remote.receives;
            match section.subscription {
                Some(subscription) if !remote.receives => refused.push(subscription),
                Some(_) => {}
                // Released while the offer was under way: it still says that something is sent.
                None if remote.receives => more = true,
                None => section.reusable = true,
            }
        }
        for subscription in refused {
            if let Some(subscription) = self.subscriptions.get_mut(subscription.0) {
                subscription.negotiated = true;
            }
            self.refuse_codec(subscription);
        }
        self.confirm_sections(key);
        if more || !self.unplaced(key).is_empty() {
            self.negotiate_soon(key, now);
        }
        self.drain(key);
    }

    /// What the sections of our next description are to say.
    fn local_sections(&self, key: EndpointKey) -> Vec<LocalSection> {
        let Some(endpoint) = self.endpoints.get(key.0) else { return Vec::new() };
        let role = |section: &Section| {
            if let Some(subscription) = section.subscription.and_then(|key| self.subscriptions.get(key.0)) {
                return SectionRole::Sending {
                    stream_id: subscription.stream_id.clone(),
                    track_id: subscription.track.as_str().to_owned(),
                };
            }
            if section.client_sends || endpoint.role == ConnectionRole::Publisher {
                let announced = section.announced.as_ref();
                return SectionRole::Receiving {
                    codec: announced.and_then(|announced| announced.codec.clone()),
                    red: announced.is_none_or(|announced| announced.red),
                    dtx: announced.is_some_and(|announced| announced.dtx),
                    stereo: announced.is_some_and(|announced| announced.stereo),
                };
            }
            if endpoint.late_binding && section.client_receives {
                SectionRole::Reserved
            } else {
                SectionRole::Idle
            }
        };
        let local = |section: &Section| LocalSection { mid: section.name.clone(), role: role(section) };
        endpoint.sections.iter().map(local).collect()
    }

    fn mid_tracks(&self, key: EndpointKey) -> Vec<MidTrack> {
        let Some(endpoint) = self.endpoints.get(key.0) else { return Vec::new() };
        let carried = |section: &Section| {
            let subscription = self.subscriptions.get(section.subscription?.0)?;
            Some(MidTrack { mid: section.name.clone(), track: subscription.track.clone() })
        };
        endpoint.sections.iter().filter_map(carried).collect()
    }
}

/// A section that the client sends on and the announcement that it belongs to.
fn find_match(endpoint: &Endpoint, exact: bool) -> Option<(usize, usize)> {
    let unmatched = |section: &&(usize, &Section)| section.1.client_sends && section.1.track.is_none();
    let sections: Vec<(usize, &Section)> = endpoint.sections.iter().enumerate().collect();
    sections.iter().filter(unmatched).find_map(|(index, section)| {
        let fits = |expected: &ExpectedTrack| {
            let named = section.track_id.as_ref().is_some_and(|id| expected.cids.contains(id));
            expected.kind == section.kind && (named || !exact)
        };
        endpoint.expected.iter().position(fits).map(|expected| (*index, expected))
    })
}
